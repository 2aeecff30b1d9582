#!/usr/bin/env bash
# Writes docker/requirements-*.txt: every package of the images, with its version and the hashes of its files.
#
#   make lock                  the newest versions that pyproject.toml and constraints.txt allow
#   WHEELS=wheels make lock    without download.pytorch.org: the CPU build of torch lies in the folder wheels/
#
# For x86_64 and Python 3.11, which the Dockerfiles use. Needs uv (in .venv with `make setup`) and a package index.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"

extra() { # the packages of one of pyproject.toml's extras, without the project's own
  "$PYTHON" -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["optional-dependencies"][sys.argv[1]], sep="\n")' "$1"
}

lock() { # name of the file, then what uv needs besides
  local target="docker/requirements-$1.txt" made
  shift
  made=$("$PYTHON" -m uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-header \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraints constraints.txt "$@")
  { echo "# Written by docker/lock.sh (make lock); not to be edited."; echo "$made"; } > "$target"
  echo "written: $target"
}

SERVICE=(pyproject.toml --extra service --extra av --extra hub)
lock cuda "${SERVICE[@]}"
if [ -n "${WHEELS:-}" ]; then
  lock cpu "${SERVICE[@]}" --find-links "$WHEELS"
else
  lock cpu "${SERVICE[@]}" --torch-backend cpu
fi
lock loadtests - < <(extra loadtests)
lock build - <<< "hatchling>=1.26"
