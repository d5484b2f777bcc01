"""Spread work over the products of an archive on all cores of this machine."""

import gc
import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TypeVar

from embedcube.machine import cores
from embedcube.progress import Progress, silent

_AT_ONCE = 128
"""items in one piece of work"""

_AHEAD = 4
"""pieces for each process that are begun before their results are taken: what waits for its reader takes memory"""

_MANY = 1 << 13
"""from this many items on processes are used, which take a second to start; threads share one interpreter lock"""

_PROCESSES = 16
"""most processes, because a login node is shared"""

_UNCOLLECTED = 100_000
"""objects that a process makes before Python looks for circles among them: there are none in what is read here"""

T = TypeVar("T")
R = TypeVar("R")


class _Kept:
    """The processes that were started for one piece of work and serve the next ones, too."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.pool: Executor | None = None

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keeping_processes(progress: Progress = silent) -> Iterator[None]:
    """Start processes at most once for all calls of `spread` inside; `progress` is told what these have done."""
    with ExitStack() as stack:
        kept = _Kept(progress)
        token = _kept.set(kept)
        stack.callback(_kept.reset, token)
        stack.callback(kept.close)
        yield


def spread(
    work: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    *,
    at_once: int = _AT_ONCE,
    told: Callable[[int, int], tuple[int, int | None]] | None = None,
) -> Iterator[R]:
    """Results of `work` over pieces of `items`, in order; only some pieces are computed before they are asked for.

    `work`, the items and the results must be picklable. `told` gives from the number of items that are done, and of
    all, what progress is shown; without it none is.

    Raises:
        Exception: any error of `work`.
    """
    kept = _kept.get()
    with ExitStack() as stack:
        pool = _pool(len(items), kept, stack)
        begun: deque[Future[list[R]]] = deque()
        # what was begun and is not wanted any more must not keep the process from ending
        stack.callback(lambda: [future.cancel() for future in begun])
        done = 0
        starts = iter(range(0, len(items), at_once))
        ahead = _AHEAD * min(cores(), _PROCESSES)
        while True:
            while len(begun) < ahead and (start := next(starts, None)) is not None:
                begun.append(pool.submit(work, items[start : start + at_once]))
            if not begun:
                return
            found = begun.popleft().result()
            done = min(len(items), done + at_once)
            if kept is not None and told is not None:
                kept.progress(*told(done, len(items)))
            yield from found


def _pool(items: int, kept: _Kept | None, stack: ExitStack) -> Executor:
    if kept is not None and kept.pool is not None:
        return kept.pool
    if items < _MANY:
        return stack.enter_context(ThreadPoolExecutor(cores(), thread_name_prefix="index"))
    level = logging.getLogger("embedcube").level
    # a fork would copy locks held by other threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(cores(), _PROCESSES), context, initializer=_begin, initargs=(level,))
    if kept is None:
        return stack.enter_context(pool)
    kept.pool = pool
    return pool


def _begin(level: int) -> None:
    """Log in a new process what its parent would log."""
    gc.set_threshold(_UNCOLLECTED)
    if level:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("embedcube").setLevel(level)
