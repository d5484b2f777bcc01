"""What the processes of one task say to each other: variables, keys of the shared store, signals, exit codes, times.

The story of a task, from the top:

1. **Job script** (jobs/slurm.py writes it) or `embedcube embed` by hand. It exports TASK, END_TIME and, where the site
   needs them, HOST_SUFFIX, LAUNCHER and IMAGE_DIGEST, and starts one *parent* on each node of the task.
2. **Parents** (task.py) find each other (rendezvous.py): by a file under srun, by torchrun's store, by MPI, or there is
   only one. Parent 0 opens the *store*, a TCPStore of torch.distributed, and announces its address. The store is small:
   counters and short texts. It lives as long as parent 0. Each parent starts the ranks of its node and gives them
   RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT (`Place`).
3. **Ranks** (rank.py) compare their versions with the plan's, form a process group, receive the weights by broadcast
   (broadcast.py), add 1 to RANKS_READY and leave the process group. All of this has START_TIMEOUT_S. If a rank ends
   with an error before all are ready, its parent adds 1 to ABORT, and all parents kill their ranks: these would wait
   for it until the time-out.
4. Each rank draws shards (queue.py) by adding 1 to GROUPS_DRAWN, `group_key` and SHARDS_DRAWN, so that no shard is
   drawn twice. Before it begins a shard it writes the recipes of its last ones under `drawn_key`. If a signal kills the
   rank, its parent writes those without a record to crash.json (crashes.py): one of them may be the cause.
5. **The end.** A rank ends when no shard is left, or early, with the shards that it has drawn finished and recorded:
   after a STOP_SIGNALS, when END_TIME is near, or when the store does not answer any more (parent 0 is gone).
   Each other parent adds to its `heartbeat_key` while its ranks run, writes the error of a failed one under
   `failure_key`, and at last adds 1 to PARENTS_DONE. Parent 0 waits for that, but not for a parent whose heartbeat has
   been silent for PARENT_SILENT_S; then it counts the records and ends.
6. **Exit codes**, of ranks and parents alike, see EXIT_*. The job script requeues its job after EXIT_START_AGAIN; the
   next start does only what has no record. A rank that a signal killed has a negative code at its parent.

SIGQUIT is for people: parent and ranks write the stack of every thread to their logs and go on.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from embedcube.errors import EmbedcubeError, RequestError, StartAgain

# --- environment variables: job script -> parent -> rank ---------------------------------------------------------

TASK = "EMBEDCUBE_TASK"
"""Which task the element of a job array is; only the job script itself reads it."""

END_TIME = "EMBEDCUBE_END_TIME"
"""When the job ends, in seconds since 1970; not set or empty where nothing ends it."""

LAUNCHER = "EMBEDCUBE_LAUNCHER"
"""`mpi` where parents find each other by MPI."""

HOST_SUFFIX = "EMBEDCUBE_HOST_SUFFIX"
"""Added to the short name of a node, it gives the node's name on the fast network."""

IMAGE_DIGEST = "EMBEDCUBE_IMAGE_DIGEST"
"""Digest of the container's image; each record holds it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which rank a process is, and where the store is: five variables, named as torch.distributed names them."""

    rank: int
    """0 .. world - 1; ranks of one node are neighbours"""
    local_rank: int
    """the rank within its node, and the number of its GPU"""
    world: int
    """ranks of the task, on all nodes"""
    host: str
    port: int

    def variables(self) -> dict[str, str]:
        """The environment variables that say it."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }

    @classmethod
    def from_variables(cls, environment: Mapping[str, str]) -> "Place":
        """The inverse of `variables`."""
        return cls(
            rank=int(environment["RANK"]),
            local_rank=int(environment["LOCAL_RANK"]),
            world=int(environment["WORLD_SIZE"]),
            host=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
        )


# --- keys of the store ----------------------------------------------------------------------------------------------

RANKS_READY = "ranks ready"
"""Counts the ranks that hold the plan's weights and will draw shards."""

ABORT = "abort"
"""Above 0: a rank failed before all were ready, and all ranks are killed."""

PARENTS_DONE = "parents done"
"""Counts the parents, but parent 0, whose ranks have all ended."""

GROUPS_DRAWN = "groups drawn"
"""Counts the draw groups that some rank has begun."""

SHARDS_DRAWN = "shards drawn"
"""Counts the shards that some rank has drawn."""


def group_key(number: int) -> str:
    """Counts the places of draw group `number` (from 1) that were drawn."""
    return f"group drawn/{number}"


def drawn_key(rank: int) -> str:
    """Recipes of the shards that a rank has drawn last, separated by blanks; some may have a record already."""
    return f"drawn/{rank}"


def parent_key(parent: int) -> str:
    """Counts the parents with this number: more than 1 is an error of the launcher."""
    return f"parent/{parent}"


def heartbeat_key(parent: int) -> str:
    """Grows while the ranks of a parent run."""
    return f"heartbeat/{parent}"


def failure_key(parent: int) -> str:
    """Why a rank of this parent failed; not set where none did."""
    return f"failure/{parent}"


def announcement_key(restart: str) -> str:
    """In torchrun's own store: what parent 0 announces in this restart of torchrun."""
    return f"embedcube/{restart}"


# --- signals ----------------------------------------------------------------------------------------------------------

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""After any of them a rank finishes and records what it has drawn and ends with EXIT_START_AGAIN. Batch systems differ
in which one they send."""

STACKS_SIGNAL = signal.SIGQUIT
"""Write the stacks of all threads to the log."""

# --- exit codes -------------------------------------------------------------------------------------------------------

EXIT_DONE = 0
"""Nothing is left to do, as far as this process knows."""

EXIT_FAILED = EmbedcubeError.exit_code
"""1: an error that the next start would hit again; the last line of the log says which."""

EXIT_WRONG_REQUEST = RequestError.exit_code
"""2: the campaign or the command is wrong; nothing was started."""

EXIT_START_AGAIN = StartAgain.exit_code
"""75: something passing (a signal, the end of the job's time, an I/O error, a lost process); start the task again."""

# --- times ------------------------------------------------------------------------------------------------------------

START_TIMEOUT_S = 600.0
"""for all parents of a task to find each other, and then for all ranks to become ready"""

PARENT_SILENT_S = 60.0
"""a parent without a heartbeat for so long is dead, and is not waited for"""

POLL_S = 0.1
"""between two looks of a parent at its ranks, and at the other parents"""
