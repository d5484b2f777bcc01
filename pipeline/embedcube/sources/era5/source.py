"""ERA5 and similar weather data as NetCDF, GRIB or Zarr: fields over time, reduced to a mean, sum or extreme per frame.

A frame takes the instants with stamps in [start, end). ERA5 stamps sums, mean rates and extremes with the end of their
hour; of these a frame takes stamps in (start, end]. A pixel is seen where every step has a value. A frame has no value
where more than half of the steps of a mean are missing, or any step of a sum or extreme.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from embedcube.campaign.fields import Block
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.changed import change_of
from embedcube.sources.composite import Composite
from embedcube.sources.era5.archive import Request, find_scenes, match, stamps
from embedcube.sources.era5.files import compare_series, is_series, judge_series, open_series, size_of, status_of
from embedcube.sources.era5.parameters import parameter
from embedcube.sources.era5.points import Floats, Neighbours
from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.steps import JOIN, NOTHING, Method, Times, averaged, enough, seconds, share_of, within
from embedcube.sources.options import read_options, refuse_keys
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window

_LANE = 0
"""the reader's lane for every series: neither HDF5 nor eccodes is thread-safe"""

_KEPT_BYTES = 64 << 20
"""most bytes of totals of whole fields that are kept for neighbouring shards"""

_DAYS, _STEPS_OF_A_DAY, _HOURS_OF_A_DAY = 3, 6, 18
"""fewest days, and steps and hours in each, that show running sums: within a morning, any sum may grow"""


class Options(Block):
    """The options of the YAML block."""

    pattern: str = ""
    """paths of files below the archive, as "{param}/E5sf00_1H_{date}_{param}.grb": times are then taken from the names,
    and one file of each parameter gives the steps and points of all others"""
    select: dict[str, Any] = Field(default_factory=dict)
    """one coordinate of each further dimension, as {level: 137}"""
    methods: dict[str, Method] = Field(default_factory=dict)
    """method of a band's steps (point, mean, sum, maximum or minimum), if ERA5's table does not have the band"""
    reduced_gaussian: Literal["nearest"] | None = None
    """"nearest": read reduced Gaussian grids by the point nearest to each pixel"""

    @field_validator("pattern")
    @classmethod
    def _names_both(cls, pattern: str) -> str:
        if pattern and ("{param}" not in pattern or "{date}" not in pattern):
            raise ValueError(f'"{pattern}" has no {{param}} or no {{date}}')
        return pattern

    def method(self, band: str) -> Method:
        """The method of a band's steps: what their values say of their time interval."""
        known = parameter(band)
        return self.methods.get(band) or (known.method if known else "point")


class Era5:
    """A source of weather fields: reads them on any grid, and reduces the steps of a frame."""

    counted = False
    """fields cover every place"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for unknown options, and for keys that have no meaning for weather fields."""
        options = read_options(Options, name, archive, free=("select",))
        instead = {
            "mask": "fields are everywhere",
            "composite": "write options.methods",
            "search": "weather is read from files and stores below `path`",
            "offset": "numbers are unpacked as the file says",
        }
        refuse_keys(name, archive, instead)
        for band in archive.bands:
            if archive.resampling_of(band) == "average":
                raise RequestError(f"archives.{name}.resampling: {band} has average; weather is nearest or bilinear")
        self._archive = archive
        self._options = options
        self._methods = tuple(map(options.method, archive.bands))
        # touched in the reader's lane only
        self._totals: OrderedDict[tuple[Path, str, range], Floats] = OrderedDict()
        self._request = Request(
            archive=name,
            root=archive.path.parent if is_series(archive.path) else archive.path,
            path=archive.path,
            pattern=options.pattern,
            bands=archive.bands,
            methods=self._methods,
            decided=options.methods,
            select=options.select,
            reduced_gaussian=bool(options.reduced_gaussian),
        )

    @property
    def collection(self) -> str:
        """The page of the data set."""
        return "https://doi.org/10.24381/cds.adbb2d47"

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all files, ordered by time and id."""
        return find_scenes(self._request, full_digests=full_digests)

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The mean, sum or extreme of the steps within the frame, in float64; seen where every step has a value.

        Locations may lie beyond the antimeridian or a pole.
        """
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        lon_yx, lat_yx = (np.where(np.isfinite(degrees), degrees, np.nan) for degrees in grid.degrees(area, 1))
        futures = [
            self._start(scene, asset, method, frame, (lon_yx, lat_yx), reader)
            for asset, method in zip(scene.assets, self._methods, strict=True)
        ]
        bands = [future.result() for future in futures]
        share_c = tuple(share for _, share in bands)
        values_cyx = np.stack([values for values, _ in bands])
        seen = np.asarray(np.isfinite(values_cyx).all(axis=0) & any(share_c))
        return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen, share_c=share_c)

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """Reduce the observations of a frame; clear where the steps suffice for every band.

        Means are weighted by the share of the frame that their steps fill. Files of the same times are one acquisition:
        where they overlap, the first one counts.
        """
        shape = observations[0][1].values_cyx.shape
        total = np.stack([np.full(shape[1:], NOTHING[method]) for method in self._methods])
        share_cyx = np.zeros(shape)
        used: list[NDArray[np.bool_]] = []
        for _, members in groupby(observations, key=lambda item: item[0]):
            taken = np.zeros(shape[1:], dtype=bool)
            for _, observation in members:
                new = observation.clear_yx & ~taken
                used.append(new)
                for band, (method, share) in enumerate(zip(self._methods, observation.share_c, strict=True)):
                    values = observation.values_cyx[band]
                    values = values * share if averaged(method) else values
                    JOIN[method](total[band], values, out=total[band], where=new & (share > 0))
                    share_cyx[band] += new * share
                taken |= new
        clear = np.logical_and.reduce(list(map(enough, self._methods, share_cyx)))
        for band, method in enumerate(self._methods):
            if averaged(method):
                np.divide(total[band], share_cyx[band], out=total[band], where=clear)
        nothing = np.zeros(shape[1:], dtype=bool)
        return Composite(
            x_cyx=np.where(clear, total, np.nan).astype(np.float32),
            clear_yx=clear,
            masked_yx=nothing,
            used_yx=tuple(new & clear for new in used),
        )

    def _start(
        self,
        scene: Scene,
        asset: Asset,
        method: Method,
        frame: Window,
        places: tuple[Floats, Floats],
        reader: RasterReader,
    ) -> "Future[tuple[Floats, float]]":
        """Start reading one band: its values at the locations, and the share of the frame that its steps fill.

        Values are NaN outside of the field, and zeros where no step lies in the frame.
        """
        path, select = self._request.root / asset.path, self._options.select

        def opened() -> Series:
            if (size := size_of(path)) != asset.size:
                raise ValueError(f"{size} bytes")
            if other := change_of(path, asset, status_of(path), compare_series):
                raise ValueError(other)
            return open_series(path, select)

        def decode(series: Series) -> tuple[Floats, float]:
            variable = _as_indexed(series, scene, asset)
            neighbours = variable.points.neighbours(*places, self._archive.resampling_of(asset.band))
            steps = within(variable.times, frame, asset.ends)
            share = share_of(frame, variable.times[steps.start : steps.stop], asset.step_s, asset.ends)
            if not neighbours.share_kyx.any():
                return np.full(places[0].shape, np.nan), share
            if not steps:
                return np.zeros(places[0].shape), share
            if variable.whole:
                total, rows, runs = self._kept(path, series, variable, steps, method), *_whole(variable)
            else:
                rows, runs = _needed(neighbours)
                total = _total(series, variable, steps, rows, runs, method)
            return _placed(total / len(steps) if averaged(method) else total, rows, runs, neighbours), share

        def judged() -> CorruptInput | OSError:
            found = judge_series(path, asset.path, select, decode, size=asset.size)
            if isinstance(found, CorruptInput) or not (
                other := change_of(path, asset, status_of(path), compare_series)
            ):
                return found
            return CorruptInput(other)

        return reader.run(_LANE, key=(path, repr(select)), opened=opened, decode=decode, judged=judged)

    def _kept(self, path: Path, series: Series, variable: Variable, steps: range, method: Method) -> Floats:
        """The total of whole fields, kept for neighbouring shards."""
        key = (path, variable.name, steps)
        if key not in self._totals:
            self._totals[key] = _total(series, variable, steps, *_whole(variable), method)
            while len(self._totals) > 1 and sum(total.nbytes for total in self._totals.values()) > _KEPT_BYTES:
                self._totals.popitem(last=False)
        self._totals.move_to_end(key)
        return self._totals[key]


def _as_indexed(series: Series, scene: Scene, asset: Asset) -> Variable:
    """The variable of an asset; a ValueError where the file differs from the inventory."""
    variable = match(series, asset.band)
    if variable is None:
        raise ValueError(f"{asset.band} is not in it, it was when it was indexed")
    if variable.points.raster != (asset.transform, asset.rows, asset.cols):
        raise ValueError(f"{asset.band} lies on other points than when it was indexed")
    actual = (*variable.times[[0, -1]].tolist(), len(variable.times))
    expected = (*seconds(stamps(scene)).tolist(), asset.steps)
    if actual != expected:
        spans = (actual, expected)
        text = [f"{first:%Y-%m-%dT%H:%M} to {last:%Y-%m-%dT%H:%M} in {n} steps" for first, last, n in spans]
        raise ValueError(f"{asset.band} has {text[0]}, expected {text[1]}")
    versions = [note for note in scene.processing.split("; ") if note.startswith(f"{asset.band}: expver")]
    if versions != [f"{asset.band}: {note}" for note in [variable.processing] if note]:
        raise ValueError(
            f"{asset.band} is of {variable.processing or 'no expver but the final one'}, "
            f"by its inventory it is not; where a pattern lets one file stand for others, index without it"
        )
    return variable


def _whole(variable: Variable) -> tuple[slice, list[slice]]:
    """All rows, and all columns in one run."""
    rows, cols = variable.points.shape
    return slice(0, rows), [slice(0, cols)]


def _needed(neighbours: Neighbours) -> tuple[slice, list[slice]]:
    """Rows, and columns in runs, that hold all points with a weight."""
    counts = neighbours.share_kyx > 0
    rows = neighbours.row_kyx[counts]
    return slice(int(rows.min()), int(rows.max()) + 1), _runs(np.unique(neighbours.col_kyx[counts]))


def _total(series: Series, variable: Variable, steps: range, rows: slice, runs: list[slice], method: Method) -> Floats:
    """The sum or extreme over steps, one by one, so that a point has the same bits whatever is read with it.

    Raises:
        ValueError: the steps are running sums, which must not be summed again.
    """
    total = np.full((rows.stop - rows.start, sum(run.stop - run.start for run in runs)), NOTHING[method])
    means = []
    for values in series.fields(variable, steps, rows, runs):
        JOIN[method](total, values, out=total)
        if method == "sum":
            finite = values[np.isfinite(values)]
            means.append(abs(float(finite.mean())) if finite.size else 0.0)
    if means and _are_running_sums(variable.times[steps.start : steps.stop], np.array(means)):
        raise ValueError(f"{variable.name} grows through each day and begins anew: its sums overlap")
    return total


def _are_running_sums(times: Times, means: Floats) -> bool:
    """Whether the means of fields are those of running sums since midnight, as in ERA5-Land.

    Running sums never fall within a day, in any of three days or more. Sums of single steps do fall, or grow for a few
    hours only.
    """
    # the stamp 00:00 belongs to the day before
    days = (times - np.timedelta64(1, "s")).astype("datetime64[D]")
    little = 1e-3 * means.max(initial=0)
    count = 0
    for day in np.unique(days):
        of_day, hours = means[days == day], np.ptp(times[days == day]) / np.timedelta64(1, "h")
        if len(of_day) < _STEPS_OF_A_DAY or hours < _HOURS_OF_A_DAY or of_day[-1] <= 10 * little:
            continue
        grows = (np.diff(of_day) >= -little).all() and of_day[-1] >= 3 * of_day[0]
        if not grows or of_day.sum() < 4 * of_day[-1]:
            return False
        count += 1
    return count >= _DAYS


def _placed(values: Floats, rows: slice, runs: list[slice], neighbours: Neighbours) -> Floats:
    """The weighted mean of the neighbours of each location; NaN where no neighbour has a value."""
    columns = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    shape = neighbours.share_kyx.shape[1:]
    result, weight = np.zeros(shape), np.zeros(shape)
    for row_yx, col_yx, share_yx in zip(neighbours.row_kyx, neighbours.col_kyx, neighbours.share_kyx, strict=True):
        counts = share_yx > 0
        picked = values[np.where(counts, row_yx - rows.start, 0), np.where(counts, np.searchsorted(columns, col_yx), 0)]
        share = np.where(counts & np.isfinite(picked), share_yx, 0)
        result += np.where(share > 0, picked, 0) * share
        weight += share
    # a weight this small is a rounding error
    return np.asarray(np.divide(result, weight, out=np.full(shape, np.nan), where=weight > 1e-5))


def _runs(needed: NDArray[np.int64]) -> list[slice]:
    """Columns in runs that are read together; columns at both ends of a field are read without those between them."""
    gaps = np.nonzero(np.diff(needed) > max(16, len(needed)))[0]
    firsts, lasts = [0, *(gaps + 1).tolist()], [*gaps.tolist(), len(needed) - 1]
    return [slice(int(needed[a]), int(needed[b]) + 1) for a, b in zip(firsts, lasts, strict=True)]
