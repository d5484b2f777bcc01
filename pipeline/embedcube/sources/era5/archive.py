"""What an archive of fields holds: its files and stores as scenes, opened one by one or expanded from a pattern."""

import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np

from embedcube.campaign.scene import Asset, Scene
from embedcube.errors import CorruptInput, RequestError
from embedcube.sources.era5.files import Digests, is_series, is_store, judge_series, open_series, software_of
from embedcube.sources.era5.parameters import names_of, parameter
from embedcube.sources.era5.patterns import expression, moved, span_of
from embedcube.sources.era5.points import CRS, Points, ReducedGaussian
from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.steps import Method, averaged, spacing, stamped_at_end
from embedcube.sources.reader import retried

_EVER = (datetime(1940, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC))
"""The times of a file that does not tell them: what it would have fed must say so"""

_GLOBE = (-180.0, -90.0, 180.0, 90.0)

BEFORE = timedelta(seconds=1)
"""what is stamped with its end belongs to the time before"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of an archive."""

    archive: str
    """its name"""
    path: Path
    """a folder, a file or a store"""
    root: Path
    """that assets' paths are relative to"""
    pattern: str
    bands: tuple[str, ...]
    methods: tuple[Method, ...]
    """what steps of each band are of their time"""
    decided: Container[str]
    """bands of which the campaign says it; of others, ERA5's table"""
    select: Mapping[str, Any]
    reduced_gaussian: bool
    """may be read by the nearest point"""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One band in one file."""

    band: str
    path: Path
    variable: Variable


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What a file has of what is wanted."""

    parts: tuple[_Part, ...]
    faults: tuple[str, ...]
    """of wanted bands that are there and cannot be used"""
    holds: str
    """all its variables, in words"""


def match(series: Series, band: str) -> Variable | None:
    """The variable that `band` names by parameter id, short name, variable or standard name; None where it is not in.

    Capitals count only where a file has the name in both ways.

    Raises:
        ValueError: it names several, or one that cannot be read.
    """
    names = names_of(band)
    found = [variable for variable in series.variables if variable.names & names]
    if faults := [text for said, text in series.faults.values() if said & names]:
        raise ValueError(faults[0])
    found = found or [variable for variable in series.variables if variable.standard_name == band]
    found = found or [variable for variable in series.variables if _lower(variable.names) & _lower(names)]
    if len(found) > 1:
        raise ValueError(f'"{band}" could be any of {", ".join(_label(variable) for variable in found)}')
    return found[0] if found else None


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def find_scenes(request: Request, *, full_digests: bool) -> Iterator[Scene]:
    """Every scene, ordered by time and id; files without any wanted band are none.

    Raises:
        RequestError: no file holds any wanted band.
        OSError: a file could not be read for a reason that may pass.
    """
    digests = Digests(request.root, full=full_digests, by_name=bool(request.pattern))
    found, unusable = (_by_pattern if request.pattern else _by_opening)(request, digests)
    good = _without_overlaps(sorted(found, key=lambda scene: (scene.time, scene.id)))
    boxes = np.array([scene.bbox for scene in good if not scene.verdict])
    around = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()) if len(boxes) else _GLOBE
    for name, reason in unusable:
        good.append(
            Scene(
                id=name,
                archive=request.archive,
                time=_EVER[0],
                end=_EVER[1],
                acquisition=name,
                bbox=around,
                verdict=reason,
            )
        )
    yield from sorted(good, key=lambda scene: (scene.time, scene.id))


def _by_opening(request: Request, digests: Digests) -> tuple[list[Scene], list[tuple[str, str]]]:
    """Scenes of files that were all opened: bands that share their times and points are one scene."""
    together: dict[tuple[bytes, Points], list[_Part]] = defaultdict(list)
    unusable: list[tuple[str, str]] = []
    there: dict[str, str] = {}
    for path in _files(request):
        name = os.path.relpath(path, request.root)
        try:
            contents = _opened(request, path)
        except CorruptInput as error:
            unusable.append((name, str(error)))
            continue
        there[name] = contents.holds
        if contents.faults:
            unusable.append((name, "; ".join(contents.faults)))
        for part in contents.parts:
            together[part.variable.times.tobytes(), part.variable.points].append(part)
    if there and not together and not unusable:
        shown = "; ".join(f"{name} has {holds}" for name, holds in list(there.items())[:3])
        raise RequestError(f"archives.{request.archive}: no file holds any of {', '.join(request.bands)}; {shown}")
    return _scenes(request, together.values(), digests), unusable


def _files(request: Request) -> Iterator[Path]:
    """Files and stores of an archive in a fixed order; a store is not looked into."""
    if is_series(request.path):
        yield request.path
        return
    for place, folders, names in os.walk(request.path):
        if is_store(Path(place)):
            folders.clear()
            yield Path(place)
            continue
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if is_series(Path(name)))


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
    said = sorted(variable.names | ({variable.standard_name} if variable.standard_name else set()))
    return said[0] if len(said) == 1 else f"{said[-1]} ({', '.join(said[:-1])})"


def _scenes(request: Request, groups: Iterable[list[_Part]], digests: Digests) -> list[Scene]:
    """A scene of the parts of each group, which share their times and points."""
    together = list(groups)
    # how far apart the steps of files are that hold a single one
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
    """Of the first and the last step of a scene, as its file has them."""
    ends = [asset.ends for asset in scene.assets]
    return scene.time + any(ends) * BEFORE, (scene.end or scene.time) + all(ends) * BEFORE


def _over_a_frame(method: Method, step_s: int, ends: bool) -> str:
    """What is done to the steps of a frame, in words."""
    often = f", one every {step_s / 3600:g} h" if step_s else ""
    stamped = f", stamped with the {'end' if ends else 'beginning'} of their time" if method != "point" else ""
    if averaged(method):
        return f"mean over the frame's steps{often}{stamped}, nothing where more than half are missing"
    return f"{method} over the frame's steps{often}{stamped}, nothing where one is missing"


def _refused(request: Request, band: str, method: Method, variable: Variable) -> Iterator[str]:
    """Why a variable cannot be used though it can be read."""
    if isinstance(variable.points, ReducedGaussian) and not request.reduced_gaussian:
        yield f"{band}: it lies on a reduced Gaussian grid; to read the nearest point, say reduced_gaussian: nearest"
    said = variable.method
    if said is None and parameter(band) is None:
        # a standard name: the file's own names may be in the table
        said = next((known.method for known in map(parameter, sorted(variable.names)) if known), None)
    if said is None and parameter(band) is None and band not in request.decided:
        yield (
            f"{band}: neither its file nor the table of ERA5's parameters says what a step is of its time; say it: "
            f"methods: {{{band}: sum}}, or one of {', '.join(get_args(Method))}"
        )
    if said is None or said == method or band in request.decided or (averaged(said) and averaged(method)):
        return
    yield f"{band}: its file calls each step a {said}, it is taken for a {method}; say which: methods: {{{band}: ...}}"


def _asset(request: Request, part: _Part, method: Method, step_s: int, digests: Digests) -> tuple[Asset, list[str]]:
    """The asset of one band, and how its steps are processed, in words."""
    variable = part.variable
    of_steps = variable.method if method == "point" and variable.method == "mean" else method
    ends = stamped_at_end(of_steps, step_s, variable.ends)
    transform, rows, cols = variable.points.raster
    size, digest = digests.of(part.path)
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
    )
    return asset, [_over_a_frame(of_steps, step_s, ends), *filter(None, [variable.processing])]


def _bbox(points: Points) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees, west of east unless it crosses the antimeridian."""
    (dx, _, left, _, dy, top), rows, cols = points.raster
    south, north = max(-90.0, top + rows * dy), min(90.0, top)
    if cols * dx >= 360 - dx / 2:
        return -180.0, south, 180.0, north
    west, east = ((x + 180) % 360 - 180 for x in (left, left + cols * dx))
    return west, south, east, north


def _without_overlaps(scenes: list[Scene]) -> list[Scene]:
    """The same scenes; one whose times are partly another's gets a verdict: its steps would count twice."""
    result: list[Scene] = []
    lasting: list[Scene] = []
    for scene in scenes:
        lasting = [other for other in lasting if (other.end or other.time) >= scene.time]
        twice = [o for o in lasting if o.acquisition != scene.acquisition and _meet(o, scene)]
        if twice and not scene.verdict:
            scene = replace(scene, verdict=f"its times are also in {twice[0].id}; take one of them away")
        result.append(scene)
        lasting += [] if scene.verdict else [scene]
    return result


def _meet(one: Scene, other: Scene) -> bool:
    """Whether the points of two scenes may be the same; across the antimeridian they may."""
    west, south, east, north = one.bbox
    left, bottom, right, top = other.bbox
    wraps = west > east or left > right
    return (wraps or (west < right and left < east)) and south < top and bottom < north


def _by_pattern(request: Request, digests: Digests) -> tuple[list[Scene], list[tuple[str, str]]]:
    """Scenes by the names of files alone; the first file of each band that opens stands for all others."""
    named = _named(request)
    if not named:
        raise RequestError(
            f'archives.{request.archive}: no file is named "{request.pattern}" for any of {", ".join(request.bands)}'
        )
    models: dict[str, tuple[Variable, datetime, datetime]] = {}
    for (start, end), files in named.items():
        for band, path in files.items():
            if band not in models:
                try:
                    contents = _opened(replace(request, bands=(band,)), path)
                except CorruptInput:
                    continue  # it is in the inventory all the same, and is judged when it is read
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
    return _scenes(request, filter(None, groups), digests), [
        (band, f"{band}: no file of it can be read") for band in request.bands if band not in models
    ]


def _named(request: Request) -> dict[tuple[datetime, datetime], dict[str, Path]]:
    """The files of each band by the time that the date in their names spans, in order.

    Raises:
        RequestError: two files are of one band and date.
    """
    named = expression(request.pattern)
    bands = {name: band for band in request.bands for name in names_of(band)}
    found: dict[tuple[datetime, datetime], dict[str, Path]] = defaultdict(dict)
    for path in _files(request):
        place = re.fullmatch(named, path.relative_to(request.root).as_posix())
        band = bands.get(place["param"].lstrip("0")) if place else None
        if place is None or band is None:
            continue
        files = found[span_of(place["date"])]
        if band in files:
            raise RequestError(f"archives.{request.archive}: {files[band]} and {path} are both {band} of one date")
        files[band] = path
    return dict(sorted(found.items()))
