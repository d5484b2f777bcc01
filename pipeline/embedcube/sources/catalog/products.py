"""Products: what an archive of raster files holds, however it is laid out."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from embedcube.windows import utc

_SIZED = re.compile(r"(.+)_(10|20|60)m")

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
    """of the file or member, as the catalogue says"""
    digest: str = ""
    """"<algorithm>:<hex>", as the catalogue says"""


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
    fault: str = ""
    """why it cannot be used as a whole"""
    properties: dict[str, Any]
    """by the names of STAC and its extensions"""
    bbox: tuple[float, float, float, float] | None = None
    """west, south, east, north as described; only used where no file can be opened"""
    radar_safe: Path | None = None
    """the SAFE folder of a GRD of Sentinel-1, whose pixels are where the radar saw them"""


def by_time(products: Iterable[Product]) -> list[Product]:
    """In the order of time and id; of several with one id, all but the first have a number behind theirs."""
    ordered, ids = [], set[str]()
    for product in sorted(products, key=lambda p: (p.time, p.id)):
        number, unique = 1, product.id
        while unique in ids:
            number += 1
            unique = f"{product.id}#{number}"
        ids.add(unique)
        ordered.append(replace(product, id=unique))
    return ordered


def called(name: str) -> tuple[str, int]:
    """A name in lower case, and the pixel size (m) that it ends in or 0: `T33TWL_B02_10m` -> `t33twl_b02`, 10."""
    match = _SIZED.fullmatch(name.lower())
    return (match[1], int(match[2])) if match else (name.lower(), 0)


def time_in(name: str) -> datetime | None:
    """The first date in a name, with its time of day where there is one: `20230815T100031`, `2023-08-15`."""
    for match in re.finditer(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?:T(\d{6}))?(?!\d)", name):
        try:
            return utc(datetime.fromisoformat("{}-{}-{}T{}".format(*match.groups("000000"))))
        except ValueError:
            continue  # eight digits that are no date
    return None
