#!/usr/bin/env bash
# Makes .venv from requirements.lock or requirements-cuda.lock, whose hashes are checked; does nothing where that was done already.
# A .venv is made anew if its installation was interrupted, if it was moved from another folder, or if its Python is
# gone, was replaced by another version, or is not of the version of $PYTHON. A .venv that is a link may be used by
# several checkouts: nothing is installed into the environment of another one, the package is installed again if the
# checkout that it was installed from is gone, and only the link is removed if the environment cannot be used.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed # three lines: where the environment was made, of which locks, and of which checkout
checkout=$(pwd -P)
place=$(realpath -m .venv)
locks=(requirements*.lock)
wanted=$(cat "${locks[@]}" pyproject.toml | sha256sum | cut -d' ' -f1)
recorded() { sed -n "$1p" "$stamp" 2>/dev/null || true; }
version() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || echo "does not start"; }
# Another minor version of the same interpreter does not find the packages, pip among them.
usable() {
    [ "$(recorded 1)" = "$place" ] && .venv/bin/python -c "import pip" 2>/dev/null &&
        { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version .venv/bin/python)" ]; }
}
# The other checkout that has the environment of a linked .venv; empty if none has it.
owner() {
    [ ! -L .venv ] || for folder in "$origin" "$(dirname "$place")"; do
        [ "$folder" = "$checkout" ] || [ ! -e "$folder/pyproject.toml" ] || { echo "$folder" && return; }
    done
}

exec 9<scripts/setup.sh # a second setup waits for the first
! command -v flock >/dev/null || flock 9 2>/dev/null || true
origin=$(recorded 3)
origin=${origin:-$checkout} # stamps of earlier versions have two lines
if [ "$(recorded 2)" = "$wanted" ] && usable && [ -e "$origin/pyproject.toml" ]; then
    [ "$origin" = "$checkout" ] ||
        echo "setup: .venv is a link to an environment that runs the package of $origin" >&2
    exit 0
fi

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

install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }

started=$(date +%s)
if usable; then
    other=$(owner)
    if [ -n "$other" ]; then
        echo "setup: .venv is a link to the environment of $other, which does not fit this checkout;" \
            "run 'rm .venv && make setup' for an environment of its own, or 'make setup' there" >&2
        exit 2
    fi
    echo "setup: the locks, pyproject.toml or the checkout's folder changed; bringing .venv up to date"
    rm -f "$stamp"
else
    [ ! -e .venv ] || echo "setup: .venv is unfinished, was moved here or has another Python; making it anew"
    [ ! -L .venv ] || rm .venv # what it leads to may be someone else's
    echo "setup: installing into .venv (torch, transformers, lm-eval, snakemake, dvc; some minutes, once)"
    rm -f "$stamp"
    place=$(realpath -m .venv)
    "$python" -m venv --clear .venv
fi
lock=requirements.lock # for torch's CPU build; where pip finds another build, that one's
torch=$(grep -o '^torch==[^ ]*' "$lock" || true)
if [ -n "$torch" ] && [ -e requirements-cuda.lock ]; then
    install --dry-run --ignore-installed --report - "$torch" 2>/dev/null | grep -q '"version": "[^"]*+cpu"' ||
        lock=requirements-cuda.lock
fi
install --require-hashes --requirement "$lock"
install --editable .
printf '%s\n' "$place" "$wanted" "$checkout" >"$stamp"
echo "setup: done in $(($(date +%s) - started)) s, $(du -sh .venv | cut -f1)"
