"""Series: files and stores that hold fields over time, opened by their headers and read step by step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedcube.errors import CorruptInput
from embedcube.raster import judge_missing
from embedcube.sources.lattice import Points

Times = NDArray[np.datetime64]
"""datetime64[s], UTC"""

NETCDF = frozenset((".nc", ".nc4", ".netcdf"))
GRIB = frozenset((".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2"))
ZARR = ".zarr"
"""The suffix of a folder"""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One parameter of a series, as the file describes it."""

    name: str
    """what the series calls it"""
    names: frozenset[str]
    """all that the file says it is: parameter id and short names; its variable's name only where it says none"""
    standard_name: str
    """of CF; empty where there is none"""
    points: Points
    times: Times
    """of its steps, rising"""
    accumulated: bool | None
    """whether it holds sums over the time before each step; None where the file does not say"""
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


def is_series(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in NETCDF | GRIB | {ZARR}


def open_series(path: Path, select: Mapping[str, Any]) -> Series:
    """Open a file or store by its suffix; `select` picks one place of each further dimension.

    Raises:
        ValueError: its bytes do not decode.
        OSError: it could not be read.
    """
    if path.suffix.lower() in GRIB:
        from embedcube.sources.series_grib import GribSeries

        return GribSeries(path, select)
    from embedcube.sources.series_xarray import XarraySeries

    return XarraySeries(path, "zarr" if path.suffix.lower() == ZARR else "netcdf4", select)


def judge_series(
    path: Path, name: str, select: Mapping[str, Any], decode: Callable[["Series"], object], *, size: int | None
) -> CorruptInput | OSError:
    """Why a series could not be decoded, as `raster.judge` has it: wrong bytes or a passing failure to get them.

    Its bytes are read plainly, and it is decoded once more: what fails then is wrong. `name` is its path below the
    archive, `size` what it had when it was indexed.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
        found = size_of(path)
    except FileNotFoundError as missing:
        return judge_missing(path, "series", name, missing)
    except OSError as passing:
        return passing
    if size is not None and found != size:
        return CorruptInput(f"{name} has {found} bytes, {size} when it was indexed")
    try:
        series = open_series(path, select)
        try:
            decode(series)
        finally:
            series.close()
    except (ValueError, OSError) as error:
        # the bytes have just come in whole: what the library calls an I/O error now is its word for wrong ones
        return CorruptInput(f"{name} does not decode: {' '.join(str(error).split())}")
    return OSError(f"{name} could not be read whole, though its bytes are right")


def size_of(path: Path) -> int:
    """Bytes of a file, or of a store's metadata: chunks of a store that grows are not counted over and over."""
    return sum(part.stat().st_size for part in metadata_of(path)) if path.is_dir() else path.stat().st_size


def metadata_of(store: Path) -> list[Path]:
    """The metadata files of a Zarr store, in a fixed order: the consolidated ones, else those of the arrays."""
    if consolidated := [path for path in (store / ".zmetadata", store / "zarr.json") if path.exists()]:
        return consolidated
    found = [
        path for name in (".zgroup", ".zattrs", ".zarray") for path in (*store.glob(name), *store.glob(f"*/{name}"))
    ]
    if not found:
        raise FileNotFoundError(f"{store}: no metadata of a Zarr store")
    return sorted(found)
