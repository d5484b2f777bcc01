"""What the tests of `apart` have another process do. It imports no more than this, so that it starts soon."""

import atexit
import ctypes
import os
import signal
import time
from collections.abc import Sequence


def crash(how: str) -> str:
    """Die of a signal, as a decoder in C does."""
    if how == "SIGSEGV":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))
    return "alive"


def compute(wall_s: float) -> None:
    """Compute without an end in sight."""
    end_s = time.monotonic() + wall_s
    while time.monotonic() < end_s:
        pass


class OddError(Exception):
    """It cannot be made again from its words."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail(kind: type[Exception]) -> None:
    """Raise an error."""
    raise OddError(1, 2) if kind is OddError else kind("words")


def computed(pieces: Sequence[float]) -> list[str]:
    """Compute for so many seconds each."""
    for wall_s in pieces:
        compute(wall_s)
    return ["done"] * len(pieces)


def ignore_the_end() -> int:
    """Stay when the other side closes."""
    atexit.register(time.sleep, 60)
    return os.getpid()
