#!/usr/bin/env bash
# slurm-up.sh FOLDER: a real Slurm on this machine's loopback: controller, accounting, two nodes with four fake GPUs each.
# Everything lives in FOLDER. Then: export PATH="FOLDER/bin:$PATH"; sinfo. To stop it: slurm-down.sh FOLDER.
# Partitions: gpu (the default), spare (its jobs make room for others and are requeued), urgent. Account: graft.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/slurm-common.sh
. "$here/slurm-common.sh"
[ $# -eq 1 ] || die "expected one argument: the folder of the cluster"
[ -z "$(missing_commands)" ] || die "missing commands:$(missing_commands); scripts/slurm-install.sh installs them"
mkdir -p "$1"
use_folder "$1"
[ ! -e "$folder/run" ] || die "$folder holds a cluster already; scripts/slurm-down.sh stops it"
[ ${#folder} -le 80 ] || die "expected a path of at most 80 characters, since sockets are made in it; received $folder"

umask 022
mkdir -p "$folder"/{bin,dev,etc,log,run,spool/node1,spool/node2,state}
chmod 755 "$folder"
trap '[ $? = 0 ] || "$here/slurm-down.sh" "$folder"' EXIT
"$here/slurm-conf.sh" "$folder"

# so few clients need no durable writes
database=(mariadbd --no-defaults --datadir="$folder/database" --user="$(id -un)")
quick=(--skip-networking --socket="$folder/run/database.socket" --pid-file="$folder/run/database.own"
    --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 --performance-schema=off)
sql() { mariadb --no-defaults --socket="$folder/run/database.socket" --user=root --execute="$1"; }

(umask 077 && head -c 128 /dev/urandom >"$folder/etc/munge.key")
launch munged munged --foreground --key-file="$folder/etc/munge.key" --socket="$folder/run/munge.socket" \
    --pid-file="$folder/run/munged.own" --seed-file="$folder/run/munge.seed" --log-file="$folder/log/munged.log"
mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$folder/database" --skip-test-db \
    --auth-root-authentication-method=normal >"$folder/log/install-database.out" 2>&1 ||
    die "mariadb-install-db failed: $(tail -n 2 "$folder/log/install-database.out")"
launch database "${database[@]}" "${quick[@]}"
await munged "credentials" munge --no-input --socket="$folder/run/munge.socket"
await database "the database answers" sql "select 1"
sql "create user slurm@localhost; grant all on accounting.* to slurm@localhost"

# for "localhost" MariaDB's library takes a socket, and only this variable says which
launch slurmdbd env MYSQL_UNIX_PORT="$folder/run/database.socket" SLURM_CONF="$SLURM_CONF" slurmdbd -D
await slurmdbd "accounting answers" sacctmgr --noheader list cluster
sacctmgr --immediate --quiet add cluster loopback >/dev/null
sacctmgr --immediate --quiet add account graft >/dev/null
sacctmgr --immediate --quiet add user "$(id -un)" account=graft >/dev/null
launch slurmctld slurmctld -D -i -f "$SLURM_CONF"
await slurmctld "the controller answers" scontrol ping
for node in "${NODES[@]}"; do start_node "$node"; done
idle() { [ "$(sinfo --noheader --Node --partition=gpu --format=%t | grep -cx idle)" = "${#NODES[@]}" ]; }
await slurmctld "both nodes are idle" idle
