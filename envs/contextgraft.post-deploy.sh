#!/usr/bin/env bash
# Run by Snakemake inside a new environment, in the working folder: the repository's root, or a folder that snakedeploy made,
# which has no package in it.
set -euo pipefail
if [ -f pyproject.toml ]; then
    source=.
else
    source=${CONTEXTGRAFT_SOURCE:?set it to what pip can install, such as git+ADDRESS@TAG of the repository (docs/workflow.md)}
fi
python -m pip install --no-deps "$source"
