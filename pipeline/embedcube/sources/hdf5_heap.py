"""Refuse HDF5 files whose global heap would keep the HDF5 library busy for ever.

A global heap holds texts and references of any length, one object behind the other, and free space as an object with
the index 0, whose size includes its header. The library goes on by that size, and a size of 0 leads it to the same
place again. The format is that of the HDF5 File Format Specification, III.E.
"""

import struct
from pathlib import Path

_BEGINS = b"GCOL\x01\x00\x00\x00"
"""signature, version and reserved bytes of a collection"""

_HEADER_BYTES = 16
"""of a collection, and of each object in it"""

_SIGNATURE, _FIRST_USER_BLOCK = b"\x89HDF\r\n\x1a\n", 512
"""A file begins with the signature, or with a block for its users' own purpose of 512 bytes times a power of two."""

_LOOKED_BYTES = 1 << 22
"""of the beginning and of the end of a file, where libraries put their metadata: files of weather have gigabytes"""


def refuse_endless_heap(path: Path) -> None:
    """Refuse a file with free space of no size in a global heap near its beginning or end; other files pass.

    Raises:
        ValueError: naming the byte.
        OSError: it could not be read.
    """
    if not is_hdf5(path):
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for start in dict.fromkeys((0, max(0, size - _LOOKED_BYTES))):
            file.seek(start)
            if (found := _endless_at(file.read(_LOOKED_BYTES))) is not None:
                raise ValueError(f"its global heap is damaged at byte {start + found}: free space of no size")


def is_hdf5(path: Path) -> bool:
    """Whether a file has the signature of HDF5 at a place where the HDF5 library looks for it.

    Raises:
        OSError: it could not be read.
    """
    with path.open("rb", buffering=0) as file:
        size, place = file.seek(0, 2), 0
        while place < size:
            file.seek(place)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            place = max(2 * place, _FIRST_USER_BLOCK)
    return False


def _endless_at(data: bytes) -> int | None:
    """The place of the free space of no size in any collection; None if there is none."""
    at = data.find(_BEGINS)
    while at >= 0:
        end = min(len(data), at + struct.unpack_from("<Q", data.ljust(at + _HEADER_BYTES), at + 8)[0])
        place = at + _HEADER_BYTES
        while place + _HEADER_BYTES <= end:
            index, _, size = struct.unpack_from("<HH4xQ", data, place)
            if index == 0 and size < _HEADER_BYTES:
                return place
            place += size if index == 0 else _HEADER_BYTES + -(-size // 8) * 8
        at = data.find(_BEGINS, at + 1)
    return None
