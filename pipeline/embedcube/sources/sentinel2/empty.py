"""Bands or masks that are empty where the others have data: programs that stop early leave zeros, and say nothing.

Whether a scene is so is a fact of the scene. What a shard sees of it is a reason to look at fixed places of all its
files, no more: else it would depend on the size of the shards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.scene import Asset
from embedcube.grid import Grid, PixelArea

_BLOCK_PX = 16
"""side of a square of the grid's lattice that is a reason to look, where nothing of it has data"""

_EMPTY_SHARE = 0.5
"""a band without data on more than this share of what its mask calls clear was not written, or not decoded"""

_EVIDENCE_SHARE = 0.1
"""the mask must call so much of a scene clear: lossy masks ring at a swath's edge"""

_SIDE = 64
"""side of a window in pixels; there are nine: at the corners, between them, and in the middle"""

_WHOLE = 192
"""scenes of at most this side are looked at as a whole"""


@dataclass(frozen=True, kw_only=True)
class Presence:
    """Where the files of a scene have data; all arrays have the same shape."""

    bands: Sequence[NDArray[np.bool_]]
    """for each band"""
    labelled: NDArray[np.bool_]
    """where the mask has a class"""
    clear: NDArray[np.bool_]
    """where that class is a clear one: an archive may have no numbers under clouds"""

    def odd(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each band, and then for the mask: where it should have data, and where of this it has none."""
        expected = self.labelled & self.clear
        in_all = np.logical_and.reduce(list(self.bands))
        return [*((expected, expected & ~seen) for seen in self.bands), (in_all, in_all & ~self.labelled)]


def reason_to_look(presence: Presence, area: PixelArea) -> bool:
    """Whether a square of the grid's lattice within `area` is wholly empty in one file and should have data."""
    first_row, first_col = -area.row % _BLOCK_PX, -area.col % _BLOCK_PX
    high, wide = ((side - first) // _BLOCK_PX for side, first in ((area.rows, first_row), (area.cols, first_col)))
    if high < 1 or wide < 1:
        return any(empty.any() for _, empty in presence.odd())
    for _, empty in presence.odd():
        if empty.any():
            cut = empty[first_row:, first_col:][: high * _BLOCK_PX, : wide * _BLOCK_PX]
            if cut.reshape(high, _BLOCK_PX, wide, _BLOCK_PX).all(axis=(1, 3)).any():
                return True
    return False


def empty_file(bands: Sequence[Asset], mask: Asset, presence_of: Callable[[Grid, PixelArea], Presence]) -> str:
    """Which file of a scene is empty where the others have data, in words; empty if none is.

    `presence_of` reads the files onto an area of a grid.
    """
    finest = min((*bands, mask), key=lambda asset: abs(asset.transform[0]))
    grid = Grid(
        crs=finest.crs, pixel=abs(finest.transform[0]), origin_x=finest.transform[2], origin_y=finest.transform[5]
    )
    looks = [presence_of(grid, area).odd() for area in _areas(finest)]
    size = sum(look[0][0].size for look in looks)
    for number, asset in enumerate((*bands, mask)):
        expected, empty = (sum(int(look[number][i].sum()) for look in looks) for i in (0, 1))
        if expected > _EVIDENCE_SHARE * size and empty > _EMPTY_SHARE * expected:
            others = f"{mask.band} has data" if number < len(bands) else "all bands have data"
            return f"{asset.band}: {asset.path} is empty where {others}"
    return ""


def _areas(asset: Asset) -> list[PixelArea]:
    whole = PixelArea(row=0, col=0, rows=asset.rows, cols=asset.cols)
    rows, cols = ([0] if n <= _WHOLE else [0, (n - _SIDE) // 2, n - _SIDE] for n in (asset.rows, asset.cols))
    high, wide = (n if n <= _WHOLE else _SIDE for n in (asset.rows, asset.cols))
    return [replace(whole, row=row, col=col, rows=high, cols=wide) for row in rows for col in cols]
