"""Imported by every process that starts with this folder on its path: each link takes a quarter of a second."""

import sys
import time


def _slowly(event: str, _: object) -> None:
    if event == "os.link":
        time.sleep(0.25)


sys.addaudithook(_slowly)
