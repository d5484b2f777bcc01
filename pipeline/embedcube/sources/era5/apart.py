"""A series that is opened and read by another process: eccodes and HDF5 may crash or never end on wrong bytes.

`index` opens files so. A rank that a file kills is noticed by the other ranks and by the parent.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.sources.apart import apart
from embedcube.sources.era5.files import open_series
from embedcube.sources.era5.series import Series, Variable


class SeriesApart:
    """A file or store that another process has open."""

    def __init__(self, path: Path, select: Mapping[str, Any]) -> None:
        """Open it, with the errors of `open_series`; a ValueError too where the decoder crashes or does not end."""
        self._path, self._select = path, select
        self._size = 0 if path.is_dir() else path.stat().st_size
        self.variables, self.faults = apart(_described, self._size, path, select)

    def fields(self, variable: Variable, steps: range, rows: slice, cols: list[slice]) -> Iterator[NDArray[np.float64]]:
        """Values at each step, as `Series.fields` describes."""
        yield from apart(_fields, self._size, self._path, self._select, variable, steps, rows, cols)

    def close(self) -> None:
        """Close the file in the other process."""
        apart(_close, 0)


_open: dict[Path, Series] = {}
"""the series that this process has open: one at most"""


def _described(
    path: Path, select: Mapping[str, Any]
) -> tuple[tuple[Variable, ...], Mapping[str, tuple[frozenset[str], str]]]:
    _close()
    _open[path] = open_series(path, select)
    return _open[path].variables, dict(_open[path].faults)


def _fields(
    path: Path, select: Mapping[str, Any], variable: Variable, steps: range, rows: slice, cols: list[slice]
) -> list[NDArray[np.float64]]:
    if path not in _open:
        _described(path, select)
    return list(_open[path].fields(variable, steps, rows, cols))


def _close() -> None:
    while _open:
        _open.popitem()[1].close()
