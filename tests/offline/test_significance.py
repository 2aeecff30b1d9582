"""Tests of significance: against kaldialign, against figures worked out by hand, and against simulated truth."""

import math

import kaldialign
import numpy as np
import pytest

from offline import significance
from offline.significance import bootstrap, holm, mapsswe, segments, sign_flip, verdict, words_needed

WORDS = 8


def clustered(
    seed: int, sentence_sd: float, voice_sd: float, tests: int = 1
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Differences of errors and words [400, tests] without any true difference; sentences and voices each pull."""
    rng = np.random.default_rng(seed)
    voice, sentence = np.repeat(np.arange(40), 10), rng.integers(150, size=400)
    pulls = rng.normal(0, sentence_sd, (150, tests)), rng.normal(0, voice_sd, (40, tests))
    differences = pulls[0][sentence] + pulls[1][voice] + rng.normal(0, 1, (400, tests))
    labels = [list(map(str, factor.tolist())) for factor in (sentence, voice)]
    return differences, np.full(differences.shape, float(WORDS)), *labels


def texts(seed: int, count: int = 250) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """References and two systems' hypotheses, the second better, with some words wrong."""
    rng = np.random.default_rng(seed)
    said = [[f"W{word}" for word in rng.integers(50, size=rng.integers(3, 12))] for _ in range(count)]
    heard = [
        [[word if rng.random() > share else "X" for word in line] for line in said] for share in (0.2, 0.18)
    ]
    return said, heard[0], heard[1]


def errors_of(said: list[list[str]], heard: list[list[str]]) -> np.ndarray:
    pairs = zip(said, heard, strict=True)
    return np.array([[kaldialign.edit_distance(a, b)["total"]] for a, b in pairs], dtype=float)


def test_interval_and_chance_of_improvement_are_those_of_kaldialign() -> None:
    said, first, second = texts(1)
    words = np.array([[float(len(line))] for line in said])
    theirs = kaldialign.bootstrap_wer_ci(said, first, second, replications=4000)
    utterances = np.arange(len(said))
    rates = {}
    for name, heard in (("system1", first), ("system2", second)):
        rates[name] = significance.resample(errors_of(said, heard), words, utterances, 4000, 0)
        assert rates[name].mean() == pytest.approx(theirs[name]["wer"], abs=5e-4)
        half_width = significance.Z_LEVEL * rates[name].std()
        assert half_width == pytest.approx(theirs[name]["ci95"], rel=0.06)
        low, high = np.quantile(rates[name], [0.025, 0.975])
        assert low == pytest.approx(theirs[name]["ci95min"], abs=2e-3)
        assert high == pytest.approx(theirs[name]["ci95max"], abs=2e-3)
    improved = float((rates["system2"] < rates["system1"]).mean())  # the same seed draws the same utterances
    assert improved == pytest.approx(theirs["p_s2_improv_over_s1"], abs=0.03)


def test_the_variance_is_that_of_the_formula() -> None:
    """Of a mean over N utterances of equal length: s^2 / N, and the expansion for N clusters."""
    differences = np.random.default_rng(0).normal(0, 1, (400, 1))
    words = np.ones((400, 1))
    found = bootstrap(differences, words, [list(map(str, range(400)))], 20_000, 0)
    expected = math.sqrt((differences.std() * significance.expansion(400)) ** 2 / 400 + 4 / 400**2)
    assert found.drawn.std() == pytest.approx(expected, rel=0.02)
    assert found.estimate[0] == pytest.approx(differences.mean())


def test_the_expansion_is_that_of_student() -> None:
    """Quantiles of t at 97.5 % from the tables: 2.5706 with 5 degrees of freedom, 2.0930 with 19."""
    for clusters, t in ((6, 2.5706), (20, 2.0930)):
        expected = t / significance.Z_LEVEL * math.sqrt(clusters / (clusters - 1))
        assert significance.expansion(clusters) == pytest.approx(expected, rel=2e-3)
    assert math.isnan(significance.expansion(1))


@pytest.mark.parametrize(("sentence_sd", "voice_sd"), [(0.0, 0.0), (1.5, 0.0), (0.0, 0.7), (1.0, 0.5)])
def test_the_interval_covers_the_truth_where_errors_come_in_clusters(
    sentence_sd: float, voice_sd: float
) -> None:
    """Of 300 simulated tests without a difference about 95 % have 0 in their 95 % interval."""
    differences, words, *factors = clustered(0, sentence_sd, voice_sd, tests=300)
    found = bootstrap(differences, words, factors, 1000, 0)
    inside = [low <= 0 <= high for low, high in map(found.interval, range(300))]
    assert 0.91 <= np.mean(inside) <= 0.99


def test_without_clusters_it_would_not() -> None:
    differences, words, *_ = clustered(0, 1.0, 0.5, tests=300)
    found = bootstrap(differences, words, [list(map(str, range(400)))], 1000, 0)
    assert np.mean([low <= 0 <= high for low, high in map(found.interval, range(300))]) < 0.85


def test_clusters_widen_the_interval_and_one_factor_alone_is_not_enough() -> None:
    differences, words, sentence, voice = clustered(3, 1.0, 1.0)
    utterances = list(map(str, range(len(differences))))
    widths = {}
    for name, factors in {
        "none": [utterances], "sentence": [sentence], "voice": [voice], "both": [sentence, voice]
    }.items():  # fmt: skip
        low, high = bootstrap(differences, words, factors, 2000, 0).interval(0)
        widths[name] = high - low
    assert widths["none"] < widths["sentence"] < widths["both"] and widths["voice"] < widths["both"]
    assert widths["voice"] > 1.5 * widths["none"]


def test_where_nothing_differs_the_bound_is_that_of_no_event() -> None:
    """The exact 97.5 % bound of an event that never came in n words is 3.69 / n."""
    words = np.full((500, 1), float(WORDS))
    found = bootstrap(np.zeros((500, 1)), words, [list(map(str, range(500)))], 20_000, 0)
    low, high = found.interval(0)
    assert found.estimate[0] == 0
    assert high == pytest.approx(-math.log(0.025) / 4000, rel=0.1) and low == pytest.approx(-high, rel=0.05)


def test_columns_do_not_disturb_each_other_and_seeds_repeat() -> None:
    one, words, *factors = clustered(4, 1.0, 1.0)
    other = np.random.default_rng(0).normal(0, 1, one.shape)
    together = bootstrap(np.hstack([one, other]), np.hstack([words, words]), factors, 500, 7)
    assert np.allclose(together.drawn[:, :1], bootstrap(one, words, factors, 500, 7).drawn)
    assert not np.allclose(together.drawn[:, :1], bootstrap(one, words, factors, 500, 8).drawn)


def test_one_cluster_gives_no_interval() -> None:
    found = bootstrap(np.ones((5, 1)), np.ones((5, 1)), [["same"] * 5], 100, 0)
    assert all(map(math.isnan, found.interval(0)))


def test_p_of_non_inferiority_is_small_only_below_the_margin() -> None:
    rng = np.random.default_rng(0)
    differences, words = rng.normal(0, 0.1, (2000, 1)), np.full((2000, 1), 10.0)
    found = bootstrap(differences, words, [list(map(str, range(2000)))], 4000, 0)
    assert found.p_at_least(0, 0.01) < 0.001 < 0.1 < found.p_at_least(0, -0.0001) < 1
    assert found.p_at_most(0, -0.01) < 0.001 and found.p_at_most(0, 0.01) > 0.99


def test_the_sign_flip_is_exact_for_few_clusters() -> None:
    """Five clusters that all differ by 1: two of 32 sign patterns are as far from zero."""
    differences = np.ones((5, 1))
    (p,) = sign_flip(differences, [list("abcde")], 40_000, 0)
    assert p == pytest.approx(2 / 32, abs=0.005)
    (p,) = sign_flip(differences, [list("abcde"), list("aabbb")], 40_000, 0)
    assert p == pytest.approx(2 / 4, abs=0.01)  # the factor of two clusters says less


def test_the_sign_flip_keeps_its_level() -> None:
    differences, _, *factors = clustered(1, 1.0, 0.5, tests=400)
    assert np.mean(np.array(sign_flip(differences, factors, 1000, 0)) < 0.05) <= 0.08
    assert sign_flip(np.zeros((9, 1)), [list("abcdefghi")], 100, 0) == [1.0]


def test_segments_end_at_two_words_right_in_both() -> None:
    #          before w1 before w2 ...
    a = [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    b = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    # words: wrong in a | right right | wrong in a, right, wrong in both: one right word does not end a segment
    assert segments(a, b) == [(1, 0), (2, 1)]
    inserted = [0, 1, 0, 0, 1, 0, 0, 1, 0]  # words right, but a word inserted between them
    assert segments(inserted, [0] * 9) == [(3, 0)]
    assert segments([0] * 7, [0] * 7) == []


def test_mapsswe_is_the_z_test_of_segments() -> None:
    """Ten segments, differences 1 x 6, 0 x 2, -1 x 2: mean 0.4, deviation sqrt(6.4 / 9), z = 1.5, p = 0.1336."""
    cut = [(1, 0)] * 6 + [(1, 1)] * 2 + [(0, 1)] * 2
    assert mapsswe(cut) == pytest.approx(0.1336, abs=1e-4)
    assert mapsswe([(b, a) for a, b in cut]) == pytest.approx(mapsswe(cut))
    assert mapsswe([]) == 1.0 and mapsswe([(1, 1)] * 4) == 1.0
    assert math.isnan(mapsswe([(1, 0)])) and math.isnan(mapsswe([(1, 0)] * 3))


def test_verdicts() -> None:
    assert verdict(-0.1, 0.09, 0.1) == "non-inferior"
    assert verdict(-0.1, 0.1, 0.1) == verdict(0.05, 0.2, 0.1) == verdict(0.1, 0.2, 0.1) == "undecided"
    assert verdict(0.11, 0.2, 0.1) == "worse by more than the margin"


def test_words_needed_follow_from_discordance() -> None:
    """0.5 % discordant errors, over-dispersion 2: +-0.1 takes 1.96^2 x 2 x 0.005 / 0.001^2 = 38,416 words; for a power
    of 80 % (1.96 + 0.8416)^2 / 1.96^2 times as many."""
    words, margin = 10_000, 0.001
    deviation = math.sqrt(2 * 0.005 / words)
    low, high = -significance.Z_LEVEL * deviation, significance.Z_LEVEL * deviation
    expected = 38_416 * ((1.96 + 0.8416) / 1.96) ** 2
    assert words_needed(words, low, high, margin) == pytest.approx(expected, rel=1e-3)
    assert words_needed(words, low, high, 2 * margin) == pytest.approx(expected / 4, rel=1e-3)
    assert words_needed(words, low, high, margin, difference=0.0005) == pytest.approx(4 * expected, rel=1e-3)
    assert words_needed(words, low, high, margin, difference=0.002) == pytest.approx(expected, rel=1e-3)
    assert words_needed(words, low, high, margin, difference=margin) is None


def test_the_words_that_are_asked_for_decide() -> None:
    """With as many words as a pilot asks for, equal arms are found non-inferior in about 80 % of tests."""
    margin, rng = 0.02, np.random.default_rng(0)

    def trials(utterances: int, count: int) -> list[tuple[float, float]]:
        differences = rng.integers(-1, 2, size=(utterances, count)).astype(float)
        words = np.full(differences.shape, float(WORDS))
        found = bootstrap(differences, words, [list(map(str, range(utterances)))], 500, 0)
        return [found.interval(column) for column in range(count)]

    needed = words_needed(300 * WORDS, *trials(300, 1)[0], margin)
    assert needed is not None
    found = [verdict(low, high, margin) == "non-inferior" for low, high in trials(needed // WORDS, 200)]
    assert 0.7 <= np.mean(found) <= 0.92


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .04 x 4 3 2 1 = .04 .06 .06 .04, and never less than the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []
    assert holm([math.nan, 0.01]) == pytest.approx([1.0, 0.02])
