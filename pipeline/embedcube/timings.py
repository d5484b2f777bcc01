"""Where the time of a shard went: wall seconds of each step of its way through a rank."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

READING = ("read", "composite")
"""Steps of the reading thread: open, decode, warp and mask the scenes; make one picture of them."""

WITHIN_READ = ("decode", "warp")
"""What the threads do that the reading thread waits for, each for a band, all added up: open files and decode their
blocks, again where that failed; bring the pixels onto the grid, which radar's terrain correction and ERA5 do while
they decode."""

DEVICE = ("wait", "copy", "forward", "quantise", "held")
"""Steps of the device's thread, which together are its whole time: wait for a sample, cut and copy its chips, the
forward pass and the way back, vectors to stored numbers, wait for the writer."""

WRITING = ("encode", "write")
"""Steps of the writing thread: compress the objects, bring them safely to disk."""


@dataclass(frozen=True)
class Timings:
    """Seconds by step; a step that comes again is added. One thread at a time."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block, also one that raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Time that was measured otherwise."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
