#!/usr/bin/env bash
# End the cluster in LAB: exactly the processes that up.sh started, by their pids. The folder stays.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lab.sh"

all_gone() {
  for file in "$LAB"/run/*.pid; do ! pid_of "$(basename "$file" .pid)" || return 1; done
}

# no daemon has anything to save: a cluster does not outlive the tests
for file in "$LAB"/run/*.pid; do
  if pid=$(pid_of "$(basename "$file" .pid)"); then kill -KILL "$pid"; fi
done
wait_for 20 "end of the cluster" all_gone
