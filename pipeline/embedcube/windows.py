"""Windows: the intervals of time that the steps of a cube's time axis stand for."""

import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, time, timedelta
from itertools import count

import numpy as np
from numpy.typing import NDArray

_DURATION = re.compile(r"^\s*(\d+)\s*(hour|day|week|month|year)s?\s*$")
_PARTIAL_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_END_OF_DAY = re.compile(r"(\d{4}-?\d\d-?\d\d)([T ])24(:?00(?::?00(?:[.,]0+)?)?(?:Z|[+-][\d:]+)?)")
_LEAP_SECOND = re.compile(r"(.*23:?59:?)60(?:[.,]\d+)?((?:Z|[+-][\d:]+)?)")
"""Times that ISO 8601 knows and `datetime` does not"""


@dataclass(frozen=True, order=True)
class Window:
    """A half-open interval of time, `start <= t < end`, in UTC."""

    start: datetime
    end: datetime

    def __contains__(self, time: datetime) -> bool:
        return self.start <= time < self.end

    def overlaps(self, first: datetime, last: datetime) -> bool:
        """Whether a part of the time from `first` to `last`, both included, lies in the window."""
        return first < self.end and last >= self.start

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}/{self.end:%Y-%m-%dT%H:%M:%SZ}"

    @property
    def short(self) -> str:
        """ISO 8601 interval, "2023-06-01/2023-07-01" where both ends are midnights; `parse_period` reads it."""
        form = "%Y-%m-%d" if self.start.time() == self.end.time() == time() else "%Y-%m-%dT%H:%M:%SZ"
        return f"{self.start:{form}}/{self.end:{form}}"

    @property
    def days(self) -> str:
        """First and last day in words, "2023-06-01 to 2023-06-30"; with hours where the window cuts a day."""
        if self.start.time() == self.end.time() == time():
            last = self.end - timedelta(days=1)
            return f"{self.start:%Y-%m-%d}" + (f" to {last:%Y-%m-%d}" if last > self.start else "")
        same_day = self.start.date() == self.end.date()
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


@dataclass(frozen=True)
class Duration:
    """A length of time on the calendar: a month has 28 to 31 days, a year 365 or 366."""

    months: int
    hours: int

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Duration of a text such as "14 days", "1 month", "1 year", "6 hours"; a ValueError says what is allowed."""
        match = _DURATION.match(text)
        if match is None or int(match[1]) == 0:
            raise ValueError(f'"{text}" is not a length of time; write for example "14 days", "1 month" or "1 year"')
        count, unit = int(match[1]), match[2]
        months = count * {"month": 1, "year": 12}.get(unit, 0)
        hours = count * {"hour": 1, "day": 24, "week": 168}.get(unit, 0)
        return cls(months=months, hours=hours)

    def after(self, time: datetime, times: int = 1) -> datetime:
        """Moment that is `times` such lengths after `time`; a day that the month does not have becomes its last day."""
        month_index = time.year * 12 + time.month - 1 + self.months * times
        year, month = divmod(month_index, 12)
        if year > MAXYEAR:
            raise OverflowError(f"year {year}")
        day = min(time.day, monthrange(year, month + 1)[1])
        return time.replace(year=year, month=month + 1, day=day) + timedelta(hours=self.hours * times)


def windows_every(start: datetime, end: datetime, step: Duration, length: Duration | None = None) -> tuple[Window, ...]:
    """Windows that begin at start, start + step, ... before `end`. Each is `length` long, by default one step.

    Every start is counted from the first one, so that months keep their day. The last window ends at `end`.
    """
    windows = []
    for i in count():
        begin = step.after(start, i)
        if begin >= end:
            break
        finish = step.after(start, i + 1) if length is None else length.after(begin)
        windows.append(Window(begin, min(finish, end)))
    return tuple(windows)


def parse_period(text: str) -> Window:
    """The time that a text names: a year, a month, a day, a moment, or an interval "start/end".

    "2023", "2023-06", "2023-06-15", "2023-06-15T12:00Z", "2023-06-01/2023-07-01". A moment becomes one microsecond.

    Raises:
        ValueError: the text is none of these.
    """
    start, separator, end = text.strip().partition("/")
    if separator:
        return _ordered(parse_period(start).start, parse_period(end).start)
    match = _PARTIAL_DATE.fullmatch(start)
    if match is None:
        begin = moment(start)
        return Window(begin, begin + timedelta.resolution)
    year, month, day = (int(number) if number else None for number in match.groups())
    try:
        begin = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{start}: {error}") from None
    length = Duration(months=0, hours=24) if day else Duration(months=1 if month else 12, hours=0)
    return Window(begin, length.after(begin))


def _ordered(start: datetime, end: datetime) -> Window:
    if end <= start:
        raise ValueError(f"{end} is not after {start}")
    return Window(start, end)


def matching_windows(windows: Sequence[Window], period: Window) -> list[int]:
    """Indices of the windows that a period selects.

    The window equal to the period; else the first window that contains all of it; else all windows that overlap it.
    """
    equal = [i for i, window in enumerate(windows) if window == period]
    holding = [i for i, window in enumerate(windows) if window.start <= period.start and period.end <= window.end]
    overlapping = [i for i, window in enumerate(windows) if window.start < period.end and period.start < window.end]
    return equal or holding[:1] or overlapping


def dates_of(windows: Sequence[Window]) -> NDArray[np.int64]:
    """Dates (window, 2, 3): year, month and day of the year, counted from 1, of the start and the middle of each."""
    moments = [(one.start, one.start + (one.end - one.start) / 2) for one in windows]
    numbers = [[(time.year, time.month, time.timetuple().tm_yday) for time in both] for both in moments]
    return np.array(numbers, dtype=np.int64).reshape(-1, 2, 3)


def moment(text: str) -> datetime:
    """The moment that an ISO 8601 text names, in UTC; without a zone it is UTC.

    24:00 is the end of its day, and a leap second the moment after it.

    Raises:
        ValueError: it names none.
    """
    later, plain = timedelta(0), text
    if found := _END_OF_DAY.fullmatch(text):
        later, plain = timedelta(days=1), f"{found[1]}{found[2]}00{found[3]}"
    elif found := _LEAP_SECOND.fullmatch(text):
        later, plain = timedelta(seconds=1), f"{found[1]}59{found[2]}"
    try:
        return utc(datetime.fromisoformat(plain)) + later
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None


def utc(time: datetime) -> datetime:
    """The same moment in UTC; a time without a zone is taken as UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
