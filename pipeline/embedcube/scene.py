"""Scene: one input with a time and a footprint, as the inventory knows it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime

from pyproj import Transformer

from embedcube.grid import same_crs


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One raster file of a scene. The geometry is the file header's, never the catalogue's."""

    band: str
    path: str
    """relative to the archive's path"""
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
    offset: float = 0.0
    """added to every value that is data; what the source decided and recorded (DN)"""
    verdict: str = ""
    """why the scene cannot be used, found by `index`; empty for a good one"""

    def bounds_in(self, crs: str) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of the footprint in `crs`: exact in the files' own CRS, else a box."""
        source, bounds = (self.assets[0].crs, self.assets[0].bounds) if self.assets else ("EPSG:4326", self.bbox)
        if same_crs(source, crs):
            return bounds
        transformer = Transformer.from_crs(source, crs, always_xy=True)
        xmin, ymin, xmax, ymax = transformer.transform_bounds(*bounds, densify_pts=21)
        return xmin, ymin, xmax, ymax

    @property
    def digest(self) -> str:
        """SHA-256 over all that this scene may bring into a cube: bytes, geometry, decisions. Not where it lies."""
        facts = {
            "time": self.time.isoformat(),
            "photograph": self.photograph,
            "offset": self.offset,
            "verdict": self.verdict,
            "bbox": None if self.assets else self.bbox,
            "assets": [{k: v for k, v in asdict(asset).items() if k != "path"} for asset in self.assets],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def weak(self) -> bool:
        """Whether any digest stands for the first bytes of a file only."""
        return any(asset.digest.startswith("weak:") for asset in self.assets)
