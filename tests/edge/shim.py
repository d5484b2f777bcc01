"""Builds `reads.c` and starts processes with it: reads counted and failed at the process's edge."""

import functools
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("reads.c")


@functools.cache
def library() -> Path:
    """The compiled shim; skips the test where nothing can compile or load it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: reads cannot be counted or failed from outside")
    path = Path(tempfile.mkdtemp(prefix="embedcube-edge-")) / "reads.so"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, "-o", path, SOURCE, "-ldl", "-lpthread"], check=True)
    return path


def counting(log: Path, match: Path) -> dict[str, str]:
    """Environment in which ranks write their reads of files below `match` to `log`."""
    return _environment(match) | {"EDGE_LOG": str(log)}


def failing(
    which: str, match: Path, failed: Path, *, call: str = "", process: str = "embedcube.workers.forkserver"
) -> dict[str, str]:
    """Environment in which reads by ranks (or the verb `process`) get EIO.

    `which` are "0,3" of each file whose path holds `match`, or "all".
    With a `call`, only reads by this function of libc count and fail. Each failure adds a line to `failed`.
    """
    environment = _environment(match, process) | {"EDGE_FAIL": which, "EDGE_FAILED": str(failed)}
    return environment | ({"EDGE_CALL": call} if call else {})


def delaying(match: Path, milliseconds: int) -> dict[str, str]:
    """Environment in which every read by a rank of files below `match` takes so much longer, as on a busy disk."""
    return _environment(match) | {"EDGE_DELAY_MS": str(milliseconds)}


def _environment(match: Path, process: str = "embedcube.workers.forkserver") -> dict[str, str]:
    return {"LD_PRELOAD": str(library()), "EDGE_PROCESS": process, "EDGE_MATCH": str(match)}


@dataclass(frozen=True)
class Reads:
    """What was read of one file."""

    at: Counter[tuple[int, int]]
    """how often each (offset, bytes) was asked for"""
    kernel_bytes: int
    """that the kernel was asked for"""
    decodes: int
    """by deflate's decoder"""


def read_log(log: Path) -> dict[Path, Reads]:
    """The reads of each file."""
    at: dict[Path, Counter[tuple[int, int]]] = {}
    kernel: Counter[Path] = Counter()
    decodes: Counter[Path] = Counter()
    for line in log.read_text().splitlines():
        kind, name, *numbers = line.split()
        path = Path(name)
        counts = at.setdefault(path, Counter())
        if kind == "read":
            counts[int(numbers[0]), int(numbers[1])] += 1
        elif kind == "kernel":
            kernel[path] += int(numbers[0])
        else:
            decodes[path] += 1
    return {path: Reads(at[path], kernel[path], decodes[path]) for path in at}
