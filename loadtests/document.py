"""A report as blocks, written as Markdown, and as one HTML file that holds its pictures; figures as text."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{border:1px solid #bbb;padding:.2rem .5rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}"
)


@dataclass(frozen=True)
class Heading:
    text: str
    depth: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    """The first column is of names, the others of numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    file: str
    about: str


Block = Heading | Paragraph | Table | Picture


def markdown(blocks: Sequence[Block]) -> str:
    """All blocks, parted by empty lines."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, depth):
            return f"{'#' * depth} {text}"
        case Paragraph(text):
            return text
        case Picture(file, about):
            return f"![{about}]({file})"
        case Table(head, rows):
            ruler = ["---"] + ["---:"] * (len(head) - 1)
            return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))


def html(blocks: Sequence[Block], folder: Path) -> str:
    """A page that needs no other file; the pictures lie in `folder`."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(_html(block, folder) for block in blocks)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, depth):
            return f"<h{depth}>{escape(text)}</h{depth}>"
        case Paragraph(text):
            marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
            return f"<p>{marked}</p>"
        case Picture(file, about):
            bits = base64.b64encode((folder / file).read_bytes()).decode()
            return f'<p><img alt="{escape(about)}" src="data:image/png;base64,{bits}"></p>'
        case Table(head, rows):
            lines = [_cells(head, "th"), *(_cells(row, "td") for row in rows)]
            return "<table>\n" + "\n".join(lines) + "\n</table>"


def _cells(row: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"


def number(value: float | None, digits: int = 1, factor: float = 1.0) -> str:
    """As it is shown; a dash for nothing."""
    return "-" if value is None else f"{value * factor:,.{digits}f}"


def spread(values: Mapping[str, float | None] | None, digits: int = 1, factor: float = 1.0) -> str:
    """A median, with lowest and highest where they differ from it."""
    if not values or values["median"] is None:
        return "-"
    middle, low, high = (number(values[name], digits, factor) for name in ("median", "low", "high"))
    return middle if low == middle == high else f"{middle} [{low}, {high}]"


def percent(found: Mapping[str, float | None] | None) -> str:
    """An error rate."""
    return "-" if not found or found["percent"] is None else f"{found['percent']:.1f}%"
