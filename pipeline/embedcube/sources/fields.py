"""Rasters that are fields rather than photographs: terrain, and weather that others have put on a raster.

They are everywhere, so that beside photographs they make no cell valid. A value is DN * scale + add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from pydantic import Field

from embedcube.blocks import Block
from embedcube.composite import Composite, composite
from embedcube.config import Archive
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.onto import Conversion, Pixels
from embedcube.raster import RasterReader
from embedcube.scene import Asset, Scene
from embedcube.sources.base import Observation
from embedcube.sources.converted import observe_converted
from embedcube.sources.finding import archive_products
from embedcube.sources.options import band_names, read_options, refuse_keys
from embedcube.sources.products import Product, describe, place_of
from embedcube.windows import Window

ALWAYS = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
"""First and last moment of a field without time: all that can be told in nanoseconds, as readers of tables do."""


class Options(Block):
    """The options of the YAML block."""

    variables: dict[str, str] = Field(default_factory=dict)
    """what the files or their catalogue call a band, where it is not its name"""
    scale: dict[str, float] = Field(default_factory=dict)
    """of a band, where it is not 1"""
    add: dict[str, float] = Field(default_factory=dict)
    """to a band after scaling, where it is not 0"""
    nodata: float | None = None
    """of the files, whatever they declare; where each number is a value, one that never occurs"""
    static: bool = False
    """the fields hold at all times, and what the files say of time does not count"""


class Fields:
    """Finds rasters, scales them, and averages those of a frame."""

    def __init__(self, name: str, archive: Archive) -> None:
        """Refuses options of bands that are not wanted, and what has no meaning for fields."""
        self._name = name
        self._archive = archive
        self._options = read_options(Options, name, archive)
        refuse_keys(name, archive, {"mask": "fields are everywhere", "offset": "write options.add"})
        self._linear = {
            band: (self._options.scale.get(band, 1.0), self._options.add.get(band, 0.0)) for band in archive.bands
        }

    @property
    def collection(self) -> str:
        """What a field is, in the words of CF."""
        return "https://cfconventions.org/cf-conventions/cf-conventions.html"

    @property
    def photographs(self) -> bool:
        """They are not."""
        return False

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all products, ordered by time and id.

        Raises:
            RequestError: integers without a declared "no data", of which 0 may be a value or none.
        """
        found = sorted(self._products(), key=lambda p: (p.time, p.id))
        assets_of = describe(found, self._archive.root, full_digests=full_digests)
        for product, (assets, faults) in zip(found, assets_of, strict=True):
            yield Scene(
                id=product.id,
                archive=self._name,
                time=product.time,
                end=ALWAYS[1] if self._options.static else None,
                # the fields of one moment are one picture
                photograph=f"{product.time:%Y%m%dT%H%M%S}",
                bbox=place_of(product, assets),
                assets=tuple(replace(asset, nodata=self._nodata(asset)) for asset in assets),
                processing="; ".join(f"{band} = DN * {scale} + {add}" for band, (scale, add) in self._linear.items()),
                verdict=faults,
            )

    def _products(self) -> Iterator[Product]:
        names = band_names(self._archive, self._options.variables)
        if not self._options.static:
            yield from archive_products(self._archive, names)
            return
        for product in archive_products(self._archive, names, undated=ALWAYS[0]):
            yield replace(product, time=ALWAYS[0])

    def _nodata(self, asset: Asset) -> float | None:
        if self._options.nodata is not None:
            return self._options.nodata
        if asset.nodata == 0 and np.dtype(asset.dtype).kind != "f":
            raise RequestError(
                f"archives.{self._name}: {asset.band}: {asset.path} holds {asset.dtype} and declares no number but 0 "
                "as no data; is 0 a value? options.nodata says which number is none (one that never occurs, if all are)"
            )
        return asset.nodata

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The scaled values, float32; seen where every band has one."""
        convert_of = {band: _scaled(*linear) for band, linear in self._linear.items()}
        return observe_converted(scene, self._archive, grid, area, reader, convert_of.__getitem__)

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The mean, unless the archive says otherwise."""
        return composite(observations, self._archive.composite or "mean")


def _scaled(scale: float, add: float) -> Conversion:
    def convert(pixels: Pixels) -> Pixels:
        return np.asarray((pixels.astype(np.float64) * scale + add).astype(np.float32))

    return convert
