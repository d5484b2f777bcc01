"""When products were sensed, by their names and by metadata beside their images; never when they were made."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from embedcube.sources.catalog.files import not_a_file, read_bounded
from embedcube.sources.catalog.json_text import ITEM_BYTES, read_json
from embedcube.windows import utc

_MADE = re.compile(r"(?<![A-Z0-9])(S2[A-D]_[A-Z]{4}_[A-Z0-9_]{10}_[A-Z0-9_]{4})_\d{8}T\d{6}", re.IGNORECASE)
"""Names of ESA's ground segment, as S2A_OPER_MSI_L1C_TL_SGS__20160606T131254_A005000_T33TWL: the stamp after class,
kind and station is when the file was made"""

_SENSED = (
    re.compile(r"S2[A-D]_MSIL(?:1C|2A)_(\d{8}T\d{6})(?!\d)", re.IGNORECASE),
    re.compile(r"S1[A-D]_\w\w_\w{4}_\w{4}_(\d{8}T\d{6})(?!\d)", re.IGNORECASE),
    re.compile(r"_V(\d{8}T\d{6})_\d{8}T\d{6}(?!\d)", re.IGNORECASE),
    re.compile(r"_DS_\w{4}_\d{8}T\d{6}_S(\d{8}T\d{6})(?!\d)", re.IGNORECASE),
)
"""Where names of products say when sensing began, whatever else is in front of them"""

_NAME = re.compile(r"(?:(?:GS2|S[12])[A-D]_\w{12,120}|L(?:1C|2A)_T\d\d[A-Z]{3}_A\d{6}_\d{8}T\d{6})")
"""A name of a product, datatake or granule"""

_LINKS = ("self", "canonical", "alternate", "via", "derived_from")
"""Relations of the links of an Item that lead to its own product, or to the one that it was made from"""

IN_JSON = ("tileInfo.json", "tileinfo_metadata.json", "productInfo.json")
"""Files of the buckets on AWS that say when a tile was sensed"""

_XML = (
    "metadata.xml",
    "MTD_TL.xml",
    "granule_metadata.xml",
    "product_metadata.xml",
    "MTD_MSIL1C.xml",
    "MTD_MSIL2A.xml",
)
_OLD_XML = "S2?_????_MTD_*.xml"
"""The same in names of before December 2016"""
_INSIDE = ("IMG_DATA", "R10m", "R20m", "R60m")
"""Folders of images within the folder of a granule"""

_XML_BYTES = 16 << 20
"""largest metadata of a granule; those of ESA have half a million bytes"""

_TIMES = ("SENSING_TIME", "DATATAKE_SENSING_START", "PRODUCT_START_TIME")
_TEXTS = {
    "TILE_ID": "s2:granule_id",
    "DATASTRIP_ID": "s2:datastrip_id",
    "PRODUCT_URI": "s2:product_uri",
    "PRODUCT_URI_2A": "s2:product_uri",
    "PROCESSING_BASELINE": "s2:processing_baseline",
}
"""Elements of metadata, and the properties that they become"""

MADE_ONLY = (
    "the date in its name is that of its making: put its metadata.xml (MTD_TL.xml), tileInfo.json or productInfo.json "
    "beside the images, which say when it was sensed"
)
"""The fault of a product whose name only tells when it was made"""


def sensing_part(name: str) -> str:
    """The part of a name that may tell when a product was sensed: without stamps of when it was made."""
    found = (pattern.search(name) for pattern in _SENSED)
    return next((match[1] for match in found if match), "") or _MADE.sub(r"\1", name)


def tells_making_only(name: str) -> bool:
    """Whether the only time in a name may be when the file was made."""
    return sensing_part(name) != name and not any(pattern.search(name) for pattern in _SENSED)


def names_of_item(item: Mapping[str, Any], assets: Any) -> tuple[str, ...]:
    """The names of products and granules in title, links and files of an Item, each once."""
    links = item.get("links")
    texts = [item.get("title")]
    texts += [
        link.get(key)
        for link in (links if isinstance(links, list) else ())
        if isinstance(link, dict) and link.get("rel") in _LINKS
        for key in ("href", "title")
    ]
    found = _names_in(texts)
    for asset in assets.values() if isinstance(assets, dict) else ():
        if isinstance(asset, dict) and (named := _names_in([asset.get("href"), asset.get("file:local_path")])):
            found += named
            break  # the files of an Item are named alike
    return tuple(dict.fromkeys(found))


def _names_in(texts: Iterable[Any]) -> list[str]:
    """The names with which words of titles or parts of links begin."""
    return [
        match[0]
        for text in texts
        if isinstance(text, str)
        for part in text[:1000].replace("/", " ").split()
        if part.startswith(("S2", "S1", "GS2", "L1C_", "L2A_")) and (match := _NAME.match(part))
    ]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What metadata beside the images of a product say."""

    time: datetime | None = None
    """of sensing; None if they do not say it"""
    properties: dict[str, Any] = field(default_factory=dict)
    """under the names of STAC"""
    fault: str = ""
    """why the product cannot be used where they say no time"""

    @property
    def name(self) -> str:
        """Name of the product or of the granule; empty if they say none."""
        uri = str(self.properties.get("s2:product_uri", "")).removesuffix(".SAFE")
        return uri or str(self.properties.get("s2:granule_id", ""))


def beside(folder: Path) -> Beside:
    """What metadata of Sentinel-2 in a folder say; in the folder of the granule, where images lie in one inside it.

    A file that cannot be parsed counts as none.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    places = [folder]
    while places[-1].name in _INSIDE:
        places.append(places[-1].parent)
    time: datetime | None = None
    properties: dict[str, Any] = {}
    for place in places:
        old = sorted(path.name for path in place.glob(_OLD_XML))
        for name in (*_XML, *old, *IN_JSON):
            if not_a_file(place / name):
                continue
            found = _by_json(place / name) if name in IN_JSON else _by_xml(place / name)
            time = time or found.time
            properties = found.properties | properties
    return Beside(time=time, properties=properties)


def _by_xml(path: Path) -> Beside:
    try:
        root = ElementTree.fromstring(read_bounded(path, _XML_BYTES))
    except (ElementTree.ParseError, ValueError):
        return Beside()
    texts: dict[str, str] = {}
    for element in root.iter():
        texts.setdefault(element.tag.rpartition("}")[2], (element.text or "").strip())
        if "datatakeIdentifier" in element.attrib:
            texts["datatake"] = element.attrib["datatakeIdentifier"]
    properties = {name: texts[tag] for tag, name in _TEXTS.items() if texts.get(tag)}
    if texts.get("datatake"):
        properties["s2:datatake_id"] = texts["datatake"]
    return Beside(time=_first_time(texts.get(tag) for tag in _TIMES), properties=properties)


def _by_json(path: Path) -> Beside:
    """What tileInfo.json or productInfo.json of the buckets on AWS say."""
    try:
        document = read_json(path, ITEM_BYTES)
    except ValueError:
        return Beside()
    if not isinstance(document, dict):
        return Beside()
    strip = document.get("datastrip")
    stated = {
        "s2:product_uri": document.get("productName") or document.get("name"),
        "s2:datatake_id": document.get("datatakeIdentifier"),
        "s2:datastrip_id": strip.get("id") if isinstance(strip, dict) else None,
        "mgrs:utm_zone": document.get("utmZone"),
        "mgrs:latitude_band": document.get("latitudeBand"),
        "mgrs:grid_square": document.get("gridSquare"),
    }
    properties = {key: str(value) for key, value in stated.items() if isinstance(value, str | int) and value != ""}
    return Beside(time=_first_time([document.get("timestamp")]), properties=properties)


def _first_time(stamps: Iterable[Any]) -> datetime | None:
    for stamp in stamps:
        try:
            return utc(datetime.fromisoformat(str(stamp)))
        except (ValueError, OverflowError):
            continue
    return None
