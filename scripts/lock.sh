#!/usr/bin/env bash
# lock.sh [--upgrade]: makes every lock, each pin with its hashes. requirements.lock and requirements-cuda.lock come from
# pyproject.toml; FILE.lock of what only tests and the study on SmolLM2 install comes from FILE.in next to it.
# Pins that still fit stay as they are; with --upgrade all are resolved anew, except torch, which is pinned here.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement scripts/resolver.lock
compile() {
    "$work/venv/bin/uv" pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate "$@" >/dev/null
}

echo "torch==$TORCH" >"$work/constraints.txt"
[ "${1:-}" = --upgrade ] || grep -oE '^[^ #]+==[^ ]+' requirements-cuda.lock >"$work/compiled.txt"
compile pyproject.toml --all-extras --constraint "$work/constraints.txt" --output-file "$work/compiled.txt"
# torch's CPU build has the same version as the file on the index and another hash
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "torch==$TORCH"
"$python" scripts/split_lock.py "$work/compiled.txt" "$work"/torch-*.whl

# each is an addition to requirements.lock, an environment of its own, or a package without what it requires
grep -oE '^[^ #]+==[^ ]+' requirements.lock >"$work/constraints.txt"
mapfile -t locked < <(sed -E 's/==.*//; s/^/--no-emit-package=/' "$work/constraints.txt")
for source in tests/dvc/requirements.in envs/docs.in; do
    compile "$source" --constraint "$work/constraints.txt" "${locked[@]}" --output-file "${source%.in}.lock" "$@"
done
for source in tests/consumers/locks/*.in envs/smollm2.in scripts/resolver.in; do
    without=(--no-deps)
    [[ $source != */transformers-* ]] || without=()
    compile "$source" "${without[@]}" --output-file "${source%.in}.lock" "$@"
done
