#!/usr/bin/env bash
# slurm-node.sh kill|start NODE FOLDER: takes the power from a node (its daemon and every process of its jobs), or gives it back.
set -euo pipefail
# shellcheck source=scripts/slurm-common.sh
. "$(dirname "$0")/slurm-common.sh"
[ $# -eq 3 ] || die "expected three arguments: kill or start, a node, the folder of the cluster"
use_folder "$3"

power_off() {
    local processes
    mapfile -t processes < <(node_processes "$1")
    [ ${#processes[@]} -gt 0 ] || die "$1 does not run"
    kill -KILL "${processes[@]}" 2>/dev/null || true
}

power_on() {
    running "$1" >/dev/null || start_node "$1"
    await "$1" "$1 takes jobs" ready "$1"
}

# A node is in service again once its daemon has registered (ReturnToService=2).
ready() {
    sinfo --noheader --nodes="$1" --format=%t | grep -qE '^(idle|mix|alloc)$'
}

case $1 in
kill) power_off "$2" ;;
start) power_on "$2" ;;
*) die "expected kill or start; received $1" ;;
esac
