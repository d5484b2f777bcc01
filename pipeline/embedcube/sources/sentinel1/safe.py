"""The files of a Sentinel-1 GRD SAFE folder: found, digested, and held against what its manifest names."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from embedcube.campaign.scene import Asset
from embedcube.errors import CorruptInput
from embedcube.sources.catalog.digests import Look, digest_of_file, refuse_other_bytes
from embedcube.sources.catalog.files import ABSENT, lasting, not_a_file, read_bounded
from embedcube.sources.catalog.products import File
from embedcube.sources.catalog.safe import stated_files
from embedcube.sources.catalog.safe_radar import MANIFEST_BYTES
from embedcube.sources.huge_blocks import block_bytes_of
from embedcube.sources.opening import open_raster
from embedcube.sources.reader import judge, retried

_BEYOND = 0.05
"""margin (degrees) around a product's control points within which terrain may move its pixels"""


_KINDS = {
    "measurement": "measurement/s1?-*-grd-{}-*.tif*",
    "annotation": "annotation/s1?-*-grd-{}-*.xml",
    "calibration": "annotation/calibration/calibration-s1?-*-grd-{}-*.xml",
}
"""The files of a band that are read"""

_NOISE = {"noise": "annotation/calibration/noise-s1?-*-grd-{}-*.xml"}


def lacking(safe: Path, bands: Sequence[str]) -> str:
    """All files of some bands that a product lacks, in words; empty if it has what is read.

    Noise is not read, but where it is missing among others, the product is to be downloaded with it.
    """
    gone: dict[tuple[str, ...], list[str]] = {}
    for kind, pattern in (_KINDS | _NOISE).items():
        if without := tuple(band for band in bands if not any(safe.glob(pattern.format(band.lower())))):
            gone.setdefault(without, []).append(kind)
    listed = "; ".join(f"{', '.join(kinds)} of {', '.join(without)}" for without, kinds in gone.items())
    needed = any(kind in _KINDS for kinds in gone.values() for kind in kinds)
    manifest = "" if (safe / "manifest.safe").exists() else "manifest.safe"
    return "; ".join(filter(None, (listed, manifest))) if needed or manifest else ""


def images_of(safe: Path, root: Path, bands: Sequence[str], *, full_digests: bool) -> tuple[Asset, ...]:
    """The measurement file of each band as an asset, with a box around the product's control points as its geometry.

    The digest covers all three files of a band: measurement, annotation and calibration.

    Raises:
        CorruptInput: a file is missing, or differs from the manifest.
        OSError: a file could not be read for a reason that may pass.
    """
    stated = _stated(safe)
    return tuple(_image(safe, root, band, stated, full_digests) for band in bands)


def _stated(safe: Path) -> dict[str, tuple[int, str]]:
    """Sizes and digests of the files of a product, by its manifest."""
    try:
        return stated_files(read_bounded(safe / "manifest.safe", MANIFEST_BYTES))
    except (FileNotFoundError, ElementTree.ParseError, ValueError) as error:
        raise CorruptInput(f"{safe.name}: its manifest cannot be read: {error}") from None
    except OSError as error:
        if words := lasting(error):
            raise CorruptInput(f"{safe.name}: its manifest {words}") from None
        raise


def _image(safe: Path, root: Path, band: str, stated: dict[str, tuple[int, str]], full_digests: bool) -> Asset:
    image, *texts = files_of(safe, band)
    digests, declared = [], False
    for path in (image, *texts):
        size, digest = stated.get(path.relative_to(safe).as_posix(), (None, ""))
        if size not in (None, actual := path.stat().st_size):
            raise CorruptInput(f"{band}: {path.name} has {actual} bytes, its manifest says {size}")
        if full_digests:
            refuse_other_bytes(File(path=path, digest=digest), band, path.name)
        declared |= bool(digest) and not full_digests
        digests.append(digest or digest_of_file(path, full_digests or path in texts))
    name = os.path.relpath(image, root)

    def by_header(dataset: Any) -> Asset:
        return _around_points(dataset, band)

    def read() -> Asset:
        with open_raster(image, "") as dataset:
            return by_header(dataset)

    return replace(
        retried(read, lambda _: judge(image, "", band, name, by_header)),
        path=name,
        size=image.stat().st_size,
        digest=_digest_of_all(digests),
        declared=declared,
        noted=Look.at(image).noted,
    )


def _digest_of_all(digests: Sequence[str]) -> str:
    """The digest of an image with its annotation and calibration, from theirs."""
    kind = "weak" if digests[0].startswith("weak:") else "sha256"
    return f"{kind}:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def compare_image(path: Path, asset: Asset) -> str:
    """Why an image, its annotation or calibration has other bytes than when it was indexed; empty if not known."""
    safe = path.parents[1]
    try:
        found = _image(safe, safe, asset.band, _stated(safe), not asset.digest.startswith("weak:"))
    except CorruptInput as error:
        return str(error)
    if found.digest == asset.digest and found.noted.sample == asset.noted.sample:
        return ""
    return f"{found.digest[:19]} now, {asset.digest[:19]} then"


def files_of(safe: Path, band: str) -> tuple[Path, Path, Path]:
    """The files of a band: measurement, annotation and calibration. None of them is opened.

    Raises:
        CorruptInput: one of them is missing, or is a FIFO or a device.
        OSError: this could not be found out, for a reason that may pass.
    """
    found = []
    for kind, pattern in _KINDS.items():
        paths = sorted(safe.glob(pattern := pattern.format(band.lower())))
        if len(paths) != 1:
            raise CorruptInput(f"{band}: {safe.name} has {len(paths) or 'no'} files of its {kind}, {pattern}")
        # a file that is gone since it was listed may come back, which callers find out
        if (words := not_a_file(paths[0])) not in ("", ABSENT):
            raise CorruptInput(f"{band}: {paths[0].name} {words}")
        found.append(paths[0])
    return found[0], found[1], found[2]


def _around_points(dataset: Any, band: str) -> Asset:
    """The asset of an open measurement file; longitudes go beyond 180 where its points cross the antimeridian."""
    points, crs = dataset.gcps
    if not points or crs is None or not crs.is_geographic:
        raise ValueError("no ground control points in degrees")
    lons, lats = np.array([point.x for point in points]), np.array([point.y for point in points])
    if np.ptp(lons) > 180:
        lons = lons % 360
    west, north = lons.min() - _BEYOND, lats.max() + _BEYOND
    width, height = np.ptp(lons) + 2 * _BEYOND, np.ptp(lats) + 2 * _BEYOND
    return Asset(
        band=band,
        path="",
        crs="EPSG:4326",
        transform=(float(width / dataset.width), 0.0, float(west), 0.0, float(-height / dataset.height), float(north)),
        rows=dataset.height,
        cols=dataset.width,
        block_rows=dataset.block_shapes[0][0],
        block_cols=dataset.block_shapes[0][1],
        # the type of power
        dtype="float32",
        nodata=0.0,
        size=0,
        digest="",
        block_bytes=block_bytes_of(dataset, 1),
    )


def refuse_other_files(image: Path, band: str, group: str) -> None:
    """Refuse a product whose manifest leads xarray-sentinel to other files than the ones that were indexed.

    That library opens the files that the manifest names, with whatever driver GDAL takes for their content. `group` is
    its name of the image, such as IW/VV.

    Raises:
        ValueError: the manifest names other files, or the image is no GeoTIFF.
        OSError: a file could not be read.
    """
    from xarray_sentinel.esa_safe import parse_manifest_sentinel1
    from xarray_sentinel.sentinel1 import find_available_groups

    safe = image.parents[1]
    about, named = parse_manifest_sentinel1(BytesIO(read_bounded(safe / "manifest.safe", MANIFEST_BYTES)))
    groups = find_available_groups(named, str(safe), about["product_type"])
    chosen = [*groups.get(group, []), *groups.get(f"{group}/calibration", [])]
    if [*map(Path, chosen)] != list(files_of(safe, band)):
        raise ValueError(f"{band}: its manifest names {', '.join(chosen) or 'no files'} for {group}")
    with open_raster(image, "", sidecars=False):
        pass
