"""Measures models on recordings with known words: error rates, speed, memory, and every transcript.

The recordings: a LibriSpeech split by its name, a manifest, a table, a LibriSpeech or Kaldi folder, or
hf:dataset:split (offline/corpora.py says more); with --join_s short ones are joined to long ones. The models: bundled
names, checkpoint folders, hub ids, mha or mla. They take turns batch by batch, so that a busy machine disturbs them
alike. A killed run goes on where it stood when the same command is given again.

Whole recordings, or what a live stream would say: --chunk_ms, or with --profile several ways to hear in one run, each
model under each an arm of its own, mla@640ms/10s and so on. Streams run through the streaming operator, as they are
served, a batch of them in one cache. A profile is one of

  full                     whole recordings; the arm is called by its model alone
  fast, balanced, long     what the service calls so: 200+120x5, 480+160x10, 480+160x30
  640x10                   chunks of 640 ms, each with the 10 s before it
  480+160x10               chunks of 480 ms; what is in them is said when 160 ms more have been heard, so nothing
                           waits longer than with chunks of 640, but a third more steps are made
  640x10/int8              the same with its cache in int8; --cache_dtype model,int8 gives all streams in both
  naive-640x10             without a cache: every chunk and the 10 s before it run anew, as a clip of its own

Their scores become text greedily, or by --decoding in several ways in one run, each an arm: mla+beam, mla+beam+lm.

--output_file X.json is one object; X.jsonl beside it holds a line for each utterance (offline/evaluation/records.py):

  what      git_commit, device, machine, threads, versions, and per arm: model, profile, chunk_frames,
            left_context_frames, lookahead_frames (where there are any), folder, folder_hash (SHA-256 of the weights),
            attention, method (of its conversion), parameters, weight_bytes, cached_values_per_frame,
            cache_bytes_per_second; bytes_per_stream (allocated) of a stream
  how       command, manifests (name: SHA-256), and the settings
  results   per arm: total, and by_domain, by_engine, by_voice, by_manifest (name: figures). Figures: utterances,
            words, audio_s, wer (upper case), wer_95 (bounds, bootstrap over utterances: of these voices and sentences;
            offline.compare's are wider, as it draws those anew, too), wer_normalised (by Whisper's English rules, see
            offline/scoring.py), cer: percent, corpus level; substitutions, deletions, insertions.
            speed: rtfx (as the Open ASR Leaderboard has it: all seconds of audio by all seconds of work, waves in
            memory to text, files and warm-up left out; but here clips of like length run together), rtfx_quartiles
            (over batches), rtfx_model (first convolution to scores alone), inference_s, latency_ms (p50 and p95 of
            single clips, waves to text; null when not asked).
            memory: peak_process_bytes (resident, the whole process with all models) or, on a GPU,
            peak_allocated_bytes and peak_reserved_bytes (of this arm's batches, all loaded models' weights in it)
            changed_frames of streams with --check_frames: frames, changed (other likeliest token than in the
            chunk-masked whole forward, both in the run's dtype), share, greatest_log_prob_difference
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
from offline.evaluation import decodings, joined, profiles
from offline.evaluation.changes import changed_frames
from offline.evaluation.measure import Arm, Chosen, arms_of, environment, latency, load, measure
from offline.evaluation.overview import markdown
from offline.evaluation.profiles import Profile
from offline.evaluation.records import Record
from offline.evaluation.summary import summary, table
from offline.scoring import Row

EXAMPLE = """python -m offline.evaluate --model mha,mla --dataset test-clean --data_dir ~/LibriSpeech \\
      --batch_size 8 --output_file results/test-clean.json
  python -m offline.evaluate --model mla --manifest tests/speech/test-seen-voices.jsonl --chunk_ms 320 \\
      --left_context_s 10 --output_file results/live.json
  python -m offline.evaluate --model mha,mla --manifest tests/speech/test-seen-voices.jsonl --join_s 60 \\
      --profile full,640x10,640x2,naive-640x10 --output_file results/streams.json --plot results/streams.png"""
PICTURES = (".png", ".svg")
BATCH_S, JOINED_IN_A_BATCH = 60.0, 8
LATENCY_CLIPS = 20
BATCH_SIZE = {"ours": 64, "transformers": 1}
SETTINGS = (
    "engine",
    "attn_implementation",
    "batch_seconds",
    "batch_size",
    "max_samples",
    "latency_clips",
    "join_s",
    "check_frames",
)
SEARCH = ("decoding", "beam", "alpha", "beta", "hot_words", "boost")


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
    decodings.add_options(options)
    ways = f"{', '.join(profiles.CHOICES)}: a,b"
    add("--profile", type=cli.names, metavar="NAME", help=f"ways to hear, each an arm: {ways}")
    caches = "of streams: model (the model's own), int8, or both: a,b"
    add("--cache_dtype", type=cli.names, default=["model"], metavar="NAME", help=caches)
    long = f"join recordings, with {joined.PAUSE_S:g} s of silence in between, to at least so many seconds"
    add("--join_s", type=cli.positive, help=long)
    padded = "padded audio in one batch; default: 60, or eight joined recordings"
    add("--batch_seconds", type=cli.positive, help=padded)
    add("--batch_size", type=cli.count, help="most recordings in one batch; default: 64, stock code 1")
    streamed = "as in a live stream with chunks of so many ms; a multiple of 20"
    add("--chunk_ms", type=cli.positive, help=streamed)
    add("--chunk_frames", type=cli.count, help="the same in frames of 20 ms")
    add("--left_context_s", type=float, help="seconds that a chunk sees before it; default: 10")
    add("--left_context_frames", type=cli.natural, help="the same in frames of 20 ms")
    engine = "stock transformers instead of ours, mha only: the outside check (alone, as its padding leaks)"
    add("--engine", choices=list(BATCH_SIZE), default="ours", help=engine)
    add("--attn_implementation", choices=list(stock.IMPLEMENTATIONS), help="of stock code; default: eager")
    single = (
        f"clips to time one by one; 0 for none; default: {LATENCY_CLIPS}, none with --profile or --join_s"
    )
    add("--latency_clips", type=cli.natural, help=single)
    check = (
        "clips (their first 30 s) whose streamed frames are compared with the chunk-masked whole forward's"
    )
    add("--check_frames", type=cli.count, metavar="CLIPS", help=check)
    add(
        "--plot",
        type=Path,
        metavar="PNG",
        help="WER against context as a picture, a table as Markdown beside it",
    )
    add("--dtype", choices=list(DTYPES), help="default: float32 on CPU, bfloat16 on GPU")
    add("--device", help="cpu or cuda; default: cuda when there is one")


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
        some = corpora.evenly(scored, args.max_samples)
        read_corpora.append(
            Corpus(source, label, list(joined.join(some, args.join_s)) if args.join_s else some)
        )
    return read_corpora


def settle(args: Namespace) -> list[Profile]:
    """Fills in the defaults that hang on other options; returns the ways to hear.

    Raises:
        ValueError: options that do not go together.
    """
    chosen = profiles.chosen(args)
    args.batch_size = args.batch_size or BATCH_SIZE[args.engine]
    args.batch_seconds = args.batch_seconds or max(BATCH_S, JOINED_IN_A_BATCH * (args.join_s or 0))
    if args.latency_clips is None:
        args.latency_clips = 0 if args.profile or args.join_s else LATENCY_CLIPS
    if args.engine == "ours" and args.attn_implementation:
        raise ValueError("--attn_implementation is of stock code: add --engine transformers")
    if args.engine == "transformers":
        args.attn_implementation = args.attn_implementation or "eager"  # as the leaderboard runs these models
        if args.decoding != [decodings.GREEDY]:
            raise ValueError("--engine transformers decodes greedily only: leave --decoding out")
        if chosen != [profiles.FULL]:
            raise ValueError("--engine transformers hears whole recordings only: leave the chunks out")
    if args.check_frames and not any(profile.streamed for profile in chosen):
        raise ValueError("--check_frames is of live streams: give --profile or --chunk_ms, too")
    if args.plot and args.plot.suffix not in PICTURES:
        raise ValueError(f"--plot {args.plot}: a picture's name ends in {' or '.join(PICTURES)}")
    if args.plot and chosen == [profiles.FULL]:
        raise ValueError("--plot shows streams: give --profile or --chunk_ms, too")
    return chosen


def header(arms: Sequence[Arm], read_corpora: list[Corpus], args: Namespace) -> dict[str, Any]:
    """Returns what and how, as the output begins."""
    only = arms[0].profile if len({arm.profile for arm in arms}) == 1 else profiles.FULL
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
            **({name: getattr(args, name) for name in SEARCH} if args.decoding != [decodings.GREEDY] else {}),
            **({"pause_s": joined.PAUSE_S, "seed": joined.SEED} if args.join_s else {}),
            "chunk_frames": only.chunk_frames,
            "left_context_frames": None if only.chunk_frames is None else only.left_context_frames,
            **({"lookahead_frames": only.lookahead_frames} if only.lookahead_frames else {}),
        },
    }


def evaluate(args: Namespace) -> tuple[dict[str, Any], list[Row]]:
    """Returns the JSON object and the rows, and has written both.

    Raises:
        ValueError: ManifestError, CheckpointError, RecordError: what cannot be used, or gone on from.
    """
    ways, searches = settle(args), decodings.chosen(args)
    read_corpora = read(args)
    chosen: list[Chosen] = [(label, one) for _, label, utterances in read_corpora for one in utterances]
    named = bool(args.profile) or len(ways) > 1 or ways[0].int8
    arms = arms_of(load(args), ways, named=named, ways=searches)
    record = Record(args.output_file, header(arms, read_corpora, args), args.overwrite)
    if record.finished:
        print(f"{args.output_file}: measured already; --overwrite measures anew")
        return record.finished, record.rows
    measure(arms, chosen, record, args)
    utterances = [utterance for _, utterance in chosen]
    latencies_ms = latency(arms, utterances, args.latency_clips)
    results = {arm.name: summary(arm, record.rows, latencies_ms[arm.name]) for arm in arms}
    for name, changed in changed_frames(arms, utterances, args.check_frames or 0).items():
        results[name]["changed_frames"] = changed
    result = {**record.header, "results": results, "utterances_file": record.lines.name}
    record.finish(result)
    return result, record.rows


def draw(result: dict[str, Any], file: Path) -> list[Path]:
    """Writes WER against context as a picture, and the table beside it as Markdown; returns both files.

    Raises:
        ValueError: the result was measured before arms had profiles.
    """
    if not all("profile" in facts for facts in result["what"]["models"].values()):
        raise ValueError(
            "an older result, which does not say how its models heard; --overwrite measures anew"
        )
    from offline.evaluation import picture  # matplotlib, which nothing else here needs

    picture.draw(result, file)
    beside = file.with_suffix(".md")
    beside.write_text(markdown(result), encoding="utf-8")
    return [file, beside]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when measured, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    try:
        result, rows = evaluate(args)
        written = [args.output_file, *(scoring.write_trn(rows, args.trn) if args.trn else [])]
        written += draw(result, args.plot) if args.plot else []
    except (ValueError, OSError) as error:
        print(f"offline.evaluate: {cli.reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\noffline.evaluate: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(table(result), f"written: {', '.join(map(str, written))}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
