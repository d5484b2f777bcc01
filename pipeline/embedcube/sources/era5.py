"""ERA5 and its like as NetCDF, GRIB or Zarr: fields over time, averaged or summed over the frames of a campaign.

A frame takes the steps whose valid time lies in it. Instants are averaged, accumulations summed, over the steps that
there are; ERA5 stamps an accumulation with the end of its hour. A pixel is seen where every step has a value. A frame
that holds fewer than `min_steps` steps shows nothing.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.blocks import nearest
from embedcube.composite import Composite
from embedcube.config import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.raster import RasterReader
from embedcube.scene import Asset, Scene
from embedcube.sources.base import Observation
from embedcube.sources.era5_archive import Request, find_scenes, match, seconds
from embedcube.sources.era5_parameters import parameter
from embedcube.sources.lattice import Floats, Neighbours
from embedcube.sources.series import Series, Times, Variable
from embedcube.sources.series_files import judge_series, open_series, size_of
from embedcube.windows import Window

_LANE = 0
"""of the reader, for every series: neither HDF5 nor eccodes bears two threads"""

_KEPT_BYTES = 64 << 20
"""of fields that are decoded whole, kept between shards"""

_DAYS, _STEPS_OF_A_DAY, _HOURS_OF_A_DAY = 3, 6, 18
"""that show running sums, at least; of mornings alone, each grows"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The archive's `options`."""

    pattern: str = ""
    """where files lie below the archive, "{param}/E5sf00_1H_{date}_{param}.grb": times are then taken from the names,
    and one file of each parameter stands for the others' steps and points"""
    select: dict[str, Any] = field(default_factory=dict)
    """one place of each further dimension, as {level: 137}"""
    accumulated: tuple[str, ...] | None = None
    """bands that are summed; by default those that ERA5 accumulates"""
    min_steps: int = 1
    """that a frame must hold to show anything"""
    reduced_gaussian: str = ""
    """"nearest": of a reduced Gaussian grid, the point nearest to each pixel"""

    @classmethod
    def of(cls, archive: Archive) -> "Options":
        """Raises a ValueError naming an option that is wrong."""
        known = [f.name for f in fields(cls)]
        for key in archive.options:
            if key not in known:
                raise ValueError(f'unknown option "{key}"{nearest(key, known)}')
        if not isinstance(archive.options.get("select", {}), dict):
            raise ValueError(f"select is {archive.options['select']!r}; write for example {{level: 137}}")
        options = cls(**archive.options)
        if options.reduced_gaussian not in ("", "nearest"):
            raise ValueError(f'reduced_gaussian is "{options.reduced_gaussian}"; it can only be "nearest"')
        if not float(options.min_steps).is_integer() or options.min_steps < 1:
            raise ValueError(f"min_steps is {options.min_steps!r}, not a positive whole number")
        for band in options.accumulated if options.accumulated is not None else ():
            if band not in archive.bands:
                raise ValueError(f'accumulated: band "{band}" is not wanted{nearest(band, archive.bands)}')
        if options.pattern and ("{param}" not in options.pattern or "{date}" not in options.pattern):
            raise ValueError(f'pattern "{options.pattern}" has no {{param}} or no {{date}}')
        return options

    def sums(self, band: str) -> bool:
        """Whether a band is summed over a frame."""
        if self.accumulated is not None:
            return band in self.accumulated
        known = parameter(band)
        return known is not None and known.accumulated


class Era5:
    """Finds fields, reads them on any grid, and makes one picture of a frame."""

    photographs = False
    """fields are everywhere"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Refuses unknown options, and what only pictures of the ground can have."""
        try:
            options = Options.of(archive)
        except (TypeError, ValueError) as error:
            raise RequestError(f"archives.{name}.options: {error}") from None
        for key, value in {"mask": archive.mask, "composite": archive.composite}.items():
            if value is not None:
                raise RequestError(
                    f"archives.{name}.{key}: weather has none; instants are averaged, the rest is summed"
                )
        if archive.search is not None:
            raise RequestError(f"archives.{name}.search: weather lies in files and stores below `path`")
        for band in archive.bands:
            if archive.resampling_of(band) == "average":
                raise RequestError(f"archives.{name}.resampling: weather is nearest or bilinear, {band} is average")
        if archive.offset != "auto":
            raise RequestError(f"archives.{name}.offset: weather has none; its packing is undone as the file says")
        self._archive = archive
        self._options = options
        self._accumulated = tuple(options.sums(band) for band in archive.bands)
        # touched in the reader's lane only
        self._totals: OrderedDict[tuple[Path, str, range], Floats] = OrderedDict()
        self._request = Request(
            archive=name,
            root=archive.path if archive.path.is_dir() and archive.path.suffix != ".zarr" else archive.path.parent,
            path=archive.path,
            pattern=options.pattern,
            bands=archive.bands,
            accumulated=self._accumulated,
            decided=options.accumulated is not None,
            select=options.select,
            reduced_gaussian=bool(options.reduced_gaussian),
        )

    @property
    def collection(self) -> str:
        """The data set's page."""
        return "https://doi.org/10.24381/cds.adbb2d47"

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The fields of all files, ordered by time and id."""
        return find_scenes(self._request, full_digests=full_digests)

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The mean or sum of the steps within the frame, in float64; seen where every step of every band has a value.

        A place is read where it is: around the globe, and beyond a pole on its other side.
        """
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        lon_yx, lat_yx = (np.where(np.isfinite(degrees), degrees, np.nan) for degrees in grid.degrees(area, 1))
        futures = [
            self._start(scene, asset, accumulated, frame, (lon_yx, lat_yx), reader)
            for asset, accumulated in zip(scene.assets, self._accumulated, strict=True)
        ]
        bands = [future.result() for future in futures]
        if len({steps for _, steps in bands}) > 1:
            counts = ", ".join(f"{asset.band} {steps}" for asset, (_, steps) in zip(scene.assets, bands, strict=True))
            raise CorruptInput(f"{scene.id}: its bands differ in their steps within {frame}: {counts}")
        values_cyx = np.stack([values for values, _ in bands])
        seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
        return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen, steps=bands[0][1])

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """Over all steps of the frame: means weighed by their steps, sums added.

        Files of the same times are one photograph: where they overlap, the first one counts.
        """
        shape = observations[0][1].values_cyx.shape
        total, steps_yx = np.zeros(shape), np.zeros(shape[1:], dtype=np.int64)
        used: list[NDArray[np.bool_]] = []
        for _, members in groupby(observations, key=lambda item: item[0]):
            taken = np.zeros(shape[1:], dtype=bool)
            for _, one in members:
                new = one.clear_yx & ~taken
                used.append(new)
                factor = np.where(self._accumulated, 1, one.steps)[:, None, None]
                np.add(total, one.values_cyx * factor, out=total, where=new)
                steps_yx += new * one.steps
                taken |= new
        clear = steps_yx >= self._options.min_steps
        share = np.where(np.array(self._accumulated)[:, None, None], 1, np.maximum(steps_yx, 1))
        x_cyx = np.where(clear, total / share, np.nan).astype(np.float32)
        nothing = np.zeros(shape[1:], dtype=bool)
        return Composite(x_cyx=x_cyx, clear_yx=clear, masked_yx=nothing, used_yx=tuple(one & clear for one in used))

    def _start(
        self,
        scene: Scene,
        asset: Asset,
        accumulated: bool,
        frame: Window,
        places: tuple[Floats, Floats],
        reader: RasterReader,
    ) -> "Future[tuple[Floats, int]]":
        """Start reading one band: its values on the places, NaN where it has none, and of how many steps they are."""
        path, select = self._request.root / asset.path, self._options.select

        def opened() -> Series:
            if (size := size_of(path)) != asset.size:
                raise ValueError(f"{size} bytes")
            return open_series(path, select)

        def decode(series: Series) -> tuple[Floats, int]:
            variable = _as_indexed(series, scene, asset)
            neighbours = variable.points.neighbours(*places, self._archive.resampling_of(asset.band))
            steps = range(*np.searchsorted(variable.times, seconds([frame.start, frame.end])).tolist())
            if not steps or not neighbours.share_kyx.any():
                return np.full(places[0].shape, np.nan), len(steps)
            if variable.whole:
                total, rows, runs = self._kept(path, series, variable, steps, accumulated), *_whole(variable)
            else:
                rows, runs = _needed(neighbours)
                total = _total(series, variable, steps, rows, runs, accumulated)
            return _placed(total if accumulated else total / len(steps), rows, runs, neighbours), len(steps)

        def judged() -> CorruptInput | OSError:
            return judge_series(path, asset.path, select, decode, size=asset.size)

        return reader.run(_LANE, key=(path, repr(select)), opened=opened, decode=decode, judged=judged)

    def _kept(self, path: Path, series: Series, variable: Variable, steps: range, accumulated: bool) -> Floats:
        """The total of whole fields, kept for the neighbouring shards, which need it too."""
        key = (path, variable.name, steps)
        if key not in self._totals:
            self._totals[key] = _total(series, variable, steps, *_whole(variable), accumulated)
            while len(self._totals) > 1 and sum(total.nbytes for total in self._totals.values()) > _KEPT_BYTES:
                self._totals.popitem(last=False)
        self._totals.move_to_end(key)
        return self._totals[key]


def _as_indexed(series: Series, scene: Scene, asset: Asset) -> Variable:
    """The variable of an asset; a ValueError where the file is another than the inventory says."""
    variable = match(series, asset.band)
    if variable is None:
        raise ValueError(f"{asset.band} is not in it, it was when it was indexed")
    if variable.points.raster != (asset.transform, asset.rows, asset.cols):
        raise ValueError(f"{asset.band} lies on other points than when it was indexed")
    found = (*variable.times[[0, -1]].tolist(), len(variable.times))
    expected = (*seconds([scene.time, scene.end or scene.time]).tolist(), asset.steps)
    if found != expected:
        text = [f"{first:%Y-%m-%dT%H:%M} to {last:%Y-%m-%dT%H:%M} in {n} steps" for first, last, n in (found, expected)]
        raise ValueError(f"{asset.band} has {text[0]}, expected {text[1]}")
    said = [note for note in scene.processing.split("; ") if note.startswith(f"{asset.band}: expver")]
    if said != [f"{asset.band}: {note}" for note in [variable.processing] if note]:
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
    """The rows, and the columns in runs, that hold all points that count."""
    counts = neighbours.share_kyx > 0
    rows = neighbours.row_kyx[counts]
    return slice(int(rows.min()), int(rows.max()) + 1), _runs(np.unique(neighbours.col_kyx[counts]))


def _total(
    series: Series, variable: Variable, steps: range, rows: slice, runs: list[slice], accumulated: bool
) -> Floats:
    """The sum over steps, one after the other, so that a point has the same bits whatever is read beside it.

    Raises:
        ValueError: what is to be summed are sums already.
    """
    total = np.zeros((rows.stop - rows.start, sum(run.stop - run.start for run in runs)))
    means = []
    for values in series.fields(variable, steps, rows, runs):
        total += values
        if accumulated:
            finite = values[np.isfinite(values)]
            means.append(abs(float(finite.mean())) if finite.size else 0.0)
    if accumulated and _run_on(variable.times[steps.start : steps.stop], np.array(means)):
        raise ValueError(f"{variable.name} grows through each day and begins anew: its sums overlap")
    return total


def _run_on(times: Times, means: Floats) -> bool:
    """Whether means are of sums since midnight, as ERA5-Land has them: they never fall in any of three days or more.

    What falls once a day, or grows for an hour or two alone, is of each step: weather's days are no saw teeth.
    """
    # 00:00 ends the day before
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
    """The values of the neighbours of each place by their shares; NaN where none has one."""
    columns = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    shape = neighbours.share_kyx.shape[1:]
    result, weight = np.zeros(shape), np.zeros(shape)
    for row_yx, col_yx, share_yx in zip(neighbours.row_kyx, neighbours.col_kyx, neighbours.share_kyx, strict=True):
        counts = share_yx > 0
        picked = values[np.where(counts, row_yx - rows.start, 0), np.where(counts, np.searchsorted(columns, col_yx), 0)]
        share = np.where(counts & np.isfinite(picked), share_yx, 0)
        result += np.where(share > 0, picked, 0) * share
        weight += share
    # what little rounding leaves of a share is no value
    return np.asarray(np.divide(result, weight, out=np.full(shape, np.nan), where=weight > 1e-5))


def _runs(needed: NDArray[np.int64]) -> list[slice]:
    """Columns as runs that are read at once: those at both ends of a field do not bring all between them along."""
    gaps = np.nonzero(np.diff(needed) > max(16, len(needed)))[0]
    firsts, lasts = [0, *(gaps + 1).tolist()], [*gaps.tolist(), len(needed) - 1]
    return [slice(int(needed[a]), int(needed[b]) + 1) for a, b in zip(firsts, lasts, strict=True)]
