"""The points of weather fields, and the weights with which they make the value at a location."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.schema import Resampling

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CRS = "EPSG:4326"
"""CRS of all points in this module"""

_SNAP = 1e-6
"""tolerance (in spacings) within which a location lies on a point: files round their coordinates"""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """For each location, the k points that make its value: row and column in the field, and weight."""

    row_kyx: Ints
    col_kyx: Ints
    share_kyx: Floats
    """weight; 0 for a point that does not count, all 0 outside of the field"""


class Points(Protocol):
    """The points of a field."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of fields on these points."""
        ...

    @property
    def raster(self) -> tuple[tuple[float, float, float, float, float, float], int, int]:
        """Affine transform, rows and columns of a north-up raster in `CRS` with one point in each pixel."""
        ...

    def neighbours(self, lon_yx: Floats, lat_yx: Floats, method: Resampling) -> Neighbours:
        """Neighbours of locations in degrees; a latitude beyond a pole means the other side of the pole."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Points at regular steps of longitude and latitude; rows go south, columns east."""

    west: float
    """longitude of the first column (degrees)"""
    north: float
    """latitude of the first row (degrees)"""
    dx: float
    dy: float
    """with `dx`, the spacing of points (degrees, positive)"""
    rows: int
    cols: int

    @classmethod
    def of(cls, lon: Floats, lat: Floats) -> Self:
        """Make a lattice from the coordinates of columns and rows, rising or falling; longitudes may jump by 360.

        Raises:
            ValueError: the coordinates are not regular.
        """
        lon = np.sort(np.unwrap(np.asarray(lon, dtype=np.float64), period=360))
        lat = np.sort(np.asarray(lat, dtype=np.float64))[::-1]
        dx, dy = _step("longitude", lon), _step("latitude", -lat)
        if not (dx or dy):
            raise ValueError("a single point has no extent")
        dx, dy = dx or dy, dy or dx
        return cls(
            west=_multiple(float(lon[0]), dx), north=_multiple(float(lat[0]), dy),
            dx=dx, dy=dy, rows=len(lat), cols=len(lon),
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.cols

    @property
    def raster(self) -> tuple[tuple[float, float, float, float, float, float], int, int]:
        """A raster with the points at the centres of its pixels."""
        transform = (self.dx, 0.0, self.west - self.dx / 2, 0.0, -self.dy, self.north + self.dy / 2)
        return transform, self.rows, self.cols

    def neighbours(self, lon_yx: Floats, lat_yx: Floats, method: Resampling) -> Neighbours:
        """The nearest point, or the four points around a location with bilinear weights.

        A field reaches half a step beyond its outer points. There, and where a location lies on a point, fewer than
        four points have a weight.
        """
        lon_yx, lat_yx = _this_side(lon_yx, lat_yx)
        x = _snapped(np.mod((lon_yx - self.west) / self.dx + 0.5, 360 / self.dx) - 0.5)
        y = _snapped((self.north - lat_yx) / self.dy)
        inside = (y >= -0.5) & (y <= self.rows - 0.5) & (x <= self.cols - 0.5)
        corners: list[tuple[Floats, Floats, Floats]]
        if method == "nearest":
            corners = [(np.floor(y + 0.5), np.floor(x + 0.5), inside.astype(np.float64))]
        else:
            y0, x0 = np.floor(y), np.floor(x)
            corners = [
                (y0 + down, x0 + right, np.where(inside, np.abs(1 - down - (y - y0)) * np.abs(1 - right - (x - x0)), 0))
                for down in (0, 1)
                for right in (0, 1)
            ]
        placed = [self._point(row, col, share) for row, col, share in corners]
        row_kyx, col_kyx, share_kyx = (np.stack(parts) for parts in zip(*placed, strict=True))
        return Neighbours(row_kyx=row_kyx.astype(np.int64), col_kyx=col_kyx.astype(np.int64), share_kyx=share_kyx)

    def _point(self, row: Floats, col: Floats, share: Floats) -> tuple[Floats, Floats, Floats]:
        """Row, column and weight of a point that may lie beyond an edge of the field.

        It is moved around the globe or over a pole, also in a regional field; outside of the field its weight is 0.
        """
        around = round(360 / self.dx)
        if math.isclose(around * self.dx, 360, rel_tol=1e-6):
            for pole, beyond in ((90, row < 0), (-90, row > self.rows - 1)):
                over = np.rint(2 * (self.north - pole) / self.dy) - row
                crosses = beyond & (around % 2 == 0) & (over >= 0) & (over <= self.rows - 1)
                row, col = np.where(crosses, over, row), np.where(crosses, col + around // 2, col)
            col = np.mod(col, around)
        inside = (row >= 0) & (row <= self.rows - 1) & (col >= 0) & (col <= self.cols - 1)
        return np.where(inside, row, 0), np.where(inside, col, 0), np.where(inside, share, 0)


@dataclass(frozen=True, kw_only=True)
class ReducedGaussian:
    """Points on circles of latitude, with fewer points towards the poles; listed circle by circle, each from 0 E."""

    latitudes: tuple[float, ...]
    """latitudes of the circles, from north to south (degrees)"""
    counts: tuple[int, ...]
    """number of points on each circle"""

    @property
    def shape(self) -> tuple[int, int]:
        """One row with all points."""
        return 1, sum(self.counts)

    @property
    def raster(self) -> tuple[tuple[float, float, float, float, float, float], int, int]:
        """A raster of the globe, as fine as the points at the equator."""
        rows, cols = len(self.counts), max(self.counts)
        return (360 / cols, 0.0, -180 / cols, 0.0, -180 / rows, 90.0), rows, cols

    @cached_property
    def _first(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    def neighbours(self, lon_yx: Floats, lat_yx: Floats, method: Resampling) -> Neighbours:
        """The nearest point on the sphere, for any method: these points have no cells for interpolation."""
        lon_yx, lat_yx = _this_side(lon_yx, lat_yx)
        circles, counts = np.array(self.latitudes), np.array(self.counts)
        above = np.searchsorted(-circles, -lat_yx) - 1
        best, index = np.full(lon_yx.shape, -np.inf), np.zeros(lon_yx.shape, dtype=np.int64)
        # two circles on each side: points on a circle are about as far apart as circles are
        for offset in (-1, 0, 1, 2):
            circle = np.clip(above + offset, 0, len(circles) - 1)
            step = 360 / counts[circle]
            nearest = np.mod(np.rint(lon_yx / step), counts[circle])
            lat, circle_lat = np.radians(lat_yx), np.radians(circles[circle])
            apart = np.radians(lon_yx - nearest * step)
            cosine = np.sin(lat) * np.sin(circle_lat) + np.cos(lat) * np.cos(circle_lat) * np.cos(apart)
            closer = cosine > best
            best = np.where(closer, cosine, best)
            index = np.where(closer, self._first[circle] + nearest.astype(np.int64), index)
        return Neighbours(
            row_kyx=np.zeros((1, *index.shape), np.int64), col_kyx=index[None], share_kyx=np.ones((1, *index.shape))
        )


def _this_side(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Locations with latitudes between the poles: 91 N becomes 89 N on the other side of the pole."""
    over = np.abs(lat) > 90
    return np.where(over, lon + 180, lon), np.where(over, np.copysign(180, lat) - lat, lat)


def _snapped(index: Floats) -> Floats:
    near = np.rint(index)
    return np.where(np.abs(index - near) < _SNAP, near, index)


def _step(what: str, rising: Floats) -> float:
    """The spacing of coordinates, exactly 360 / n where it is close to that; 0 for a single coordinate."""
    if len(rising) == 1:
        return 0.0
    step = float(rising[-1] - rising[0]) / (len(rising) - 1)
    if step <= 0 or np.abs(rising - rising[0] - step * np.arange(len(rising))).max() > 0.01 * step:
        raise ValueError(f"its {what}s are not at regular steps; regrid it, as `cdo remapbil` does")
    exact = 360 / round(360 / step)
    return exact if math.isclose(exact, step, rel_tol=1e-5) else step


def _multiple(value: float, step: float) -> float:
    """`value` as a multiple of half a step, if it is close to one."""
    exact = round(2 * value / step) * (step / 2)
    return exact if abs(exact - value) < 1e-3 * step else value
