"""Options of archives of images: what bands are called, how files are named, and when they are."""

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from embedcube.campaign.options import PluginOptions
from embedcube.sources.catalog.dates import When, interval, when_told
from embedcube.sources.catalog.naming import Template
from embedcube.sources.catalog.told import Told
from embedcube.windows import parse_period


def _name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text(value: Any) -> Any:
    """A time as a text: YAML reads dates as dates, and years as numbers."""
    if isinstance(value, list | tuple):
        return [_text(one) for one in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return _name(value)


_TEXT_OR_NUMBER = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})

Moment = Annotated[str, BeforeValidator(_text), _TEXT_OR_NUMBER]
BandName = Annotated[str, BeforeValidator(_name), _TEXT_OR_NUMBER]


class ImageOptions(PluginOptions):
    """Options of archives of images."""

    variables: dict[str, BandName] = Field(default_factory=dict)
    """for a band, its name in files or their catalogue, where it is another, or its number (from 1) in files with
    several bands"""
    names: str | None = None
    """template for names of files, such as "{sat}_{date}_{band}.tif": {band}, {date}, {year}, {month}, {day},
    {start} and {end} (the last day, month or year) or {until} (the first moment after), {tile}, {sat}, {id}; * or {any}
    stands for anything. With a slash it is for the end of the path. Only files that fit are read, and no catalogue"""
    time: Moment | tuple[Moment, Moment] | None = None
    """time of files without a date in their name: a moment (2022-06-15), a month or year (2022-06), or [start, end], as
    for windows"""
    steps: list[Moment] | None = None
    """times of the steps in files whose bands are a series (B2, B2_1, B2_2 ...), one for each step"""

    @field_validator("names")
    @classmethod
    def _is_a_template(cls, names: str | None) -> str | None:
        if names is not None:
            Template(names)
        return names

    @field_validator("time")
    @classmethod
    def _is_a_time(cls, time: str | tuple[str, str] | None) -> str | tuple[str, str] | None:
        if time is not None:
            _when(time)
        return time

    @field_validator("steps")
    @classmethod
    def _are_times(cls, steps: list[str] | None) -> list[str] | None:
        for step in steps or ():
            _when(step)
        return steps

    @model_validator(mode="after")
    def _says_when_once(self) -> "ImageOptions":
        if self.names is None:
            return self
        dated = Template(self.names).dated
        if dated and self.time is not None:
            raise ValueError(f'names: "{self.names}" has a date, and time says another; leave one out')
        if not (dated or self.time is not None or self.steps or getattr(self, "static", False)):
            raise ValueError(f'names: "{self.names}" has no {{date}}, nor {{start}} and {{end}}; or say `time`')
        return self

    @property
    def told(self) -> Told:
        """What these options say of images."""
        return Told(
            names=Template(self.names) if self.names is not None else None,
            time=None if self.time is None else _when(self.time),
            steps=tuple(map(_when, self.steps or ())),
        )


def _when(time: str | tuple[str, str]) -> When:
    try:
        if isinstance(time, str):
            return when_told(time)
        return interval(parse_period(time[0]).start, parse_period(time[1]).start)
    except ValueError as error:
        raise ValueError(f"{error}; write for example 2022-06-15, 2022-06 or [2022-06-01, 2022-07-01]") from None
