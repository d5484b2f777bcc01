"""Processes of a disturbed campaign: all of a group, and their end."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

LATE_S = 60.0
"""a process that has failed is gone within a minute; one that goes on has that much more than undisturbed"""


@dataclass(kw_only=True)
class Disturbed:
    """What was done, and what the disturbed processes said."""

    words: str
    codes: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    late: bool = False
    """a process was still alive long after it should have ended"""
    damaged: Path | None = None
    """the file of the run folder that was damaged"""


def group_of(leader: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return sorted(found)


def end(process: "subprocess.Popen[str]", disturbed: Disturbed, time_s: float) -> None:
    """Wait until a process and all of its group have ended; after `time_s` they are killed, and that is noted."""
    end_s = time.monotonic() + time_s
    try:
        said, _ = process.communicate(timeout=time_s)
    except subprocess.TimeoutExpired:
        disturbed.late = True
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    while group_of(process.pid):
        if time.monotonic() > end_s:
            disturbed.late = True
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    disturbed.codes.append(process.returncode)
    disturbed.said.append(said)
