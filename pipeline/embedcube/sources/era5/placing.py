"""From points to locations: which part of a field is read, how tiles are joined, and the value at each location."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.scene import Asset
from embedcube.sources.era5.points import Lattice, Neighbours
from embedcube.sources.era5.reduce import Reduced, Reduction
from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.tiles import offset_of, parts_of, paste


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was read of one band of one file for some locations."""

    neighbours: Neighbours
    """the points of each location, in the field that all tiles make together"""
    rows: slice
    runs: list[slice]
    """with `rows`, the part of that field that is needed; empty if no location lies in it"""
    pieces: tuple[tuple[Reduced, slice, slice], ...]
    """what the file has of it, with rows and columns; of a file that is no tile one piece with all of it"""
    share: float
    """share of the frame that the steps fill"""
    tiled: bool
    """whether the file is a tile of a larger field"""


def joined_at(tiles: list[Read], shape: tuple[int, ...]) -> tuple[Reduced, float]:
    """The values of a band at the locations, and the share of the frame that its steps fill.

    Values are NaN outside of the field, and zeros where no step lies in the frame.
    """
    first = tiles[0]
    pieces = [piece for tile in tiles for piece in tile.pieces]
    if not first.runs:
        return Reduced(values_yx=np.full(shape, np.nan), share_yx=np.zeros(shape)), first.share
    if not pieces:
        return Reduced(values_yx=np.zeros(shape), share_yx=np.zeros(shape)), 0.0
    field = paste(pieces, first.rows, first.runs) if first.tiled else pieces[0][0]
    return _placed(field, first.rows, first.runs, first.neighbours), first.share


def union_in(asset: Asset) -> Lattice:
    """The lattice that the tiles of a field fill together, as the inventory has it for each of them."""
    dx, _, left, _, dy, top = asset.transform
    return Lattice(west=left + dx / 2, north=top + dy / 2, dx=dx, dy=-dy, rows=asset.rows, cols=asset.cols)


def pieces_of(
    reduction: Reduction, series: Series, variable: Variable, first: int, union: Lattice, rows: slice, runs: list[slice]
) -> Iterator[tuple[Reduced, slice, slice]]:
    """What a tile has of a part of a joined field, with rows and columns of that field."""
    tile, offset = variable.points, offset_of(variable.points, union)
    assert isinstance(tile, Lattice)
    assert offset is not None
    for inner, cols, shift in parts_of(tile, union, rows, runs):
        piece = reduction.of(series, variable, first, inner, [cols])
        yield (
            piece,
            slice(inner.start + offset[0], inner.stop + offset[0]),
            slice(cols.start + shift, cols.stop + shift),
        )


def whole_field(variable: Variable) -> tuple[slice, list[slice]]:
    """All rows, and all columns in one run."""
    rows, cols = variable.points.shape
    return slice(0, rows), [slice(0, cols)]


def needed_for(neighbours: Neighbours) -> tuple[slice, list[slice]]:
    """Rows, and columns in runs, that hold all points with a weight."""
    counts = neighbours.share_kyx > 0
    rows = neighbours.row_kyx[counts]
    return slice(int(rows.min()), int(rows.max()) + 1), _runs(np.unique(neighbours.col_kyx[counts]))


def _placed(field: Reduced, rows: slice, runs: list[slice], neighbours: Neighbours) -> Reduced:
    """The weighted mean of the neighbours of each location that have a value; NaN where none has one."""
    columns = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    shape = neighbours.share_kyx.shape[1:]
    result, filled, weight = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for row_yx, col_yx, share_yx in zip(neighbours.row_kyx, neighbours.col_kyx, neighbours.share_kyx, strict=True):
        counts = share_yx > 0
        at = np.where(counts, row_yx - rows.start, 0), np.where(counts, np.searchsorted(columns, col_yx), 0)
        picked = field.values_yx[at]
        share = np.where(counts & np.isfinite(picked), share_yx, 0)
        result += np.where(share > 0, picked, 0) * share
        filled += field.share_yx[at] * share
        weight += share
    # a weight this small is a rounding error
    values, shares = (
        np.asarray(np.divide(total, weight, out=np.full(shape, np.nan), where=weight > 1e-5))
        for total in (result, filled)
    )
    return Reduced(values_yx=values, share_yx=np.where(np.isfinite(shares), shares, 0))


def _runs(needed: NDArray[np.int64]) -> list[slice]:
    """Columns in runs that are read together; columns at both ends of a field are read without those between them."""
    gaps = np.nonzero(np.diff(needed) > max(16, len(needed)))[0]
    firsts, lasts = [0, *(gaps + 1).tolist()], [*gaps.tolist(), len(needed) - 1]
    return [slice(int(needed[a]), int(needed[b]) + 1) for a, b in zip(firsts, lasts, strict=True)]
