"""N-grams with back-off: counting one, mixing several, leaving out what says little, writing the rest as ARPA text.

Counting is interpolated modified Kneser-Ney (Chen and Goodman, 1999). Mixing is linear, by weights of the models that
lean towards those which expect the context: after PRESS STAR TO, a telephone's sentences count for more (Bayesian
interpolation, as SRILM calls it). Leaving out is by relative entropy (Stolcke, 1998).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, pairwise

from tqdm import tqdm

from asr.ngram import START, UNKNOWN

END = "</s>"
NEVER = -99.0  # how ARPA writes the logarithm of 0
LEANING = 0.5  # share of a model's weight that goes by how much it expects the context
FEW = (0.5, 1.0, 1.5)  # discounts where too little was counted to tell
LEAST = 1e-9  # no share is less, so that there is a logarithm

Gram = tuple[str, ...]


@dataclass
class BackOff:
    """A model of what is said.

    Attributes:
        probs: the probability of each n-gram that is listed, by length. What is left of it without its last word, and
            without its first, is listed as well; <s> begins n-grams, but is not listed itself.
        weights: what a context leaves to all others, as a factor of what the shorter context gives them.
        often: of all words said, each one's share, as far as it is known. Without a context a word may be less likely
            than that: FRANCISCO is often said, but hardly ever where nothing speaks for it.
    """

    probs: list[dict[Gram, float]]
    weights: dict[Gram, float]
    often: dict[str, float]

    def prob(self, context: Gram, word: str) -> float:
        """P(word | context); 0 of a word that is not listed."""
        weight = 1.0
        for first in range(len(context) + 1):
            gram = (*context[first:], word)
            if len(gram) <= len(self.probs) and gram in self.probs[len(gram) - 1]:
                return weight * self.probs[len(gram) - 1][gram]
            weight *= self.weights.get(context[first:], 1.0)
        return 0.0

    def expects(self, words: Gram) -> float:
        """How often these words are said, one after the other, of all places; behind <s>, of all sentences."""
        if not words:
            return 1.0
        first = 1.0 if words[0] == START else self.often.get(words[0], 0.0)
        return first * math.prod(self.prob(words[:at], words[at]) for at in range(1, len(words)))


def kneser_ney(sentences: Iterable[Sequence[str]], order: int, vocabulary: Set[str]) -> BackOff:
    """Returns what the sentences say, with a share of it for each word of the vocabulary.

    P(w|h) = (c(h,w) - D(c(h,w))) / c(h) + share(h) P(w|h'), where h' is h without its first word, D discounts counts of
    one, of two, and of more, share(h) is all that it takes off h, and c, but of the longest n-grams and of those that
    begin a sentence, is the number of different words that were seen before. Below the single word all are equal.

    Args:
        sentences: words of each, <unk> among them where one is to count as such.
        order: the longest n-grams.
        vocabulary: words that there are, those of the sentences among them; </s> and <unk> need not be named.
    """
    counts = _count(sentences, order)
    total = counts[0].total()
    often = {word: count / total for (word,), count in counts[0].items()}
    for shorter, longer in pairwise(counts):
        before = Counter(gram[1:] for gram in longer)
        for gram in shorter:
            shorter[gram] = shorter[gram] if gram[0] == START else before[gram]
    words = sorted({*vocabulary, END, UNKNOWN})
    probs: list[dict[Gram, float]] = [dict.fromkeys(((word,) for word in words), 0.0)]
    weights: dict[Gram, float] = {}
    for size, grams in enumerate(counts, 1):
        off = _discounts(grams.values())
        followed: Counter[Gram] = Counter()
        taken: dict[Gram, float] = defaultdict(float)
        for gram, count in grams.items():
            followed[gram[:-1]] += count
            taken[gram[:-1]] += off[min(count, 3) - 1]
        shares = {context: amount / followed[context] for context, amount in taken.items()}
        if size == 1:
            for gram in probs[0]:
                probs[0][gram] = shares.get((), 1.0) / len(words)
        else:
            weights |= shares
            probs.append({gram: shares[gram[:-1]] * probs[-1][gram[1:]] for gram in grams})
        for gram, count in grams.items():
            probs[-1][gram] += (count - off[min(count, 3) - 1]) / followed[gram[:-1]]
    return BackOff(probs, weights, often)


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """How often each n-gram was seen, by length; <s> begins n-grams, but is never said."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for words in sentences:
        line = (START, *words, END)
        for at in range(1, len(line)):
            for size in range(1, min(order, at + 1) + 1):
                counts[size - 1][line[at + 1 - size : at + 1]] += 1
    return counts


def _discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """What is taken off counts of one, of two and of more: equation 26 of Chen and Goodman (1999)."""
    seen = Counter(counts)
    if not all(seen[count] for count in (1, 2, 3, 4)):
        return FEW
    share = seen[1] / (seen[1] + 2 * seen[2])
    one, two, more = (n - (n + 1) * share * seen[n + 1] / seen[n] for n in (1, 2, 3))
    return max(one, 0.0), max(two, 0.0), max(more, 0.0)


def mixed(models: Sequence[BackOff], weights: Sequence[float]) -> BackOff:
    """Returns one model for several: of each n-gram that any of them lists, the mean by their weights.

    The weight of a model after a context is half as given, half in proportion to that times P(context) by the model.
    """
    total = sum(weights)
    given = [weight / total for weight in weights]
    probs: list[dict[Gram, float]] = []
    for size in range(max(len(model.probs) for model in models)):
        grams = sorted({gram for model in models for gram in _listed(model.probs, size)})
        progress = tqdm(grams, f"mixing n-grams of {size + 1}", leave=False)
        longer = {}
        for context, following in groupby(progress, lambda gram: gram[:-1]):
            shares = _leaning(models, given, context) if context else given
            for gram in following:
                each = zip(shares, models, strict=True)
                longer[gram] = sum(share * model.prob(context, gram[-1]) for share, model in each)
        probs.append(longer)
    said = sum(probs[0].values())
    probs[0] = {gram: prob / said for gram, prob in probs[0].items()}
    often: dict[str, float] = defaultdict(float)
    for weight, model in zip(given, models, strict=True):
        for word, share in model.often.items():
            often[word] += weight * share
    return BackOff(probs, backoffs(probs), dict(often))


def _leaning(models: Sequence[BackOff], given: Sequence[float], context: Gram) -> list[float]:
    expected = [weight * model.expects(context) for weight, model in zip(given, models, strict=True)]
    total = sum(expected)
    return [
        LEANING * share / total + (1 - LEANING) * weight
        for share, weight in zip(expected, given, strict=True)
    ]


def pruned(model: BackOff, threshold: float) -> BackOff:
    """Returns the model without the n-grams of several words whose loss would change it by less than a threshold.

    The change is P(h) times the relative entropy of what is said after h, in nats, each n-gram looked at alone, the
    longest first; those that a longer one needs stay.
    """
    probs = list(model.probs)
    for size in range(len(probs) - 1, 0, -1):
        now = BackOff(probs, backoffs(probs), model.often)
        needed = {part for gram in _listed(probs, size + 1) for part in (gram[:-1], gram[1:])}
        of_context: dict[Gram, list[Gram]] = defaultdict(list)
        for gram in probs[size]:
            of_context[gram[:-1]].append(gram)
        kept = {}
        for context, grams in tqdm(of_context.items(), f"pruning n-grams of {size + 1}", leave=False):
            often = now.expects(context)
            left = max(1.0 - sum(probs[size][gram] for gram in grams), LEAST)
            left_shorter = max(1.0 - sum(probs[size - 1][gram[1:]] for gram in grams), LEAST)
            for gram in grams:
                prob, shorter = probs[size][gram], probs[size - 1][gram[1:]]
                weight = (left + prob) / (left_shorter + shorter)
                change = prob * math.log(prob / (weight * shorter))
                change += left * math.log(left / left_shorter / weight)
                if gram in needed or often * change >= threshold:
                    kept[gram] = prob
        probs[size] = kept
    return BackOff(probs, backoffs(probs), model.often)


def _listed(probs: Sequence[dict[Gram, float]], size: int) -> Iterable[Gram]:
    return probs[size] if size < len(probs) else ()


def backoffs(probs: Sequence[dict[Gram, float]]) -> dict[Gram, float]:
    """Returns the weight of each context: what is left to share, by what the shorter one gives to those who get it."""
    weights = {}
    for shorter, longer in pairwise(probs):
        said: dict[Gram, float] = defaultdict(float)
        said_shorter: dict[Gram, float] = defaultdict(float)
        for gram, prob in longer.items():
            said[gram[:-1]] += prob
            said_shorter[gram[:-1]] += shorter[gram[1:]]
        for context, prob in said.items():
            weights[context] = max(1.0 - prob, LEAST) / max(1.0 - said_shorter[context], LEAST)
    return weights


def arpa(model: BackOff) -> Iterator[str]:
    """Returns the lines of an ARPA file, sorted, logarithms to base 10 with two digits behind the point.

    A number is within 1.2% of what it was, a probability after two back-offs within 3.5%; with four digits the file
    is a third larger.
    """
    models = [{(START,): 0.0, **model.probs[0]}, *model.probs[1:]]
    yield "\\data\\\n"
    yield from (f"ngram {size}={len(grams)}\n" for size, grams in enumerate(models, 1))
    for size, grams in enumerate(models, 1):
        yield f"\n\\{size}-grams:\n"
        for gram in sorted(grams):
            weight = f"\t{math.log10(model.weights[gram]):.2f}" if gram in model.weights else ""
            log_prob = math.log10(grams[gram]) if grams[gram] > 0 else NEVER
            yield f"{log_prob:.2f}\t{' '.join(gram)}{weight}\n"
    yield "\n\\end\\\n"
