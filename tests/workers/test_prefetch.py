"""`prefetched` keeps order, passes exceptions on, and leaves no thread behind."""

import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from embedcube.workers.prefetch import prefetched


def numbers(count: int, fail_at: int | None = None) -> Generator[int, None, None]:
    """0, 1, ...; an OSError instead of number `fail_at`."""
    for i in range(count):
        if i == fail_at:
            raise OSError("broken")
        yield i


def test_order_and_end() -> None:
    """All items, in order, and no thread left."""
    before = set(threading.enumerate())
    assert list(prefetched(numbers(100), ahead=3)) == list(range(100))
    assert set(threading.enumerate()) <= before


def test_exception_comes_after_the_items_before_it() -> None:
    """What was made is handed over before the failure is raised."""
    items = prefetched(numbers(10, fail_at=4))
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="broken"):
        next(items)


def test_leaving_early_closes_the_source() -> None:
    """A consumer that fails ends the thread and the iterator below it, also through two stages."""
    closed = threading.Event()

    def source() -> Generator[int, None, None]:
        try:
            yield from numbers(1000)
        finally:
            closed.set()

    def doubled(items: Iterator[int]) -> Generator[int, None, None]:
        for item in items:
            yield 2 * item

    before = set(threading.enumerate())
    stages: Any = prefetched(doubled(prefetched(source())))
    assert next(stages) == 0
    stages.close()
    assert closed.is_set()
    assert set(threading.enumerate()) <= before


def test_it_runs_ahead() -> None:
    """The next item is being made while this one is looked at."""
    made: list[int] = []

    def source() -> Generator[int, None, None]:
        for i in range(3):
            made.append(i)
            yield i

    items = prefetched(source())
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(made) >= 2
    assert list(items) == [1, 2]
