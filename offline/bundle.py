"""Puts a trained checkpoint among the bundled models, in float16, its report beside it."""

import json
import sys

from asr import checkpoint
from offline import cli

EXAMPLE = "python -m offline.bundle --source runs/mha-2/best --name mha"


def run(source: str, name: str) -> None:
    """Write `asr/bundled/name`. Raises ValueError when the source is of the other variant."""
    model, vocabulary = checkpoint.load(source)
    if model.config.attention.kind != name:
        raise ValueError(
            f"{source} has {model.config.attention.kind} attention, it cannot be bundled as {name}"
        )
    report = json.loads((checkpoint.resolve(source) / "report.json").read_text())
    folder = checkpoint.BUNDLED / name
    model.config.extra["language"] = "en"  # the service refuses other languages where a config names one
    checkpoint.save(model, vocabulary, folder)
    report["folder_hash"] = checkpoint.folder_hash(folder)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in checkpoint.weight_files(folder))
    print(f"{folder}: {size / 1e6:.1f} MB")


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--source", required=True, help="folder that offline.train or offline.convert wrote")
    add("--name", choices=checkpoint.BUNDLED_NAMES, required=True, help="which one it becomes")
    return options


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when written, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.bundle", lambda: run(args.source, args.name))


if __name__ == "__main__":
    sys.exit(main())
