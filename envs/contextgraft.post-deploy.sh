#!/usr/bin/env bash
# Run by Snakemake inside a new environment, in the working folder: the repository's root, or a folder that snakedeploy made,
# which has no package in it, or that of another project, whose own package is not meant.
set -euo pipefail
if [ -n "${CONTEXTGRAFT_SOURCE:-}" ]; then
    python -m pip install --no-deps "$CONTEXTGRAFT_SOURCE"
elif grep -Eqs "^name *= *[\"']contextgraft[\"']" pyproject.toml; then
    python -m pip install --no-deps .
else
    echo "CONTEXTGRAFT_SOURCE: set it to what pip can install, such as git+ADDRESS@TAG of the repository (docs/workflow.md)" >&2
    exit 1
fi
