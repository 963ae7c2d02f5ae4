#!/usr/bin/env bash
# Run by Snakemake inside a new environment, in the working folder: the repository's root, or a folder that snakedeploy made,
# which has no package in it.
set -euo pipefail
if [ -f pyproject.toml ]; then
    python -m pip install --no-deps .
else
    what="set it to what pip can install, such as git+ADDRESS@TAG of the repository (docs/workflow.md)"
    python -m pip install --no-deps "${CONTEXTGRAFT_SOURCE:?$what}"
fi
