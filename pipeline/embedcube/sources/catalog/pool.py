"""Spread work over the products of an archive on all cores of this machine."""

import gc
import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

from embedcube.errors import StartAgain
from embedcube.machine import cores
from embedcube.printable import printable
from embedcube.progress import Progress, silent
from embedcube.sources.apart import Crashed, apart

_AT_ONCE = 128
"""items in one piece of work"""

_AHEAD = 4
"""pieces for each process that are begun before their results are taken: what waits for its reader takes memory"""

_MANY = 1 << 13
"""from this many items on processes are used, which take a second to start; threads share one interpreter lock"""

_PROCESSES = 16
"""most processes, because a login node is shared"""

_ANY_SIZE = 1 << 34
"""bytes of the files of one piece, of which more is not known, for its CPU time: about an hour; see `apart`"""

_UNCOLLECTED = 100_000
"""objects that a process makes before Python looks for circles among them: there are none in what is read here"""

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


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
    """Start processes at most once for all calls of `spread` inside; `progress` is told what these have done.

    Inside of another such block the processes are that one's.
    """
    if (outer := _kept.get()) is not None:
        before, outer.progress = outer.progress, progress
        try:
            yield
        finally:
            outer.progress = before
        return
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
    lost: Callable[[T, str], R],
    name: Callable[[T], str],
    told: Callable[[int, int], tuple[int, int | None]] | None = None,
) -> Iterator[R]:
    """Results of `work` over pieces of `items`, in order; only some pieces are computed before they are asked for.

    `work`, the items and the results must be picklable. `told` gives from the number of items that are done, and of
    all, what progress is shown; without it none is. An item whose bytes crash a process costs no other item: its result
    is what `lost` makes of it and of the reason. `name` is what errors call an item.

    Raises:
        Exception: any error of `work`.
        StartAgain: a process was killed, most likely for want of memory, and again with one item alone.
    """
    kept = _kept.get()
    with ExitStack() as stack:
        pool = _pool(len(items), kept, stack)
        begun: deque[_Begun[T, R]] = deque()
        # what was begun and is not wanted any more must not keep the process from ending
        stack.callback(lambda: [one.future.cancel() for one in begun if one.future is not None])
        done = 0
        starts = iter(range(0, len(items), at_once))
        ahead = _AHEAD * min(cores(), _PROCESSES)
        while True:
            while len(begun) < ahead and (start := next(starts, None)) is not None:
                begun.append(_Begun.at(pool, work, items[start : start + at_once]))
            if not begun:
                return
            one = begun.popleft()
            if (found := one.result()) is None:
                if one.pool is pool:
                    pool = _pool(len(items), kept, stack, instead_of=pool)
                found = _alone(work, one.piece, lost, name)
            done = min(len(items), done + at_once)
            if kept is not None and told is not None:
                kept.progress(*told(done, len(items)))
            yield from found


@dataclass(frozen=True, kw_only=True)
class _Begun(Generic[T, R]):
    """A piece of work that processes have been given."""

    pool: Executor
    piece: Sequence[T]
    future: Future[list[R]] | None
    """None where the processes had ended before"""

    @classmethod
    def at(cls, pool: Executor, work: Callable[[Sequence[T]], list[R]], piece: Sequence[T]) -> "_Begun[T, R]":
        """Give the piece to the processes."""
        try:
            return cls(pool=pool, piece=piece, future=pool.submit(work, piece))
        except BrokenExecutor:
            return cls(pool=pool, piece=piece, future=None)

    def result(self) -> list[R] | None:
        """The results, when they are there; None if a process has ended early, which ends all of its pool."""
        try:
            return None if self.future is None else self.future.result()
        except BrokenExecutor:
            return None


def _alone(
    work: Callable[[Sequence[T]], list[R]],
    piece: Sequence[T],
    lost: Callable[[T, str], R],
    name: Callable[[T], str],
) -> list[R]:
    """The results of a piece that may have ended a process: in a process of its own, then each item in one."""
    try:
        return apart(work, _ANY_SIZE, piece)
    except Crashed as crashed:
        if len(piece) == 1:
            return [lost(piece[0], str(crashed))]
    except StartAgain as killed:
        if len(piece) == 1:
            raise StartAgain(f"{printable(name(piece[0]))}: {killed}") from None
    return [result for item in piece for result in _alone(work, [item], lost, name)]


def _pool(items: int, kept: _Kept | None, stack: ExitStack, instead_of: Executor | None = None) -> Executor:
    if kept is not None and kept.pool is not None and kept.pool is not instead_of:
        return kept.pool
    if items < _MANY and instead_of is None:
        return stack.enter_context(ThreadPoolExecutor(cores(), thread_name_prefix="index"))
    if instead_of is not None:
        log.warning("a process that opens files ended early; what it had in hand is done again, alone")
        instead_of.shutdown(cancel_futures=True)
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
