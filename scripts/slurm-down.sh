#!/usr/bin/env bash
# slurm-down.sh FOLDER: ends the jobs and daemons of the cluster that slurm-up.sh started there, by process id; logs stay.
set -euo pipefail
# shellcheck source=scripts/slurm-common.sh
. "$(dirname "$0")/slurm-common.sh"
[ $# -eq 1 ] || die "expected one argument: the folder of the cluster"
use_folder "$1"
stop slurmctld
for node in "${NODES[@]}"; do
    mapfile -t processes < <(node_processes "$node")
    [ ${#processes[@]} -eq 0 ] || kill -KILL "${processes[@]}" 2>/dev/null || true
    rm -f "$folder/run/$node.pid"
done
for name in slurmdbd database munged; do stop "$name"; done
rm -rf "$folder/run" "$folder/database" "$folder/state"
