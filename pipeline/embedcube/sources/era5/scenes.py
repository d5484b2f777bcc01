"""From the bands that files hold to scenes: what each step stands for, and why a band cannot be used."""

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from embedcube.campaign.scene import ALWAYS, Asset, Scene
from embedcube.sources.era5.files import Digests, software_of
from embedcube.sources.era5.parameters import parameter
from embedcube.sources.era5.points import CRS, Points, ReducedGaussian
from embedcube.sources.era5.series import Part, Variable
from embedcube.sources.era5.steps import (
    MONTHLY,
    PER_DAY,
    Accumulated,
    Method,
    averaged,
    months_of,
    timeline_of,
)
from embedcube.sources.era5.tiles import union_of
from embedcube.sources.era5.timeline import MONTH_S, Timeline, Times, moment_of, stamps_of
from embedcube.sources.era5.units import UNIT_OF, conversion, daily

_STATIC = "static"
"""Acquisition of fields that hold at all times"""


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
    accumulated: Mapping[str, Accumulated]
    """what the sums of a band count, where the campaign says it"""
    units: Mapping[str, str]
    """units of a band in the files, where the campaign says it"""
    static: bool
    """whether fields hold at all times"""
    reduced_gaussian: bool
    """whether reduced Gaussian grids may be read, by the nearest point"""

    def counts_of(self, band: str, variable: Variable) -> Accumulated | None:
        """What the sums of a band count, by the campaign or by the file; None where neither says it."""
        if band in self.accumulated:
            return self.accumulated[band]
        return "per_day" if variable.header.step_type == PER_DAY or daily(self.unit_of(band, variable)) else None

    def unit_of(self, band: str, variable: Variable) -> str:
        """The units of a band in a file."""
        return self.units.get(band, variable.header.units)

    def conversion_of(self, band: str, variable: Variable) -> tuple[float, float]:
        """The factor and the term that bring a band into the units of ERA5's table; (1, 0) if it has none.

        Raises:
            ValueError: the file has units that are not known.
        """
        known = next((p for p in map(parameter, (band, *sorted(variable.names))) if p), None)
        if known is None or (wanted := UNIT_OF.get(known.short)) is None:
            return 1.0, 0.0
        unit = self.unit_of(band, variable)
        if (found := conversion(unit, wanted)) is None:
            raise ValueError(
                f'its units are "{unit}", not {wanted}, and no conversion is known: convert the file; or if it states '
                f"them wrongly, options.units says which they are, as {{{band}: ...}}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a band from all of its files."""

    step_s: int
    """seconds between two steps, the fewest; 0 where a single step is known"""
    running: bool
    """whether its sums count from midnight"""
    fault: str = ""
    """why it cannot be used, in any file"""


def stamps(scene: Scene) -> Times:
    """Stamps of the first and the last step of a scene, as in its file."""
    return stamps_of([datetime.fromisoformat(stamp) for stamp in scene.acquisition.split("/")])


def is_static(scene: Scene) -> bool:
    """Whether the fields of a scene hold at all times."""
    return scene.acquisition == _STATIC


def scene_of(request: Request, parts: Sequence[Part], known: Mapping[str, Known], digests: Digests) -> Scene:
    """The scene of parts that share their times and points."""
    first, last = (moment_of(stamp) for stamp in parts[0].times[[0, -1]])
    name = os.path.relpath(parts[0].path, request.root)
    assets: list[Asset] = []
    faults: list[str] = []
    processing: list[str] = []
    covers: list[tuple[datetime, datetime]] = []
    for band, method in zip(request.bands, request.methods, strict=True):
        of_band = [part for part in parts if part.band == band]
        points = [part.variable.points for part in of_band]
        union = union_of(points) if len(set(points)) == len(points) > 1 else None
        if len(of_band) != 1 and union is None:
            faults.append(f"{band}: {_not_in_one_file(of_band, name, request.root)}")
            continue
        for number, part in enumerate(of_band):
            faults.extend(_refused(request, band, method, part.variable, known[band]))
            try:
                timeline = _timeline(request, part, method, known[band])
                words = (*_in_words(request, part, method, timeline), part.variable.processing)
            except ValueError as error:
                faults.append(f"{band}: {error}")
                continue
            assets.append(_asset(request, part, timeline, union or part.variable.points, digests))
            covers.append(timeline.cover)
            processing.extend(f"{band}: {word}" for word in words if word and not number)
    if request.static:
        covers = [ALWAYS]
    return Scene(
        id=name if request.static else f"{first:%Y-%m-%dT%H:%M}/{last:%Y-%m-%dT%H:%M} {name}",
        archive=request.archive,
        time=min((begin for begin, _ in covers), default=first),
        end=max((end for _, end in covers), default=last),
        # files of the same times are one acquisition: tiles of one field, or the same field twice
        acquisition=_STATIC if request.static else f"{first.isoformat()}/{last.isoformat()}",
        bbox=_bbox(union_of([part.variable.points for part in parts]) or parts[0].variable.points),
        assets=tuple(assets),
        processing="; ".join(processing),
        verdict="; ".join(faults),
        software=tuple(sorted({package for part in parts for package in software_of(part.path)})),
    )


def _not_in_one_file(parts: list[Part], name: str, root: Path) -> str:
    """Why a band has no file of its own among those that share the times and points of file `name`."""
    if not parts:
        return f"in no file of the times and points of {name}; bands that are cut otherwise need archives of their own"
    return "in " + " and in ".join(os.path.relpath(part.path, root) for part in parts) + ", with other values"


def _refused(request: Request, band: str, method: Method, variable: Variable, known: Known) -> Iterator[str]:
    """Reasons why a variable that can be read cannot be used."""
    if known.fault:
        yield f"{band}: {known.fault}"
    if isinstance(variable.points, ReducedGaussian) and not request.reduced_gaussian:
        yield f"{band}: it lies on a reduced Gaussian grid; to read the nearest point, say reduced_gaussian: nearest"
    if request.static:
        if len(variable.times) > 1:
            yield f"{band}: it has {len(variable.times)} steps, a static field has one"
        return
    if variable.header.timeless:
        yield f"{band}: it has no time; if it holds at all times, write an archive of its own with static: true"
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


def _timeline(request: Request, part: Part, method: Method, known: Known) -> Timeline:
    """The time that each step stands for.

    Raises:
        ValueError: it is not known, or what its sums count is not known.
    """
    variable, times = part.variable, part.times
    if request.static:
        return Timeline(begins=times, ends=times, instants=True, running=False, step_s=0)
    spans = None if variable.spans is None else variable.spans[part.steps]
    if variable.header.step_type in MONTHLY and spans is None:
        spans = months_of(times)
    if variable.header.step_type in MONTHLY and spans is not None and len(np.unique(spans[:, 0])) < len(spans):
        raise ValueError("its steps are means of a month for each hour of the day, which belong to no frame")
    of_steps = "mean" if method == "point" and variable.method == "mean" else method
    timeline = timeline_of(
        times, spans, of_steps, known.step_s, stated=variable.method == "point", running=known.running
    )
    longest_s = int((timeline.ends - timeline.begins).astype(np.int64).max())
    stated_sum = variable.method == "sum" and variable.spans is not None
    if method == "sum" and longest_s >= MONTH_S and not stated_sum and request.counts_of(part.band, variable) is None:
        raise ValueError(
            "its steps are months: is a value the sum of the month, or of a day of it (as ERA5's monthly means have "
            f"it)? Say accumulated: {{{part.band}: each_step}} or {{{part.band}: per_day}}"
        )
    return timeline


def _in_words(request: Request, part: Part, method: Method, timeline: Timeline) -> Iterator[str]:
    """How the steps of a frame are combined, and how values are converted."""
    if request.static:
        yield "holds at all times"
    else:
        yield _over_a_frame(request, part, method, timeline)
    factor, term = request.conversion_of(part.band, part.variable)
    if (factor, term) != (1.0, 0.0):
        by = f" * {factor:g}" * (factor != 1) + f" + {term:g}" * (term != 0)
        yield f"{request.unit_of(part.band, part.variable)}{by}"


def _over_a_frame(request: Request, part: Part, method: Method, timeline: Timeline) -> str:
    step_s = timeline.step_s
    often = f", one every {step_s / 3600:g} h" if step_s else ""
    lengths_s = np.unique((timeline.ends - timeline.begins).astype(np.int64))
    if not timeline.instants and not lengths_s.max():
        return f"{method}, but of a single step of unknown length, which fills nothing: add time bounds (CF)"
    if len(lengths_s) == 1 and 0 < lengths_s[0] != step_s and step_s and not timeline.running:
        often += f" of {lengths_s[0] / 3600:g} h"
    stamped = ""
    for moments, words in ((timeline.ends, "end"), (timeline.begins, "beginning")):
        if not (stamped or timeline.instants or timeline.running) and (part.times == moments).all():
            stamped = f", stamped with the {words} of their time"
    if averaged(method):
        lone = "; a single instant, which is never all of a frame" if timeline.instants and not step_s else ""
        return f"mean over the frame's steps{often}{stamped}, nothing where more than half are missing{lone}"
    counts = ", differenced, as they count from midnight" if timeline.running else ""
    if method == "sum" and request.counts_of(part.band, part.variable) == "per_day":
        counts = ", each times its days, as values are per day"
    return f"{method} over the frame's steps{often}{stamped}{counts}, nothing where one is missing"


def _asset(request: Request, part: Part, timeline: Timeline, points: Points, digests: Digests) -> Asset:
    """The asset of one band in one file, on `points`: those of the file, or of all tiles together."""
    variable = part.variable
    transform, rows, cols = points.raster
    size, digest, notes = digests.of(part.path)
    return Asset(
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
        steps=len(part.times),
        step_s=timeline.step_s,
        ends=not timeline.instants and bool((timeline.ends == part.times).all()),
        timeline=timeline.text,
        digest=digest,
        block_bytes=variable.block_bytes,
        noted=notes,
    )


def _bbox(points: Points) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees; west is the larger number where the box crosses the antimeridian."""
    (dx, _, left, _, dy, top), rows, cols = points.raster
    south, north = max(-90.0, top + rows * dy), min(90.0, top)
    if cols * dx >= 360 - dx / 2:
        return -180.0, south, 180.0, north
    west, east = ((x + 180) % 360 - 180 for x in (left, left + cols * dx))
    return west, south, east, north
