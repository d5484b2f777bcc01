"""What the processes of one task say to each other: variables, requests, signals, exit codes, times.

The story of a task, from the top:

1. **Job script** (jobs/slurm.py writes it) or `embedcube embed` by hand. It exports TASK, END_TIME and, where the site
   needs them, HOST_SUFFIX, LAUNCHER and IMAGE_DIGEST, and starts one *parent* on each node of the task.
2. **Parents** (task.py). Each starts a fork server first of all (starting.py), which imports what ranks need while the
   parents find each other (rendezvous.py): by a file under srun and torchrun, by MPI, or there is only one. Parent 0
   keeps the task's counters and reports in its memory (coordinator.py). Where there is one parent, nothing listens.
   Where there are several, parent 0 listens on the site's interface, and each other parent connects to it and proves
   that it has the key of this start (parents.py). Each parent lets its fork server fork the ranks of its node
   (forkserver.py, ranks.py) and gives them `Place`. A rank gets one end of a socket pair. On it the rank asks and its
   parent answers (channel.py); what concerns the whole task, a parent asks parent 0. All of it is JSON text, and never
   pickled.
3. **Ranks** (rank.py) compare their versions with the plan's, form a process group, receive the weights by broadcast
   (broadcast.py) and leave the process group. They find each other in a store of torch: a file in a private folder of
   the node, or, between nodes, a TCPStore that rank 0 opens on the site's interface and whose address it says by MEET.
   Then each says READY. The answer comes when all ranks are ready; then the store is gone, and nothing of torch
   listens any more. All of this has START_TIMEOUT_S. If a rank ends before all are ready, all parents kill their
   ranks: these would wait for it until the time-out.
4. Parent 0 has read which shards have no record, and has written that for the ranks (left.py). Each rank draws of
   these (queue.py): COUNT adds 1 to GROUPS_DRAWN, `group_key` and SHARDS_DRAWN, so that no shard is drawn twice, and
   to SHARDS_RECORDED, so that parent 0 knows how far the task is. Before a rank begins a shard it says by HOLD which
   shards it has in hand. If a signal kills the rank, its parent writes those without a record to crash.json
   (crashes.py): one of them may be the cause.
5. **The end.** A rank ends when no shard is left, or early, with the shards that it has drawn finished and recorded:
   after a STOP_SIGNALS, when END_TIME is near, or when its parent is gone. It has at least STOP_S for that, and longer
   where its shards take longer; then it ends all the same (stopping.py). After an error it ends at once, and the
   parents end the other ranks, which have FAILURE_GRACE_S to finish what they hold: an error would come again.
   A parent that has lost parent 0 ends its ranks like after a signal. A second stop signal to a parent kills its ranks.
   Each other parent says DONE when its ranks have ended. Parent 0 waits for that, but not for a parent whose connection
   is closed or which has said nothing for PARENT_SILENT_S; then it counts the records and ends.
6. **Exit codes**, of ranks and parents alike, see EXIT_*. The job script requeues its job after EXIT_START_AGAIN; the
   next start does only what has no record. A parent ends with 2 where campaign or command is wrong (errors.py). A rank
   that a signal killed has a negative code at its parent. Each parent reports in one line why a rank has ended early,
   and parent 0 prints the first of these lines.

SIGQUIT is for people: parent and ranks write the stack of every thread to their logs and go on.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from embedcube.errors import EmbedcubeError, StartAgain

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

INTERFACE = "GLOO_SOCKET_IFNAME"
"""The interface of the site, on which ranks and parents of several nodes find each other; gloo reads it too."""

NCCL_INTERFACE = "NCCL_SOCKET_IFNAME"
"""The same interface, for NCCL."""

PARENT = "EMBEDCUBE_PARENT"
"""`Place.parent`; only ranks have it."""

STORE = "EMBEDCUBE_STORE"
"""`Place.store`; only ranks have it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which rank a process is, and how it reaches its parent and the other ranks."""

    rank: int
    """0 .. world - 1; ranks of one node are neighbours"""
    local_rank: int
    """the rank within its node, and the number of its GPU"""
    world: int
    """ranks of the task, on all nodes"""
    parent: int
    """file descriptor of the rank's end of the socket pair that it shares with its parent"""
    store: str
    """file in which the ranks find each other; empty where they are on several nodes"""

    def variables(self) -> dict[str, str]:
        """The environment variables that say it; the first three are named as torch.distributed names them."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world),
            PARENT: str(self.parent),
            STORE: self.store,
        }

    @classmethod
    def from_variables(cls, environment: Mapping[str, str]) -> "Place":
        """The inverse of `variables`."""
        return cls(
            rank=int(environment["RANK"]),
            local_rank=int(environment["LOCAL_RANK"]),
            world=int(environment["WORLD_SIZE"]),
            parent=int(environment[PARENT]),
            store=environment[STORE],
        )


# --- requests: a rank asks its parent, a parent asks parent 0 --------------------------------------------------------

COUNT = "count"
"""(counter): add 1 to it; the answer is the new number."""

READY = "ready"
"""(rank): it holds the plan's weights. To a rank the answer comes when all ranks are ready."""

MEET = "meet"
"""(address): of the TCPStore that rank 0 has opened for the weights."""

WHERE = "where"
"""(): the answer is that address; a rank's request is answered when there is one."""

HOLD = "hold"
"""(shards, seconds): what a rank has in hand, and how long it may take to finish that. Its parent keeps it."""

JOIN = "join"
"""(parent, host): the first request of another parent; the answer is why it is refused, or empty."""

STATE = "state"
"""(): the answer is the `State` of the task. It is also the heartbeat of a parent."""

REPORT = "report"
"""(kind, text): why a rank has ended early."""

DONE = "done"
"""(): all ranks of this parent have ended."""

# --- counters ---------------------------------------------------------------------------------------------------------

GROUPS_DRAWN = "groups drawn"
"""Counts the draw groups that some rank has begun."""

SHARDS_DRAWN = "shards drawn"
"""Counts the shards that some rank has drawn."""


SHARDS_RECORDED = "shards recorded"
"""Counts the shards that were recorded: nobody reads files to know how far a task is."""


def group_key(number: int) -> str:
    """Counts the places of draw group `number` (from 1) that were drawn."""
    return f"group drawn/{number}"


def announcement_key(restart: str) -> str:
    """In torchrun's own store: the attempt in whose folder parent 0 announces itself, for each restart of torchrun."""
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

EXIT_START_AGAIN = StartAgain.exit_code
"""75: something passing (a signal, the end of the job's time, an I/O error, a lost process); start the task again."""

# --- times ------------------------------------------------------------------------------------------------------------

START_TIMEOUT_S = 600.0
"""for all parents of a task to find each other, and then for all ranks to become ready"""

ANSWER_TIMEOUT_S = 30.0
"""a process that does not answer a request for so long is taken for lost; what it has to do takes milliseconds"""

HANDSHAKE_S = 10.0
"""for a process that has connected to parent 0 to prove that it has the key"""

PARENT_SILENT_S = 60.0
"""a parent that has said nothing for so long is dead, and is not waited for"""

STOP_S = 60.0
"""at least so long has a rank, when it is to stop, for the shards that it holds; see `RankDraws.finish_s`"""

FAILURE_GRACE_S = 40.0
"""so long have the other ranks for what they hold when one has failed: the task has ended within a minute"""

KILL_S = 10.0
"""for a killed process to disappear; one that hangs in the kernel is left behind"""

POLL_S = 0.1
"""between two looks of a parent at its ranks, and at the other parents"""

BEAT_S = 1.0
"""between two requests of a parent for the state of the task, when all ranks are ready"""
