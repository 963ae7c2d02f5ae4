#!/usr/bin/env bash
# slurm-torchrun.sh NODES PROCESSES THREADS COMMAND...: runs a command by torchrun, so many processes on each of so many nodes of the
# Slurm job that it is called in; a node's processes share its threads. One process on one node needs no torchrun.
set -euo pipefail
die() {
    echo "slurm-torchrun: $*" >&2
    exit 2
}
[ $# -ge 4 ] || die "expected NODES PROCESSES THREADS COMMAND...; received $# arguments"
nodes=$1 processes=$2 threads=$3
shift 3
each=$((threads > processes ? threads / processes : 1)) # Snakemake has said {threads} in these, which is for all processes
export OMP_NUM_THREADS=$each MKL_NUM_THREADS=$each OPENBLAS_NUM_THREADS=$each

if [ "$nodes" -eq 1 ]; then
    [ "$processes" -gt 1 ] || exec "$@"
    exec torchrun --standalone --nproc-per-node "$processes" --no-python "$@"
fi

job=${SLURM_JOB_ID:-}
[ -n "$job" ] || die "expected a Slurm job for $nodes nodes; SLURM_JOB_ID is not set"
names=$(squeue --noheader --jobs="$job" --format=%N)
head=$(scontrol show hostnames "$names" | head -n 1)
# a node that the resolver does not know has its address in Slurm's own table
getent hosts "$head" >/dev/null ||
    head=$(scontrol --oneliner show node "$head" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)

# Snakemake hands a job no SLURM_* variable but its number: every option is said again. The first process that fails ends all.
exec srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$threads" --mem=0 \
    --kill-on-bad-exit=1 torchrun --nnodes "$nodes" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-endpoint "$head:$((20000 + job % 10000))" --rdzv-id "$job" --no-python "$@"
