#!/usr/bin/env bash
# Makes .venv from requirements.lock, once; again only when the lock or pyproject.toml changes.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
wanted=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
[ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && exit 0

python=""
for candidate in "${PYTHON:-python3.11}" python3; do
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: expected Python 3.11 or newer as python3.11 or python3; received $(python3 --version 2>&1);" \
        "install it or call 'make PYTHON=/path/to/python3.11 ...'" >&2
    exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "setup: $python has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 2
fi

started=$(date +%s)
echo "setup: installing into .venv (torch, transformers, lm-eval, snakemake, dvc; some minutes, once)"
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
echo "$wanted" > "$stamp"
echo "setup: done in $(($(date +%s) - started)) s, $(du -sh .venv | cut -f1)"
