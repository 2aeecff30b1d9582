"""How long after a word was spoken a live stream shows it: word emission delay, of sound, not of computing.

A word was spoken when the model, hearing the whole recording, puts the end of its last letter (asr/ctc.py says how
exact such times are); it is shown when the stream has heard the sound after which it stands in the text as it stays.
Words count that both hear alike (the least edits between the two texts). To what is measured here a service adds what a
step takes, and its queue: `python -m loadtests.paced` measures that. --output_file is one object:

  what     git_commit, machine, threads, versions, and per model its folder_hash and attention
  how      command, dataset (SHA-256), dtype, clips, audio_s
  results  per model and profile: words (of the whole recordings), shown (those that count), delay_ms: mean, p50, p95
"""

import json
import sys
from argparse import Namespace
from itertools import takewhile
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import asr
from asr.audio import SAMPLE_RATE
from asr.ctc import StreamDecoder, Word
from asr.transcriber import DTYPES
from offline import cli, corpora, files, provenance
from offline.data import Utterance, batches_of
from offline.evaluation import hearing, profiles
from offline.evaluation.profiles import Profile

EXAMPLE = """python -m offline.emission --model mha,mla --dataset data/speech/dev.jsonl \\
      --profile fast,balanced,1280x10 --output_file results/emission.json"""
BATCH_SECONDS = 240.0
Shown = tuple[str, float]  # a word, and the seconds of sound after which it stands


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--model", type=cli.names, required=True, help="names, folders, hub ids: a,b")
    add("--dataset", required=True, help="speech: a manifest, table, folder or LibriSpeech split")
    add("--data_dir", type=Path, help="folder of the LibriSpeech splits")
    add("--max_samples", type=cli.count, help="at most so many recordings, evenly spaced")
    forms = f"how streams hear: {', '.join(profiles.NAMED)}, or {profiles.FORMS}"
    add("--profile", type=cli.names, default=["fast", "balanced"], help=forms.replace("%", "%%"))
    add("--output_file", type=Path, required=True, help="JSON to write")
    add("--dtype", choices=list(DTYPES), default="float32", help="of the weights")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    return options


def shown(
    model: asr.Transcriber, wave: NDArray[np.float32], scores: NDArray[np.float32], size: int, ahead: int = 0
) -> list[Shown]:
    """The words of one stream.

    Args:
        model: whose scores they are.
        wave: the recording, float32 [samples] at 16 kHz.
        scores: log-probabilities [frames, vocabulary] of all of its chunks.
        size: C, frames a chunk.
        ahead: R, frames of look-ahead.
    """
    decoder = StreamDecoder(model.vocabulary, model.seconds_per_frame)
    heard_samples, stands = 0, list[Shown]()
    pieces = model.chunks(wave, chunk_frames=size)
    ends = [max((turn + 1) * size - ahead, 0) for turn in range(len(pieces) - 1)]
    for piece, said in zip(pieces, np.split(scores, ends), strict=True):
        heard_samples += len(piece)
        decoder.push(said)
        now = [word.word for word in decoder.words]
        pairs = zip(stands, now, strict=False)
        kept = [one for one, _ in takewhile(lambda pair: pair[0][0] == pair[1], pairs)]
        stands = kept + [(word, heard_samples / SAMPLE_RATE) for word in now[len(kept) :]]
    return stands


def delays_s(spoken: list[Word], stream: list[Shown]) -> list[float]:
    """Seconds from the end of each word to where the stream shows it, of the words that both have alike."""
    if not spoken or not stream:
        return []
    texts = " ".join(word.word for word in spoken), " ".join(word for word, _ in stream)
    (parts,) = jiwer.process_words(*texts).alignments
    alike = [part for part in parts if part.type == "equal"]
    return [
        stream[part.hyp_start_idx + at][1] - spoken[part.ref_start_idx + at].end
        for part in alike
        for at in range(part.ref_end_idx - part.ref_start_idx)
    ]


def measure(
    model: asr.Transcriber, found: list[Utterance], chosen: list[Profile], bar: tqdm
) -> dict[str, Any]:
    """The figures of each profile."""
    durations_s = [utterance.duration_s for utterance in found]
    order = sorted(range(len(found)), key=durations_s.__getitem__, reverse=True)
    words, delays = 0, {str(profile): list[float]() for profile in chosen}
    for batch in batches_of(order, durations_s, BATCH_SECONDS):
        waves = [found[index].wave() for index in batch]
        whole = model.transcribe(waves)
        words += sum(len(transcript.words) for transcript in whole)
        for profile in chosen:
            scores = hearing.streamed(model, waves, profile)
            for transcript, wave, clip in zip(whole, waves, scores, strict=True):
                stream = shown(model, wave, clip, profile.chunk_frames or 0, profile.lookahead_frames)
                delays[str(profile)] += delays_s(transcript.words, stream)
        bar.update(len(batch))
    return {name: summary(words, values) for name, values in delays.items()}


def summary(words: int, values_s: list[float]) -> dict[str, Any]:
    """Of one profile; delay_ms is None where nothing was shown."""
    if not values_s:
        return {"words": words, "shown": 0, "delay_ms": None}
    p50, p95 = np.quantile(values_s, [0.5, 0.95])
    figures = {"mean": np.mean(values_s), "p50": p50, "p95": p95}
    delay_ms = {name: round(1000 * float(value), 1) for name, value in figures.items()}
    return {"words": words, "shown": len(values_s), "delay_ms": delay_ms}


def work(args: Namespace) -> None:
    """What the command line asks for."""
    chosen = [profiles.parse(name) for name in args.profile]
    for name, profile in zip(args.profile, chosen, strict=True):
        if not profile.streamed:
            raise ValueError(f"--profile {name} is no stream: nothing is shown before its end")
    found = corpora.evenly(corpora.read_corpus(args.dataset, root=args.data_dir), args.max_samples)
    models = [asr.load(name, device=args.device, dtype=args.dtype) for name in args.model]
    names = [provenance.tidy(name) for name in args.model]
    with tqdm(total=len(found) * len(models), desc="streaming", unit="clip") as bar:
        results = {
            name: measure(model, found, chosen, bar) for name, model in zip(names, models, strict=True)
        }
    facts = {
        name: {"folder_hash": model.folder_hash, "attention": model.config.attention.to_dict()}
        for name, model in zip(names, models, strict=True)
    }
    result = {
        "what": {
            "git_commit": provenance.git_commit(),
            "machine": provenance.machine(),
            "threads": torch.get_num_threads(),
            "versions": provenance.versions("torch", "numpy", "jiwer"),
            "models": facts,
        },
        "how": {
            "command": provenance.command("offline.emission"),
            "dataset": {provenance.relative(args.dataset): corpora.digest(args.dataset, found)},
            "dtype": args.dtype,
            "clips": len(found),
            "audio_s": round(sum(utterance.duration_s for utterance in found), 1),
        },
        "results": results,
    }
    files.write(args.output_file, json.dumps(result, indent=1) + "\n")
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """The figures, to be read."""
    head = f"{'model':24} {'profile':>12} {'words':>8} {'shown':>8} {'mean ms':>8} {'p50':>6} {'p95':>6}"
    lines = [head]
    for model, rows in results.items():
        for profile, row in rows.items():
            delay = row["delay_ms"] or dict.fromkeys(("mean", "p50", "p95"), float("nan"))
            figures = f"{delay['mean']:8.0f} {delay['p50']:6.0f} {delay['p95']:6.0f}"
            lines.append(f"{model[-24:]:24} {profile:>12} {row['words']:8} {row['shown']:8} {figures}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when measured, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.emission", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
