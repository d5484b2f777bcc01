"""One STAC Item: its time, the files of its bands, and what is wrong with it. Whatever it holds, it is one product."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from embedcube.campaign.boxes import Box
from embedcube.campaign.scene import UNKNOWN_TIME, unforeseen
from embedcube.printable import listed, printable, printable_href
from embedcube.sources.catalog.dates import last_moment, time_in
from embedcube.sources.catalog.files import not_a_file
from embedcube.sources.catalog.folders import is_image
from embedcube.sources.catalog.json_text import kind_of
from embedcube.sources.catalog.links import Around, Links, not_here
from embedcube.sources.catalog.products import (
    NOTHING,
    File,
    ItemPlace,
    Names,
    Product,
    Stated,
    bounded,
    is_alias,
    product_id,
    split_pixel_size,
    unusable,
)
from embedcube.sources.catalog.projection import stated_raster
from embedcube.sources.catalog.sensing import names_of_item
from embedcube.windows import utc

_PREVIEWS = {"thumbnail", "overview", "visual"}
"""Roles and keys of assets that are pictures for people, whatever bands they name"""

_LAST = datetime(2262, 1, 1, tzinfo=UNKNOWN_TIME.tzinfo)
"""First moment that does not fit in nanoseconds"""

_DAY = timedelta(days=1)

_NAME = 1000
"""most characters of a name in which a date or a pixel size is looked for"""

_SHOWN_NAME = 30
"""characters of the name of a file in a message"""

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
    place = product.item or ItemPlace(folder=str(path.parent))
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
    found = {band: _file(offered, known) for band, known in names.items()}
    files = {band: file for band, file in found.items() if isinstance(file, File)}
    missing = {band: reason for band, reason in found.items() if isinstance(reason, str)}
    raster = stated_raster(properties, item["assets"])
    place = ItemPlace(folder=str(path.parent), beside=frozenset(around.beside), raster=raster)
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
    moment, start, end = (properties.get(key) for key in ("datetime", "start_datetime", "end_datetime"))
    if moment:
        time = _time(moment)
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
        time = utc(datetime.fromisoformat(stated))
    except (ValueError, OverflowError):
        raise ValueError(f'its datetime "{printable(stated, 60)}" is not a time') from None
    if not UNKNOWN_TIME < time < _LAST:
        raise ValueError(f"its datetime {stated} is not within the years 1678 to 2261")
    return time


@dataclass(frozen=True, kw_only=True, slots=True)
class _Described:
    """A band of a file, as the Item describes it."""

    name: str
    common_name: str
    stated: Stated


@dataclass(frozen=True, kw_only=True, slots=True)
class _Offered:
    """A file that an Item names, and the names by which a band may find it."""

    href: str
    path: str | None
    """None if it is not on this machine"""
    names: frozenset[str]
    described: tuple["_Described", ...] = ()
    """each of its bands, if the Item describes them"""
    numbers: tuple[Stated, ...] = ()
    """what the Item states of each of its bands, if their number is stated alone"""
    stated: Stated = NOTHING
    """of its first band, where the bands have no names"""
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
    bands = _bands(asset, "eo:bands") or _bands(asset, "bands")
    numbers = _bands(asset, "raster:bands") or bands
    first = _object(numbers[0], "one of its bands") if numbers else {}
    alone = () if bands else tuple(_stated(asset, _object(number, "one of its bands")) for number in numbers)
    if len(numbers) != len(bands):
        numbers = [{}] * len(bands)
    stem = (path or href).rstrip("/").rpartition("/")[2].rsplit(".", 1)[0]
    (name, pixel_m), (stem, stem_m) = split_pixel_size(key), split_pixel_size(stem)
    return _Offered(
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


def _described(asset: dict[str, Any], band: Any, numbers: Any) -> _Described:
    named, numbers = _object(band, "one of its bands"), _object(numbers, "one of its bands")
    common = named.get("eo:common_name", named.get("common_name", ""))
    return _Described(
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

    return Stated(nodata=number("nodata"), scale=number("raster:scale", "scale"), add=number("raster:offset", "offset"))


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


def _file(offered: Sequence[_Offered], known: frozenset[str]) -> File | str:
    """The file of a band, found by asset key, file name, band name or number; or the reason why there is none.

    A name of the band's own is preferred to one that other bands may have too, a file with one band to one with several
    bands, and a finer one to a coarser one. Nothing decides between two files of which only the common name fits.
    """
    found: list[tuple[tuple[int, bool, int], int, File]] = []
    gone: list[tuple[int, str]] = []
    remote: list[tuple[int, str]] = []
    matches = [(offer, match) for offer in offered if (match := _match(offer, known)) is not None]
    if not matches and (number := next((int(name) for name in known if name.isdecimal()), 0)):
        images = [offer for offer in offered if not offer.href or is_image(offer.path or offer.href.partition("?")[0])]
        if len(images) > 1:
            named = listed([printable(min(offer.names, key=len), _SHOWN_NAME) for offer in images], 3)
            return (
                f"{number} is the number of a band in a file, and the item has {len(images)} files ({named}): "
                "options.variables takes the name of one of them, or of a band"
            )
        matches = [(offer, (_OWN, number)) for offer in images]
    for order, (offer, (rank, index)) in enumerate(matches):
        if offer.wrong:
            gone.append((rank, offer.wrong))
        elif offer.path is None:
            remote.append((rank, not_here(offer.href)))
        else:
            if words := not_a_file(Path(offer.path)):
                gone.append((rank, f"{printable_href(offer.href)} {words}"))
            here = File(
                path=Path(offer.path),
                index=index,
                size=offer.size,
                digest=offer.digest,
                stated=_stated_of(offer, index),
            )
            found.append(((rank, len(offer.described) > 1, offer.pixel_m), order, here))
    best: tuple[int, bool, int] = _COMMON, False, 0
    file: File | None = None
    if found:
        best, _, file = min(found, key=lambda one: one[:2])
    if lost := [words for rank, words in gone if rank <= best[0]]:
        return lost[0]
    if elsewhere := [words for rank, words in remote if file is None or rank < best[0] == _COMMON]:
        return elsewhere[0]
    if file is None:
        return "the item has no file of this band"
    rivals = [other.path.name for rank, _, other in found if rank == best and other.path != file.path]
    if best[0] == _COMMON and rivals:
        names = printable(f"{file.path.name} and {rivals[0]}", 100)
        return f"{names} have the same common name; options.variables says which is this band, by its own name"
    return file


def _stated_of(offer: _Offered, index: int) -> Stated:
    """What the Item states of one of a file's bands."""
    if index <= len(offer.described):
        return offer.described[index - 1].stated
    return offer.numbers[index - 1] if index <= len(offer.numbers) else offer.stated


_OWN, _ALIAS, _BAND_ALIAS, _COMMON = range(4)
"""How exact a match is: a name of the band's own; else a common one as key of the asset or name of its file; as name of
a band in it; or as no more than the common name of a band"""


def _match(offer: _Offered, known: frozenset[str]) -> tuple[int, int] | None:
    """How exactly a name of a file fits, and the number of the band in the file; None if no name does."""
    found = []
    if len(offer.described) <= 1:
        found += [(_ALIAS if is_alias(known, name) else _OWN, 1) for name in offer.names & known]
    for index, band in enumerate(offer.described, start=1):
        for name, rank in ((band.name, _BAND_ALIAS), (band.common_name, _COMMON)):
            if name in known:
                found.append((rank if is_alias(known, name) else _OWN, index))
    return min(found, default=None)


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
