#!/usr/bin/env bash
# Run a command as the root of a user namespace in which all ids are themselves.
#
#   mapped_root.sh COMMAND...
#
# `apptainer build` wants every capability; a root that lacks some has them there.
set -euo pipefail
unshare --user --mount bash -c 'until [ "$(cat /proc/self/gid_map)" ]; do sleep 0.05; done; exec "$@"' - "$@" &
for map in uid_map gid_map; do
  until echo "0 0 65536" >"/proc/$!/$map"; do sleep 0.05; done 2>/dev/null # it must have left our namespace first
done
wait $!
