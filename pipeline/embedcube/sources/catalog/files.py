"""Files of an archive: listed once, told from devices and dead links before they are opened, read up to a bound.

Names of files are bytes. Python gives bytes that are not UTF-8 as lone surrogates, which no library of rasters takes.
"""

import errno
import os
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from embedcube.errors import RequestError
from embedcube.printable import is_plain, printable, without_credentials

ABSENT = "does not exist"

_LASTING = {
    errno.ENOTDIR: "lies below a file as if that were a folder",
    errno.EISDIR: "is a folder, not a file",
    errno.ELOOP: "is a link that leads back to itself",
    errno.ENAMETOOLONG: "has a name that is too long for a file",
    errno.EACCES: "may not be read: permission denied",
    errno.EPERM: "may not be read: operation not permitted",
    errno.EINVAL: "cannot be read: the file system calls it invalid",
    errno.ENXIO: "is no file that can be read",
    errno.ENODEV: "is no file that can be read",
    errno.EFBIG: "is too large to be read",
    errno.EOVERFLOW: "is too large to be read",
}
"""What is wrong with a file, for the errors of the file system that do not pass"""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotReadable(ValueError):
    """A file that is none, or is larger than the bound."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The content of one folder."""

    path: Path
    files: list[str] = field(default_factory=list)
    """names of its files, and of the folders that hold one product, sorted"""
    others: dict[str, str] = field(default_factory=dict)
    """by name, in words, why an entry is neither file nor folder"""
    plain: bool = False
    """whether each entry is a file itself, and no link to one: then the names tell all"""


def lasting(error: OSError) -> str:
    """What is wrong, in words that follow a file's name, where the error will not pass; else empty.

    That a file is gone which was just listed may pass: a file system that is not mounted says so of all its files.
    """
    return _LASTING.get(error.errno or 0, "")


def not_a_file(path: Path) -> str:
    """Why there is no file at `path`, in words that follow its name; empty if there is one. Nothing is opened.

    Raises:
        OSError: this could not be found out, for a reason that may pass.
    """
    try:
        status = path.stat()
    except ValueError:
        return "cannot be the name of a file"
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else ABSENT
    except OSError as error:
        if words := lasting(error):
            return words
        raise
    if not stat.S_ISREG(status.st_mode):
        return f"is {_kind(status.st_mode)}, not a file"
    return "is a window into this machine's kernel, not a file" if status.st_dev in _kernel_devices() else ""


@cache
def _kernel_devices() -> frozenset[int]:
    """The file systems whose files are no files: to read one may wait for ever."""
    return frozenset(place.stat().st_dev for place in map(Path, ("/proc", "/sys")) if place.exists())


def _kind(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")


def unusable_name(name: str) -> str:
    """Why no raster can be opened by this name, in words that follow it; empty if one can."""
    if is_plain(name):
        return ""  # as nearly all are
    if words := not_utf_8(name):
        return words
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "has control characters in its name; rename it"
    if without_credentials(name) != name:
        return "has what looks like a credential in its name; rename it"
    return ""


def not_utf_8(name: str) -> str:
    """Why no raster can be opened by a name that is not UTF-8, in words that follow it; empty if it is."""
    if any(0xD800 <= ord(char) <= 0xDFFF for char in name):
        return "has a name that is not UTF-8, which the libraries of rasters cannot open; rename it"
    return ""


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file of at most `most` bytes. A FIFO or device is never waited for.

    Raises:
        NotReadable: it is no file, or larger.
        OSError: it could not be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotReadable(f"{printable(path.name)} is {_kind(status.st_mode)}, not a file")
        # `most` bytes are reserved only for a file that is larger than it says
        data = file.read(min(status.st_size, most) + 1)
        if len(data) > status.st_size:
            data += file.read(most + 1 - len(data))
    if len(data) > most:
        raise NotReadable(f"{printable(path.name)} has more than {most:,} bytes")
    return data


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of a member of a zip archive, whatever size the archive states for it.

    Raises:
        NotReadable: it has more than `most` bytes.
    """
    with archive.open(name) as member:
        data = member.read(most + 1)
    if len(data) > most:
        raise NotReadable(f"{printable(name)} has more than {most:,} bytes")
    return data


def walk(
    root: Path, is_product: Callable[[str], bool], is_known: Callable[[str], bool] = lambda _: False
) -> Iterator[Folder]:
    """Every folder below `root` and what is in it, in a fixed order.

    A folder for whose path `is_product` is true counts as a file of its parent. A link to a folder is followed once,
    and not at all where the folder lies below `root` too. A folder for whose path `is_known` is true is neither listed
    nor given; it is asked when the folders before it have been given.

    Raises:
        RequestError: a folder may not be listed.
        OSError: a folder could not be listed for a reason that may pass.
    """
    seen: list[str] = []
    links: list[str] = []

    def is_new(place: str) -> bool:
        seen.append(place)
        return not is_known(place)

    yield from _folders(str(root), is_product, is_new, links, None)
    # folders are compared only where there are links at all: it is one more question to the file system for each
    known = {identity(Path(place)) for place in seen} if links else set()
    while links:
        yield from _folders(links.pop(0), is_product, is_new, links, known)


def _folders(
    root: str,
    is_product: Callable[[str], bool],
    is_new: Callable[[str], bool],
    links: list[str],
    known: set[tuple[int, int]] | None,
) -> Iterator[Folder]:
    """The folders from `root` on that are new and not `known`, to which all are added; `links` to folders are noted."""
    waiting = [root]
    while waiting:
        place = waiting.pop()
        if known is not None:
            if (found := identity(Path(place))) in known:
                continue
            known.add(found)
        if not is_new(place):
            continue
        folder, below, plain = Folder(path=Path(place)), list[str](), True
        for entry in _entries(place, folder):
            try:
                plain = plain and entry.is_file(follow_symlinks=False)
                if entry.is_dir():
                    if _is_product(entry.path, is_product):
                        folder.files.append(entry.name)
                    else:
                        (links if entry.is_symlink() else below).append(entry.path)
                elif entry.is_file():
                    folder.files.append(entry.name)
                else:
                    folder.others[entry.name] = not_a_file(Path(entry.path))
            except OSError as error:
                if not (words := lasting(error)):
                    raise
                folder.others[entry.name] = words
        folder.files.sort()
        yield replace(folder, plain=plain and bool(folder.files))
        waiting += sorted(below, reverse=True)


def _is_product(path: str, is_product: Callable[[str], bool]) -> bool:
    try:
        return is_product(path)
    except PermissionError as error:
        raise _may_not_be_listed(path, error) from None


def _entries(place: str, folder: Folder) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError as error:
        raise _may_not_be_listed(place, error) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        folder.others[""] = "lies so deep that its path is too long"
        return []


def _may_not_be_listed(folder: str, error: PermissionError) -> RequestError:
    words = f"may not be listed: {error.strerror}; let it be read, or take it out of the archive"
    return RequestError(f"the folder {printable(folder)} {words}")


def identity(path: Path) -> tuple[int, int]:
    """Device and inode of a file or folder: equal for all its names."""
    status = path.stat()
    return status.st_dev, status.st_ino
