"""Ranks share shards out among themselves: each is drawn once, and all end together."""

import heapq
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from embedcube.campaign.plan import Shard
from embedcube.kernel.memory import SAMPLES_IN_FLIGHT
from embedcube.workers.protocol import group_key
from embedcube.workers.queue import ShardQueue

seconds = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9), max_size=12)
"""of the shards of each group"""


def shard(place: int) -> Shard:
    return Shard(layer="l", zone="z", t=0, row=0, col=0, iy=0, ix=place, recipe=str(place), scenes=())


def counters() -> Callable[[str], int]:
    """As the store of a task has them."""
    found: Counter[str] = Counter()

    def add(name: str) -> int:
        found[name] += 1
        return found[name]

    return add


def numbered(seconds: list[list[int]]) -> tuple[list[list[Shard]], list[int]]:
    """The groups, and the seconds of each shard by its number."""
    flat = [one for group in seconds for one in group]
    numbers = iter(range(len(flat)))
    return [[shard(next(numbers)) for _ in group] for group in seconds], flat


class Rank:
    """Draws up to `ahead` shards while it works on one; then, where no more may be held, one at a time."""

    def __init__(self, draws: ShardQueue, ahead: int) -> None:
        self._phases: deque[tuple[Iterator[Shard], int]] = deque([(draws.ahead(), ahead), (draws.singly(), 1)])
        self._held: deque[Shard] = deque()

    def next(self) -> Shard | None:
        """What it works on after what it has done; None at the end."""
        while self._phases:
            shards, most = self._phases[0]
            while len(self._held) < most and (drawn := next(shards, None)) is not None:
                self._held.append(drawn)
            if self._held:
                return self._held.popleft()
            self._phases.popleft()
        return None


def work(
    groups: Sequence[Sequence[Shard]],
    took: Sequence[int],
    ranks: int,
    wanted: Callable[[Shard], bool],
    dies_at: int = -1,
) -> tuple[list[Shard], list[int]]:
    """All shards that were done, and when each rank ended; the first rank does not outlive the moment `dies_at`."""
    add = counters()
    working = [Rank(ShardQueue(groups, wanted, ranks, add), SAMPLES_IN_FLIGHT) for _ in range(ranks)]
    done: list[Shard] = []
    ended = [0] * ranks
    free = [(0, number) for number in range(ranks)]
    while free:
        now, number = heapq.heappop(free)
        if number == 0 and 0 <= dies_at <= now:
            continue
        one = working[number].next()
        if one is not None:
            done.append(one)
            ended[number] = now + took[int(one.recipe)]
            heapq.heappush(free, (ended[number], number))
    return done, ended


@given(seconds, st.integers(1, 8), st.sets(st.integers(0, 40)))
def test_each_shard_is_drawn_once(seconds: list[list[int]], ranks: int, recorded: set[int]) -> None:
    """But for those that have a record."""
    groups, took = numbered(seconds)
    done, _ = work(groups, took, ranks, lambda one: int(one.recipe) not in recorded)
    assert sorted(int(one.recipe) for one in done) == [i for i in range(len(took)) if i not in recorded]


@given(st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=9), min_size=9, max_size=20), st.integers(2, 4))
def test_none_waits_longer_than_another_has_in_hand(seconds: list[list[int]], ranks: int) -> None:
    """Whatever shards take; as long as there were enough to share out."""
    groups, took = numbered(seconds)
    assume(len(took) > 2 * ranks * SAMPLES_IN_FLIGHT)
    _, ended = work(groups, took, ranks, lambda _: True)
    assert max(ended) - min(ended) <= SAMPLES_IN_FLIGHT * max(took)


@settings(derandomize=True)
@given(st.lists(st.lists(st.integers(8, 12), min_size=3, max_size=9), min_size=5, max_size=20), st.integers(2, 4))
def test_ranks_end_within_the_time_of_one_shard(seconds: list[list[int]], ranks: int) -> None:
    """Where these differ by half at most; where they differ more, most often (`benchmarks.spread`)."""
    groups, took = numbered(seconds)
    assume(len(took) > 2 * ranks * SAMPLES_IN_FLIGHT)
    _, ended = work(groups, took, ranks, lambda _: True)
    assert max(ended) - min(ended) <= max(took)


@given(seconds, st.integers(2, 8), st.integers(0, 60))
def test_others_do_what_a_dead_rank_has_not_begun(seconds: list[list[int]], ranks: int, dies_at: int) -> None:
    """Only what it had in hand is left for another attempt."""
    groups, took = numbered(seconds)
    done, _ = work(groups, took, ranks, lambda _: True, dies_at)
    assert len(took) - len(done) <= SAMPLES_IN_FLIGHT


def test_a_stop_ends_all_drawing() -> None:
    """A counter that is lost, or not to be asked any more, is beyond all shards."""
    groups, _ = numbered([[1] * 9, [1] * 9, [1] * 9])
    add, asked = counters(), Counter[str]()

    def until_the_stop(name: str) -> int:
        asked["in all"] += 1
        return add(name) if asked["in all"] < 8 else sys.maxsize

    draws = ShardQueue(groups, lambda _: True, 2, until_the_stop)
    assert [one.recipe for one in draws.ahead()] == ["0", "1", "2"]
    assert list(draws.singly()) == []


def test_recorded_groups_ask_no_counter() -> None:
    """Of a hundred thousand shards that have their records, none is asked for one by one."""
    groups, _ = numbered([[1] * 9, [1] * 9])
    add, asked = counters(), list[str]()

    def noted(name: str) -> int:
        asked.append(name)
        return add(name)

    draws = ShardQueue(groups, lambda one: int(one.recipe) > 15, 2, noted)
    assert [one.recipe for one in [*draws.ahead(), *draws.singly()]] == ["16", "17"]
    assert group_key(1) not in asked


def test_a_lone_rank_draws_all_ahead() -> None:
    """It has nobody to wait for, so it always reads while it works."""
    groups, _ = numbered([[1, 1, 1], [1]])
    draws = ShardQueue(groups, lambda _: True, 1, counters())
    assert [one.recipe for one in draws.ahead()] == ["0", "1", "2", "3"]
    assert list(draws.singly()) == []
