"""What a Grafana dashboard is made of: rows of panels, each with queries and how to show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
GRAFANA_SCHEMA = 41
COLUMNS = 24
HEIGHTS = {"timeseries": 8, "stat": 4, "table": 6}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HIDDEN_COLUMNS = dict.fromkeys(("Time", "Value", "__name__", "job"), True)  # of tables
MODEL_COLOURS = {"mha": "blue", "mla": "orange"}  # the same in every panel, so that one learns them once


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        title: what it shows.
        description: how to read it.
        unit: Grafana's name of the unit, such as `s`, `bytes`, `reqps`, `percentunit`, `short`.
        queries: each a PromQL expression and the legend of its series.
        kind: `timeseries`, `stat` or `table`.
        width: of 24 columns.
        warn: where yellow begins, and red; below 0 is nothing, so `(0, ...)` colours all.
        good_above: colours the other way round: red below the first, yellow below the second.
        stack: whether series lie on one another.
        top: the highest value there is, as 1 for shares.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 8
    warn: tuple[float, float] | None = None
    good_above: bool = False
    stack: bool = False
    top: float | None = None


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: its rows are titles with their panels."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Sequence[Json] = field(default_factory=list)


def choice(name: str, query: str) -> Json:
    """A variable with the values that a label has, all of them at first."""
    return {
        "type": "query",
        "name": name,
        "label": name,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def as_json(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana reads it from a file."""
    source = {"type": "datasource", "name": "datasource", "label": "data source", "query": "prometheus"}
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["mla-asr"],
        "schemaVersion": GRAFANA_SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, *dashboard.variables]},
        "links": [
            {
                "type": "dashboards",
                "tags": ["mla-asr"],
                "title": "mla-asr",
                "keepTime": True,
                "asDropdown": False,
            }
        ],
        "panels": list(_laid_out(dashboard.rows)),
    }


def _laid_out(rows: Iterable[tuple[str, Sequence[Panel]]]) -> Iterable[Json]:
    """Panels from left to right and from top to bottom, under a heading each row."""
    number, y = 1, 0
    for title, panels in rows:
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        }
        number, y, x = number + 1, y + 1, 0
        for panel in panels:
            height = HEIGHTS[panel.kind]
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            yield _panel(panel, number, {"h": height, "w": panel.width, "x": x, "y": y})
            number, x = number + 1, x + panel.width
        y += HEIGHTS[panels[-1].kind]


def _panel(panel: Panel, number: int, place: Json) -> Json:
    made: Json = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(panel, at, *query) for at, query in enumerate(panel.queries)],
        "fieldConfig": {
            "defaults": _defaults(panel),
            "overrides": [_colour(*item) for item in MODEL_COLOURS.items()],
        },
        "options": _options(panel),
    }
    if panel.kind == "table":
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": HIDDEN_COLUMNS}}]
    return made


def _target(panel: Panel, at: int, expression: str, legend: str) -> Json:
    table = panel.kind == "table"
    return {
        "refId": chr(ord("A") + at),
        "datasource": SOURCE,
        "expr": expression,
        "legendFormat": legend,
        "instant": table or panel.kind == "stat",
        "range": panel.kind == "timeseries",
        "format": "table" if table else "time_series",
    }


def _defaults(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "min": 0, "color": {"mode": "palette-classic"}}
    if panel.top is not None:
        defaults["max"] = panel.top
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 2,
            "fillOpacity": 25 if panel.stack else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.warn else "off"},
        }
    elif panel.warn:
        defaults["color"] = {"mode": "thresholds"}
    if panel.warn:
        low, high = panel.warn
        below, above = ("red", "green") if panel.good_above else ("green", "red")
        steps = [(None, below), (low, "yellow"), (high, above)]
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in steps],
        }
    return defaults


def _colour(model: str, colour: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": model},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def _options(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
    return {"showHeader": True}
