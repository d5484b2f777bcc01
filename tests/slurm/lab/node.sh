#!/usr/bin/env bash
# One node of the lab: a host name, processes, /proc, /dev/shm and IPC of its own.
#
#   LAB=FOLDER node.sh on|off|kill-slurmd|start-slurmd|pids NODE
#
# `off` is a power cut. kill-slurmd ends the daemon alone: job steps live on.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lab.sh"
command=$1 node=$2

first() { awk '{ print $1 }' "/proc/$(pid_of "$node")/task/"*/children; } # the node's pid 1, seen from outside

case $command in
  on)
    mkdir -p "$LAB/spool/$node" "$LAB/tmp/$node"
    pid_of "$node" >/dev/null || start "$node" unshare --uts --ipc --mount --pid --fork --kill-child --mount-proc \
      "$0" boot "$node"
    ;;
  boot) # pid 1 itself: a host stays on, and reaps, when slurmd ends
    hostname "$node"
    mount --bind "$LAB/etc/hosts" /etc/hosts
    mount -t tmpfs -o size=2g,mode=1777 shm /dev/shm
    # slurmd looks for PMIx by a name that only the package for developers brings
    pmix=$(dirname "$(dpkg -L libpmix2 | grep -m1 '/pmix2/lib/libpmix\.so\.2$')")
    [ "$pmix" != . ] && mount -t overlay -o "lowerdir=$LAB/pmix:$pmix" pmix "$pmix" || echo "$node is without srun --mpi=pmix" >&2
    slurmd -D -N "$node" &
    while :; do sleep 1000 & wait $!; done
    ;;
  off)
    kill -KILL "$(pid_of "$node")" # --kill-child takes pid 1 along, and the kernel all the rest
    wait_for 10 "end of $node" eval "! pid_of $node"
    ;;
  pids) pgrep --ns "$(first)" --nslist pid '' ;;
  kill-slurmd) pkill -KILL --ns "$(first)" --nslist pid --exact slurmd ;;
  start-slurmd) nsenter --target "$(first)" --uts --ipc --mount --pid slurmd -N "$node" ;;
  *) echo "$0: no command $command" >&2; exit 2 ;;
esac
