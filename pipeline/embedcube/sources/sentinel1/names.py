"""What names and metadata of a Sentinel-1 product tell about the pass of which it shows a slice or a burst."""

import re
from collections.abc import Iterator
from datetime import time
from typing import Any

from embedcube.campaign.scene import UNKNOWN_TIME
from embedcube.sources.catalog.products import Product
from embedcube.sources.passes import Clues, satellite_letter

_PRODUCT = re.compile(r"(S1[A-D])[-_]\S*[-_](\d{6})[-_]([0-9A-F]{6})(?=[-_#.\s]|$)", re.IGNORECASE)
"""Mission, absolute orbit and datatake in the name of a product"""

_SATELLITE = re.compile(r"(?<![a-z0-9])s(?:entinel)?[-_ ]?1([a-d])(?![a-z0-9])", re.IGNORECASE)
_BURST = re.compile(r"(?<![A-Z0-9])(T?\d{3}[-_]\d{6}[-_][IE]W\d|\d{6}_[IE]W\d)(?![A-Z0-9])", re.IGNORECASE)
_HEXADECIMAL = re.compile(r"0[0-9A-F]{5}|(?=.*[A-F])[0-9A-F]{6}", re.IGNORECASE)
"""Number of a datatake as in names; a decimal number has neither letters nor a zero in front"""

_MIDNIGHT = time(0)
_DATATAKES = ("s1:datatake_id", "s1:data_take_id", "eopf:datatake_id", "eopf:data_take_id", "missionDataTakeID")
_ORBITS = ("sat:absolute_orbit", "orbitNumber_start", "orbitNumber", "s1:absolute_orbit")


def clues_of(product: Product) -> Clues:
    """The clues to the pass of a product: its datatake, else its absolute orbit, else satellite and time."""
    properties = product.properties
    text = " ".join(_names(product))
    named = _PRODUCT.search(text)
    letter = satellite_letter(_SATELLITE, properties, product.id)
    if not letter and (found := _SATELLITE.search(text)):
        letter = found[1].upper()
    orbit = int(named[2]) if named else _number(properties, _ORBITS)
    datatake = int(named[3], 16) if named else _datatake(properties)
    burst = _BURST.search(text)
    return Clues(
        id=product.id,
        # two passes of a day look the same where a name tells no more than the day
        time=product.time if product.time.time() != _MIDNIGHT else UNKNOWN_TIME,
        satellite=named[1].upper() if named else f"S1{letter}" if letter else "",
        # without the orbit, which changes in the middle of a datatake that goes north over the equator
        datatake="" if datatake is None else f"{datatake:06X}",
        orbit=orbit,
        place=burst[1].upper() if burst else "",
    )


def _names(product: Product) -> Iterator[str]:
    """The texts of a product that may hold its names, the surest first."""
    yield product.id
    for value in product.properties.values():
        if isinstance(value, str) and "S1" in value:
            yield value
    yield from product.names
    for file in product.files.values():
        yield f"{file.path.parent.name} {file.path.stem}"
        break  # the files of a product are named alike


def _datatake(properties: dict[str, Any]) -> int | None:
    """The number of the datatake: catalogues write a decimal number, or six hexadecimal digits as in names."""
    stated = (str(properties.get(key, "")).strip() for key in _DATATAKES)
    hexadecimal = next((text for text in stated if _HEXADECIMAL.fullmatch(text)), "")
    return int(hexadecimal, 16) if hexadecimal else _number(properties, _DATATAKES)


def _number(properties: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of some properties that is a number above zero."""
    stated = (str(properties.get(key, "")).strip().removesuffix(".0") for key in keys)
    return next((int(text) for text in stated if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31), None)
