"""A discrete-event model (SimPy) of the embedding stage: tasks of a Slurm array, their ranks, one file system.

What is modelled: a rank reads the next shards while it computes one, as `workers/pipeline.py` does; ranks of a task
draw draw groups, then single shards; the file system is a server of bytes and a server of metadata calls, each first
come, first served, and each node has a link of its own; a task ends at its time limit and is put into the queue again;
nodes fail at random, and cost the shards in hand. What is not: the network, other users, consolidation. The same work
on the same machine in closed form, with which `embedcube plan` proposes tasks and nodes, is `prepare/makespan.py`.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from embedcube.prepare.makespan import Machine, Spread, Work

AHEAD = 2
"""shards that a rank has read before its device wants them"""

Process = Generator[simpy.Event, Any, None]


def like(measured: Work, shards: int, times: float, seed: int) -> Work:
    """So many shards, each drawn from the measured ones; all its seconds and bytes `times` as much.

    Shards of a draw group are neighbours also in the measured run, as what they cost is alike.
    """
    random = np.random.default_rng(seed)
    first = random.integers(0, len(measured), -(-shards // measured.group))
    row = ((first[:, None] + np.arange(measured.group)) % len(measured)).ravel()[:shards]
    return Work(
        read_s=measured.read_s[row] * times,
        device_s=measured.device_s[row] * times,
        read_bytes=measured.read_bytes[row] * times,
        calls=measured.calls[row],
        group=measured.group,
    )


@dataclass(kw_only=True)
class Outcome:
    """What came of one campaign."""

    end_s: float = 0.0
    """from `submit` to the last record"""
    held_s: float = 0.0
    """seconds that ranks were held by jobs, all together"""
    device_s: float = 0.0
    """seconds that devices computed what was kept"""
    read_bytes: float = 0.0
    calls: float = 0.0
    calls_waited_s: float = 0.0
    """seconds that ranks waited for metadata, all together"""
    jobs: int = 0
    """jobs that ran: a task has more than one after a time limit or a failure"""
    failures: int = 0
    lost: int = 0
    """shards that were begun and not finished"""
    records: list[float] = field(default_factory=list)
    """time of each record"""

    @property
    def efficiency(self) -> float:
        """Share of the time of all held devices in which they computed."""
        return self.device_s / self.held_s

    @property
    def tail_s(self) -> float:
        """Seconds from the record of the 99th percentile to the last one."""
        return self.end_s - float(np.quantile(self.records, 0.99))


class _Server:
    """First come, first served, at a constant rate: what it is asked for is done after what came before."""

    def __init__(self, environment: simpy.Environment, per_s: float) -> None:
        self._environment, self._per_s, self._free_s = environment, per_s, 0.0

    def wait_s(self, amount: float) -> float:
        """Seconds until so much is served."""
        self._free_s = max(self._environment.now, self._free_s) + amount / self._per_s
        return self._free_s - self._environment.now


class _Shards:
    """The shards of one task that nobody has drawn, or that were given back; as `workers/queue.py` gives them."""

    def __init__(self, shards: Sequence[int], spread: Spread, ranks: int, group: int) -> None:
        blocks = [deque(shards[i : i + group]) for i in range(0, len(shards), group)]
        self._own = [deque(blocks[rank::ranks]) for rank in range(ranks)] if not spread.drawn else []
        self._blocks, self._single = deque(blocks), deque[int]()
        self._in_hand: dict[int, deque[int]] = {}
        self.left = self.undrawn = len(shards)
        self._last = 2 * ranks if ranks > 1 else 0

    @property
    def ending(self) -> bool:
        """Whether so few are left that each rank draws the next one only when it has none in hand."""
        return self.undrawn <= self._last

    def draw(self, rank: int) -> int | None:
        """The next shard of a rank."""
        blocks = self._own[rank] if self._own else self._blocks
        hand = self._in_hand.get(rank)
        if not hand and blocks:
            self._in_hand[rank] = hand = blocks.popleft()
        if not hand and self._single:
            hand = self._single
        if not hand and not self._own:
            # near the end: what another rank has drawn and not begun
            hand = max(self._in_hand.values(), key=len, default=None)
        if not hand:
            return None
        self.undrawn -= 1
        return hand.popleft()

    def give_back(self, shard: int) -> None:
        """A shard was begun and lost."""
        self._single.append(shard)
        self.undrawn += 1


def simulate(work: Work, machine: Machine, spread: Spread, seed: int = 0) -> Outcome:
    """Run the campaign; the same arguments give the same outcome.

    Tasks get runs of neighbouring shards of about equal cost, as `plan` cuts them.
    """
    if spread.nodes_of_task > machine.nodes:
        raise ValueError(f"a task of {spread.nodes_of_task} nodes does not fit on {machine.nodes}")
    environment = simpy.Environment()
    model = _Model(environment, work, machine, spread, np.random.default_rng(seed))
    cost = np.cumsum(np.maximum(work.read_s, work.device_s))
    cuts = np.searchsorted(cost, cost[-1] * np.arange(1, spread.tasks) / spread.tasks)
    for shards in np.split(np.arange(len(work)), cuts):
        environment.process(model.task(shards.tolist()))
    environment.run()
    model.outcome.end_s = max(model.outcome.records)
    return model.outcome


class _Model:
    """The processes of one simulation, and what they share."""

    def __init__(
        self,
        environment: simpy.Environment,
        work: Work,
        machine: Machine,
        spread: Spread,
        random: np.random.Generator,
    ) -> None:
        self._env, self._work, self._machine, self._spread, self._random = environment, work, machine, spread, random
        self._nodes = simpy.Container(environment, machine.nodes, machine.nodes)
        self._bytes = _Server(environment, machine.bytes_per_s)
        self._calls = _Server(environment, machine.calls_per_s)
        self.outcome = Outcome()

    def task(self, shards: list[int]) -> Process:
        """One element of the array: jobs until none of its shards is left."""
        spread, machine = self._spread, self._machine
        todo = _Shards(shards, spread, spread.nodes_of_task * machine.ranks, self._work.group)
        while todo.left:
            yield self._env.timeout(machine.queue_s)
            yield self._nodes.get(spread.nodes_of_task)
            began_s = self._env.now
            yield from self._job(todo)
            self.outcome.held_s += (self._env.now - began_s) * spread.nodes_of_task * machine.ranks
            self.outcome.jobs += 1
            yield self._nodes.put(spread.nodes_of_task)

    def _job(self, todo: _Shards) -> Process:
        """One job of a task: it starts, and its ranks embed until nothing is left, its time is up, or a node fails."""
        machine, nodes = self._machine, self._spread.nodes_of_task
        fails_s = self._env.now + self._random.exponential(3600 * machine.between_failures_h / nodes)
        limit_s = self._env.now + machine.limit_s - machine.lead_s
        yield self._env.timeout(machine.start_s + self._asked(nodes * machine.starts * machine.start_calls))
        links = [_Server(self._env, machine.node_bytes_per_s) for _ in range(nodes)]
        ranks = [
            self._env.process(self._rank(number, todo, links[number // machine.ranks], limit_s))
            for number in range(nodes * machine.ranks)
        ]
        yield self._env.all_of(ranks) | self._env.timeout(max(0.0, fails_s - self._env.now))
        if alive := [rank for rank in ranks if rank.is_alive]:
            self.outcome.failures += 1
            for rank in alive:
                rank.interrupt()
            yield self._env.all_of(alive)

    def _rank(self, number: int, todo: _Shards, link: _Server, limit_s: float) -> Process:
        """One rank: its device computes what its reader has read, until it is interrupted or nothing more comes."""
        ready, written = simpy.Store(self._env, AHEAD), simpy.Store(self._env)
        held: deque[int] = deque()
        reader = self._env.process(self._reader(number, todo, link, limit_s, ready, written, held))
        try:
            while (shard := (yield ready.get())) is not None:
                yield self._env.timeout(float(self._work.device_s[shard]))
                held.remove(shard)
                written.put(shard)
                todo.left -= 1
                self.outcome.device_s += float(self._work.device_s[shard])
                self.outcome.records.append(self._env.now)
        except simpy.Interrupt:
            if reader.is_alive:
                reader.interrupt()
            self.outcome.lost += len(held)
            for shard in held:
                todo.give_back(shard)

    def _reader(
        self,
        number: int,
        todo: _Shards,
        link: _Server,
        limit_s: float,
        ready: simpy.Store,
        written: simpy.Store,
        held: deque[int],
    ) -> Process:
        """Read shards for one rank, and put None after the last."""
        longest_s = 0.0
        try:
            while True:
                while todo.ending and held:
                    yield written.get()
                if self._env.now + longest_s > limit_s or (shard := todo.draw(number)) is None:
                    break
                held.append(shard)
                began_s = self._env.now
                wait_s = self._asked(float(self._work.calls[shard]))
                size = float(self._work.read_bytes[shard])
                self.outcome.read_bytes += size
                moved_s = max(link.wait_s(size), self._bytes.wait_s(size))
                yield self._env.timeout(wait_s + max(moved_s, float(self._work.read_s[shard])))
                yield ready.put(shard)
                longest_s = max(longest_s, self._env.now - began_s + float(self._work.device_s[shard]))
            yield ready.put(None)
        except simpy.Interrupt:
            return

    def _asked(self, calls: float) -> float:
        """Seconds until the file system has answered so many metadata calls."""
        self.outcome.calls += calls
        wait_s = self._calls.wait_s(calls)
        self.outcome.calls_waited_s += wait_s
        return wait_s
