"""Errors, one class for each next step of the caller: correct the request, look at the work, or start again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedcube.printable import printable

_MOST = 2000
"""characters of a reason"""


class EmbedcubeError(Exception):
    """Base class of the failures that embedcube explains in words. `exit_code` is that of the command line."""

    exit_code = 1


class RequestError(EmbedcubeError):
    """The request was wrong (a YAML key, a path, a limit). Nothing was started: correct it and ask again."""

    exit_code = 2


class WorkError(EmbedcubeError):
    """The work was done or tried and did not succeed. The message names what to look at."""

    exit_code = 1


class StartAgain(EmbedcubeError):
    """A temporary problem stopped the work (a signal, a dead process, an I/O error): start the same command again."""

    exit_code = 75


class CorruptInput(Exception):
    """The bytes of an input are wrong. It is quarantined with this message as the reason, and the campaign goes on."""

    def __init__(self, reason: str, *, asks: bool = False) -> None:
        """`reason` names what is wrong; as it quotes data, it is made printable, and credentials are cut out of it.

        With `asks` it is a question about numbers, which an option of the archive answers, and no damage.
        """
        super().__init__(printable(reason, _MOST))
        self.asks = asks


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name this file or folder, if it names none.

    A full disk does not say what it had no room for.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise
