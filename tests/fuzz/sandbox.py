"""Runs a function in a process of its own, which may crash, hang or take all memory, and says how it ended.

The process is forked: what the parent has imported need not be imported again, and nothing that one input leaves
behind (caches, open files, threads) reaches the next. So the parent must have no threads of its own.
"""

import faulthandler
import json
import os
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
"""Environment of a process that is to be forked: its libraries start no threads when they are imported."""

Death = Literal["", "crash", "hang", "memory"]

_LOOK_S = 0.02
"""between two looks at the process's memory"""

_STACKS_S = 1.0
"""time that a hanging process has to write its stacks"""

_STACK_CHARACTERS = 4000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may take."""

    time_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class End:
    """How a process ended."""

    answer: dict[str, Any]
    """what the function returned; empty if it did not return"""
    death: Death
    """empty if it returned"""
    words: str
    """the signal, the seconds or the bytes, and the stacks of all threads"""
    seconds: float
    peak_bytes: int


def run_apart(function: Callable[[], dict[str, Any]], limits: Limits) -> End:
    """Call a function that returns a JSON document, in a forked process."""
    began_s, (reads, writes) = time.monotonic(), os.pipe()
    with tempfile.TemporaryFile() as stacks:
        if (child := os.fork()) == 0:
            os.close(reads)
            _serve(function, writes, stacks)
        os.close(writes)
        answer, death, words = _watched(child, reads, limits, began_s)
        os.close(reads)
        _, status, usage = os.wait4(child, 0)
        if not death and os.WIFSIGNALED(status):
            death, words = "crash", signal.Signals(os.WTERMSIG(status)).name
        elif not death and (os.WEXITSTATUS(status) or not answer):
            death, words = "crash", f"exit code {os.WEXITSTATUS(status)}"
        stacks.seek(0)
        text = stacks.read().decode(errors="replace")[:_STACK_CHARACTERS]
    return End(
        answer={} if death else json.loads(answer),
        death=death,
        words=f"{words}\n{text}".strip(),
        seconds=time.monotonic() - began_s,
        peak_bytes=usage.ru_maxrss << 10,
    )


def _serve(function: Callable[[], dict[str, Any]], writes: int, stacks: Any) -> None:
    """The forked process: never returns."""
    code = 1
    try:
        faulthandler.enable(stacks, all_threads=True)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)  # libraries complain there
        data = json.dumps(function()).encode()
        while data:
            data = data[os.write(writes, data) :]
        code = 0
    except BaseException:
        stacks.write(traceback.format_exc().encode())
        stacks.flush()
    finally:
        os._exit(code)


def _watched(child: int, reads: int, limits: Limits, began_s: float) -> tuple[bytes, Death, str]:
    """What the process wrote until it ended, or why it was killed."""
    answer = b""
    while True:
        ready, _, _ = select.select([reads], [], [], _LOOK_S)
        if ready:
            piece = os.read(reads, 1 << 16)
            if not piece:
                return answer, "", ""
            answer += piece
        if (memory := _memory_bytes(child)) > limits.memory_bytes:
            os.kill(child, signal.SIGABRT)
            _kill_soon(child)
            return answer, "memory", f"{memory >> 20} MiB"
        if time.monotonic() - began_s > limits.time_s:
            os.kill(child, signal.SIGABRT)
            _kill_soon(child)
            return answer, "hang", f"not done after {limits.time_s:g} s"


def _kill_soon(child: int) -> None:
    """Kill the process when it has had the time to write its stacks; it is not waited for here."""
    end_s = time.monotonic() + _STACKS_S
    while time.monotonic() < end_s and _memory_bytes(child):
        time.sleep(_LOOK_S)
    os.kill(child, signal.SIGKILL)


def _memory_bytes(child: int) -> int:
    """Memory that the process holds now; 0 if it has ended."""
    try:
        with open(f"/proc/{child}/statm", encoding="ascii") as file:  # noqa: PTH123  asked fifty times a second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, IndexError, ProcessLookupError):
        return 0
