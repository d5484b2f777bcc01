"""Imported by every process that starts with this folder on its path: the first link takes 2 GB of memory."""

import sys
import time

_taken: list[bytearray] = []


def _hungrily(event: str, _: object) -> None:
    if event == "os.link" and not _taken:
        _taken.append(bytearray(b"x") * 2_000_000_000)
        time.sleep(30)


sys.addaudithook(_hungrily)
