"""Arithmetic of grids, chips and shards: which pixels, chips and cells lie where. No input or output.

There are three lattices. All begin at the grid's origin and are counted in whole pixels from there, so that a place
is in the same pixel, chip and cell whatever the region and the shard size:

- pixel (row, col): row 0 is the row just below the origin; rows grow southward, columns eastward; both may be negative.
- chip: a kept centre of `keep_px` x `keep_px` pixels, read with `halo_px` more on each side.
- shard: a square of `chips` x `chips` chips.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer


@dataclass(frozen=True, kw_only=True)
class PixelArea:
    """A rectangle of pixels of the grid."""

    row: int
    """first row"""
    col: int
    """first column"""
    rows: int
    cols: int

    def grown(self, halo_px: int) -> "PixelArea":
        """The same rectangle with `halo_px` more pixels on each side."""
        return PixelArea(
            row=self.row - halo_px,
            col=self.col - halo_px,
            rows=self.rows + 2 * halo_px,
            cols=self.cols + 2 * halo_px,
        )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A coordinate reference system, a pixel size and an origin: north up, x to the right."""

    crs: str
    """authority code ("EPSG:32632") or WKT"""
    pixel: float
    """side of a pixel in units of the CRS (metres for UTM, degrees for EPSG:4326)"""
    origin_x: float = 0.0
    origin_y: float = 0.0
    utm_zone: int | None = None
    """number of the UTM zone whose places it holds; None for a campaign with one grid"""

    @classmethod
    def of_zone(cls, zone: int, pixel: float, origin: tuple[float, float]) -> "Grid":
        """The grid of a UTM zone, for both hemispheres: southern places have negative northings."""
        return cls(crs=f"EPSG:{32600 + zone}", pixel=pixel, origin_x=origin[0], origin_y=origin[1], utm_zone=zone)

    @property
    def name(self) -> str:
        """Name of the group that holds its arrays: utm01 to utm60, latlon, or grid."""
        if self.utm_zone is not None:
            return utm_grid_name(self.utm_zone)
        return LATLON if self.geographic else "grid"

    @property
    def geographic(self) -> bool:
        """Whether the coordinates are longitudes and latitudes."""
        return is_geographic(self.crs)

    def affine(self, area: PixelArea, step_px: int = 1) -> Affine:
        """Transform from (column, row) inside `area`, in steps of `step_px` pixels, to coordinates of the CRS."""
        x = self.origin_x + area.col * self.pixel
        y = self.origin_y - area.row * self.pixel
        return Affine(self.pixel * step_px, 0.0, x, 0.0, -self.pixel * step_px, y)

    def bounds(self, area: PixelArea) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of `area` in the CRS."""
        x = self.origin_x + area.col * self.pixel
        y = self.origin_y - area.row * self.pixel
        return (x, y - area.rows * self.pixel, x + area.cols * self.pixel, y)

    def rows_cols(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the pixel that holds each point."""
        rows = np.floor((self.origin_y - np.asarray(y)) / self.pixel).astype(np.int64)
        cols = np.floor((np.asarray(x) - self.origin_x) / self.pixel).astype(np.int64)
        return rows, cols

    def degrees(self, area: PixelArea, cell_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitudes and latitudes (y, x) of the centres of the cells of `area`."""
        x, y = np.meshgrid(*self.centres(area, cell_px))
        if self.geographic:
            return x, y
        lon, lat = to_degrees(self.crs).transform(x, y)
        return np.asarray(lon), np.asarray(lat)

    def centres(self, area: PixelArea, cell_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates x of the columns and y of the rows of cells of `area`, at their centres; y descends.

        Each is computed from whole numbers by one multiplication and one addition, so that a place has the same bits
        whatever the area.
        """
        right = 2 * area.col + cell_px * (2 * np.arange(area.cols // cell_px) + 1)
        down = 2 * area.row + cell_px * (2 * np.arange(area.rows // cell_px) + 1)
        x, y = self.origin_x + right * (self.pixel / 2), self.origin_y - down * (self.pixel / 2)
        return x.astype(np.float64), y.astype(np.float64)

    def owns(self, area: PixelArea, cell_px: int) -> NDArray[np.bool_]:
        """Which cells (y, x) of `area` belong to this grid: each place belongs to one UTM zone, or to one longitude."""
        shape = (area.rows // cell_px, area.cols // cell_px)
        if self.utm_zone is None and not self.geographic:
            return np.ones(shape, dtype=bool)
        return self.owns_degrees(*self.degrees(area, cell_px))

    def owns_degrees(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which places belong to this grid, by longitude and latitude; the grid is geographic or of a UTM zone."""
        if self.utm_zone is None:
            return np.asarray((np.abs(lat) <= 90) & (lon >= self.origin_x) & (lon < self.origin_x + 360))
        return np.asarray((utm_zone_of(lon) == self.utm_zone) & (lat >= UTM_SOUTH) & (lat < UTM_NORTH))


UTM_SOUTH, UTM_NORTH = -80.0, 84.0
"""Latitudes between which UTM is used."""

LATLON = "latlon"
"""Name of a grid of longitudes and latitudes."""

_UTM_NAME = re.compile(r"utm(\d\d)")


def utm_grid_name(zone: int) -> str:
    """Name of the grid of a UTM zone: utm01 to utm60."""
    return f"utm{zone:02d}"


def utm_zone_in(name: str) -> int | None:
    """UTM zone of the grid with this name; None for a grid that is not of a UTM zone."""
    found = _UTM_NAME.fullmatch(name)
    return int(found[1]) if found else None


def utm_zone_of(lon: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the UTM zones, each six degrees wide, from 180 W on. Norway and Svalbard are no exceptions here."""
    return np.asarray(np.floor((lon + 180) / 6).astype(np.int64) % 60 + 1)


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """How a layer divides the grid into chips, cells and shards."""

    chip_px: int
    """side of a chip, which is what the backbone gets at once, halo included"""
    halo_px: int
    """pixels read around the kept centre on each side"""
    cell_px: int
    """side of a cell: 1 for a pixel, 16 for a patch token, `keep_px` for a whole chip"""
    chips: int
    """chips along one side of a shard"""

    def __post_init__(self) -> None:
        if self.keep_px <= 0:
            raise ValueError(
                f"a chip of {self.chip_px} px is not larger than two halos of {self.halo_px} px; use a larger chip_px"
            )
        if self.keep_px % self.cell_px:
            raise ValueError(
                f"the kept centre of {self.keep_px} px (chip_px {self.chip_px} - 2 x halo_px {self.halo_px}) "
                f"does not divide into cells of {self.cell_px} px"
            )

    @property
    def keep_px(self) -> int:
        """Side of the kept centre of a chip."""
        return self.chip_px - 2 * self.halo_px

    @property
    def chip_cells(self) -> int:
        """Cells along one side of a chip."""
        return self.keep_px // self.cell_px

    @property
    def shard_px(self) -> int:
        """Pixels along one side of a shard, halo excluded."""
        return self.chips * self.keep_px

    @property
    def shard_cells(self) -> int:
        """Cells along one side of a shard."""
        return self.chips * self.chip_cells

    @property
    def sample_px(self) -> int:
        """Pixels along one side of the square that is read for a shard, halo included."""
        return self.shard_px + 2 * self.halo_px

    def shard_area(self, row: int, col: int) -> PixelArea:
        """Pixels of the shard at (row, col) of the shard lattice, halo excluded."""
        side = self.shard_px
        return PixelArea(row=row * side, col=col * side, rows=side, cols=side)


@dataclass(frozen=True, kw_only=True)
class ShardRange:
    """Rectangle of shards that the arrays of a cube span, in rows and columns of the shard lattice."""

    row: int
    col: int
    rows: int
    cols: int

    def area(self, layout: ShardLayout) -> PixelArea:
        """Pixels of the rectangle."""
        side = layout.shard_px
        return PixelArea(row=self.row * side, col=self.col * side, rows=self.rows * side, cols=self.cols * side)


def shards_touching(
    grid: Grid, layout: ShardLayout, bounds: NDArray[np.float64], halo_px: int = 0
) -> NDArray[np.int64]:
    """First row, first column, last row + 1, last column + 1 of the shards that each rectangle touches.

    `bounds` is (n, 4): xmin, ymin, xmax, ymax in the CRS of the grid. A rectangle that only shares an edge with a
    shard does not touch it. `halo_px` widens each shard by so many pixels on each side.
    """
    side, reach = layout.shard_px, halo_px * grid.pixel
    xmin, ymin, xmax, ymax = np.asarray(bounds, dtype=np.float64).T
    unit = side * grid.pixel
    # a tolerance of a millionth of a pixel, far more than the rounding of coordinates in float64
    slack = 1e-6 * grid.pixel
    first_row = np.floor((grid.origin_y - ymax - reach + slack) / unit)
    last_row = np.ceil((grid.origin_y - ymin + reach - slack) / unit)
    first_col = np.floor((xmin - grid.origin_x - reach + slack) / unit)
    last_col = np.ceil((xmax - grid.origin_x + reach - slack) / unit)
    return np.stack([first_row, first_col, last_row, last_col], axis=1).astype(np.int64)


@lru_cache(maxsize=1024)
def same_crs(one: str, other: str) -> bool:
    """Whether two descriptions name the same coordinate reference system."""
    return one == other or CRS.from_user_input(one) == CRS.from_user_input(other)


@lru_cache(maxsize=1024)
def is_geographic(crs: str) -> bool:
    """Whether a CRS has longitudes and latitudes."""
    return CRS.from_user_input(crs).is_geographic


@lru_cache(maxsize=1024)
def unit_of(crs: str) -> str:
    """Unit of the coordinates of a CRS: "m", "degrees", or its name."""
    name = CRS.from_user_input(crs).axis_info[0].unit_name
    return {"metre": "m", "degree": "degrees"}.get(name, name)


_NEIGHBOURHOOD = 20.0
"""degrees around the area of use of a projected CRS within which its coordinates are still usable"""


@lru_cache(maxsize=1024)
def neighbourhood(crs: str) -> tuple[float, float, float, float]:
    """West, south, east, north of the area in which a projected CRS is usable; west may be below -180."""
    known = CRS.from_user_input(crs)
    area = known.area_of_use
    if area is None:
        return (-180.0, -90.0, 180.0, 90.0)
    east = area.east if area.east > area.west else area.east + 360
    # the grid of a UTM zone holds both hemispheres, whichever of them its CRS is made for
    south, north = (UTM_SOUTH, UTM_NORTH) if known.utm_zone else (area.south, area.north)
    return (
        area.west - _NEIGHBOURHOOD,
        max(south - _NEIGHBOURHOOD, -90.0),
        east + _NEIGHBOURHOOD,
        min(north + _NEIGHBOURHOOD, 90.0),
    )


@lru_cache(maxsize=1024)
def shift_between(one: str, other: str) -> tuple[float, float] | None:
    """Numbers to add to x and y in CRS `one` to get those in `other`; None where a sum is not enough.

    North and south of one UTM zone differ by a false northing of 10,000 km.
    """
    if same_crs(one, other):
        return 0.0, 0.0
    codes = [CRS.from_user_input(crs).to_epsg() or 0 for crs in (one, other)]
    if {code // 100 for code in codes} == {326, 327} and codes[0] % 100 == codes[1] % 100:
        return 0.0, -1e7 if codes[0] > codes[1] else 1e7
    return None


@lru_cache(maxsize=64)
def to_degrees(crs: str) -> Transformer:
    """Transformer from a CRS to longitude and latitude."""
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
