#!/usr/bin/env bash
# Makes requirements.lock again: what pip resolves today for pyproject.toml, pinned.
# Local build tags (torch's "+cpu") are dropped, so that the same pin gives a machine with CUDA its CUDA build.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check ".[workflow,dev]"
{
    echo "# Made by scripts/lock.sh from pyproject.toml. Install with: pip install --requirement requirements.lock"
    "$work/venv/bin/python" -m pip freeze --exclude contextgraft | sed -E 's/\+cpu$//' | sort --ignore-case
} > requirements.lock
