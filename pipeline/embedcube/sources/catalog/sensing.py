"""When products were sensed, by their names, and never when they were made; names in other places of a catalogue."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

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
