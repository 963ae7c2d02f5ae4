# Sourced by the other slurm-*.sh: messages, what must be installed, and daemons that are known by process id and start time.
# shellcheck shell=bash
export LC_ALL=C PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH"

PACKAGES=(slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core mariadb-client-core)
COMMANDS=(munged munge slurmctld slurmd slurmdbd sbatch srun squeue sacct sacctmgr scontrol mariadbd mariadb mariadb-install-db)
NODES=(node1 node2)

say() { echo "$(basename "$0" .sh): $*" >&2; }
die() {
    say "$*"
    exit 2
}

missing_commands() {
    local name
    for name in "${COMMANDS[@]}"; do command -v "$name" >/dev/null || printf ' %s' "$name"; done
}

# The start time of a process in clock ticks; with the id it names one process for ever. Nothing for the dead and for zombies.
born() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    read -ra fields <<<"${stat##*) }"
    [ "${fields[0]}" = Z ] || echo "${fields[19]}"
}

# launch NAME COMMAND...: a daemon in a session of its own, remembered in $folder/run/NAME.pid
launch() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$folder/log/$name.out" 2>&1 &
    echo "$! $(born $!)" >"$folder/run/$name.pid"
}

# The process id of a daemon, if it is the very process that was launched.
running() {
    local id start
    read -r id start 2>/dev/null <"$folder/run/$1.pid" || return 1
    [ -n "$start" ] && [ "$(born "$id")" = "$start" ] && echo "$id"
}

# stop NAME: SIGTERM, then SIGKILL
stop() {
    local id tries
    if id=$(running "$1"); then
        kill -TERM "$id"
        for ((tries = 0; tries < 200; tries++)); do
            running "$1" >/dev/null || break
            sleep 0.05
        done
        running "$1" >/dev/null && kill -KILL "$id"
    fi
    rm -f "$folder/run/$1.pid"
}

# await NAME WHAT COMMAND...: until the command succeeds; the daemon's last words if it died or a minute went by
await() {
    local name=$1 what=$2 until=$((SECONDS + 60))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ! running "$name" >/dev/null || [ $SECONDS -gt $until ]; then
            tail -n 5 "$folder/log/$name.out" >&2
            die "$name: $what: not reached; its log is in $folder/log"
        fi
        sleep 0.1
    done
}

# A node's daemon carries its place in the environment, so do the processes it starts for job steps.
start_node() {
    launch "$1" env "LOOPBACK_NODE=$folder/$1" slurmd -D -f "$SLURM_CONF" -N "$1"
}

# Every process of a node, jobs among them: those that carry the mark, and all their descendants.
node_processes() {
    local file marked=()
    for file in /proc/[0-9]*/environ; do
        if grep -qszxF "LOOPBACK_NODE=$folder/$1" "$file"; then
            file=${file#/proc/}
            marked+=("${file%/environ}")
        fi
    done
    ps -eo pid=,ppid= | awk -v marked="${marked[*]}" '
        { children[$2] = children[$2] " " $1 }
        function walk(id,    list, count, i) {
            if (id in seen) return
            seen[id]; print id
            count = split(children[id], list, " ")
            for (i = 1; i <= count; i++) walk(list[i])
        }
        END { count = split(marked, roots, " "); for (i = 1; i <= count; i++) walk(roots[i]) }'
}

# The folder of a cluster, given as the last argument of every script.
use_folder() {
    folder=$(cd "$1" 2>/dev/null && pwd -P) || die "$1: no such folder"
    export SLURM_CONF=$folder/etc/slurm.conf
}
