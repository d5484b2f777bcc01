"""Find the scenes of an archive of weather fields: every file is opened, or a pattern of names describes them all."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from embedcube.campaign.scene import Scene, unforeseen
from embedcube.errors import CorruptInput, EmbedcubeError, RequestError
from embedcube.printable import printable
from embedcube.sources.era5.apart import SeriesApart
from embedcube.sources.era5.files import Digests, judge_series, listed
from embedcube.sources.era5.known import known_of
from embedcube.sources.era5.overlaps import without_overlaps
from embedcube.sources.era5.parameters import names_of
from embedcube.sources.era5.patterns import expression, moved, span_of
from embedcube.sources.era5.points import Points
from embedcube.sources.era5.repeats import without_repeats
from embedcube.sources.era5.scenes import Request, scene_of
from embedcube.sources.era5.series import Part, Series, Variable
from embedcube.sources.era5.tiles import joined
from embedcube.sources.reader import retried

log = logging.getLogger(__name__)

_EVER = (datetime(1940, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC))
"""Times of a file whose times are unknown: every cell may have needed it"""

_GLOBE = (-180.0, -90.0, 180.0, 90.0)


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """The bands of the archive that a file holds."""

    parts: tuple[Part, ...]
    faults: tuple[str, ...]
    """why bands that the file holds cannot be used"""
    holds: str
    """all variables of the file, in words"""


def match(series: Series, band: str) -> Variable | None:
    """The variable that `band` names by parameter id, short name, variable name or standard name, or None.

    Upper and lower case are told apart only where a file has both spellings.

    Raises:
        ValueError: `band` names several variables, or one that cannot be read.
    """
    names = names_of(band)
    found = [variable for variable in series.variables if variable.names & names]
    if faults := [text for spellings, text in series.faults.values() if spellings & names]:
        raise ValueError(faults[0])
    found = found or [variable for variable in series.variables if variable.standard_name == band]
    found = found or [variable for variable in series.variables if _lower(variable.names) & _lower(names)]
    if len(found) > 1:
        raise ValueError(f'"{band}" could be any of {", ".join(_label(variable) for variable in found)}')
    return found[0] if found else None


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def find_scenes(request: Request, *, full_digests: bool) -> Iterator[Scene]:
    """Every scene, ordered by time and id; files without any band of the archive are left out.

    Raises:
        RequestError: no file holds any band of the archive.
        OSError: a file could not be read for a reason that may pass.
    """
    digests = Digests(request.root, full=full_digests, by_name=bool(request.pattern))
    found, unusable = (_by_pattern if request.pattern else _by_opening)(request, digests)
    good = without_overlaps(sorted(found, key=lambda scene: (scene.time, scene.id)))
    boxes = np.array([scene.bbox for scene in good if not scene.verdict])
    all_scenes = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()) if len(boxes) else _GLOBE
    for name, reason in unusable:
        good.append(
            Scene(
                id=name,
                archive=request.archive,
                time=_EVER[0],
                end=_EVER[1],
                acquisition=name,
                bbox=all_scenes,
                verdict=reason,
            )
        )
    yield from sorted(good, key=lambda scene: (scene.time, scene.id))


def _by_opening(request: Request, digests: Digests) -> tuple[list[Scene], list[tuple[str, str]]]:
    """Scenes found by opening every file, one for equal times and points; and (name, reason) of unusable files."""
    together: dict[tuple[bytes, Points], list[Part]] = defaultdict(list)
    unusable: list[tuple[str, str]] = []
    contents_of: dict[str, str] = {}
    for path, wrong in listed(request.path, request.root):
        name = os.path.relpath(path, request.root)
        if wrong:
            unusable.append((name, f"{name} {wrong}"))
            continue
        try:
            contents = _opened(request, path)
        except CorruptInput as error:
            unusable.append((name, str(error)))
            continue
        except (OSError, EmbedcubeError):
            raise
        except Exception as error:
            log.debug("%s", printable(name), exc_info=True)
            unusable.append((name, f"{name}: {unforeseen(error)}"))
            continue
        contents_of[name] = contents.holds
        if contents.faults:
            unusable.append((name, "; ".join(contents.faults)))
        for part in contents.parts:
            together[part.variable.times.tobytes(), part.variable.points].append(part)
    if contents_of and not together and not unusable:
        shown = "; ".join(f"{name} has {holds}" for name, holds in list(contents_of.items())[:3])
        raise RequestError(f"archives.{request.archive}: no file holds any of {', '.join(request.bands)}; {shown}")
    used = {os.path.relpath(part.path, request.root) for parts in together.values() for part in parts}
    if others := sorted(contents_of.keys() - used - {name for name, _ in unusable}):
        log.warning(
            "archives.%s: %d files hold none of %s and are left out; the first, %s, has %s",
            request.archive,
            len(others),
            ", ".join(request.bands),
            printable(others[0]),
            printable(contents_of[others[0]]),
        )
    return _scenes(request, together.values(), digests), unusable


def _opened(request: Request, path: Path) -> _Contents:
    def read() -> _Contents:
        series = SeriesApart(path, request.select)
        try:
            parts, faults = [], []
            for band in request.bands:
                try:
                    if (variable := match(series, band)) is not None:
                        parts.append(Part(band=band, path=path, variable=variable))
                except ValueError as error:
                    faults.append(f"{band}: {error}")
            holds = ", ".join([*map(_label, series.variables), *series.faults]) or "no fields"
            return _Contents(parts=tuple(parts), faults=tuple(faults), holds=holds)
        finally:
            series.close()

    def judged(_: Exception) -> CorruptInput | OSError:
        name = os.path.relpath(path, request.root)
        return judge_series(path, name, request.select, lambda series: None, size=None, opened=SeriesApart)

    return retried(read, judged)


def _label(variable: Variable) -> str:
    names = sorted(variable.names | ({variable.standard_name} if variable.standard_name else set()))
    return names[0] if len(names) == 1 else f"{names[-1]} ({', '.join(names[:-1])})"


def _scenes(request: Request, groups: Iterable[list[Part]], digests: Digests) -> list[Scene]:
    """One scene for each group of parts, which share times and points; equal steps of several files count once."""
    together = [parts for parts in groups if parts]
    known = {band: known_of(request, band, together) for band in request.bands}
    kept, replaced = without_repeats(request, together)
    scenes = [scene_of(request, parts, known, digests) for parts in joined(kept)]
    for parts, used in replaced:
        scene = scene_of(request, parts, known, digests)
        scenes.append(replace(scene, verdict="", superseded_by=os.path.relpath(used, request.root)))
    return scenes


def _by_pattern(request: Request, digests: Digests) -> tuple[list[Scene], list[tuple[str, str]]]:
    """Scenes found by the names of files, and unusable bands; one file of each band is opened and stands for all."""
    unusable: list[tuple[str, str]] = []
    named = _named(request, unusable)
    if not named:
        bands = ", ".join(request.bands)
        raise RequestError(f'archives.{request.archive}: no file matches "{request.pattern}" for any of {bands}')
    models: dict[str, tuple[Variable, datetime, datetime]] = {}
    for (start, end), files in named.items():
        for band, path in files.items():
            if band not in models:
                try:
                    contents = _opened(replace(request, bands=(band,)), path)
                except CorruptInput:
                    continue  # it stays in the inventory, and gets its verdict when it is read
                if contents.faults or not contents.parts:
                    reason = "; ".join(contents.faults) or f"it has {contents.holds}"
                    raise RequestError(f"archives.{request.archive}: {path.name} is not usable for {band}: {reason}")
                models[band] = (contents.parts[0].variable, start, end)
    groups = [
        [
            Part(band=band, path=path, variable=moved(*models[band], spanned))
            for band, path in files.items()
            if band in models
        ]
        for spanned, files in named.items()
    ]
    unusable += [(band, f"{band}: no file of it can be read") for band in request.bands if band not in models]
    return _scenes(request, filter(None, groups), digests), unusable


def _named(request: Request, unusable: list[tuple[str, str]]) -> dict[tuple[datetime, datetime], dict[str, Path]]:
    """Files of each band, by the time span of the date in their names, in order; others are added to `unusable`.

    Raises:
        RequestError: two files have the same band and date, or a name has a date that does not exist.
    """
    named = expression(request.pattern)
    bands = {name: band for band in request.bands for name in names_of(band)}
    found: dict[tuple[datetime, datetime], dict[str, Path]] = defaultdict(dict)
    for path, wrong in listed(request.path, request.root):
        match_ = re.fullmatch(named, path.relative_to(request.root).as_posix())
        band = bands.get(match_["param"].lstrip("0")) if match_ else None
        if match_ is None or band is None:
            continue
        if wrong:
            name = os.path.relpath(path, request.root)
            unusable.append((name, f"{name} {wrong}"))
            continue
        try:
            files = found[span_of(match_["date"])]
        except ValueError as error:
            date = match_["date"]
            raise RequestError(f"archives.{request.archive}: {path} has the date {date} in its name: {error}") from None
        if band in files:
            raise RequestError(f"archives.{request.archive}: {files[band]} and {path} both hold {band} for one date")
        files[band] = path
    return dict(sorted(found.items()))
