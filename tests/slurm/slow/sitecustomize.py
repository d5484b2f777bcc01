"""Imported by every process that starts with this folder on its path: each object of a cube takes half a second."""

import sys
import time
from pathlib import PurePath
from typing import Any


def _slowly(event: str, arguments: Any) -> None:
    if event in ("os.link", "os.rename") and PurePath(arguments[1]).name.startswith("c."):
        time.sleep(0.5)


sys.addaudithook(_slowly)
