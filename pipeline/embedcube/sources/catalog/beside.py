"""What metadata of Sentinel-2 beside the images of a product say: above all when they were sensed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from embedcube.sources.catalog.dates import When
from embedcube.sources.catalog.files import not_a_file, read_bounded
from embedcube.sources.catalog.json_text import ITEM_BYTES, read_json
from embedcube.sources.catalog.sensing import tells_making_only
from embedcube.sources.catalog.told import Told
from embedcube.windows import utc

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


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What metadata beside the images of a product say."""

    time: datetime | None = None
    """of sensing; None if they do not say it"""
    properties: dict[str, Any] = field(default_factory=dict)
    """under the names of STAC"""

    @property
    def name(self) -> str:
        """Name of the product or of the granule; empty if they say none."""
        uri = str(self.properties.get("s2:product_uri", "")).removesuffix(".SAFE")
        return uri or str(self.properties.get("s2:granule_id", ""))


def sensed(told: Told, product: str, folder: Path, known: dict[Path, Beside]) -> tuple[When | None, Beside]:
    """The time of a product, None if it is unknown; and what metadata beside its images say, if its name has no time.

    `known` is what metadata of folders say that were read before; it is added to.

    Raises:
        ValueError: the date in its name is that of its making, or it has dates of two days, and nothing says more.
        OSError: metadata could not be read for a reason that may pass.
    """
    two_dates: ValueError | None = None
    try:
        when = told.when(product, folder.name)
    except ValueError as error:
        when, two_dates = None, error
    if when is not None and (told.always or when != told.time):
        return when, Beside()
    if folder not in known:
        known[folder] = beside(folder)
    said = known[folder]
    if said.time is not None:
        return When(time=said.time), said
    if two_dates is not None:
        raise two_dates
    if when is None and (tells_making_only(product) or tells_making_only(folder.name)):
        raise ValueError(MADE_ONLY)
    return when, said


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
