"""Sentinel-2 L2A as COG, GeoTIFF or JPEG 2000 files with STAC Items next to them."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer

from embedcube.composite import Composite, composite
from embedcube.config import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.raster import RasterReader, judge, retried
from embedcube.scene import Asset, Scene
from embedcube.sources.base import Observation
from embedcube.windows import Window, utc

BAND_NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
"""Every band, and the name that STAC catalogues give it."""

_WEAK_BYTES = 1 << 16
"""How much of a file's beginning a weak digest covers: all header and most block offsets of a COG."""

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
        """The scenes of all items, ordered by time and id."""
        items = sorted(self._items(), key=lambda found: (_time_of(found[1]), str(found[1].get("id"))))
        for path, item in items:
            try:
                scene = self._scene(path, item, full_digests)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                log.warning("%s is not a usable STAC item and is left out: %s: %s", path, type(error).__name__, error)
                continue
            yield scene

    def _items(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        root = self._archive.path
        if root.is_file():
            import pystac

            try:
                for stac_item in pystac.Catalog.from_file(str(root)).get_items(recursive=True):
                    yield Path(str(stac_item.get_self_href())), stac_item.to_dict(transform_hrefs=False)
            except (pystac.STACError, KeyError, TypeError, ValueError) as error:
                raise RequestError(f"archives.{self._name}: {root} is not a STAC catalogue: {error!r}") from None
            return
        for path in sorted(root.rglob("*.json")):
            try:
                document = json.loads(path.read_bytes())
            except ValueError as error:
                log.warning("%s is not JSON and is left out: %s", path, error)
                continue
            if isinstance(document, dict) and document.get("type") == "Feature" and "assets" in document:
                yield path, document

    @property
    def _root(self) -> Path:
        return self._archive.path.parent if self._archive.path.is_file() else self._archive.path

    def _scene(self, path: Path, item: dict[str, Any], full_digests: bool) -> Scene:
        properties = item["properties"]
        assets, faults = [], []
        for band in self._bands:
            try:
                assets.append(self._asset(path, item, band, full_digests))
            except CorruptInput as error:
                faults.append(str(error))
        return Scene(
            id=item["id"],
            archive=self._name,
            time=utc(datetime.fromisoformat(_time_of(item))),
            # the same datatake at another processing baseline is still the same photograph
            photograph=re.sub(r"_N\d\d\.\d\d$", "", properties.get("s2:datatake_id") or item["id"]),
            bbox=_bbox_of_header(assets[0]) if assets else _bbox_of_item(item),
            assets=tuple(assets),
            offset=self._offset(properties),
            verdict="; ".join(faults),
        )

    def _offset(self, properties: dict[str, Any]) -> float:
        """-1000 for pixels of baseline 04.00 and later, unless the catalogue says that it has been applied."""
        if self._archive.offset != "auto":
            return self._archive.offset
        applied = properties.get("earthsearch:boa_offset_applied", False)
        return -1000.0 if str(properties.get("s2:processing_baseline", "")) >= "04.00" and not applied else 0.0

    def _asset(self, item_path: Path, item: dict[str, Any], band: str, full_digests: bool) -> Asset:
        path, description = _find_file(item_path, item, band)
        name = os.path.relpath(path, self._root)

        def read() -> Asset:
            size = path.stat().st_size
            if (said := description.get("file:size", size)) != size:
                raise CorruptInput(f"{band}: {name} has {size} bytes, its item says {said}")
            digest = _digest(path, description, full_digests)
            with rasterio.open(path) as dataset:
                return _describe(dataset, band, name, size, digest)

        def judged(_: Exception) -> CorruptInput | OSError:
            return judge(path, band, name, lambda dataset: _describe(dataset, band, name, 0, ""))

        return retried(read, judged)

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


def _find_file(item_path: Path, item: dict[str, Any], band: str) -> tuple[Path, dict[str, Any]]:
    """The local file of a band: by asset key, band name or file name; hrefs elsewhere do not count."""
    names = {band.lower(), BAND_NAMES[band]}
    for key, asset in item["assets"].items():
        href = str(asset.get("href", "")).removeprefix("file://")
        if "://" in href:
            continue
        described = {str(b.get("name", "")).lower() for b in asset.get("eo:bands") or asset.get("bands") or []}
        if len(described) > 1:
            continue
        if names & {key.lower(), Path(href).stem.lower(), *described}:
            path = item_path.parent / href
            if not path.is_file():
                raise CorruptInput(f"{band}: {href} does not exist")
            return Path(os.path.normpath(path)), asset
    raise CorruptInput(f"{band}: the item has no file of this band")


def _describe(dataset: Any, band: str, name: str, size: int, digest: str) -> Asset:
    """An asset, by the header of its open file."""
    if dataset.crs is None:
        raise CorruptInput(f"{band}: {name} has no coordinate reference system")
    dtype = np.dtype(dataset.dtypes[0])
    nodata = dataset.nodata
    if nodata is None or (dtype.kind != "f" and not np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max):
        nodata = float("nan") if dtype.kind == "f" else 0.0
    return Asset(
        band=band,
        path=name,
        crs=dataset.crs.to_string(),
        transform=tuple(dataset.transform)[:6],
        rows=dataset.height,
        cols=dataset.width,
        block_rows=dataset.block_shapes[0][0],
        block_cols=dataset.block_shapes[0][1],
        dtype=dtype.name,
        nodata=nodata,
        size=size,
        digest=digest,
    )


def _digest(path: Path, description: dict[str, Any], full: bool) -> str:
    checksum = str(description.get("file:checksum", ""))
    if checksum.startswith("1220"):  # multihash: sha2-256, 32 bytes
        return "sha256:" + checksum[4:]
    with path.open("rb") as file:
        if full:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        head = hashlib.sha256(file.read(_WEAK_BYTES))
    head.update(str(path.stat().st_size).encode())
    return "weak:" + head.hexdigest()


def _bbox_of_header(asset: Asset) -> tuple[float, float, float, float]:
    to_degrees = Transformer.from_crs(asset.crs, "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(*asset.bounds, densify_pts=21)
    return west, south, east, north


def _bbox_of_item(item: dict[str, Any]) -> tuple[float, float, float, float]:
    numbers = [float(number) for number in item["bbox"]]
    west, south, east, north = numbers if len(numbers) == 4 else (*numbers[:2], *numbers[3:5])
    return west, south, east, north


def _time_of(item: dict[str, Any]) -> str:
    properties = item.get("properties") or {}
    return str(properties.get("datetime") or properties.get("start_datetime") or "")


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
