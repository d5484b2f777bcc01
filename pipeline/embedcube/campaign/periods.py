"""Blocks of a campaign file about time: windows at regular steps, and a period."""

from typing import Self

from pydantic import model_validator

from embedcube.campaign.fields import Block, Time
from embedcube.windows import Duration, Window, windows_every


class WindowSteps(Block):
    """Windows of one length that begin at regular steps."""

    start: Time
    """start of the first window, for example 2023-06-01"""
    end: Time
    """end of the last window, for example 2024-01-01: the first moment that is in no window"""
    step: str
    """time from one start to the next: "14 days", "1 month", "1 year" """
    length: str | None = None
    """length of a window, where it is not the step: "5 months" from May in steps of a year"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {self.end:%Y-%m-%d} is not after start {self.start:%Y-%m-%d}")
        try:
            self.windows()
        except OverflowError:
            raise ValueError(f"a window of {self.length or self.step} does not end within the calendar") from None
        return self

    def windows(self) -> tuple[Window, ...]:
        """The windows, in order."""
        length = Duration.parse(self.length) if self.length else None
        return windows_every(self.start, self.end, Duration.parse(self.step), length)


class Period(Block):
    """An interval of time."""

    start: Time
    """first moment of the interval, for example 2020-01-01"""
    end: Time
    """end of the interval, for example 2022-01-01: the first moment after it"""
