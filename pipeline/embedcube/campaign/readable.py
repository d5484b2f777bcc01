"""Files that people name: told from FIFOs, devices and folders before they are opened, which might never end."""

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
