"""Products: what an archive of raster files holds, however it is laid out."""

import hashlib
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from embedcube.campaign.boxes import Box
from embedcube.campaign.scene import UNKNOWN_TIME
from embedcube.printable import printable

ID_CHARACTERS = 200
"""most characters of an id"""

PACKED = (".SAFE", ".zip", ".nc", ".nc4")
"""Suffixes of folders and files that may hold a whole product"""

_PROPERTY = 1000
"""most characters of a property"""

_PARTS = 100
"""most elements of a property that is a list or an object"""

_SIZED = re.compile(r"(.+)_(10|20|60)m")


class Known(frozenset[str]):
    """All names of a band in files and catalogues (lower case); `aliases` are those that another band may have too."""

    aliases: frozenset[str] = frozenset()

    @classmethod
    def of(cls, exact: Iterable[str], aliases: Iterable[str]) -> "Known":
        """The names of a band: those that are its own, and those that may be another's too."""
        own = frozenset(name.lower() for name in exact)
        known = cls(own | {name.lower() for name in aliases})
        known.aliases = known - own
        return known


Names = Mapping[str, frozenset[str]]
"""For each band to be read, all names (lower case) that files or catalogues may use for it: `Known`, if not all of them
are its own"""


def is_alias(known: frozenset[str], name: str) -> bool:
    """Whether a name of a band is one that another band may have too: it counts only where no name of its own is."""
    return isinstance(known, Known) and name in known.aliases


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a catalogue says of the numbers of one band."""

    nodata: float | None = None
    """number that means no data"""
    scale: float | None = None
    """a value is DN * scale + add"""
    add: float | None = None


NOTHING = Stated()
"""What a catalogue says that says nothing"""


@dataclass(frozen=True, kw_only=True)
class File:
    """The file of one band of a product."""

    path: Path
    inner: str = ""
    """member of a zip archive, or variable of a NetCDF file"""
    index: int = 1
    """number of the band in the raster, from 1"""
    most: int | None = None
    """bands that the raster may have, where the number of the band is only its place among those that are named"""
    size: int | None = None
    """bytes of the file or member, as the catalogue states"""
    digest: str = ""
    """"<algorithm>:<hex>", as the catalogue states; empty if it does not"""
    stated: Stated = NOTHING


@dataclass(frozen=True, kw_only=True)
class StatedRaster:
    """Where a catalogue says that the pixels of a file lie (STAC's extension "projection")."""

    crs: str
    transform: tuple[float, ...]
    """the six numbers of an affine transform"""
    rows: int
    cols: int

    @property
    def bounds(self) -> Box:
        """West, south, east, north in `crs`."""
        dx, _, left, _, dy, top = self.transform
        return left, top + dy * self.rows, left + dx * self.cols, top


@dataclass(frozen=True, kw_only=True)
class ItemPlace:
    """Where a STAC Item was found."""

    path: str
    """of its file"""
    of_search: bool = False
    """whether it is one of a saved search"""
    beside: frozenset[str] = frozenset()
    """paths of files that were taken for those of links to other machines, as they lie beside the Item"""
    asked: bool = True
    """whether its product depends on which files are there, beyond those of the product"""
    raster: StatedRaster | None = None
    """where it says that the pixels of one of its files lie"""

    @property
    def folder(self) -> str:
        """The folder of its file."""
        return os.path.split(self.path)[0] or "."


@dataclass(frozen=True, kw_only=True)
class Product:
    """One acquisition of one tile, as a catalogue, a manifest or a folder describes it."""

    id: str
    time: datetime
    """UTC"""
    end: datetime | None = None
    """last moment of a product that lasts, such as the map of a year; None for a moment"""
    files: dict[str, File]
    """by band, for the bands that the product has"""
    missing: dict[str, str] = field(default_factory=dict)
    """by band, why the other bands have no file"""
    fault: str = ""
    """why the whole product cannot be used"""
    properties: dict[str, Any]
    """metadata, under the names of STAC and its extensions"""
    names: tuple[str, ...] = ()
    """names of products and granules elsewhere in a catalogue: titles, links, files"""
    bbox: tuple[float, float, float, float] | None = None
    """west, south, east, north as the catalogue states; only used where no file can be opened"""
    item: ItemPlace | None = None
    """the STAC Item that describes it; None if none does"""
    known: Any = None
    """what the source takes from its names and properties, if it takes it early; see `Told.known`"""
    radar_safe: Path | None = None
    """SAFE folder of a Sentinel-1 GRD product, whose pixels are in radar geometry"""


def bounded(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties without long texts and deep structures, of which the beginning is kept as a text."""
    return {key: value if _is_small(value) else _shortened(value) for key, value in properties.items()}


def _is_small(value: Any) -> bool:
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return len(value) <= _PARTS and all(not isinstance(part, dict | list) and _is_small(part) for part in parts)
    return not isinstance(value, str) or len(value) <= _PROPERTY


def _shortened(value: Any) -> str:
    return value[:_PROPERTY] if isinstance(value, str) else reprlib.repr(value)


def unusable(id: str, fault: str, time: datetime | None = None) -> Product:
    """A product of which no more is known than why it cannot be used, and perhaps its time."""
    return Product(id=product_id(id), time=time or UNKNOWN_TIME, files={}, fault=fault, properties={})


def product_id(text: str) -> str:
    """An id as it may be printed and stored; other texts give other ids also where that changes them."""
    shown = printable(text, ID_CHARACTERS)
    if shown == text:
        return text
    return f"{shown} {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def by_time(products: Iterable[Product]) -> list[Product]:
    """Products ordered by time and id; a repeated id gets a number appended, first where a product cannot be used."""
    ordered = sorted(products, key=lambda p: (p.time, p.id))
    ids = set[str]()
    unique = list(ordered)
    for place in sorted(range(len(ordered)), key=lambda place: bool(ordered[place].fault or ordered[place].missing)):
        product = ordered[place]
        number, id = 1, product.id
        while id in ids:
            number += 1
            id = f"{product.id}#{number}"
        ids.add(id)
        if id != product.id:
            unique[place] = replace(product, id=id)
    return unique


def split_pixel_size(name: str) -> tuple[str, int]:
    """A name in lower case without its pixel size, and that size (m) or 0: `T33TWL_B02_10m` -> `t33twl_b02`, 10."""
    match = _SIZED.fullmatch(name.lower())
    return (match[1], int(match[2])) if match else (name.lower(), 0)
