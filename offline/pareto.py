"""Answers whether a compressed cache beats a shorter window that takes the same memory, from measured figures.

The rival of a latent that keeps a quarter of K and V for 30 s is K and V for 7.5 s. So every way to keep a stream's
past becomes a point of three figures: WER, from `offline.evaluate --profile` (arms such as mla@640ms/10s/int8), and
bytes a stream and step time, from `offline.benchmark stream`. The two may be of different shapes, the bundled model's
words and the 618M shape's bytes: the share of K and V that a cache keeps, its type, chunk and window join them.

--output_dir gets report.md (verdicts, tables), report.json (the same as data) and two pictures. An interval of a
difference needs the transcripts beside the evaluation; without them no verdict goes beyond "undecided".
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from offline import cli, provenance
from offline.isomemory import report
from offline.isomemory.plots import draw
from offline.isomemory.points import Costs, Point, points
from offline.isomemory.verdicts import Verdict, dominated, verdicts, what_context_buys

EXAMPLE = """python -m offline.pareto results/streaming.json --benchmark results/benchmark-stream-large.json \\
      --output_dir reports/streaming"""


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add(
        "evaluations",
        nargs="+",
        type=Path,
        help="files of offline.evaluate --profile, over the same utterances",
    )
    add(
        "--benchmark",
        type=Path,
        required=True,
        help="file of offline.benchmark stream, with the same profiles",
    )
    add(
        "--streams",
        type=cli.count,
        help="in the step whose time counts; default: the most that all arms have",
    )
    add("--output_dir", type=Path, required=True, help="folder to write to")
    return options


def as_json(
    found: list[Point], judged: list[Verdict], left_out: list[str], args: Namespace
) -> dict[str, Any]:
    """Returns everything that the report says, as data."""
    files = [*args.evaluations, args.benchmark]
    return {
        "what": {"git_commit": provenance.git_commit(), "inputs": provenance.hashes(files)},
        "how": {"command": provenance.command("offline.pareto"), "streams": found[0].streams},
        "points": [
            point.to_json()
            | {
                "on_front": not dominated(point, found),
                "best_for_its_bytes": not dominated(point, found, time=False),
            }
            for point in found
        ],
        "context": [
            {
                "from": row["from"],
                "to": row["to"],
                "wer_difference": row["gap"].wer,
                "interval_95": row["gap"].interval,
            }
            for row in what_context_buys(found)
        ],
        "verdicts": [verdict.to_json() for verdict in judged],
        "left_out": left_out,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when written, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.pareto", lambda: write(args))


def write(args: Namespace) -> None:
    """Writes the report, and prints its answer. Raises InputError."""
    costs = Costs(args.benchmark, args.streams)
    found, left_out = points(args.evaluations, costs)
    judged = verdicts(found)
    sources = [provenance.relative(file) for file in (*args.evaluations, args.benchmark)]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    text = report.markdown(found, judged, costs, sources, left_out)
    (args.output_dir / "report.md").write_text(text, encoding="utf-8")
    whole = json.dumps(as_json(found, judged, left_out, args), indent=1)
    (args.output_dir / "report.json").write_text(whole + "\n", encoding="utf-8")
    pictures = draw(found, args.output_dir)
    print("\n\n".join(report.answer(found, judged)))
    print(f"written: {args.output_dir}: report.md, report.json, {', '.join(pictures)}")


if __name__ == "__main__":
    sys.exit(main())
