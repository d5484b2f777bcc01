"""Imported by every process that starts with this folder on its path: the first object takes 2 GB of memory."""

import sys
import time
from pathlib import PurePath
from typing import Any

_taken: list[bytearray] = []


def _hungrily(event: str, arguments: Any) -> None:
    if event in ("os.link", "os.rename") and PurePath(arguments[1]).name.startswith("c.") and not _taken:
        _taken.append(bytearray(b"x") * 2_000_000_000)
        time.sleep(30)


sys.addaudithook(_hungrily)
