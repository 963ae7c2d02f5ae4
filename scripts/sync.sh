#!/usr/bin/env bash
# sync.sh: after `dvc pull`, `dvc checkout` or `dvc commit`, at the root of a clone: marks the existing files as up to date for Snakemake.
# DVC writes files in any order, and Snakemake goes by their times. First DVC compares every file with dvc.lock: where anything
# differs, nothing is touched. Tensors keep their times, for no rule looks at them, and DVC need not read them again.
set -euo pipefail
die() {
    echo "sync: $*" >&2
    exit 2
}

[ -f dvc.lock ] || die "expected dvc.lock here, as 'dvc commit' writes it; received none: run the study, then scripts/version.sh"
[ -d .snakemake/metadata ] ||
    die "expected .snakemake/metadata, by which Snakemake knows what made each file; received none:" \
        "this revision was committed without it (scripts/version.sh adds it)"
differences=$(dvc status 2>&1) || die "dvc status failed: $differences"
dvc status --quiet ||
    die "expected the files that dvc.lock names; received these differences: 'dvc pull' brings what is missing," \
        "and what you edited is edited after this step, not before it"$'\n'"$differences"

mkdir -p .snakemake/incomplete # else Snakemake takes the metadata for those of an old version
find data results ! -name .gitignore ! -name '*.safetensors' -print0 |
    xargs --null --no-run-if-empty touch --no-dereference --date="@$(date +%s)"
