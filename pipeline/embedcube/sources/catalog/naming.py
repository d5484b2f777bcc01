"""Names of files as a template tells them, such as "{sat}_{date}_{band}.tif"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import PurePosixPath

from embedcube.campaign.fields import nearest
from embedcube.sources.catalog.dates import DATE, When, interval, when_of

_IDENTITY = ("sat", "tile", "id")
_DATES = ("date", "start", "end", "until")
_FIELDS = ("band", *_DATES, *_IDENTITY, "any")
_PIECE = re.compile(r"(\{[^{}]*\}|\*)")
_SUFFIXES = (".tif", ".tiff", ".jp2", ".nc", ".nc4")
_SIZE = r"(?:_(?:10|20|60)m)?"

_PROPERTIES = {"sat": "platform", "tile": "s2:mgrs_tile"}
"""names of STAC for what a field tells"""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the name of a file tells by a template."""

    scene: str
    """files of one scene have the same"""
    id: str
    """id of the scene; empty if the template tells nothing of it but its bands"""
    band: str
    """lower case; empty if the template has no {band}"""
    when: When | None
    """None if the template tells no time"""
    fault: str = ""
    """why the name tells no time, though the template says where it stands"""
    properties: dict[str, str] = field(default_factory=dict)
    """under the names of STAC"""


@dataclass(frozen=True)
class Template:
    """A template for the names of files, or for the ends of their paths where it has a slash.

    {band}, {date}, {start} and {end} (the last day, month or year), {until} (the first moment after), {tile}, {sat},
    {id}; * or {any} stands for anything. What a field is called twice for must be equal.
    """

    text: str

    def __post_init__(self) -> None:
        """Raises a ValueError, in words, for a template that cannot be one."""
        rest = self.text
        for name in self.fields:
            if name not in _FIELDS:
                raise ValueError(f'"{self.text}" has no field "{name}"{nearest(name, _FIELDS)}')
            rest = rest.replace(f"{{{name}}}", "")
        if "{" in rest or "}" in rest:
            raise ValueError(f'"{self.text}" has a brace without its other one')
        told = {*_DATES} & {*self.fields}
        if told and told not in ({"date"}, {"start", "end"}, {"start", "until"}):
            raise ValueError(f'"{self.text}": it has either {{date}}, or {{start}} with {{end}} or {{until}}')

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields in their order."""
        return tuple(piece[1:-1] for piece in _PIECE.findall(self.text) if piece != "*")

    @property
    def dated(self) -> bool:
        """Whether it tells the time."""
        return bool({*_DATES} & {*self.fields})

    @property
    def by_band(self) -> bool:
        """Whether each file holds one band, which its name tells."""
        return "band" in self.fields

    def fit(self, place: str, bands: frozenset[str]) -> Fit | None:
        """What the path of a file tells, below its archive; None if it does not fit. `bands` are the names of bands."""
        parts = PurePosixPath(place).parts
        depth = self.text.count("/") + 1
        if len(parts) < depth:
            return None
        above, end = "/".join(parts[:-depth]), "/".join(parts[-depth:])
        if PurePosixPath(self.text).suffix.lower() not in _SUFFIXES:
            end = end.removesuffix(PurePosixPath(end).suffix)
        known = "|".join(sorted(map(re.escape, bands), key=len, reverse=True))
        # names of the archive's bands first: an id before a band may hold what parts the fields
        one = f"(?:{known}){_SIZE}"
        for band, date in ((one, DATE), ("[^/]+?", DATE), (one, "[^/_]+")):
            if match := _expression(self.text, band, date).fullmatch(end):
                return self._told(above, match.groupdict())
        return None

    def _told(self, above: str, texts: dict[str, str]) -> Fit:
        when, fault = None, ""
        try:
            when = _when(texts)
        except (ValueError, OverflowError) as error:
            fault = f"options.names has a date where its name has none: {error}"
        telling = [name for name in dict.fromkeys(self.fields) if name not in ("band", "any")]
        scene = [texts[name] for name in telling]
        return Fit(
            scene="/".join([above, *scene]),
            id="_".join(scene),
            band=texts.get("band", "").lower(),
            when=when,
            fault=fault,
            properties={key: texts[name] for name, key in _PROPERTIES.items() if name in texts},
        )


def _when(texts: dict[str, str]) -> When | None:
    if "date" in texts:
        return when_of(texts["date"])
    if "start" not in texts:
        return None
    start: datetime = when_of(texts["start"]).time
    return interval(start, when_of(texts["end"]).after if "end" in texts else when_of(texts["until"]).time)


@lru_cache(maxsize=64)
def _expression(text: str, band: str, date: str) -> re.Pattern[str]:
    found = set[str]()
    result = ""
    for piece in _PIECE.split(text):
        name = piece[1:-1] if piece.startswith("{") else ""
        if piece == "*" or name == "any":
            result += "[^/]*?"
        elif name in found:
            result += f"(?P={name})"
        elif name:
            found.add(name)
            result += f"(?P<{name}>{band if name == 'band' else date if name in _DATES else '[^/]+?'})"
        else:
            result += re.escape(piece)
    return re.compile(result, re.IGNORECASE)


def template_for(place: str, bands: Sequence[str]) -> str:
    """A template that fits the path of a file: its band and its date as fields; empty if it has none of both.

    `bands` are the names of bands in lower case. Text before the first field becomes *, other text stays.
    """
    name = PurePosixPath(place).name
    found: list[tuple[int, int, str]] = []
    for match in re.finditer(rf"(?<![A-Za-z0-9]){DATE}(?![A-Za-z0-9])", name):
        found.append((*match.span(), "{date}"))
    if len(found) > 1:
        return ""
    for band in sorted(bands, key=len, reverse=True):
        place_of = re.search(rf"(?<![A-Za-z0-9]){re.escape(band)}(?![A-Za-z0-9])", name, re.IGNORECASE)
        if place_of is not None and not band.isdecimal():
            found.append((*place_of.span(), "{band}"))
            break
    if not found:
        return ""
    result, at = "", 0
    for start, end, what in sorted(found):
        between = name[at:start]
        result += ("*" if between and not at else between) + what
        at = end
    result += name[at:]
    folder = PurePosixPath(place).parent.name
    if "{date}" not in result and re.fullmatch(DATE, folder):
        result = "{date}/" + result
    return result if Template(result).fit(place, frozenset(bands)) else ""
