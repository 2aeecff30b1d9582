"""What the points say: which are on the front, and whether a small latent or a short window uses given bytes better."""

from collections.abc import Sequence
from dataclasses import dataclass

from offline.isomemory.points import Json, Point
from offline.significance import bootstrap

RESAMPLES, SEED = 2000, 0
WORTH, SHORTER, UNDECIDED, ALONE = (
    "MLA is worth it",
    "the shorter window is better",
    "undecided: no difference beyond chance",
    "nothing else that was measured is as small",
)


def dominated(point: Point, points: Sequence[Point], time: bool = True) -> bool:
    """Whether another point is nowhere worse, in WER, bytes and step time, and better in one of them."""
    mine = _figures(point, time)
    for other in points:
        theirs = _figures(other, time)
        if theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)):
            return True
    return False


def _figures(point: Point, time: bool) -> tuple[float, ...]:
    return (point.wer, point.bytes_per_stream, *((point.step_s,) if time else ()))


def front(points: Sequence[Point], time: bool = True) -> list[Point]:
    """The points that no other dominates, the smallest first."""
    left = [point for point in points if not dominated(point, points, time)]
    return sorted(left, key=lambda point: (point.bytes_per_stream, point.wer))


@dataclass
class Difference:
    """WER of one point minus that of another, in points, with its 95 % interval where transcripts were there."""

    wer: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        bounds = "" if self.low is None else f" [{self.low:+.2f}, {self.high:+.2f}]"
        return f"{self.wer:+.2f}{bounds}"

    @property
    def interval(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [self.low, self.high]

    @property
    def better(self) -> bool | None:
        """True or False where the interval leaves no doubt; None where it does, or there is none."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return self.high < 0


def difference(point: Point, other: Point) -> Difference:
    """Paired over the utterances: a bootstrap clustered as `offline.compare` does, by sentence and by who speaks."""
    wer, words = round(point.wer - other.wer, 3), point.words
    if words is None or point.errors is None or other.errors is None or len(words) < 2:
        return Difference(wer)
    numerators = (point.errors - other.errors)[:, None]
    low, high = bootstrap(numerators, words[:, None], point.factors, RESAMPLES, SEED).interval(0)
    return Difference(wer, round(100 * low, 3), round(100 * high, 3))


@dataclass
class Verdict:
    """A compressed point beside the best uncompressed one that takes no more bytes, whatever its window."""

    point: Point
    rival: Point | None
    difference: Difference | None

    @property
    def text(self) -> str:
        if self.difference is None:
            return ALONE
        if self.difference.better is None:
            return UNDECIDED
        return WORTH if self.difference.better else SHORTER

    def to_json(self) -> Json:
        rival, gap = self.rival, self.difference
        return {
            "point": self.point.label,
            "rival": rival and rival.label,
            "wer_difference": gap and gap.wer,
            "interval_95": gap and gap.interval,
            "bytes": [self.point.bytes_per_stream, rival and rival.bytes_per_stream],
            "step_time_ratio": rival and round(self.point.step_s / rival.step_s, 3),
            "verdict": self.text,
        }


def verdicts(points: Sequence[Point]) -> list[Verdict]:
    """One for every compressed point; the rival is the uncompressed one of the lowest WER within its bytes.

    The rival is chosen by the same WER that it is compared by, which favours it a little where there are many.
    """
    found = []
    for point in points:
        if not point.compressed:
            continue
        rivals = [
            other
            for other in points
            if not other.compressed
            and other.chunk == point.chunk
            and other.bytes_per_stream <= point.bytes_per_stream
        ]
        best = min(rivals, key=lambda other: (other.wer, other.bytes_per_stream), default=None)
        found.append(Verdict(point, best, None if best is None else difference(point, best)))
    return found


def what_context_buys(points: Sequence[Point]) -> list[Json]:
    """Of every family and type of cache: WER with the longest context minus that with the shortest."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.family, point.cache_dtype, point.chunk), []).append(point)
    found = []
    for group in groups.values():
        short, *_, long = sorted(group * 2, key=lambda point: point.left_context_s)
        if short.left_context_s < long.left_context_s:
            gap = difference(long, short)
            found.append({"from": short.label, "to": long.label, "gap": gap})
    return found


def at_equal_context(points: Sequence[Point]) -> list[Json]:
    """Of every point but K/V: its WER, bytes and step time beside those of K/V with the same window and type."""
    plain = {_window(point): point for point in points if point.family == "K/V"}
    found = []
    for point in points:
        base = plain.get(_window(point))
        if base is None or base is point:
            continue
        found.append(
            {
                "label": point.label,
                "gap": difference(point, base),
                "bytes_ratio": point.bytes_per_stream / base.bytes_per_stream,
                "step_ratio": point.step_s / base.step_s,
            }
        )
    return found


def _window(point: Point) -> tuple[str, str, float]:
    return point.cache_dtype, point.chunk, point.left_context_s
