"""Patterns of file names with a parameter and a date, and the times of a file that follow from its date."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from embedcube.sources.era5.series import Variable
from embedcube.sources.era5.timeline import Times, stamps_of
from embedcube.windows import Duration

_DATE = r"\d{4}(?:-\d{2}(?:-\d{2})?|\d{2}(?:\d{2})?)?"
"""Regular expression of a year, month or day in a name"""


def expression(pattern: str) -> str:
    """The pattern as a regular expression; a repeated {param} or {date} must match the same text."""
    groups = {"{param}": r"(?P<param>[^/]+?)", "{date}": f"(?P<date>{_DATE})"}
    result = ""
    for piece in re.split(r"(\{param\}|\{date\}|\*)", pattern):
        if piece in groups:
            result += f"(?P={piece[1:-1]})" if groups[piece] in result else groups[piece]
        else:
            result += "[^/]*" if piece == "*" else re.escape(piece)
    return result


def span_of(date: str) -> tuple[datetime, datetime]:
    """The start and the end of the year, month or day in a name."""
    digits = date.replace("-", "")
    unit = {4: "1 year", 6: "1 month", 8: "1 day"}[len(digits)]
    start = datetime(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:] or 1), tzinfo=UTC)
    return start, Duration.parse(unit).after(start)


def moved(variable: Variable, start: datetime, end: datetime, span: tuple[datetime, datetime]) -> Variable:
    """The variable of a file of `start` to `end`, with its times moved to a file of another `span`."""
    times, (first, last) = variable.times, stamps_of([start, end])
    new_first, new_last = stamps_of(list(span))
    steps = np.unique(np.diff(times))
    if len(steps) <= 1:
        step = steps[0] if len(steps) else last - first
        new = np.arange(new_first + (times[0] - first), new_last + (times[-1] - last) + np.timedelta64(1, "s"), step)
    else:  # monthly steps: at the same place in each month
        into = times - times.astype("datetime64[M]")
        months = times.astype("datetime64[M]") - first.astype("datetime64[M]")
        new = (new_first.astype("datetime64[M]") + months).astype("datetime64[s]") + into
    return replace(variable, times=new, spans=_moved_spans(variable, new))


def _moved_spans(variable: Variable, times: Times) -> NDArray[np.datetime64] | None:
    """The time that each step of a moved variable stands for: as far from its stamp as in the file that was opened."""
    if variable.spans is None:
        return None
    apart = variable.spans - variable.times[:, None]
    if (apart == apart[0]).all():
        return np.asarray(times[:, None] + apart[0])
    months = variable.spans.astype("datetime64[M]") - variable.times.astype("datetime64[M]")[:, None]
    into = variable.spans - variable.spans.astype("datetime64[M]")
    if (months == months[0]).all() and (into == into[0]).all():
        return np.asarray((times.astype("datetime64[M]")[:, None] + months[0]).astype("datetime64[s]") + into[0])
    if len(times) != len(apart):
        raise ValueError("its steps have several lengths; index without a pattern")
    return np.asarray(times[:, None] + apart)
