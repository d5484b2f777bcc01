"""The time that each step of a series stands for: instants or intervals, and how much of a frame they fill."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedcube.windows import Window

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Times = NDArray[np.datetime64]
"""datetime64[s], UTC"""

DAY_S, MONTH_S = 86400, 28 * 86400

_UNKNOWN = 0.5
"""share of a frame that a single instant fills: it is a value of the frame, but never all of it"""

_RUN = re.compile(r"(?P<begin>[^+]+)\+(?P<length>\d+)(?P<unit>[sMir])\*(?P<count>\d+)@(?P<stride>\d+)")


def stamps_of(moments: list[datetime]) -> Times:
    """Moments in UTC as datetime64[s]."""
    return np.array([moment.astimezone(UTC).replace(tzinfo=None) for moment in moments], dtype="datetime64[s]")


def moment_of(stamp: np.datetime64) -> datetime:
    """A stamp as a moment in UTC."""
    moment = stamp.astype("datetime64[s]").item()
    assert isinstance(moment, datetime)
    return moment.replace(tzinfo=UTC)


def months_after(times: Times, months: int) -> Times:
    """Times a number of months later, at the same place in their month."""
    month = times.astype("datetime64[M]")
    return np.asarray((month + months).astype("datetime64[s]") + (times - month))


def midnight_before(times: Times) -> Times:
    """The midnight at which the day of each stamp begins; a stamp of midnight ends its day."""
    return (times - np.timedelta64(1, "s")).astype("datetime64[D]").astype("datetime64[s]")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The steps of a band in one file, in order of time."""

    begins: Times
    ends: Times
    """an interval that ends where it begins is of unknown length, and fills nothing"""
    instants: bool
    """whether the steps have no length"""
    running: bool
    """whether the steps are sums that count from the midnight before their end"""
    step_s: int
    """seconds between two instants: the time that each stands for. 0 where it is unknown"""

    def part(self, steps: slice) -> Self:
        """Some of the steps."""
        return replace(self, begins=self.begins[steps], ends=self.ends[steps])

    def within(self, frame: Window, split: bool) -> tuple[Ints, Floats]:
        """Steps that belong to a frame, and the seconds that each fills.

        Instants belong to the frame [start, end) that has their stamp. Intervals must lie within the frame, unless
        `split` allows a part of them. Of running sums those are given that make the frame's sum, with negative seconds
        where one is to be subtracted.
        """
        start, end = stamps_of([frame.start, frame.end])
        if self.instants:
            inside = np.nonzero((self.begins >= start) & (self.begins < end))[0]
            whole_s = (end - start).astype(np.int64)
            return inside, np.full(len(inside), float(self.step_s or _UNKNOWN * whole_s))
        if self.running:
            return self._of_running(start, end)
        near = slice(*np.searchsorted(self.begins, [start - self._longest, end]).tolist())
        begins, ends = self.begins[near], self.ends[near]
        first, last = np.maximum(begins, start), np.minimum(ends, end)
        taken = first < last if split else (begins >= start) & (ends <= end) & (begins < ends)
        inside = np.nonzero(taken)[0]
        return inside + near.start, (last - first)[inside].astype(np.float64)

    @cached_property
    def _longest(self) -> np.timedelta64:
        """The length of the longest step."""
        return np.timedelta64(int((self.ends - self.begins).astype(np.int64).max()), "s")

    def _of_running(self, start: np.datetime64, end: np.datetime64) -> tuple[Ints, Floats]:
        seconds = (self.ends - self.begins).astype(np.float64)
        closes = (self.ends - self.begins == np.timedelta64(DAY_S, "s")) | (self.ends == end)
        added = np.nonzero(closes & (self.ends > start) & (self.ends <= end))[0]
        # what had come down before the frame begins within a day
        taken_off = np.nonzero((self.ends == start) & (seconds < DAY_S))[0]
        return np.concatenate([added, taken_off]), np.concatenate([seconds[added], -seconds[taken_off]])

    @property
    def cover(self) -> tuple[datetime, datetime]:
        """First and last moment that any step stands for. An interval ends a second before the next one begins."""
        last = self.ends.max()
        if not (self.instants or self.running):
            last = last - np.timedelta64(1, "s")
        return moment_of(self.begins.min()), moment_of(last)

    @property
    def text(self) -> str:
        """The timeline as runs of equal steps: "2022-01-01T00:00:00+3600s*24@3600".

        A run has its first begin, the length of a step, the number of steps, and the time from one to the next: in
        seconds (s; i for instants, r for running sums), or in months (M).
        """
        return " ".join(self._runs())

    def _runs(self) -> Iterator[str]:
        months, ends = (times.astype("datetime64[M]").astype(np.int64) for times in (self.begins, self.ends))
        length, stride = ends - months, np.diff(months)
        in_month = np.stack([times - times.astype("datetime64[M]") for times in (self.begins, self.ends)])
        regular = all(len(np.unique(values)) <= 1 for values in (length, stride, in_month))
        if regular and length.min() > 0 and not self.running:
            yield f"{self.begins[0]}+{length[0]}M*{len(months)}@{stride[0] if len(stride) else length[0]}"
            return
        seconds, apart = (self.ends - self.begins).astype(np.int64), np.diff(self.begins).astype(np.int64)
        unit = "i" if self.instants else "r" if self.running else "s"
        first = 0
        while first < len(seconds):
            step = int(apart[first]) if first < len(apart) else 0
            other = np.nonzero((apart[first:] != step) | (seconds[first + 1 :] != seconds[first]))[0]
            after = first + 1 + (int(other[0]) if len(other) else len(apart) - first)
            yield f"{self.begins[first]}+{seconds[first]}{unit}*{after - first}@{step}"
            first = after


@lru_cache(maxsize=4096)
def read_timeline(text: str, step_s: int) -> Timeline:
    """The timeline that `Timeline.text` describes.

    Raises:
        ValueError: the text is none.
    """
    begins, ends, units = [], [], set[str]()
    for run in text.split():
        if (parts := _RUN.fullmatch(run)) is None:
            raise ValueError(f'"{run}" is no run of steps')
        first = np.datetime64(parts["begin"], "s")
        count, length, stride = int(parts["count"]), int(parts["length"]), int(parts["stride"])
        units.add(parts["unit"])
        if parts["unit"] == "M":
            begin = _monthly(first, count, stride)
            begins.append(begin)
            ends.append(months_after(begin, length))
        else:
            begins.append(first + np.arange(count) * np.timedelta64(stride, "s"))
            ends.append(begins[-1] + np.timedelta64(length, "s"))
    return Timeline(
        begins=np.concatenate(begins),
        ends=np.concatenate(ends),
        instants=units == {"i"},
        running=units == {"r"},
        step_s=step_s,
    )


def _monthly(first: np.datetime64, count: int, stride: int) -> Times:
    month = first.astype("datetime64[M]")
    return np.asarray((month + stride * np.arange(count)).astype("datetime64[s]") + (first - month))
