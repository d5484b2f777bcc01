"""Work over the many products of an archive, on all cores of this machine."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from embedcube.machine import cores

_AT_ONCE = 128
"""items that a core takes"""

_MANY = 1 << 13
"""items from which processes, which take a second to start, pay; threads share one interpreter's lock"""

_PROCESSES = 16
"""at most, on a login node shared with others"""

T = TypeVar("T")
R = TypeVar("R")


def spread(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> Iterator[R]:
    """What `work` makes of some items at a time, in their order.

    `work` and what it takes and gives can be pickled.

    Raises:
        Exception: what `work` raises.
    """
    chunks = [items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE)]
    with _pool(len(items)) as pool:
        yield from chain.from_iterable(pool.map(work, chunks))


def _pool(items: int) -> Executor:
    if items < _MANY:
        return ThreadPoolExecutor(cores(), thread_name_prefix="index")
    # a fork would take locks of threads along
    return ProcessPoolExecutor(min(cores(), _PROCESSES), multiprocessing.get_context("spawn"))
