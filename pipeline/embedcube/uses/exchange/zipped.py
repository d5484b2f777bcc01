"""The zip of a bundle: it appears whole, and what was written before a crash is kept.

Members are stored as they are, in a fixed order and with a fixed date, so that equal content is equal bytes.

Reading is bounded: a member that is compressed, is a link, has two names or a name that leads elsewhere is refused by
its name before anything is read.
"""

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from embedcube.campaign.run_folder import fsync_folder
from embedcube.errors import RequestError, WorkError, naming
from embedcube.printable import printable
from embedcube.uses.pull import NAME

_HEADER = struct.Struct("<4s5H3L2H")
_SIGNATURE = b"PK\x03\x04"
_PIECE = 1 << 20
_END_BYTES = 22


class BundleWriter:
    """Writes the zip of a bundle, member by member. Members of an interrupted file of the same request are kept."""

    def __init__(self, path: Path, request: str) -> None:
        """`request` is a digest of all that decides the content: another one begins anew."""
        self._path = path
        self._partial = path.with_name(f".{path.name}.{request[:16]}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        kept = list(_whole_members(self._file))
        end = kept[-1].header_offset + _size_of(kept[-1]) if kept else 0
        self._file.truncate(end)
        # an old zip in front of the new members is what mode "a" takes it for
        self._zip = ZipFile(self._file, "a", ZIP_STORED)
        self._zip.filelist.extend(kept)
        self._zip.NameToInfo.update({info.filename: info for info in kept})

    @property
    def kept(self) -> list[str]:
        """Names of the members that are there, in order."""
        return self._zip.namelist()

    def has(self, name: str) -> bool:
        """Whether a member is there."""
        return name in self._zip.NameToInfo

    def add(self, name: str, data: bytes) -> None:
        """Write a member; one that is there stays."""
        if not self.has(name):
            with naming(self._path):
                self._zip.writestr(member(name), data)

    def read(self, name: str) -> bytes:
        """The bytes of a member that is there."""
        return self._zip.read(name)

    def finish(self) -> int:
        """End the file and give it its name; returns its bytes."""
        with naming(self._path):
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        self._partial.replace(self._path)
        fsync_folder(self._path.parent)
        return size

    def close(self) -> None:
        """Close; what was not finished is kept for the next start, which begins behind the last whole member."""
        with suppress(OSError, ValueError):
            self._zip.close()
        with suppress(OSError):  # on a full disk: what comes after the last whole member does not count
            self._file.close()


def member(name: str) -> ZipInfo:
    """What the zip says of a member: always the same date and mode."""
    info = ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    return info


def zip_bytes(members: dict[str, int]) -> int:
    """Bytes of a zip of members of these sizes."""
    overhead = sum(30 + 46 + 2 * len(name.encode()) for name in members)
    large = 76 if len(members) > 0xFFFE or sum(members.values()) > 0x7FFFFFFF else 0
    return sum(members.values()) + overhead + _END_BYTES + large


def _whole_members(file: IO[bytes]) -> Iterator[ZipInfo]:
    """Members at the start of a file that were written whole, one after the other."""
    while True:
        offset = file.tell()
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return
        signature, _, flags, method, _, _, crc, stored, size, name_bytes, more = _HEADER.unpack(head)
        if signature != _SIGNATURE or flags or method or more or stored != size or not size:
            return
        name = file.read(name_bytes)
        found, left = 0, size
        while left and (piece := file.read(min(left, _PIECE))):
            found, left = zlib.crc32(piece, found), left - len(piece)
        if left or found != crc or not NAME.fullmatch(name.decode("ascii", "replace")):
            return
        info = member(name.decode())
        info.header_offset, info.CRC, info.file_size, info.compress_size = offset, crc, size, size
        yield info


def _size_of(info: ZipInfo) -> int:
    return _HEADER.size + len(info.filename.encode()) + info.file_size


class Members:
    """The members of a bundle, read with bounds."""

    def __init__(self, path: Path) -> None:
        """Open the zip and look at its list of members; their bytes are not read.

        Raises:
            RequestError: it is no zip, or a member may not be in a bundle.
        """
        self.path = path
        if not path.is_file():
            raise RequestError(f"{path}: there is no such file")
        try:
            self._zip = ZipFile(path)
        except (BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
            with path.open("rb") as file:
                if file.read(len(_SIGNATURE)) != _SIGNATURE:
                    raise RequestError(f"{path}: no bundle, but another kind of file") from None
            raise RequestError(
                f"{path}: no bundle that can be read: its list of members, at the end of the file, is damaged or was "
                f"cut off ({printable(error, 120)}); copy the file again"
            ) from None
        size = path.stat().st_size
        for info in self._zip.infolist():
            if problem := _problem(info, size):
                raise RequestError(f"{path}: the member {printable(info.filename, 120)} {problem}")
        names = [info.filename for info in self._zip.infolist()]
        if len(set(names)) != len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise RequestError(f"{path}: the member {printable(twice, 120)} is there twice; a bundle has each once")
        self.sizes = {info.filename: info.file_size for info in self._zip.infolist()}
        """bytes of each member by its name, in the order of the file"""
        if (held := sum(self.sizes.values())) > size:
            raise RequestError(f"{path}: its members overlap: {held:,} bytes in a file of {size:,}")

    @property
    def address(self) -> Path:
        """The path, for messages."""
        return self.path

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self.sizes

    def read(self, name: str, most: int) -> bytes:
        """All bytes of a member of at most `most` bytes.

        Raises:
            FileNotFoundError: there is none.
            WorkError: it is larger, or damaged.
        """
        if name not in self.sizes:
            raise FileNotFoundError(f"{self.path}: no member {name}")
        if self.sizes[name] > most:
            raise WorkError(f"{self.path}: {name} has {self.sizes[name]} bytes, expected at most {most}")
        try:
            return self._zip.read(name)
        except (BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
            raise WorkError(f"{self.path}: the member {name} is damaged ({printable(error, 120)})") from None

    def digest(self, name: str) -> str:
        """SHA-256 of the bytes of a member; a WorkError says that it is damaged."""
        return hashlib.sha256(self.read(name, 1 << 62)).hexdigest()

    def first_difference(self) -> str:
        """Where the file differs from what a writer makes of its members: the name of one, or the list at the end.

        Empty where it does not. It finds what no checksum covers, as names and dates in the headers.
        """
        with self.path.open("rb") as file:
            beside = _Beside(file)
            # the type: a file that is only written to
            with ZipFile(beside, "w", ZIP_STORED) as again:  # type: ignore[call-overload]
                for name in self.sizes:
                    beside.member = name
                    again.writestr(member(name), self.read(name, 1 << 62))
                    beside.compare()
                beside.member = "the list of members at the end of the file"
            beside.compare()
            if file.read(1):
                return beside.different or "bytes after the end"
        return beside.different


class _Beside:
    """A file that is written to; what is written is compared with another file."""

    def __init__(self, other: IO[bytes]) -> None:
        self._other, self._pending, self._at, self._done = other, bytearray(), 0, 0
        self.member, self.different = "", ""

    def write(self, data: Any) -> int:
        start = self._at - self._done
        self._pending[start : start + len(data)] = data
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset if whence == 0 else self._at + offset
        return self._at

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        return

    def compare(self) -> None:
        """Compare what was written since the last time: zipfile goes back to the header of a member."""
        found = self._other.read(len(self._pending))
        if found != bytes(self._pending) and not self.different:
            self.different = self.member
        self._done += len(self._pending)
        self._pending.clear()
        self._at = self._done


def _problem(info: ZipInfo, size: int) -> str:
    """Why a member may not be in a bundle; empty where it may."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not NAME.fullmatch(info.filename):
        return "has a name that is no path inside of a cube"
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device; a bundle holds plain files only"
    if info.compress_type != ZIP_STORED or info.compress_size != info.file_size:
        return (
            f"is compressed: {info.compress_size:,} bytes would become {info.file_size:,}; a bundle stores its members "
            "as they are"
        )
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.header_offset + info.file_size > size:
        return f"would end at byte {info.header_offset + info.file_size:,} of a file of {size:,}"
    return ""
