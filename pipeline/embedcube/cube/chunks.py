"""Cells of a cube, scattered or in a box, read so that each chunk is decoded once, however many of them it holds."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.encoding import to_values
from embedcube.cube.objects import Chunks, Place

_AT_ONCE = 8
"""chunks that are read at once from another machine, where waiting takes most of the time"""


class Readable(Protocol):
    """What is needed of a cube to read its arrays."""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""

    def chunks(self, zone: str, name: str) -> Chunks:
        """The inner chunks of one of the arrays of a zone."""

    def has_scale(self, zone: str) -> bool:
        """Whether the vectors are int8, each with its scale."""

    def offset(self, zone: str) -> NDArray[np.float32] | None:
        """What is added to each feature of int8 vectors that are centred; None in other layers."""


def read_cells(
    cube: Readable, zone: str, array: str, t: Sequence[int], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[Any]:
    """Stored numbers (window, cell) or (window, cell, feature) of one array at cells (row, column) in some windows.

    A chunk that several of them lie in is read and decoded once. Beside the result one decoded chunk is held, or eight
    of a cube on another machine.
    """
    chunks, windows = cube.chunks(zone, array), np.asarray(t, np.int64)
    values = np.full((len(windows), len(rows), *chunks.shape[3:]), chunks.fill, chunks.dtype)
    if not values.size:
        return values
    depth, height, width = chunks.chunks[:3]
    in_time = _groups(windows // depth)
    in_space = _groups(rows // height, columns // width)

    def read(pair: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
        at, cells = pair
        place = (windows[at[0]] // depth, rows[cells[0]] // height, columns[cells[0]] // width)
        chunk = chunks.read(place)
        if chunk is not None:
            values[np.ix_(at, cells)] = chunk[windows[at, None] % depth, rows[cells] % height, columns[cells] % width]

    _for_each(read, list(product(in_time, in_space)), cube)
    return values


def read_box(cube: Readable, zone: str, array: str, t: slice, y: slice, x: slice) -> NDArray[Any]:
    """Stored numbers (time, y, x) or (time, y, x, feature) of one array in a box; each chunk is decoded once.

    What of the box lies beyond the array is left out.
    """
    chunks = cube.chunks(zone, array)
    t, y, x, shape = _inside(chunks, t, y, x)
    values = np.full(shape, chunks.fill, chunks.dtype)

    def read(part: Part) -> None:
        chunk = chunks.read(part.place)
        if chunk is not None:
            values[part.to] = chunk[part.of]

    _for_each(read, list(parts_of(chunks, t, y, x)), cube)
    return values


def read_vectors(cube: Readable, zone: str, t: slice, y: slice, x: slice) -> NDArray[np.float32]:
    """Decoded vectors (time, y, x, feature) in a box; NaN where a cell has none. Each chunk is decoded once.

    What of the box lies beyond the array is left out. Beside the result the scales of the box are held and one decoded
    chunk, or eight of a cube on another machine.
    """
    chunks = cube.chunks(zone, "embedding")
    t, y, x, shape = _inside(chunks, t, y, x)
    scale = read_box(cube, zone, "scale", t, y, x)[..., None] if cube.has_scale(zone) else None
    vectors, offset = np.empty(shape, np.float32), cube.offset(zone)

    def read(part: Part) -> None:
        chunk, own = chunks.read(part.place), vectors[part.to]
        # two steps, each in the cache, are quicker than one product of unlike types
        own[...] = chunks.fill if chunk is None else chunk[part.of]
        if scale is not None:
            to_values(own, scale[part.to], offset)

    _for_each(read, list(parts_of(chunks, t, y, x)), cube)
    return vectors


def _inside(chunks: Chunks, t: slice, y: slice, x: slice) -> tuple[slice, slice, slice, tuple[int, ...]]:
    """The part (time, y, x) of a box that lies in an array, and the shape of what is read of it."""
    t, y, x = (slice(*part.indices(size)[:2]) for part, size in zip((t, y, x), chunks.shape, strict=False))
    return t, y, x, (*(max(0, part.stop - part.start) for part in (t, y, x)), *chunks.shape[3:])


def read_outer(
    cube: Readable, zone: str, array: str, at: Sequence[NDArray[np.int64]], features: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """Values (time, y, x) or (time, y, x, feature) at every combination of numbers along each axis, in any order.

    `array` is one of the store, or "vector" for decoded vectors, of which `features` may choose some. Each chunk is
    decoded once. Beside the result the scales are held, and a part of a decoded chunk.
    """
    t, y, x = at
    chunks = cube.chunks(zone, stored_name(array))
    values = _empty(chunks, array, (len(t), len(y), len(x)), features)
    axes = [
        [(own, one[own[:1]] // size, one[own] % size) for own in _groups(one // size)] if len(one) else []
        for one, size in zip(at, chunks.chunks[:3], strict=True)
    ]

    def read(part: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]) -> None:
        chunk = chunks.read((int(part[0][1][0]), int(part[1][1][0]), int(part[2][1][0])))
        if chunk is None:
            return
        to_t, to_y, to_x = (one[0] for one in part)
        of_t, of_y, of_x = (one[2] for one in part)
        # some rows at a time: numbers that are repeated may make the part larger than the chunk
        for first, last in _pieces(len(to_y), len(to_t) * len(to_x), chunk):
            own = chunk[np.ix_(of_t, of_y[first:last], of_x)]
            values[np.ix_(to_t, to_y[first:last], to_x)] = own if features is None else own[..., features]

    _for_each(read, list(product(*axes)), cube)
    if array == "vector" and cube.has_scale(zone):
        to_values(values, read_outer(cube, zone, "scale", at)[..., None], _chosen(cube.offset(zone), features))
    return values


def read_points(
    cube: Readable, zone: str, array: str, at: Sequence[NDArray[np.int64]], features: NDArray[np.int64] | None = None,
    each: bool = False,
) -> NDArray[Any]:  # fmt: skip
    """Values (point) or (point, feature) at points (t, y, x), in any order; else as `read_outer`.

    `features` choose some of all points, or, with `each`, one of each point: (point).
    """
    t, y, x = at
    chunks = cube.chunks(zone, stored_name(array))
    values = _empty(chunks, array, (len(t),), features, each)
    sizes = chunks.chunks[:3]
    places = _groups(*(one // size for one, size in zip(at, sizes, strict=True))) if len(t) else []

    def read(points: NDArray[np.int64]) -> None:
        first = points[0]
        chunk = chunks.read((int(t[first] // sizes[0]), int(y[first] // sizes[1]), int(x[first] // sizes[2])))
        if chunk is None:
            return
        for begin, end in _pieces(len(points), 1, chunk):
            own = points[begin:end]
            of = tuple(one[own] % size for one, size in zip(at, sizes, strict=True))
            if features is not None and each:
                values[own] = chunk[(*of, features[own])]
            else:
                values[own] = chunk[of] if features is None else chunk[of][..., features]

    _for_each(read, places, cube)
    if array == "vector" and cube.has_scale(zone):
        scale = read_points(cube, zone, "scale", at)
        to_values(values, scale if each else scale[:, None], _chosen(cube.offset(zone), features))
    return values


def _chosen(offset: NDArray[np.float32] | None, features: NDArray[np.int64] | None) -> NDArray[np.float32] | None:
    """The offset of the features that are read."""
    return offset if offset is None or features is None else offset[features]


def stored_name(array: str) -> str:
    """The array of the store that values are read from; decoded vectors are called "vector"."""
    return "embedding" if array == "vector" else array


def _empty(
    chunks: Chunks, array: str, shape: tuple[int, ...], features: NDArray[np.int64] | None, each: bool = False
) -> NDArray[Any]:
    """An array for values, with the fill value everywhere."""
    if len(chunks.shape) == 4 and not each:
        shape = (*shape, chunks.shape[3] if features is None else len(features))
    return np.full(shape, chunks.fill, np.float32 if array == "vector" else chunks.dtype)


def _pieces(count: int, each: int, chunk: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Parts of a count of rows of `each` cells; a part holds no more cells than a chunk, or one row."""
    step = max(1, int(np.prod(chunk.shape[:3])) // max(1, each))
    for first in range(0, count, step):
        yield first, min(count, first + step)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one chunk has of a box."""

    place: Place
    of: tuple[slice, slice, slice]
    """(time, y, x) within the chunk"""
    to: tuple[slice, slice, slice]
    """(time, y, x) within the box"""


def parts_of(chunks: Chunks, t: slice, y: slice, x: slice) -> Iterator[Part]:
    """The chunks that a box touches, one after the other."""
    axes = [list(_along(part, size)) for part, size in zip((t, y, x), chunks.chunks[:3], strict=True)]
    for along_t, along_y, along_x in product(*axes):
        yield Part(
            place=(along_t[0], along_y[0], along_x[0]),
            of=(along_t[1], along_y[1], along_x[1]),
            to=(along_t[2], along_y[2], along_x[2]),
        )


def _along(part: slice, size: int) -> Iterator[tuple[int, slice, slice]]:
    """For each chunk along one axis: its number, what of it is in the part, and where that is in the part."""
    for number in range(part.start // size, -(-part.stop // size)):
        first, last = max(part.start, number * size), min(part.stop, (number + 1) * size)
        yield number, slice(first - number * size, last - number * size), slice(first - part.start, last - part.start)


def _groups(*numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Places of equal numbers: of equal pairs, where two arrays are given."""
    order = np.lexsort(numbers[::-1])
    changes = np.any([np.diff(one[order]) != 0 for one in numbers], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)


def _for_each(read: Callable[[Any], None], parts: list[Any], cube: Readable) -> None:
    """Read each part: one after the other, or several at once where the cube is on another machine."""
    if cube.is_local or len(parts) < 2:
        for part in parts:
            read(part)
        return
    with ThreadPoolExecutor(min(_AT_ONCE, len(parts))) as pool:
        list(pool.map(read, parts))
