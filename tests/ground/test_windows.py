"""Windows divide time without gap or overlap, months have 28 to 31 days, and every scene is in exactly one window."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedcube.windows import Duration, Window, matching_windows, moment, parse_period, utc, windows_every

steady = settings(deadline=None)

first, last = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (1950, 2090))
moments = st.integers(int(first), int(last)).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
spans = st.integers(1, 3650 * 86400).map(lambda seconds: timedelta(seconds=seconds))


@st.composite
def steps(draw: st.DrawFn) -> str:
    """Strategy: steps as a campaign file writes them, such as "14 days"."""
    count, unit = draw(
        st.one_of(
            st.tuples(st.integers(20, 500), st.just("hour")),
            st.tuples(st.integers(1, 400), st.just("day")),
            st.tuples(st.integers(1, 60), st.just("week")),
            st.tuples(st.integers(1, 30), st.just("month")),
            st.tuples(st.integers(1, 12), st.just("year")),
        )
    )
    return f"{count} {unit}{'s' if count != 1 else draw(st.sampled_from(['', 's']))}"


def day(text: str) -> datetime:
    """Midnight (UTC) at the beginning of a day."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def starts(start: str, end: str, step: str, length: str | None = None) -> list[tuple[str, str]]:
    """First day and end of each window, as pairs of text."""
    made = windows_every(day(start), day(end), Duration.parse(step), Duration.parse(length) if length else None)
    return [(f"{window.start:%Y-%m-%d}", f"{window.end:%Y-%m-%d}") for window in made]


@steady
@given(start=moments, span=spans, step=steps())
def test_windows_tile_their_range(start: datetime, span: timedelta, step: str) -> None:
    windows = windows_every(start, start + span, Duration.parse(step))
    assert windows[0].start == start
    assert windows[-1].end == start + span
    assert all(one.end == other.start for one, other in pairwise(windows))
    assert all(window.start < window.end for window in windows)


@steady
@given(start=moments, span=spans, step=steps(), share=st.floats(0, 1, exclude_max=True))
def test_every_moment_lies_in_exactly_one_window(start: datetime, span: timedelta, step: str, share: float) -> None:
    windows = windows_every(start, start + span, Duration.parse(step))
    inner = start + span * share
    borders = [window.start for window in windows[:50]]
    for one in [inner, *borders]:
        assert sum(one in window for window in windows) == (one < start + span)
    for outside in (start - timedelta(seconds=1), start + span):
        assert not any(outside in window for window in windows)


@steady
@given(start=moments, months=st.integers(1, 30), times=st.integers(1, 200))
def test_months_keep_their_day_or_take_the_last_one(start: datetime, months: int, times: int) -> None:
    found = Duration(months=months, hours=0).after(start, times)
    assert (found.year * 12 + found.month) - (start.year * 12 + start.month) == months * times
    assert found.time() == start.time()
    if found.day != start.day:
        assert found.day < start.day
        assert (found + timedelta(days=1)).day == 1, "the month has a later day"


@steady
@given(start=moments, span=spans, step=steps(), length=steps())
def test_windows_of_another_length_begin_at_the_same_moments(
    start: datetime, span: timedelta, step: str, length: str
) -> None:
    plain = windows_every(start, start + span, Duration.parse(step))
    other = windows_every(start, start + span, Duration.parse(step), Duration.parse(length))
    assert [window.start for window in other] == [window.start for window in plain]
    for window in other:
        assert window.end == min(Duration.parse(length).after(window.start), start + span)


def test_months_from_the_thirty_first() -> None:
    assert starts("2023-01-31", "2023-06-01", "1 month") == [
        ("2023-01-31", "2023-02-28"),
        ("2023-02-28", "2023-03-31"),
        ("2023-03-31", "2023-04-30"),
        ("2023-04-30", "2023-05-31"),
        ("2023-05-31", "2023-06-01"),
    ]


def test_leap_days() -> None:
    assert starts("2024-01-31", "2024-03-31", "1 month") == [("2024-01-31", "2024-02-29"), ("2024-02-29", "2024-03-31")]
    assert starts("2024-02-29", "2028-03-01", "1 year")[-2:] == [
        ("2027-02-28", "2028-02-29"),
        ("2028-02-29", "2028-03-01"),
    ]
    fortnights = starts("2024-02-20", "2024-03-19", "14 days")
    assert fortnights == [("2024-02-20", "2024-03-05"), ("2024-03-05", "2024-03-19")]
    assert starts("2023-02-20", "2023-03-20", "2 weeks") == [("2023-02-20", "2023-03-06"), ("2023-03-06", "2023-03-20")]


def test_a_season_of_each_year() -> None:
    assert starts("2021-05-01", "2023-07-15", "1 year", "5 months") == [
        ("2021-05-01", "2021-10-01"),
        ("2022-05-01", "2022-10-01"),
        ("2023-05-01", "2023-07-15"),
    ]


def test_windows_may_overlap_where_they_are_longer_than_their_step() -> None:
    assert starts("2023-01-01", "2023-03-01", "1 month", "45 days") == [
        ("2023-01-01", "2023-02-15"),
        ("2023-02-01", "2023-03-01"),
    ]


def test_the_last_window_is_cut() -> None:
    assert starts("2023-06-01", "2023-07-10", "1 month")[-1] == ("2023-07-01", "2023-07-10")
    assert starts("2023-06-01", "2023-06-02", "1 year") == [("2023-06-01", "2023-06-02")]


def test_a_window_is_half_open() -> None:
    window = Window(day("2023-06-01"), day("2023-07-01"))
    assert day("2023-06-01") in window
    assert day("2023-07-01") not in window
    assert day("2023-07-01") - timedelta(microseconds=1) in window
    assert str(window) == "2023-06-01T00:00:00Z/2023-07-01T00:00:00Z"


def test_times_are_utc() -> None:
    summer = datetime.fromisoformat("2023-07-01T01:30:00+02:00")
    assert utc(summer).isoformat() == "2023-06-30T23:30:00+00:00"
    assert utc(datetime(2023, 7, 1)).isoformat() == "2023-07-01T00:00:00+00:00"  # noqa: DTZ001
    assert summer in Window(day("2023-06-01"), day("2023-07-01"))


@pytest.mark.parametrize("text", ["", "14", "days", "0 days", "-1 month", "1.5 days", "1 fortnight", "1 month 2 days"])
def test_other_lengths_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='is not a length of time; write for example "14 days"'):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("2023", "2023-01-01/2024-01-01"),
        ("2023-12", "2023-12-01/2024-01-01"),
        ("2024-02", "2024-02-01/2024-03-01"),
        (" 2024-02-29 ", "2024-02-29/2024-03-01"),
        ("2023-06-01/2023-07-01", "2023-06-01/2023-07-01"),
        ("2023-06/2024", "2023-06-01/2024-01-01"),
        ("2022-08-31T03:00:00Z/2022-08-31T06:00Z", "2022-08-31T03:00:00Z/2022-08-31T06:00:00Z"),
    ],
)
def test_a_partial_date_is_a_period(text: str, period: str) -> None:
    assert parse_period(text).short == period
    assert parse_period(period) == parse_period(text)


@pytest.mark.parametrize(
    "text", ["2023-06-15T12:00", "2023-06-15T12:00:00Z", "2023-06-15T14:00+02:00", "2023-06-15 12:00"]
)
def test_a_moment_is_in_utc_unless_it_says_otherwise(text: str) -> None:
    noon = datetime(2023, 6, 15, 12, tzinfo=UTC)
    assert parse_period(text) == Window(noon, noon + timedelta(microseconds=1))


@pytest.mark.parametrize("text", ["", "tomorrow", "2023-13", "2023-02-30", "202", "2024/2023", "2023/2023", "2023/"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_period(text)


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("2023-08", [0]),
        ("2023-08-09/2023-08-16", [1]),
        ("2023-08-08", [0]),
        ("2023-08-10", [0]),
        ("2023-08-31T23:59:59", [0]),
        ("2023-09-01", []),
        ("2023-08-14/2023-08-18", [0]),
        ("2023", [0, 1, 2]),
        ("2022", []),
    ],
)
def test_a_period_selects_windows(text: str, matching: list[int]) -> None:
    """A period selects the equal window, else the first that contains it, else all windows that overlap it."""
    august = ("2023-08-01/2023-09-01", "2023-08-09/2023-08-16", "2023-08-16/2023-08-31")
    assert matching_windows([parse_period(window) for window in august], parse_period(text)) == matching


def test_days_of_windows() -> None:
    texts = (
        "2023-06-01/2023-07-01",
        "2023-06-01/2023-06-02",
        "2022-08-31T00:00Z/2022-08-31T03:00Z",
        "2022-08-31T21:00Z/2022-09-01",
    )
    assert [parse_period(text).days for text in texts] == [
        "2023-06-01 to 2023-06-30",
        "2023-06-01",
        "2022-08-31 00:00 to 03:00 UTC",
        "2022-08-31 21:00 to 2022-09-01 00:00 UTC",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-02-28T24:00:00Z", "2023-03-01T00:00:00+00:00"),
        ("20240228T2400", "2024-02-29T00:00:00+00:00"),
        ("2023-12-31T24:00:00.000+01:00", "2023-12-31T23:00:00+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2023-06-15T12:00:00-05:00", "2023-06-15T17:00:00+00:00"),
        ("2024-02-29", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_a_moment_is_read_in_all_forms_of_iso_8601(text: str, expected: str) -> None:
    assert moment(text).isoformat() == expected


@pytest.mark.parametrize("text", ["2023-02-29", "2023-06-01T25:00", "2023-06-01T24:01Z", "2023-06-01T12:10:60Z", "x"])
def test_what_is_no_moment_is_refused_by_its_name(text: str) -> None:
    for read in (moment, parse_period):
        with pytest.raises(ValueError, match=re.escape(text)):
            read(text)
