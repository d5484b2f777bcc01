"""Progress of a stage: a bar on a terminal, else lines of text."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]
"""Called with (done, total); the total is None while it is unknown."""

Say = Callable[[str], None]
"""Called with a line of text: `print`, or a function that drops it."""


def silent(done: int, total: int | None) -> None:
    """Progress that is not shown."""


@contextmanager
def shown(stage: str, unit: str, say: Say) -> Iterator[Progress]:
    """Give a progress function: a bar on a terminal; else one line every half minute and one at the end."""
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
    # a stage that does its work on other nodes reports nothing here
    if seen is not None:
        say(f"{stage:<12}{_so_far(*seen)} {unit} in {time.monotonic() - start:.1f} s")


def _so_far(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done} of {total}"
