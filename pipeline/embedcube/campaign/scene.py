"""Scene: one input with a time and a footprint, as the inventory knows it."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite

from pydantic_core import to_json
from pyproj import Transformer

from embedcube.grid import Grid, is_geographic, neighbourhood, shift_between
from embedcube.windows import Window

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax"""

NOWHERE: Box = (-180.0, -90.0, 180.0, 90.0)
"""The place of a scene that cannot be used and does not say where it lies: no cell waits for it"""

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
    scale: float = 1.0
    """with `add` what the file declares of its numbers: a value is DN * scale + add"""
    add: float = 0.0
    size: int
    """bytes of the file when it was indexed; a file of another size is another file"""
    steps: int = 1
    """of time; a frame reads those that lie in it"""
    step_s: int = 0
    """from one to the next (seconds; of months, the shortest); 0 for a lone one"""
    ends: bool = False
    """the time that a step is of ends at its stamp, else it begins there"""
    digest: str
    """"sha256:<hex>" of the whole file, or "weak:<hex>" of its size and its first bytes, behind a pattern its name"""

    @property
    def packed(self) -> bool:
        """Whether the file declares that its numbers stand for others."""
        return (self.scale, self.add) != (1.0, 0.0)

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
    acquisition: str
    """what was acquired at once: two scenes of one datatake are one acquisition"""
    bbox: tuple[float, float, float, float]
    """west, south, east, north in degrees; NOWHERE where nothing says where it lies"""
    assets: tuple[Asset, ...] = field(default=())
    """in the order the campaign names the bands; the mask last"""
    end: datetime | None = None
    """the last moment of a scene that lasts, as a file of hours; None for a moment. A step that ends at its stamp
    counts a second earlier: what is stamped with midnight belongs to the day before"""
    offset: float = 0.0
    """added to every value that is data; what the source decided and recorded (DN)"""
    processing: str = ""
    """what else the source decided to do to its values, in words"""
    verdict: str = ""
    """why the scene cannot be used, found by `index`; empty for a good one"""
    software: tuple[str, ...] = ()
    """packages that decode its files where GDAL does not: their versions are in the recipes of its shards"""
    superseded_by: str = ""
    """id of the scene that is used instead: the same acquisition, processed again; this one is in no shard"""

    def meets(self, window: Window) -> bool:
        """Whether it falls in a window, at least in part."""
        return window.overlaps(self.time, self.end or self.time)

    def boxes_in(self, grid: Grid) -> tuple[Box, ...]:
        """The footprint in the grid's CRS: exact in the files' own, else a box around it.

        On a grid of longitudes there are two where it crosses the meridian at which the grid begins; one that goes
        around the Earth is as wide as the grid. On a grid of metres there is none for a scene so far away that its
        coordinates would mean nothing, and of a field of the globe only what is near counts.
        """
        boxes = [box for box in self._boxes_in(grid) if all(map(isfinite, box))]
        if grid.geographic:
            return tuple(piece for box in boxes for piece in _around_the_globe(box, grid))
        return tuple(boxes)

    def _boxes_in(self, grid: Grid) -> list[Box]:
        if not self.assets and self.bbox == NOWHERE:
            return []
        source, bounds = (self.assets[0].crs, self.assets[0].bounds) if self.assets else ("EPSG:4326", self.bbox)
        if (shift := shift_between(source, grid.crs)) is not None:
            (dx, dy), (xmin, ymin, xmax, ymax) = shift, bounds
            return [(xmin + dx, ymin + dy, xmax + dx, ymax + dy)]
        if grid.geographic:
            return [_transformed(source, grid.crs, bounds)]
        if is_geographic(source):
            return [_transformed(source, grid.crs, piece) for piece in meeting(bounds, neighbourhood(grid.crs))]
        near = meeting(self.bbox, neighbourhood(grid.crs))
        return [_transformed(source, grid.crs, bounds)] if near else []

    @property
    def digest(self) -> str:
        """SHA-256 over all that this scene may bring into a cube: bytes, geometry, decisions. Not where it lies."""
        facts = {
            "time": self.time.isoformat(),
            "photograph": self.acquisition,
            "end": self.end.isoformat() if self.end else None,
            "offset": self.offset,
            "processing": self.processing,
            "verdict": self.verdict,
            "bbox": None if self.assets else self.bbox,
            "assets": [{k: v for k, v in vars(asset).items() if k not in ("path", "inner")} for asset in self.assets],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """All that is known of it."""
        facts = vars(self) | {"assets": [vars(asset) for asset in self.assets]}
        # a tenth of what json takes; Python's reads it again, with its NaN
        return to_json(facts, inf_nan_mode="constants").decode()

    @property
    def weak(self) -> bool:
        """Whether any digest stands for the first bytes of a file only."""
        return any(asset.digest.startswith("weak:") for asset in self.assets)


def _transformed(source: str, target: str, bounds: Box) -> Box:
    """A box around what `bounds` becomes in another CRS; infinite where there is no such place."""
    transformer = Transformer.from_crs(source, target, always_xy=True)
    xmin, ymin, xmax, ymax = transformer.transform_bounds(*bounds, densify_pts=21)
    return xmin, ymin, xmax, ymax


def _around_the_globe(box: Box, grid: Grid) -> tuple[Box, ...]:
    _, south, _, north = box
    first, last = grid.origin_x, grid.origin_x + 360
    if _width(box) >= 360 - grid.pixel:
        return ((first, south, last, north),)
    return meeting(box, (first, south, last, north))


def meeting(box: Box, other: Box) -> tuple[Box, ...]:
    """What two boxes of longitudes and latitudes have in common, in the longitudes of the second."""
    first, lower, last, upper = other
    south, north = max(box[1], lower), min(box[3], upper)
    found = []
    west = first + (box[0] - first) % 360 - 360
    while west < last:
        piece = (max(west, first), south, min(west + _width(box), last), north)
        if piece[0] < piece[2] and south < north:
            found.append(piece)
        west += 360
    return tuple(found)


def _width(box: Box) -> float:
    """Degrees from west to east; across the antimeridian west may be the larger number."""
    width = box[2] - box[0]
    return width % 360 if width < 360 else 360.0
