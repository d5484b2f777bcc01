"""Sentinel-2 L1C and L2A: SAFE; COG, GeoTIFF or JPEG 2000 files with or without STAC; series in NetCDF."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import isfinite
from typing import Any, Literal

import numpy as np

from embedcube.campaign.baselines import uses
from embedcube.campaign.remembered import memory_in_use
from embedcube.campaign.remembered_scene import RememberedScene, superseded
from embedcube.campaign.scene import UNKNOWN_TIME, Asset, Scene, unforeseen
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.printable import printable
from embedcube.sources.base import Observation
from embedcube.sources.believed import FirstLook, believed_when_seen, series_of
from embedcube.sources.catalog.describe import describe, place_of
from embedcube.sources.catalog.find import archive_products
from embedcube.sources.catalog.missing import several_in_words
from embedcube.sources.catalog.products import Known, Product, by_time
from embedcube.sources.catalog.remembered_product import item_path, remember_scene, remembered_scene
from embedcube.sources.catalog.scenes import scene_or_verdict
from embedcube.sources.composite import Composite, composite
from embedcube.sources.evidence import Evidence, Judge, undeclared
from embedcube.sources.image_options import ImageOptions
from embedcube.sources.options import read_options
from embedcube.sources.passes import Clues, acquisitions
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Pixels
from embedcube.sources.sentinel2.empty import Presence, empty_file, reason_to_look
from embedcube.sources.sentinel2.names import Identity, identify
from embedcube.sources.warp import has_data
from embedcube.windows import Window

BAND_NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22", "SCL": "scl",
}  # fmt: skip
"""Every band, and its name in STAC catalogues"""

_CODES = {name: band for band, name in BAND_NAMES.items()}

OFFSET_SINCE_BASELINE = 4.0
"""from this processing baseline on, pixels are reflectance x 10000 + 1000"""

NOT_REFLECTANCE = frozenset(("SCL", "AOT", "WVP", "CLD", "CLDPRB", "SNW", "SNWPRB", "CLM", "CLOUD_MASK"))
"""Layers of products that are not bands: classes, probabilities, depths. They have no offset."""

_DARK = "B04 B03 B02 B01 B05 B12 B11 B06 B07 B08 B8A B09 B10 "
"""Bands in the order in which they are looked at: over land and water, red shows the smallest numbers"""

_MOST_FLOORED = 0.5
"""an offset that leaves less than 1 on more than this share of a scene is not believed"""

_DARKEST = -50.0
"""what the offset leaves of most of a real scene: reflectance of dark water may be a little below 0"""

log = logging.getLogger(__name__)


class Options(ImageOptions):
    """The options of the YAML block."""

    nodata: float | None = None
    """number that means no data in all files whose type can hold it, instead of what they declare"""
    stated: Literal["checked", "ignore"] = "checked"
    """whether the sizes and checksums in catalogues or manifests are those of these files"""


class Sentinel2:
    """A source of Sentinel-2: decides the offset and the acquisition of each product, and masks clouds."""

    options = Options
    """options of the YAML block"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for bands that Sentinel-2 does not have, and for unknown options."""
        self._name = name
        # for each scene that gave a reason to look, by digest: which file is empty, in words
        self._empty: dict[str, str] = {}
        self._archive = archive
        self._first_look = FirstLook(archive.root, self._questions)
        self._options = read_options(Options, name, archive)
        for band in archive.bands:
            if band not in BAND_NAMES.keys() | _CODES.keys() | self._options.variables.keys():
                known = ", ".join(f"{code} ({common})" for code, common in BAND_NAMES.items())
                raise RequestError(f'archives.{name}: Sentinel-2 has no band "{band}"; it has {known}')

    @property
    def collection(self) -> str:
        """The page of the products."""
        return "https://sentiwiki.copernicus.eu/web/s2-products"

    @property
    def counted(self) -> bool:
        """True: scenes are acquisitions."""
        return True

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all products, ordered by time and id.

        If a tile of a datatake exists at several processing baselines, the newest that is whole is used; those that are
        not used name it. An error on one product is the verdict of its scene, and so are pixels that contradict its
        metadata.
        """
        products = self._products()
        paths = [item_path(product) for product in products]
        scenes = self._described(products, full_digests)
        products.clear()
        ids = [scene.id for scene in scenes]
        seen = list(believed_when_seen(scenes, self._archive.root, self._questions))
        scenes.clear()
        memory = memory_in_use()
        for scene, use, path in zip(seen, uses(seen), paths, strict=True):
            if use.fills:
                decided = scene.filling()
            else:
                decided = scene if use.instead is None else superseded(scene, ids[use.instead])
            if memory is not None:
                remember_scene(memory, path, decided, series_of)
            yield decided

    def _products(self) -> list[Product]:
        """All products, ordered by time and id; what their names and catalogues tell is `known`."""
        names = {band: self._names(band) for band in self._archive.read_bands}
        told = replace(self._options.told, known=self._with_known, known_kind=_Known)
        found = sorted(archive_products(self._archive, names, told), key=lambda product: (product.time, product.id))
        self._refuse_two_levels(found)
        return found

    def _with_known(self, product: Product) -> Product:
        """The product with what it tells, and without what told it, which takes much memory."""
        files = product.files
        if self._options.stated == "ignore":
            files = {band: replace(file, size=None, digest="") for band, file in files.items()}
        try:
            identity = identify(product)
            offset, reason = self._offset(product, identity)
            known = _Known(identity=identity, offset=offset, reason=reason)
        except Exception as error:
            log.debug("%s", printable(product.id), exc_info=True)
            known, files = _nothing_known(product), {}
            product = replace(product, fault=unforeseen(error))
        return replace(product, files=files, known=known, properties={}, names=())

    def _described(self, products: Sequence[Product], full_digests: bool) -> list[Scene]:
        """For each product its scene, as if it were used."""
        identities: list[Identity] = [product.known.identity for product in products]
        passes = acquisitions("S2", [identity.clues for identity in identities])
        ids = [product.id for product in by_time(products)]
        memory, same = memory_in_use(), list[RememberedScene | None]()
        for product, id, acquisition in zip(products, ids, passes, strict=True):
            same.append(remembered_scene(memory, product, self._name, id, acquisition))
        described = describe(
            [product for product, one in zip(products, same, strict=True) if one is None],
            self._archive.root,
            full_digests=full_digests,
            nodata=self._options.nodata,
            one_footprint=True,
        )
        scenes: list[Scene] = []
        for product, id, acquisition, one in zip(products, ids, passes, same, strict=True):
            if one is not None:
                scenes.append(one)
                continue
            assets, faults = next(described)
            named = product if product.id == id else replace(product, id=id)
            make = partial(self._scene, named, acquisition, assets, faults)
            scene = scene_or_verdict(self._name, named, make)
            identity: Identity = product.known.identity
            # patches of one tile are different places
            parts = (acquisition, identity.level, identity.tile, identity.patch) if identity.tile else (product.id,)
            scenes.append(
                replace(
                    scene,
                    version=identity.baseline or 0.0,
                    subject="/".join(parts),
                    strip=identity.strip,
                    product="" if product.id == id else product.id,
                )
            )
        return scenes

    def _scene(self, product: Product, acquisition: str, assets: tuple[Asset, ...], faults: str) -> Scene:
        offset, reason = product.known.offset, product.known.reason
        words = [reason, _as_stored(assets), *several_in_words(assets)]
        declared, assets = assets, tuple(map(self._with_zero, assets))
        words += ["0 is no data, too"] if assets != declared else []
        return Scene(
            id=product.id,
            archive=self._name,
            time=product.time,
            end=product.end,
            acquisition=acquisition,
            bbox=place_of(product, assets),
            assets=assets,
            offset=offset or 0.0,
            processing="; ".join(filter(None, words)) if offset is not None else "",
            # nothing more is known of a product that cannot be used as a whole
            verdict="; ".join(filter(None, (faults, "" if offset is not None or product.fault else reason))),
        )

    def _with_zero(self, asset: Asset) -> Asset:
        """The asset with 0 as no data, which it is in integers of Sentinel-2, also beside another declared number."""
        told = asset.nodata_by and self._options.nodata is None and not asset.mask
        zero = told and np.dtype(asset.dtype).kind in "iu" and self._is_reflectance(asset.band)
        known = (asset.nodata, *asset.also_nodata)
        return replace(asset, also_nodata=(*asset.also_nodata, 0.0)) if zero and 0 not in known else asset

    def _questions(self, scene: Scene) -> list[tuple[Asset, Judge]]:
        """One band is looked at, the darkest: an offset that is applied twice leaves nothing of it."""
        bands = [asset for asset in scene.assets if self._is_reflectance(asset.band)]
        if not bands or _in_safe(bands[0]):
            return []  # the metadata inside of a product are those of its pixels
        if not scene.offset and all(asset.nodata_by or asset.mask for asset in bands):
            return []  # nothing is left open
        darkest = min(bands, key=lambda asset: _DARK.find(_CODES.get(asset.band, asset.band)) % len(_DARK))
        return [(darkest, partial(self._contradicted, scene, darkest))]

    def _contradicted(self, scene: Scene, asset: Asset, evidence: Evidence) -> str:
        """How the pixels of a band contradict what is known of its numbers; empty if they do not."""
        # integers of Sentinel-2 are 0 where there is nothing, which need not be declared
        numbers = () if asset.nodata_by or asset.mask else evidence.at_edge
        if words := undeclared(asset, evidence, numbers, zero=np.dtype(asset.dtype).kind == "f"):
            return words
        left = evidence.values + scene.offset
        if not scene.offset or (left < 1).mean() <= _MOST_FLOORED or np.median(left) > _DARKEST:
            return ""
        return (
            f"{asset.band}: the {scene.processing.partition(';')[0]} leaves nothing of {(left < 1).mean():.0%} of "
            f'{asset.path} (median {np.median(evidence.values):g}), which seems to be without it: write "offset: 0" '
            "(for an archive of such scenes only)"
        )

    def _refuse_two_levels(self, products: Sequence[Product]) -> None:
        """Refuse an archive with both L1C (at the sensor) and L2A (at the ground)."""
        levels = ((product.known.identity.level, product) for product in reversed(products))
        first = {level: product for level, product in levels if level and not product.fault}
        if len(first) > 1:
            named = " and ".join(f"{product.id} of Level-{level}" for level, product in sorted(first.items()))
            raise RequestError(f"archives.{self._name}: it holds {named}; make an archive of each")

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The bands with the offset applied (0 stays no data, data are at least 1); clear where the mask says so."""
        self._first_look.refuse_contradicted(scene)
        assets = {asset.band: asset for asset in scene.assets}
        pixels = self._pixels(assets, grid, area, reader)
        present = self._presence(assets, pixels)
        mask = self._archive.mask
        if mask is not None and 0 not in mask.clear and reason_to_look(present, area):

            def presence_of(grid: Grid, area: PixelArea) -> Presence:
                return self._presence(assets, self._pixels(assets, grid, area, reader))

            if (digest := scene.digest) not in self._empty:
                bands = [assets[band] for band in self._archive.bands]
                self._empty[digest] = empty_file(bands, assets[mask.band], presence_of)
            if words := self._empty[digest]:
                raise CorruptInput(words)
        seen = reduce(np.logical_and, present.bands, present.labelled)
        values = np.stack(
            [self._with_offset(pixels[band], band, scene.offset) for band in self._archive.bands],
        )
        return Observation(values_cyx=values, seen_yx=seen, clear_yx=seen & present.clear, fills=scene.fills)

    def _pixels(
        self, assets: Mapping[str, Asset], grid: Grid, area: PixelArea, reader: RasterReader
    ) -> dict[str, Pixels]:
        """The numbers of all files of a scene, by band."""
        root, method_of = self._archive.root, self._archive.resampling_of
        futures = [
            reader.submit(root / asset.path, asset, grid, area, method_of(band), lane)
            for lane, (band, asset) in enumerate(assets.items())
        ]
        return dict(zip(assets, (future.result() for future in futures), strict=True))

    def _presence(self, assets: Mapping[str, Asset], pixels: Mapping[str, Pixels]) -> Presence:
        """Where bands and mask have data; without a mask all is clear."""
        bands, mask = [has_data(pixels[band], assets[band]) for band in self._archive.bands], self._archive.mask
        everywhere = np.ones(bands[0].shape, dtype=bool)
        if mask is None:
            return Presence(bands=bands, labelled=everywhere, clear=everywhere)
        # a flag stored as 1 or NaN has the class 0 where it is NaN
        clear = np.isin(np.nan_to_num(pixels[mask.band], nan=0.0), mask.clear)
        labelled = everywhere if 0 in mask.clear else has_data(pixels[mask.band], assets[mask.band])
        return Presence(bands=bands, labelled=labelled, clear=clear)

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The median, or the mean if the archive says so."""
        return composite(observations, self._archive.composite or "median")

    def _names(self, band: str) -> frozenset[str]:
        """All names of a band in files and catalogues, in lower case: b04, b4 and red, for both B04 and red."""
        code = _CODES.get(band, band)
        if variable := self._options.variables.get(band):
            return frozenset((variable.lower(),))
        # catalogues give one common name to several bands
        return Known.of((code, re.sub(r"^B0", "B", code)), (BAND_NAMES.get(code, code),))

    def _offset(self, product: Product, identity: Identity) -> tuple[float | None, str]:
        """The offset to add to a product's values, and the reason; None and the reason if it is unknown."""
        asked, properties = self._archive.offset, product.properties
        if asked != "auto":
            return asked, f"offset {asked:+g}: the campaign says so"
        if identity.offset_applied:
            return 0.0, "offset +0: the catalogue says it has been applied"
        if (stated := properties.get("s2:add_offset")) is not None:
            try:
                offset = float(stated)
            except (TypeError, ValueError):
                return None, f"its metadata has s2:add_offset {stated!r}, which is not a number"
            if not isfinite(offset):
                return None, f"its metadata has s2:add_offset {stated!r}, which is not a finite number"
            return offset, f"offset {offset:+g}: the product's metadata"
        if identity.baseline is not None:
            offset = -1000.0 if identity.baseline >= OFFSET_SINCE_BASELINE else 0.0
            return offset, f"offset {offset:+g}: processing baseline {identity.baseline:05.2f}"
        # the date of the acquisition does not help: products of before 2022 were reprocessed at later baselines
        return None, (
            "no processing baseline is known, so its values may or may not hold the offset of +1000: look at them, and "
            'write "offset: -1000" or "offset: 0"'
        )

    def _with_offset(self, values: Any, band: str, offset: float) -> Any:
        """Add the offset to reflectances; classes and the like stay as they are."""
        if not offset or not self._is_reflectance(band):
            return values
        return np.maximum(values.astype(np.float32) + np.float32(offset), 1).astype(values.dtype)

    def _is_reflectance(self, band: str) -> bool:
        called = {band.upper(), self._options.variables.get(band, band).upper()}
        return not called & NOT_REFLECTANCE and not (self._archive.mask and band == self._archive.mask.band)


def _in_safe(asset: Asset) -> bool:
    """Whether a file is a part of a SAFE product, in a folder or a zip."""
    return ".SAFE/" in f"{asset.path}/{asset.inner}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What the names and the catalogue of a product tell."""

    identity: Identity
    offset: float | None
    """number to add to its values; None if it is unknown"""
    reason: str
    """why it is this offset, or none"""


def _nothing_known(product: Product) -> _Known:
    clues = Clues(id=product.id, time=UNKNOWN_TIME)
    nothing = Identity(clues=clues, level="", tile="", patch="", strip="", baseline=None, offset_applied=False)
    return _Known(identity=nothing, offset=None, reason="")


def _as_stored(assets: Sequence[Asset]) -> str:
    """Note that a scale declared by files is not applied: it already contains the offset, which would count twice."""
    packings = {f"DN * {asset.scale!r} + {asset.add!r}": None for asset in assets if asset.packed}
    return f"numbers as they are stored, without {', '.join(packings)} as the files declare" if packings else ""
