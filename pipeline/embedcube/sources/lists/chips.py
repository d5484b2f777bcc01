"""A folder of georeferenced chips of one size: an id is a sample, of one or several files and dates."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from embedcube.campaign.fields import nearest
from embedcube.campaign.options import PluginOptions
from embedcube.campaign.scene import ALWAYS, Asset, Listed, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea, same_crs
from embedcube.printable import printable
from embedcube.sources.base import Observation
from embedcube.sources.catalog.dates import When, when_of
from embedcube.sources.catalog.describe import describe
from embedcube.sources.catalog.products import File, Product
from embedcube.sources.composite import Composite, composite
from embedcube.sources.converted import Numbers
from embedcube.sources.image_options import BandName
from embedcube.sources.lists.scenes import box_around, files_below, usable_id
from embedcube.sources.options import read_options, refuse_keys
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Conversion
from embedcube.windows import Window
from embedcube.zones import UNDATED, SampleList

_SUFFIXES = (".tif", ".tiff", ".jp2")

_FIELDS = {"id": r"[^/]+?", "date": r"[0-9][0-9T:Z-]*", "band": r"[^/]+?", "any": r"[^/]*?"}
"""what the fields of a template stand for"""

_UNIT_CRS = "EPSG:3857"
"""CRS in which one pixel of a chip is one unit: chips are read by their pixels, whatever their own CRS"""


class Options(PluginOptions):
    """The options of the YAML block."""

    names: str = "{id}.tif"
    """template for the ends of paths: {id}, {date}, {band}, and {any} or * for anything; for example
    "{id}_merged.tif", or "{id}/{date}_{any}/{band}.tif". Files that do not fit are left out"""
    variables: dict[str, BandName] = Field(default_factory=dict)
    """for a band, its name in the names of files, where it is another, or its number (from 1) in files with several
    bands; by default the bands of such a file are those of the campaign in their order"""
    nodata: float | None = None
    """number that means no data in the files, instead of what they declare; one that never occurs, if all are values"""
    packing: Literal["declared", "ignored"] = "declared"
    """whether the scale and offset that a file declares (GeoTIFF) are applied first"""
    scale: dict[str, float] = Field(default_factory=dict)
    """factor for a band, default 1; applied after what the file declares"""
    add: dict[str, float] = Field(default_factory=dict)
    """added to a band after scaling, default 0"""

    @field_validator("names")
    @classmethod
    def _is_a_template(cls, names: str) -> str:
        expression_of(names)
        return names

    @property
    def conversion(self) -> Numbers:
        """How numbers become values."""
        return Numbers(packing=self.packing, scale=self.scale, add=self.add)


def expression_of(template: str) -> re.Pattern[str]:
    """The expression that the end of a path must match; a ValueError says what is wrong with the template."""
    found, result = set[str](), ""
    for piece in re.split(r"(\{[^{}]*\}|\*)", template):
        name = "any" if piece == "*" else piece[1:-1] if piece.startswith("{") else ""
        if not name:
            result += re.escape(piece)
        elif name not in _FIELDS:
            raise ValueError(f'"{template}" has no field "{name}"{nearest(name, tuple(_FIELDS))}')
        elif name == "any":
            result += _FIELDS[name]
        elif name in found:
            result += f"(?P={name})"
        else:
            found.add(name)
            result += f"(?P<{name}>{_FIELDS[name]})"
    if "id" not in found:
        raise ValueError(f'"{template}" has no field {{id}}: which part of a name is the id of a sample?')
    return re.compile(rf"(?:.*/)?{result}", re.IGNORECASE)


class Chips:
    """A source of chips in files."""

    options = Options
    """options of the YAML block"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for unknown options, and for keys that have no meaning for chips."""
        self._name, self._archive = name, archive
        self._options = read_options(Options, name, archive)
        refuse_keys(name, archive, {"offset": "write options.add", "search": "chips lie in a folder"})
        self._expression = expression_of(self._options.names)

    @property
    def collection(self) -> str:
        """A folder has no URI of its own: the format of its files."""
        return "https://www.ogc.org/standard/geotiff/"

    @property
    def counted(self) -> bool:
        """True: a chip is an acquisition."""
        return True

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """One scene for each id and date, ordered by them.

        Raises:
            RequestError: no file fits the template, or two files hold one band of one chip.
        """
        products = self._products()
        assets_of = describe(products, self._archive.root, full_digests=full_digests, one_footprint=False)
        for product, (assets, faults) in zip(products, assets_of, strict=True):
            yield self._scene(product, assets, faults)

    def _products(self) -> list[Product]:
        """The chips that files make up, by id and date."""
        files: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
        left_out = ""
        for path in files_below(self._archive.path, _SUFFIXES, self._name, "chip"):
            place = path.relative_to(self._archive.root).as_posix()
            if (match := self._expression.fullmatch(place)) is None:
                left_out = left_out or place
                continue
            told = {"date": "", "band": ""} | match.groupdict()
            if words := usable_id(told["id"]):
                raise RequestError(f"archives.{self._name}: {printable(place)}: {words}")
            band, own = told["band"].lower(), files[told["id"], told["date"]]
            if band in own:
                dated = f" of {told['date']}" if told["date"] else ""
                raise RequestError(
                    f"archives.{self._name}: two samples have the id {told['id']}{dated}, in "
                    f"{own[band].relative_to(self._archive.root)} and in {place}; an id is of one sample: change "
                    "options.names, or rename a file"
                )
            own[band] = path
        if not files:
            raise RequestError(
                f'archives.{self._name}: no file fits options.names "{self._options.names}"; the first is {left_out}'
            )
        return [self._product(*key, files[key]) for key in sorted(files)]

    def _product(self, name: str, date: str, files: dict[str, Path]) -> Product:
        try:
            when = when_of(date) if date else When(time=ALWAYS[0], end=ALWAYS[1])
        except ValueError as error:
            first = next(iter(files.values())).relative_to(self._archive.root)
            raise RequestError(
                f"archives.{self._name}: {printable(first)}: the part that options.names calls the date is none: "
                f"{printable(error)}; change options.names"
            ) from None
        bands = self._archive.read_bands
        named: dict[str, File] = {}
        missing: dict[str, str] = {}
        for number, band in enumerate(bands, start=1):
            told = self._options.variables.get(band, band).lower()
            path = files.get(told) or files.get("")
            if path is None:
                missing[band] = "there is no file of it"
            else:
                named[band] = _file(path, told, own_file=told in files, number=number, bands=len(bands))
        return Product(id=name, time=when.time, end=when.end, files=named, missing=missing, properties={})

    def _scene(self, product: Product, assets: tuple[Asset, ...], faults: str) -> Scene:
        assets = tuple(self._with_nodata(asset) for asset in assets)
        dated = product.end != ALWAYS[1]
        sample = self._sample(product, assets)
        return Scene(
            id=f"{product.id}_{product.time:%Y%m%d}" if dated else product.id,
            archive=self._name,
            time=product.time,
            end=product.end,
            acquisition=f"{self._name} {f'{product.time:%Y%m%dT%H%M%S}' if dated else 'undated'}",
            bbox=box_around([sample]),
            assets=assets,
            processing="; ".join(self._options.conversion.formulas(assets)),
            verdict=faults or self._sizes(assets),
            samples=(sample,),
        )

    def _sample(self, product: Product, assets: Sequence[Asset]) -> Listed:
        seconds = int(product.time.timestamp()) if product.end != ALWAYS[1] else UNDATED
        if not assets:
            return Listed(id=product.id, seconds=seconds)
        finest = max(assets, key=lambda asset: asset.cols)
        a, _, c, _, e, f = finest.transform
        x, y = c + a * finest.cols / 2, f + e * finest.rows / 2
        return Listed(id=product.id, crs=finest.crs, x=x, y=y, dx=a, dy=e, seconds=seconds)

    def _with_nodata(self, asset: Asset) -> Asset:
        if self._options.nodata is None:
            return asset
        return replace(asset, nodata=self._options.nodata, also_nodata=(), nodata_by="the campaign")

    def _sizes(self, assets: Sequence[Asset]) -> str:
        """Why bands of a chip do not lie on each other; empty if they do."""
        most = max(asset.cols for asset in assets)
        finest = next(asset for asset in assets if asset.cols == most)
        for asset in assets:
            if not _on_each_other(finest, asset):
                return f"{asset.band}: {asset.path} lies elsewhere than {finest.path}, and a chip is one place"
            if asset.rows != asset.cols:
                return f"{asset.band}: {asset.path} has {asset.cols} x {asset.rows} pixels; a chip is a square"
            if most % asset.cols:
                return f"{asset.band}: {asset.path} has {asset.cols} pixels along a side, another band {most}"
        return ""

    def observe_samples(
        self, scene: Scene, frame: Window, samples: SampleList, side_px: int, reader: RasterReader
    ) -> Observation:
        """The middle of the chip, converted; seen where every band has data."""
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        most = max(asset.cols for asset in scene.assets)
        if most < side_px:
            raise CorruptInput(f"the chip has {most} pixels along a side, and chip_px is {side_px}; lower chip_px")
        first = (most - side_px) // 2
        area, unit = PixelArea(row=first, col=first, rows=side_px, cols=side_px), Grid(crs=_UNIT_CRS, pixel=1)
        bands = len(self._archive.bands)
        futures = []
        for lane, asset in enumerate(scene.assets):
            step = float(most // asset.cols)
            placed = replace(asset, crs=_UNIT_CRS, transform=(step, 0.0, 0.0, 0.0, -step, 0.0))
            path, convert = self._archive.root / asset.path, self._value(asset) if lane < bands else None
            futures.append(reader.submit(path, placed, unit, area, "nearest", lane, convert))
        values = [future.result() for future in futures]
        values_cyx = np.stack(values[:bands]).astype(np.float32)
        seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
        clear = seen
        if (mask := self._archive.mask) is not None:
            classes = values[self._archive.read_bands.index(mask.band)]
            clear = seen & np.isin(classes, mask.clear)
        return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=clear)

    def _value(self, asset: Asset) -> Conversion:
        unpacked = self._options.conversion.unpacked(asset)
        return lambda pixels: np.asarray(unpacked(pixels).astype(np.float32))

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The median, or the mean if the archive says so."""
        return composite(observations, self._archive.composite or "median")


def _file(path: Path, told: str, *, own_file: bool, number: int, bands: int) -> File:
    """The file of a band: its own, or one of several bands, by the number it is told or else by its place."""
    if own_file:
        return File(path=path)
    if told.isdecimal():
        return File(path=path, index=int(told))
    return File(path=path, index=number, most=bands)


def _on_each_other(finest: Asset, other: Asset) -> bool:
    """Whether two bands cover the same place, to a pixel of the coarser one."""
    if not same_crs(finest.crs, other.crs):
        return False
    pixel = max(abs(other.bounds[2] - other.bounds[0]) / other.cols, abs(finest.transform[0]))
    return all(abs(one - two) < pixel for one, two in zip(finest.bounds, other.bounds, strict=True))
