"""Sentences to speech to manifests: the training data.

Utterance i of a split is fully determined by i, the seed, the shares of engines and of domains, and the texts that
are installed, so that a run can be stopped and taken up again: what is on disk is kept. Sentences and voices of
the splits:

    train, dev, test-seen-voices   the voices that training hears; each its own sentences
    test-unseen-voice              held-out voices reading the sentences of the test side
"""

import hashlib
import json
import multiprocessing
import os
import subprocess
import time
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from offline import cli, files
from offline.engines.voice import Voice
from offline.sentences import (
    common_words,
    dictionary_sentences,
    everyday_sentence,
    normalise,
    open_sentences,
    split_of,
    telephone_sentence,
    word_sentence,
)
from offline.voices import ENGINES, available

SENTENCES_OF = {"dev": "dev", "train": "train", "test-seen-voices": "test", "test-unseen-voice": "test"}
UNSEEN = "test-unseen-voice"
DRAWN = (
    "everyday",
    "dictionary",
    "telephone",
    "words",
)  # domains with a share of their own; the rest is open
DEFAULT_SHARES = {
    "espeak": 0.2,
    "flite": 0.25,
    "hibari": 0.1,
    "kokoro": 0.05,
    "kokoro-wide": 0.1,
    "kokoro-en": 0.3,
}
MAX_S, MIN_S, MIN_RMS, MAX_LETTERS_PER_S = 16.0, 0.3, 0.004, 30.0
_EDGE_S = 0.25  # silence left before and after the words
_BATCH = 64
_PARTIAL_EVERY_S = 30.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What, with the number of an utterance, determines it."""

    seed: int
    shares: tuple[tuple[str, float], ...]
    everyday_share: float
    dictionary_share: float = 0.0
    telephone_share: float = 0.0
    words_share: float = 0.0


@dataclass(frozen=True)
class Utterance:
    """One planned utterance, and the generator that draws how it is said."""

    sentence: str
    domain: str
    voice: Voice
    file_name: str
    rng: np.random.Generator


def plan(recipe: Recipe, split: str, index: int) -> Utterance:
    """Utterance `index` of `split`: who says what."""
    rng = np.random.default_rng([recipe.seed, list(SENTENCES_OF).index(split), index])
    engines, weights = zip(*recipe.shares, strict=True)
    voices = _voices(engines[rng.choice(len(engines), p=weights)], split == UNSEEN)
    voice = voices[rng.integers(len(voices))]
    domain = _domain(recipe, split, rng.random())
    sentence = _sentence(domain, SENTENCES_OF[split], rng)
    key = hashlib.sha256(f"{recipe.seed} {split} {index} {voice.name} {sentence}".encode()).hexdigest()
    # The key in the name: with another recipe in the same folder no file is taken for one that it is not.
    return Utterance(sentence, domain, voice, f"audio/{split}/{index:06d}-{key[:8]}.flac", rng)


def _domain(recipe: Recipe, split: str, drawn: float) -> str:
    """What kind of sentence; only training hears the dictionary, the telephone and lists of words."""
    for domain in DRAWN if split == "train" else DRAWN[:1]:
        drawn -= 0.5 if split.startswith("test") else getattr(recipe, f"{domain}_share")
        if drawn < 0:
            return domain
    return "open"


@lru_cache(maxsize=16)
def _voices(engine: str, held_out: bool) -> list[Voice]:
    return [voice for voice in ENGINES[engine].voices() if voice.held_out == held_out]


def _sentence(domain: str, side: str, rng: np.random.Generator) -> str:
    if domain in ("open", "dictionary"):
        sentences = (open_sentences if domain == "open" else dictionary_sentences)()[side]
        return sentences[rng.integers(len(sentences))]
    write = {"everyday": everyday_sentence, "telephone": telephone_sentence, "words": word_sentence}[domain]
    while True:
        sentence = write(rng)
        if split_of(normalise(sentence)) == side:
            return sentence


def make(task: tuple[Recipe, str, int, Path]) -> Row | str:
    """The manifest line of one utterance, after its file has been written, or why it was dropped."""
    recipe, split, index, folder = task
    utterance = plan(recipe, split, index)
    path, text = folder / utterance.file_name, normalise(utterance.sentence)
    if path.exists():
        duration_s = soundfile.info(path).frames / SAMPLE_RATE
    else:
        try:
            samples = _speak(utterance)
        except (subprocess.SubprocessError, RuntimeError, ValueError) as error:
            return f"failed ({utterance.voice.name}: {error})"
        duration_s = len(samples) / SAMPLE_RATE
        if fault := _fault(samples, text):
            return fault
        write_flac(path, samples)
    voice = utterance.voice
    row = {"audio_filepath": utterance.file_name, "duration": round(duration_s, 4), "text": text}
    return row | {"domain": utterance.domain, "engine": voice.engine, "voice": voice.name}


def _speak(utterance: Utterance) -> np.ndarray:
    """float32 [samples] at 16 kHz, peak at most 0.95, silence at the edges cut."""
    voice = utterance.voice
    samples, rate = ENGINES[voice.engine].speak(utterance.sentence, voice, utterance.rng)
    samples = soxr.resample(samples, rate, SAMPLE_RATE)
    peak = float(np.abs(samples).max(initial=0.0))
    loud = np.flatnonzero(np.abs(samples) > 0.01 * peak)
    if not len(loud):
        return samples
    edge = int(_EDGE_S * SAMPLE_RATE)
    samples = samples[max(0, loud[0] - edge) : loud[-1] + edge]
    return samples * min(1.0, 0.95 / peak)


def _fault(samples: np.ndarray, text: str) -> str | None:
    duration_s = len(samples) / SAMPLE_RATE
    if duration_s > MAX_S:
        return "too long"
    if duration_s < max(MIN_S, len(text) / MAX_LETTERS_PER_S):
        return "too short for its words"
    if not np.isfinite(samples).all() or np.sqrt(np.mean(samples**2)) < MIN_RMS:
        return "silent"
    return None


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Whole or not at all: a file that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    soundfile.write(unfinished, samples, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    unfinished.replace(path)


def write_manifest(path: Path, rows: list[Row]) -> None:
    """One JSON object a line; a reader sees the old file or the new one, never half of one."""
    files.write(path, "".join(json.dumps(row) + "\n" for row in rows))


def fill(
    run: Callable[[list[Any]], list[Row | str]],
    recipe: Recipe,
    split: str,
    folder: Path,
    goal: float,
    unit: str,
) -> tuple[list[Row], Counter[str]]:
    """Makes utterances 0, 1, 2, ... until `goal` (hours or clips) is reached; the manifest grows meanwhile.

    Raises:
        RuntimeError: every utterance of a batch was dropped.
    """
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    written_s, made = time.monotonic(), 0.0  # not the bar's own count: a bar that is off counts nothing
    with tqdm(total=goal, unit=unit, desc=split, disable=None) as progress:
        for batch in _batches():
            results = run([(recipe, split, index, folder) for index in batch])
            if all(isinstance(result, str) for result in results):
                raise RuntimeError(f"all of {len(results)} utterances were dropped, the first: {results[0]}")
            for result in results:
                if made >= goal:
                    break
                if isinstance(result, str):
                    dropped[result.split(" (")[0]] += 1
                else:
                    rows.append(result)
                    amount = result["duration"] / 3600 if unit == "h" else 1
                    made += amount
                    progress.update(amount)
            done = made >= goal
            if done or time.monotonic() - written_s > _PARTIAL_EVERY_S:
                write_manifest(folder / f"{split}.jsonl", rows)
                written_s = time.monotonic()
            if done:
                return rows, dropped
    raise AssertionError("the batches have no end")


def _batches() -> Iterator[range]:
    return (range(start, start + _BATCH) for start in count(0, _BATCH))


def synthesize(args: Namespace) -> dict[str, Any]:
    """Makes all four splits and the report; returns the report."""
    recipe = Recipe(args.seed, shares_of(args.engines, args.shares), **_text_shares(args))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    clips = {"dev": args.dev_clips, "test-seen-voices": args.test_seen_clips, UNSEEN: args.test_unseen_clips}
    report: dict[str, Any] = asdict(recipe) | {"shares": dict(recipe.shares)}
    report["splits"] = {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for split in SENTENCES_OF:
            goal, unit = (clips[split], "clip") if split in clips else (args.hours, "h")
            rows, dropped = fill(
                lambda tasks: pool.map(make, tasks, 4), recipe, split, args.output_dir, goal, unit
            )
            report["splits"][split] = _summary(rows, dropped)
            files.write(args.output_dir / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _text_shares(args: Namespace) -> dict[str, float]:
    return {f"{domain}_share": vars(args)[f"{domain}_share"] for domain in DRAWN}


def _summary(rows: list[Row], dropped: Counter[str]) -> dict[str, Any]:
    hours: Counter[str] = Counter()
    for row in rows:
        for name in ("engine", "domain"):
            hours[row[name]] += row["duration"] / 3600
    return {
        "clips": len(rows),
        "hours": round(sum(row["duration"] for row in rows) / 3600, 3),
        "hours_of": {name: round(value, 3) for name, value in sorted(hours.items())},
        "voices": len({row["voice"] for row in rows}),
        "words": len({word for row in rows for word in row["text"].split()}),
        "dropped": dict(dropped),
    }


def shares_of(engines: list[str], shares: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """The engines' shares of the utterances, summing to one; DEFAULT_SHARES where `shares` is empty.

    Raises:
        ValueError: `shares` names an engine that is not used, or all are zero, or it is empty and an engine has no
            default.
    """
    if not shares and (without := [name for name in engines if name not in DEFAULT_SHARES]):
        every = ",".join(f"{name}=1" for name in engines)
        raise ValueError(f"no default share for {', '.join(without)}: add --shares {every}")
    if strangers := sorted(set(shares) - set(engines)):
        raise ValueError(f"--shares names {', '.join(strangers)}, which is not among {', '.join(engines)}")
    wanted = {name: (shares or DEFAULT_SHARES).get(name, 0.0) for name in engines}
    total = sum(wanted.values())
    if total <= 0:
        raise ValueError("--shares: at least one engine needs a share above 0")
    return tuple((name, share / total) for name, share in sorted(wanted.items()) if share > 0)


def _shares(text: str) -> dict[str, float]:
    try:
        return {name: cli.share(value) for name, value in (part.split("=") for part in cli.names(text))}
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not like espeak=0.5,flite=0.5") from None


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    example = (
        "python -m offline.synthesize --output_dir data/speech --hours 10 --engines espeak,flite --workers 2"
    )
    options = cli.parser(
        "Makes speech from sentences: FLAC files and NeMo-style manifests (JSON lines).", example
    )
    add, shares = options.add_argument, ",".join(f"{name}={share}" for name, share in DEFAULT_SHARES.items())
    add("--output_dir", type=Path, required=True, help="folder for the manifests and audio/")
    add("--hours", type=cli.positive, default=10.0, help="speech in train.jsonl")
    add("--seed", type=cli.natural, default=1, help="another seed, other utterances")
    add("--engines", type=cli.names, help=f"from {', '.join(ENGINES)} (without: all that are installed)")
    add("--shares", type=_shares, default={}, help=f"of the utterances; without: {shares}")
    add("--everyday_share", type=cli.share, default=0.65, help="of train and dev; the tests have half")
    add("--dictionary_share", type=cli.share, default=0.0, help="of train, in rare words (wordnet-base)")
    add("--telephone_share", type=cli.share, default=0.0, help="of train, in menus, mailboxes, conferences")
    add("--words_share", type=cli.share, default=0.0, help="of train, in one to five common words (scowl)")
    add("--dev_clips", type=cli.count, default=200, help="utterances in dev.jsonl")
    add("--test_seen_clips", type=cli.count, default=600, help="utterances in test-seen-voices.jsonl")
    add("--test_unseen_clips", type=cli.count, default=400, help="utterances in test-unseen-voice.jsonl")
    add("--workers", type=cli.count, default=os.cpu_count(), help="processes")
    args = options.parse_args(arguments)
    try:
        engines = available(args.engines)
        if not (args.engines or args.shares):  # nobody asked for those without a default share
            engines = [name for name in engines if name in DEFAULT_SHARES]
        args.engines = engines
        open_sentences()
        given = _text_shares(args)
        if sum(given.values()) > 1 + 1e-9:
            raise ValueError(
                f"{', '.join(f'--{name} {share:g}' for name, share in given.items())} are over 1"
            )
        if args.dictionary_share:
            dictionary_sentences()
        if args.words_share:
            common_words()
        report = synthesize(args)
    except (ValueError, OSError, RuntimeError) as error:
        options.error(str(error))
    except KeyboardInterrupt:
        options.exit(130, "\noffline.synthesize: stopped; the same command goes on\n")
    print(json.dumps(report["splits"], indent=2))


if __name__ == "__main__":
    main()
