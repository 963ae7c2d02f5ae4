#!/usr/bin/env bash
# Run by Snakemake inside a new environment, in the working folder: the repository's root.
set -euo pipefail
python -m pip install --no-deps .
