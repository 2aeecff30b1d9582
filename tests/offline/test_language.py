"""Probabilities by hand, sums that must be 1 whatever is counted, mixed or left out, and what leaving out changes."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from asr.ngram import read
from offline.language import BackOff, arpa, kneser_ney, mixed, pruned

LETTERS = list("ABCDEFG")


def drawn(seed: int, count: int = 60, reverse: bool = False) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    often = np.arange(1, 8)[:: -1 if reverse else 1] / 28
    return [list(map(str, rng.choice(LETTERS, rng.integers(1, 6), p=often))) for _ in range(count)]


def contexts(model: BackOff) -> set[tuple[str, ...]]:
    return {()} | {gram[:-1] for grams in model.probs[1:] for gram in grams}


def test_probabilities_are_those_worked_out_by_hand() -> None:
    """Too little was counted for discounts of its own: 0.5 of what was seen once, 1 of twice, 1.5 of more."""
    model = kneser_ney([["A", "B"], ["A", "A"]], order=2, vocabulary={"A", "B"})
    # Different words stood before A: <s> and A; before B: A; before </s>: B and A. Taken off: 1 + 0.5 + 1 of 5.
    left = 2.5 / 5 / 4  # for each of A, B, </s>, <unk>
    single = {("A",): 1 / 5 + left, ("B",): 0.5 / 5 + left, ("</s>",): 1 / 5 + left, ("<unk>",): left}
    assert model.probs[0] == pytest.approx(single)
    assert sum(single.values()) == pytest.approx(1)
    # <s> A was said twice; A A, A B, A </s> and B </s> once each.
    assert model.weights == pytest.approx({("<s>",): 1 / 2, ("A",): 1.5 / 3, ("B",): 0.5})
    assert model.probs[1] == pytest.approx(
        {
            ("<s>", "A"): 1 / 2 + single["A",] / 2,
            ("A", "A"): 0.5 / 3 + single["A",] / 2,
            ("A", "B"): 0.5 / 3 + single["B",] / 2,
            ("A", "</s>"): 0.5 / 3 + single["</s>",] / 2,
            ("B", "</s>"): 0.5 + single["</s>",] / 2,
        }
    )
    assert model.often == pytest.approx({"A": 3 / 6, "B": 1 / 6, "</s>": 2 / 6})
    assert model.expects(("<s>", "A")) == pytest.approx(model.probs[1]["<s>", "A"])
    assert model.expects(("A", "B")) == pytest.approx(3 / 6 * model.probs[1]["A", "B"])
    assert model.prob(("A",), "Z") == 0


def test_counts_of_counts_give_the_discounts() -> None:
    """Words seen 1, 2, 3 and 4 times, 4, 3, 2 and 1 of each: Y = 4 / (4 + 2 * 3), so 0.4 for words seen once."""
    seen = {"ABCD": 1, "EFG": 2, "HI": 3, "J": 4}
    lines = [[word] for words, count in seen.items() for word in words for _ in range(count)]
    model = kneser_ney(lines, order=1, vocabulary=set("ABCDEFGHIJ"))
    off = [1 - 2 * 0.4 * 3 / 4, 2 - 3 * 0.4 * 2 / 3, 3 - 4 * 0.4 * 1 / 2]
    taken = (4 * off[0] + 3 * off[1] + 3 * off[2] + off[2]) / 40  # </s> was seen 20 times
    for word, count in (("A", 1), ("E", 2), ("H", 3), ("J", 4)):
        assert model.probs[0][word,] == pytest.approx((count - off[min(count, 3) - 1]) / 40 + taken / 12)


@pytest.mark.parametrize("threshold", [0.0, 5e-4])
def test_after_every_context_the_probabilities_sum_to_one(tmp_path: Path, threshold: float) -> None:
    counted = [
        kneser_ney(drawn(seed, reverse=seed == 1), order=3, vocabulary={*LETTERS, "H"}) for seed in (0, 1)
    ]
    short = kneser_ney(drawn(2), order=2, vocabulary={*LETTERS, "H"})
    for model in (*counted, pruned(mixed([*counted, short], [0.5, 0.3, 0.2]), threshold)):
        vocabulary = [gram[0] for gram in model.probs[0]]
        (tmp_path / "lm.arpa").write_text("".join(arpa(model)))
        read.cache_clear()
        lm = read(tmp_path / "lm.arpa")
        assert len(contexts(model)) > 20
        for context in contexts(model):
            assert sum(model.prob(context, word) for word in vocabulary) == pytest.approx(1), context
            total = sum(math.exp(lm.score(context, word)[0]) for word in vocabulary)
            assert total == pytest.approx(1, abs=0.015), context  # two digits are written
        for longer, shorter in zip(model.probs[1:], model.probs, strict=False):
            assert {gram[1:] for gram in longer} <= set(shorter)
            assert {gram[:-1] for gram in longer if len(gram) > 2} <= set(shorter)


def test_a_mixture_is_the_mean_of_what_the_models_say() -> None:
    one, two = (kneser_ney(drawn(seed, reverse=seed == 1), 2, set(LETTERS)) for seed in (0, 1))
    both = mixed([one, two], [3, 1])
    for word in LETTERS:
        mean = 0.75 * one.prob((), word) + 0.25 * two.prob((), word)
        assert both.prob((), word) == pytest.approx(mean)
    # After a context, half the weight goes by how much each expects it: one of A hardly any, two of A a lot.
    expects = 0.75 * one.often["A"], 0.25 * two.often["A"]
    weight = 0.5 * 0.75 + 0.5 * expects[0] / sum(expects)
    assert weight < 0.6
    for (before, word), prob in both.probs[1].items():
        if before == "A":
            mean = weight * one.prob(("A",), word) + (1 - weight) * two.prob(("A",), word)
            assert prob == pytest.approx(mean)


def test_a_model_alone_is_a_mixture_of_itself() -> None:
    one = kneser_ney(drawn(0), 3, set(LETTERS))
    for same in (mixed([one], [7.0]), mixed([one, one], [1.0, 2.0]), pruned(one, 0.0)):
        for context, word in product(contexts(one), LETTERS):
            assert same.prob(context, word) == pytest.approx(one.prob(context, word))


def test_what_is_left_out_changes_the_model_by_less_than_the_threshold() -> None:
    """Worked out anew: P(h) times the relative entropy of all words after h, with the n-gram and without."""
    one = mixed([kneser_ney(drawn(0), 2, set(LETTERS))], [1.0])
    words = [gram[0] for gram in one.probs[0]]
    threshold = 2e-3
    kept = pruned(one, threshold).probs[1]
    assert 5 < len(kept) < len(one.probs[1]) - 5
    for gram in one.probs[1]:
        rest = {other: prob for other, prob in one.probs[1].items() if other != gram}
        without = pruned(BackOff([one.probs[0], rest], {}, one.often), 0.0)
        change = sum(
            one.prob(gram[:1], word) * math.log(one.prob(gram[:1], word) / without.prob(gram[:1], word))
            for word in words
        )
        assert (one.expects(gram[:1]) * change >= threshold) == (gram in kept), gram
