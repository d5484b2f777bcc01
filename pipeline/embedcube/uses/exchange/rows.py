"""The chosen cells of a layer, row by row, for tables of others: a batch is a part of one zone in one window."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.cube.chunks import read_box, read_vectors
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.listed import is_list
from embedcube.cube.reader import Cube
from embedcube.cube.tables import rows_of
from embedcube.grid import to_degrees
from embedcube.uses.exchange.chosen import Chosen, rectangles, samples_in
from embedcube.uses.exchange.codecs import Floats
from embedcube.windows import Window

_CELLS = 1 << 16
"""cells of a batch"""

_NUMBERS = 1 << 24
"""numbers of a batch of samples"""


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

    def __len__(self) -> int:
        return len(self.y)

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude of the middle of each cell."""
        left, bottom, right, top = self.corners.T
        lon, lat = to_degrees(self.wkt).transform((left + right) / 2, (bottom + top) / 2)
        return np.asarray(lon), np.asarray(lat)

    def geometry(self) -> NDArray[Any]:
        """The cells as polygons in degrees, their corners against the clock."""
        left, bottom, right, top = self.corners.T
        x = np.stack([left, right, right, left, left], axis=1)
        y = np.stack([bottom, bottom, top, top, bottom], axis=1)
        lon, lat = to_degrees(self.wkt).transform(x, y)
        return np.asarray(shapely.polygons(np.stack([lon, lat], axis=-1)))


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Samples of a list with a vector; of samples with several cells it is the mean of those with one."""

    ids: list[str]
    window: Window
    vectors: Floats
    """(sample, feature)"""
    status: NDArray[np.uint8]
    n_obs: NDArray[np.uint16]
    """the most of the cells of a sample"""
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    """NaN where a place is unknown"""

    def __len__(self) -> int:
        return len(self.ids)

    def geometry(self) -> NDArray[Any]:
        """The places as points; None where one is unknown."""
        points = np.asarray(shapely.points(self.lon, self.lat), dtype=object)
        points[~(np.isfinite(self.lon) & np.isfinite(self.lat))] = None
        return points


def batches(cube: Cube, layer: str, chosen: Chosen) -> Iterator[Batch | SampleBatch]:
    """All chosen cells or samples of a layer that have a vector, window after window."""
    if is_list(cube.zones_of(layer)[0]):
        yield from _sample_batches(cube, cube.zones_of(layer)[0], chosen)
    else:
        yield from _cell_batches(cube, layer, chosen)


def _sample_batches(cube: Cube, zone: str, chosen: Chosen) -> Iterator[SampleBatch]:
    samples, inside = cube.samples(zone), samples_in(cube, zone, chosen)
    lon, lat, features = samples.column("lon"), samples.column("lat"), cube.array(zone, "embedding").shape[-1]
    step = max(1, _NUMBERS // features // len(cube.group(zone)["status"][0, :1].ravel()))
    for t in cube.windows_of(zone, chosen.time):
        for first in range(0, len(inside), step):
            part = slice(first, first + step)
            if not inside[part].any():
                continue
            vectors, status = rows_of(cube, zone, t, part)
            own = np.flatnonzero(inside[part] & ((status == VALID) | (status == VALID_INCOMPLETE)))
            if len(own):
                n_obs = np.asarray(cube.group(zone)["n_obs"][t, part]).reshape(len(status), -1).max(axis=1)
                yield SampleBatch(
                    ids=[samples.ids[first + i] for i in own.tolist()], window=cube.windows(zone)[t],
                    vectors=vectors[own], status=status[own], n_obs=n_obs[own], lon=lon[part][own], lat=lat[part][own],
                )  # fmt: skip


def _cell_batches(cube: Cube, layer: str, chosen: Chosen) -> Iterator[Batch]:
    for one in rectangles(cube, layer, chosen):
        inside, attributes = one.inside(), cube.group(one.zone).attrs
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
    """How many chosen cells or samples have a vector, in all chosen windows; read from the status alone."""
    count, zone = 0, cube.zones_of(layer)[0]
    if is_list(zone):
        inside = samples_in(cube, zone, chosen)
        for t in cube.windows_of(zone, chosen.time):
            status = np.asarray(cube.group(zone)["status"][t]).reshape(len(inside), -1)
            count += int((((status == VALID) | (status == VALID_INCOMPLETE)).any(axis=1) & inside).sum())
        return count
    for one in rectangles(cube, layer, chosen):
        inside = one.inside()
        for t in one.windows:
            count += int((cube.valid(one.zone, t, one.y, one.x) & inside).sum())
    return count
