"""What all routes share: the cubes, the limits, the counts, and the desk where long requests wait for their turn."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import anyio.to_thread

from embedcube.printable import printable
from embedcube.uses.serve.holdings import Holding, NotHere
from embedcube.uses.serve.limits import Limits
from embedcube.uses.serve.metrics import Metrics

T = TypeVar("T")

RETRY_S = 2
"""seconds after which a client that was sent away may come again"""


class Busy(Exception):
    """Too many requests wait already: status 503."""


class Desk:
    """Computes a few requests at once, in threads; the others wait in line, and beyond that are sent away."""

    def __init__(self, limits: Limits) -> None:
        """Nobody waits."""
        self._most = limits.held.computing + limits.held.waiting
        self._threads = limits.held.computing
        self._limiter: anyio.CapacityLimiter | None = None
        self._present = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, in a thread; Busy if too many wait."""
        async with self._line() as limiter:
            return await anyio.to_thread.run_sync(work, limiter=limiter)

    async def turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which others compute for it, when it is its turn; Busy if too many wait."""
        async with self._line() as limiter, limiter:
            return await work()

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[anyio.CapacityLimiter]:
        if self._present >= self._most:
            raise Busy(f"{self._present} requests are computed or wait; come again in {RETRY_S} s")
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._threads)
        self._present += 1
        try:
            yield self._limiter
        finally:
            self._present -= 1


@dataclass(frozen=True, kw_only=True)
class Served:
    """All that a server holds."""

    holdings: dict[str, Holding]
    """cubes by name"""
    limits: Limits
    metrics: Metrics = field(default_factory=Metrics)
    desk: Desk

    def words(self, error: Exception) -> str:
        """What an error says, for clients: with names of cubes instead of their places on this machine."""
        text = str(error)
        for holding in self.holdings.values():
            for folder in (holding.cube.path, holding.cube.path.parent):
                text = text.replace(f"file://{folder}", holding.name).replace(str(folder), holding.name)
        return printable(text, 500)

    def cube(self, name: str) -> Holding:
        """A cube by its name; NotHere where there is none."""
        if name not in self.holdings:
            raise NotHere(f"no cube has this name; there are {', '.join(self.holdings)}")
        return self.holdings[name]
