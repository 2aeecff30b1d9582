"""Is the difference of two error rates real, and is it small? Numpy alone; everything random is a function of a seed.

Both arms heard the same N utterances, so everything here is paired. C columns are worked on at once, each a ratio of
sums sum(numerators) / sum(denominators): for a difference of word error rates, errors(arm) - errors(baseline) and
words, in shares. A factor is what utterances have in common, [N] labels: the sentence that is read, or the voice that
reads it.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Array = NDArray[np.float64]
Verdict = Literal["non-inferior", "worse by more than the margin", "undecided"]
LEVEL, POWER, PSEUDO_ERRORS, GOOD_RUN = 0.95, 0.8, 4, 2
Z_LEVEL, Z_POWER = NormalDist().inv_cdf((1 + LEVEL) / 2), NormalDist().inv_cdf(POWER)
_CELLS_AT_ONCE = 1_000_000  # of the [resamples, clusters] table of counts
_BOOTSTRAP, _FLIP, _SMOOTH = range(3)  # keeps the random streams of one seed apart


@dataclass(frozen=True)
class Bootstrap:
    """Estimates [C] and their resampled values [resamples, C]."""

    estimate: Array
    drawn: Array

    def interval(self, column: int) -> tuple[float, float]:
        """Two-sided 95 % percentile interval of one column; its upper end is a one-sided bound at 97.5 %."""
        drawn = self.drawn[~np.isnan(self.drawn[:, column]), column]
        if not len(drawn):
            return math.nan, math.nan  # a single cluster
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        return low, high

    def p_at_least(self, column: int, bound: float) -> float:
        """One-sided p of the hypothesis that one column's true value is at least bound."""
        return _p(self.drawn[:, column] >= bound)

    def p_at_most(self, column: int, bound: float) -> float:
        """One-sided p of the hypothesis that one column's true value is at most bound."""
        return _p(self.drawn[:, column] <= bound)


def _p(reached: NDArray[np.bool_]) -> float:
    return (1 + int(reached.sum())) / (1 + len(reached))


def codes(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Numbers labels in their order of appearance, [N]."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(label, len(number)) for label in labels], dtype=np.int64)


def resample(
    numerators: Array, denominators: Array, clusters: NDArray[np.int64], resamples: int, seed: int
) -> Array:
    """Ratios [resamples, C] of the same number of clusters, drawn with replacement (Bisani and Ney 2004 with clusters).

    NaN where a draw leaves a column's denominator at zero.
    """
    over, under = _sums(numerators, clusters), _sums(denominators, clusters)
    size = len(over)
    rng = np.random.default_rng([seed, _BOOTSTRAP])
    rows = max(1, _CELLS_AT_ONCE // size)
    found = []
    for start in tqdm(range(0, resamples, rows), f"bootstrap over {size} clusters", delay=3, leave=False):
        height = min(rows, resamples - start)
        cells = rng.integers(size, size=(height, size)) + size * np.arange(height)[:, None]
        counts = np.bincount(cells.ravel(), minlength=height * size).reshape(height, size).astype(float)
        top, bottom = counts @ over, counts @ under
        found.append(np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0))
    return np.concatenate(found)


def _sums(values: Array, clusters: NDArray[np.int64]) -> Array:
    """values [N, C] summed within each cluster: [clusters, C]."""
    sums = np.zeros((int(clusters.max()) + 1, values.shape[1]))
    np.add.at(sums, clusters, values)
    return sums


def bootstrap(
    numerators: Array, denominators: Array, factors: Sequence[Sequence[Hashable]], resamples: int, seed: int
) -> Bootstrap:
    """Bootstrap of ratios of sums under clustering by one or two crossed factors.

    numerators, denominators: [N, C]. One factor: its clusters are drawn. Two (sentence and voice): the variance is
    V = V_1 + V_2 - V_12 of three bootstraps, by either factor and by their combinations, and no less than V_1 or V_2
    (Cameron, Gelbach and Miller 2011, Robust inference with multiway clustering, section 2.3); the draws of the factor
    that varies more are scaled about the estimate to V. The product weights of the pigeonhole bootstrap (Owen 2007)
    would count what one utterance has to itself three times, as hardly any pair of sentence and voice is heard twice.

    For few clusters G (of the factor that has fewest in that column) draws are widened by sqrt(G / (G - 1)) and by the
    quantile of t with G - 1 degrees of freedom over the normal one (Hesterberg 2015, the expanded percentile interval).
    Normal noise as of four further errors is added, so that where nothing differs the interval ends near 3.9 / words,
    and the exact bound for no event in so many is 3.7 / words: zero errors among few words prove nothing.
    """
    estimate = numerators.sum(0) / denominators.sum(0)
    one_way = [codes(labels) for labels in factors]
    drawn = [resample(numerators, denominators, each, resamples, seed) for each in one_way]
    variances = [np.nanvar(each, 0) for each in drawn]
    total = np.maximum.reduce(variances)
    if len(factors) == 2:
        both = codes(list(zip(*factors, strict=True)))
        shared = np.nanvar(resample(numerators, denominators, both, resamples, seed), 0)
        total = np.maximum(total, sum(variances) - shared)
    main = np.argmax(variances, 0)
    chosen = np.choose(main, drawn)
    scale = np.sqrt(total / np.maximum(np.choose(main, variances), 1e-300))
    few = np.minimum.reduce([_occupied(denominators, each) for each in one_way])
    noise = np.random.default_rng([seed, _SMOOTH]).standard_normal((resamples, 1))
    smooth = noise * np.sqrt(PSEUDO_ERRORS) / denominators.sum(0)
    return Bootstrap(estimate, estimate + (chosen - estimate) * scale * expansion(few) + smooth)


def _occupied(denominators: Array, clusters: NDArray[np.int64]) -> Array:
    """How many clusters have a part in each column, [C]."""
    return np.array([len(set(clusters[column > 0].tolist())) for column in denominators.T], dtype=float)


def expansion(clusters: Any) -> Any:
    """By how much draws of so few clusters are to be widened: sqrt(G / (G - 1)) t / z; of one cluster, not a number.

    The quantile of t is the expansion 26.7.5 in Abramowitz and Stegun (1964), within 0.2 % from 5 clusters on.
    """
    freedom = np.where(np.asarray(clusters) > 1, np.asarray(clusters, dtype=float) - 1, np.nan)
    z = Z_LEVEL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    t = z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
    return np.sqrt((freedom + 1) / freedom) * t / z


def sign_flip(
    differences: Array, factors: Sequence[Sequence[Hashable]], resamples: int, seed: int
) -> list[float]:
    """Two-sided p [C] of no difference: the signs of whole clusters' differences [N, C] turned at random.

    Of one factor the permutation test. Of two crossed ones the clusters of the factor with the larger sum of squares,
    their turned sums scaled to V_1 + V_2 - V_12 as in `bootstrap`: either alone would be too sure.
    """
    one_way = [_sums(differences, codes(labels)) for labels in factors]
    squares = [(sums**2).sum(0) for sums in one_way]
    total = np.maximum.reduce(squares)
    if len(factors) == 2:
        both = _sums(differences, codes(list(zip(*factors, strict=True))))
        total = np.maximum(total, sum(squares) - (both**2).sum(0))
    main, reached = np.argmax(squares, 0), np.zeros(differences.shape[1])
    for number, sums in enumerate(one_way):
        columns = main == number
        bound = (
            np.abs(differences[:, columns].sum(0))
            * np.sqrt(squares[number] / np.maximum(total, 1e-300))[columns]
        )
        rng = np.random.default_rng([seed, _FLIP])
        rows = max(1, _CELLS_AT_ONCE // len(sums))
        for start in range(0, resamples, rows) if columns.any() else ():
            signs = 2.0 * rng.integers(2, size=(min(rows, resamples - start), len(sums))) - 1
            reached[columns] += (np.abs(signs @ sums[:, columns]) >= bound - 1e-9).sum(0)
    return ((1 + reached) / (1 + resamples)).tolist()


def segments(errors_a: Sequence[int], errors_b: Sequence[int]) -> list[tuple[int, int]]:
    """Errors (a, b) of each segment of one utterance in which anything is wrong.

    Errors are [2 n + 1] for n reference words: insertions before the first word, the first word, insertions before the
    second, and so on. Segments end where two or more words in a row are right in both (Gillick and Cox 1989).
    """
    wrong = [a + b > 0 for a, b in zip(errors_a, errors_b, strict=True)]
    found: list[tuple[int, int]] = []
    run = GOOD_RUN  # right words since the last error; an utterance's beginning bounds a segment too
    for slot, bad in enumerate(wrong):
        if bad and run >= GOOD_RUN:
            found.append((0, 0))
        if bad:
            found[-1] = (found[-1][0] + errors_a[slot], found[-1][1] + errors_b[slot])
            run = 0
        elif slot % 2:
            run += 1
    return found


def mapsswe(cut: Sequence[tuple[int, int]]) -> float:
    """Two-sided p of the matched-pairs test over the segments of all utterances (Gillick and Cox 1989; NIST MAPSSWE).

    z = mean / (deviation / sqrt(n)) of the n segments' differences in errors; 1 where they do not differ at all.
    """
    differences = np.array([a - b for a, b in cut], dtype=float)
    if not differences.any():
        return 1.0
    if len(differences) < 2 or not differences.std():
        return math.nan  # one segment, or all alike: no variance to judge by
    z = differences.mean() / (differences.std(ddof=1) / math.sqrt(len(differences)))
    return math.erfc(abs(z) / math.sqrt(2))


def verdict(low: float, high: float, margin: float) -> Verdict:
    """What a 95 % interval of (arm - baseline) says about a margin.

    Two-sided 95 %, so each bound holds at 97.5 %: the usual level of non-inferiority, stricter than a one-sided 95 %.
    """
    if high < margin:
        return "non-inferior"
    return "worse by more than the margin" if low > margin else "undecided"


def words_needed(words: int, low: float, high: float, margin: float, difference: float = 0.0) -> int | None:
    """Words at which a comparison would be decided with a power of 80 %, were the true difference this.

    n = words ((z_.975 + z_.8) s / (margin - difference))^2, where s = (high - low) / (2 z_.975) is the pilot's standard
    error. With s^2 = phi delta / words (delta: discordant errors a word, phi: over-dispersion) that is
    n = (z_.975 + z_.8)^2 phi delta / (margin - difference)^2. Sentences and voices have to grow in proportion.
    None where the difference is the margin: no number of words decides that.
    """
    gap = abs(margin - difference)
    deviation = (high - low) / (2 * Z_LEVEL)
    if gap == 0 or not math.isfinite(deviation):
        return None
    return math.ceil(words * ((Z_LEVEL + Z_POWER) * deviation / gap) ** 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for having made all these comparisons (Holm 1979); not-a-number counts as 1."""
    clean = [1.0 if math.isnan(p) else p for p in p_values]
    adjusted, highest = [0.0] * len(clean), 0.0
    for rank, index in enumerate(sorted(range(len(clean)), key=clean.__getitem__)):
        highest = max(highest, min(1.0, (len(clean) - rank) * clean[index]))
        adjusted[index] = highest
    return adjusted
