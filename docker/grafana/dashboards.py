"""Writes the dashboards that Grafana reads: `python -m docker.grafana.dashboards [folder]`.

The folder is docker/grafana/dashboards when none is given; a test compares its files with what this writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from docker.grafana.compare_board import COMPARE
from docker.grafana.gpu_board import GPU
from docker.grafana.panels import as_json
from docker.grafana.service_board import SERVICE

BOARDS = {"compare": COMPARE, "service": SERVICE, "gpu": GPU}
FOLDER = Path(__file__).parent / "dashboards"


def main(folder: Path = FOLDER) -> None:
    """Write a file for each dashboard."""
    for name, board in BOARDS.items():
        (folder / f"{name}.json").write_text(json.dumps(as_json(board), indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
