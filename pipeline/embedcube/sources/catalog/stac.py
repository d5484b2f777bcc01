"""Products of STAC: a static catalogue, the saved result of a search, or single Item files."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from embedcube.errors import RequestError
from embedcube.sources.catalog.products import File, Names, Product, split_pixel_size
from embedcube.windows import utc

_LINES = (".ndjson", ".jsonl", ".geojsonl")
"""Suffixes of files with one Item on each line"""

_PREVIEWS = {"thumbnail", "overview", "visual"}
"""Roles and keys of assets that are pictures for people, whatever bands they name"""

log = logging.getLogger(__name__)


def catalogue_products(path: Path, names: Names) -> Iterator[Product]:
    """A product for every Item of a Catalog, Collection, Item or ItemCollection (also with one Item on each line).

    The links of catalogues are followed in order. An unusable Item with an id and a time becomes a product with a
    fault; without them it is left out with a warning, and so is a link to a missing file.

    Raises:
        RequestError: the file is not STAC.
        OSError: a file could not be read for a reason that may pass.
    """
    if path.suffix in _LINES:
        documents: Iterator[tuple[Path, Any]] = ((path, line) for line in path.read_bytes().splitlines() if line)
    else:
        documents = _linked(path, {path})
    for place, document in documents:
        item = _parsed(place, document) if isinstance(document, bytes) else document
        if item is not None and (product := _product(place, item, names)) is not None:
            yield product


def item_products(paths: Sequence[Path], names: Names) -> list[Product]:
    """The products of Item files; other files are ignored.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    documents = ((path, _parsed(path, path.read_bytes())) for path in paths)
    items = ((p, d) for p, d in documents if isinstance(d, dict) and d.get("type") == "Feature" and "assets" in d)
    products = (_product(path, item, names) for path, item in items)
    return [product for product in products if product is not None]


def found_products(items: Iterable[Any], folder: Path, names: Names) -> Iterator[Product]:
    """A product for every Item in the result of a search; relative links begin at `folder`."""
    for item in items:
        if (product := _product(folder / "search.json", item, names)) is not None:
            yield product


def _linked(root: Path, seen: set[Path]) -> Iterator[tuple[Path, Any]]:
    """Every Item in a file or linked from it, with the file that holds it."""
    document = _parsed(root, root.read_bytes())
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "Feature":
        yield root, document
    elif kind == "FeatureCollection":
        yield from ((root, feature) for feature in document.get("features") or ())
    elif kind in ("Catalog", "Collection"):
        for link in document.get("links") or ():
            if isinstance(link, dict) and link.get("rel") in ("item", "child"):
                yield from _followed(root, str(link.get("href", "")), seen)
    elif len(seen) == 1:
        raise RequestError(f"{root} is not a STAC catalogue: its type is {kind!r}")
    elif document is not None:
        log.warning("%s is neither a STAC catalogue nor an Item and is left out: its type is %r", root, kind)


def _followed(root: Path, href: str, seen: set[Path]) -> Iterator[tuple[Path, Any]]:
    place = _local(str(root.parent), href)
    if place is None or not (path := Path(place)).is_file():
        log.warning("%s: there is no file at the link %s, which is left out", root, href)
    elif path not in seen:
        seen.add(path)
        yield from _linked(path, seen)


def _parsed(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        log.warning("%s is not JSON and is left out: %s", path, error)
        return None


def _product(path: Path, item: Any, names: Names) -> Product | None:
    wrong = (KeyError, TypeError, AttributeError, ValueError)
    try:
        properties = item["properties"]
        moment = str(properties.get("datetime") or properties.get("start_datetime") or "")
        basics = {"id": str(item["id"]), "time": utc(datetime.fromisoformat(moment)), "properties": properties}
    except wrong as error:
        log.warning("%s is not a usable STAC item and is left out: %s: %s", path, type(error).__name__, error)
        return None
    try:
        offered = _offered(path, item)
        found = {band: _file(offered, known) for band, known in names.items()}
        files = {band: file for band, file in found.items() if isinstance(file, File)}
        missing = {band: reason for band, reason in found.items() if isinstance(reason, str)}
        return Product(files=files, missing=missing, bbox=_bbox(item), **basics)
    except wrong as error:
        return Product(files={}, fault=f"{path.name} is not a STAC item: {type(error).__name__}: {error}", **basics)


@dataclass(frozen=True, kw_only=True)
class _Offered:
    """A file that an Item names, and the names by which a band may find it."""

    href: str
    path: str | None
    """None if it is not on this machine"""
    names: frozenset[str]
    described: tuple[frozenset[str], ...]
    """names of each of its bands, if the Item describes them"""
    pixel_m: int
    """0 if no name says it"""
    asset: dict[str, Any]


def _offered(item_path: Path, item: dict[str, Any]) -> list[_Offered]:
    """All files of an Item that are not previews."""
    offered, folder = [], str(item_path.parent)
    for key, asset in item["assets"].items():
        href = str(asset.get("href", ""))
        if not href or not _PREVIEWS.isdisjoint((key.lower(), *(asset.get("roles") or ()))):
            continue
        path = _local(folder, href)
        described = tuple(
            frozenset(str(band.get(name, "")).lower() for name in ("name", "eo:common_name", "common_name"))
            for band in asset.get("eo:bands") or asset.get("bands") or ()
        )
        stem = (path or href).rstrip("/").rpartition("/")[2].rsplit(".", 1)[0]
        (name, pixel_m), (stem, stem_m) = split_pixel_size(key), split_pixel_size(stem)
        names = frozenset((name, stem))
        offered.append(
            _Offered(href=href, path=path, names=names, described=described, pixel_m=pixel_m or stem_m, asset=asset)
        )
    return offered


def _file(offered: list[_Offered], known: frozenset[str]) -> File | str:
    """The file of a band, found by asset key, file name or band name; or the reason why there is none.

    A file with one band is preferred to one with several bands, and a finer one to a coarser one.
    """
    found: list[tuple[bool, int, int, File]] = []
    gone = remote = ""
    for order, offer in enumerate(offered):
        index = next((i for i, names in enumerate(offer.described, start=1) if known & names), 0)
        if not index and not (len(offer.described) <= 1 and known & offer.names):
            continue
        if offer.path is None:
            remote = remote or f"{offer.href} is not on this machine; stage it first"
        else:
            path = Path(offer.path)
            gone = gone or ("" if path.is_file() else f"{offer.href} does not exist")
            size, digest = offer.asset.get("file:size"), _digest(offer.asset)
            file = File(path=path, index=index or 1, size=size, digest=digest)
            found.append((len(offer.described) > 1, offer.pixel_m, order, file))
    if gone:
        return gone
    return min(found)[-1] if found else remote or "the item has no file of this band"


def _local(folder: str, href: str) -> str | None:
    """The local path of a link in a file of `folder`; None if it is not on this machine."""
    if href.startswith("file://"):
        href = unquote(urlsplit(href).path)
    if "://" in href or not href:
        return None
    return os.path.normpath(href if href.startswith("/") else f"{folder}/{href}")


def _digest(asset: dict[str, Any]) -> str:
    checksum = str(asset.get("file:checksum", ""))
    # multihash: sha2-256, 32 bytes
    return f"sha256:{checksum[4:].lower()}" if checksum.startswith("1220") else ""


def _bbox(item: dict[str, Any]) -> tuple[float, float, float, float] | None:
    numbers = [float(number) for number in item.get("bbox") or ()]
    if len(numbers) not in (4, 6):
        return None
    west, south, east, north = numbers if len(numbers) == 4 else (*numbers[:2], *numbers[3:5])
    return west, south, east, north
