"""Times that names of files tell: dates in their common forms, and names with two of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from embedcube.sources.catalog.sensing import sensing_part
from embedcube.windows import Duration, parse_period, utc

_YEAR = r"(?:1[89]|2[012])\d\d"
_TIME = r"T(?:[01]\d|2[0-3])[:-]?[0-5]\d(?:[:-]?[0-5]\d)?Z?"
_CLOCK_BEHIND = r"_(?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?!\d)"

DATE = (
    rf"(?:{_YEAR}\d\d\d\d(?:{_TIME}|{_CLOCK_BEHIND})?Z?"
    rf"|{_YEAR}(?:-\d\d-\d\d|_\d\d_\d\d|\.\d\d\.\d\d|-?\d\d\d)(?:{_TIME})?Z?"
    rf"|{_YEAR}(?:[-_.]?\d\d)?)"
)
"""Regular expression of a date: a day, a day of the year, a month or a year"""

_PARTS = re.compile(r"(\d{4})(?:[-_.]?(\d{2})(?:[-_.]?(\d{2}))?)?")
_DAY_OF_YEAR = re.compile(r"(\d{4})-?(\d{3})")
_CLOCK = re.compile(r"(\d\d)[:-]?(\d\d)(?:[:-]?(\d\d))?")

_DAY = re.compile(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?:[Tt](\d{6}))?(?!\d)")
"""A day in a name of any form; shorter dates could be other numbers"""

_SENSED_FIRST = (
    re.compile(r"(?:^|_)S2[A-D]_MSIL(?:1C|2A)_\d{8}T\d{6}_"),
    re.compile(r"(?:^|_)\d{8}T\d{6}_\d{8}T\d{6}_T\d\d[A-Z]{3}"),
    re.compile(r"^L[A-Z]\d\d_L\d\w\w_\d{6}_\d{8}_\d{8}_"),
    re.compile(r"^OPERA_L2_RTC-S1_"),
)
"""Names of Sentinel-2 (also in Earth Engine), Landsat and OPERA: the first date is of sensing, another of making"""

_LONGEST_PASS = timedelta(days=1)
"""most time from the first to the last line of one product"""

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class When:
    """The time of a product: a moment, or an interval."""

    time: datetime
    """UTC; the first moment of an interval"""
    end: datetime | None = None
    """the last second of an interval; None for a moment"""

    @property
    def after(self) -> datetime:
        """The first moment after an interval, or after the day of a moment."""
        return self.end + _SECOND if self.end else self.time.replace(hour=0, minute=0, second=0) + timedelta(days=1)


def interval(start: datetime, after: datetime) -> When:
    """The time from `start` on and before `after`.

    Raises:
        ValueError: it is empty.
    """
    if after <= start:
        raise ValueError(f"{after:%Y-%m-%dT%H:%M:%SZ} is not after {start:%Y-%m-%dT%H:%M:%SZ}")
    return When(time=start, end=after - _SECOND)


def when_of(text: str) -> When:
    """The time that a date in a name tells: a day is a moment, its midnight; a month or a year lasts.

    The forms are 20220615, 2022-06-15, 2022_06_15, 2022.06.15, 2022166 (day of the year), each with or without a time
    of day as T101031, and 202206, 2022-06, 2022.

    Raises:
        ValueError: there is no such date.
    """
    day, _, clock = text.removesuffix("Z").partition("T")
    if not clock and (match := re.fullmatch(r"(.+?)_((?:[01]\d|2[0-3])[0-5]\d[0-5]\d)", text)) and len(match[1]) >= 7:
        day, clock = match.groups()
    if match := _DAY_OF_YEAR.fullmatch(day):
        time = datetime(int(match[1]), 1, 1, tzinfo=UTC) + timedelta(days=int(match[2]) - 1)
        if time.year != int(match[1]):
            raise ValueError(f"{match[1]} has no day {match[2]}")
    elif match := _PARTS.fullmatch(day):
        year, month, number = (int(part) if part else 0 for part in match.groups())
        time = datetime(year, month or 1, number or 1, tzinfo=UTC)
        if not number:
            return interval(time, Duration(months=1 if month else 12, hours=0).after(time))
    else:
        raise ValueError(f"{text} is no date")
    if clock:
        found = _CLOCK.fullmatch(clock)
        if found is None:
            raise ValueError(f"{text} is no date")
        time = time.replace(hour=int(found[1]), minute=int(found[2]), second=int(found[3] or 0))
    return When(time=time)


def when_told(value: str) -> When:
    """The time that a person writes: a day or a time of day is a moment; a month, a year or "start/end" lasts.

    Raises:
        ValueError: it is no time.
    """
    period = parse_period(value)
    if "/" not in value and period.end - period.start <= timedelta(days=1):
        return When(time=period.start)
    return interval(period.start, period.end)


def last_moment(start: datetime, end: datetime) -> datetime | None:
    """The last moment of an interval, as `Scene.end` has it; None where it has no length.

    An end on a whole minute is the first moment after it: bounds of six hours end at 06:00. Others, as 23:59:59, are
    the last.
    """
    if end <= start:
        return None
    return end - _SECOND if end.second == end.microsecond == 0 else end


def time_in(name: str) -> datetime | None:
    """The first date in a name, with its time of day where there is one: `20230815T100031`, `2023-08-15`.

    It is never the time at which a product was made, as far as its form tells.
    """
    return next((moment for moment, _ in _moments(name)), None)


def _moments(name: str) -> Iterator[tuple[datetime, bool]]:
    """The dates in a name that may tell when a product was sensed, and whether each has a time of day."""
    for match in _DAY.finditer(sensing_part(name)):
        try:
            yield utc(datetime.fromisoformat("{}-{}-{}T{}".format(*match.groups("000000")))), match[4] is not None
        except ValueError:
            continue  # eight digits that are not a date


def when_in(name: str) -> When | None:
    """The moment of the date in a name; None if it has none.

    It is never the time at which a product was made, as far as the form of the name tells.

    Of two times less than a day apart, as Sentinel-1 has them, it is the first: the beginning and the end of sensing.

    Raises:
        ValueError: the name has dates of two days, and may mean an interval, a pair, or when the file was made.
    """
    moments = list(_moments(name))
    if not moments:
        return None
    found, timed = [moment for moment, _ in moments], all(has_time for _, has_time in moments)
    first = found[0]
    one_pass = all(other.date() == first.date() or (timed and abs(other - first) < _LONGEST_PASS) for other in found)
    if one_pass or any(pattern.search(name) for pattern in _SENSED_FIRST):
        return When(time=first)
    other = next(other for other in found if other.date() != first.date())
    raise ValueError(
        f"its name has two dates, {first:%Y-%m-%d} and {other:%Y-%m-%d}: options.names says which one counts, as "
        "{date}, or that they are {start} and {end}"
    )
