#!/bin/sh
# Makes the demo world again: texts, base, five fine-tunes. The same machine and thread count give the same bytes.
# Usage: world/make.sh [WORK]     the folder for unfinished models; run again after an interruption to go on
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
world=$root/world
work=${1:-$root/build/world}
models=$root/src/contextgraft/sources/demo
python=${PYTHON:-python}
contextgraft=${CONTEXTGRAFT:-contextgraft}
export OMP_NUM_THREADS=1

train() { # NAME BASE
    [ -d "$work/$1" ] || "$contextgraft" train \
        --config "$world/$1.yaml" --base "$2" --out "$work/$1" --threads 1
}

mkdir -p "$work"
"$python" "$world/texts.py"
"$python" "$world/initial.py" "$work/initial"
train single "$work/initial"
train base "$work/single"
"$python" "$world/extend.py" "$work/base" "$work/extended"
train zh "$work/extended"
for name in style sure facts lora; do
    train "$name" "$work/base"
done
for name in base style sure facts zh lora; do
    mkdir -p "$models/$name"
    for file in config.json contextgraft.json model.safetensors tokenizer.json tokenizer_config.json; do
        cp "$work/$name/$file" "$models/$name/$file"
    done
done
