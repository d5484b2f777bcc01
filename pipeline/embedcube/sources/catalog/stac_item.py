"""One STAC Item: its time, the files of its bands, and what is wrong with it. Whatever it holds, it is one product."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from embedcube.campaign.boxes import Box
from embedcube.campaign.scene import ALWAYS, unforeseen
from embedcube.printable import printable
from embedcube.sources.catalog.dates import last_moment, time_in
from embedcube.sources.catalog.json_text import kind_of
from embedcube.sources.catalog.links import Around, Links
from embedcube.sources.catalog.offered import Described, Offered, file_of
from embedcube.sources.catalog.products import (
    File,
    ItemPlace,
    Names,
    Product,
    Stated,
    bounded,
    product_id,
    split_pixel_size,
    unusable,
)
from embedcube.sources.catalog.projection import stated_raster
from embedcube.sources.catalog.sensing import names_of_item
from embedcube.windows import moment

_PREVIEWS = {"thumbnail", "overview", "visual"}
"""Roles and keys of assets that are pictures for people, whatever bands they name"""

_DAY = timedelta(days=1)

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


def item_product(
    path: Path, name: Callable[[], str], item: Any, names: Names, links: Links, *, of_search: bool = False
) -> Product:
    """The product of an Item that the file at `path` holds; `name` gives what it is called if it has no id.

    `links` says where links to other machines lead here; `of_search` is whether the file is a saved search.

    A file that is missing for a band, or anything that is wrong in the Item, is in `missing` or `fault`.

    Raises:
        OSError: it could not be found out whether a file is there, for a reason that may pass.
    """
    product = _judged(path, name, item, names, links)
    if product.item is not None and not of_search:
        return product  # as nearly all are
    place = product.item or ItemPlace(path=str(path))
    return replace(product, item=replace(place, of_search=of_search))


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
    time, end = _times(properties)
    id = product_id(_id(item) or name())
    basics: dict[str, Any] = {"id": id, "time": time, "end": end, "properties": bounded(properties)}
    basics["names"] = names_of_item(item, item.get("assets"))
    try:
        if not _id(item):
            raise ValueError(f"its id is {kind_of(item.get('id')) if item.get('id') != '' else 'empty'}")
        around = Around(str(path.parent), _id(item), links)
        offered = _offered(around, _object(item.get("assets"), "its assets"))
    except ValueError as error:
        return Product(
            files={}, fault=f"{printable(path.name)} is not a STAC Item: {error}", bbox=_bbox(item), **basics
        )
    found = {band: file_of(offered, known) for band, known in names.items()}
    files = {band: file for band, file in found.items() if isinstance(file, File)}
    missing = {band: reason for band, reason in found.items() if isinstance(reason, str)}
    raster = stated_raster(properties, item["assets"])
    beside = frozenset(around.beside)
    place = ItemPlace(path=str(path), beside=beside, asked=around.asked, raster=raster)
    return Product(files=files, missing=missing, item=place, bbox=_bbox(item), **basics)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {kind_of(value)}, not an object")
    return value


def _id(item: Any) -> str:
    """The id of an Item, empty if it has none; a number is taken as a text."""
    found = item.get("id") if isinstance(item, dict) else None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _times(properties: dict[str, Any]) -> tuple[datetime, datetime | None]:
    """The time of an Item; and its last moment, if it lasts: it has no moment, or its interval is longer than a day."""
    stated, start, end = (properties.get(key) for key in ("datetime", "start_datetime", "end_datetime"))
    if stated:
        time = _time(stated)
        try:
            first, last = _time(start), _time(end)
        except ValueError:
            return time, None
        return (first, last_moment(first, last)) if last - first > _DAY else (time, None)
    first = _time(start)
    if not end:
        return first, None
    if (last := _time(end)) < first:
        raise ValueError(f"it ends at {printable(end, 60)}, before it begins")
    return first, last_moment(first, last)


def _time(stated: Any) -> datetime:
    if not isinstance(stated, str):
        raise ValueError("it has no datetime")
    try:
        time = moment(stated)
    except (ValueError, OverflowError):
        raise ValueError(f'its datetime "{printable(stated, 60)}" is not a time') from None
    if not ALWAYS[0] < time < ALWAYS[1]:
        raise ValueError(f"its datetime {stated} is not within the years 1678 to 2261")
    return time


def _offered(around: Around, assets: dict[str, Any]) -> list[Offered]:
    """All files of an Item that are not previews."""
    offered = []
    for key, asset in assets.items():
        try:
            found = _asset(around, key, asset)
        except ValueError as error:
            name, _ = split_pixel_size(key[:_NAME])
            wrong = f"its asset {printable(key, 60)}: {error}"
            found = Offered(href="", path=None, names=frozenset((name,)), wrong=wrong)
        if found is not None:
            offered.append(found)
    return offered


def _asset(around: Around, key: str, asset: Any) -> Offered | None:
    """What an asset offers; None for a preview and for an asset without a file."""
    href = _object(asset, "it").get("href")
    roles = asset.get("roles")
    if not href or key.lower() in _PREVIEWS or (isinstance(roles, list) and any(r in roles for r in _PREVIEWS)):
        return None
    if not isinstance(href, str):
        raise ValueError(f"its href is {kind_of(href)}")
    path, shown = around.find([href, *_alternates(asset)])
    bands = _bands(asset, "eo:bands") or _bands(asset, "bands")
    numbers = _bands(asset, "raster:bands") or bands
    first = _object(numbers[0], "one of its bands") if numbers else {}
    alone = () if bands else tuple(_stated(asset, _object(number, "one of its bands")) for number in numbers)
    if len(numbers) != len(bands):
        numbers = [{}] * len(bands)
    stem = (path or href).rstrip("/").rpartition("/")[2].rsplit(".", 1)[0]
    (name, pixel_m), (stem, stem_m) = split_pixel_size(key), split_pixel_size(stem)
    return Offered(
        href=shown,
        path=path,
        names=frozenset((name, stem)),
        described=tuple(_described(asset, band, number) for band, number in zip(bands, numbers, strict=True)),
        numbers=alone,
        stated=_stated(asset, first),
        pixel_m=pixel_m or stem_m,
        size=_size(asset),
        digest=_digest(asset),
    )


def _alternates(asset: dict[str, Any]) -> list[str]:
    """Other links to the file of an asset (STAC's extension "alternate assets")."""
    others = asset.get("alternate")
    listed = others.values() if isinstance(others, dict) else ()
    return [href for one in listed if isinstance(one, dict) and isinstance(href := one.get("href"), str) and href]


def _bands(asset: dict[str, Any], key: str) -> list[Any]:
    """The list of bands that an asset has under a key; empty where it has none."""
    bands = asset.get(key) or []
    if not isinstance(bands, list) or len(bands) > _BANDS:
        raise ValueError(f"its bands are {kind_of(bands)}, not a list of at most {_BANDS}")
    return bands


def _described(asset: dict[str, Any], band: Any, numbers: Any) -> Described:
    named, numbers = _object(band, "one of its bands"), _object(numbers, "one of its bands")
    common = named.get("eo:common_name", named.get("common_name", ""))
    return Described(
        name=str(named.get("name", "")).lower(), common_name=str(common).lower(), stated=_stated(asset, numbers)
    )


def _stated(asset: dict[str, Any], band: dict[str, Any]) -> Stated:
    """The numbers that an Item states of a band: in `raster:bands`; since STAC 1.1 in `bands` or the asset itself."""

    def number(*keys: str) -> float | None:
        found = next((one[key] for one in (band, asset) for key in keys if one.get(key) is not None), None)
        if found is None:
            return None
        try:
            # a text: "nan", "inf"
            return float(found)
        except (TypeError, ValueError):
            raise ValueError(f"its {keys[-1]} is {printable(repr(found), 40)}, not a number") from None

    return Stated(
        nodata=number("raster:nodata", "nodata"),
        scale=number("raster:scale", "scale"),
        add=number("raster:offset", "offset"),
    )


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
