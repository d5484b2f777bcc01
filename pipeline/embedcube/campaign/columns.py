"""Columns of Arrow from and to numpy, without pandas: pyarrow's own ways load it, which takes longer than `status`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray


def integers(values: Sequence[int] | range | NDArray[Any]) -> pyarrow.Array:
    """A column of int64."""
    data = np.asarray(values, dtype=np.int64)
    return pyarrow.Array.from_buffers(pyarrow.int64(), len(data), [None, pyarrow.py_buffer(data.tobytes())])


def truths(values: Sequence[bool] | NDArray[Any]) -> pyarrow.Array:
    """A column of booleans."""
    bits = np.packbits(np.asarray(values, dtype=bool), bitorder="little").tobytes()
    return pyarrow.Array.from_buffers(pyarrow.bool_(), len(values), [None, pyarrow.py_buffer(bits)])


def texts(values: Iterable[str]) -> pyarrow.Array:
    """A column of texts, of less than 2 GB together."""
    return _texts(values, pyarrow.string(), np.int32)


def long_texts(values: Iterable[str]) -> pyarrow.Array:
    """A column of texts that may be any number of bytes together."""
    return _texts(values, pyarrow.large_string(), np.int64)


def numbers_of(column: pyarrow.ChunkedArray) -> NDArray[np.int64]:
    """A column of integers without nulls, as numpy."""
    column = column.cast(pyarrow.int64())
    chunks = [_of_buffer(chunk, np.int64) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int64)


def places_in(column: pyarrow.ChunkedArray, values: pyarrow.Array | pyarrow.ChunkedArray) -> NDArray[np.int64]:
    """For each row of a column, at which place of `values`, which are unlike, its value is; -1 where it is at none."""
    if not len(column) or not len(values):
        return np.full(len(column), -1, dtype=np.int64)
    values = values.combine_chunks() if isinstance(values, pyarrow.ChunkedArray) else values
    found = pyarrow.compute.index_in(column.combine_chunks(), value_set=values)
    places = _of_buffer(found, np.int32).astype(np.int64)
    valid = found.buffers()[0]
    if valid is not None:
        bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
        places[bits[found.offset : found.offset + len(found)] == 0] = -1
    return places


def coded(column: pyarrow.ChunkedArray) -> tuple[list[Any], NDArray[np.int64]]:
    """The unlike values of a column, and for each row at which place among them its value is."""
    values = pyarrow.compute.unique(column)
    return values.to_pylist(), places_in(column, values)


def _texts(values: Iterable[str], kind: pyarrow.DataType, offset: Any) -> pyarrow.Array:
    data = [value.encode() for value in values]
    buffers = [
        None,
        pyarrow.py_buffer(np.cumsum([0, *map(len, data)], dtype=offset)),
        pyarrow.py_buffer(b"".join(data)),
    ]
    return pyarrow.Array.from_buffers(kind, len(data), buffers)


def _of_buffer(array: pyarrow.Array, dtype: Any) -> NDArray[Any]:
    if not len(array):
        return np.zeros(0, dtype=dtype)
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
