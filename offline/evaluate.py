"""Measures models on recordings with known words: error rates, speed, memory, and every transcript.

The recordings: a LibriSpeech split by its name, a manifest, a table, a LibriSpeech or Kaldi folder, or
hf:dataset:split (offline/corpora.py says more). The models: bundled names, checkpoint folders, hub ids, mha or mla;
they take turns batch by batch, so that a busy machine disturbs them alike. Whole recordings, or with --chunk_ms what a
live stream would say. A killed run goes on where it stood when the same command is given again.

--output_file X.json is one object; X.jsonl beside it holds a line for each utterance (offline/evaluation/records.py):

  what      git_commit, device, machine, threads, versions, and per model: folder, folder_hash (SHA-256 of the weights),
            attention, method (of its conversion), parameters, weight_bytes, cached_values_per_frame,
            cache_bytes_per_second
  how       command, manifests (name: SHA-256), and the settings
  results   per model: total, and by_domain, by_engine, by_voice, by_manifest (name: figures). Figures: utterances,
            words, audio_s, wer (upper case), wer_95 (bounds, bootstrap over utterances), wer_normalised (by Whisper's
            English rules, see offline/scoring.py), cer: percent, corpus level; substitutions, deletions, insertions.
            speed: rtfx (as the Open ASR Leaderboard has it: all seconds of audio by all seconds of work, waves in
            memory to text, files and warm-up left out; but here clips of like length run together), rtfx_quartiles
            (over batches), rtfx_model (first convolution to scores alone), inference_s, latency_ms (p50 and p95 of
            single clips, waves to text; null when not asked).
            memory: peak_process_bytes (resident, the whole process with all models) or, on a GPU,
            peak_allocated_bytes and peak_reserved_bytes (of this model's batches, all loaded models' weights in it)
  utterances_file  X.jsonl
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr.transcriber import DTYPES
from offline import cli, corpora, provenance, scoring, stock
from offline.data import ManifestError, Utterance
from offline.evaluation.measure import Arm, Chosen, Sight, environment, latency, load, measure
from offline.evaluation.records import Record
from offline.evaluation.stopwatch import timed
from offline.evaluation.summary import summary, table
from offline.scoring import Row

__all__ = ["Arm", "environment", "load", "main", "timed"]
EXAMPLE = """python -m offline.evaluate --model mha,mla --dataset test-clean --data_dir ~/LibriSpeech \\
      --batch_size 8 --output_file results/test-clean.json
  python -m offline.evaluate --model mla --manifest tests/speech/test-seen-voices.jsonl --chunk_ms 320 \\
      --left_context_s 10 --output_file results/live.json"""
FRAME_MS = 20
LEFT_CONTEXT_FRAMES = 500
BATCH_SIZE = {"ours": 64, "transformers": 1}
SETTINGS = ("engine", "attn_implementation", "batch_seconds", "batch_size", "max_samples", "latency_clips")


class Corpus(NamedTuple):
    """What of one --dataset is measured: the utterances that have words, at most --max_samples of them."""

    source: str
    label: str
    utterances: list[Utterance]


def parser() -> cli.Parser:
    """The command line; also answers to the spellings of the workflow and of its prototype."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    names = "bundled names, folders or hub ids: a,b"
    add("--model", "--model_name", "--model_dir", type=cli.names, required=True, help=names)
    kinds = "test-clean, dev-other, ..., x.jsonl, x.csv, folders, hf:dataset:split: a,b"
    add("--dataset", "--manifest", type=cli.names, required=True, help=kinds)
    add("--output_file", type=Path, required=True, help="JSON to write; the transcripts go beside it")
    where = f"folder of the LibriSpeech splits (else the variable {corpora.ROOT_VARIABLE}, else data/)"
    add("--data_dir", "--offline_data_dir", type=Path, help=where)
    fetch = "fetch a split or an hf: data set that is not here; nothing is fetched without"
    add("--download", "--use_hf_dataset", action="store_true", help=fetch)
    add("--max_samples", "--utterances", type=cli.count, help="at most so many of a corpus, evenly spaced")
    again = "measure anew where results are there already, instead of going on from them"
    add("--overwrite", "--no_resume", action="store_true", help=again)
    add("--trn", type=Path, metavar="FOLDER", help="write texts for sclite there, too: ref.trn, <model>.trn")
    _add_ways(options)
    return options


def _add_ways(options: cli.Parser) -> None:
    add = options.add_argument
    add("--batch_seconds", type=cli.positive, default=60.0, help="padded audio in one batch")
    add("--batch_size", type=cli.count, help="most recordings in one batch; default: 64, stock code 1")
    streamed = "as in a live stream with chunks of so many ms; a multiple of 20"
    add("--chunk_ms", type=cli.positive, help=streamed)
    add("--chunk_frames", type=cli.count, help="the same in frames of 20 ms")
    add("--left_context_s", type=float, help="seconds that a chunk sees before it; default: 10")
    add("--left_context_frames", type=cli.natural, help="the same in frames of 20 ms")
    engine = "stock transformers instead of ours, mha only: the outside check (alone, as its padding leaks)"
    add("--engine", choices=list(BATCH_SIZE), default="ours", help=engine)
    add("--attn_implementation", choices=list(stock.IMPLEMENTATIONS), help="of stock code; default: eager")
    add("--latency_clips", type=cli.natural, default=20, help="clips to time one by one; 0 for none")
    add("--dtype", choices=list(DTYPES), help="default: float32 on CPU, bfloat16 on GPU")
    add("--device", help="cpu or cuda; default: cuda when there is one")


def sight_of(args: Namespace) -> Sight:
    """Returns what `transcribe` takes of the chunk options: nothing, or chunk_frames and left_context_frames.

    Raises:
        ValueError: one thing is said in two ways, or is no whole number of frames; names the nearest that is.
    """
    chunk = _frames("chunk", args.chunk_ms, 1, "ms", args.chunk_frames)
    left = _frames("left_context", args.left_context_s, 1000, "s", args.left_context_frames)
    if chunk is None and left is not None:
        raise ValueError("a left context is what a chunk sees before it: give --chunk_ms, too")
    if chunk is None:
        return {}
    return {"chunk_frames": chunk, "left_context_frames": LEFT_CONTEXT_FRAMES if left is None else left}


def _frames(name: str, value: float | None, unit_ms: int, unit: str, frames: int | None) -> int | None:
    if value is None:
        return frames
    if frames is not None:
        raise ValueError(f"--{name}_{unit} and --{name}_frames say the same thing twice; give one")
    exact = value * unit_ms / FRAME_MS
    least = 1 if name == "chunk" else 0
    if exact != round(exact) or exact < least:
        nearest = max(round(exact), least) * FRAME_MS / unit_ms
        step = FRAME_MS / unit_ms
        raise ValueError(f"--{name}_{unit} is {value:g}, no multiple of {step:g}; the nearest is {nearest:g}")
    return round(exact)


def read(args: Namespace) -> list[Corpus]:
    """Returns the corpora, without the utterances whose text is empty or not to be scored."""
    labels = [Path(source).stem if Path(source).is_file() else Path(source).name for source in args.dataset]
    if len(set(labels)) < len(labels):
        labels = [provenance.relative(source) for source in args.dataset]
    read_corpora = []
    for source, label in zip(args.dataset, labels, strict=True):
        found = corpora.read_corpus(source, root=args.data_dir, download=args.download)
        scored = [utterance for utterance in found if scoring.is_scored(utterance.text)]
        if not scored:
            raise ManifestError(f"{source}: no text to compare with")
        read_corpora.append(Corpus(source, label, corpora.evenly(scored, args.max_samples)))
    return read_corpora


def settle(args: Namespace) -> Sight:
    """Fills in the defaults that hang on other options; returns what the models see.

    Raises:
        ValueError: options that do not go together.
    """
    sight = sight_of(args)
    args.batch_size = args.batch_size or BATCH_SIZE[args.engine]
    if args.engine == "ours" and args.attn_implementation:
        raise ValueError("--attn_implementation is of stock code: add --engine transformers")
    if args.engine == "transformers":
        args.attn_implementation = args.attn_implementation or "eager"  # as the leaderboard runs these models
        if sight:
            raise ValueError("--engine transformers hears whole recordings only: leave the chunks out")
    return sight


def header(arms: Sequence[Arm], read_corpora: list[Corpus], sight: Sight, args: Namespace) -> dict[str, Any]:
    """Returns what and how, as the output begins."""
    return {
        "what": environment(arms),
        "how": {
            "command": provenance.command("offline.evaluate"),
            "manifests": {
                provenance.relative(source): corpora.digest(source, utterances)
                for source, _, utterances in read_corpora
            },
            "dtype": str(arms[0].model.dtype).removeprefix("torch."),
            **{name: getattr(args, name) for name in SETTINGS},
            "chunk_frames": sight.get("chunk_frames"),
            "left_context_frames": sight.get("left_context_frames"),
        },
    }


def evaluate(args: Namespace) -> tuple[dict[str, Any], list[Row]]:
    """Returns the JSON object and the rows, and has written both.

    Raises:
        ValueError: ManifestError, CheckpointError, RecordError: what cannot be used, or gone on from.
    """
    sight = settle(args)
    read_corpora = read(args)
    chosen: list[Chosen] = [(label, one) for _, label, utterances in read_corpora for one in utterances]
    arms = [Arm(model) for model in load(args)]
    record = Record(args.output_file, header(arms, read_corpora, sight, args), args.overwrite)
    if record.finished:
        print(f"{args.output_file}: measured already; --overwrite measures anew")
        return record.finished, record.rows
    measure(arms, chosen, record, sight, args)
    latencies_ms = latency(arms, [utterance for _, utterance in chosen], args.latency_clips, sight)
    results = {arm.model.name: summary(arm, record.rows, latencies_ms[arm.model.name]) for arm in arms}
    result = {**record.header, "results": results, "utterances_file": record.lines.name}
    record.finish(result)
    return result, record.rows


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when measured, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    try:
        result, rows = evaluate(args)
        texts = scoring.write_trn(rows, args.trn) if args.trn else []
    except (ValueError, OSError) as error:
        print(f"offline.evaluate: {cli.reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\noffline.evaluate: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(table(result), f"written: {', '.join(map(str, [args.output_file, *texts]))}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
