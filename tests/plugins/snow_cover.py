"""Snow cover: GeoTIFFs named <date>_snow.tif that hold 0 to 100 per cent, another number for clouds."""

from collections.abc import Iterator, Sequence

import numpy as np

from embedcube.campaign.options import PluginOptions
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.catalog.describe import describe, place_of
from embedcube.sources.catalog.find import archive_products
from embedcube.sources.catalog.products import by_time
from embedcube.sources.composite import Composite, composite
from embedcube.sources.converted import observe_converted
from embedcube.sources.options import read_options
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Conversion
from embedcube.windows import Window


class Options(PluginOptions):
    """The options of the YAML block."""

    clouds: int = 255
    """number that stands for clouds"""


class SnowCover:
    """Finds the files, reads per cent as shares from 0 to 1, and averages the files of a frame."""

    options = Options
    collection = "https://example.org/snow-cover"
    counted = True

    def __init__(self, name: str, archive: Archive) -> None:
        if archive.bands != ("snow",):
            raise RequestError(f"archives.{name}: snow cover has the band snow alone")
        self._name, self._archive = name, archive
        self._options = read_options(Options, name, archive)

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        found = by_time(archive_products(self._archive, {"snow": frozenset({"snow"})}))
        clouds = self._options.clouds
        assets_of = describe(found, self._archive.root, full_digests=full_digests, nodata=clouds)
        for product, (assets, faults) in zip(found, assets_of, strict=True):
            yield Scene(
                id=product.id, archive=self._name, time=product.time, acquisition=product.id,
                bbox=place_of(product, assets), assets=assets, processing="share = per cent / 100", verdict=faults,
            )  # fmt: skip

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        return observe_converted(scene, self._archive, grid, area, reader, _share_of)

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        return composite(observations, self._archive.composite or "mean")


def _share_of(asset: Asset) -> Conversion:
    return lambda pixels: np.asarray((pixels / 100).astype(np.float32))
