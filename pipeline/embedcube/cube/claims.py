"""What metadata of a cube may claim. They may come from anyone, and arrays in memory are as large as they say.

Each refusal names the array, what it claims and what is the most. The limits are far above those of real cubes.
"""

import math
from typing import Any

from embedcube.cube.members import MOST_CHUNKS
from embedcube.errors import RequestError
from embedcube.printable import printable

_RANKS = {"embedding": 4, "scale": 3, "status": 3, "n_obs": 3, "time": 1, "time_bnds": 2, "y": 1, "x": 1, "offset": 1}

_TYPES = {
    "embedding": ("int8", "float16", "float32"),
    "scale": ("float32",),
    "status": ("uint8",),
    "n_obs": ("uint16",),
}

_MOST_ALONG = {"windows": 1 << 20, "rows": 1 << 27, "columns": 1 << 27, "features": 1 << 16}
"""most numbers along each dimension of the arrays of a zone"""

_CHUNK_BYTES = 1 << 28
"""bytes of a decoded chunk; those that are written have half a megabyte"""

_WHOLE_BYTES = 1 << 33
"""bytes of an array that is read whole"""


def check_array(where: str, name: str, array: Any) -> None:
    """Refuse an array of a zone that claims what no cube has; `where` is its path for messages.

    Raises:
        RequestError: its dimensions, type or chunks are none that can be read.
    """
    shape = tuple(map(int, array.shape))
    if name in _RANKS and len(shape) != _RANKS[name]:
        raise RequestError(f"{where}: {len(shape)} dimensions, expected {_RANKS[name]}; no cube of embedcube has that")
    if name not in _TYPES:
        check_whole(where, array)
        return
    if str(array.dtype) not in _TYPES[name]:
        raise RequestError(f"{where}: numbers of type {array.dtype}, expected {' or '.join(_TYPES[name])}")
    for (along, most), size in zip(_MOST_ALONG.items(), shape, strict=False):
        if size > most:
            raise RequestError(f"{where}: {size:,} {along}, at most {most:,} can be read; its metadata are wrong")
    chunk, shard = check_chunks(where, array)
    _refuse_above(where, "chunks in an object", math.prod(shard) // math.prod(chunk), MOST_CHUNKS)


def check_offset(where: str, offset: Any, features: int) -> None:
    """Refuse an offset that is not one finite number of float32 for each feature, with a RequestError."""
    if offset.shape != (features,) or str(offset.dtype) != "float32" or not all(map(math.isfinite, offset.tolist())):
        raise RequestError(
            f"{where}: {offset.size:,} numbers of type {offset.dtype}, expected one finite number of float32 for each "
            f"of {features:,} features; its metadata are wrong"
        )


def check_whole(where: str, array: Any) -> None:
    """Refuse an array that is read whole, and claims more than memory should be taken for."""
    # whole numbers of Python: a product of claims may be larger than 64 bits hold
    _refuse_above(where, "bytes", math.prod(map(int, array.shape)) * int(array.dtype.itemsize), _WHOLE_BYTES)
    if any(int(size) < 1 for size in array.chunks):
        raise RequestError(f"{where}: chunks of {array.chunks}; its metadata are wrong")


def check_chunks(where: str, array: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of a chunk and of an object of an array that is read chunk by chunk.

    Raises:
        RequestError: an object is not made of whole chunks, or a chunk is more than memory should be taken for.
    """
    chunk, shard = tuple(map(int, array.chunks)), tuple(map(int, array.shards or array.chunks))
    if min((*chunk, *shard), default=1) < 1 or any(outer % inner for outer, inner in zip(shard, chunk, strict=True)):
        raise RequestError(f"{where}: chunks of {chunk} in objects of {shard}; its metadata are wrong")
    _refuse_above(where, "bytes in a chunk", math.prod(chunk) * int(array.dtype.itemsize), _CHUNK_BYTES)
    return chunk, shard


def check_part(where: str, first: int, last: int, row_bytes: int) -> None:
    """Refuse rows `first` to `last` - 1 that are no rows, or are more than memory should be taken for."""
    if not 0 <= first <= last:
        raise RequestError(f"{where}: rows {first} to {last}; what says where they are is wrong")
    _refuse_above(where, "bytes", (last - first) * row_bytes, _WHOLE_BYTES)


def check_zone(where: str, attributes: Any, shape: tuple[int, ...]) -> None:
    """Refuse a zone whose attributes do not say where its cells are; `shape` is that of its vectors.

    Raises:
        RequestError: an attribute is missing, is no number, or contradicts the arrays.
    """
    try:
        rows, columns = (int(size) for size in attributes["spatial:shape"])
        transform = [float(number) for number in attributes["spatial:transform"]]
        box = [float(number) for number in attributes["spatial:bbox"]]
        known = isinstance(attributes["proj:wkt2"], str) and len(attributes["proj:wkt2"]) < 1 << 16
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"{where}: does not say where its cells are ({printable(error, 100)})") from None
    if (rows, columns) != shape[1:3]:
        raise RequestError(
            f"{where}: spatial:shape is {rows} x {columns}, the vectors are {shape[1]} x {shape[2]} cells"
        )
    placed = len(transform) == 6 and len(box) == 4 and all(map(math.isfinite, (*transform, *box)))
    if not (placed and known and transform[0] > 0 and transform[4] < 0):
        raise RequestError(f"{where}: spatial:transform, spatial:bbox or proj:wkt2 say of no place where it is")


def _refuse_above(where: str, what: str, claimed: int, most: int) -> None:
    if claimed > most:
        raise RequestError(f"{where}: {claimed:,} {what}, at most {most:,} can be read; its metadata are wrong")
