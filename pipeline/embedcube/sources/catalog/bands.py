"""Bands of one image: which of its descriptions or numbers is which band, and series that are stacked as bands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rasterio.errors import RasterioError

from embedcube.printable import listed, printable
from embedcube.sources.catalog.dates import When, when_in, when_of
from embedcube.sources.catalog.products import Names, is_alias
from embedcube.sources.opening import open_raster

_SHOWN = 4
"""names of bands that a message lists"""

_SHOWN_CHARACTERS = 24
"""most characters of such a name"""

_PARTS = "_-. "
"""characters between the name of a band and its step"""

_YEAR_CHARACTERS = 4
"""a description as short as a year is a number"""

_COUNTED = re.compile(r"\d+(?:_\d+)*")


def descriptions_of(path: Path) -> list[str] | None:
    """The description of each band of an image, empty where it has none; None if it does not open.

    Raises:
        OSError: the file could not be read for a reason that may pass.
    """
    try:
        with open_raster(path, "") as image:
            return [" ".join(str(text or "").split()) for text in image.descriptions]
    except RasterioError:
        path.read_bytes()  # raises if the disk fails; wrong bytes are reported when the file is described
        return None


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The bands of an archive in one image."""

    index: dict[str, int]
    """number of a band in the image, from 1"""
    fault: str
    """why bands are missing; empty if none is"""


def bands_in(described: Sequence[str], names: Names) -> Bands:
    """Find each band by its description or its number; one band is found where image and archive have no other.

    A description that occurs twice names nothing. One band of the image is never two bands of the archive.
    """
    if len(described) == len(names) == 1:
        return Bands(index=dict.fromkeys(names, 1), fault="")
    lower = [text.lower() for text in described]
    index: dict[str, int] = {}
    absent: list[str] = []
    unclear: list[str] = []
    for band, known in names.items():
        found = _among(lower, known, band.lower())
        if len(found) == 1:
            index[band] = found[0]
        elif found:
            unclear.append(f"{', '.join(map(str, found[:_SHOWN]))} may each be {band}")
        else:
            absent.append(band)
    taken = list(index.values())
    for number in sorted({number for number in taken if taken.count(number) > 1}):
        both = [band for band, one in index.items() if one == number]
        unclear.append(f"{' and '.join(both)} would both be band {number}")
        index = {band: one for band, one in index.items() if one != number}
    return Bands(index=index, fault=_fault(described, absent, unclear))


def _among(described: Sequence[str], known: frozenset[str], own: str) -> list[int]:
    """Numbers of the bands that may be meant: by its own names, else by any name; and by its number."""
    named = [(i, text) for i, text in enumerate(described, start=1) if text in known]
    exact = [i for i, text in named if text == own] or [i for i, text in named if not is_alias(known, text)]
    found = exact or [i for i, _ in named]
    numbers = [int(name) for name in known if name.isdecimal() and 1 <= int(name) <= len(described)]
    return list(dict.fromkeys([*found, *numbers])) if numbers else found


def _fault(described: Sequence[str], absent: list[str], unclear: list[str]) -> str:
    """Why bands are missing, in words that follow the name of the file."""
    if not (absent or unclear):
        return ""
    twice = {text for text in described if text and described.count(text) > 1}
    words = [f"of its bands {text}" for text in unclear[:1]]
    if absent:
        names = "" if twice else f" ({shown(described)})"
        words.append(f"it has no band {listed(absent, _SHOWN)} among its {len(described)}{names}")
    if twice:
        words.append(f'"{_short(min(twice))}" is the name of {described.count(min(twice))}, so it names none')
    return f"{'; '.join(words)}. options.variables takes a name in the file, or a number from 1, for each band"


def shown(described: Sequence[str]) -> str:
    """The first names of an image's bands, for a message."""
    if not any(described):
        return "without names"
    return listed([_short(text or f"no name for {i}") for i, text in enumerate(described, start=1)], _SHOWN)


def _short(text: str) -> str:
    return printable(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...", 80)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One time step of a series whose steps are stacked as bands."""

    index: dict[str, int]
    """number of each band in the image, from 1"""
    when: When | None
    """None if its bands' names tell no date"""


def stacked(described: Sequence[str], names: Names, told: int = 0) -> list[Step]:
    """The steps of a series that is stacked as bands, in their order; none if the image is no such stack.

    Its names are those of bands with a count (B2, B2_1 ... B2_23; 0_B2 ... 23_B2) or with a date (B2_20220615). Of a
    single band they may be dates alone, or anything, if the times of `told` steps are told and there are as many bands.
    """
    if len(names) == 1 and len(described) > 1:
        alone = [_alone(text) for text in described]
        if all(alone) or told == len(described):
            return [
                Step(index=dict.fromkeys(names, number), when=when if all(alone) else None)
                for number, when in enumerate(alone, start=1)
            ]
    steps: dict[str, dict[str, int]] = {}
    for band, known in names.items():
        for number, text in enumerate(described, start=1):
            key = next((key for name in sorted(known) if (key := _step(text.lower(), name)) is not None), None)
            if key is not None:
                steps.setdefault(key, {}).setdefault(band, number)
    dates = {key: _date_in(key) for key in steps}
    times = {key: when.time for key, when in dates.items() if when is not None}
    if steps and len(times) == len(steps):
        return [Step(index=steps[key], when=dates[key]) for key in sorted(steps, key=times.__getitem__)]
    if times or not any(sum(band in index for index in steps.values()) > 1 for band in names):
        return []
    order = sorted(steps, key=lambda key: [int(part) for part in re.findall(r"\d+", key)])
    return [Step(index=steps[key], when=None) for key in order]


def _step(text: str, name: str) -> str | None:
    """What the description of a band says beside the band's `name`: a count, a date or nothing; else None."""
    if text == name:
        return ""
    if not name or name.isdecimal():
        return None
    if text.startswith(name) and text[len(name)] in _PARTS:
        beside = text[len(name) + 1 :]
    elif text.endswith(name) and text[-len(name) - 1] in _PARTS:
        beside = text[: -len(name) - 1]
    else:
        return None
    return beside if _COUNTED.fullmatch(beside) or _date_in(beside) else None


def _alone(text: str) -> When | None:
    try:
        return when_of(text) if len(text) > _YEAR_CHARACTERS else None
    except ValueError:
        return None


def _date_in(beside: str) -> When | None:
    try:
        return when_in(beside.upper())
    except ValueError:
        return None
