"""Products of Sentinel-2 SAFE folders and zips: Level-1C and 2A, in today's naming and the one before December 2016.

A SAFE of the old naming may hold several tiles; each tile becomes a product.
"""

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from embedcube.campaign.scene import unforeseen
from embedcube.printable import printable
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import lasting, read_bounded, read_member
from embedcube.sources.catalog.products import File, Names, Product, bounded, product_id, split_pixel_size, unusable
from embedcube.windows import moment

_METADATA = re.compile(r"^(MTD_MSIL(1C|2A)|S2\w_\w{4}_MTD_SAFL(1C|2A)_\w+)\.xml$")
_IMAGE = re.compile(r"^GRANULE/([^/]+)/IMG_DATA/(?:R\d0m/)?[^/]+\.(jp2|tif)$")
_TILE = re.compile(r"_T(\d\d[A-Z]{3})(?:_|$)")

_KIND = re.compile(r"^s2\w_\w{4}_(?!msi)(\w{3})_l2a_tl_")
"""Images in the old naming of Level-2A that are not bands of the sensor: S2A_USER_SCL_L2A_TL_..._T33TWL_20m"""

_OFFSETS = ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
"""XML elements with the offset of each band, in Level-1C and 2A since baseline 04.00"""

_ALGORITHMS = {"MD5": "md5", "SHA3-256": "sha3-256", "SHA-256": "sha256"}
"""Names of checksum algorithms in manifests, and in digests"""

_XML_BYTES = 64 << 20
"""largest metadata or manifest; those of products have less than a million bytes"""


@dataclass(frozen=True, kw_only=True)
class _Safe:
    """An open SAFE: its files, in a folder or a zip."""

    path: Path
    """the folder, or the zip"""
    inside: str | None
    """prefix of the members' names in a zip: the product's folder and a slash; None for a folder"""
    members: list[str]
    """paths below the product's folder, sorted"""
    read: Callable[[str], bytes]

    def file(self, member: str, stated: dict[str, tuple[int, str]]) -> File:
        """The file of a member, with the size and digest that the manifest states."""
        size, digest = stated.get(member, (None, ""))
        if self.inside is None:
            return File(path=self.path / member, size=size, digest=digest)
        return File(path=self.path, inner=self.inside + member, size=size, digest=digest)


def is_safe(path: Path) -> bool:
    """Whether a folder or zip may be a product of Sentinel-2, by its name."""
    return path.name.startswith("S2") and path.suffix in (".SAFE", ".zip") and not path.name.endswith(".zarr.zip")


def safe_products(path: Path, names: Names) -> Iterator[Product]:
    """The products of a SAFE folder or zip, one for each tile, each band at its finest resolution.

    Sizes and digests of files are those of the manifest. The properties hold the product's metadata under the names of
    STAC; `s2:add_offset` is the RADIO_ADD_OFFSET or BOA_ADD_OFFSET (0 where there is none).

    A SAFE that cannot be used is one product with a fault.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    name = path.name.removesuffix(".zip").removesuffix(".SAFE")
    try:
        with _opened(path) as safe:
            yield from _products(name, safe, names)
    except OSError as error:
        if not (words := lasting(error)):
            raise
        yield unusable(name, f"{printable(path.name)} is not a SAFE product: a part of it {words}", time_in(name))
    except Exception as error:
        known = isinstance(error, zipfile.BadZipFile | ElementTree.ParseError | KeyError | ValueError)
        words = printable(error) if known else unforeseen(error)
        yield unusable(name, f"{printable(path.name)} is not a SAFE product: {words}", time_in(name))


@contextmanager
def _opened(path: Path) -> Iterator[_Safe]:
    if path.is_dir():
        members = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        yield _Safe(
            path=path, inside=None, members=members, read=lambda member: read_bounded(path / member, _XML_BYTES)
        )
        return
    with zipfile.ZipFile(path) as archive:
        every = sorted(archive.namelist())
        tops = [name for name in every if _METADATA.match(PurePosixPath(name).name)]
        top = min(tops, key=lambda name: name.count("/"), default="")
        inside = top[: top.rfind("/") + 1]
        members = [name.removeprefix(inside) for name in every if name.startswith(inside)]
        yield _Safe(
            path=path,
            inside=inside,
            members=members,
            read=lambda member: read_member(archive, inside + member, _XML_BYTES),
        )


def _products(name: str, safe: _Safe, names: Names) -> Iterator[Product]:
    granules: dict[str, list[str]] = {}
    for member in safe.members:
        if match := _IMAGE.match(member):
            granules.setdefault(match[1], []).append(member)
    time, properties = _metadata(safe)
    stated = stated_files(safe.read("manifest.safe")) if "manifest.safe" in safe.members else {}
    if not granules:
        raise ValueError("it has no image")
    for granule, images in granules.items():
        tile = _TILE.search(granule)
        if tile is None:
            raise ValueError(f"granule {granule} names no tile")
        chosen = {band: _finest(images, known) for band, known in names.items()}
        yield Product(
            id=product_id(name if len(granules) == 1 else f"{name}_T{tile[1]}"),
            time=time,
            files={band: safe.file(member, stated) for band, member in chosen.items() if member},
            missing={band: "the product has no file of this band" for band, member in chosen.items() if not member},
            properties=bounded(properties) | {"s2:mgrs_tile": tile[1], "s2:granule_id": granule},
        )


def _finest(images: list[str], known: frozenset[str]) -> str:
    """The finest image of a band, as T33TWL_20230815T100031_B02_10m.jp2; empty where there is none."""
    found = []
    for member in images:
        name, pixel_m = split_pixel_size(PurePosixPath(member).stem)
        kind = _KIND.match(name)
        if (kind[1] if kind else name.rpartition("_")[2]) in known:
            found.append((pixel_m, member))
    return min(found, default=(0, ""))[1]


def _metadata(safe: _Safe) -> tuple[datetime, dict[str, Any]]:
    """The start of the datatake, and the product's metadata."""
    member = next((member for member in safe.members if _METADATA.match(member)), None)
    if member is None:
        raise ValueError("it has no MTD_MSIL1C.xml or MTD_MSIL2A.xml; if it holds images, unpack it")
    root = ElementTree.fromstring(safe.read(member))

    def text(tag: str) -> str:
        return next((element.text or "" for element in root.iter(tag)), "")

    offsets = {float(element.text or "nan") for tag in _OFFSETS for element in root.iter(tag)} or {0.0}
    if len(offsets) > 1:
        raise ValueError(f"its bands have different offsets: {sorted(offsets)}")
    datatake = next((element.get("datatakeIdentifier", "") for element in root.iter("Datatake")), "")
    properties = {
        "s2:processing_baseline": text("PROCESSING_BASELINE"),
        "s2:datatake_id": datatake,
        "s2:datastrip_id": next(
            (e.get("datastripIdentifier", "") for e in root.iter() if "datastripIdentifier" in e.attrib), ""
        ),
        "s2:product_uri": text("PRODUCT_URI") or text("PRODUCT_URI_2A"),
        "s2:generation_time": text("GENERATION_TIME"),
        "processing:level": text("PROCESSING_LEVEL").replace("Level-", "L"),
        "s2:add_offset": offsets.pop(),
    }
    sensed = moment(text("DATATAKE_SENSING_START") or text("PRODUCT_START_TIME"))
    return sensed, {key: value for key, value in properties.items() if value != ""}


def stated_files(manifest: bytes) -> dict[str, tuple[int, str]]:
    """Size and digest of every file that `manifest.safe` lists, by path; the digest is empty for unknown algorithms."""
    stated = {}
    for stream in ElementTree.fromstring(manifest).iter("byteStream"):
        place, checksum = stream.find("fileLocation"), stream.find("checksum")
        if place is not None and "size" in stream.attrib:
            algorithm = _ALGORITHMS.get("" if checksum is None else checksum.get("checksumName", "").upper())
            digest = (
                f"{algorithm}:{(checksum.text or '').strip().lower()}" if algorithm and checksum is not None else ""
            )
            stated[place.get("href", "").removeprefix("./")] = int(stream.attrib["size"]), digest
    return stated
