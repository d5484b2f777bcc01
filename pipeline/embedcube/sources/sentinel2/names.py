"""Identify Sentinel-2 products: pass, level, tile and processing baseline, from the names in any catalogue's words."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from embedcube.sources.catalog.products import Product
from embedcube.sources.passes import Clues, satellite_letter
from embedcube.windows import utc

_NAMES = (
    "s2:datatake_id", "DATATAKE_IDENTIFIER", "eopf:datatake_id", "s2:product_uri", "PRODUCT_ID", "s2:product_title",
    "s2:datastrip_id", "DATASTRIP_ID", "eopf:datastrip_id", "datastripId", "s2:granule_id", "GRANULE_ID",
)  # fmt: skip
"""Properties that most often hold a name; all others are searched after them"""

_SMALL = re.compile(r"s2[a-d]_msil(?:1c|2a)_\d{8}t\d{6}_n\d{4}_r\d{3}_t\d\d[a-z]{3}_\d{8}t\d{6}")

_TILES = ("s2:mgrs_tile", "MGRS_TILE", "tileId", "s2:tile_id", "grid:code", "mgrs:tile")
_SQUARES = (
    ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square"),
    ("sentinel:utm_zone", "sentinel:latitude_band", "sentinel:grid_square"),
)
"""The same in three properties, in Earth Search of today and before"""

_BASELINES = re.compile(r"(?:^|:)(?:processing_?)?baseline$", re.IGNORECASE)
_VERSIONS = ("processing:version", "processorVersion")
_ORBITS = ("sat:absolute_orbit", "orbitNumber", "s2:absolute_orbit")
_LEVELS = ("processing:level", "product:type", "s2:product_type", "productType", "processingLevel")
_APPLIED = re.compile(r"(?:^|:)boa_offset_applied$", re.IGNORECASE)

_DATATAKE = re.compile(r"GS2([A-D])_(\d{8}T\d{6})_(\d{6})")
_PRODUCT = re.compile(
    r"S2([A-D])_(?:MSIL(?:1C|2A)_|[A-Z]{4}_PRD_MSIL(?:1C|2A)_\w{4}_\d{8}T\d{6}_R\d{3}_V)(\d{8}T\d{6})(?!\d)"
)
"""Satellite and beginning of the datatake, in today's naming and in the one before December 2016"""
_GRANULE = re.compile(r"S2([A-D])_[A-Z]{4}_[A-Z0-9]{3}_L(?:1C|2A)_T[LC]_\w{4}_\d{8}T\d{6}_A(\d{6})(?!\d)")
_NEW_GRANULE = re.compile(r"(?<![A-Z0-9])L(?:1C|2A)_T\d\d[A-Z]{3}_A(\d{6})_")
_IMAGE = re.compile(r"(?:^|[ /])T\d\d[A-Z]{3}_(\d{8}T\d{6})(?!\d)")
"""Name of an image in a product, with the beginning of the datatake"""
_SATELLITE = re.compile(r"(?<![a-z0-9])s(?:entinel|en)?[-_ ]?2([a-d])(?:[12][ac])?(?![a-z0-9])", re.IGNORECASE)
_LEVEL = re.compile(r"(?:L|S2MSI)(1C|2A)")
_STRIP = re.compile(r"_DS_\w+?_S(\d{8}T\d{6})")
_MGRS = r"((?:0[1-9]|[1-5]\d|60)[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])"
_TILE = re.compile(rf"(?:^|[_ /-])T?{_MGRS}(?=[_ ./-]|$)")
_PATCH = re.compile(r"_T\d\d[A-Z]{3}_(\d+_\d+)$")
_BASELINE = re.compile(r"_N(\d\d\.?\d\d)(?!\d)")
_NUMBER = re.compile(r"N?(\d{1,2})(?:\.(\d{1,2}))?|N?(\d{1,2})(\d\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The identity of a product, from its name and metadata."""

    clues: Clues
    """to its pass"""
    level: str
    """1C or 2A; empty if unknown"""
    tile: str
    """as 33TWL; empty if unknown"""
    patch: str
    """place in the tile of a product that is a part of it; empty for a whole tile"""
    strip: str
    """time at which the datastrip begins; empty if unknown"""
    baseline: float | None
    """processing baseline; None if unknown"""
    offset_applied: bool
    """whether the catalogue says that the offset of later baselines has been taken off its files"""


def identify(product: Product) -> Identity:
    """Identify a product."""
    properties = product.properties
    own = _in_capitals(" ".join(_own_names(product)))
    every = _in_capitals(" ".join((own, *product.names)))
    level = _first(_LEVEL, own) or _first(_LEVEL, " ".join(str(properties.get(key, "")) for key in _LEVELS))
    tile = _tile(properties) or _first(_TILE, own) or _first(_TILE, every)
    return Identity(
        clues=_clues(product, every, tile),
        level=level,
        tile=tile,
        patch=_first(_PATCH, product.id),
        strip=_first(_STRIP, own),
        baseline=_baseline(properties, own) or _baseline({}, _of_level(product.names, level)),
        offset_applied=any(_means(key) == "applied" and _is_true(value) for key, value in properties.items()),
    )


def _in_capitals(text: str) -> str:
    """The text with the names of products in capitals, as they are given; some archives keep them in small letters."""
    return _SMALL.sub(lambda found: found[0].upper(), text) if "_msil" in text else text


def _own_names(product: Product) -> Iterator[str]:
    """The texts of a product that may hold its names, the surest first."""
    properties = product.properties
    yield product.id
    yield from [str(properties[key]).removesuffix(".SAFE") for key in _NAMES if key in properties]
    for key, value in properties.items():
        # other texts, such as a title, in whatever words
        if key not in _NAMES and isinstance(value, str) and ("S2" in value or "_T" in value):
            yield value.removesuffix(".SAFE")
    for file in product.files.values():
        yield file.inner or f"{file.path.parent.name} {file.path.stem}"
        break  # the files of a product are named alike


def _clues(product: Product, text: str, tile: str) -> Clues:
    """What the names tell about the pass. A name of a datatake or product counts before the stamp of an image."""
    properties = product.properties
    datatake, named, granule = _DATATAKE.search(text), _PRODUCT.search(text), _GRANULE.search(text)
    letters = (found[1] for found in (datatake, named, granule) if found)
    satellite = (
        next(letters, "") or satellite_letter(_SATELLITE, properties, product.id) or _first(_SATELLITE, text).upper()
    )
    starts = (found[number] for found, number in ((datatake, 2), (named, 2), (_IMAGE.search(text), 1)) if found)
    orbits = [found[number] for found, number in ((datatake, 3), (granule, 2), (_NEW_GRANULE.search(text), 1)) if found]
    orbits += [str(properties[key]) for key in _ORBITS if properties.get(key)]
    return Clues(
        id=product.id,
        time=product.time,
        satellite=f"S2{satellite}" if satellite else "",
        start=next(filter(None, map(_moment, starts)), None),
        orbit=next((int(orbit) for orbit in orbits if orbit.isascii() and orbit.isdigit() and len(orbit) < 9), None),
        place=tile,
    )


def _moment(stamp: str) -> datetime | None:
    try:
        return utc(datetime.fromisoformat(stamp))
    except ValueError:
        return None


def _tile(properties: Mapping[str, Any]) -> str:
    """The tile that a catalogue states."""
    stated = [str(properties[key]) for key in _TILES if properties.get(key)]
    for zone, band, square in _SQUARES:
        if all(properties.get(key) for key in (zone, band, square)):
            stated.append(f"{str(properties[zone]).zfill(2)}{properties[band]}{properties[square]}")
    return next((tile for text in stated if (tile := _first(_TILE, text))), "")


def _of_level(names: tuple[str, ...], level: str) -> str:
    """The names of the product itself: of the same level, as a link may lead to what it was made from."""
    return " ".join(name for name in names if _first(_LEVEL, name) in ("", level))


@lru_cache(maxsize=4096)
def _means(key: str) -> str:
    """Whether a property states the processing baseline, or that the offset was applied; in any catalogue's words."""
    return "baseline" if _BASELINES.search(key) else "applied" if _APPLIED.search(key) else ""


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes")


def _baseline(properties: Mapping[str, Any], text: str) -> float | None:
    """The processing baseline. Catalogues write "04.00", 4.0 or "N0400"; N9999 (by a user) counts as unknown."""
    stated = [value for key, value in properties.items() if _means(key) == "baseline"]
    stated += [properties.get(key) for key in _VERSIONS]
    for one in (*stated, *_BASELINE.findall(text)):
        match = _NUMBER.fullmatch(str(one).strip())
        if match:
            major, minor = (match[1], match[2]) if match[1] else (match[3], match[4])
            # "2.1" and the number 2.1 are 02.10
            baseline = int(major) + int((minor or "0").ljust(2, "0")) / 100
            if baseline < 99:
                return baseline
    return None


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
