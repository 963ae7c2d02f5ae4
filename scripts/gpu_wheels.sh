#!/usr/bin/env bash
# Downloads into .wheels what a machine with PyTorch, transformers, PEFT, pyarrow and no network lacks (bench/gpu), in the
# versions of requirements.lock, and checks that repository and wheels together are at most 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."

names=(blake3 pydantic pydantic-core annotated-types typing-inspection typing-extensions click peft)
python_version=${PYTHON_VERSION:-3.12}
limit=$((64 * 1024 * 1024))

pins=()
for name in "${names[@]}"; do
    pins+=("$(grep -oE "^$name==[^ ]+" requirements.lock)")
done
rm -rf .wheels
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --implementation cp --python-version "$python_version" --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest .wheels "${pins[@]}"
wheels=$(du -cb .wheels/*.whl | tail -1 | cut -f1)
tree=$(git ls-files -z | xargs -0 du -cb | tail -1 | cut -f1)
echo "gpu-wheels: ${#pins[@]} wheels, $((wheels / 1024)) KiB; repository $((tree / 1024)) KiB; limit $((limit / 1024)) KiB"
[ $((wheels + tree)) -le "$limit" ] || { echo "gpu-wheels: too large to carry" >&2; exit 1; }
