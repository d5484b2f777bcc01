"""The contract of a series: a file or store of fields over time, described by its header and read step by step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.sources.era5.points import Points
from embedcube.sources.era5.steps import Method
from embedcube.sources.era5.timeline import Times


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of a variable beside its names, points and times."""

    step_type: str = ""
    """GRIB's word for what a step is of its time; empty if the file has none"""
    units: str = ""
    """units of the values, as the file says; empty if it does not"""
    timeless: bool = False
    """whether the file gives the field no time"""
    precision: float = 0.0
    """step between two numbers that the file can hold; 0 where they are not packed"""
    version: int = 1
    """ERA5's experiment version: 1 for final data, 5 for preliminary data alone"""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One parameter of a series, as the file describes it."""

    name: str
    """name of the variable in the series"""
    names: frozenset[str]
    """names that the file gives it: parameter id, short names, and the variable's name unless they contradict it"""
    standard_name: str
    """CF standard name; empty if there is none"""
    points: Points
    times: Times
    """times of its steps, rising"""
    method: Method | None
    """what a step's value says of its time interval; None if the file does not state it"""
    spans: NDArray[np.datetime64] | None
    """begin and end of the time that each step stands for (step, 2); None if the file does not state it"""
    block: tuple[int, int]
    """rows and columns that are decoded together"""
    whole: bool
    """whether a field is one block, so that reading a part of it decodes all of it"""
    block_bytes: int = 0
    """memory of what is decoded together, which may be several steps; 0 where single rows are read"""
    header: Header = field(default=Header())
    """what else the file says of it"""
    processing: str = ""
    """decisions of reading, in words"""


class Series(Protocol):
    """An open file or store, for one thread at a time: neither HDF5 nor eccodes is thread-safe."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that can be read."""
        ...

    @property
    def faults(self) -> Mapping[str, tuple[frozenset[str], str]]:
        """The variables that cannot be read, each with its names and the reason."""
        ...

    def fields(self, variable: Variable, steps: range, rows: slice, cols: list[slice]) -> Iterator[NDArray[np.float64]]:
        """Values at each step in turn, on `rows` and the runs of columns `cols`; NaN where missing.

        Raises:
            ValueError: a field has no value at all, or its bytes do not decode.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """One band in one file, or some of its steps."""

    band: str
    path: Path
    variable: Variable
    used: range | None = None
    """the steps that are used, if not all are; others are taken from another file"""

    @property
    def steps(self) -> slice:
        """The steps that are used."""
        return slice(None) if self.used is None else slice(self.used.start, self.used.stop)

    @property
    def times(self) -> Times:
        """Stamps of the steps that are used."""
        return self.variable.times[self.steps]
