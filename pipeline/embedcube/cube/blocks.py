"""A layer piece by piece: stored vectors with their status, so that any layer can be computed with in little memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.chunks import read_box
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE, decode
from embedcube.cube.similar import Query
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import Area, Within, area_in


@dataclass(frozen=True, kw_only=True)
class Block:
    """A rectangle of cells of one zone in one window."""

    zone: str
    """path of the group: "<layer>/<zone>" """
    t: int
    """index of the window"""
    y: slice
    x: slice
    stored: NDArray[Any]
    """(y, x, feature) as stored"""
    scale: NDArray[np.float32] | None
    """(y, x) beside int8, NaN where there is no vector; None for other encodings"""
    offset: NDArray[np.float32] | None
    """(feature) of a centred layer"""
    status: NDArray[np.uint8]
    """(y, x)"""
    inside: NDArray[np.bool_] | None
    """(y, x): cells whose centre is in the region that was asked for; None where that is all"""

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Decoded vectors (y, x, feature); NaN where a cell has none."""
        return decode(self.stored, self.scale, self.offset)

    def cosines(self, query: Query, cells: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """Cosines (cell) with a query: of all cells row by row, or of some, by a mask (y, x) or by their numbers.

        What they are where a cell has no vector has no meaning.
        """
        if cells is not None and cells.dtype == bool:
            cells = np.flatnonzero(cells)
        stored, scale = self.stored.reshape(-1, self.stored.shape[-1]), None
        if self.scale is not None and self.offset is not None:
            scale = self.scale.ravel() if cells is None else self.scale.ravel()[cells]
        return query.cosines(stored if cells is None else stored[cells], scale, self.offset)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Cells (y, x) with a vector, inside of the region or not."""
        return np.asarray((self.status == VALID) | (self.status == VALID_INCOMPLETE))


def blocks(
    cube: CubeStore, layer: str, within: Within | None = None, time: Time = None, cells: int = 250_000
) -> Iterator[Block]:
    """Blocks of a layer, zone by zone, that cover a region in degrees; by default all cells of all windows.

    A block has at most about `cells` cells: whole chunks, so that each chunk is decoded once. Where one chunk holds
    several windows these are read together, and the blocks are smaller. Blocks without a cell inside are left out.
    """
    for zone in cube.zones_of(layer):
        area = None if within is None else area_in(cube, zone, within)
        if within is None or area is not None:
            yield from blocks_in(cube, zone, area, cube.windows_of(zone, time), cells)


def blocks_in(cube: CubeStore, zone: str, area: Area | None, windows: list[int], cells: int) -> Iterator[Block]:
    """Blocks that cover an area of one zone, None for all of it, in some windows."""
    embedding, (rows, columns) = cube.array(zone, "embedding"), cube.group(zone).attrs["spatial:shape"]
    depth, shard, chunk = embedding.chunks[0], cube.shard_cells(zone), embedding.chunks[1]
    bounds = (slice(0, rows), slice(0, columns)) if area is None else (area.y, area.x)
    for group in sorted({t // depth for t in windows}):
        chosen = [t for t in windows if t // depth == group]
        times = slice(chosen[0], chosen[-1] + 1)
        # the other arrays have larger chunks: they are read for whole shards at once
        for outer in tiles(bounds, shard, cells // len(chosen)):
            if area is not None and not area.cut(*outer).any():
                continue
            status = read_box(cube, zone, "status", times, *outer)
            scale = read_box(cube, zone, "scale", times, *outer) if cube.has_scale(zone) else None
            for y, x in tiles(outer, chunk, cells // len(chosen)):
                inside = None if area is None else area.cut(y, x)
                if inside is not None and not inside.any():
                    continue
                stored = read_box(cube, zone, "embedding", times, y, x)
                part = (slice(y.start - outer[0].start, y.stop - outer[0].start),
                        slice(x.start - outer[1].start, x.stop - outer[1].start))  # fmt: skip
                for t in chosen:
                    yield Block(
                        zone=zone,
                        t=t,
                        y=y,
                        x=x,
                        stored=stored[t - times.start],
                        scale=None if scale is None else scale[t - times.start, *part],
                        offset=cube.offset(zone),
                        status=status[t - times.start, *part],
                        inside=inside,
                    )


def tiles(bounds: tuple[slice, slice], unit: int, cells: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles (y, x) of whole squares of `unit` cells, together at most about `cells`, that cover `bounds`.

    The squares are counted from row and column 0; at the ends of the bounds they are cut off.
    """
    y, x = bounds
    squares = max(1, cells // unit**2)
    left, right = x.start // unit, -(-x.stop // unit)
    across = min(squares, right - left)
    down = max(1, squares // across)
    for top in range(y.start // unit, -(-y.stop // unit), down):
        rows = slice(max(y.start, top * unit), min(y.stop, (top + down) * unit))
        for first in range(left, right, across):
            yield rows, slice(max(x.start, first * unit), min(x.stop, (first + across) * unit))
