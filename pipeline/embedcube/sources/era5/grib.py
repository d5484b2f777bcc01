"""GRIB 1 and 2 as series, through eccodes: messages are indexed once by their headers, and decoded one by one.

cfgrib is not used: it leaves out messages that do not fit in a hypercube (analyses beside forecasts, different
heights), and fills missing ones with NaN, so that a damaged file looks like one with gaps.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

# eccodes crashes the process at its exit unless pyproj was imported before it
import pyproj  # noqa: F401
from numpy.typing import NDArray

from embedcube.errors import RequestError
from embedcube.sources.era5.points import Lattice, Points, ReducedGaussian
from embedcube.sources.era5.series import Header, Variable
from embedcube.sources.era5.steps import MONTHLY, Method, method_of, months_of
from embedcube.sources.era5.timeline import midnight_before
from embedcube.sources.netcdf import AXIS_POINTS

_PADDING = 256
"""most bytes between messages: archives pad records with zeros, to 120 bytes and the like"""

_DAY_S = 86_400

_FORECAST_UNIT_S = {
    0: 60, 1: 3600, 2: _DAY_S, 3: 30 * _DAY_S, 4: 365 * _DAY_S, 5: 3_650 * _DAY_S, 6: 10_950 * _DAY_S,
    7: 36_500 * _DAY_S, 10: 3 * 3600, 11: 6 * 3600, 12: 12 * 3600, 13: 1, 14: 15 * 60, 15: 30 * 60,
}  # fmt: skip
"""seconds of the units of time of GRIB 2 that eccodes knows"""

_LONGEST_S = 1_000_000 * _DAY_S
"""of a forecast. eccodes counts its days one by one"""


_UNIT_S = {"s": 1, "m": 60, "h": 3600, "D": 86400}
"""Seconds in eccodes' units of a step"""


@dataclass(frozen=True, kw_only=True)
class _Message:
    """One field in the file, by its header."""

    offset: int
    time: np.datetime64
    version: int
    """ERA5's experiment version: 1 for final data, 5 for preliminary data"""
    others: tuple[tuple[str, int], ...]
    """further keys and their values: fields of one parameter and time may differ in them"""
    grid: str
    """digest of the section that describes the grid"""
    span: tuple[np.datetime64, np.datetime64] | None
    """begin and end of the time that the field stands for; None if the message does not state it"""


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    names: frozenset[str]
    standard_name: str
    method: Method | None
    step_type: str
    units: str


class GribSeries:
    """A GRIB file."""

    def __init__(self, path: Path, select: Mapping[str, Any]) -> None:
        """Index the file: read the headers of all messages.

        Raises:
            RequestError: the extra `grib` is not installed.
            ValueError: the bytes do not decode.
        """
        try:
            import eccodes
        except ImportError:
            raise RequestError(f"{path} is GRIB: install embedcube[grib] to read it") from None
        self._codes = eccodes
        self._select = select
        self._points: dict[str, Points | str] = {}
        self._parameters: dict[int, _Parameter] = {}
        self._file = path.open("rb")
        messages: dict[int, list[_Message]] = defaultdict(list)
        try:
            for parameter, message in self._scan():
                messages[parameter].append(message)
        except eccodes.CodesInternalError as error:
            self._file.close()
            raise ValueError(f"{type(error).__name__}: {error}") from error
        except ValueError:
            self._file.close()
            raise
        self._steps: dict[str, list[_Message]] = {}
        found: list[Variable] = []
        self.faults: dict[str, tuple[frozenset[str], str]] = {}
        for parameter, described in self._parameters.items():
            try:
                found.append(self._variable(described, parameter, messages[parameter]))
            except ValueError as error:
                self.faults[str(parameter)] = (described.names, f"{_short(described)}: {error}")
        self.variables = tuple(found)

    def _scan(self) -> Iterator[tuple[int, _Message]]:
        """Every message, with its parameter; a ValueError where bytes belong to no message."""
        codes, end = self._codes, 0
        while (handle := codes.codes_grib_new_from_file(self._file)) is not None:
            try:
                offset = int(codes.codes_get(handle, "offset"))
                self._refuse_junk(end, offset)
                end = offset + int(codes.codes_get(handle, "totalLength"))
                parameter = int(codes.codes_get(handle, "paramId"))
                if parameter not in self._parameters:
                    self._parameters[parameter] = self._named(handle, parameter)
                grid = str(codes.codes_get(handle, "md5GridSection"))
                if grid not in self._points:
                    self._points[grid] = self._placed(handle)
                yield parameter, self._message(handle, offset, grid)
            finally:
                codes.codes_release(handle)
        size = self._file.seek(0, 2)
        if not end:
            raise ValueError(f"its {size} bytes hold no GRIB message")
        self._refuse_junk(end, size)

    def _refuse_junk(self, start: int, stop: int) -> None:
        """Refuse more than padding between messages: eccodes skips a message whose beginning is damaged."""
        if stop - start > _PADDING:
            raise ValueError(f"bytes {start} to {stop} hold no message")

    def _refuse_endless(self, handle: int) -> None:
        """Refuse a forecast at whose end eccodes would never arrive: of no unit of time, or longer than any."""
        codes = self._codes
        if int(codes.codes_get(handle, "edition")) != 2 or not codes.codes_is_defined(handle, "forecastTime"):
            return
        length, unit = (int(codes.codes_get(handle, key)) for key in ("forecastTime", "indicatorOfUnitOfTimeRange"))
        if unit not in _FORECAST_UNIT_S:
            raise ValueError(f"its forecast time is {length} of the unit {unit}, which is no unit of time")
        if abs(length) * _FORECAST_UNIT_S[unit] > _LONGEST_S:
            raise ValueError(f"its forecast time is {length} of the unit {unit}, longer than any forecast")

    def _message(self, handle: int, offset: int, grid: str) -> _Message:
        def get(key: str) -> Any:
            return self._codes.codes_get(handle, key)

        self._refuse_endless(handle)
        date, clock = int(get("validityDate")), int(get("validityTime"))
        time = np.datetime64(datetime.strptime(f"{date:08d}{clock:04d}", "%Y%m%d%H%M"), "s")  # noqa: DTZ007  UTC
        version = (
            str(get("experimentVersionNumber"))
            if self._codes.codes_is_defined(handle, "experimentVersionNumber")
            else "1"
        )
        return _Message(
            offset=offset,
            time=time,
            version=int(version) if version.isdigit() else 0,
            others=tuple(
                (key, int(get(key))) for key in ("level", "number") if self._codes.codes_is_defined(handle, key)
            ),
            grid=grid,
            span=self._span(handle, time),
        )

    def _span(self, handle: int, time: np.datetime64) -> tuple[np.datetime64, np.datetime64] | None:
        """The time that a message stands for: a calendar month, or the range of its steps, which ends when valid."""
        if str(self._codes.codes_get(handle, "stepType")) in MONTHLY:
            begin, end = months_of(np.array([time]))[0]
            return begin, end
        first, last = (_seconds(str(self._codes.codes_get(handle, key, str))) for key in ("startStep", "endStep"))
        length_s = last - first
        return (time - np.timedelta64(length_s, "s"), time) if length_s else None

    def _named(self, handle: int, parameter: int) -> _Parameter:
        short, netcdf, standard, step_type, units = (
            str(self._codes.codes_get(handle, key)) for key in ("shortName", "cfVarName", "cfName", "stepType", "units")
        )
        # GRIB 1 calls every extreme a maximum, or an instant, and some of its sums have no range of time: the
        # parameter itself then tells
        edition = int(self._codes.codes_get(handle, "edition"))
        unsure = step_type == "instant" or (edition == 1 and step_type == "max")
        if unsure and self._codes.codes_is_defined(handle, "stepTypeForConversion"):
            known = str(self._codes.codes_get(handle, "stepTypeForConversion"))
            step_type = step_type if known == "unknown" else known
        return _Parameter(
            names=frozenset({str(parameter), short, netcdf} - {"unknown", "~", "0"}),
            standard_name="" if standard == "unknown" else standard,
            method=method_of(step_type),
            step_type=step_type,
            units="" if units == "unknown" else units,
        )

    def _placed(self, handle: int) -> Points | str:
        """The points of a message, or why they cannot be used."""
        codes, kind = self._codes, str(self._codes.codes_get(handle, "gridType"))
        if kind == "reduced_gg":
            counts = tuple(codes.codes_get_array(handle, "pl").tolist())
            # latitudes are computed from N, which may be any number
            if 2 * int(codes.codes_get(handle, "N")) != len(counts):
                return f"it is said to have {codes.codes_get(handle, 'N')} latitudes to a pole, and has {len(counts)}"
            latitudes = np.unique(codes.codes_get_array(handle, "distinctLatitudes"))[::-1]
            if len(latitudes) != len(counts) or sum(counts) != codes.codes_get_size(handle, "values"):
                return "a part of a reduced Gaussian grid cannot be read; take the whole"
            return ReducedGaussian(latitudes=tuple(latitudes.tolist()), counts=counts)
        if kind != "regular_ll":
            return f"its grid is {kind}; regular_ll and reduced_gg can be read"
        first, last, west, east = (
            float(codes.codes_get(handle, f"{axis}Of{end}GridPointInDegrees"))
            for axis in ("latitude", "longitude")
            for end in ("First", "Last")
        )
        cols, rows = int(codes.codes_get(handle, "Ni")), int(codes.codes_get(handle, "Nj"))
        points = int(codes.codes_get(handle, "numberOfDataPoints"))
        if not (0 < cols <= AXIS_POINTS and 0 < rows <= AXIS_POINTS and rows * cols == points):
            return f"it is said to have {rows} x {cols} points, and {points} together"
        if codes.codes_get(handle, "iScansNegatively"):
            west, east = east, west
        width = (east - west) % 360
        return Lattice.of(np.linspace(west, west + width, cols), np.linspace(first, last, rows))

    def _variable(self, described: _Parameter, parameter: int, messages: list[_Message]) -> Variable:
        self._refuse_lost(messages)
        for i, (key, _) in enumerate(messages[0].others):
            values = sorted({message.others[i][1] for message in messages})
            chosen = self._select.get(key, values[0])
            if chosen not in values:
                raise ValueError(f"it has no {key} {chosen}; it has {values}")
            if key not in self._select and len(values) > 1:
                raise ValueError(f"it has several values of {key} ({values}); pick one: select: {{{key}: ...}}")
            messages = [message for message in messages if message.others[i][1] == chosen]
        grids = dict.fromkeys(message.grid for message in messages)
        if unusable := [reason for grid in grids if isinstance(reason := self._points[grid], str)]:
            raise ValueError(unusable[0])
        if len(grids) > 1:
            raise ValueError("its messages lie on several grids")
        points = self._points[messages[0].grid]
        assert not isinstance(points, str)
        steps = {m.time: m for m in sorted(messages, key=lambda m: (m.time, -m.version))}
        if len({(m.time, m.version) for m in messages}) < len(messages):
            raise ValueError("two messages are of one time")
        spans = self._spans(described, list(steps.values()))
        self._steps[str(parameter)] = list(steps.values())
        versions = sorted({m.version for m in steps.values()})
        return Variable(
            name=str(parameter),
            names=described.names,
            standard_name=described.standard_name,
            points=points,
            times=np.array(list(steps)),
            method=described.method,
            spans=spans,
            block=points.raster[1:],
            whole=True,
            block_bytes=8 * points.shape[0] * points.shape[1],
            header=Header(step_type=described.step_type, units=described.units, version=min(versions)),
            processing=f"expver {', '.join(f'{v:04d}' for v in versions)}" if versions != [1] else "",
        )

    def _refuse_lost(self, messages: list[_Message]) -> None:
        """Refuse a parameter of which some messages are missing: not every level and number has every time."""
        times = {message.time for message in messages}
        others = {message.others for message in messages}
        found = {(message.time, message.others) for message in messages}
        if len(found) < len(times) * len(others):
            # a level may be of the height at which a parameter changes; it is then no dimension
            time, other = min({(time, other) for time in times for other in others} - found)
            named = ", ".join(f"{key} {value}" for key, value in other)
            raise ValueError(f"it has no message of {time} for {named}, others have: was the file cut?")

    def _spans(self, described: _Parameter, steps: list[_Message]) -> NDArray[np.datetime64] | None:
        """The time that each message stands for; None if not every one states it.

        Raises:
            ValueError: sums overlap, and do not count from midnight as those of ERA5-Land do.
        """
        stated = [message.span or (message.time, message.time) for message in steps]
        if all(message.span is None for message in steps):
            return None
        spans = np.array(stated, dtype="datetime64[s]")
        begins, ends = spans.T
        if described.method == "sum" and (begins[1:] < ends[:-1]).any() and (begins != midnight_before(ends)).any():
            longest = (ends - begins).max() / np.timedelta64(1, "h")
            between = np.diff(ends).min() / np.timedelta64(1, "h")
            raise ValueError(f"it accumulates over {longest:g} h at steps of {between:g} h: its sums overlap")
        return spans

    def fields(self, variable: Variable, steps: range, rows: slice, cols: list[slice]) -> Iterator[NDArray[np.float64]]:
        """Values at each step, as `Series.fields` describes; each message is decoded whole."""
        for step in steps:
            message = self._steps[variable.name][step]
            try:
                whole = self._decoded(message, variable.points.shape)
            except self._codes.CodesInternalError as error:
                raise ValueError(f"{type(error).__name__}: {error}") from error
            yield np.concatenate([whole[rows, run] for run in cols], axis=1)

    def _decoded(self, message: _Message, shape: tuple[int, int]) -> NDArray[np.float64]:
        """The values of a message, with rows from north to south and columns from west to east."""
        codes = self._codes
        self._file.seek(message.offset)
        handle = codes.codes_grib_new_from_file(self._file)
        if handle is None:
            raise ValueError(f"no message at byte {message.offset}")
        try:
            self._refuse_size(handle, shape)
            codes.codes_set(handle, "missingValue", 1e34)
            values = codes.codes_get_values(handle).astype(np.float64)
            values[values == 1e34] = np.nan
            if isinstance(self._points[message.grid], ReducedGaussian):
                return np.asarray(values.reshape(shape))
            return self._north_up(handle, values, shape)
        finally:
            codes.codes_release(handle)

    def _refuse_size(self, handle: int, shape: tuple[int, int]) -> None:
        """Refuse a message whose values are more than its points, or than its bytes can hold, before decoding it."""
        codes, points = self._codes, shape[0] * shape[1]
        values, count = codes.codes_get_size(handle, "values"), int(codes.codes_get(handle, "numberOfValues"))
        if values != points or count > points:
            raise ValueError(f"{max(values, count)} values on {shape[0]} x {shape[1]} points")
        bits, length = int(codes.codes_get(handle, "bitsPerValue")), int(codes.codes_get(handle, "totalLength"))
        simple = str(codes.codes_get(handle, "packingType")) == "grid_simple"
        coded = int(codes.codes_get(handle, "numberOfCodedValues")) if simple else 0
        if coded * bits > 8 * length:
            raise ValueError(f"{coded} values of {bits} bits in a message of {length} bytes")

    def _north_up(self, handle: int, values: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
        rows, cols = shape
        down, left, up, back = (
            bool(self._codes.codes_get(handle, key))
            for key in (
                "jPointsAreConsecutive", "iScansNegatively", "jScansPositively", "alternativeRowScanning",
            )
        )  # fmt: skip
        field = values.reshape((cols, rows) if down else (rows, cols))
        if back:
            field[1::2] = field[1::2, ::-1].copy()
        field = field.T if down else field
        field = field[:, ::-1] if left else field
        return np.asarray(field[::-1] if up else field)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _seconds(step: str) -> int:
    """A step of GRIB in seconds: hours, unless a unit follows the number, as in "30m"."""
    number, unit = (step[:-1], step[-1]) if step[-1:].isalpha() else (step, "h")
    if unit not in _UNIT_S:
        raise ValueError(f'its step is "{step}", in a unit that is not read')
    return int(number) * _UNIT_S[unit]


def _short(described: _Parameter) -> str:
    return next((name for name in sorted(described.names) if not name.isdigit()), min(described.names))
