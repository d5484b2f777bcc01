"""Spread work over the products of an archive on all cores of this machine."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from embedcube.machine import cores

_AT_ONCE = 128
"""items in one piece of work"""

_MANY = 1 << 13
"""from this many items on processes are used, which take a second to start; threads share one interpreter lock"""

_PROCESSES = 16
"""most processes, because a login node is shared"""

T = TypeVar("T")
R = TypeVar("R")


def spread(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> Iterator[R]:
    """Results of `work` over pieces of `items`, in order.

    `work`, the items and the results must be picklable.

    Raises:
        Exception: any error of `work`.
    """
    chunks = [items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE)]
    with _pool(len(items)) as pool:
        yield from chain.from_iterable(pool.map(work, chunks))


def _pool(items: int) -> Executor:
    if items < _MANY:
        return ThreadPoolExecutor(cores(), thread_name_prefix="index")
    level = logging.getLogger("embedcube").level
    # a fork would copy locks held by other threads
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(min(cores(), _PROCESSES), context, initializer=_log_from, initargs=(level,))


def _log_from(level: int) -> None:
    """Log in a new process what its parent would log."""
    if level:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("embedcube").setLevel(level)
