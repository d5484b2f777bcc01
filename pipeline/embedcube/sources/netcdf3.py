"""The length that a classic NetCDF file must have: the NetCDF library reads a missing end as zeros.

The format is that of the NetCDF User's Guide, appendix "File Format Specifications": CDF-1, CDF-2 and CDF-5.
"""

from math import prod
from pathlib import Path
from typing import BinaryIO

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
"""Bytes of a value, by the number of its type: byte, char, short, int, float, double, and five more of CDF-5"""


def is_netcdf(path: Path) -> bool:
    """Whether a file is NetCDF, by its suffix."""
    return path.suffix in (".nc", ".nc4")


def refuse_cut_short(path: Path) -> None:
    """Refuse a file of the classic NetCDF format that is shorter than its header says; other files are not checked.

    Raises:
        ValueError: the file is too short, or its header is damaged.
        OSError: it could not be read for a reason that may pass.
    """
    with path.open("rb") as file:
        if file.read(3) != b"CDF":
            return
        try:
            expected, size = _Header(file).file_bytes(), path.stat().st_size
        except (IndexError, OverflowError) as error:
            raise ValueError(f"its header is damaged: {error}") from None
    if size < expected:
        raise ValueError(f"it has {size} bytes, its header promises {expected}")


class _Header:
    """The header of a classic NetCDF file, read from its fourth byte on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        version = self._number(1)
        self._count_bytes, self._offset_bytes = 8 if version == 5 else 4, 4 if version == 1 else 8

    def file_bytes(self) -> int:
        """Bytes from the beginning of the file to the end of the last value."""
        records = self._count()
        if records == 2 ** (8 * self._count_bytes) - 1:
            records = 0  # the file was written as a stream, and the count was never filled in
        self._number(4)
        dimensions = [self._dimension() for _ in range(self._count())]
        self._attributes()
        self._number(4)
        ends, last_record, record_bytes, padded_bytes = [0], 0, [], []
        for _ in range(self._count()):
            self._text()
            shape = [dimensions[self._count()] for _ in range(self._count())]
            self._attributes()
            size = _TYPE_BYTES.get(self._number(4), 0)
            self._count()  # the stated size: too small a field for a large variable
            begin = self._number(self._offset_bytes)
            if shape and shape[0] == 0:  # the dimension that grows
                record_bytes.append(prod(shape[1:]) * size)
                padded_bytes.append(_padded(record_bytes[-1]))
                last_record = max(last_record, begin + record_bytes[-1])
            else:
                ends.append(begin + prod(shape) * size)
        if records and record_bytes:
            # records of a single variable are not padded
            step = sum(padded_bytes) if len(padded_bytes) > 1 else record_bytes[0]
            ends.append(last_record + (records - 1) * step)
        return max(ends)

    def _dimension(self) -> int:
        self._text()
        return self._count()

    def _attributes(self) -> None:
        self._number(4)
        for _ in range(self._count()):
            self._text()
            size = _TYPE_BYTES.get(self._number(4), 0)
            self._skip(self._count() * size)

    def _text(self) -> None:
        self._skip(self._count())

    def _skip(self, count: int) -> None:
        self._file.seek(_padded(count), 1)

    def _count(self) -> int:
        return self._number(self._count_bytes)

    def _number(self, count: int) -> int:
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("it ends within its header")
        return int.from_bytes(data, "big")


def _padded(count: int) -> int:
    """A number of bytes, rounded up to a multiple of four."""
    return -(-count // 4) * 4
