"""Compares models that were measured on the same recordings, and says in words and figures what MLA bought.

Reads result files of offline.evaluate (each with its .jsonl), two models or more, and beside them files of
offline.benchmark; --models adds the conversion reports of model folders. Every model (arm) is compared with the
baseline: the first mha model, in the same dtype and batch size where it was measured so too. Writes to --output_dir:

  report.md    word error rates with intervals and verdicts, costs, identical transcripts beside what rounding alone
               changes, breakdowns, the errors that only one model makes, and each claim of the workflow judged
  report.json  the same figures and all others: what, how, utterances, arms, comparisons, null, conversions, benchmarks,
               claims, summary, plots
  *.png *.svg  WER against cache cut, and the differences with their intervals

Intervals: paired bootstrap, clustered by sentence and by speaker (or voice). Non-inferior: the upper end of the
two-sided 95 % interval of the difference (so a one-sided 97.5 %) lies below the margin.
"""

import json
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from offline import cli, provenance
from offline.comparison import beside, claims, differences, gains, plots, report
from offline.comparison.rates import Pair, Question, Rates, factors
from offline.comparison.transcripts import Arm, ResultError, hashes, read_arms, read_json

EXAMPLE = """python -m offline.compare results/dev.json results/dev-bfloat16.json results/benchmark.json \\
      --models mla=runs/mla-75 --margin 0.1 --output_dir reports/dev"""


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("results", type=Path, nargs="+", help="JSON files of offline.evaluate and of offline.benchmark")
    add("--baseline", help="arm that the others are compared with; default: the first mha arm")
    add("--pairs", type=_pairs, default={}, help="arms to compare with another: healed=mha-trained-on,...")
    add("--models", type=_pairs, default={}, help="conversions to report: name=folder,...")
    add("--margin", type=cli.positive, default=0.1, help="of WER, in percent points, that counts as equal")
    add("--margins", type=_margins, default={}, help="of arms that have one of their own: name=0.7,...")
    add(
        "--resamples",
        type=cli.count,
        default=10_000,
        help="draws of the bootstrap and of the permutation test",
    )
    add("--seed", type=cli.natural, default=0, help="of those draws; the same seed, the same report")
    add("--output_dir", type=Path, required=True, help="folder to write the report to")
    return options


def _pairs(text: str) -> dict[str, str]:
    """Parses "a=b,c=d"."""
    found: dict[str, str] = {}
    for part in cli.names(text):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ArgumentTypeError(f"{part!r} is not of the form name=value")
        if name in found:
            raise ArgumentTypeError(f"{name!r} is there twice, with {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _margins(text: str) -> dict[str, float]:
    """Parses "a=0.2,b=0.7"."""
    return {name: cli.positive(value) for name, value in _pairs(text).items()}


def read(paths: list[Path]) -> tuple[list[Arm], dict[Path, Any]]:
    """Returns the arms of all evaluations, and the benchmarks by file. Raises ResultError."""
    contents = {path: read_json(path) for path in paths}
    for path, content in contents.items():
        if not isinstance(content, dict) or not isinstance(content.get("results"), dict | list):
            raise ResultError(f"{path}: neither a result of offline.evaluate nor of offline.benchmark")
    evaluated = {path: content for path, content in contents.items() if isinstance(content["results"], dict)}
    arms = read_arms(evaluated)
    if len(arms) < 2:
        raise ResultError(
            f"{len(arms)} arm(s) to compare in {', '.join(map(str, paths))}; give results of two models or more"
        )
    return arms, {path: content for path, content in contents.items() if path not in evaluated}


def find(name: str, arms: list[Arm]) -> Arm:
    """Returns the arm of this name, or the only one of this model. Raises ResultError, which lists the choices."""
    found = [arm for arm in arms if arm.name == name] or [arm for arm in arms if arm.model == name]
    if len(found) == 1:
        return found[0]
    problem = "several arms are" if found else "no arm is"
    raise ResultError(f"{problem} called {name!r}; choices: {', '.join(arm.name for arm in arms)}")


def baseline_of(name: str | None, arms: list[Arm]) -> Arm:
    """Returns the named arm, or the first of multi-head attention. Raises ResultError."""
    if name is not None:
        return find(name, arms)
    first = next((arm for arm in arms if arm.kind == "mha"), None)
    if first is None:
        names = ", ".join(arm.name for arm in arms)
        raise ResultError(f"no mha arm to compare with; name a --baseline: {names}")
    return first


def pairs_of(arms: list[Arm], baseline: Arm, more: dict[str, str]) -> list[Pair]:
    """Returns each arm with the baseline, or with the same model as that one in the arm's own settings; and --pairs."""
    found = [(arm, _partner(arm, arms, baseline)) for arm in arms if arm is not baseline]
    for name, other in more.items():
        pair = find(name, arms), find(other, arms)
        if pair[0] is pair[1]:
            raise ResultError(f"--pairs {name}={other} compares an arm with itself")
        found += [pair] if pair not in found else []
    return found


def _partner(arm: Arm, arms: list[Arm], baseline: Arm) -> Arm:
    if differences.same_model(arm, baseline):
        return baseline
    twins = [
        other
        for other in [baseline, *arms]
        if other is not arm
        and other.folder_hash == baseline.folder_hash is not None
        and other.settings == arm.settings
    ]
    in_the_same_run = [other for other in twins if other.content is arm.content]
    return next(iter(in_the_same_run or twins), baseline)


def compare(args: Namespace) -> dict[str, Any]:
    """Returns the content of report.json. Raises ResultError and ValueError for what cannot be used."""
    arms, benchmarks = read(list(dict.fromkeys(args.results)))
    baseline = baseline_of(args.baseline, arms)
    question = Question(
        baseline,
        pairs_of(arms, baseline, args.pairs),
        args.margin,
        {find(name, arms).name: margin for name, margin in args.margins.items()},
        args.resamples,
        args.seed,
    )
    rates = Rates(arms, question)
    comparisons = [differences.compare(*pair, rates) for pair in question.pairs]
    differences.adjust(comparisons)
    found: dict[str, Any] = {
        "what": {
            "git_commit": provenance.git_commit(),
            "versions": provenance.versions("numpy", "jiwer", "matplotlib"),
            "files": hashes(args.results),
        },
        "how": {
            "command": provenance.command("offline.compare"),
            "baseline": baseline.name,
            **{name: getattr(args, name) for name in ("margin", "margins", "resamples", "seed")},
            "clustered_by": list(factors(arms[0].lines)),
        },
        "utterances": _utterances(arms[0], rates),
        "arms": {arm.name: differences.describe(arm, question, rates) for arm in arms},
        "comparisons": comparisons,
        "null": differences.null_pairs(arms),
        "conversions": {name: beside.conversion(folder) for name, folder in args.models.items()},
        "benchmarks": [beside.benchmark(path, content) for path, content in benchmarks.items()],
    }
    return {**found, "claims": claims.judge(found), "summary": gains.summarise(found)}


def _utterances(arm: Arm, rates: Rates) -> dict[str, Any]:
    return {
        "count": len(arm.lines),
        "words": int(rates.words.sum()),
        "audio_s": round(sum(line.get("duration_s") or 0.0 for line in arm.lines), 2),
        "distinct": {name: len(set(labels)) for name, labels in factors(arm.lines).items()},
        "manifests": sorted({str(line.get("manifest", "")) for line in arm.lines}),
    }


def write(found: dict[str, Any], folder: Path) -> None:
    """Writes report.json, report.md and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    found["plots"] = plots.draw(found, folder)
    (folder / "report.json").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "report.md").write_text(report.markdown(found), encoding="utf-8")


def run(args: Namespace) -> None:
    """Compares, writes, and shows the main table. Raises ResultError and ValueError for what cannot be used."""
    found = compare(args)
    write(found, args.output_dir)
    print(report.error_rates(found))
    print(f"written: {args.output_dir / 'report.md'}, report.json, {', '.join(found['plots'])}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when compared, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.compare", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
