"""Scene: one input with a time and a footprint, as the inventory knows it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime

from pyproj import CRS, Transformer

from embedcube.grid import Grid, is_geographic, shift_between
from embedcube.windows import Window

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax"""

_MARGIN = 3.0
"""degrees beyond the area of use of a projection to which it is good: half a UTM zone"""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One raster file of a scene. The geometry is the file header's, never the catalogue's."""

    band: str
    path: str
    """relative to the archive's path"""
    inner: str = ""
    """member of a zip archive, or variable of a NetCDF file"""
    index: int = 1
    """of the band among those of the raster"""
    crs: str
    transform: tuple[float, float, float, float, float, float]
    """affine a, b, c, d, e, f of the pixel corner"""
    rows: int
    cols: int
    block_rows: int
    block_cols: int
    dtype: str
    nodata: float | None
    size: int
    """bytes of the file when it was indexed; a file of another size is another file"""
    steps: int = 1
    """of time, all read"""
    digest: str
    """"sha256:<hex>" of the whole file, or "weak:<hex>" of its first bytes and its size"""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the asset's CRS."""
        a, b, c, d, e, f = self.transform
        xs = [c, c + a * self.cols, c + b * self.rows, c + a * self.cols + b * self.rows]
        ys = [f, f + d * self.cols, f + e * self.rows, f + d * self.cols + e * self.rows]
        return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One acquisition of one tile: what a source found, and what it decided about it."""

    id: str
    archive: str
    """name of the archive in the campaign"""
    time: datetime
    photograph: str
    """what was photographed at once: two scenes of one datatake are one photograph"""
    bbox: tuple[float, float, float, float]
    """west, south, east, north in degrees"""
    assets: tuple[Asset, ...] = field(default=())
    """in the order the campaign names the bands; the mask last"""
    end: datetime | None = None
    """the last moment of a scene that lasts, as a file of hours; None for a moment"""
    offset: float = 0.0
    """added to every value that is data; what the source decided and recorded (DN)"""
    processing: str = ""
    """what else the source decided to do to its values, in words"""
    verdict: str = ""
    """why the scene cannot be used, found by `index`; empty for a good one"""

    def meets(self, window: Window) -> bool:
        """Whether it falls in a window, at least in part."""
        return window.meets(self.time, self.end or self.time)

    def boxes_in(self, grid: Grid) -> tuple[Box, ...]:
        """The footprint in the grid's CRS: exact in the files' own, else a box around it.

        On a grid of longitudes there are two where it crosses the meridian at which the grid begins; one that goes
        around the Earth is as wide as the grid.
        """
        source, bounds = (self.assets[0].crs, self.assets[0].bounds) if self.assets else ("EPSG:4326", self.bbox)
        shift = shift_between(source, grid.crs)
        if shift is not None:
            xmin, ymin, xmax, ymax = (value + shift[i % 2] for i, value in enumerate(bounds))
        else:
            near = _near(bounds, grid) if is_geographic(source) and not grid.geographic else bounds
            transformer = Transformer.from_crs(source, grid.crs, always_xy=True)
            xmin, ymin, xmax, ymax = transformer.transform_bounds(*near, densify_pts=21)
        return _around_the_globe((xmin, ymin, xmax, ymax), grid) if grid.geographic else ((xmin, ymin, xmax, ymax),)

    @property
    def digest(self) -> str:
        """SHA-256 over all that this scene may bring into a cube: bytes, geometry, decisions. Not where it lies."""
        facts = {
            "time": self.time.isoformat(),
            "photograph": self.photograph,
            "end": self.end.isoformat() if self.end else None,
            "offset": self.offset,
            "processing": self.processing,
            "verdict": self.verdict,
            "bbox": None if self.assets else self.bbox,
            "assets": [{k: v for k, v in asdict(asset).items() if k not in ("path", "inner")} for asset in self.assets],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def weak(self) -> bool:
        """Whether any digest stands for the first bytes of a file only."""
        return any(asset.digest.startswith("weak:") for asset in self.assets)


def _near(box: Box, grid: Grid) -> Box:
    """The part of a box in degrees around where a projection is used: a field of the globe has no picture in it."""
    used = CRS.from_user_input(grid.crs).area_of_use
    if used is None:
        return box
    first, last = used.west - _MARGIN, used.west + (used.east - used.west) % 360 + _MARGIN
    # a grid of a zone holds both hemispheres, though its CRS is named for the northern one
    lowest = used.south if grid.utm_zone is None else -used.north
    south, north = max(box[1], lowest - _MARGIN, -90), min(box[3], used.north + _MARGIN, 90)
    if box[2] - box[0] >= 360:
        return first, south, last, north
    for turn in (-360, 0, 360):
        west, east = max(box[0], first + turn), min(box[2], last + turn)
        if west < east and south < north:
            return west, south, east, north
    return box


def _around_the_globe(box: Box, grid: Grid) -> tuple[Box, ...]:
    west, south, east, north = box
    width = (east - west) % 360 or (360 if east > west else 0)
    first, last = grid.origin_x, grid.origin_x + 360
    if width >= 360 - grid.pixel:
        return ((first, south, last, north),)
    west = first + (west - first) % 360
    east = west + width
    return (
        ((west, south, east, north),)
        if east <= last
        else ((west, south, last, north), (first, south, east - 360, north))
    )
