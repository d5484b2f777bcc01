"""The chosen cells of a layer, row by row, for tables of others: a batch is a part of one zone in one window."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.chunks import read_box, read_vectors
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.reader import Cube
from embedcube.grid import to_degrees
from embedcube.uses.exchange.chosen import Chosen, cells_in
from embedcube.uses.exchange.codecs import Floats
from embedcube.windows import Window

_CELLS = 1 << 16
"""cells of a batch"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cells with a vector."""

    zone: str
    """path "<layer>/<zone>" """
    t: int
    window: Window
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    vectors: Floats
    """(cell, feature)"""
    status: NDArray[np.uint8]
    n_obs: NDArray[np.uint16]
    corners: NDArray[np.float64]
    """(cell, 4): left, bottom, right, top in the CRS of the zone"""
    wkt: str
    crs: str
    """code of the CRS, as EPSG:32632; empty where it has none"""

    @property
    def ids(self) -> list[str]:
        """Names of the cells, ZONE/ROW/COLUMN."""
        zone = self.zone.split("/")[1]
        return [f"{zone}/{y}/{x}" for y, x in zip(self.y.tolist(), self.x.tolist(), strict=True)]

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude of the middle of each cell."""
        left, bottom, right, top = self.corners.T
        lon, lat = to_degrees(self.wkt).transform((left + right) / 2, (bottom + top) / 2)
        return np.asarray(lon), np.asarray(lat)

    def footprints(self) -> NDArray[np.float64]:
        """Corners (cell, 5, 2) of each cell in degrees, closed, against the clock."""
        left, bottom, right, top = self.corners.T
        x = np.stack([left, right, right, left, left], axis=1)
        y = np.stack([bottom, bottom, top, top, bottom], axis=1)
        lon, lat = to_degrees(self.wkt).transform(x, y)
        return np.stack([lon, lat], axis=-1)


def batches(cube: Cube, layer: str, chosen: Chosen) -> Iterator[Batch]:
    """All chosen cells of a layer that have a vector, window after window."""
    for one, inside in cells_in(cube, layer, chosen):
        attributes = cube.group(one.zone).attrs
        a, _, c, _, e, f = attributes["spatial:transform"][:6]
        step = max(1, _CELLS // max(1, one.x.stop - one.x.start))
        for t in one.windows:
            for top in range(one.y.start, one.y.stop, step):
                rows = slice(top, min(one.y.stop, top + step))
                at = slice(t, t + 1)
                status = read_box(cube, one.zone, "status", at, rows, one.x)[0]
                own = (status == VALID) | (status == VALID_INCOMPLETE)
                own &= inside[rows.start - one.y.start : rows.stop - one.y.start]
                if not own.any():
                    continue
                y, x = np.nonzero(own)
                n_obs = read_box(cube, one.zone, "n_obs", at, rows, one.x)[0]
                vectors = read_vectors(cube, one.zone, at, rows, one.x)[0]
                left, upper = c + (x + one.x.start) * a, f + (y + rows.start) * e
                yield Batch(
                    zone=one.zone, t=t, window=cube.windows(one.zone)[t], y=y + rows.start, x=x + one.x.start,
                    vectors=vectors[own], status=status[own], n_obs=n_obs[own], wkt=attributes["proj:wkt2"],
                    corners=np.stack([left, upper + e, left + a, upper], axis=1), crs=attributes.get("proj:code", ""),
                )  # fmt: skip


def cells_of(cube: Cube, layer: str, chosen: Chosen) -> int:
    """How many chosen cells have a vector, in all chosen windows; read from the status alone."""
    count = 0
    for one, inside in cells_in(cube, layer, chosen):
        for t in one.windows:
            count += int((cube.valid(one.zone, t, one.y, one.x) & inside).sum())
    return count


def windows_in(cube: Cube, layer: str, chosen: Chosen) -> int:
    """How many windows are chosen."""
    return len({t for one, _ in cells_in(cube, layer, chosen) for t in one.windows})
