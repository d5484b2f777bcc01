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
_PARTS = {"year": r"\d{4}", "month": r"\d{1,2}", "day": r"\d{1,2}"}
_TIMES = ({"date"}, {"start", "end"}, {"start", "until"}, {"year"}, {"year", "month"}, {"year", "month", "day"})
_FIELDS = ("band", *_DATES, *_PARTS, *_IDENTITY, "any")
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

    {band}, {date}, or {year}, {month}, {day}, or {start} and {end} (the last day, month or year) or {until} (the first
    moment after), {tile}, {sat}, {id}; * or {any} stands for anything. A field that occurs twice is equal in both.
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
        told = {*_DATES, *_PARTS} & {*self.fields}
        if told and told not in _TIMES:
            words = "{date}, {year} with {month} and {day}, or {start} with {end} or {until}"
            raise ValueError(f'"{self.text}": it has one of {words}')

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields in their order."""
        return tuple(piece[1:-1] for piece in _PIECE.findall(self.text) if piece != "*")

    @property
    def dated(self) -> bool:
        """Whether it tells the time."""
        return bool({*_DATES, *_PARTS} & {*self.fields})

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
    if "year" in texts:
        parts = (texts[name].zfill(2) for name in _PARTS if name in texts)
        return when_of("-".join(parts))
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
            forms = {"band": band, **dict.fromkeys(_DATES, date), **_PARTS}
            result += f"(?P<{name}>{forms.get(name, '[^/]+?')})"
        else:
            result += re.escape(piece)
    return re.compile(result, re.IGNORECASE)


def template_for(place: str, bands: Sequence[str]) -> str:
    """A template that fits the path of a file: its band and its date as fields; empty if it has none of both.

    `bands` are the names of bands in lower case. Text before the first field becomes *, other text stays. Two dates
    become {start} and {end}.
    """
    name, folders = PurePosixPath(place).name, PurePosixPath(place).parts[:-1]
    dates = [match.span() for match in re.finditer(rf"(?<![A-Za-z0-9]){DATE}(?![A-Za-z0-9])", name)]
    if len(dates) > 2:
        return ""
    fields = ("{start}", "{end}") if len(dates) == 2 else ("{date}",) * len(dates)
    found = [(*span, what) for span, what in zip(dates, fields, strict=True)]
    for band in sorted(bands, key=len, reverse=True):
        place_of = re.search(rf"(?<![A-Za-z0-9]){re.escape(band)}(?![A-Za-z0-9])", name, re.IGNORECASE)
        if place_of is not None and not band.isdecimal():
            found.append((*place_of.span(), "{band}"))
            break
    result, at = "", 0
    for start, end, what in sorted(found):
        between = name[at:start]
        result += ("*" if between and not at else between) + what
        at = end
    result += name[at:] if found else "*" + PurePosixPath(name).suffix
    if not dates and folders:
        result = _of_folders(folders) + result
    if Template(result).fields and Template(result).fit(place, frozenset(bands)):
        return result
    return ""


def _of_folders(folders: Sequence[str]) -> str:
    """The end of a template for folders that are dates, 20220615/ or 2022/6/15/; empty if they are none."""
    if re.fullmatch(DATE, folders[-1]):
        return "{date}/"
    for start in range(len(folders) - 2):
        forms = (_PARTS["year"], _PARTS["month"], _PARTS["day"])
        if all(re.fullmatch(form, part) for form, part in zip(forms, folders[start : start + 3], strict=True)):
            return "{year}/{month}/{day}/" + "*/" * (len(folders) - start - 3)
    return ""
