"""Scattered cells of a cube, read so that each chunk is decoded once, however many cells and windows it holds."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.store import CubeStore

_RUN = 16
"""chunks, one window after the other, that are read in one call and held at once"""

_AT_ONCE = 8
"""places that are read at once from another machine, where waiting takes most of the time"""


def read_cells(
    cube: CubeStore, zone: str, array: str, t: Sequence[int], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[Any]:
    """Stored numbers (window, cell) or (window, cell, feature) of one array at cells (row, column) in some windows.

    A chunk that several of them lie in is read and decoded once. Beside the result at most 16 decoded chunks are held.
    """
    source, windows = cube.array(zone, array), np.asarray(t, np.int64)
    values = np.empty((len(windows), len(rows), *source.shape[3:]), source.dtype)
    if not values.size:
        return values
    depth, height, width = source.chunks[:3]

    def read(cells: NDArray[np.int64]) -> None:
        y, x = rows[cells[0]] // height * height, columns[cells[0]] // width * width
        for run in _runs(windows, depth):
            first = windows[run].min()
            block = source[first : windows[run].max() + 1, y : y + height, x : x + width]
            at = (windows[run, None] - first, rows[cells] - y, columns[cells] - x)
            values[np.ix_(run, cells)] = block[at]

    _for_each(read, _by_chunk(rows // height, columns // width), at_once=1 if cube.is_local else _AT_ONCE)
    return values


def _by_chunk(chunk_row: NDArray[np.int64], chunk_column: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Numbers of the cells of each chunk."""
    order = np.lexsort((chunk_column, chunk_row))
    changes = (np.diff(chunk_row[order]) != 0) | (np.diff(chunk_column[order]) != 0)
    return np.split(order, np.flatnonzero(changes) + 1)


def _runs(windows: NDArray[np.int64], depth: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of windows that lie in neighbouring chunks of `depth` windows, at most `_RUN` chunks at once."""
    order = np.argsort(windows, kind="stable")
    chunks = windows[order] // depth
    # a new run begins after a gap, and at every 16th chunk
    new = np.flatnonzero((np.diff(chunks) > 1) | (np.diff(chunks // _RUN) > 0)) + 1
    for first, end in pairwise([0, *new.tolist(), len(order)]):
        yield order[first:end]


def _for_each(read: Callable[[NDArray[np.int64]], None], groups: list[NDArray[np.int64]], at_once: int) -> None:
    if at_once == 1:
        for cells in groups:
            read(cells)
        return
    with ThreadPoolExecutor(min(at_once, len(groups))) as pool:
        list(pool.map(read, groups))
