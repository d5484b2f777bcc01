"""Kills its own process at a named point, from outside the package that it kills.

Python imports a module of this name at every start: with this folder on PYTHONPATH, and KILL_POINT in the environment
(the JSON of `KillPoint`), the process that is meant watches what it asks
of the operating system (PEP 578) and dies there. Every other process is left alone.
"""

import _thread
import builtins
import io
import json
import os
import re
import sys
from typing import Any

PATH_ARGUMENT = {"os.rename": 1, "os.link": 1, "os.symlink": 1}
"""Which argument of an audit event is the path that appears; elsewhere the first."""


def die(point: dict[str, Any]) -> None:
    """End (or stop) this process, or its whole group, as the kernel does when memory is short: now."""
    if point["group"]:
        assert os.getpgrp() != point["spared_group"], "started without a process group of its own"
        os.kill(0, point["signal"])
    os.kill(os.getpid(), point["signal"])


def watch(point: dict[str, Any]) -> None:
    """Die before (or right after) the n-th event of a kind on a path."""
    seen = 0
    struck: int | None = None

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen, struck
        if not meant(point):
            return
        if struck == _thread.get_ident():
            struck = None  # dying is an event too
            die(point)
        if event != point["event"] or not re.search(point["path"], path_of(event, arguments)):
            return
        seen += 1
        if seen == point["nth"]:
            if point["moment"] == "before":
                die(point)
            struck = _thread.get_ident()

    sys.addaudithook(hook)


def path_of(event: str, arguments: tuple[Any, ...]) -> str:
    """The path that an audit event speaks of."""
    path = arguments[PATH_ARGUMENT.get(event, 0)]
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""


def tear(point: dict[str, Any]) -> None:
    """Die when nothing, half or all of the n-th piece of data has been appended to a file."""
    plain, seen = io.open, 0

    class Torn(io.FileIO):
        def write(self, data: Any, /) -> int:
            nonlocal seen
            seen += 1
            if seen < point["nth"]:
                return super().write(data)
            super().write(data[: {"before": 0, "half": len(data) // 2, "after": len(data)}[point["moment"]]])
            os.fsync(self.fileno())
            die(point)
            raise AssertionError("unreachable")

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode in ("ab", "xb") and meant(point) and re.search(point["path"], os.fsdecode(file)):
            return Torn(file, mode)
        return plain(file, mode, *arguments, **named)

    for module in (io, builtins):
        vars(module)["open"] = opened


def meant(point: dict[str, Any]) -> bool:
    """Only the process that is meant: a rank by its number, which it has after the fork; else any that is no rank."""
    return bool(os.environ.get("RANK") == point["rank"])


def arm(point: dict[str, Any]) -> None:
    """Watch, in every process that may become the one that is meant."""
    if point["event"]:
        watch(point)
    else:
        tear(point)


if "KILL_POINT" in os.environ:
    arm(json.loads(os.environ["KILL_POINT"]))
