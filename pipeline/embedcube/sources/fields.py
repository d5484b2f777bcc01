"""Rasters that are fields rather than acquisitions: terrain, or weather that was already put on a raster.

Fields cover every place, so in a layer that also has acquisitions they make no cell valid. A value is the file's number
with the scale and offset that the file declares, then with those of the campaign.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from embedcube.campaign.scene import ALWAYS, Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.believed import FirstLook, believed_when_seen
from embedcube.sources.catalog.dates import When
from embedcube.sources.catalog.describe import describe, place_of
from embedcube.sources.catalog.find import archive_products
from embedcube.sources.catalog.missing import several_in_words
from embedcube.sources.catalog.products import Product, by_time
from embedcube.sources.catalog.scenes import scene_or_verdict
from embedcube.sources.composite import Composite, composite
from embedcube.sources.converted import Numbers, observe_converted
from embedcube.sources.evidence import (
    Evidence,
    Judge,
    destroyed,
    first_words,
    packed_floats,
    undeclared,
)
from embedcube.sources.options import band_names, read_options, refuse_keys
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Conversion
from embedcube.windows import Window


class Options(Numbers):
    """The options of the YAML block."""

    static: bool = False
    """the fields are valid at all times; dates in the files are ignored"""


class Fields:
    """A source of rasters that are scaled and averaged over a frame."""

    options = Options
    """options of the YAML block"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for unknown options, and for keys that have no meaning for fields."""
        self._name = name
        self._archive = archive
        self._first_look = FirstLook(archive.root, self._questions)
        self._options = read_options(Options, name, archive)
        refuse_keys(name, archive, {"mask": "fields are everywhere", "offset": "write options.add"})

    @property
    def collection(self) -> str:
        """The CF conventions, which say what a field is."""
        return "https://cfconventions.org/cf-conventions/cf-conventions.html"

    @property
    def counted(self) -> bool:
        """False: fields cover every place."""
        return False

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all products, ordered by time and id.

        A scene of integers for which it is not known whether 0 is a value gets a verdict that asks. An error on one
        product is the verdict of its scene, and so are pixels that contradict what is declared.
        """
        yield from believed_when_seen(list(self._described(full_digests)), self._archive.root, self._questions)

    def _described(self, full_digests: bool) -> Iterator[Scene]:
        found = by_time(self._products())
        packed = self._options.packing == "declared"
        assets_of = describe(found, self._archive.root, full_digests=full_digests, packed=packed)
        for product, (assets, faults) in zip(found, assets_of, strict=True):
            yield scene_or_verdict(self._name, product, partial(self._scene, product, assets, faults))

    def _scene(self, product: Product, assets: tuple[Asset, ...], faults: str) -> Scene:
        assets = tuple(self._with_nodata(asset) for asset in assets)
        unclear = [] if self._options.nodata is not None else [_unclear(asset) for asset in assets]
        return Scene(
            id=product.id,
            archive=self._name,
            time=product.time,
            end=ALWAYS[1] if self._options.static else product.end,
            # all fields of one moment are one acquisition
            acquisition=f"{product.time:%Y%m%dT%H%M%S}",
            bbox=place_of(product, assets),
            assets=assets,
            processing="; ".join([*self._options.formulas(assets), *several_in_words(assets)]),
            verdict="; ".join(filter(None, (faults, *unclear))),
        )

    def _questions(self, scene: Scene) -> list[tuple[Asset, Judge]]:
        return [(asset, partial(self._contradicted, asset)) for asset in scene.assets]

    def _contradicted(self, asset: Asset, evidence: Evidence) -> str:
        """How the pixels of a band contradict what is declared; empty if they do not."""
        told = asset.nodata_by or asset.mask
        return first_words(
            lambda: "" if told else undeclared(asset, evidence, evidence.at_edge, zero=True),
            lambda: "" if "packing" in self._archive.options else packed_floats(asset, evidence),
            lambda: destroyed(asset, evidence, self._value(asset)),
        )

    def _products(self) -> Iterator[Product]:
        names = band_names(self._archive, self._options.variables)
        if not self._options.static:
            yield from archive_products(self._archive, names, self._options.told)
            return
        told = replace(self._options.told, time=When(time=ALWAYS[0]), always=True)
        for product in archive_products(self._archive, names, told):
            yield replace(product, time=ALWAYS[0], end=None)

    def _with_nodata(self, asset: Asset) -> Asset:
        if self._options.nodata is not None:
            return replace(asset, nodata=self._options.nodata, also_nodata=(), nodata_by="the campaign")
        # where a mask decides alone, 0 is a value like any other
        return replace(asset, nodata=float("nan")) if asset.mask and not asset.nodata_by else asset

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The scaled values in float32; seen where every band has one."""
        self._first_look.refuse_contradicted(scene)
        return observe_converted(scene, self._archive, grid, area, reader, self._value)

    def _value(self, asset: Asset) -> Conversion:
        unpacked = self._options.unpacked(asset)
        return lambda pixels: np.asarray(unpacked(pixels).astype(np.float32))

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The mean, or the median if the archive says so."""
        return composite(observations, self._archive.composite or "mean")


def _unclear(asset: Asset) -> str:
    """Why an asset's no-data number is not known; empty if it is."""
    if asset.mask or asset.nodata_by or asset.nodata != 0 or np.dtype(asset.dtype).kind == "f":
        return ""
    return (
        f"{asset.band}: {asset.path} holds {asset.dtype} and nobody declares a number as no data; is 0 a value? "
        "options.nodata says which number is none (one that never occurs, if all are)"
    )
