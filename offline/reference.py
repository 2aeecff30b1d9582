"""The reference model from the hub: fetched, converted, measured and compared, and what to serve in the end.

  1  fetch     the MHA model, once; safetensors where the repository has them
  2  convert   to runs/reference/lossless (half the cache, exact) and runs/reference/mla-75 (a quarter of it)
  3  evaluate  all three on a sample of a LibriSpeech test split
  4  compare   into runs/reference/report
  5  serve     all three, with --serve

What is done is not done again: stopped anywhere, the same command goes on. Nothing is fetched before it has said how
much, and --yes or an answer at the terminal has allowed it. Without --calibration the 75 % model minimises the weights'
error alone; with training speech it is closer (offline.convert says more).
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from asr import checkpoint
from asr.transcriber import DTYPES
from offline import cli, compare, convert, corpora, evaluate, provenance

REFERENCE = "facebook/wav2vec2-conformer-rel-pos-large-960h-ft"
REVISION = "refs/pr/3"  # the safetensors; the main branch has a .bin alone
EXAMPLE = """python -m offline.reference --yes --calibration train-clean-100 --data_dir ~/LibriSpeech
  python -m offline.reference --model_name ~/models/wav2vec2-conformer-rel-pos-large-960h-ft --revision ''"""
ARMS = ("lossless", "mla-75")
REALTIME = 6  # seconds of audio a second that 618M parameters run at on two CPU cores, in bfloat16
TEST_CLIP_S = 7.4  # mean of LibriSpeech's test-clean


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--model_name", default=REFERENCE, help="hub id, or a folder in the same format")
    add("--revision", default=REVISION, help="branch, tag or commit of a hub id; '' for its main branch")
    add("--dataset", default="test-clean", help="what to measure on, as offline.evaluate takes it")
    add("--data_dir", type=Path, help="folder of the LibriSpeech splits, where they are here already")
    add("--max_samples", type=cli.count, default=200, help="recordings of it, evenly spaced")
    add("--calibration", help="training speech for the 75 %% conversion, as offline.convert takes it")
    add("--dtype", choices=list(DTYPES), default="bfloat16", help="to measure in")
    add("--output_dir", type=Path, default=Path("runs/reference"), help="folder for all that is made")
    options.flag("--yes", default=False, help="fetch what is missing without asking")
    options.flag("--serve", default=False, help="serve all three when they are made, as `make serve` does")
    return options


def source_of(args: Namespace) -> str:
    """The model as `asr.checkpoint.resolve` takes it."""
    local = Path(args.model_name).expanduser().is_dir() or not args.revision
    return str(args.model_name) if local else f"{args.model_name}@{args.revision}"


def missing(args: Namespace) -> list[str]:
    """What would have to be fetched, with sizes. Asks the hub for the model's, if it is not in its cache."""
    found = []
    if not Path(args.model_name).expanduser().is_dir() and not checkpoint.cached(source_of(args)):
        found.append(f"{args.model_name}: {_size(args)} to the Hugging Face cache")
    if args.dataset in corpora.SPLITS and corpora.find_split(args.dataset, args.data_dir) is None:
        found.append(f"LibriSpeech {args.dataset}: {corpora.SPLITS[args.dataset]:,} MB")
    elif args.dataset.startswith("hf:") and not Path(args.dataset.split(":")[1]).expanduser().is_dir():
        found.append(f"{args.dataset}: what the hub says when asked, unless it is in the cache of `datasets`")
    return found


def _size(args: Namespace) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"{args.model_name} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        )
    try:
        info = HfApi().model_info(args.model_name, revision=args.revision or None, files_metadata=True)
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"the hub does not say what {source_of(args)} holds: {error}") from error
    weights = [file for file in info.siblings or [] if file.rfilename.endswith((".safetensors", ".bin"))]
    chosen = [file for file in weights if file.rfilename.endswith(".safetensors")] or weights
    return f"{sum(file.size or 0 for file in chosen) / 1e9:.1f} GB"


def announce(args: Namespace, to_fetch: list[str]) -> None:
    """Says what will happen, and asks where something is to be fetched. Raises ValueError when that is not allowed."""
    minutes = args.max_samples * TEST_CLIP_S * (1 + len(ARMS)) / REALTIME / 60
    print(f"Model {source_of(args)}; everything made goes to {args.output_dir} (about 5 GB at 618M).")
    print("Converting takes minutes and up to 12 GB of memory at 618M. Measuring takes about "
          f"{minutes:.0f} minutes on two CPU cores, less than one on a GPU.")  # fmt: skip
    for line in to_fetch:
        print(f"To fetch: {line}")
    if not to_fetch or args.yes:
        return
    if not sys.stdin.isatty() or input("Fetch? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was fetched; give --yes to allow it, or name what is here already")


Step = tuple[Callable[[list[str]], int], list[str]]  # a command's main, and its words


def steps(args: Namespace) -> dict[str, Step]:
    """The commands behind each step, in order; those that are done are left out. Raises as `_made_by` does."""
    source, out = source_of(args), args.output_dir
    where = ["--data_dir", str(args.data_dir)] if args.data_dir else []
    learned = ["--calibration_manifest", args.calibration, *where] if args.calibration else []
    conversions = {
        "lossless": ["--lossless"],
        "mla-75": ["--cache_reduction", "0.75", *learned],
    }
    found: dict[str, Step] = {}
    for name, how in conversions.items():
        words = ["--model_name", source, "--output_dir", str(out / name), *how]
        if not _made_by(words, out / name / "report.json"):
            # what is there without a report is of a conversion that was stopped
            found[f"convert {name}"] = convert.main, [*words, "--overwrite"]
    result = out / "results.json"
    models = [source, *(str(out / name) for name in ARMS)]
    measured = ["--model", ",".join(models), "--dataset", args.dataset, "--output_file", str(result)]
    measured += ["--max_samples", str(args.max_samples), "--dtype", args.dtype, "--download"]
    measured += where
    # It goes on by itself, and is quick when there is nothing to do.
    found["evaluate"] = evaluate.main, measured
    reported = [f"--models={','.join(f'{name}={out / name}' for name in ARMS)}"]
    found["compare"] = compare.main, [str(result), *reported, "--output_dir", str(out / "report")]
    return found


def _made_by(words: list[str], report: Path) -> bool:
    """Whether a conversion with these options is done. Raises ValueError where it was done from something else."""
    if not report.is_file():  # written last
        return False
    before = json.loads(report.read_text(encoding="utf-8"))["options"]
    wanted = provenance.tidy(vars(convert.parser().parse_args(words)))
    for name in ("model_name", "calibration_manifest"):
        if before[name] != wanted[name]:
            raise ValueError(
                f"{report.parent} was made with --{name} {before[name]}, not {wanted[name]}: "
                "remove it, or name another --output_dir"
            )
    return True


def run(args: Namespace) -> None:
    """Does all steps. Raises ValueError where one cannot be done."""
    split = args.calibration
    if split in corpora.SPLITS and corpora.find_split(split, args.data_dir) is None:
        raise ValueError(
            f"--calibration {split} is not here: unpack it and say where with --data_dir, or leave it out"
        )
    announce(args, missing(args))
    checkpoint.resolve(source_of(args))
    for name, (command, words) in steps(args).items():
        print(f"\n== {name}", flush=True)
        own, sys.argv = sys.argv, [sys.argv[0], *words]  # what its report is to say that it was called by
        try:
            code = command(words)
        finally:
            sys.argv = own
        if code:
            raise ValueError(f"{name} failed with exit code {code}; the same command goes on from here")
    if args.serve:
        os.execv(sys.executable, [sys.executable, *serving(args)])
    print(f"\nServe them all: make serve MODELS={serving(args)[-1]}")


def serving(args: Namespace) -> list[str]:
    """What Python is to run for a service of all three models: another room, started and not imported."""
    served = [f"mha={source_of(args)}", *(f"{name}={args.output_dir / name}" for name in ARMS)]
    return ["-m", "service", "--models", ",".join(served)]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when all is done, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.reference", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
