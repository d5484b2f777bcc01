"""Which shards a rank embeds, in which order, and when it stops drawing more.

All ranks of a task share the counters of parent 0, so that each shard is drawn once.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from embedcube.campaign.plan import Shard
from embedcube.kernel.memory import SAMPLES_IN_FLIGHT
from embedcube.workers.channel import Lost
from embedcube.workers.crashes import CrashHistory, Held
from embedcube.workers.protocol import GROUPS_DRAWN, SHARDS_DRAWN, SHARDS_RECORDED, STOP_S, Place, group_key
from embedcube.workers.stopping import Stop

log = logging.getLogger(__name__)


class Parent(Protocol):
    """The parent of a rank, as drawing needs it; both raise Lost when it is gone."""

    def count(self, counter: str) -> int:
        """Add 1 to a counter, atomically among all ranks, and return it."""
        ...

    def hold(self, held: Sequence[Held], finish_s: float) -> None:
        """Say which shards this rank has in hand, and how long it may take to finish them."""
        ...


class ShardQueue:
    """The shards of a task that have no record, as one of its ranks draws them.

    First whole draw groups, largest first, whose shards read the same blocks. When all groups are drawn, the rest of
    any group: so no rank ends much later than the others, and what a dead rank has not begun is done. Near the end
    shards are drawn one at a time.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Shard]],
        to_do: Callable[[Shard], bool],
        ranks: int,
        count: Callable[[str], int],
    ) -> None:
        """`count` adds 1 to the counter of a name, atomically among all ranks, and returns it."""
        self._groups, self._to_do, self._count = groups, to_do, count
        self._shards = sum(to_do(shard) for group in groups for shard in group)
        # as many as ranks hold ready for their devices when the end is near; of few shards at most half, as those are
        # drawn while others are computed; and a lone rank waits for nobody
        self._last = min(ranks * SAMPLES_IN_FLIGHT, self._shards // 2) if ranks > 1 else 0
        self._left = self._shards
        self._order = self._numbers()
        self._group = 0

    def ahead(self) -> Iterator[Shard]:
        """The shards that may be drawn while others are computed: all but the last few."""
        while self._left > self._last and (number := next(self._order, 0)):
            self._group = number
            for shard in self._rest_of(number):
                yield shard
                if self._left <= self._last:
                    return

    def singly(self) -> Iterator[Shard]:
        """The last shards; draw each when the one before it is written: then all ranks end about a shard apart."""
        yield from self._rest_of(self._group)
        for number in self._order:
            yield from self._rest_of(number)

    def _numbers(self) -> Iterator[int]:
        """The groups that this rank draws, from 1 on; then all groups, as another rank may have left something."""
        while (number := self._count(GROUPS_DRAWN)) <= len(self._groups):
            yield number
        yield from range(1, len(self._groups) + 1)

    def _rest_of(self, number: int) -> Iterator[Shard]:
        """The shards of a group that nobody has drawn; none for number 0."""
        group = self._groups[number - 1] if number else ()
        last = max((place for place, shard in enumerate(group, start=1) if self._to_do(shard)), default=0)
        # a group whose shards all have records costs no request to the parent
        while last and (place := self._count(group_key(number))) <= last:
            if self._to_do(group[place - 1]):
                self._left = self._shards - self._count(SHARDS_DRAWN)
                yield group[place - 1]


class RankDraws:
    """The shards of one rank, until none is left, it is to stop, its parent is gone, or the job's time is nearly over.

    Each shard is reported to the parent before it is begun, so that the parent knows what a killed rank held.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Shard]],
        left: Collection[str],
        history: CrashHistory,
        parent: Parent,
        place: Place,
        ranks_per_node: int,
        stop: Stop,
        end_time_s: float,
    ) -> None:
        """`left` are the recipes that are to be embedded.

        `stop` ends the drawing; the job ends at `end_time_s` (since 1970).
        """
        shards = [shard for group in groups for shard in group]
        self._parent, self._stop, self._end_time_s = parent, stop, end_time_s
        self._queue = ShardQueue(
            groups, lambda shard: shard.recipe in left and not history.suspect(shard), place.world, self._count
        )
        self._suspects = history.suspects(shards, place, ranks_per_node)
        # the reading thread draws, the writing thread lets go
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._longest_s = 0.0

    def ahead(self) -> Iterator[Shard]:
        """The shards that may be drawn while others are computed."""
        return self._until_stop(self._queue.ahead())

    def singly(self) -> Iterator[Shard]:
        """The last shards, and suspects of earlier crashes; draw each when the one before it is written."""
        yield from self._until_stop(self._queue.singly())
        for shard in self._until_stop(iter(self._suspects), suspect=True):
            log.warning("%s: embedded alone, as an earlier rank was killed while it held this shard", shard)
            yield shard

    def written(self, shard: Shard, took_s: float) -> None:
        """A shard has its record; it took so long from the begin of its reading."""
        self.let_go(shard)
        with suppress(Lost):  # the next shard that is to be drawn says so
            self._parent.count(SHARDS_RECORDED)
        self._longest_s = max(self._longest_s, took_s)

    def let_go(self, shard: Shard) -> None:
        """The rank has a shard no longer in hand: it is recorded, or left undone."""
        with self._lock:
            self._held.pop(shard.recipe, None)

    def finish_s(self) -> float:
        """How long the rank may take for what it holds, when it is to stop."""
        return max(STOP_S, SAMPLES_IN_FLIGHT * self._longest_s)

    def _until_stop(self, shards: Iterator[Shard], *, suspect: bool = False) -> Iterator[Shard]:
        for shard in shards:
            self._hold(shard, suspect=suspect)
            if self._stop.is_set() or self._time_is_up(shard):
                self.let_go(shard)
                return
            yield shard

    def _hold(self, shard: Shard, *, suspect: bool) -> None:
        """Tell the parent which shards this rank holds; a rank whose parent is gone begins no other shard.

        Another parent may have started the same task again, and its ranks draw the rest of the group.
        """
        with self._lock:
            self._held[shard.recipe] = Held(recipe=shard.recipe, shard=str(shard), suspect=suspect)
            held = tuple(self._held.values())
        try:
            self._parent.hold(held, self.finish_s())
        except Lost as error:
            self._parent_is_gone(error)

    def _time_is_up(self, shard: Shard) -> bool:
        """The job would end before this shard and those before it in the pipeline were written."""
        needed_s, left_s = SAMPLES_IN_FLIGHT * self._longest_s, self._end_time_s - time.time()
        if needed_s < left_s:
            return False
        self._stop.set(
            f"{shard}: not begun, the job ends in {left_s:.0f} s and the longest shard took {self._longest_s:.0f} s"
        )
        return True

    def _count(self, counter: str) -> int:
        """Add 1 to a counter and return it; after a stop, a number beyond all shards."""
        if not self._stop.is_set():
            try:
                return self._parent.count(counter)
            except Lost as error:
                self._parent_is_gone(error)
        return sys.maxsize

    def _parent_is_gone(self, error: Lost) -> None:
        self._stop.set(f"the parent of the rank does not answer: {error}")
