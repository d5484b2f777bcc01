"""How a stage tells how far it is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]
"""(done, in all); None while nobody knows how many there will be"""

Say = Callable[[str], None]
"""prints a line, or not"""


def silent(done: int, total: int | None) -> None:
    """Tells nobody."""


@contextmanager
def shown(stage: str, unit: str, say: Say) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere one line at the end, and one every half minute."""
    start = last = time.monotonic()
    seen: tuple[int, int | None] | None = None
    if sys.stdout.isatty() and say is print:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description:<11}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn(unit),
            rich.TimeRemainingColumn(),
        )
        with rich.Progress(*columns) as bar:
            task = bar.add_task(stage, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def report(done: int, total: int | None) -> None:
        nonlocal last, seen
        seen = (done, total)
        if time.monotonic() - last > 30:
            last = time.monotonic()
            say(f"{stage:<12}{_so_far(done, total)} {unit} after {last - start:.0f} s")

    yield report
    if seen is not None:  # another node tells
        say(f"{stage:<12}{_so_far(*seen)} {unit} in {time.monotonic() - start:.1f} s")


def _so_far(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done} of {total}"
