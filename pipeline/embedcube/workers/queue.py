"""Which shards a rank does: drawn from counters that all ranks of a task share, so that each is drawn once."""

from collections.abc import Callable, Iterator, Sequence

from embedcube.campaign.plan import Shard
from embedcube.kernel.memory import SAMPLES_IN_FLIGHT


class ShardQueue:
    """The shards of a task that have no record, as one of its ranks draws them.

    At first groups, largest first, whose shards read the same blocks; when all are drawn, what is left of any, so that
    no rank ends a group later than the others, and what a dead one has not begun is done. Near the end single shards.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Shard]],
        wanted: Callable[[Shard], bool],
        ranks: int,
        count: Callable[[str], int],
    ) -> None:
        """`count` adds one to the counter of a name, atomically among all ranks, and returns it."""
        self._groups, self._wanted, self._count = groups, wanted, count
        self._shards = sum(wanted(shard) for group in groups for shard in group)
        # what ranks hold that wait for their devices, when they see that it is near the end; but of few shards half are
        # drawn while others are in hand, and one rank has nobody to wait for
        self._last = min(ranks * SAMPLES_IN_FLIGHT, self._shards // 2) if ranks > 1 else 0
        self._left = self._shards
        self._order = self._numbers()
        self._group = 0

    def ahead(self) -> Iterator[Shard]:
        """Until so few are left that they are better drawn singly; may be drawn while others are in hand."""
        while self._left > self._last and (number := next(self._order, 0)):
            self._group = number
            for shard in self._of(number):
                yield shard
                if self._left <= self._last:
                    return

    def singly(self) -> Iterator[Shard]:
        """The rest, each to be drawn when the one before it is done: then ranks end about a shard apart at most."""
        yield from self._of(self._group)
        for number in self._order:
            yield from self._of(number)

    def _numbers(self) -> Iterator[int]:
        """The groups that this rank draws, 1 being the first; then all, of which others may have left something."""
        while (number := self._count("groups")) <= len(self._groups):
            yield number
        yield from range(1, len(self._groups) + 1)

    def _of(self, number: int) -> Iterator[Shard]:
        """What is left of a group; nothing of number 0."""
        group = self._groups[number - 1] if number else ()
        last = max((place for place, shard in enumerate(group, start=1) if self._wanted(shard)), default=0)
        # no counter is asked for a group that has its records
        while last and (place := self._count(f"group {number}")) <= last:
            if self._wanted(group[place - 1]):
                self._left = self._shards - self._count("shards")
                yield group[place - 1]
