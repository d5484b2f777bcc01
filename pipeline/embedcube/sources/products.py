"""Products: what an archive of raster files holds, however it is laid out, and the assets that its bands become."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import Transformer

from embedcube.errors import CorruptInput
from embedcube.raster import judge, open_raster, retried
from embedcube.scene import Asset

_WEAK_BYTES = 1 << 16
"""How much of a file's beginning a weak digest covers: all header and most block offsets of a COG."""

Names = Mapping[str, frozenset[str]]
"""Each wanted band, and all names (lower case) by which files or catalogues may call it"""


@dataclass(frozen=True, kw_only=True)
class File:
    """Where one band of a product lies."""

    path: Path
    inner: str = ""
    """member of a zip archive, or variable of a NetCDF file"""
    index: int = 1
    """of the band among those of the raster"""
    size: int | None = None
    """of the file, as the catalogue says"""
    sha256: str = ""
    """hex, of the file, as the catalogue says"""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One acquisition of one tile, as a catalogue, a manifest or a folder describes it."""

    id: str
    time: datetime
    """UTC"""
    files: dict[str, File]
    """of the wanted bands that there are"""
    missing: dict[str, str] = field(default_factory=dict)
    """of the other wanted bands, why there is no file"""
    properties: dict[str, Any]
    """by the names of STAC and its extensions"""
    bbox: tuple[float, float, float, float] | None = None
    """west, south, east, north as described; only used where no file can be opened"""


def describe(product: Product, root: Path, *, full_digests: bool) -> tuple[tuple[Asset, ...], str]:
    """The assets of a product in the order of its files, by their headers; and why others are not there.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    assets, faults = [], [f"{band}: {reason}" for band, reason in product.missing.items()]
    for band, file in product.files.items():
        try:
            assets.append(_asset(file, band, os.path.relpath(file.path, root), full_digests=full_digests))
        except CorruptInput as error:
            faults.append(str(error))
    return tuple(assets), "; ".join(faults)


def bbox_of(asset: Asset) -> tuple[float, float, float, float]:
    """West, south, east, north of a file, by its header."""
    to_degrees = Transformer.from_crs(asset.crs, "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(*asset.bounds, densify_pts=21)
    return west, south, east, north


def _asset(file: File, band: str, name: str, *, full_digests: bool) -> Asset:
    def read() -> Asset:
        size = file.path.stat().st_size
        if file.size not in (None, size):
            raise CorruptInput(f"{band}: {name} has {size} bytes, its catalogue says {file.size}")
        digest = f"sha256:{file.sha256}" if file.sha256 else digest_of_file(file.path, full_digests)
        with open_raster(file.path, file.inner) as dataset:
            return _by_header(dataset, file, band, name, size, digest)

    def judged(_: Exception) -> CorruptInput | OSError:
        def decode(dataset: Any) -> Asset:
            return _by_header(dataset, file, band, name, 0, "")

        return judge(file.path, file.inner, band, name, decode)

    return retried(read, judged)


def _by_header(dataset: Any, file: File, band: str, name: str, size: int, digest: str) -> Asset:
    if dataset.crs is None:
        raise CorruptInput(f"{band}: {name} has no coordinate reference system")
    dtype = np.dtype(dataset.dtypes[file.index - 1])
    nodata = dataset.nodatavals[file.index - 1]
    if nodata is None or (dtype.kind != "f" and not np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max):
        nodata = float("nan") if dtype.kind == "f" else 0.0
    return Asset(
        band=band,
        path=name,
        inner=file.inner,
        index=file.index,
        crs=dataset.crs.to_string(),
        transform=tuple(dataset.transform)[:6],
        rows=dataset.height,
        cols=dataset.width,
        block_rows=dataset.block_shapes[file.index - 1][0],
        block_cols=dataset.block_shapes[file.index - 1][1],
        dtype=dtype.name,
        nodata=nodata,
        size=size,
        digest=digest,
    )


def digest_of_file(path: Path, full: bool) -> str:
    """SHA-256 of a whole file as "sha256:<hex>", or of its beginning and its size as "weak:<hex>"."""
    with path.open("rb") as file:
        if full:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        head = hashlib.sha256(file.read(_WEAK_BYTES))
    head.update(str(path.stat().st_size).encode())
    return "weak:" + head.hexdigest()


def files_below(root: Path, pattern: str) -> Iterator[Path]:
    """Files of an archive in a fixed order."""
    yield from sorted(path for path in root.rglob(pattern) if path.is_file())
