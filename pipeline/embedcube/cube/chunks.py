"""Cells of a cube, scattered or in a box, read so that each chunk is decoded once, however many of them it holds."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    t, y, x = (slice(*part.indices(size)[:2]) for part, size in zip((t, y, x), chunks.shape, strict=False))
    shape = tuple(max(0, part.stop - part.start) for part in (t, y, x))
    values = np.full((*shape, *chunks.shape[3:]), chunks.fill, chunks.dtype)

    def read(part: Part) -> None:
        chunk = chunks.read(part.place)
        if chunk is not None:
            values[part.to] = chunk[part.of]

    _for_each(read, list(parts_of(chunks, t, y, x)), cube)
    return values


def read_vectors(cube: Readable, zone: str, t: slice, y: slice, x: slice) -> NDArray[np.float32]:
    """Decoded vectors (time, y, x, feature) in a box; NaN where a cell has none. Each chunk is decoded once.

    Beside the result the scales of the box are held and one decoded chunk, or eight of a cube on another machine.
    """
    chunks = cube.chunks(zone, "embedding")
    scale = read_box(cube, zone, "scale", t, y, x)[..., None] if cube.has_scale(zone) else None
    shape = tuple(part.stop - part.start for part in (t, y, x))
    vectors = np.empty((*shape, *chunks.shape[3:]), np.float32)

    def read(part: Part) -> None:
        chunk, own = chunks.read(part.place), vectors[part.to]
        # two steps, each in the cache, are quicker than one product of unlike types
        own[...] = chunks.fill if chunk is None else chunk[part.of]
        if scale is not None:
            own *= scale[part.to]

    _for_each(read, list(parts_of(chunks, t, y, x)), cube)
    return vectors


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
