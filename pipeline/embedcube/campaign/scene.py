"""Scene: one input with a time and a footprint, as the inventory knows it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any

from pydantic_core import to_json
from pyproj import Transformer

from embedcube.campaign.boxes import GLOBE, Box, overlaps, width
from embedcube.grid import Grid, is_geographic, neighbourhood, shift_between
from embedcube.printable import printable
from embedcube.windows import Window, utc
from embedcube.zones import UNDATED

NOWHERE = GLOBE
"""Box of a scene that cannot be used and whose place is unknown: it belongs to no cell"""

UNKNOWN_TIME = datetime(1678, 1, 1, tzinfo=UTC)
"""Time of a scene that cannot be used and whose time is unknown: the first year that fits in nanoseconds"""

ALWAYS = UNKNOWN_TIME, datetime(2262, 1, 1, tzinfo=UTC)
"""First and last moment of what holds at all times: the range of dates that fits in nanoseconds (pandas, Parquet)"""

WITHDRAWN = "withdrawn by the campaign"
"""`superseded_by` of a scene that the campaign withdraws; `read_inventory` says so, the inventory itself does not"""

FILLS = "fills only what newer scenes of the acquisition do not show"
"""What `processing` says of a scene beside which newer ones are used that are not whole"""

_UNFORESEEN = re.compile(r"unforeseen (\w+)\b")
_NOTES = frozenset(("noted", "mask_noted"))
_IN_NO_DIGEST = _NOTES | {"path", "inner", "declared", "block_bytes"}
"""Facts of an asset that cannot change a cube: where it lies, and what is known about its digest and its price"""


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What `index` noted of a file beside its digest. A difference is a reason to look at the bytes again, no more."""

    modified_ns: int = 0
    """time of the last change of the bytes, as the file system has it (ns since 1970)"""
    changed_ns: int = 0
    """time of the last change of the file's entry (ns since 1970)"""
    inode: int = 0
    """number of the file in its file system; 0 where nothing was noted"""
    sample: str = ""
    """digest of some blocks beyond the beginning of the file; empty where they were not read"""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One raster file of a scene. The geometry is the file header's, never the catalogue's."""

    band: str
    path: str
    """relative to the archive's path"""
    inner: str = ""
    """member of a zip archive, or variable of a NetCDF file"""
    index: int = 1
    """number of the band in the raster, from 1"""
    crs: str
    transform: tuple[float, float, float, float, float, float]
    """affine a, b, c, d, e, f of the pixel corner"""
    rows: int
    cols: int
    block_rows: int
    block_cols: int
    dtype: str
    nodata: float | None
    """number that means no data; pixels that the mask or another number calls missing are read as this number, too"""
    also_nodata: tuple[float, ...] = ()
    """further numbers that mean no data, where file and catalogue state several"""
    nodata_by: str = ""
    """who states these numbers, in words; empty where nobody does, and the source takes the usual one"""
    mask: str = ""
    """where the mask of missing pixels is: "inside" the file, as its "band 4" (alpha), or the suffix of the file beside
    it, behind its whole name (".msk"); empty where there is none"""
    mask_size: int = 0
    """bytes of the mask beside the file"""
    mask_digest: str = ""
    """digest of the mask beside the file"""
    scale: float = 1.0
    """factor that the file declares: a value is DN * scale + add"""
    add: float = 0.0
    size: int
    """bytes of the file when it was indexed; a file of another size is another file"""
    steps: int = 1
    """number of time steps; a frame reads those that lie in it"""
    step_s: int = 0
    """seconds from one time step to the next (the shortest, where they are months); 0 for a single one"""
    ends: bool = False
    """whether the time that a step stands for ends at its time stamp"""
    timeline: str = ""
    """the time that each step stands for, as runs of equal steps (`sources/era5/timeline.py`); empty for one moment"""
    digest: str
    """"sha256:<hex>" of the whole file, or "weak:<hex>" of its size and its first bytes, behind a pattern its name"""
    declared: bool = False
    """whether the digest is a checksum of the catalogue that was not compared with the bytes"""
    block_bytes: int = 0
    """memory of one block as decoded, with all bands that are stored together"""
    noted: Noted = field(default=Noted(), compare=False)
    """what `index` noted of the file; only the inventory keeps it"""
    mask_noted: Noted = field(default=Noted(), compare=False)
    """the same of the mask beside the file"""

    @property
    def mask_beside(self) -> "Asset | None":
        """The mask beside the file, as far as size, digest and notes go; None where there is none."""
        if not self.mask_digest:
            return None
        return replace(
            self,
            path=self.path + self.mask,
            inner="",
            size=self.mask_size,
            digest=self.mask_digest,
            noted=self.mask_noted,
            mask="",
            mask_digest="",
        )

    @property
    def packed(self) -> bool:
        """Whether the file declares a scale or an offset for its numbers."""
        return (self.scale, self.add) != (1.0, 0.0)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the asset's CRS."""
        a, b, c, d, e, f = self.transform
        xs = [c, c + a * self.cols, c + b * self.rows, c + a * self.cols + b * self.rows]
        ys = [f, f + d * self.cols, f + e * self.rows, f + d * self.cols + e * self.rows]
        return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One sample that a scene holds."""

    id: str
    crs: str = ""
    """CRS of its place; empty where the place is unknown"""
    x: float = 0.0
    """x of its centre"""
    y: float = 0.0
    """y of its centre"""
    dx: float = 0.0
    """step of x from one column of pixels to the next"""
    dy: float = 0.0
    """step of y from one row of pixels to the next"""
    seconds: int = UNDATED
    """Unix time of its own acquisition; UNDATED where that is unknown"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One acquisition of one tile: the facts that a source found, and its decisions."""

    id: str
    archive: str
    """name of the archive in the campaign"""
    time: datetime
    acquisition: str
    """id of the acquisition: all scenes of one datatake are one acquisition"""
    bbox: tuple[float, float, float, float]
    """west, south, east, north in degrees; NOWHERE where the place is unknown"""
    assets: tuple[Asset, ...] = field(default=())
    """in the order the campaign names the bands; the mask last"""
    end: datetime | None = None
    """last moment of a scene that lasts, such as a file of hours; None for a single moment. A step that ends at
    midnight counts one second earlier: it belongs to the day before"""
    offset: float = 0.0
    """number that the source decided to add to every value that is data (DN)"""
    processing: str = ""
    """in words, what else the source does to the values"""
    verdict: str = ""
    """why the scene cannot be used, found by `index`; empty for a usable scene"""
    asks: bool = False
    """whether the verdict is a question about its numbers, which an option of the archive answers, and no damage"""
    seen: bool = False
    """whether `index` has looked at its pixels; else whoever reads it does so first; in no digest"""
    software: tuple[str, ...] = ()
    """packages other than GDAL that decode the files: their versions are in the recipes of the shards"""
    superseded_by: str = ""
    """id of the scene that is used instead, the same acquisition processed again; then this one is in no shard, unless
    that one is found broken while it is read. WITHDRAWN where the campaign withdraws the scene"""
    version: float = 0.0
    """number that is higher for a newer processing of the same acquisition; 0 if unknown; in no digest"""
    subject: str = ""
    """what it shows, such as acquisition, level and tile: of scenes with one subject and footprint the newest version
    is used; empty where none shows the same, or `superseded_by` names it; in no digest"""
    strip: str = ""
    """which part of its subject, such as the time at which a datastrip begins; empty if unknown; in no digest"""
    product: str = ""
    """id of the product, where others of the archive have the same id; else empty; in no digest"""
    samples: tuple[Listed, ...] = ()
    """the samples that it holds, in the order of its file; none for a scene of the Earth's surface"""
    dated: bool = False
    """whether each sample is of its own date; then `time` and `end` are the first and the last of them"""

    def meets(self, window: Window) -> bool:
        """Whether the scene lies in a window, at least in part."""
        return window.overlaps(self.time, self.end or self.time)

    def holds(self, one: Listed, window: Window) -> bool:
        """Whether one of its samples is of a time in the window."""
        if not self.dated:
            return self.meets(window)
        return window.start.timestamp() <= one.seconds < window.end.timestamp()

    def boxes_in(self, grid: Grid) -> tuple[Box, ...]:
        """Boxes of the footprint in the grid's CRS: exact where the files have the same CRS, else a box around it.

        On a grid of longitudes there are two boxes where the footprint crosses the meridian at which the grid begins;
        a footprint that goes around the Earth is as wide as the grid. On a grid of metres there is no box for a scene
        so far away that its coordinates have no meaning there, and only the near part of a global field counts.
        """
        boxes = [box for box in self._boxes_in(grid) if all(map(isfinite, box))]
        if grid.geographic:
            return tuple(piece for box in boxes for piece in _around_the_globe(box, grid))
        return tuple(boxes)

    def _boxes_in(self, grid: Grid) -> list[Box]:
        if not self.placed:
            return []
        source, bounds = (self.assets[0].crs, self.assets[0].bounds) if self.assets else ("EPSG:4326", self.bbox)
        if (shift := shift_between(source, grid.crs)) is not None:
            (dx, dy), (xmin, ymin, xmax, ymax) = shift, bounds
            return [(xmin + dx, ymin + dy, xmax + dx, ymax + dy)]
        if grid.geographic:
            return [_transformed(source, grid.crs, bounds)]
        if is_geographic(source):
            return [_transformed(source, grid.crs, piece) for piece in overlaps(bounds, neighbourhood(grid.crs))]
        near = overlaps(self.bbox, neighbourhood(grid.crs))
        return [_transformed(source, grid.crs, bounds)] if near else []

    def assets_of(self, band: str) -> tuple[Asset, ...]:
        """The assets of a band: several where the scene is made of tiles."""
        return tuple(asset for asset in self.assets if asset.band == band)

    @property
    def digest(self) -> str:
        """SHA-256 over all of the scene that may change a cube: bytes, geometry, decisions; not the paths."""
        samples = [list(vars(one).values()) for one in self.samples]
        return digest_of_facts(vars(self) | {"samples": samples}, [vars(asset) for asset in self.assets])

    def to_json(self) -> str:
        """All facts of the scene as JSON, without what was noted of its files."""
        assets = [{key: value for key, value in vars(asset).items() if key not in _NOTES} for asset in self.assets]
        facts: dict[str, Any] = vars(self) | {"assets": assets}
        if self.samples:
            facts["samples"] = [list(vars(one).values()) for one in self.samples]
        else:
            del facts["samples"], facts["dated"]
        # ten times faster than Python's json, which reads it again with its NaN
        return to_json(facts, inf_nan_mode="constants").decode()

    @classmethod
    def from_json(cls, text: str | bytes, notes: Sequence[Noted] = ()) -> "Scene":
        """The scene that `to_json` wrote, with the `notes` of its files, in the order of `Scene.notes`, if given.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: it is of another version, or damaged.
        """
        document = json.loads(text)
        document["time"] = utc(datetime.fromisoformat(document["time"]))
        document["end"] = utc(datetime.fromisoformat(document["end"])) if document["end"] else None
        document["bbox"] = tuple(document["bbox"])
        document["software"] = tuple(document["software"])
        for asset in document["assets"]:
            asset["transform"], asset["also_nodata"] = tuple(asset["transform"]), tuple(asset["also_nodata"])
        if notes:
            noted = iter(notes)
            for asset in document["assets"]:
                asset["noted"] = next(noted)
            for asset in document["assets"]:
                if asset["mask_digest"]:
                    asset["mask_noted"] = next(noted)
        document["samples"] = tuple(
            Listed(**dict(zip(_LISTED, one, strict=True))) for one in document.get("samples", ())
        )
        # the newest field is required: an inventory without it is of an earlier version
        document["assets"] = tuple(Asset(mask=asset.pop("mask"), **asset) for asset in document["assets"])
        return cls(**document)

    @property
    def placed(self) -> bool:
        """Whether it is known where the scene lies; one that cannot be used may lie anywhere."""
        return bool(self.assets) or self.bbox != NOWHERE

    @property
    def withdrawn(self) -> bool:
        """Whether the campaign withdraws the scene: it is in no shard."""
        return self.superseded_by == WITHDRAWN

    @property
    def fills(self) -> bool:
        """Whether it is an older processing that only fills what newer scenes of its acquisition do not show."""
        return FILLS in self.processing

    @property
    def shows(self) -> str:
        """Scenes of one archive with equal texts show the same, or parts of it, where their footprints are one."""
        return shows(vars(self))

    @property
    def product_id(self) -> str:
        """Id of the product; copies of one product have the same."""
        return self.product or self.id

    def filling(self) -> "Scene":
        """The same scene, which only fills what newer ones of its acquisition do not show."""
        return self if self.fills else replace(self, processing=f"{self.processing}; {FILLS}")

    def not_filling(self) -> "Scene":
        """The same scene, all pixels of which are used."""
        return replace(self, processing=self.processing.replace(f"; {FILLS}", "")) if self.fills else self

    @property
    def unforeseen(self) -> str:
        """Name of the error, not meant to happen, because of which the scene cannot be used; empty if there is none."""
        named = _UNFORESEEN.search(self.verdict)
        return named[1] if named else ""

    @property
    def notes(self) -> list[Noted]:
        """What was noted of each file, and then of each mask beside a file."""
        masks = [asset.mask_noted for asset in self.assets if asset.mask_digest]
        return [asset.noted for asset in self.assets] + masks

    @property
    def weak(self) -> bool:
        """Whether the digest of any file covers its first bytes only."""
        return is_weak(map(vars, self.assets))

    @property
    def declared(self) -> bool:
        """Whether the digest of any file is a checksum of the catalogue that was not compared with the bytes."""
        return any(asset.declared for asset in self.assets)


def shows(scene: Mapping[str, Any]) -> str:
    """`Scene.shows` from the fields of a scene."""
    return str(scene["subject"] or scene["superseded_by"] or scene["id"])


def is_weak(assets: Iterable[Mapping[str, Any]]) -> bool:
    """`Scene.weak` from the fields of its assets."""
    return any(asset[name].startswith("weak:") for asset in assets for name in ("digest", "mask_digest"))


def digest_of_facts(scene: Mapping[str, Any], assets: Sequence[Mapping[str, Any]]) -> str:
    """`Scene.digest` from the fields of a scene and of its assets."""
    facts: dict[str, Any] = {
        "time": scene["time"].isoformat(),
        "acquisition": scene["acquisition"],
        "end": scene["end"].isoformat() if scene["end"] else None,
        "offset": scene["offset"],
        "processing": scene["processing"],
        "verdict": scene["verdict"],
        "bbox": None if assets else scene["bbox"],
        "assets": [{name: asset[name] for name in _IN_DIGEST} for asset in assets],
    }
    if samples := scene.get("samples"):
        facts |= {"samples": samples, "dated": scene["dated"]}
    return hashlib.sha256(_SORTED.encode(facts).encode()).hexdigest()


_IN_DIGEST = tuple(sorted(name for name in Asset.__dataclass_fields__ if name not in _IN_NO_DIGEST))
_SORTED = json.JSONEncoder(sort_keys=True)
_LISTED = tuple(Listed.__dataclass_fields__)


def unforeseen(error: Exception) -> str:
    """The verdict for a product on which an error occurred that was not meant to happen."""
    return f"unforeseen {type(error).__name__}: {printable(error)}"


# all dates of a tile have the same bounds
@lru_cache(maxsize=1 << 15)
def _transformed(source: str, target: str, bounds: Box) -> Box:
    """A box around `bounds` in another CRS; infinite where the place does not exist there."""
    transformer = Transformer.from_crs(source, target, always_xy=True)
    xmin, ymin, xmax, ymax = transformer.transform_bounds(*bounds, densify_pts=21)
    return xmin, ymin, xmax, ymax


def _around_the_globe(box: Box, grid: Grid) -> tuple[Box, ...]:
    _, south, _, north = box
    first, last = grid.origin_x, grid.origin_x + 360
    if width(box) >= 360 - grid.pixel:
        return ((first, south, last, north),)
    return overlaps(box, (first, south, last, north))
