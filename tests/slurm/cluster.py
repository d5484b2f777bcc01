"""A real Slurm cluster of several nodes on this machine, made by `lab/`, with power cuts and dying daemons."""

import csv
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

LAB = Path(__file__).parent / "lab"
UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "REQUEUED", "SIGNALING"}
NAMESPACES = ("unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc")


def why_no_lab() -> str | None:
    """Why this machine cannot run the cluster; None if it can, and then a cluster that does not start is a failure."""
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        return "the lab's packages are Debian's"
    if os.geteuid() != 0:
        return "the lab's nodes need root"
    if subprocess.run([*NAMESPACES, "hostname", "n1"], capture_output=True, check=False).returncode != 0:
        return "the lab's nodes need namespaces of their own, which this root may not make"
    return None


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Test the condition ten times a second until it holds; a TimeoutError says `what` did not happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {timeout_s} s: {what}")
        time.sleep(0.1)


def processes_of(folder: Path) -> list[str]:
    """Processes with the folder in their environment: the cluster's daemons, nodes and commands."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # a zombie, or the process of another user
            if any(str(folder) in value for value in process.environ().values()):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def _first_free_port(count: int) -> int:
    """The first of `count` free ports in a row, below the range that the kernel gives to clients."""

    def free(port: int) -> bool:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
        return True

    while True:
        first = random.randrange(10_000, 30_000)
        if all(free(port) for port in range(first, first + count)):
            return first


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster in a folder. Slurm's commands find it if they run with `environment`."""

    folder: Path
    nodes: int = 4
    port: int = field(default_factory=lambda: _first_free_port(20))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process, with the cluster's address and without variables of a job around it."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return outside | {"LAB": str(self.folder), "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def up(self) -> None:
        """Start the daemons and nodes that do not run; returns when all nodes accept jobs."""
        self.run(str(LAB / "up.sh"), extra={"NODES": str(self.nodes), "PORT": str(self.port)}, timeout_s=300)
        self.jobs.mkdir(exist_ok=True)

    def down(self) -> None:
        """Stop the whole cluster."""
        self.run(str(LAB / "down.sh"))

    def run(self, *command: str, extra: dict[str, str] | None = None, text: str = "", timeout_s: float = 60) -> str:
        """Output of a command that must succeed; `text` is its standard input."""
        done = subprocess.run(
            command,
            env=self.environment | (extra or {}),
            cwd=self.jobs if self.jobs.exists() else None,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    # --- jobs ---------------------------------------------------------------------------------

    @property
    def jobs(self) -> Path:
        """The working folder of jobs, with their output files."""
        return self.folder / "jobs"

    def submit(self, script: str, *options: str) -> str:
        """Submit a bash script; returns the job's number."""
        return self.run("sbatch", "--parsable", *options, text=f"#!/bin/bash\n{script}\n").strip()

    def output(self, job: str) -> str:
        """What a job, or `<job>_<element>` of an array, has printed so far."""
        path = self.jobs / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def states(self, job: str) -> Counter[str]:
        """The number of a job's array elements in each state."""
        query = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")
        return Counter(self.run(*query).split())

    def wait(self, job: str, timeout_s: float = 60) -> Counter[str]:
        """The final states of a job, once all of its elements have ended."""
        wait_until(lambda: not UNFINISHED & self.states(job).keys(), f"the end of job {job}", timeout_s)
        return self.states(job)

    def wait_for(self, job: str, state: str, timeout_s: float = 60) -> None:
        """Wait until an element of a job is in a state. RUNNING does not say that its script began: wait for output."""
        wait_until(lambda: state in self.states(job), f"job {job} {state}", timeout_s)

    def sacct(self, job: str, *fields: str) -> list[dict[str, str]]:
        """One row for each start of each array element. The database is updated late: use `wait_until`."""
        query = (
            "sacct",
            "--allocations",
            "--duplicates",
            "--parsable2",
            f"--jobs={job}",
            f"--format={','.join(fields)}",
        )
        return list(csv.DictReader(self.run(*query).splitlines(), delimiter="|"))

    # --- what happens to a cluster ------------------------------------------------------------

    def power_off(self, node: str) -> None:
        """Kill everything on the node at once. The controller notices after half a minute; `set_down` tells it now."""
        self._node("off", node)

    def power_on(self, node: str) -> None:
        """Start the node, and wait until it accepts jobs."""
        self._node("on", node)
        self.wait_for_node(node)

    def set_down(self, node: str) -> None:
        """Mark the node as down, as a site's monitoring does; its jobs fail or are requeued at once."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def resume(self, node: str) -> None:
        """Use a node again that was marked as down but still runs."""
        self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_for_node(node)

    def kill_slurmd(self, node: str) -> None:
        """Kill the node's daemon but not the jobs; after half a minute Slurm starts them again, so they run twice."""
        self._node("kill-slurmd", node)

    def start_slurmd(self, node: str) -> None:
        """Start the daemon again on a node whose power is on."""
        self._node("start-slurmd", node)

    def wait_for_node(self, node: str) -> None:
        """Wait until the node accepts jobs."""
        query = ("sinfo", "--noheader", f"--nodes={node}", "--partition=debug", "--format=%t")
        wait_until(lambda: self.run(*query).strip() in {"idle", "mix", "alloc"}, f"{node} takes work")

    def processes(self, node: str) -> list[psutil.Process]:
        """All processes on a node; those that end meanwhile are left out."""
        found = []
        for pid in self._node("pids", node).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def restart_controller(self) -> None:
        """Restart the controller with SIGTERM, as an administrator does; after SIGKILL it could forget jobs."""
        pid = int((self.folder / "run" / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(
            lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the end"
        )
        self.up()

    def _node(self, command: str, node: str) -> str:
        return self.run(str(LAB / "node.sh"), command, node)


@contextmanager
def running_cluster(*, nodes: int) -> Iterator[Cluster]:
    """A cluster in a new folder; after the block no process of it runs, and only logs are left in the folder.

    If this process is killed, a guard process stops the cluster.
    """
    # not a folder of pytest: mariadbd runs as another user and could not enter it
    cluster = Cluster(folder=Path(tempfile.mkdtemp(prefix="embedcube-slurm-")), nodes=nodes)
    guard = subprocess.Popen(
        ["bash", "-c", f"tail --pid={os.getpid()} --follow /dev/null; exec {LAB / 'down.sh'}"],
        env={"LAB": str(cluster.folder), "PATH": os.environ["PATH"]},
        start_new_session=True,
    )
    try:
        cluster.up()
        yield cluster
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        cluster.down()
        for path in cluster.folder.iterdir():
            if path.name not in {"log", "jobs"}:
                shutil.rmtree(path)
    assert processes_of(cluster.folder) == []
