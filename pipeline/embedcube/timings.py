"""Wall time in seconds of each step of a shard in a rank."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

READING = ("read", "composite")
"""Steps of the reading thread: open, decode, warp and mask the scenes; make one composite of them."""

WITHIN_READ = ("decode", "warp")
"""Steps of the threads that each read one band, summed over them; the reading thread waits for them. "decode": open the
files and decode their blocks, with repeated tries. "warp": bring the pixels onto the grid; radar with terrain
correction and ERA5 do that within "decode"."""

DEVICE = ("wait", "copy", "forward", "quantise", "held")
"""Steps of the thread that uses the device; together they are its whole time. "wait": for a sample from the reader.
"copy": cut the chips and copy them to the device. "forward": the forward pass and the copy of its result. "quantise":
vectors to stored numbers. "held": wait for the writer."""

WRITING = ("encode", "write")
"""Steps of the writing thread: compress the objects; write and fsync them."""


@dataclass(frozen=True)
class Timings:
    """Seconds by name of the step; repeated steps are added. For one thread at a time."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
