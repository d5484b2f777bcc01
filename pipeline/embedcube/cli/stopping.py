"""Signals that stop a command: it says so and ends with 75, whether it works or is ending already."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from embedcube.errors import StartAgain


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let a signal raise StartAgain inside; after that it ends the process at once.

    While Python ends, nothing catches an error of a handler: it would be a traceback, and the signal would be lost.
    """
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    # the end of a login session; `nohup` has it ignored
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, _end)


def _stop(number: int, _: object) -> None:
    raise StartAgain(_words(number))


def _end(number: int, _: object) -> None:
    print(f"embedcube: {_words(number)}", file=sys.stderr, flush=True)
    os._exit(StartAgain.exit_code)


def _words(number: int) -> str:
    return f"stopped by signal {number}; start the same command again, it continues where it stopped"
