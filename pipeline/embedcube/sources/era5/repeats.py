"""Steps that several files have: equal ones count once, and final data (`expver` 1) before preliminary data (5)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedcube.sources.era5.apart import SeriesApart
from embedcube.sources.era5.points import Points
from embedcube.sources.era5.scenes import Request
from embedcube.sources.era5.series import Part
from embedcube.sources.era5.timeline import Ints, Times

_COMPARED = 24
"""most steps of two files that are compared"""


def without_repeats(
    request: Request, groups: Sequence[list[Part]]
) -> tuple[list[list[Part]], list[tuple[list[Part], Path]]]:
    """The groups of parts without the steps that another file of the same points has too, and what is not used at all.

    A group holds parts of the same times and points. One that keeps some of its steps may become several groups: one
    for each run of steps. The second result has parts whose steps are all in another file, and that file. Steps with
    other values stay: they get a verdict later.
    """
    kept: dict[int, list[list[Part]]] = {}
    replaced: list[tuple[list[Part], Path]] = []
    near = _overlapping(groups)
    for i in sorted(range(len(groups)), key=lambda i: _priority(groups[i])):
        group, copies = _one_of_each(request, groups[i])
        replaced += copies
        rest = np.arange(len(group[0].times))
        used = group[0].path
        for other in (piece for j in near[i] for piece in kept.get(j, ())):
            shared = np.nonzero(np.isin(group[0].times[rest], other[0].times))[0]
            if len(shared) and _agree(request, group, other, group[0].times[rest[shared]]):
                rest, used = np.delete(rest, shared), other[0].path
        if not len(rest):
            replaced.append((group, used))
        kept[i] = [_only(group, run) for run in _runs(rest)]
    return [piece for i in sorted(kept) for piece in kept[i]], replaced


def _overlapping(groups: Sequence[list[Part]]) -> list[list[int]]:
    """For each group the others of its points whose times overlap its own, and that have one of its bands."""
    result: list[list[int]] = [[] for _ in groups]
    active: dict[Points, list[int]] = {}
    for i in sorted(range(len(groups)), key=lambda i: groups[i][0].times[0]):
        first, bands = groups[i][0], {part.band for part in groups[i]}
        others = [j for j in active.get(first.variable.points, []) if groups[j][0].times[-1] >= first.times[0]]
        for j in others:
            if bands & {part.band for part in groups[j]}:
                result[i].append(j)
                result[j].append(i)
        active[first.variable.points] = [*others, i]
    return result


def _priority(group: list[Part]) -> tuple[int, np.datetime64, str]:
    """Final before preliminary data, then the earliest, then the first by name."""
    return max(part.variable.header.version for part in group), group[0].times[0], str(group[0].path)


def _one_of_each(request: Request, group: list[Part]) -> tuple[list[Part], list[tuple[list[Part], Path]]]:
    """One part of each band: the final one, or the first by name of equal ones; unequal ones all stay."""
    taken: dict[str, Part] = {}
    unequal, copies = [], []
    for part in sorted(group, key=lambda part: (part.variable.header.version, str(part.path))):
        first = taken.setdefault(part.band, part)
        if first is part:
            continue
        if _agree(request, [part], [first], part.times):
            copies.append(([part], first.path))
        else:
            unequal.append(part)
    return [*taken.values(), *unequal], copies


def _agree(request: Request, group: Sequence[Part], other: Sequence[Part], shared: Times) -> bool:
    """Whether two files have the same values at some steps, as far as they are compared; or one has final data."""
    for part in group:
        for twin in other:
            final = part.variable.header.version != twin.variable.header.version
            if part.band != twin.band or final or part.path == twin.path:
                continue
            chosen = shared[np.unique(np.linspace(0, len(shared) - 1, _COMPARED).astype(int))]
            # behind a pattern files are not opened; a step of each end tells
            chosen = chosen[[0, -1]] if request.pattern else chosen
            if not all(_equal(request, part, twin, stamp) for stamp in chosen):
                return False
    return True


def _equal(request: Request, part: Part, twin: Part, stamp: np.datetime64) -> bool:
    try:
        one, other = _field(request, part, stamp), _field(request, twin, stamp)
    except (ValueError, OSError):
        return False  # what cannot be read is equal to nothing
    rounding = part.variable.header.precision + twin.variable.header.precision
    return bool(np.allclose(one, other, rtol=1e-6, atol=rounding, equal_nan=True))


def _field(request: Request, part: Part, stamp: np.datetime64) -> NDArray[np.float64]:
    """The whole field of a part at a stamp."""
    rows, cols = part.variable.points.shape
    series = SeriesApart(part.path, request.select)
    try:
        variable = next(one for one in series.variables if one.name == part.variable.name)
        step = int(np.searchsorted(variable.times, stamp))
        (field,) = series.fields(variable, range(step, step + 1), slice(0, rows), [slice(0, cols)])
    finally:
        series.close()
    return field


def _runs(steps: Ints) -> Iterator[Ints]:
    """Steps in runs without a gap."""
    if len(steps):
        yield from np.split(steps, np.nonzero(np.diff(steps) > 1)[0] + 1)


def _only(group: list[Part], run: Ints) -> list[Part]:
    if len(run) == len(group[0].times):
        return group
    return [replace(part, used=range(int(run[0]), int(run[-1]) + 1)) for part in group]
