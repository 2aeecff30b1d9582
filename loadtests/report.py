"""Write the report of a sweep: Markdown, HTML, PNG and JSON, all made of the kept samples.

    python -m loadtests.report runs/loadtest --output_dir results/loadtest
    python -m loadtests.report runs/loadtest --output_dir results/loadtest --against results/earlier/report.json

`python -m loadtests.sweep` does it at its end; this makes it anew, also of a sweep that is not finished. With --against
it says how far the medians of the two agree.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from loadtests import analysis, plots
from loadtests.cli import Parser
from loadtests.document import html, markdown
from loadtests.figures import Figures as Row
from loadtests.figures import row
from loadtests.sections import blocks
from loadtests.store import Store, StoreError


def write(store: Store, folder: Path, earlier: Row | None = None) -> list[Path]:
    """Write the report of what is finished; the files.

    Raises StoreError where nothing is.
    """
    result = analyse(store, earlier)
    folder.mkdir(parents=True, exist_ok=True)
    chunks_s = [model["chunk_s"] for model in result["carries"].values() if model["chunk_s"]]
    goal_s = result["how"]["goal"]["p95_s"]
    goals = {"closed": goal_s, "open": goal_s, "streams": min(chunks_s, default=None)}
    pictures = plots.draw(result["levels"], goals, folder)
    page = blocks(result, pictures)
    texts = {
        "report.json": json.dumps(result, indent=1) + "\n",
        "report.md": markdown(page),
        "report.html": html(page, folder),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in (*texts, *pictures)]


def read_earlier(file: Path | None) -> Row | None:
    """The report.json of an earlier sweep, if any is given.

    Raises ValueError, or OSError, for a file that is none.
    """
    if file is None:
        return None
    try:
        earlier: Row = json.loads(file.read_text(encoding="utf-8"))
        analysis.agreement([], earlier["levels"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--against {file}: it is no report.json of a sweep") from None
    return earlier


def analyse(store: Store, earlier: Row | None = None) -> dict[str, Any]:
    """All that the report says, as JSON holds it."""
    goal = (store.how["goal"]["p95_s"], store.how["goal"]["p99_s"])
    cells = list(store.cells())
    if not cells:
        raise StoreError(f"{store.folder}: no measurement in it is finished")
    kept = [store.read(cell) for cell in cells]
    rows = [row(record, samples, goal) for record, samples in kept]
    cards = _cards([record for record, _ in kept], list(store.how["models"]))
    levels = analysis.levels(rows)
    baseline, *others = cards
    return {
        "what": {
            **(store.noted("what") or {}),
            "build": store.noted("build"),
            "models": list(cards.values()),
        },
        "how": store.how,
        "levels": levels,
        "carries": analysis.carries(rows, cards),
        "ratios": {model: analysis.ratios(rows, model, baseline) for model in others},
        "texts": texts([(record["cell"], samples) for record, samples in kept]),
        "agreement": {
            "First and second half of the repeats": analysis.halves(rows),
            "Earlier run": analysis.agreement(levels, earlier["levels"]) if earlier else None,
        },
    }


def _cards(records: list[Row], names: list[str]) -> dict[str, Row]:
    """What the service said of each model, in the order of the command line; with the places of the loaded service.

    Raises StoreError where a name stood for several models in the course of the sweep.
    """
    weights: dict[str, set[str]] = {}
    for card in (card for record in records for card in record["models"]):
        weights.setdefault(card["id"], set()).add(card.get("sha256", ""))
    several = [name for name, hashes in weights.items() if len(hashes) > 1]
    if several:
        raise StoreError(f"{several[0]} had several weights in the course of the sweep: measure it anew")
    rank = {"memory": 1}  # there the places are few on purpose
    cards: dict[str, Row] = {}
    for record in sorted(records, key=lambda record: -rank.get(record["cell"]["kind"], 0)):
        cards |= {card["id"]: card for card in record["models"]}
    return {name: cards[name] for name in names if name in cards}


def texts(cells: list[tuple[Row, list[Row]]]) -> dict[str, Row]:
    """By model, how many of the clips sent to the offline routes were not given the same text every time."""
    heard: dict[str, dict[str, set[str]]] = {}
    for cell, samples in cells:
        for sample in samples if cell["kind"] in ("closed", "open") else []:
            if sample["status"] == 200:
                heard.setdefault(cell["model"], {}).setdefault(sample["clip"], set()).add(sample["text"])
    return {
        model: {"clips": len(clips), "with_several_texts": sum(len(said) > 1 for said in clips.values())}
        for model, clips in heard.items()
    }


def parser() -> Parser:
    options = Parser("loadtests.report", __doc__)
    add = options.add_argument
    add("work_dir", type=Path, help="where a sweep has kept its measurements")
    add("--output_dir", type=Path, required=True, help="where the report goes")
    add("--against", type=Path, help="report.json of an earlier sweep")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when the report is written, 2 for what cannot be used."""
    options = parser().parse(argv)
    try:
        written = write(Store.found(options.work_dir), options.output_dir, read_earlier(options.against))
    except (StoreError, OSError, ValueError) as error:
        parser().error(str(error))
    print(*(f"written: {file}" for file in written), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
