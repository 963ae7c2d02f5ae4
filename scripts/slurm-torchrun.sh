#!/usr/bin/env bash
# slurm-torchrun.sh NODES PROCESSES THREADS COMMAND...: run a command by torchrun inside a Slurm job, with PROCESSES processes on each
# of NODES nodes; the processes of a node share THREADS threads. One process on one node runs without torchrun.
set -euo pipefail
die() {
    echo "slurm-torchrun: $*" >&2
    exit 2
}
[ $# -ge 4 ] || die "expected NODES PROCESSES THREADS COMMAND...; received $# arguments"
nodes=$1 processes=$2 threads=$3
shift 3
# Snakemake sets these variables to {threads}, which is for all processes together
per_process=$((threads > processes ? threads / processes : 1))
export OMP_NUM_THREADS=$per_process MKL_NUM_THREADS=$per_process OPENBLAS_NUM_THREADS=$per_process

if [ "$nodes" -eq 1 ]; then
    [ "$processes" -gt 1 ] || exec "$@"
    exec torchrun --standalone --nproc-per-node "$processes" --no-python "$@"
fi

job=${SLURM_JOB_ID:-}
[ -n "$job" ] || die "expected a Slurm job for $nodes nodes; SLURM_JOB_ID is not set"
names=$(squeue --noheader --jobs="$job" --format=%N)
head=$(scontrol show hostnames "$names" | head -n 1)
# if the resolver does not know the node, take its address from Slurm
getent hosts "$head" >/dev/null ||
    head=$(scontrol --oneliner show node "$head" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)

# Of the SLURM_* variables Snakemake passes only the job id to a job, so every option is repeated. If one process fails, all are ended.
exec srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$threads" --mem=0 \
    --kill-on-bad-exit=1 torchrun --nnodes "$nodes" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-endpoint "$head:$((20000 + job % 10000))" --rdzv-id "$job" --no-python "$@"
