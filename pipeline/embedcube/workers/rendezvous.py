"""How the parents of one task find each other: one on each node, started by srun, torchrun or mpiexec.

Parent 0 listens, and announces its address and the key of this start to the others: in a file that only this user can
read, or by MPI. Ranks are started by the parents, never by the launcher: so a dead rank costs its shards and nothing
else, and a node needs one container.
"""

import fcntl
import json
import os
import re
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.errors import StartAgain, WorkError
from embedcube.workers.protocol import HOST_SUFFIX, INTERFACE, LAUNCHER, START_TIMEOUT_S, announcement_key

_MOST_BYTES = 4096
"""of an announcement by MPI"""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What parent 0 tells the other parents."""

    attempt: str
    """the name of this start of the task"""
    work: bool
    """some shards have no record yet; if not, nothing listens"""
    host: str = ""
    """address on which parent 0 listens"""
    port: int = 0
    key: str = field(default="", repr=False)
    """that the other parents must have"""

    def to_json(self) -> bytes:
        """The announcement as it is written or sent."""
        return json.dumps(asdict(self)).encode()


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

    def withdraw(self, over: Announcement) -> None:
        """Parent 0 has ended its work: who comes later is to find `over` instead of the announcement."""
        ...


def find_parents(run: RunDir, task: int, environment: Mapping[str, str] = os.environ) -> Rendezvous:
    """The rendezvous that this process was launched for; a process without a launcher is the only parent.

    Raises:
        WorkError: the launcher started another number of parents than there are nodes.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return _Torchrun(run, task, environment)
    if environment.get(LAUNCHER) == "mpi" or "OMPI_COMM_WORLD_SIZE" in environment:
        return _Mpi()
    if "SLURM_STEP_ID" in environment and int(environment["SLURM_STEP_NUM_TASKS"]) > 1:
        return _Srun(run, task, environment)
    return _Alone(environment)


def own_host() -> str:
    """The name or address by which other nodes reach this one: that of the site's fast network, where it says one."""
    name, suffix = socket.gethostname(), os.environ.get(HOST_SUFFIX, "")
    if suffix:
        return name.split(".")[0] + suffix
    interface = os.environ.get(INTERFACE, "").split(",")[0]
    return _address_of(interface) if interface else name


def _address_of(interface: str) -> str:
    """The IPv4 address of a network interface of this node (SIOCGIFADDR, see netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", interface.encode()))
        except OSError as error:
            raise WorkError(
                f"{socket.gethostname()} has no address on {interface} ({error.strerror}): correct {INTERFACE}, or "
                "interface in the site file"
            ) from None
    return socket.inet_ntoa(answer[20:24])


class _Alone:
    """The only parent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.number, self.count = 0, 1
        self.attempt = _random_attempt(environment)

    def share(self, announcement: Announcement | None) -> Announcement:
        assert announcement is not None
        return announcement

    def withdraw(self, over: Announcement) -> None:
        """Nobody comes later."""


class _File:
    """The announcement as a file in the attempt's folder, whose name no two starts share."""

    def __init__(self, run: RunDir, task: int, attempt: str) -> None:
        self._path = run.task(task) / attempt / "parents.json"

    def write(self, announcement: Announcement) -> None:
        """Write it for this user alone, as it may hold the key."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            temporary.write_bytes(announcement.to_json())

    def read(self) -> Announcement:
        """Wait for it."""
        waited_until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < waited_until:
            if self._path.exists():
                return Announcement(**json.loads(self._path.read_bytes()))
            time.sleep(0.2)
        raise StartAgain(f"{self._path}: parent 0 of the task did not write it within {START_TIMEOUT_S:.0f} s")


class _Srun:
    """Parents started by srun find each other by a file whose name follows from the job, its restart and its step."""

    def __init__(self, run: RunDir, task: int, environment: Mapping[str, str]) -> None:
        self.number, self.count = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        nodes = int(environment["SLURM_JOB_NUM_NODES"])
        if self.count != nodes:
            raise WorkError(
                f"srun started {self.count} processes on the {nodes} nodes of job {environment['SLURM_JOB_ID']}: let "
                "it start one on each node (--ntasks-per-node=1); that one starts the ranks of its node"
            )
        self.attempt = f"{_job(environment)}-{environment['SLURM_STEP_ID']}"
        self._file = _File(run, task, self.attempt)

    def share(self, announcement: Announcement | None) -> Announcement:
        if announcement is None:
            return self._file.read()
        self._file.write(announcement)
        return announcement

    def withdraw(self, over: Announcement) -> None:
        self._file.write(over)


class _Torchrun:
    """Parents started by torchrun: the store that it keeps for its workers, which has no secret, names the attempt."""

    def __init__(self, run: RunDir, task: int, environment: Mapping[str, str]) -> None:
        if int(environment["LOCAL_WORLD_SIZE"]) > 1:
            raise WorkError(
                "let torchrun start one process on each node (--nproc-per-node 1): that one starts the ranks"
            )
        # torchrun takes each parent for a rank
        self.number, self.count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self._host, self._port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        self._run, self._task = run, task
        self.attempt = _random_attempt(environment)
        self._key = announcement_key(environment["TORCHELASTIC_RESTART_COUNT"])

    def share(self, announcement: Announcement | None) -> Announcement:
        from torch.distributed import TCPStore

        store = TCPStore(self._host, self._port, is_master=False)
        if announcement is not None:
            self._file(self.attempt).write(announcement)
            store.set(self._key, self.attempt)
            return announcement
        attempt = store.get(self._key).decode()
        if not re.fullmatch(r"[\w-]+", attempt):
            raise WorkError(f"torchrun's store at {self._host} names the attempt {attempt!r}: that is no attempt")
        return self._file(attempt).read()

    def withdraw(self, over: Announcement) -> None:
        self._file(self.attempt).write(over)

    def _file(self, attempt: str) -> _File:
        return _File(self._run, self._task, attempt)


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
        # bytes: the broadcast of an object would unpickle it
        text = bytearray(b"" if announcement is None else announcement.to_json()).ljust(_MOST_BYTES)
        self._mpi.COMM_WORLD.Bcast(text)
        self._mpi.Finalize()
        return Announcement(**json.loads(text))

    def withdraw(self, over: Announcement) -> None:
        """MPI has no memory: who comes later cannot come at all."""


def _random_attempt(environment: Mapping[str, str]) -> str:
    """A name that no other start has: the Slurm job or the UTC time, and a random suffix."""
    start = _job(environment) if "SLURM_JOB_ID" in environment else f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return f"{start}-{secrets.token_hex(3)}"


def _job(environment: Mapping[str, str]) -> str:
    return f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"
