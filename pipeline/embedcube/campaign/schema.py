"""The schema of a campaign file, and the digest over *what* is asked.

*What* (archives, grid, region, windows, layers) makes the digest. *How* (ranks, threads, limits) and *where*
(paths) never do: a campaign moved to another machine is the same campaign.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from embedcube.campaign.backbone_parts import without_files
from embedcube.campaign.fields import Block, Crs, Ids, Links, Time, nearest
from embedcube.campaign.how import How
from embedcube.campaign.periods import Period, WindowSteps
from embedcube.campaign.scene import Scene
from embedcube.campaign.vectors import Reduce, refuse_centre
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout, utm_grid_name, utm_zone_in, utm_zone_of
from embedcube.printable import printable, without_credentials
from embedcube.windows import Duration, Window, windows_every

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Resampling = Literal["nearest", "bilinear", "average"]
Precision = Literal["float32", "bfloat16", "float16"]
Encoding = Literal["int8", "float16", "float32"]


class Mask(Block):
    """Which pixels of a scene are clear."""

    band: str
    """the classification band, SCL for Sentinel-2"""
    clear: tuple[int, ...] = Field(min_length=1)
    """classes that are kept; all other classes, also unknown ones, are masked"""


class Search(Block):
    """A STAC API that lists the Items of an archive. Their files are on this machine."""

    api: str = Field(pattern="^https?://")
    """URL of the landing page"""
    collections: tuple[str, ...] = Field(min_length=1)
    """ids of the collections whose Items are listed, for example [sentinel-2-l2a]"""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """boxes (west, south, east, north in degrees); an Item must touch one. By default those of the region's shards"""
    times: tuple[tuple[Time, Time], ...] = ()
    """intervals of time; an Item must lie in one. By default the windows"""

    @field_validator("api")
    @classmethod
    def _without_credentials(cls, api: str) -> str:
        # the campaign is published with the cube
        if without_credentials(api) != api:
            words = "a campaign is published with its cube: write the plain URL here, a password into ~/.netrc"
            raise ValueError(f"{printable(api)} holds a user name, a password or parameters; {words}")
        return api


class Archive(Block):
    """Place of the scenes, and the bands to read."""

    source: str
    """name of a source plugin"""
    path: Path
    """a folder, or one file (a STAC catalogue, say); relative to the campaign file. Not part of the digest"""
    search: Search | None = None
    """STAC API that lists the Items, where no catalogue lies at `path`: relative links of the Items begin at `path`.
    Not part of the digest; the scenes that it lists are"""
    links: Links = Field({})
    """folders here that hold what links of Items lead to, by how these begin: {"s3://bucket/": staged}; the longest
    beginning counts. A folder is relative to the archive. Not part of the digest"""
    bands: tuple[str, ...] = Field(min_length=1)
    """names of the bands to read, for example [B02, B03, B04, B08]; the backbone gets them in this order"""
    mask: Mask | None = None
    """classification band, and its classes that are clear; without it every pixel that has data is clear"""
    offset: Literal["auto"] | float = "auto"
    """number added to every value that is data (DN); "auto" decides for each product and records it"""
    resampling: Resampling | dict[str, Resampling] = "bilinear"
    """resampling of the bands that do not lie on the grid: one for all, or one for each band. Bands on the grid are
    copied. Where this says bilinear, a band about twice as fine as the grid or more is averaged. Masks are
    always nearest"""
    composite: Literal["median", "mean"] | None = None
    """how the scenes of a frame become one picture; by default the source decides"""
    options: dict[str, Any] = Field(default_factory=dict)
    """options of the source: `embedcube sources` lists them, and the tables of options on this page"""

    @field_validator("bands")
    @classmethod
    def _distinct(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(bands)) < len(bands):
            raise ValueError(f"a band is named twice in {', '.join(bands)}")
        return bands

    @model_validator(mode="after")
    def _resamples_its_bands(self) -> Self:
        for band in self.resampling if isinstance(self.resampling, dict) else ():
            if band not in self.bands:
                raise ValueError(f'resampling: "{band}" is not among the bands to read{nearest(band, self.bands)}')
        return self

    @property
    def read_bands(self) -> tuple[str, ...]:
        """The bands, and behind them the band of the mask if it is not one of them."""
        return tuple(dict.fromkeys((*self.bands, *((self.mask.band,) if self.mask else ()))))

    @property
    def root(self) -> Path:
        """The folder that paths of scenes are relative to: `path`, or the folder of a catalogue file."""
        return self.path.parent if self.path.is_file() else self.path

    def resampling_of(self, band: str) -> Resampling:
        """Resampling of a band: nearest for the mask, bilinear for a band that is not named."""
        if band not in self.bands or (self.mask is not None and band == self.mask.band):
            return "nearest"
        return self.resampling if isinstance(self.resampling, str) else self.resampling.get(band, "bilinear")


class GridBlock(Block):
    """The lattice of pixels on which everything is read."""

    crs: Literal["utm", "samples"] | Crs
    """a coordinate reference system; "utm" for one grid in each zone that the scenes touch; or "samples" for a list of
    samples, each of which is one chip at a place of its own"""
    pixel: float = Field(gt=0)
    """side of a pixel in units of the CRS"""
    origin: tuple[float, float] = (0.0, 0.0)
    """x, y of a corner that pixels, chips and shards are counted from"""


class Region(Block):
    """The area of the cube: a box, or a GeoJSON geometry. Shards that touch it are embedded whole."""

    bbox: tuple[float, float, float, float] | None = None
    """west, south, east, north, in `crs`"""
    crs: Crs = "EPSG:4326"
    """CRS of `bbox`; GeoJSON is always longitude, latitude"""
    geojson: Path | None = None
    """path of a file with a Geometry, Feature or FeatureCollection, which is read into `geometry`"""
    geometry: dict[str, Any] | None = None
    """GeoJSON geometry in longitude, latitude, written here instead of in a file"""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(x is not None for x in (self.bbox, self.geojson, self.geometry)) != 1:
            raise ValueError("a region is either a bbox or a geojson file")
        if self.bbox and not (self.bbox[0] < self.bbox[2] and self.bbox[1] < self.bbox[3]):
            raise ValueError(
                f"bbox {list(self.bbox)} is empty: it is west, south, east, north. A region across the "
                "antimeridian is written as a GeoJSON MultiPolygon"
            )
        return self


class Layer(Block):
    """One group of the cube: one or more archives through a backbone."""

    archives: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
    """names of the archives; the backbone sees their bands, one archive after the other"""
    frames: str | None = None
    """length of the frames inside each window ("1 month"); each is one composite. By default one frame, the window"""
    grid: GridBlock | None = None
    """by default the campaign's"""
    fit: Period | None = None
    """period whose windows `fit` takes its sample from; by default all windows"""
    backbone: dict[str, Any]
    """`name` of a backbone plugin and its own options"""
    over_time: Literal["mean", "max", "min", "concat", "diff"] | None = None
    """the backbone sees each frame of a window alone, and this makes one vector of all; for models of single frames"""
    reduce: Reduce | None = None
    """fewer numbers than the backbone gives: {pca: 64}. By default all"""
    weights: Path | None = None
    """file of frozen weights that were fitted elsewhere, or of a published checkpoint; without it `fit` makes weights
    from the archives. The path is not part of the digest; the bytes are part of the recipes"""
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 that the file `weights` must have"""
    chip_px: int = Field(224, gt=0)
    """side of a chip in pixels, halo included: the square that the backbone gets at once"""
    halo_px: int = Field(16, ge=0)
    """pixels on each side of a chip that are read and get no vector: chips overlap there, so that no seam shows"""
    cell_px: int = Field(16, gt=0)
    """side of a cell in pixels: 1 gives a vector for each pixel, 16 one for each square of 16 x 16 pixels,
    chip_px - 2 * halo_px one for each chip. The backbone refuses what it cannot give"""
    shard_chips: int = Field(4, gt=0)
    """chips along one side of a shard"""
    batch: Annotated[int, Field(ge=2)] | Literal["auto"] = 8
    """chips in every forward pass, at least 2: with 1 a matrix product may round differently with other threads.
    `auto`: `plan` measures once which number is fastest on the device, and then it is part of every recipe"""
    min_valid: float = Field(0.5, gt=0, le=1)
    """share of the pixels of a cell that must be clear for the cell to get a vector"""
    precision: Precision = "float32"
    """of the forward pass (torch.autocast; TF32 is always off); `verify` compares a reduced one with float32"""
    compile: bool = False
    """whether `plan` compiles the forward pass once (about a minute, with a C++ compiler) into a program that all ranks
    run; `verify` compares it with the layer that is not compiled"""
    encoding: Encoding = "int8"
    """how numbers are stored: int8 with one scale for each vector (a quarter of the bytes), float16, or float32"""
    centre: bool = False
    """whether the mean of each feature, fitted by `fit` on a sample and frozen with the weights, is subtracted before
    a vector is stored as int8; readers add it"""
    chunk_windows: int = Field(1, gt=0)
    """windows in one object of the cube: 1 to read maps, 12 to read series of months"""

    @field_validator("backbone")
    @classmethod
    def _named(cls, backbone: dict[str, Any]) -> dict[str, Any]:
        if "name" not in backbone:
            raise ValueError('a backbone needs a "name", for example {name: mosaiks}')
        return backbone

    @model_validator(mode="after")
    def _cuts(self) -> Self:
        ShardLayout(chip_px=self.chip_px, halo_px=self.halo_px, cell_px=self.cell_px, chips=self.shard_chips)
        if self.centre:
            refuse_centre(self.encoding, self.reduce)
        return self


class Campaign(Block):
    """A campaign file."""

    campaign: Name
    """name of the campaign and of its run folder: lower-case letters, digits, "-" and "_". Not part of the digest"""
    env: tuple[str, ...] = ()
    """environment variables that paths may name as ${NAME}; no other is expanded"""
    archives: dict[Name, Archive] = Field(min_length=1)
    """the archives; you choose their names, for example s2, and layers refer to them"""
    grid: GridBlock
    """grid of pixels of every layer that has no `grid` of its own"""
    region: Region | None = None
    """by default all that the archive covers"""
    windows: WindowSteps | tuple[tuple[Time, Time], ...]
    """time axis of the cube: windows at regular steps (start, end, step), or a list of [start, end], sorted by start"""
    layers: dict[Name, Layer] = Field(min_length=1)
    """the layers; you choose their names, for example s2_mosaiks, and each is a group of the cube"""
    withdraw: Ids = ()
    """ids of scenes that are left out, as if the archive did not have them: [S2A_..., s1/S1A_...], where the name of an
    archive before the id means this archive alone. `plan` names them, and the cube tells of them"""
    how: How = How()
    """how the campaign is computed: processes, memory, batch system. Not part of the digest"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if "provenance" in self.layers:
            raise ValueError("layers.provenance: the cube keeps that name for itself")
        for name, layer in self.layers.items():
            for archive in layer.archives:
                if archive not in self.archives:
                    raise ValueError(f'layer {name} names archive "{archive}"{nearest(archive, self.archives)}')
            if not layer.archives or len(set(layer.archives)) < len(layer.archives):
                raise ValueError(f"layer {name}: archives {list(layer.archives)} are none, or one is named twice")
        if isinstance(self.windows, tuple):
            if not self.windows:
                raise ValueError("windows is empty")
            for start, end in self.windows:
                if end <= start:
                    raise ValueError(f"windows: end {end:%Y-%m-%d} is not after start {start:%Y-%m-%d}")
            starts = [start for start, _ in self.windows]
            if starts != sorted(set(starts)):
                raise ValueError("windows are not in the order of distinct starts")
        return self

    @model_validator(mode="after")
    def _frames_are_even(self) -> Self:
        for name, layer in self.layers.items():
            try:
                counts = {len(frames): frames for frames in self.frames(name)}
            except OverflowError:
                raise ValueError(
                    f"layers.{name}.frames: a frame of {layer.frames} does not end within the calendar"
                ) from None
            except ValueError as error:
                raise ValueError(f"layers.{name}.frames: {error}") from None
            if len(counts) > 1:
                few, many = (counts[n] for n in (min(counts), max(counts)))
                raise ValueError(
                    f"layers.{name}.frames: the window from {few[0].start:%Y-%m-%d} holds {len(few)} frames, the one "
                    f"from {many[0].start:%Y-%m-%d} {len(many)}; a backbone needs as many in each"
                )
        return self

    @cached_property
    def what(self) -> dict[str, Any]:
        """All that determines the cube's bytes and is known before the archive is indexed."""
        document = self.model_dump(mode="json", exclude={"how", "env", "campaign"})
        for archive in document["archives"].values():
            del archive["path"], archive["search"], archive["links"]
        for layer in document["layers"].values():
            del layer["weights"]
            layer["backbone"] = without_files(layer["backbone"])
            # the digests of campaigns without them are older than these keys
            for key in [key for key in ("over_time", "reduce", "centre") if layer[key] in (None, False)]:
                del layer[key]
        document["windows"] = [str(window) for window in self.all_windows]
        if not self.withdraw:
            del document["withdraw"]  # the digest of a campaign that withdraws nothing is what it has always been
        return document

    @property
    def digest(self) -> str:
        """SHA-256 of `what` as canonical JSON."""
        return digest_of(self.what)

    @property
    def all_windows(self) -> tuple[Window, ...]:
        """Every window, in order."""
        return _windows(self.windows)

    def grid_of(self, layer: str) -> GridBlock:
        """The layer's grid block, or the campaign's."""
        return self.layers[layer].grid or self.grid

    def frames(self, layer: str) -> tuple[tuple[Window, ...], ...]:
        """The frames of every window, in order."""
        length = self.layers[layer].frames
        if length is None:
            return tuple((window,) for window in self.all_windows)
        return tuple(windows_every(w.start, w.end, Duration.parse(length)) for w in self.all_windows)

    @property
    def run_folder(self) -> Path:
        """`runs/<campaign>`."""
        return self.how.runs / self.campaign


@lru_cache(maxsize=64)
def _windows(block: WindowSteps | tuple[tuple[datetime, datetime], ...]) -> tuple[Window, ...]:
    # kept by value: a campaign copied with other windows would take a cached property along
    return block.windows() if isinstance(block, WindowSteps) else tuple(Window(start, end) for start, end in block)


def digest_of(document: Any) -> str:
    """SHA-256 (hex) of a JSON document in canonical form."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


UTM = "utm"
"""Value of `grid.crs` for one grid in each UTM zone."""

_AROUND = 360 - 1e-6
"""width in degrees from which a scene covers all longitudes: it begins and ends at one meridian"""


def make_grid(campaign: Campaign, layer: str, name: str) -> Grid:
    """The grid of a layer with this name; a layer has one grid, or one for each UTM zone."""
    block = campaign.grid_of(layer)
    if block.crs == UTM:
        zone = utm_zone_in(name)
        assert zone is not None, f"{name} is not the name of a UTM zone's grid"
        return Grid.of_zone(zone, block.pixel, block.origin)
    return Grid(crs=block.crs, pixel=block.pixel, origin_x=block.origin[0], origin_y=block.origin[1])


def grid_names(campaign: Campaign, layer: str, scenes: Sequence[Scene]) -> tuple[str, ...]:
    """Names of the grids that scenes touch: one, or one for each UTM zone."""
    if campaign.grid_of(layer).crs != UTM:
        return (make_grid(campaign, layer, "").name,)
    zones: set[int] = set()
    for west, _, east, _ in (scene.bbox for scene in scenes if scene.placed):
        if east - west >= _AROUND:
            zones.update(range(1, 61))
            continue
        first, last = (int(zone) for zone in utm_zone_of(np.array([west, east])))
        zones.update((first + i - 1) % 60 + 1 for i in range((last - first) % 60 + 1))
    return tuple(utm_grid_name(zone) for zone in sorted(zones))


def make_layout(layer: Layer) -> ShardLayout:
    """The layout of the layer's chips, cells and shards."""
    return ShardLayout(chip_px=layer.chip_px, halo_px=layer.halo_px, cell_px=layer.cell_px, chips=layer.shard_chips)


def windows_of_fit(campaign: Campaign, name: str) -> list[int]:
    """The windows that a layer is fitted on, as indices of the cube.

    Raises:
        RequestError: no window lies in the period.
    """
    period = campaign.layers[name].fit
    windows = [
        t
        for t, window in enumerate(campaign.all_windows)
        if period is None or (window.start >= period.start and window.end <= period.end)
    ]
    if not windows:
        raise RequestError(f"layers.{name}.fit: no window lies within the period")
    return windows


def period_of_fit(campaign: Campaign, name: str) -> str:
    """The period that a layer is fitted on, from the beginning of the first window to the end of the last."""
    windows = [campaign.all_windows[t] for t in windows_of_fit(campaign, name)]
    return str(Window(min(window.start for window in windows), max(window.end for window in windows)))
