"""What all files of a band tell together: how far apart its steps are, and whether its sums count from midnight."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

import numpy as np

from embedcube.sources.era5.apart import SeriesApart
from embedcube.sources.era5.files import GRIB
from embedcube.sources.era5.scenes import Known, Request
from embedcube.sources.era5.series import Part
from embedcube.sources.era5.steps import spacing
from embedcube.sources.era5.timeline import DAY_S, MONTH_S, Floats, Ints, Times, midnight_before

_DAYS = 6
"""most days whose fields are read to see running sums"""

_STEPS_OF_A_DAY, _HOURS_OF_A_DAY = 6, 18
"""fewest steps, and hours from the first to the last, that show a day: within a morning, any sum may grow"""

_JUMP = 4.0
"""how many times more than in its other hours a running sum changes when it begins anew"""


def known_of(request: Request, band: str, groups: Sequence[Sequence[Part]]) -> Known:
    """What all parts of a band tell together."""
    parts = [part for group in groups for part in group if part.band == band]
    if not parts or request.static:
        return Known(step_s=0, running=False)
    method = request.methods[request.bands.index(band)]
    step_s = _spacing_of(parts)
    if method != "sum":
        return Known(step_s=step_s, running=False)
    if band in request.accumulated:
        return Known(step_s=step_s, running=request.accumulated[band] == "since_midnight")
    if all(part.variable.spans is not None for part in parts):
        return Known(step_s=step_s, running=_stated_running(parts))
    if 0 < step_s < DAY_S and _look_running(request, parts):
        return Known(
            step_s=step_s,
            running=False,
            fault="it grows through each day and begins anew: its sums overlap, as those since midnight do "
            f"(ERA5-Land); say accumulated: {{{band}: since_midnight}}, or {{{band}: each_step}} if it is not so",
        )
    return Known(step_s=step_s, running=False)


def _spacing_of(parts: Sequence[Part]) -> int:
    """Seconds between two steps, the fewest; 0 if there is one step, or single ones at no regular distance."""
    within = [step_s for part in parts if (step_s := spacing(part.variable.times))]
    stamps = np.unique(np.concatenate([part.variable.times for part in parts]))
    apart = np.diff(stamps).astype(np.int64)
    if within or not len(apart):
        return min(within, default=0)
    fewest = int(apart.min())
    regular = not (apart % fewest).any() and (DAY_S % fewest == 0 or fewest % DAY_S == 0)
    monthly = MONTH_S <= fewest <= 31 * DAY_S and len(np.unique(stamps - stamps.astype("datetime64[M]"))) == 1
    return fewest if regular or monthly else 0


def _stated_running(parts: Sequence[Part]) -> bool:
    """Whether all steps begin at the midnight before their end, and are of several lengths."""
    spans = np.concatenate([part.variable.spans for part in parts if part.variable.spans is not None])
    from_midnight = bool((spans[:, 0] == midnight_before(spans[:, 1])).all())
    return from_midnight and len(np.unique(spans[:, 1] - spans[:, 0])) > 1


def _look_running(request: Request, parts: Sequence[Part]) -> bool:
    """Whether fields look like running sums since midnight on every day that tells, of some whole days."""
    try:
        told = [_grows(fields) for fields in _days(request, parts)]
    except (ValueError, OSError):
        return False  # what cannot be read gets its verdict when it is read for a frame
    answers = [answer for answer in told if answer is not None]
    return bool(answers) and all(answers)


def _days(request: Request, parts: Sequence[Part]) -> Iterator[list[Floats]]:
    """Fields of some whole days, in order of time; the last field is the first one of the next day, if it is there."""
    first = parts[0].variable
    # GRIB states the length of sums
    parts = [part for part in parts if part.path.suffix.lower() not in GRIB]
    same = [part for part in parts if part.variable.points == first.points]
    # behind a pattern only the first file was opened
    same = same[:1] if request.pattern else same
    where: dict[np.datetime64, tuple[Part, int]] = {}
    for part in same:
        where.update({stamp: (part, step) for step, stamp in enumerate(part.variable.times)})
    stamps = np.array(sorted(where), dtype="datetime64[s]")
    days = midnight_before(stamps)
    whole = [of_day for day in np.unique(days) if _is_whole(of_day := np.nonzero(days == day)[0], stamps)]
    for at in sorted({*np.linspace(0, len(whole) - 1, _DAYS).astype(int).tolist()} if whole else ()):
        of_day = whole[at]
        following = of_day[-1] + 1
        steps = [*of_day.tolist(), *([int(following)] if following < len(stamps) else [])]
        if len(steps) > len(of_day) and stamps[following] - stamps[following - 1] > np.timedelta64(DAY_S // 4, "s"):
            steps.pop()
        fields = list(_fields(request, (where[stamps[step]] for step in steps)))
        yield fields if len(steps) > len(of_day) else [*fields, np.full_like(fields[0], np.nan)]


def _is_whole(of_day: Ints, stamps: Times) -> bool:
    hours = (stamps[of_day[-1]] - stamps[of_day[0]]) / np.timedelta64(1, "h")
    return len(of_day) >= _STEPS_OF_A_DAY and bool(hours >= _HOURS_OF_A_DAY)


def _fields(request: Request, chosen: Iterable[tuple[Part, int]]) -> Iterator[Floats]:
    """Whole fields, one for each part and step, as files have them; neighbours in one file share its opening."""
    for path, together in groupby(chosen, key=lambda one: one[0].path):
        series = SeriesApart(path, request.select)
        try:
            for part, step in together:
                rows, cols = part.variable.points.shape
                yield from series.fields(part.variable, range(step, step + 1), slice(0, rows), [slice(0, cols)])
        finally:
            series.close()


def _grows(fields: list[Floats]) -> bool | None:
    """Whether the fields of a day, and the first of the next, are running sums; None if they do not tell."""
    *of_day, following = fields
    size = [_mean_size(field) for field in of_day]
    if max(size) == 0 or size[-1] < 1e-2 * max(size):
        return None if max(size) == 0 else False
    changes = [_mean_size(after - before) for before, after in pairwise(of_day)]
    never_falls = all(
        (np.abs(after) - np.abs(before) >= -1e-3 * max(size))[np.isfinite(after - before)].all()
        for before, after in pairwise(of_day)
    )
    if never_falls and size[-1] >= 3 * size[0] and sum(size) >= 4 * size[-1]:
        return True
    if not np.isfinite(following).any():
        return None
    jump = _mean_size(following - of_day[-1])
    return jump > _JUMP * float(np.mean(changes)) and _mean_size(following) < size[-1] / 2


def _mean_size(field: Floats) -> float:
    finite = np.abs(field[np.isfinite(field)])
    return float(finite.mean()) if finite.size else 0.0
