"""Digests of files: of all bytes, or of the header alone."""

import hashlib
import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedcube.errors import CorruptInput
from embedcube.sources.catalog.products import File
from embedcube.sources.reader import is_netcdf

_WEAK_BYTES = 1 << 15
"""first bytes of a file that a weak digest covers: the header and most block offsets of a COG, even of 10980 x 10980
pixels in blocks of 256 x 256. More would cost more than the rest of indexing a file"""


def digest_of_file(path: Path, full: bool) -> str:
    """SHA-256 of a whole file as "sha256:<hex>", or of its beginning and its size as "weak:<hex>"."""
    if not full:
        return weak_digest(*beginning_of(path))
    status = path.stat()
    return _whole(File(path=path), "sha256", status.st_size, status.st_mtime_ns)


def refuse_other_bytes(file: File, band: str, name: str) -> None:
    """Read a file or zip member whole and compare it with the digest that its catalogue states, if any.

    Raises:
        CorruptInput: the digests differ.
        OSError: the file could not be read.
    """
    if file.digest:
        status = file.path.stat()
        found = _whole(file, file.digest.partition(":")[0], status.st_size, status.st_mtime_ns)
        if found != file.digest:
            raise CorruptInput(f"{band}: {file.inner or name} is {found}, its catalogue says {file.digest}")


# a file of many bands or steps is read once; the time of modification only invalidates this cache
@lru_cache(maxsize=256)
def _whole(file: File, algorithm: str, size: int, modified_ns: int) -> str:
    def hashed(opened: Any) -> str:
        return f"{algorithm}:{hashlib.file_digest(opened, algorithm.replace('-', '_')).hexdigest()}"

    if file.inner and not is_netcdf(file.path):
        with zipfile.ZipFile(file.path) as archive, archive.open(file.inner) as member:
            return hashed(member)
    with file.path.open("rb") as whole:
        return hashed(whole)


def weak_digest(head: bytes, size: int) -> str:
    """SHA-256 of the first bytes of a file and its size, as "weak:<hex>"."""
    digest = hashlib.sha256(head)
    digest.update(str(size).encode())
    return "weak:" + digest.hexdigest()


def beginning_of(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    with path.open("rb", buffering=0) as file:
        return file.read(_WEAK_BYTES), os.fstat(file.fileno()).st_size
