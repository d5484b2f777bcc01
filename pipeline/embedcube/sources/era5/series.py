"""Series: files and stores that hold fields over time, described by their headers and read step by step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.sources.era5.points import Points
from embedcube.sources.era5.steps import Method, Times


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One parameter of a series, as the file describes it."""

    name: str
    """what the series calls it"""
    names: frozenset[str]
    """all that the file says it is: parameter id and short names, and its variable's name unless they deny it"""
    standard_name: str
    """of CF; empty where there is none"""
    points: Points
    times: Times
    """of its steps, rising"""
    method: Method | None
    """what a step is of its time; None where the file does not say"""
    ends: bool | None
    """whether that time ends at the step's stamp; None where the file does not say"""
    block: tuple[int, int]
    """rows and columns that are decoded at once"""
    whole: bool
    """any part of a field costs all of it: it is one block"""
    processing: str = ""
    """what reading decides, in words"""


class Series(Protocol):
    """An open file or store. Not for two threads at once: neither HDF5 nor eccodes can bear that."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Those that can be read."""
        ...

    @property
    def faults(self) -> Mapping[str, tuple[frozenset[str], str]]:
        """Of the variables that cannot: their names, and why."""
        ...

    def fields(self, variable: Variable, steps: range, rows: slice, cols: list[slice]) -> Iterator[NDArray[np.float64]]:
        """The values at each step in turn, on some rows and the runs `cols` of columns; NaN where missing.

        Raises:
            ValueError: a field holds nothing where the series promises one, or its bytes do not decode.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...
