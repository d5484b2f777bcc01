"""Digests of files: of all bytes, or of the header alone."""

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedcube.campaign.scene import Noted
from embedcube.errors import CorruptInput
from embedcube.sources.catalog.products import File
from embedcube.sources.netcdf3 import is_netcdf

_WEAK_BYTES = 1 << 15
"""first bytes of a file that a weak digest covers: the header and most block offsets of a COG, even of 10980 x 10980
pixels in blocks of 256 x 256. More would cost more than the rest of indexing a file"""

_DEFLATE_MOST = 1040
"""how many times smaller the method of zip can make its input, and a little more (zlib's documentation: 1032)"""

_SAMPLES, _SAMPLE_BYTES = 4, 1 << 12
"""blocks beyond the beginning that are noted, the last one at the end of the file; and their size"""


def digest_of_file(path: Path, full: bool) -> str:
    """SHA-256 of a whole file as "sha256:<hex>", or of its beginning and its size as "weak:<hex>"."""
    return whole_digest(File(path=path), "sha256") if full else Look.at(path).digest


def refuse_other_bytes(file: File, band: str, name: str) -> None:
    """Read a file or zip member whole and compare it with the digest that its catalogue states, if any.

    Raises:
        CorruptInput: the digests differ, or a zip does not hold the member whole.
        OSError: the file could not be read.
    """
    try:
        found = whole_digest(file, file.digest.partition(":")[0]) if file.digest else ""
    except ValueError as error:
        raise CorruptInput(f"{band}: {name}: {error}") from None
    if found != file.digest:
        raise CorruptInput(f"{band}: {file.inner or name} is {found}, its catalogue says {file.digest}")


def whole_digest(file: File, algorithm: str) -> str:
    """Digest over every byte of a file or zip member, as "<algorithm>:<hex>".

    Raises:
        ValueError: the zip does not hold the member whole.
        OSError: the file could not be read.
    """
    status = file.path.stat()
    return _whole(file, algorithm, status.st_size, noted(status))


# a file of many bands or steps is read once; size and times only invalidate this cache
@lru_cache(maxsize=256)
def _whole(file: File, algorithm: str, size: int, now: Noted) -> str:
    def hashed(opened: Any) -> str:
        return f"{algorithm}:{hashlib.file_digest(opened, algorithm.replace('-', '_')).hexdigest()}"

    if file.inner and not is_netcdf(file.path):
        try:
            with zipfile.ZipFile(file.path) as archive, archive.open(file.inner) as member:
                return hashed(member)
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"the zip is damaged: {error}") from None
    with file.path.open("rb") as whole:
        return hashed(whole)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A short look at a file: its beginning, its size, and what is noted of it."""

    head: bytes
    size: int
    noted: Noted

    @classmethod
    def at(cls, path: Path) -> "Look":
        """Read the first bytes of a file and some blocks further on.

        Raises:
            OSError: the file could not be read.
        """
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head, status = os.pread(number, _WEAK_BYTES, 0), os.fstat(number)
            sample = hashlib.sha256()
            last = status.st_size - _SAMPLE_BYTES
            if last > _WEAK_BYTES:
                for i in range(1, _SAMPLES + 1):
                    sample.update(os.pread(number, _SAMPLE_BYTES, last * i // _SAMPLES))
            elif status.st_size > _WEAK_BYTES:
                sample.update(os.pread(number, 2 * _SAMPLE_BYTES, _WEAK_BYTES))
        finally:
            os.close(number)
        return cls(head=head, size=status.st_size, noted=noted(status, sample.hexdigest()[:32]))

    @property
    def digest(self) -> str:
        """SHA-256 of the first bytes and the size, as "weak:<hex>"."""
        digest = hashlib.sha256(self.head)
        digest.update(str(self.size).encode())
        return "weak:" + digest.hexdigest()


def noted(status: os.stat_result, sample: str = "") -> Noted:
    """What is noted of a file, by its status; see `Noted.sample`."""
    return Noted(modified_ns=status.st_mtime_ns, changed_ns=status.st_ctime_ns, inode=status.st_ino, sample=sample)


def member_size(file: File) -> int | None:
    """Bytes of a zip member as its archive states them; None for a file that is in no zip.

    Raises:
        ValueError: the zip does not hold it, or it would be larger than its packed bytes can be.
    """
    if not file.inner or is_netcdf(file.path):
        return None
    try:
        with zipfile.ZipFile(file.path) as archive:
            member = archive.getinfo(file.inner)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{file.path} does not hold {file.inner}: {error}") from None
    if member.file_size > _DEFLATE_MOST * (member.compress_size + 1):
        raise ValueError(f"{file.inner} is said to have {member.file_size} bytes, packed in {member.compress_size}")
    return member.file_size
