"""Short recordings joined to long ones: what a live stream hears, and what sentences alone cannot show."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE
from offline.corpora import Named, names
from offline.data import Utterance

PAUSE_S = 0.3
SEED = 0


@dataclass(frozen=True)
class Joined(Named):
    """Several recordings with PAUSE_S of silence between two of them."""

    parts: tuple[Utterance, ...] = ()
    ids: tuple[str, ...] = ()  # of the parts

    def own_wave(self) -> NDArray[np.float32]:
        """Returns the samples, float32 [samples]. Raises ManifestError, which names the file."""
        pause = bytes(round(PAUSE_S * SAMPLE_RATE) * np.dtype(np.float32).itemsize)
        joined = bytearray()  # grows in place, so that an hour is in memory once
        for index, part in enumerate(self.parts):
            joined += (pause if index else b"") + part.wave().tobytes()
        return np.frombuffer(joined, np.float32)


def join(utterances: Sequence[Utterance], least_s: float) -> list[Joined]:
    """Returns recordings of at least so many seconds; each utterance is in one, each recording of one domain.

    Voices take turns: all utterances of one, in a seeded order, then those of the next, as few change voice as can be.
    What is too short at the end of a domain goes to its last recording. A domain shorter than least_s becomes one.
    """
    shuffled = [int(index) for index in np.random.default_rng(SEED).permutation(len(utterances))]
    turns = {utterances[index].voice: turn for turn, index in reversed(list(enumerate(shuffled)))}
    order = sorted(shuffled, key=lambda i: (utterances[i].domain, turns[utterances[i].voice]))
    ids = names(utterances)
    joined = []
    for domain, members in groupby(order, lambda i: utterances[i].domain):
        rows = _rows(list(members), utterances, least_s)
        called = [f"joined-{domain or 'all'}-{number:03}" for number in range(len(rows))]
        joined += [_joined(row, utterances, ids, name) for row, name in zip(rows, called, strict=True)]
    return joined


def _rows(members: Sequence[int], utterances: Sequence[Utterance], least_s: float) -> list[list[int]]:
    rows: list[list[int]] = []
    length_s = least_s
    for index in members:
        if length_s >= least_s:
            rows.append([])
            length_s = -PAUSE_S
        rows[-1].append(index)
        length_s += PAUSE_S + utterances[index].duration_s
    if length_s < least_s and len(rows) > 1:
        rest = rows.pop()
        rows[-1] += rest
    return rows


def _joined(row: list[int], utterances: Sequence[Utterance], ids: list[str], name: str) -> Joined:
    parts = tuple(utterances[index] for index in row)
    return Joined(
        audio=parts[0].audio,
        duration_s=sum(part.duration_s for part in parts) + PAUSE_S * (len(parts) - 1),
        text=" ".join(part.text for part in parts),
        domain=parts[0].domain,
        engine=_same([part.engine for part in parts]),
        voice=_same([part.voice for part in parts]),
        speaker=_same([part.speaker for part in parts]),
        id=name,
        parts=parts,
        ids=tuple(ids[index] for index in row),
    )


def _same(labels: list[str]) -> str:
    return labels[0] if len(set(labels)) == 1 else ""
