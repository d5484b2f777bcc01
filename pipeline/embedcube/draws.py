"""Which shards a rank does: drawn from counters that all ranks of a task share, so that each is drawn once."""

from collections.abc import Callable, Iterator, Sequence

from embedcube.embed import Shard
from embedcube.price import SAMPLES_IN_FLIGHT


class Draws:
    """The shards of a task that have no record, as one of its ranks draws them.

    At first groups, largest first, whose shards read the same blocks: the rank that draws a group does all of it. Near
    the end single shards, of whatever group has some left: so no rank ends a group later than the others, and what a
    dead one has not begun is done.
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
        # what the ranks may hold when the last of them has seen that it is near the end; one has nobody to wait for
        self._last = ranks * SAMPLES_IN_FLIGHT if ranks > 1 else 0
        self._left = self._shards
        self._group = 0

    def ahead(self) -> Iterator[Shard]:
        """Until so few are left that they are better drawn singly; may be drawn while others are in hand."""
        while self._left > self._last and self._next_group():
            for shard in self._of(self._group):
                yield shard
                if self._left <= self._last:
                    return

    def singly(self) -> Iterator[Shard]:
        """The rest, each to be drawn when the one before it is done: then ranks end about a shard apart at most."""
        yield from self._of(self._group)
        while self._next_group():
            yield from self._of(self._group)
        for group in range(1, len(self._groups) + 1):
            yield from self._of(group)

    def _next_group(self) -> bool:
        self._group = min(self._count("groups"), len(self._groups) + 1)
        return self._group <= len(self._groups)

    def _of(self, number: int) -> Iterator[Shard]:
        """What is left of a group, 1 being the first; nothing of one that there is not."""
        group = self._groups[number - 1] if 0 < number <= len(self._groups) else ()
        while (place := self._count(f"group {number}")) <= len(group):
            if self._wanted(group[place - 1]):
                self._left = self._shards - self._count("shards")
                yield group[place - 1]
