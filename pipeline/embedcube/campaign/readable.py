"""Files that people name: told from FIFOs, devices and folders before they are opened, which might never end."""

import os
import stat
from pathlib import Path

from embedcube.errors import RequestError
from embedcube.printable import printable


def readable(path: Path) -> Path:
    """The same path, if it is that of a file.

    Raises:
        RequestError: nothing is there, or something that is no file.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"{printable(path)}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{printable(path)}: cannot be read: {printable(error)}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
        raise RequestError(f"{printable(path)} is {kind}, not a file")
    return path


def read_code(path: Path) -> bytes | None:
    """The bytes of a file of code that another folder has; None where it belongs to another user.

    Whoever loads such a file runs what its owner has put there.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        with readable(path).open("rb") as file:
            return file.read() if os.fstat(file.fileno()).st_uid == os.geteuid() else None
    except OSError as error:
        raise RequestError(f"{printable(path)}: cannot be read: {printable(error)}") from None
