"""How the parents of one task find each other: one on each node, started by srun, torchrun or mpiexec.

Parent 0 opens the store that all ranks draw from, and announces its address to the others. Ranks are started by the
parents, never by the launcher: so a dead rank costs its shards and nothing else, and a node needs one container.
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
from embedcube.workers.protocol import HOST_SUFFIX, LAUNCHER, START_TIMEOUT_S, Place, announcement_key


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What parent 0 tells the other parents."""

    attempt: str
    """the name of this start of the task"""
    host: str
    port: int
    """of the store"""
    work: bool
    """some shards have no record yet"""


class Rendezvous(Protocol):
    """The parents of a task, as their launcher numbers them."""

    number: int
    """of this parent"""
    count: int
    """of all parents"""
    attempt: str
    """a new name for each start of the task; only that of parent 0 counts"""

    def share(self, announcement: Announcement | None) -> Announcement:
        """Parent 0 gives its announcement; the others give None and wait for it. All get it back."""
        ...


def find_parents(run: RunDir, task: int, environment: Mapping[str, str] = os.environ) -> Rendezvous:
    """The rendezvous that this process was launched for; a process without a launcher is the only parent.

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
    """The name under which other nodes reach this one: that of the fast network, where the job script gives it."""
    name, suffix = socket.gethostname(), os.environ.get(HOST_SUFFIX, "")
    return name.split(".")[0] + suffix if suffix else name


class _Alone:
    """The only parent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.number, self.count = 0, 1
        self.attempt = _random_attempt(environment)

    def share(self, announcement: Announcement | None) -> Announcement:
        assert announcement is not None
        return announcement


class _Srun:
    """Parents started by srun find each other by a file in the attempt's folder, whose name no two starts share."""

    def __init__(self, run: RunDir, task: int, environment: Mapping[str, str]) -> None:
        self.number, self.count = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        nodes = int(environment["SLURM_JOB_NUM_NODES"])
        if self.count != nodes:
            raise WorkError(
                f"srun started {self.count} processes on the {nodes} nodes of job {environment['SLURM_JOB_ID']}: let "
                "it start one on each node (--ntasks-per-node=1); that one starts the ranks of its node"
            )
        self.attempt = f"{_job(environment)}-{environment['SLURM_STEP_ID']}"
        self._file = run.task(task) / self.attempt / "counter.json"

    def share(self, announcement: Announcement | None) -> Announcement:
        if announcement is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(vars(announcement)).encode())
            return announcement
        waited_until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < waited_until:
            if self._file.exists():
                return Announcement(**json.loads(self._file.read_text()))
            time.sleep(0.2)
        raise StartAgain(f"{self._file}: parent 0 of the task did not write it within {START_TIMEOUT_S:.0f} s")


class _Torchrun:
    """Parents started by torchrun use the store that it keeps for its workers (torch.distributed.elastic)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        if int(environment["LOCAL_WORLD_SIZE"]) > 1:
            raise WorkError(
                "let torchrun start one process on each node (--nproc-per-node 1): that one starts the ranks"
            )
        # torchrun takes each parent for a rank
        self._place = Place.from_variables(environment)
        self.number, self.count = self._place.rank, self._place.world
        self.attempt = _random_attempt(environment)
        self._key = announcement_key(environment["TORCHELASTIC_RESTART_COUNT"])

    def share(self, announcement: Announcement | None) -> Announcement:
        from torch.distributed import TCPStore

        store = TCPStore(self._place.host, self._place.port, is_master=False)
        if announcement is not None:
            store.set(self._key, json.dumps(vars(announcement)))
        return Announcement(**json.loads(store.get(self._key)))


class _Mpi:
    """Parents started by MPI use one broadcast, then leave MPI, so that a dead parent cannot end the others."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi: Any = MPI
        self.number, self.count = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", self.count))
        if self.count != nodes:
            raise WorkError(
                f"MPI sees {self.count} processes on {nodes} nodes: the launcher and the MPI library do not know each "
                "other, and each process believes that it is alone; give srun the --mpi that mpi4py was built for"
            )
        self.attempt = _random_attempt(os.environ)

    def share(self, announcement: Announcement | None) -> Announcement:
        text = self._mpi.COMM_WORLD.bcast(None if announcement is None else json.dumps(vars(announcement)))
        self._mpi.Finalize()
        return Announcement(**json.loads(text))


def _random_attempt(environment: Mapping[str, str]) -> str:
    """A name that no other start has: the Slurm job or the UTC time, and a random suffix."""
    start = _job(environment) if "SLURM_JOB_ID" in environment else f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return f"{start}-{secrets.token_hex(3)}"


def _job(environment: Mapping[str, str]) -> str:
    return f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"
