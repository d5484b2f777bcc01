"""NetCDF and Zarr as series, through xarray; coordinates are recognised by the CF conventions (cf-xarray)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Self, get_args

import cf_xarray  # noqa: F401  registers the accessor `cf`
import numpy as np
from numpy.typing import NDArray

from embedcube.sources.era5.parameters import parameter
from embedcube.sources.era5.points import Lattice
from embedcube.sources.era5.series import Header, Variable
from embedcube.sources.era5.steps import Method, method_of
from embedcube.sources.era5.timeline import Times
from embedcube.sources.era5.unpacking import unpacked

_SLAB_BYTES = 1 << 26
"""most bytes that are read at once, unless a single step has more"""

_ID_ATTRIBUTES = ("GRIB_paramId", "GRIB_shortName", "GRIB_cfVarName", "short_name", "shortName", "param", "code")

_NUMBERED = re.compile(r"\d+(\.\d+)+")
"""Discipline, category and number, which CDO writes as `param`: not a name in our table"""

_HAS_DATA = ("valid_time_start", "valid_time_stop")
"""attributes of a store with the days that have data (ARCO-ERA5's time axis is decades longer)"""


class XarraySeries:
    """A NetCDF file or a Zarr store."""

    def __init__(self, data: Any, select: Mapping[str, Any]) -> None:
        """Read the coordinates of an open dataset of xarray whose numbers are packed; it is closed with the series."""
        self._data = data
        self._axes: dict[str, _Axes] = {}
        found: list[Variable] = []
        self.faults: dict[str, tuple[frozenset[str], str]] = {}
        for name in map(str, self._data.data_vars):
            array = self._data[name]
            try:
                self._axes[name] = axes = _Axes.of(array, select, self._data.attrs)
                found.append(_described(array, axes, _spans(self._data, array, axes)))
            except ValueError as error:
                self.faults[name] = (_names(array), f"{name}: {error}")
        self.variables = tuple(found)

    def fields(self, variable: Variable, steps: range, rows: slice, cols: list[slice]) -> Iterator[NDArray[np.float64]]:
        """Values at each step, as `Series.fields` describes; steps that share a chunk are read together."""
        array, axes = self._data[variable.name], self._axes[variable.name]
        width = sum(run.stop - run.start for run in cols)
        most = max(1, _SLAB_BYTES // (8 * width * (rows.stop - rows.start)))
        chunks = array.encoding.get("preferred_chunks") or {}
        slab = min(most, int(chunks.get(axes.time, most)))
        for first in range(steps.start, steps.stop, slab):
            together = range(first, min(first + slab, steps.stop))
            values_tyx, raw_zero_t = self._read(array, axes, together, rows, cols)
            for step, values, zero in zip(together, values_tyx, raw_zero_t, strict=True):
                if zero:
                    self._refuse_hole(array, axes, variable, step)
                yield values

    def _refuse_hole(self, array: Any, axes: "_Axes", variable: Variable, step: int) -> None:
        """Raise a ValueError if a whole field consists of zero bytes."""
        rows, cols = variable.points.shape
        strip = max(1, _SLAB_BYTES // (8 * cols))
        for first in range(0, rows, strip):
            part = slice(first, min(first + strip, rows))
            _, (zero,) = self._read(array, axes, range(step, step + 1), part, [slice(0, cols)])
            if not zero:
                return
        raise ValueError(f"{variable.name} has nothing but zero bytes at {variable.times[step]}")

    def _read(
        self, array: Any, axes: "_Axes", steps: range, rows: slice, cols: list[slice]
    ) -> tuple[NDArray[np.float64], list[bool]]:
        """Values (t, y, x), and for each step whether numbers packed with an offset are all zero, as in a hole."""
        shape = (array.sizes[axes.lat], array.sizes[axes.lon])
        index: dict[str, Any] = dict(axes.selected)
        if axes.time:
            index[axes.time] = slice(axes.first_step + steps.start, axes.first_step + steps.stop)
        index[axes.lat] = _turned(rows, shape[0]) if axes.lat_rises else rows
        parts = []
        for run in cols:
            index[axes.lon] = _turned(run, shape[1]) if axes.lon_falls else run
            try:
                part = array.isel(index).transpose(*axes.leading, axes.lat, axes.lon).values
            except OSError:
                raise
            except Exception as error:
                raise ValueError(f"{type(error).__name__}: {error}") from error
            parts.append(part[..., ::-1] if axes.lon_falls else part)
        raw = np.concatenate(parts, axis=-1)
        raw = raw[..., ::-1, :] if axes.lat_rises else raw
        raw = raw if axes.time else raw[None]
        # without an offset, zeros may be an hour without rain
        packed = raw.dtype.kind in "iu" and array.attrs.get("add_offset", 0) != 0
        zero = [packed and not part.any() for part in raw]
        values = unpacked(raw, array.attrs)
        if axes.expver:
            # final data where they exist, else preliminary data (ERA5T)
            merged = values[:, axes.versions[0]]
            for version in axes.versions[1:]:
                merged = np.where(np.isnan(merged), values[:, version], merged)
            values = merged
        return values, zero

    def close(self) -> None:
        """Close the file."""
        self._data.close()


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """The dimensions of a variable, by their meaning."""

    lat: str
    lon: str
    lat_rises: bool
    lon_falls: bool
    time: str
    """dimension of time; empty for a single time"""
    valid_time: str
    """coordinate of the times; empty where there is none"""
    times: Times
    """times that hold data"""
    first_step: int
    """index along `time` of the first of `times`"""
    expver: str
    """dimension of the experiment version, if ERA5 and ERA5T share a variable; else empty"""
    versions: tuple[int, ...]
    """indices along `expver`, final data first"""
    selected: dict[str, int]
    """index along each other dimension"""

    @classmethod
    def of(cls, array: Any, select: Mapping[str, Any], attributes: Mapping[str, Any]) -> Self:
        """Find the dimensions of a variable; `attributes` are those of the whole file.

        Raises:
            ValueError: it lies on no grid of longitudes and latitudes, has no points or times, or has a dimension for
                which `select` has no coordinate.
        """
        lat, lon = _coordinate(array, "latitude"), _coordinate(array, "longitude")
        rises, turns = array[lat].values, np.unwrap(array[lon].values.astype(np.float64), period=360)
        if not rises.size or not turns.size:
            raise ValueError("it has no points")
        valid_time, along, stamps = _valid_time(array)
        first_step, times = _with_data(stamps, attributes)
        others = [str(name) for name in array.dims if name not in (lat, lon, along)]
        expver = "expver" if "expver" in others and "expver" not in select else ""
        versions = array["expver"].values.astype(int) if expver else np.empty(0, dtype=int)
        _refuse_scalars(array, select)
        return cls(
            lat=lat,
            lon=lon,
            lat_rises=bool(rises[-1] > rises[0]),
            lon_falls=bool(turns[-1] < turns[0]),
            time=along,
            valid_time=valid_time,
            times=times,
            first_step=first_step,
            expver=expver,
            versions=tuple(np.argsort(versions, kind="stable").tolist()),
            selected={name: _index(array, name, select) for name in others if name != expver},
        )

    @property
    def leading(self) -> list[str]:
        """The dimensions before latitude and longitude in what is read."""
        return [name for name in (self.time, self.expver) if name]


def _described(array: Any, axes: _Axes, spans: NDArray[np.datetime64] | None) -> Variable:
    chunks, shape = array.encoding.get("preferred_chunks"), (array.sizes[axes.lat], array.sizes[axes.lon])
    # without chunks a file is read row by row
    block = (int(chunks[axes.lat]), int(chunks[axes.lon])) if chunks else (1, shape[1])
    standard_name = str(array.attrs.get("standard_name", ""))
    return Variable(
        name=str(array.name),
        names=_names(array),
        standard_name="" if standard_name == "unknown" else standard_name,
        points=Lattice.of(array[axes.lon].values, array[axes.lat].values),
        times=axes.times,
        method=_method(array.attrs),
        spans=spans,
        block=block,
        whole=bool(chunks) and block >= shape,
        block_bytes=_chunk_bytes(array),
        header=Header(
            step_type=str(array.attrs.get("GRIB_stepType", "")),
            units=str(array.attrs.get("units", "")),
            timeless=not axes.valid_time,
            precision=abs(float(array.attrs.get("scale_factor", 0))),
            version=_version(array, axes),
        ),
        processing=_versions(array, axes),
    )


def _chunk_bytes(array: Any) -> int:
    """Memory of a chunk of a variable of xarray; 0 where it is not stored in chunks."""
    chunks = array.encoding.get("preferred_chunks") or {}
    return prod(int(size) for size in chunks.values()) * int(np.dtype(array.dtype).itemsize) if chunks else 0


def _with_data(times: Times, attributes: Mapping[str, Any]) -> tuple[int, Times]:
    """The index of the first time that holds data, and all such times."""
    first = 0
    if all(key in attributes for key in _HAS_DATA):
        start, stop = (np.datetime64(str(attributes[key])[:10]) for key in _HAS_DATA)
        inside = np.nonzero((times >= start) & (times < stop + np.timedelta64(1, "D")))[0]
        first = int(inside[0]) if len(inside) else 0
        times = times[inside]
    if not len(times) or np.isnat(times).any() or (np.diff(times) <= np.timedelta64(0)).any():
        raise ValueError("its times are missing, or do not rise")
    return first, times


def _names(array: Any) -> frozenset[str]:
    """Names from the attributes, and the variable's own name unless they say that it is another parameter."""
    stated = {str(array.attrs[key]) for key in _ID_ATTRIBUTES if key in array.attrs} - {"unknown", "~"}
    stated = {name for name in stated if not _NUMBERED.fullmatch(name)}
    own, known = parameter(str(array.name)), {parameter(name) for name in stated} - {None}
    contradicted = own is not None and known and own not in known
    return frozenset(stated if contradicted else stated | {str(array.name)})


def _coordinate(array: Any, key: str) -> str:
    """The one-dimensional latitude or longitude of a variable, by CF attributes, else by its name."""
    found = array.cf.coordinates.get(key) or array.cf.guess_coord_axis().cf.coordinates.get(key, [])
    along = [str(name) for name in found if array[name].dims == (name,)]
    if len(along) == 1:
        return along[0]
    dims = ", ".join(map(str, array.dims))
    elsewhere = [array[name].dims for name in found if array[name].ndim]
    if len(found) == 1 and elsewhere and set(elsewhere[0]) <= set(array.dims):
        what = (
            "points, not a grid" if len(elsewhere[0]) == 1 else "a curved grid; regrid it to latitudes and longitudes"
        )
        raise ValueError(f"it lies on ({dims}): {what}")
    raise ValueError(f"it lies on ({dims}): no grid, as {' and '.join(along) or 'none of them'} is its {key}")


def _valid_time(array: Any) -> tuple[str, str, Times]:
    """The coordinate of validity times, as opposed to those of the forecast; its dimension, and the times.

    Coordinate and dimension are empty where a field has no time.
    """
    for name, coordinate in array.coords.items():
        if coordinate.dtype == object and coordinate.size and hasattr(coordinate.values.flat[0], "calendar"):
            calendar = coordinate.values.flat[0].calendar
            raise ValueError(f"its {name} is in the calendar {calendar}; write it in the standard (Gregorian) calendar")
    found = [str(name) for name, c in array.coords.items() if np.issubdtype(c.dtype, np.datetime64)]
    by_name = [name for name in found if array[name].attrs.get("standard_name") == "time"]
    if not found and not {"time", "valid_time"} & {*map(str, array.dims), *map(str, array.coords)}:
        return "", "", np.array(["1970-01-01"], dtype="datetime64[s]")
    if any(array[name].ndim > 1 for name in found):
        raise ValueError("its times lie along several dimensions, those of forecasts: write them along one, valid_time")
    if len(by_name or found) != 1:
        raise ValueError(f"its times are {by_name or found or 'none'}; one coordinate must have the standard name time")
    (valid_time,) = by_name or found
    along = [str(name) for name in array[valid_time].dims]
    if len(along) > 1:
        raise ValueError(f"its times lie along several dimensions: {', '.join(along)}")
    return valid_time, along[0] if along else "", np.atleast_1d(array[valid_time].values.astype("datetime64[s]"))


def _refuse_scalars(array: Any, select: Mapping[str, Any]) -> None:
    """Refuse a field whose only level, number and the like is not the one that `select` gives."""
    for name, chosen in select.items():
        if name in array.coords and not array[name].ndim and array[name].values.item() != chosen:
            raise ValueError(f"it has no {name} {chosen}; it has {array[name].values.item()}")


def _index(array: Any, dimension: str, select: Mapping[str, Any]) -> int:
    """The index along a dimension that `select` gives, or 0 if there is only one coordinate."""
    values = array[dimension].values.tolist() if dimension in array.coords else list(range(array.sizes[dimension]))
    if dimension not in select:
        if len(values) == 1:
            return 0
        raise ValueError(f"it has a dimension {dimension} ({values}); pick one: select: {{{dimension}: ...}}")
    if select[dimension] not in values:
        raise ValueError(f"it has no {dimension} {select[dimension]}; it has {values}")
    return int(values.index(select[dimension]))


def _method(attributes: Mapping[str, Any]) -> Method | None:
    if "GRIB_stepType" in attributes:
        return method_of(str(attributes["GRIB_stepType"]))
    words = str(attributes.get("cell_methods", "")).split()
    # "time: sum", "area: mean time: maximum (interval: 1 hour)"
    for axis, method in pairwise(words):
        if axis in ("time:", "valid_time:"):
            return next((known for known in get_args(Method) if known == method), None)
    return None


def _spans(data: Any, array: Any, axes: _Axes) -> NDArray[np.datetime64] | None:
    """The time that each step stands for, by the bounds of the times; None if there are none, or they have no length.

    Raises:
        ValueError: the bounds do not have two times for each step.
    """
    if not axes.valid_time:
        return None
    time = array[axes.valid_time]
    bounds = data.get(time.attrs.get("bounds") or time.encoding.get("bounds"))
    if bounds is None or not np.issubdtype(bounds.dtype, np.datetime64):
        return None
    pairs = np.atleast_2d(bounds.values.astype("datetime64[s]"))[axes.first_step :][: len(axes.times)]
    if pairs.shape != (len(axes.times), 2) or np.isnat(pairs).any():
        raise ValueError(f"the bounds of its times are not two times for each step: {pairs.shape}")
    spans = np.sort(pairs, axis=1)
    return spans if (spans[:, 0] < spans[:, 1]).any() else None


def _version(array: Any, axes: _Axes) -> int:
    """1 where any value is final (`expver` 1 or none), 5 where all are preliminary."""
    stated = array["expver"].values if "expver" in array.coords else array.attrs.get("GRIB_expver", "1")
    if axes.expver:
        return 1
    versions = {str(version).lstrip("0") for version in np.atleast_1d(stated).tolist()}
    return 5 if versions == {"5"} else 1


def _versions(array: Any, axes: _Axes) -> str:
    if axes.expver:
        ordered = [array[axes.expver].values.tolist()[place] for place in axes.versions]
        return f"expver {', then '.join(map(str, ordered))} where that is missing"
    if "expver" in array.coords:
        return f"expver {', '.join(sorted({str(version) for version in np.atleast_1d(array['expver'].values)}))}"
    return ""


def _turned(run: slice, size: int) -> slice:
    """The slice that selects the same indices on a reversed axis."""
    return slice(size - run.stop, size - run.start)
