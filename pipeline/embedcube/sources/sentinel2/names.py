"""Identify Sentinel-2 products: acquisition, level, tile and processing baseline, from names and metadata."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedcube.sources.catalog.products import Product

_NAMES = ("s2:product_uri", "PRODUCT_ID", "s2:datastrip_id", "DATASTRIP_ID", "s2:datatake_id", "DATATAKE_IDENTIFIER")
_TILES = ("s2:mgrs_tile", "MGRS_TILE")
_BASELINES = ("s2:processing_baseline", "processing:version", "PROCESSING_BASELINE")
_LEVEL = re.compile(r"L(1C|2A)")
_STRIP = re.compile(r"_DS_\w+?_S(\d{8}T\d{6})")
_SATELLITE = re.compile(r"(S2[A-D])_MSIL(?:1C|2A)_(\d{8}T\d{6})_")
_TILE = re.compile(r"_T?(\d\d[A-Z]{3})(?=[_ ]|$)")
_PATCH = re.compile(r"_T\d\d[A-Z]{3}_(\d+_\d+)$")
_BASELINE = re.compile(r"_N(\d\d\.?\d\d)(?!\d)")
_NUMBER = re.compile(r"N?(\d{1,2})(?:\.(\d{1,2}))?|N?(\d{1,2})(\d\d)")
_OF_DATATAKE = re.compile(r"_N\d\d\.\d\d$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The identity of a product, from its name and metadata."""

    acquisition: str
    """the datatake, without its processing baseline; else satellite and time from the name; else the id"""
    level: str
    """1C or 2A; empty if unknown"""
    subject: tuple[str, ...]
    """datatake, level and tile: products with the same subject show the same, or parts of it"""
    strip: str
    """time at which the datastrip begins; empty if unknown"""
    baseline: float | None
    """processing baseline; None if unknown"""


def identify(product: Product) -> Identity:
    """Identify a product."""
    properties = product.properties
    tiles = (f"_T{properties.get(key)}" for key in _TILES)
    text = " ".join([product.id, *tiles, *(str(properties.get(key, "")).removesuffix(".SAFE") for key in _NAMES)])
    acquisition, level = _acquisition(product, text), _first(_LEVEL, text)
    tile = _first(_TILE, text)
    return Identity(
        acquisition=acquisition,
        level=level,
        # patches of one tile are different places
        subject=(acquisition, level, tile, _first(_PATCH, product.id)) if tile else (product.id,),
        strip=_first(_STRIP, text),
        baseline=_baseline(properties, text),
    )


def superseded(products: Sequence[Product], identities: Sequence[Identity]) -> dict[int, int]:
    """Positions of products that are not used, each with the position of the newer or equal one that replaces it.

    A tile of a datatake may lie in two products of one baseline, each with one datastrip of it: both are used. A
    product that does not name its datastrip may hold any.
    """
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, identity in enumerate(identities):
        alike[identity.subject].append(i)
    versions = [
        _Version(product.id, identity.strip, identity.baseline or 0.0, not (product.fault or product.missing))
        for product, identity in zip(products, identities, strict=True)
    ]
    result = {}
    for rivals in (rivals for places in alike.values() for rivals in _rivals(versions, places)):
        newest = _newest(versions, rivals)
        usable = _usable(versions, rivals)
        for i in rivals:
            same = versions[i].id == versions[newest].id
            if i != newest and (same or (i in usable and versions[i].baseline < versions[newest].baseline)):
                result[i] = newest
    return result


@dataclass(frozen=True, slots=True)
class _Version:
    id: str
    strip: str
    baseline: float
    """0 if unknown"""
    whole: bool
    """no band is missing"""


def _rivals(versions: Sequence[_Version], alike: list[int]) -> list[list[int]]:
    """Groups of products that may replace each other: one per datastrip; those without a datastrip with the newest."""
    if len(alike) == 1:
        return []
    newest = _newest(versions, alike)
    strips: dict[str, list[int]] = defaultdict(list)
    for place in alike:
        strips[versions[place].strip].append(place)
    nameless = strips.pop("", [])
    return [alike] if newest in nameless else [*strips.values(), [newest, *nameless]]


def _newest(versions: Sequence[_Version], places: list[int]) -> int:
    return max(_usable(versions, places), key=lambda i: (versions[i].baseline, -i))


def _usable(versions: Sequence[_Version], places: list[int]) -> list[int]:
    """The products that are whole; all of them if none is."""
    return [i for i in places if versions[i].whole] or places


def _acquisition(product: Product, text: str) -> str:
    datatake = product.properties.get("s2:datatake_id") or product.properties.get("DATATAKE_IDENTIFIER")
    if datatake:
        return _OF_DATATAKE.sub("", str(datatake))
    named = _SATELLITE.search(text)
    return f"{named[1]}_{named[2]}" if named else product.id


def _baseline(properties: Mapping[str, Any], text: str) -> float | None:
    """The processing baseline. Catalogues write "04.00", 4.0 or "N0400"; N9999 (by a user) counts as unknown."""
    for stated in (*(properties.get(key) for key in _BASELINES), *_BASELINE.findall(text)):
        match = _NUMBER.fullmatch(str(stated).strip())
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
