"""Where a process of a run dies, named from outside; `sitecustomize.py` in this folder reads it."""

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class KillPoint:
    """Where a process dies."""

    path: str
    """a pattern that the path must hold"""
    event: str = ""
    """of sys.addaudithook: what is asked of the operating system; empty: data are appended to the file"""
    moment: Literal["before", "after", "half"] = "before"
    """before or right after the event, or with half of the data appended to the file"""
    nth: int = 1
    rank: str | None = None
    """only this rank; None: only a process that is no rank"""
    group: bool = False
    """the whole process group, as when a node is lost"""
    signal: int = signal.SIGKILL
    """or SIGSTOP, for a process that hangs"""
    spared_group: int = os.getpgrp()
    """of the tests themselves"""

    def environment(self) -> dict[str, str]:
        """Environment of the processes of which one is to die."""
        folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(folders), "KILL_POINT": json.dumps(asdict(self))}
