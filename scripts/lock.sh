#!/usr/bin/env bash
# lock.sh [--upgrade]: makes requirements.lock and requirements-cuda.lock from pyproject.toml, every pin with its hashes.
# Pins that still fit stay as they are; with --upgrade all are resolved anew, except torch, which is pinned here.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.13"

echo "torch==$TORCH" >"$work/constraints.txt"
[ "${1:-}" = --upgrade ] || grep -oE '^[^ #]+==[^ ]+' requirements-cuda.lock >"$work/compiled.txt"
"$work/venv/bin/uv" pip compile pyproject.toml --quiet --all-extras --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --constraint "$work/constraints.txt" --output-file "$work/compiled.txt" >/dev/null
# torch's CPU build has the same version as the file on the index and another hash
"$work/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "torch==$TORCH"
"$work/venv/bin/python" scripts/split_lock.py "$work/compiled.txt" "$work"/torch-*.whl
