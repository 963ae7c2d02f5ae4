#!/usr/bin/env bash
# slurm-conf.sh FOLDER: writes the configuration of the loopback cluster: controller, accounting, two nodes with four fake GPUs each.
set -euo pipefail
# shellcheck source=scripts/slurm-common.sh
. "$(dirname "$0")/slurm-common.sh"
use_folder "$1"

host=$(uname -n)
host=${host%%.*}
address=$(getent ahostsv4 "$host" | awk 'NR == 1 { print $1 }')
[[ $address == 127.* ]] ||
    die "expected this machine's name '$host' to be on loopback, so that nothing listens outside;" \
        "received ${address:-no address}; put '127.0.0.1 $host' first in /etc/hosts"
user=$(id -un)
read -r controller accounting node1 _ <<<"$(python3 - <<'PYTHON'
import os
import socket

def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0

# a block, for slurm.conf wants the ports of the nodes side by side; below the range the kernel hands out, and begun
# where no other cluster that starts now is likely to look
first = 17000 + 4 * (os.getpid() % 3000)
print(*next(range(port, port + 4) for port in range(first, 32000, 4) if all(map(free, range(port, port + 4)))))
PYTHON
)"

# Slurm wants a device file for each GPU and hides all but a job's own; the null device is used instead.
devices=$folder/dev/nvidia
for number in 0 1 2 3; do
    [ -e "$devices$number" ] || mknod "$devices$number" c 1 3 2>/dev/null || touch "$devices$number"
done
echo "Name=gpu File=${devices}[0-3]" >"$folder/etc/gres.conf"

cat >"$folder/etc/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$host($address)
SlurmctldPort=$controller
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.own
SlurmdPidFile=$folder/run/%n.own
MailProg=/bin/true

# a container has neither systemd nor cgroups of its own
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
PropagateResourceLimits=NONE

# processors, memory and GPUs are counted, and may be more than this machine has
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
DefMemPerCPU=500
GresTypes=gpu

# quick turns: a job starts at once, a silent node is down after some forty seconds
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
CompleteWait=0
KillWait=2
SlurmdTimeout=30
MessageTimeout=30
BatchStartTimeout=30
MinJobAge=3600
ReturnToService=2

# a job that lost its node, or its turn, starts again
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$address
AccountingStoragePort=$accounting
AccountingStoragePass=$folder/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment

NodeName=DEFAULT CPUs=32 CoresPerSocket=32 RealMemory=4000000 Gres=gpu:4
NodeName=node[1-2] NodeHostname=$host NodeAddr=$address Port=[$node1-$((node1 + 1))]
PartitionName=DEFAULT Nodes=node[1-2] DefaultTime=10 MaxTime=7-00:00:00
PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=spare PriorityTier=1
PartitionName=urgent PriorityTier=20 PreemptMode=OFF
END

(
    umask 077
    cat >"$folder/etc/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
DbdHost=$host
DbdAddr=$address
DbdPort=$accounting
SlurmUser=$user
PidFile=$folder/run/slurmdbd.own
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=accounting
END
)

# Snakemake starts job steps without any SLURM_* variable: wrappers keep saying whose cluster this is.
for name in sacct sacctmgr sbatch scancel scontrol sinfo squeue srun; do
    printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(type -P "$name")" >"$folder/bin/$name"
    chmod 755 "$folder/bin/$name"
done
