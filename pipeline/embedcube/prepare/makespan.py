"""How long embedding takes on some nodes, in closed form: what `plan` proposes tasks and nodes with.

`benchmarks/campaign_model.py` simulates the same work on the same machine event by event; a test compares the two.
Left out here: failures of nodes, other users of the machine, and consolidation.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CALLS_TO_READ = 3
"""metadata calls of reading one file: open, fstat, close"""

CALLS_TO_WRITE = 3
"""metadata calls of writing what a shard became: it is appended to a file of the rank, with two fsyncs"""

Limit = Literal["work", "start", "shards", "metadata", "bytes"]
"""What decides the end: the work itself; the start of jobs; the last shards, for which other ranks wait; the rates of
the file system"""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The shards of a campaign, taken together."""

    shards: int
    rank_s: float
    """seconds of one rank for all shards: of each the longer of reading and computing, as both go on at once"""
    device_s: float
    """seconds in which a device computes"""
    longest_s: float
    """seconds of a rank for the most expensive shard"""
    read_bytes: float
    calls: float
    """metadata calls of reading and writing all shards"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The shards of a campaign one by one, in the order of the plan."""

    read_s: Floats
    """seconds that a rank takes to read and decode each, with the file system idle"""
    device_s: Floats
    """seconds that its forward passes take"""
    read_bytes: Floats
    calls: Floats
    """metadata calls of reading its files and of writing what it made"""
    group: int = 8
    """neighbouring shards that a rank draws together"""

    def __len__(self) -> int:
        return len(self.read_s)

    @property
    def totals(self) -> Totals:
        """The shards taken together."""
        of_rank = np.maximum(self.read_s, self.device_s)
        return Totals(
            shards=len(self),
            rank_s=float(of_rank.sum()),
            device_s=float(self.device_s.sum()),
            longest_s=float(of_rank.max()),
            read_bytes=float(self.read_bytes.sum()),
            calls=float(self.calls.sum()),
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes, their file system, and the batch system."""

    nodes: int
    """nodes that the campaign may have at once"""
    ranks: int = 4
    """ranks of a node"""
    start_s: float = 12.0
    """from the begin of a job to the first draw of its ranks, besides metadata: container, imports, weights"""
    start_calls: float = 30_000.0
    """metadata calls of one Python process that starts, as counted with strace"""
    starts: int = 1
    """Python processes that a node starts: ranks are forked from one"""
    queue_s: float = 60.0
    """wait of a job in the queue, each time"""
    limit_s: float = 86_400.0
    """time limit of a job"""
    lead_s: float = 300.0
    """time before the limit when ranks stop"""
    between_failures_h: float = 6_300.0
    """hours between two failures of one node (Llama 3, arXiv:2407.21783, table 5: 419 in 54 days of 2,048 nodes); only
    the simulation heeds them"""
    node_bytes_per_s: float = 10e9
    """bytes that one node can read a second"""
    bytes_per_s: float = 100e9
    """bytes that the file system gives a second (a fifth of DKRZ's Lustre of 2018, docs/scale.md)"""
    calls_per_s: float = 30_000.0
    """metadata calls that it answers a second (one server of the same)"""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How work is given to tasks and ranks."""

    tasks: int
    nodes_of_task: int = 1
    drawn: bool = True
    """whether the ranks of a task draw shards, as they do; the simulation also knows a fixed share for each"""


@dataclass(frozen=True, kw_only=True)
class Makespan:
    """How long a campaign takes, about."""

    end_s: float
    """from `submit` to the last record"""
    task_s: float
    """seconds of one task in its jobs, without the queue"""
    jobs_of_task: int
    """jobs that a task needs: more than one where it does not end in its time"""
    efficiency: float
    """share of the time of all held devices in which they compute"""
    limit: Limit


def makespan(work: Totals, machine: Machine, spread: Spread) -> Makespan:
    """How long the work takes, spread over tasks whose ranks draw shards.

    The end of a task lies between its mean rank and the longest shard more (Graham's bound of list scheduling, SIAM J.
    Appl. Math. 17, 1969): the middle is taken. The file system works beside the ranks, so the slower of them decides.

    Raises:
        ValueError: a task does not fit on the nodes, or its time is over before its ranks begin.
    """
    at_once = min(spread.tasks, machine.nodes // spread.nodes_of_task)
    if not at_once:
        raise ValueError(f"a task of {spread.nodes_of_task} nodes does not fit on {machine.nodes}")
    ranks = spread.nodes_of_task * machine.ranks
    calls_of_job = spread.nodes_of_task * machine.starts * machine.start_calls
    # all jobs that start together ask together, and the last of them is answered last
    begin_s = machine.start_s + at_once * calls_of_job / machine.calls_per_s
    mean_s = work.rank_s / (spread.tasks * ranks)
    # of few shards some ranks have one more than others
    most = math.ceil(math.ceil(work.shards / spread.tasks) / ranks)
    counted_s = most * work.rank_s / work.shards
    embed_s = max(work.longest_s, counted_s, mean_s + work.longest_s * (1 - 1 / ranks) / 2)
    room_s = machine.limit_s - machine.lead_s - begin_s
    if room_s <= 0:
        raise ValueError(f"a job of {machine.limit_s:.0f} s ends before its ranks begin, after {begin_s:.0f} s")
    jobs = math.ceil(embed_s / room_s)
    task_s = jobs * begin_s + embed_s
    rounds = -(-spread.tasks // at_once)
    # in later rounds jobs no longer start together; they wait in the queue while others work
    again_s = jobs * (machine.start_s + calls_of_job / machine.calls_per_s) + embed_s
    ranks_end_s = task_s + (rounds - 1) * again_s + (jobs - 1) * machine.queue_s * (rounds == 1)
    metadata_s = machine.start_s + (work.calls + spread.tasks * jobs * calls_of_job) / machine.calls_per_s
    links = at_once * spread.nodes_of_task * machine.node_bytes_per_s
    bytes_s = begin_s + work.read_bytes / min(machine.bytes_per_s, links)
    limit: Limit
    if ranks_end_s >= max(metadata_s, bytes_s):
        decided_s, limit = ranks_end_s, _of_ranks(jobs * begin_s, embed_s, mean_s)
        held_s = ranks * (at_once * task_s + (spread.tasks - at_once) * again_s)
    else:
        decided_s, limit = (metadata_s, "metadata") if metadata_s >= bytes_s else (bytes_s, "bytes")
        held_s = ranks * at_once * decided_s
    return Makespan(
        end_s=machine.queue_s + decided_s,
        task_s=task_s,
        jobs_of_task=jobs,
        efficiency=work.device_s / held_s,
        limit=limit,
    )


def _of_ranks(begin_s: float, embed_s: float, mean_s: float) -> Limit:
    """What keeps ranks from computing most, where the file system gives all that they ask for."""
    waiting_s = embed_s - mean_s
    if mean_s >= max(begin_s, waiting_s):
        return "work"
    return "start" if begin_s > waiting_s else "shards"
