"""Find the scenes of an archive of weather fields: every file is opened, or a pattern of names describes them all."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np

from embedcube.campaign.scene import Asset, Scene, unforeseen
from embedcube.errors import CorruptInput, RequestError
from embedcube.printable import printable
from embedcube.sources.era5.files import Digests, judge_series, listed, open_series, software_of
from embedcube.sources.era5.overlaps import without_overlaps
from embedcube.sources.era5.parameters import names_of, parameter
from embedcube.sources.era5.patterns import expression, moved, span_of
from embedcube.sources.era5.points import CRS, Points, ReducedGaussian
from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.steps import Method, averaged, spacing, stamped_at_end
from embedcube.sources.reader import retried

log = logging.getLogger(__name__)

_EVER = (datetime(1940, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC))
"""Times of a file whose times are unknown: every cell may have needed it"""

_GLOBE = (-180.0, -90.0, 180.0, 90.0)

BEFORE = timedelta(seconds=1)
"""subtracted from stamps at the end of a step, so that a step up to midnight belongs to the day before"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The archive as the campaign describes it."""

    archive: str
    """name of the archive in the campaign"""
    path: Path
    """a folder, a file or a store"""
    root: Path
    """folder to which the paths of assets are relative"""
    pattern: str
    bands: tuple[str, ...]
    methods: tuple[Method, ...]
    """method of each band: what a step's value says of its time interval"""
    decided: Container[str]
    """bands whose method the campaign states; others have that of ERA5's table"""
    select: Mapping[str, Any]
    reduced_gaussian: bool
    """whether reduced Gaussian grids may be read, by the nearest point"""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One band in one file."""

    band: str
    path: Path
    variable: Variable


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """The bands of the archive that a file holds."""

    parts: tuple[_Part, ...]
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
    together: dict[tuple[bytes, Points], list[_Part]] = defaultdict(list)
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
        except OSError:
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
        series = open_series(path, request.select)
        try:
            parts, faults = [], []
            for band in request.bands:
                try:
                    if (variable := match(series, band)) is not None:
                        parts.append(_Part(band=band, path=path, variable=variable))
                except ValueError as error:
                    faults.append(f"{band}: {error}")
            holds = ", ".join([*map(_label, series.variables), *series.faults]) or "no fields"
            return _Contents(parts=tuple(parts), faults=tuple(faults), holds=holds)
        finally:
            series.close()

    def judged(_: Exception) -> CorruptInput | OSError:
        name = os.path.relpath(path, request.root)
        return judge_series(path, name, request.select, lambda series: None, size=None)

    return retried(read, judged)


def _label(variable: Variable) -> str:
    names = sorted(variable.names | ({variable.standard_name} if variable.standard_name else set()))
    return names[0] if len(names) == 1 else f"{names[-1]} ({', '.join(names[:-1])})"


def _scenes(request: Request, groups: Iterable[list[_Part]], digests: Digests) -> list[Scene]:
    """One scene for each group of parts, which share their times and points."""
    together = list(groups)
    # seconds between steps, for files that hold a single step
    apart = {
        band: spacing(
            np.concatenate([part.variable.times for parts in together for part in parts if part.band == band])
        )
        for band in {part.band for parts in together for part in parts}
    }
    return [_scene(request, parts, apart, digests) for parts in together]


def _scene(request: Request, parts: list[_Part], apart: Mapping[str, int], digests: Digests) -> Scene:
    times = parts[0].variable.times
    first, last = (time.replace(tzinfo=UTC) for time in times[[0, -1]].tolist())
    name = os.path.relpath(parts[0].path, request.root)
    assets: list[Asset] = []
    faults: list[str] = []
    processing: list[str] = []
    for band, method in zip(request.bands, request.methods, strict=True):
        of_band = [part for part in parts if part.band == band]
        if len(of_band) != 1:
            faults.append(f"{band}: {_not_in_one_file(of_band, name, request.root)}")
            continue
        variable = of_band[0].variable
        faults.extend(_refused(request, band, method, variable))
        asset, notes = _asset(request, of_band[0], method, spacing(times) or apart[band], digests)
        assets.append(asset)
        processing.extend(f"{band}: {note}" for note in notes)
    ends_at_stamp = [asset.ends for asset in assets]
    return Scene(
        id=f"{first:%Y-%m-%dT%H:%M}/{last:%Y-%m-%dT%H:%M} {name}",
        archive=request.archive,
        time=first - any(ends_at_stamp) * BEFORE,
        end=last - (bool(assets) and all(ends_at_stamp)) * BEFORE,
        # files of the same times are one acquisition: tiles of one field, or the same field twice
        acquisition=f"{first.isoformat()}/{last.isoformat()}",
        bbox=_bbox(parts[0].variable.points),
        assets=tuple(assets),
        processing="; ".join(processing),
        verdict="; ".join(faults),
        software=tuple(sorted({package for part in parts for package in software_of(part.path)})),
    )


def _not_in_one_file(parts: list[_Part], name: str, root: Path) -> str:
    """Why a band has no file of its own among those that share the times and points of file `name`."""
    if not parts:
        return f"in no file of the times and points of {name}; bands that are cut otherwise need archives of their own"
    return "in " + " and in ".join(os.path.relpath(part.path, root) for part in parts)


def stamps(scene: Scene) -> tuple[datetime, datetime]:
    """Stamps of the first and the last step of a scene, as in its file."""
    ends = [asset.ends for asset in scene.assets]
    return scene.time + any(ends) * BEFORE, (scene.end or scene.time) + all(ends) * BEFORE


def _over_a_frame(method: Method, step_s: int, ends: bool) -> str:
    """How the steps of a frame are combined, in words."""
    often = f", one every {step_s / 3600:g} h" if step_s else ""
    stamped = f", stamped with the {'end' if ends else 'beginning'} of their time" if method != "point" else ""
    if averaged(method):
        return f"mean over the frame's steps{often}{stamped}, nothing where more than half are missing"
    return f"{method} over the frame's steps{often}{stamped}, nothing where one is missing"


def _refused(request: Request, band: str, method: Method, variable: Variable) -> Iterator[str]:
    """Reasons why a variable that can be read cannot be used."""
    if isinstance(variable.points, ReducedGaussian) and not request.reduced_gaussian:
        yield f"{band}: it lies on a reduced Gaussian grid; to read the nearest point, say reduced_gaussian: nearest"
    stated = variable.method
    if stated is None and parameter(band) is None:
        # the band is a standard name: the file's own names may be in the table
        stated = next((known.method for known in map(parameter, sorted(variable.names)) if known), None)
    if stated is None and parameter(band) is None and band not in request.decided:
        yield (
            f"{band}: neither its file nor the table of ERA5's parameters says what a step is of its time; say it: "
            f"methods: {{{band}: sum}}, or one of {', '.join(get_args(Method))}"
        )
    if stated is None or stated == method or band in request.decided or (averaged(stated) and averaged(method)):
        return
    yield (
        f"{band}: its file calls each step a {stated}, it is taken for a {method}; say which: methods: {{{band}: ...}}"
    )


def _asset(request: Request, part: _Part, method: Method, step_s: int, digests: Digests) -> tuple[Asset, list[str]]:
    """The asset of one band, and how its steps are processed, in words."""
    variable = part.variable
    of_steps = variable.method if method == "point" and variable.method == "mean" else method
    ends = stamped_at_end(of_steps, step_s, variable.ends)
    transform, rows, cols = variable.points.raster
    size, digest, notes = digests.of(part.path)
    asset = Asset(
        band=part.band,
        path=os.path.relpath(part.path, request.root),
        inner=variable.name,
        crs=CRS,
        transform=transform,
        rows=rows,
        cols=cols,
        block_rows=variable.block[0],
        block_cols=variable.block[1],
        # frames are averaged and summed in float64
        dtype="float64",
        nodata=None,
        size=size,
        steps=len(variable.times),
        step_s=step_s,
        ends=ends,
        digest=digest,
        block_bytes=variable.block_bytes,
        noted=notes,
    )
    return asset, [_over_a_frame(of_steps, step_s, ends), *filter(None, [variable.processing])]


def _bbox(points: Points) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees; west is the larger number where the box crosses the antimeridian."""
    (dx, _, left, _, dy, top), rows, cols = points.raster
    south, north = max(-90.0, top + rows * dy), min(90.0, top)
    if cols * dx >= 360 - dx / 2:
        return -180.0, south, 180.0, north
    west, east = ((x + 180) % 360 - 180 for x in (left, left + cols * dx))
    return west, south, east, north


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
            _Part(band=band, path=path, variable=moved(*models[band], spanned))
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
