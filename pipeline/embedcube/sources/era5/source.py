"""ERA5 and similar weather data as NetCDF, GRIB or Zarr: fields over time, reduced to a mean, sum or extreme per frame.

A frame takes the instants with stamps in [start, end), and of other steps the time that they stand for, as the file
says it. A frame has no value where more than half of the steps of a mean are missing, or any step of a sum or extreme.
A missing value is a missing step.
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

from embedcube.campaign.options import PluginOptions
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.changed import change_of
from embedcube.sources.composite import Composite
from embedcube.sources.era5.archive import find_scenes, match
from embedcube.sources.era5.files import compare_series, is_series, judge_series, open_series, size_of, status_of
from embedcube.sources.era5.parameters import parameter
from embedcube.sources.era5.placing import Read, joined_at, needed_for, pieces_of, union_in, whole_field
from embedcube.sources.era5.plausible import believed, undeclared
from embedcube.sources.era5.points import Floats, Lattice
from embedcube.sources.era5.reduce import Reduced, Reduction
from embedcube.sources.era5.scenes import Request, is_static, stamps
from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.steps import JOIN, MONTHLY, NOTHING, Accumulated, Method, averaged, enough, incomplete
from embedcube.sources.era5.tiles import offset_of
from embedcube.sources.era5.timeline import Ints, read_timeline
from embedcube.sources.options import read_options, refuse_keys
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window

_LANE = 0
"""the reader's lane for every series: neither HDF5 nor eccodes is thread-safe"""

_KEPT_BYTES = 64 << 20
"""most bytes of totals of whole fields that are kept for neighbouring shards"""


class Options(PluginOptions):
    """The options of the YAML block."""

    pattern: str = ""
    """paths of files below the archive, as "{param}/E5sf00_1H_{date}_{param}.grb": times are then taken from the names,
    and one file of each parameter gives the steps and points of all others"""
    select: dict[str, Any] = Field(default_factory=dict)
    """one coordinate of each further dimension, as {level: 137}"""
    methods: dict[str, Method] = Field(default_factory=dict)
    """method of a band's steps (point, mean, sum, maximum or minimum), if ERA5's table does not have the band"""
    accumulated: Accumulated | dict[str, Accumulated] = Field(default_factory=dict)
    """what sums count, of all bands or of each: each_step, per_day (monthly means), since_midnight (ERA5-Land)"""
    units: dict[str, str] = Field(default_factory=dict)
    """units of a band in the files, if they do not say it or say it wrongly"""
    static: bool = False
    """the fields hold at all times (orography, land mask); their times are ignored"""
    reduced_gaussian: Literal["nearest"] | None = None
    """"nearest": read reduced Gaussian grids by the point nearest to each pixel"""

    @field_validator("pattern")
    @classmethod
    def _names_both(cls, pattern: str) -> str:
        if pattern and ("{param}" not in pattern or "{date}" not in pattern):
            raise ValueError(f'"{pattern}" has no {{param}} or no {{date}}')
        return pattern

    def counts(self, bands: Sequence[str]) -> dict[str, Accumulated]:
        """What the sums of each band count, where the campaign says it."""
        return self.accumulated if isinstance(self.accumulated, dict) else dict.fromkeys(bands, self.accumulated)

    def method(self, band: str) -> Method:
        """The method of a band's steps: what their values say of their time interval."""
        known = parameter(band)
        return self.methods.get(band) or (known.method if known else "point")


class Era5:
    """A source of weather fields: reads them on any grid, and reduces the steps of a frame."""

    options = Options
    """options of the YAML block"""

    counted = False
    """fields cover every place"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for unknown options, and for keys that have no meaning for weather fields."""
        options = read_options(Options, name, archive, free=("select", "units"))
        instead = {
            "mask": "fields are everywhere",
            "composite": "write options.methods",
            "search": "weather is read from files and stores below `path`",
            "links": "weather is read from files and stores below `path`",
            "offset": "numbers are unpacked as the file says",
        }
        refuse_keys(name, archive, instead)
        for band in archive.bands:
            if archive.resampling_of(band) == "average":
                raise RequestError(f"archives.{name}.resampling: {band} has average; weather is nearest or bilinear")
        self._archive = archive
        self._options = options
        self._methods = tuple(map(options.method, archive.bands))
        # these are touched in the reader's lane only
        self._words: dict[tuple[str, str, str], str] = {}
        self._totals: OrderedDict[tuple[Path, str, str, Window], Reduced] = OrderedDict()
        self._request = Request(
            archive=name,
            root=archive.path.parent if is_series(archive.path) else archive.path,
            path=archive.path,
            pattern=options.pattern,
            bands=archive.bands,
            methods=self._methods,
            decided=options.methods,
            select=options.select,
            accumulated=options.counts(archive.bands),
            units=options.units,
            static=options.static,
            reduced_gaussian=bool(options.reduced_gaussian),
        )

    @property
    def collection(self) -> str:
        """The page of the data set."""
        return "https://doi.org/10.24381/cds.adbb2d47"

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all files, ordered by time and id.

        Raises a RequestError where numbers contradict their units, and other units would make them right.
        """
        return believed(self._request, list(find_scenes(self._request, full_digests=full_digests)))

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """The mean, sum or extreme of a frame's steps, in float64; seen where every step has a value.

        Locations may lie beyond the antimeridian or a pole.
        """
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        lon_yx, lat_yx = (np.where(np.isfinite(degrees), degrees, np.nan) for degrees in grid.degrees(area, 1))
        futures = [
            [self._start(scene, asset, method, frame, (lon_yx, lat_yx), reader) for asset in scene.assets_of(band)]
            for band, method in zip(self._archive.bands, self._methods, strict=True)
        ]
        bands = [joined_at([future.result() for future in tiles], lon_yx.shape) for tiles in futures]
        share_c = tuple(share for _, share in bands)
        values_cyx = np.stack([reduced.values_yx for reduced, _ in bands])
        share_cyx = np.stack([np.where(np.isfinite(one.values_yx), one.share_yx, 0) for one, _ in bands])
        whole = np.abs(share_cyx - np.array(share_c)[:, None, None]) <= 1e-9
        seen = np.asarray((np.isfinite(values_cyx) & whole).all(axis=0) & any(share_c))
        return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen, share_c=share_c, share_cyx=share_cyx)

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """Reduce the observations of a frame; clear where the steps suffice for every band.

        Means are weighted by the share of the frame that their steps fill. Files of the same times are one acquisition:
        where they overlap, the first one counts.
        """
        shape = observations[0][1].values_cyx.shape
        total = np.stack([np.full(shape[1:], NOTHING[method]) for method in self._methods])
        filled_cyx = np.zeros(shape)
        used: list[NDArray[np.bool_]] = []
        for _, members in groupby(observations, key=lambda item: item[0]):
            taken = np.zeros(shape[1:], dtype=bool)
            for _, observation in members:
                share_cyx = observation.shares
                new = (share_cyx != 0).any(axis=0) & ~taken
                used.append(new)
                for band, method in enumerate(self._methods):
                    values, share = observation.values_cyx[band], share_cyx[band]
                    values = values * share if averaged(method) else values
                    JOIN[method](total[band], values, out=total[band], where=new & (share != 0))
                    filled_cyx[band] += np.where(new, share, 0)
                taken |= new
        clear = np.logical_and.reduce(list(map(enough, self._methods, filled_cyx)))
        for band, method in enumerate(self._methods):
            if averaged(method):
                np.divide(total[band], filled_cyx[band], out=total[band], where=clear)
        nothing = np.zeros(shape[1:], dtype=bool)
        return Composite(
            x_cyx=np.where(clear, total, np.nan).astype(np.float32),
            clear_yx=clear,
            masked_yx=nothing,
            used_yx=tuple(new & clear for new in used),
            incomplete_yx=clear & incomplete(filled_cyx).any(axis=0),
            share_yx=filled_cyx.min(axis=0),
        )

    def _start(
        self,
        scene: Scene,
        asset: Asset,
        method: Method,
        frame: Window,
        places: tuple[Floats, Floats],
        reader: RasterReader,
    ) -> "Future[Read]":
        """Start reading one band of one file: what of its field is needed for the locations."""
        path, select = self._request.root / asset.path, self._options.select

        def opened() -> Series:
            if (size := size_of(path)) != asset.size:
                raise ValueError(f"{size} bytes")
            if other := change_of(path, asset, status_of(path), compare_series):
                raise ValueError(other)
            return open_series(path, select)

        def decode(series: Series) -> Read:
            union = union_in(asset) if len(scene.assets_of(asset.band)) > 1 else None
            variable, first = _as_indexed(series, scene, asset, union)
            self._refuse_contradicted(scene, asset, variable, first, series)
            neighbours = (union or variable.points).neighbours(*places, self._archive.resampling_of(asset.band))
            reduction = self._reduction(scene, asset, method, variable, frame)
            inside = bool(neighbours.share_kyx.any())
            pieces: tuple[tuple[Reduced, slice, slice], ...] = ()
            rows, runs = needed_for(neighbours) if inside else (slice(0, 0), [])
            if not (inside and len(reduction.steps)):
                pass
            elif union is not None:
                pieces = tuple(pieces_of(reduction, series, variable, first, union, rows, runs))
            elif variable.whole:
                rows, runs = whole_field(variable)
                field = self._kept((path, variable.name, scene.acquisition, frame), series, variable, reduction, first)
                pieces = ((field, rows, runs[0]),)
            else:
                pieces = ((reduction.of(series, variable, first, rows, runs), rows, slice(0, 0)),)
            return Read(
                neighbours=neighbours, rows=rows, runs=runs, pieces=pieces, share=reduction.share, tiled=bool(union)
            )

        def judged() -> CorruptInput | OSError:
            found = judge_series(path, asset.path, select, decode, size=asset.size)
            if isinstance(found, CorruptInput) or not (
                other := change_of(path, asset, status_of(path), compare_series)
            ):
                return found
            return CorruptInput(other)

        return reader.run(_LANE, key=(path, repr(select)), opened=opened, decode=decode, judged=judged)

    def _refuse_contradicted(self, scene: Scene, asset: Asset, variable: Variable, first: int, series: Series) -> None:
        """Look at a file that `index` has not looked at, once.

        Raises CorruptInput where it holds undeclared numbers for what is missing. A RequestError where its numbers
        contradict its units ends the work: files that were read before have the same units, and may not show it.
        """
        if scene.seen:
            return
        key = asset.path, asset.band, scene.acquisition
        if key not in self._words:
            try:
                self._words[key] = undeclared(self._request, asset, variable, first, series)
            except ValueError:
                self._words[key] = ""  # the steps of the frame may be whole
        if words := self._words[key]:
            raise CorruptInput(words, asks=True)

    def _reduction(self, scene: Scene, asset: Asset, method: Method, variable: Variable, frame: Window) -> Reduction:
        """What becomes of the steps of a band in a frame."""
        per_day = method == "sum" and self._request.counts_of(asset.band, variable) == "per_day"
        factor, term = self._request.conversion_of(asset.band, variable)
        frame_s = (frame.end - frame.start).total_seconds()
        if is_static(scene):
            steps, seconds = np.zeros(1, dtype=np.int64), np.full(1, frame_s)
        else:
            timeline = read_timeline(asset.timeline, asset.step_s)
            steps, seconds = timeline.within(frame, averaged(method) or per_day)
        return Reduction(
            method=method, steps=steps, seconds=seconds, frame_s=frame_s, per_day=per_day, factor=factor, term=term
        )

    def _kept(
        self,
        key: tuple[Path, str, str, Window],
        series: Series,
        variable: Variable,
        reduction: Reduction,
        first: int,
    ) -> Reduced:
        """The reduction of whole fields, kept for neighbouring shards."""
        if key not in self._totals:
            self._totals[key] = reduction.of(series, variable, first, *whole_field(variable))
            while len(self._totals) > 1 and sum(one.nbytes for one in self._totals.values()) > _KEPT_BYTES:
                self._totals.popitem(last=False)
        self._totals.move_to_end(key)
        return self._totals[key]


def _as_indexed(series: Series, scene: Scene, asset: Asset, union: Lattice | None) -> tuple[Variable, int]:
    """The variable of an asset, and the number of its first step that is used.

    Raises:
        ValueError: the file differs from the inventory.
    """
    variable = match(series, asset.band)
    if variable is None:
        raise ValueError(f"{asset.band} is not in it, it was when it was indexed")
    placed = variable.points.raster == (asset.transform, asset.rows, asset.cols)
    if not (placed if union is None else offset_of(variable.points, union)):
        raise ValueError(f"{asset.band} lies on other points than when it was indexed")
    if is_static(scene):
        return variable, 0
    start, stop = stamps(scene)
    inside = np.nonzero((variable.times >= start) & (variable.times <= stop))[0]
    used = variable.times[inside] if len(inside) else variable.times
    whole = used if len(used) == asset.steps and used[0] == start and used[-1] == stop else variable.times
    actual = (*whole[[0, -1]].tolist(), len(whole))
    expected = (start.item(), stop.item(), asset.steps)
    if actual != expected:
        spans = (actual, expected)
        text = [f"{first:%Y-%m-%dT%H:%M} to {last:%Y-%m-%dT%H:%M} in {n} steps" for first, last, n in spans]
        raise ValueError(f"{asset.band} has {text[0]}, expected {text[1]}")
    _refuse_other_spans(variable, inside, asset)
    versions = [note for note in scene.processing.split("; ") if note.startswith(f"{asset.band}: expver")]
    if versions != [f"{asset.band}: {note}" for note in [variable.processing] if note]:
        raise ValueError(
            f"{asset.band} is of {variable.processing or 'no expver but the final one'}, "
            f"by its inventory it is not; where a pattern lets one file stand for others, index without it"
        )
    return variable, int(inside[0])


def _refuse_other_spans(variable: Variable, steps: Ints, asset: Asset) -> None:
    """Refuse a file whose steps stand for other times than the inventory says."""
    timeline = read_timeline(asset.timeline, asset.step_s)
    stamps_ = variable.times[steps]
    if variable.spans is not None and not timeline.running:
        same = (variable.spans[steps] == np.stack([timeline.begins, timeline.ends], axis=1)).all()
    else:
        same = (stamps_ == timeline.begins).all() or (stamps_ == timeline.ends).all()
    if not same and not (variable.spans is None and variable.header.step_type in MONTHLY):
        raise ValueError(f"the steps of {asset.band} stand for other times than when it was indexed")
