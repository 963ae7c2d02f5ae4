#!/usr/bin/env bash
# slurm-orphans.sh [--cancel]: the jobs of this folder that Snakemake processes left in the queue; with --cancel they are ended.
# For the time after a head process died: no Snakemake may run in this folder, for its jobs would be listed too.
set -euo pipefail
[ $# -le 1 ] && [ "${1:---cancel}" = --cancel ] || {
    echo "slurm-orphans: expected nothing or --cancel; received $*" >&2
    exit 2
}
mine() {
    squeue --noheader --me --format='%i|%T|%j|%k|%Z' | awk -F'|' -v here="$PWD" \
        '$5 == here && $3 ~ /^contextgraft_/ { print $1, $2, $4 }'
}
mine
[ "${1:-}" = --cancel ] || exit 0
mapfile -t jobs < <(mine | cut -d' ' -f1)
[ ${#jobs[@]} -gt 0 ] || exit 0
scancel "${jobs[@]}"
until [ -z "$(mine)" ]; do sleep 1; done # a job that is ending may still write
