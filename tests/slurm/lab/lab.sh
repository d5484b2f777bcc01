# Sourced by the scripts beside it: where the lab lies, and which of its processes live.
: "${LAB:?the folder of the cluster; it holds sockets, so below 80 characters}"
export LAB SLURM_CONF="$LAB/etc/slurm.conf"

# pid_of NAME: what up.sh started under this name, if it lives. The environment tells it from a later process
# of the same number; that of a zombie is empty.
pid_of() {
  local pid
  pid=$(cat "$LAB/run/$1.pid" 2>/dev/null) && grep -qz "^LAB=$LAB\$" "/proc/$pid/environ" 2>/dev/null && echo "$pid"
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local seconds=$1 what=$2
  shift 2
  for _ in $(seq $((seconds * 20))); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.05
  done
  echo "no $what after $seconds s" >&2
  return 1
}

# start NAME COMMAND...: in a session of its own, with its pid in run/ and its output in log/
start() {
  local name=$1
  shift
  setsid "$@" </dev/null >>"$LAB/log/$name.out" 2>&1 &
  echo $! >"$LAB/run/$name.pid"
}
