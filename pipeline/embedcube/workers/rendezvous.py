"""Where the parents of one task meet: one on each of its nodes, started by srun, torchrun or mpiexec.

The first parent holds the counter that all ranks draw from, and tells the others where. Ranks are started by the
parents, never by the launcher: so a dead rank costs its shard and nothing else, and a node needs one container.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.errors import StartAgain, WorkError
from embedcube.workers.protocol import HOST_SUFFIX, LAUNCHER, MEETING_S


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What the first parent tells the others."""

    attempt: str
    """of the task"""
    host: str
    port: int
    """of the counter"""
    work: bool
    """some shards have no record yet"""


class Meeting(Protocol):
    """The parents of a task, as their launcher numbers them."""

    number: int
    """of this one"""
    count: int
    """of all"""
    attempt: str
    """a new one for each start of the task; what another parent than the first has here may differ"""

    def share(self, said: Announcement | None) -> Announcement:
        """Hand on what the first parent says; the others give None and wait for it."""
        ...


def meet(run: RunDir, task: int, environment: Mapping[str, str] = os.environ) -> Meeting:
    """The meeting that the environment of this process speaks of; a parent that nobody launched is alone.

    Raises:
        WorkError: the launcher started another number of parents than there are nodes.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return _Torchrun(environment)
    if environment.get(LAUNCHER) == "mpi" or "OMPI_COMM_WORLD_SIZE" in environment:
        return _Mpi()
    if "SLURM_STEP_ID" in environment and int(environment["SLURM_STEP_NUM_TASKS"]) > 1:
        return _Srun(run, task, environment)
    return _Alone(environment)


def own_host() -> str:
    """The name under which other nodes reach this one: of its fast network, where the job script knows it."""
    name, suffix = socket.gethostname(), os.environ.get(HOST_SUFFIX, "")
    return name.split(".")[0] + suffix if suffix else name


class _Alone:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.number, self.count = 0, 1
        job = f"{_job(environment)}-" if "SLURM_JOB_ID" in environment else f"{datetime.now(UTC):%Y%m%dT%H%M%S}-"
        self.attempt = job + secrets.token_hex(3)

    def share(self, said: Announcement | None) -> Announcement:
        assert said is not None
        return said


class _Srun:
    """Through a file in the folder of the attempt, whose name no two starts share."""

    def __init__(self, run: RunDir, task: int, environment: Mapping[str, str]) -> None:
        self.number, self.count = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        nodes = int(environment["SLURM_JOB_NUM_NODES"])
        if self.count != nodes:
            raise WorkError(
                f"srun started {self.count} processes on the {nodes} nodes of job {environment['SLURM_JOB_ID']}: it is "
                "to start one on each (--ntasks-per-node=1), which starts the node's ranks itself"
            )
        self.attempt = f"{_job(environment)}-{environment['SLURM_STEP_ID']}"
        self._file = run.task(task) / self.attempt / "counter.json"

    def share(self, said: Announcement | None) -> Announcement:
        if said is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(vars(said)).encode())
            return said
        waited_until = time.monotonic() + MEETING_S
        while time.monotonic() < waited_until:
            if self._file.exists():
                return Announcement(**json.loads(self._file.read_text()))
            time.sleep(0.2)
        raise StartAgain(f"{self._file}: the first parent of the task did not come within {MEETING_S:.0f} s")


class _Torchrun:
    """Through the store that torchrun keeps for its workers (torch.distributed.elastic)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        if int(environment["LOCAL_WORLD_SIZE"]) > 1:
            raise WorkError("torchrun is to start one process on each node (--nproc-per-node 1); it starts the ranks")
        self.number, self.count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.attempt = _Alone(environment).attempt
        self._place = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        self._key = f"embedcube/{environment['TORCHELASTIC_RESTART_COUNT']}"

    def share(self, said: Announcement | None) -> Announcement:
        from torch.distributed import TCPStore

        store = TCPStore(*self._place, is_master=False)
        if said is not None:
            store.set(self._key, json.dumps(vars(said)))
        return Announcement(**json.loads(store.get(self._key)))


class _Mpi:
    """By a broadcast; then MPI is left, so that a dead parent cannot take the others along."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi: Any = MPI
        self.number, self.count = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", self.count))
        if self.count != nodes:
            raise WorkError(
                f"MPI sees {self.count} processes on {nodes} nodes: a launcher and an MPI that do not know each other "
                "make worlds of one; is srun's --mpi the one that mpi4py was built for?"
            )
        self.attempt = _Alone(os.environ).attempt

    def share(self, said: Announcement | None) -> Announcement:
        text = self._mpi.COMM_WORLD.bcast(None if said is None else json.dumps(vars(said)))
        self._mpi.Finalize()
        return Announcement(**json.loads(text))


def _job(environment: Mapping[str, str]) -> str:
    return f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"
