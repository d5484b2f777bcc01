"""One STAC Item: its time, the files of its bands, and what is wrong with it. Whatever it holds, it is one product."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from embedcube.campaign.boxes import Box
from embedcube.campaign.scene import UNKNOWN_TIME, unforeseen
from embedcube.printable import printable, printable_href
from embedcube.sources.catalog.files import not_a_file
from embedcube.sources.catalog.json_text import kind_of
from embedcube.sources.catalog.links import Around, Links, not_here
from embedcube.sources.catalog.products import (
    File,
    Names,
    Product,
    bounded,
    product_id,
    split_pixel_size,
    time_in,
    unusable,
)
from embedcube.windows import utc

_PREVIEWS = {"thumbnail", "overview", "visual"}
"""Roles and keys of assets that are pictures for people, whatever bands they name"""

_LAST = datetime(2262, 1, 1, tzinfo=UNKNOWN_TIME.tzinfo)
"""First moment that does not fit in nanoseconds"""

_NAME = 1000
"""most characters of a name in which a date or a pixel size is looked for"""

_BANDS = 10_000
"""most bands of one asset"""

_SHA256 = re.compile(r"1220[0-9a-f]{64}")
"""A multihash: sha2-256, 32 bytes"""

_MULTIHASH = re.compile(r"(?:[0-9a-f]{2})+")


def is_item(document: Any) -> bool:
    """Whether a JSON value is meant as an Item; GeoJSON alone is none."""
    return (
        isinstance(document, dict)
        and document.get("type") == "Feature"
        and not document.keys().isdisjoint(("assets", "stac_version"))
    )


def item_product(path: Path, name: Callable[[], str], item: Any, names: Names, links: Links) -> Product:
    """The product of an Item that the file at `path` holds; `name` gives what it is called if it has no id.

    `links` says where links to other machines lead here.

    A file that is missing for a band, or anything that is wrong in the Item, is in `missing` or `fault`.

    Raises:
        OSError: it could not be found out whether a file is there, for a reason that may pass.
    """
    return replace(_judged(path, name, item, names, links), folder=str(path.parent))


def _judged(path: Path, name: Callable[[], str], item: Any, names: Names, links: Links) -> Product:
    try:
        return _product(path, name, item, names, links)
    except ValueError as error:
        fault = f"{printable(path.name)} is not a usable STAC Item: {error}"
        return unusable(_id(item) or name(), fault, _dated(name()))
    except OSError:
        raise
    except Exception as error:
        return unusable(name(), f"{printable(path.name)}: {unforeseen(error)}", _dated(name()))


def _dated(name: str) -> datetime | None:
    return time_in(name[-_NAME:])


def _product(path: Path, name: Callable[[], str], item: Any, names: Names, links: Links) -> Product:
    properties = _object(_object(item, "the Item").get("properties"), "its properties")
    time = _time(properties)
    basics: dict[str, Any] = {"id": product_id(_id(item) or name()), "time": time, "properties": bounded(properties)}
    try:
        if not _id(item):
            raise ValueError(f"its id is {kind_of(item.get('id')) if item.get('id') != '' else 'empty'}")
        around = Around(str(path.parent), _id(item), links)
        offered = _offered(around, _object(item.get("assets"), "its assets"))
    except ValueError as error:
        return Product(
            files={}, fault=f"{printable(path.name)} is not a STAC Item: {error}", bbox=_bbox(item), **basics
        )
    found = {band: _file(offered, known) for band, known in names.items()}
    files = {band: file for band, file in found.items() if isinstance(file, File)}
    missing = {band: reason for band, reason in found.items() if isinstance(reason, str)}
    return Product(files=files, missing=missing, beside=frozenset(around.beside), bbox=_bbox(item), **basics)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {kind_of(value)}, not an object")
    return value


def _id(item: Any) -> str:
    """The id of an Item, empty if it has none; a number is taken as a text."""
    found = item.get("id") if isinstance(item, dict) else None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _time(properties: dict[str, Any]) -> datetime:
    stated = properties.get("datetime") or properties.get("start_datetime")
    if not isinstance(stated, str):
        raise ValueError("it has no datetime")
    try:
        time = utc(datetime.fromisoformat(stated))
    except (ValueError, OverflowError):
        raise ValueError(f'its datetime "{printable(stated, 60)}" is not a time') from None
    if not UNKNOWN_TIME < time < _LAST:
        raise ValueError(f"its datetime {stated} is not within the years 1678 to 2261")
    return time


@dataclass(frozen=True, kw_only=True, slots=True)
class _Offered:
    """A file that an Item names, and the names by which a band may find it."""

    href: str
    path: str | None
    """None if it is not on this machine"""
    names: frozenset[str]
    described: tuple[frozenset[str], ...] = ()
    """names of each of its bands, if the Item describes them"""
    pixel_m: int = 0
    """0 if no name says it"""
    size: int | None = None
    digest: str = ""
    wrong: str = ""
    """why it cannot be used"""


def _offered(around: Around, assets: dict[str, Any]) -> list[_Offered]:
    """All files of an Item that are not previews."""
    offered = []
    for key, asset in assets.items():
        try:
            found = _asset(around, key, asset)
        except ValueError as error:
            name, _ = split_pixel_size(key[:_NAME])
            wrong = f"its asset {printable(key, 60)}: {error}"
            found = _Offered(href="", path=None, names=frozenset((name,)), wrong=wrong)
        if found is not None:
            offered.append(found)
    return offered


def _asset(around: Around, key: str, asset: Any) -> _Offered | None:
    """What an asset offers; None for a preview and for an asset without a file."""
    href = _object(asset, "it").get("href")
    roles = asset.get("roles")
    if not href or key.lower() in _PREVIEWS or (isinstance(roles, list) and any(r in roles for r in _PREVIEWS)):
        return None
    if not isinstance(href, str):
        raise ValueError(f"its href is {kind_of(href)}")
    path, shown = around.find([href, *_alternates(asset)])
    bands = asset.get("eo:bands") or asset.get("bands") or ()
    if not isinstance(bands, list | tuple) or len(bands) > _BANDS:
        raise ValueError(f"its bands are {kind_of(bands)}, not a list of at most {_BANDS}")
    stem = (path or href).rstrip("/").rpartition("/")[2].rsplit(".", 1)[0]
    (name, pixel_m), (stem, stem_m) = split_pixel_size(key), split_pixel_size(stem)
    return _Offered(
        href=shown,
        path=path,
        names=frozenset((name, stem)),
        described=tuple(map(_band_names, bands)),
        pixel_m=pixel_m or stem_m,
        size=_size(asset),
        digest=_digest(asset),
    )


def _alternates(asset: dict[str, Any]) -> list[str]:
    """Other links to the file of an asset (STAC's extension "alternate assets")."""
    others = asset.get("alternate")
    listed = others.values() if isinstance(others, dict) else ()
    return [href for one in listed if isinstance(one, dict) and isinstance(href := one.get("href"), str) and href]


def _band_names(band: Any) -> frozenset[str]:
    stated = _object(band, "one of its bands")
    return frozenset(str(stated.get(name, "")).lower() for name in ("name", "eo:common_name", "common_name"))


def _size(asset: dict[str, Any]) -> int | None:
    """The size that an asset states (bytes); None if it states none."""
    size = asset.get("file:size")
    if isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 20:
        size = int(size)
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise ValueError(f"its file:size is {kind_of(size)}, not a number of bytes")
    return size


def _digest(asset: dict[str, Any]) -> str:
    """The SHA-256 that an asset states; empty if it states none, or a checksum of another kind."""
    checksum = asset.get("file:checksum")
    if checksum is None:
        return ""
    text = checksum.lower() if isinstance(checksum, str) else ""
    if not _MULTIHASH.fullmatch(text) or (text.startswith("1220") and not _SHA256.fullmatch(text)):
        raise ValueError(f'its file:checksum "{printable(checksum, 80)}" is not a multihash')
    return f"sha256:{text[4:]}" if text.startswith("1220") else ""


def _file(offered: Iterable[_Offered], known: frozenset[str]) -> File | str:
    """The file of a band, found by asset key, file name or band name; or the reason why there is none.

    A file with one band is preferred to one with several bands, and a finer one to a coarser one.
    """
    found: list[tuple[bool, int, int, File]] = []
    gone = remote = ""
    for order, offer in enumerate(offered):
        index = next((i for i, names in enumerate(offer.described, start=1) if known & names), 0)
        if not index and not (len(offer.described) <= 1 and known & offer.names):
            continue
        if offer.wrong:
            gone = gone or offer.wrong
        elif offer.path is None:
            remote = remote or not_here(offer.href)
        else:
            path = Path(offer.path)
            if not gone and (words := not_a_file(path)):
                gone = f"{printable_href(offer.href)} {words}"
            file = File(path=path, index=index or 1, size=offer.size, digest=offer.digest)
            found.append((len(offer.described) > 1, offer.pixel_m, order, file))
    if gone:
        return gone
    return min(found)[-1] if found else remote or "the item has no file of this band"


def _bbox(item: dict[str, Any]) -> Box | None:
    """The box that an Item states; None if it is none on the Earth."""
    stated = item.get("bbox")
    if not isinstance(stated, list) or len(stated) not in (4, 6):
        return None
    west, south, east, north = stated if len(stated) == 4 else (*stated[:2], *stated[3:5])
    numbers = all(isinstance(number, int | float) for number in (west, south, east, north))
    if not (numbers and -90.1 <= south <= north <= 90.1 and abs(west) <= 360 and abs(east) <= 360):
        return None
    return float(west), float(south), float(east), float(north)
