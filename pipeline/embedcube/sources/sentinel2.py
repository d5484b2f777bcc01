"""Sentinel-2 L2A as COG, GeoTIFF or JPEG 2000 files with STAC Items next to them."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.composite import Composite, composite
from embedcube.config import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.raster import RasterReader
from embedcube.scene import Asset, Scene
from embedcube.sources.base import Observation
from embedcube.sources.products import bbox_of, describe
from embedcube.sources.stac import stac_products
from embedcube.windows import Window

BAND_NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
"""Every band, and the name that STAC catalogues give it."""

_EMPTY_SHARE = 0.5
"""A band that is empty on more than this share of what the mask calls data was not decoded, whatever GDAL says."""

_EVIDENCE_SHARE = 0.1
"""The mask must call at least this share of an area data to be a witness: lossy masks ring at a swath's edge."""

log = logging.getLogger(__name__)


class Sentinel2:
    """Finds items, reads them, and decides offset, mask and photograph of each."""

    def __init__(self, name: str, archive: Archive) -> None:
        """Refuses bands that Sentinel-2 does not have."""
        self._name = name
        self._archive = archive
        self._bands = (*archive.bands, *((archive.mask.band,) if archive.mask else ()))
        for band in self._bands:
            if band not in BAND_NAMES:
                raise RequestError(f'archives.{name}: Sentinel-2 has no band "{band}"; it has {", ".join(BAND_NAMES)}')

    @property
    def collection(self) -> str:
        """The product's page."""
        return "https://sentiwiki.copernicus.eu/web/s2-products"

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all products, ordered by time and id."""
        names = {band: frozenset((band.lower(), BAND_NAMES[band])) for band in self._bands}
        for product in sorted(stac_products(self._archive.path, names), key=lambda p: (p.time, p.id)):
            assets, faults = describe(product, self._root, full_digests=full_digests)
            yield Scene(
                id=product.id,
                archive=self._name,
                time=product.time,
                # the same datatake at another processing baseline is still the same photograph
                photograph=re.sub(r"_N\d\d\.\d\d$", "", product.properties.get("s2:datatake_id") or product.id),
                bbox=bbox_of(assets[0]) if assets else product.bbox or (-180.0, -90.0, 180.0, 90.0),
                assets=assets,
                offset=self._offset(product.properties),
                verdict=faults,
            )

    @property
    def _root(self) -> Path:
        return self._archive.path.parent if self._archive.path.is_file() else self._archive.path

    def _offset(self, properties: dict[str, Any]) -> float:
        """-1000 for pixels of baseline 04.00 and later, unless the catalogue says that it has been applied."""
        if self._archive.offset != "auto":
            return self._archive.offset
        applied = properties.get("earthsearch:boa_offset_applied", False)
        return -1000.0 if str(properties.get("s2:processing_baseline", "")) >= "04.00" and not applied else 0.0

    @property
    def photographs(self) -> bool:
        """They are."""
        return True

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The median, unless the archive says otherwise."""
        return composite(observations, self._archive.composite or "median")

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The bands with the offset applied (0 stays "no data", data is floored at 1), and what the mask keeps."""
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        futures = [
            reader.submit(self._root / asset.path, asset, grid, area, self._archive.resampling_of(asset.band), lane)
            for lane, asset in enumerate(scene.assets)
        ]
        pixels = [future.result() for future in futures]
        bands = pixels[: len(self._archive.bands)]
        seen_per_band = [_has_data(p, asset) for p, asset in zip(bands, scene.assets, strict=False)]
        if self._archive.mask is None:
            seen = clear = np.logical_and.reduce(seen_per_band)
        else:
            classes, labelled = pixels[-1], _has_data(pixels[-1], scene.assets[-1])
            _refuse_silent_zeros(seen_per_band, labelled, scene)
            seen = np.logical_and.reduce([labelled, *seen_per_band])
            clear = seen & np.isin(classes, self._archive.mask.clear)
        values = np.stack(bands)
        if scene.offset:
            values = np.maximum(values.astype(np.float32) + np.float32(scene.offset), 1).astype(values.dtype)
        return Observation(values_cyx=values, seen_yx=seen, clear_yx=clear)


def _has_data(pixels: Any, asset: Asset) -> Any:
    if pixels.dtype.kind == "f":
        return np.isfinite(pixels) & (pixels != asset.nodata)
    # compared as integers: a float would have numpy convert every pixel
    return pixels != int(asset.nodata or 0)


def _refuse_silent_zeros(seen_per_band: list[Any], labelled: Any, scene: Scene) -> None:
    """A truncated JPEG 2000 reads as zeros without an error: mask and bands tell of each other where data should be."""
    mask, expected = scene.assets[-1], int(labelled.sum())
    for seen, asset in zip(seen_per_band, scene.assets, strict=False):
        if expected > _EVIDENCE_SHARE * labelled.size and int((labelled & ~seen).sum()) > _EMPTY_SHARE * expected:
            raise CorruptInput(f"{asset.band}: {asset.path} is empty where {mask.band} has data")
    in_all = np.logical_and.reduce(seen_per_band)
    expected = int(in_all.sum())
    if expected > _EVIDENCE_SHARE * labelled.size and int((in_all & ~labelled).sum()) > _EMPTY_SHARE * expected:
        raise CorruptInput(f"{mask.band}: {mask.path} is empty where all bands have data")
