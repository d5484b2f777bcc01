#!/usr/bin/env bash
# A real Slurm of several nodes, with accounting, on one Debian 12 machine: root, no systemd, no cgroups.
#
#   LAB=FOLDER [NODES=4] [CPUS=4] [MEM=4000] [PORT=16800] up.sh
#
# Installs missing packages, writes FOLDER, starts what does not run yet and returns when all nodes wait for work.
# Then: export SLURM_CONF=FOLDER/etc/slurm.conf. Every node has 4 GPUs that are none. Partitions: debug; low, which
# high preempts after a warning; graceless, which it preempts without one. Node N is 127.0.1.N, so clients run anywhere
# on the machine. See down.sh and node.sh.
set -euo pipefail
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/lab.sh"
NODES=${NODES:-4} CPUS=${CPUS:-4} MEM=${MEM:-4000} PORT=${PORT:-16800}

install_packages() {
  local missing=() package
  for package in munge slurmctld slurmd slurm-client libpmi2-0 libpmix2 slurmdbd slurm-wlm-mysql-plugin \
    mariadb-server procps; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  # the packages would start services of their own
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  export DEBIAN_FRONTEND=noninteractive
  {
    apt-get update -qq || true # a foreign list that does not answer is none of ours
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
  } >"$LAB/log/apt.log" 2>&1 || { tail -20 "$LAB/log/apt.log" >&2; return 1; }
}

write_configuration() {
  for gpu in 0 1 2 3; do ln -sfn /dev/null "$LAB/dev/nvidia$gpu"; done
  echo "NodeName=n[1-$NODES] Name=gpu File=$LAB/dev/nvidia[0-3]" >"$LAB/etc/gres.conf"
  {
    echo "127.0.0.1 localhost $(hostname)"
    for node in $(seq "$NODES"); do echo "127.0.1.$node n$node"; done
  } >"$LAB/etc/hosts"
  (umask 077 && head -c 1024 /dev/urandom >"$LAB/etc/munge.key")
  cat >"$LAB/etc/slurm.conf" <<END
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$PORT
# a requeued job waits cred_expire seconds before it starts again: 120 if nothing is said
AuthInfo=socket=$LAB/run/munge.sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
TmpFS=$LAB/tmp/%n
SlurmctldPidFile=$LAB/run/slurmctld.own
SlurmdPidFile=$LAB/run/slurmd.%n.own
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimitsExcept=MEMLOCK
# CPUs and memory are declared, not measured
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# start a job as soon as it is there
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,bf_resolution=60
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
EnforcePartLimits=ALL
# see soon that a node is gone, and take it back when it returns
SlurmctldTimeout=10
SlurmdTimeout=6
ReturnToService=2
InactiveLimit=0
KillWait=2
UnkillableStepTimeout=30
CompleteWait=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
AccountingStoragePass=$LAB/run/munge.sock
AccountingStorageTRES=gres/gpu
JobCompType=jobcomp/none
NodeName=n[1-$NODES] NodeHostname=n[1-$NODES] NodeAddr=127.0.1.[1-$NODES] Port=[$((PORT + 2))-$((PORT + 1 + NODES))] Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM Gres=gpu:4
PartitionName=DEFAULT Nodes=ALL MaxTime=60 DefaultTime=10 DefMemPerCPU=200
PartitionName=debug Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=graceless PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high PriorityTier=100 PreemptMode=OFF
END
  cat >"$LAB/etc/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
LogFile=$LAB/log/slurmdbd.log
PidFile=$LAB/run/slurmdbd.own
END
  chmod 600 "$LAB/etc/slurmdbd.conf"
  cat >"$LAB/etc/my.cnf" <<END
[mysqld]
user=mysql
datadir=$LAB/db
socket=$LAB/db/mysqld.sock
pid-file=$LAB/db/mysqld.own
skip-networking
skip-log-bin
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
performance_schema=OFF
END
}

start_munged() {
  rm -f "$LAB/run/munge.sock"*
  start munged munged --foreground --key-file="$LAB/etc/munge.key" --socket="$LAB/run/munge.sock" \
    --pid-file="$LAB/run/munged.own" --log-file="$LAB/log/munged.log" --seed-file="$LAB/run/munge.seed"
  wait_for 10 munge munge --no-input --socket="$LAB/run/munge.sock"
}

start_mariadbd() {
  chown mysql "$LAB/db"
  [ -d "$LAB/db/mysql" ] || mariadb-install-db --defaults-file="$LAB/etc/my.cnf" --user=mysql --skip-test-db \
    --auth-root-authentication-method=normal >"$LAB/log/mariadb-install-db.out" 2>&1
  start mariadbd mariadbd --defaults-file="$LAB/etc/my.cnf"
  wait_for 30 mariadbd mariadb --socket="$LAB/db/mysqld.sock" --execute='select 1'
}

start_slurmdbd() {
  # its library finds a database that is not the machine's own by this variable alone
  MYSQL_UNIX_PORT="$LAB/db/mysqld.sock" start slurmdbd slurmdbd -D
  wait_for 30 slurmdbd sacctmgr --noheader show cluster
  sacctmgr --immediate --quiet add cluster lab >/dev/null || true # it is there already
}

all_nodes_wait() {
  [ "$(sinfo --noheader --Node --partition=debug --states=idle,alloc,mix --format=%n | sort -u | wc -l)" = "$NODES" ]
}

mkdir -p "$LAB"/{etc,run,log,state,db,dev,pmix}
ln -sfn libpmix.so.2 "$LAB/pmix/libpmix.so"
chmod 755 "$LAB" "$LAB/run" # mysql must pass, and munge wants its socket in no folder that others write to
install_packages
[ -e "$LAB/etc/slurm.conf" ] || write_configuration
pid_of munged >/dev/null || start_munged
pid_of mariadbd >/dev/null || start_mariadbd
pid_of slurmdbd >/dev/null || start_slurmdbd
pid_of slurmctld >/dev/null || start slurmctld slurmctld -D
for node in $(seq "$NODES"); do "$HERE/node.sh" on "n$node"; done
wait_for 30 slurmctld scontrol ping
wait_for 60 "$NODES waiting nodes" all_nodes_wait || { sinfo --Node --long; tail -20 "$LAB/log/slurmctld.log"; exit 1; } >&2
