"""Tiles of one field in several files: joined to one field before anything is interpolated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from embedcube.sources.era5.points import Lattice, Points
from embedcube.sources.era5.reduce import Reduced
from embedcube.sources.era5.series import Part

_PHASE = 1e-3
"""tolerance (in spacings) within which points of two tiles lie on one lattice"""


def union_of(points: Sequence[Points]) -> Lattice | None:
    """The lattice that tiles fill together without a hole; None if there is none."""
    tiles = [tile for tile in points if isinstance(tile, Lattice)]
    if len(tiles) < len(points):
        return None
    best: Lattice | None = None
    for first in tiles:
        offsets = [offset_of(tile, replace(first, north=max(t.north for t in tiles))) for tile in tiles]
        placed = [offset for offset in offsets if offset is not None]
        if len(placed) < len(tiles):
            return None
        rows = max(row + tile.rows for (row, _), tile in zip(placed, tiles, strict=True))
        cols = max(col + tile.cols for (_, col), tile in zip(placed, tiles, strict=True))
        cols = min(cols, round(360 / first.dx))
        union = replace(first, north=max(t.north for t in tiles), rows=rows, cols=cols)
        if best is None or cols < best.cols:
            best = union
    return best if best is not None and _is_filled(best, tiles) else None


def offset_of(tile: Points, union: Lattice) -> tuple[int, int] | None:
    """Row and column of a tile's first point in a lattice; None if its points do not lie on it."""
    if not isinstance(tile, Lattice) or not np.allclose((tile.dx, tile.dy), (union.dx, union.dy), rtol=1e-6):
        return None
    down, right = (union.north - tile.north) / union.dy, (tile.west - union.west) / union.dx
    row, col = round(down), round(right)
    if abs(down - row) > _PHASE or abs(right - col) > _PHASE:
        return None
    return row, col % round(360 / union.dx)


def _is_filled(union: Lattice, tiles: Sequence[Lattice]) -> bool:
    filled = np.zeros(union.shape, dtype=bool)
    for tile in tiles:
        if (offset := offset_of(tile, union)) is not None:
            cols = (offset[1] + np.arange(tile.cols)) % round(360 / union.dx)
            filled[offset[0] : offset[0] + tile.rows, cols[cols < union.cols]] = True
    return bool(filled.all())


def joined(groups: Sequence[list[Part]]) -> list[list[Part]]:
    """The groups of parts, with those that are tiles of one field, at the same times, as one group."""
    together: dict[tuple[bytes, frozenset[str]], list[list[Part]]] = {}
    for group in groups:
        key = group[0].times.tobytes(), frozenset(part.band for part in group)
        together.setdefault(key, []).append(group)
    result: list[list[Part]] = []
    for members in together.values():
        alone = all(len({part.band for part in group}) == len(group) for group in members)
        if len(members) > 1 and alone and union_of([group[0].variable.points for group in members]):
            result.append([part for group in members for part in group])
        else:
            result += members
    return result


def paste(tiles: Sequence[tuple[Reduced, slice, slice]], rows: slice, runs: list[slice]) -> Reduced:
    """A part of a joined field, from parts of its tiles with their rows and columns; the first with a value counts.

    Columns of a tile may lie beyond the last one of a lattice that goes around the globe: they are the first ones.
    """
    columns = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    values, share = (np.full((rows.stop - rows.start, len(columns)), empty) for empty in (np.nan, 0.0))
    for tile, tile_rows, tile_cols in tiles:
        first, last = max(rows.start, tile_rows.start), min(rows.stop, tile_rows.stop)
        inside = np.nonzero((columns >= tile_cols.start) & (columns < tile_cols.stop))[0]
        if first >= last or not len(inside):
            continue
        here = np.ix_(np.arange(first - rows.start, last - rows.start), inside)
        there = np.ix_(np.arange(first, last) - tile_rows.start, columns[inside] - tile_cols.start)
        new = np.isnan(values[here])
        values[here] = np.where(new, tile.values_yx[there], values[here])
        share[here] = np.where(new, tile.share_yx[there], share[here])
    return Reduced(values_yx=values, share_yx=share)


def parts_of(tile: Lattice, union: Lattice, rows: slice, runs: list[slice]) -> Iterator[tuple[slice, slice, int]]:
    """The rows and columns of a tile that lie in a part of a joined field, and what to add to its columns.

    Rows are those of the tile; its first row is `offset_of(tile, union)[0]` of the joined field.
    """
    offset = offset_of(tile, union)
    if offset is None:
        return
    row, col = offset
    first, last = max(rows.start - row, 0), min(rows.stop - row, tile.rows)
    for run in runs:
        for turn in (0, round(360 / union.dx)):
            left, right = max(run.start + turn - col, 0), min(run.stop + turn - col, tile.cols)
            if first < last and left < right:
                yield slice(first, last), slice(left, right), col - turn
