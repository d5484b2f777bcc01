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

Floats = NDArray[np.float64]


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

    def rows_cols(self, x: Floats, y: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the pixel that holds each point."""
        rows = np.floor((self.origin_y - np.asarray(y)) / self.pixel).astype(np.int64)
        cols = np.floor((np.asarray(x) - self.origin_x) / self.pixel).astype(np.int64)
        return rows, cols

    def degrees(self, area: PixelArea, cell_px: int) -> tuple[Floats, Floats]:
        """Longitudes and latitudes (y, x) of the centres of the cells of `area`."""
        x, y = np.meshgrid(*self.centres(area, cell_px))
        if self.geographic:
            return x, y
        lon, lat = to_degrees(self.crs).transform(x, y)
        return np.asarray(lon), np.asarray(lat)

    def centres(self, area: PixelArea, cell_px: int) -> tuple[Floats, Floats]:
        """Coordinates x of the columns and y of the rows of cells of `area`, at their centres; y descends.

        Each is computed from whole numbers by one multiplication and one addition, so that a place has the same bits
        whatever the area.
        """
        right = 2 * area.col + cell_px * (2 * np.arange(area.cols // cell_px) + 1)
        down = 2 * area.row + cell_px * (2 * np.arange(area.rows // cell_px) + 1)
        x, y = self.origin_x + right * (self.pixel / 2), self.origin_y - down * (self.pixel / 2)
        return x.astype(np.float64), y.astype(np.float64)

    def edges(self, area: PixelArea, cell_px: int) -> tuple[Floats, Floats]:
        """Coordinates x of the sides and y of the tops and bottoms of the cells of `area`; y descends.

        As with the centres, a place has the same bits whatever the area.
        """
        right = area.col + cell_px * np.arange(area.cols // cell_px + 1)
        down = area.row + cell_px * np.arange(area.rows // cell_px + 1)
        x, y = self.origin_x + right * self.pixel, self.origin_y - down * self.pixel
        return x.astype(np.float64), y.astype(np.float64)

    def owns(self, area: PixelArea, cell_px: int) -> NDArray[np.bool_]:
        """Which cells (y, x) of `area` belong to this grid.

        To the grid of a UTM zone belongs each cell that touches the zone. So a cell on the border of two zones, which
        cover it with different cells, belongs to both, and no place is without a cell. To a grid of degrees belong the
        cells whose centre lies on the globe, within 360 degrees of the grid's origin; to other grids, all cells.
        """
        if self.utm_zone is not None:
            return self._touching_zone(*self.edges(area, cell_px))
        if self.geographic:
            return np.logical_and.outer(*self._on_globe(area, cell_px))
        return np.ones((area.rows // cell_px, area.cols // cell_px), dtype=bool)

    def own_cells(self, layout: "ShardLayout", row: int, col: int) -> NDArray[np.bool_]:
        """Which cells (y, x) of a shard belong to this grid."""
        return self.owns(layout.shard_area(row, col), layout.cell_px)

    def cell_degrees(self, layout: "ShardLayout", row: int, col: int) -> tuple[Floats, Floats]:
        """Longitudes and latitudes (y, x) of the centres of a shard's cells."""
        return self.degrees(layout.shard_area(row, col), layout.cell_px)

    def owns_shards(self, layout: "ShardLayout", place: "ShardRange") -> NDArray[np.bool_]:
        """Which shards (row, column) of a rectangle hold a cell that belongs to this grid."""
        area = place.area(layout)
        if self.utm_zone is not None or not self.geographic:
            # a shard touches the zone where one of its cells does
            return self.owns(area, layout.shard_px)
        rows, cols = self._on_globe(area, layout.cell_px)
        cells = layout.shard_cells
        return np.logical_and.outer(rows.reshape(-1, cells).any(axis=1), cols.reshape(-1, cells).any(axis=1))

    def _on_globe(self, area: PixelArea, cell_px: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows and which columns of cells of a grid of degrees have their centres on the globe."""
        lon, lat = self.centres(area, cell_px)
        return np.abs(lat) <= 90, (lon >= self.origin_x) & (lon < self.origin_x + 360)

    def _touching_zone(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Which cells between these coordinates touch the UTM zone, its western border included."""
        whole = self._around_middle(x[[0, -1]], y[[0, -1]])
        if whole.within_zone:
            return np.ones((len(y) - 1, len(x) - 1), dtype=bool)
        return self._around_middle(x, y).touching_zone

    def _around_middle(self, x: Floats, y: Floats) -> "_CellExtents":
        """Extents in degrees of the cells between these coordinates, on the grid of a UTM zone."""
        assert self.utm_zone is not None
        middle, transformer = 6 * self.utm_zone - 183, to_degrees(self.crs)

        def degrees(y: Floats) -> tuple[Floats, Floats]:
            lon, lat = transformer.transform(*np.meshgrid(x, y))
            return (np.asarray(lon) - middle + 180) % 360 - 180, np.asarray(lat)

        east, lat = degrees(y)
        west_most, east_most = (
            extreme(side[:-1], side[1:]) for extreme, side in ((np.minimum, east[:, :-1]), (np.maximum, east[:, 1:]))
        )
        # at one x the longitude is nearest to the middle on the equator: between two corners, where a cell crosses it
        crossing = (y[:-1] > 0) & (y[1:] < 0)
        if crossing.any():
            (equator,), _ = degrees(np.zeros(1))
            west_most[crossing] = np.minimum(west_most[crossing], equator[:-1])
            east_most[crossing] = np.maximum(east_most[crossing], equator[1:])
        corners = np.stack([lat[:-1, :-1], lat[:-1, 1:], lat[1:, :-1], lat[1:, 1:]])
        return _CellExtents(west=west_most, east=east_most, south=corners.min(axis=0), north=corners.max(axis=0))


@dataclass(frozen=True, kw_only=True)
class _CellExtents:
    """Extents (y, x) of cells on the grid of a UTM zone; not a number where coordinates have no place on the Earth."""

    west: Floats
    """degrees east of the zone's middle"""
    east: Floats
    """degrees east of the zone's middle"""
    south: Floats
    """latitude of the southernmost corner"""
    north: Floats
    """latitude of the northernmost corner"""

    @property
    def touching_zone(self) -> NDArray[np.bool_]:
        """Which cells touch the zone."""
        half = 3 + _ROUNDING
        across = (self.west < half) & (self.east >= -half)
        return np.asarray(across & (self.south < UTM_NORTH + _ROUNDING) & (self.north >= UTM_SOUTH - _ROUNDING))

    @property
    def within_zone(self) -> bool:
        """Whether all cells lie within the zone, more than a degree from its ends: a parallel is curved."""
        across = (self.west >= -3) & (self.east < 3)
        return bool((across & (self.north < UTM_NORTH - 1) & (self.south > UTM_SOUTH + 1)).all())


_ROUNDING = 1e-9
"""degrees (a tenth of a millimetre): far more than the rounding of a transformation there and back"""

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


def utm_zone_of(lon: Floats) -> NDArray[np.int64]:
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
    apart: bool = False
    """whether each chip has its halo for itself, as in a list of samples; on a lattice neighbours share pixels"""

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
        return (self.chips - 1) * self.stride_px + self.chip_px

    @property
    def stride_px(self) -> int:
        """Pixels from one chip to the next in the square that is read for a shard."""
        return self.chip_px if self.apart else self.keep_px

    @property
    def slots(self) -> int:
        """Chips of a shard."""
        return self.chips**2

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


def shards_touching(grid: Grid, layout: ShardLayout, bounds: Floats, halo_px: int = 0) -> NDArray[np.int64]:
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
