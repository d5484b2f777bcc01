"""Builds errors.c, and says in which environment changes of files fail or the clock is wrong."""

import errno
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("errors.c")

ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS")}
"""A full disk, a quota, a failing disk, a file system that is mounted to be read only."""


class NoCompiler(Exception):
    """Errors cannot be made here: there is no C compiler."""


@functools.cache
def library() -> Path:
    """The compiled shim.

    Raises:
        NoCompiler: nothing can compile it.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("no C compiler: no change of a file can be made to fail")
    path = Path(tempfile.mkdtemp(prefix="embedcube-errors-")) / "errors.so"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, "-o", path, SOURCE, "-ldl"], check=True)
    return path


def failing(error: str, below: Path | str, *, first: int, count: int, log: Path, half: bool = False) -> dict[str, str]:
    """Environment in which changes of files with `below` in their path fail: `count` of each process from `first` on.

    A `count` of -1 is all. Each failure adds a line to `log`. With `half` the first write that fails writes half of its
    bytes.
    """
    return ({"CHAOS_HALF": "1"} if half else {}) | {
        "LD_PRELOAD": str(library()),
        "CHAOS_MATCH": str(below),
        "CHAOS_ERRNO": str(ERRORS[error]),
        "CHAOS_FIRST": str(first),
        "CHAOS_COUNT": str(count),
        "CHAOS_FAILED": str(log),
    }


def wrong_clock(seconds: int) -> dict[str, str]:
    """Environment in which the clock is wrong by so much."""
    return {"LD_PRELOAD": str(library()), "CHAOS_CLOCK_S": str(seconds)}
