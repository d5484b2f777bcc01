"""Tables of points, Parquet or CSV: a row is a sample of one pixel, its columns are bands, at one or several steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from pydantic import Field, field_validator

from embedcube.campaign.fields import Time, nearest
from embedcube.campaign.options import PluginOptions
from embedcube.campaign.scene import ALWAYS, Asset, Listed, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.sources.base import Observation
from embedcube.sources.composite import Composite, composite
from embedcube.sources.lists.scenes import box_around, file_asset, files_below, read_file, scenes_or_verdict, usable_id
from embedcube.sources.options import read_options, refuse_keys
from embedcube.sources.reader import RasterReader
from embedcube.windows import Duration, Window
from embedcube.zones import SampleList

_SUFFIXES = (".parquet", ".csv")


class Options(PluginOptions):
    """The options of the YAML block."""

    id: str
    """column of the ids"""
    lonlat: tuple[str, str] = ("lon", "lat")
    """columns of the longitudes and latitudes, in degrees; where they are missing, the places are unknown"""
    columns: dict[str, str] = Field(default_factory=dict)
    """for a band, the name of its column, where it is another; with {step} for the number of a step, for example
    "OPTICAL-B02-ts{step}-10m". A column without {step} holds for all times"""
    start: Time | None = None
    """beginning of the first step; without it the table has no steps"""
    step: str = "1 month"
    """length of a step"""
    steps: int = Field(12, gt=0)
    """number of steps"""
    first: int = 0
    """number of the first step in the names of columns"""
    nodata: float | None = None
    """number that means no data; empty values and NaN always do"""
    decibels: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """for a band [factor, offset]: its value is factor * log10(number) + offset, before scale and add; [20, -83] for
    the radar of WorldCereal. Numbers of 0 and below are no data"""
    scale: dict[str, float] = Field(default_factory=dict)
    """factor for a band, default 1"""
    add: dict[str, float] = Field(default_factory=dict)
    """added to a band after scaling, default 0"""
    fields: bool = False
    """whether the values cover every place, like weather and terrain: alone they make no sample valid"""

    @field_validator("step")
    @classmethod
    def _is_a_length(cls, step: str) -> str:
        Duration.parse(step)
        return step


class Points:
    """A source of rows of tables."""

    options = Options
    """options of the YAML block"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for unknown options, and for keys that have no meaning for tables."""
        self._name, self._archive = name, archive
        self._options = read_options(Options, name, archive)
        refuse_keys(
            name,
            archive,
            {"mask": "write options.nodata", "offset": "write options.add", "resampling": "a row is one pixel",
             "search": "a table lies in a folder"},
        )  # fmt: skip

    @property
    def collection(self) -> str:
        """A table has no URI of its own: the format it is of."""
        return "https://parquet.apache.org/docs/file-format/"

    @property
    def counted(self) -> bool:
        """Whether a row makes its sample valid."""
        return not self._options.fields

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """One scene for each row group of each table, in the order of the files.

        Raises:
            RequestError: a column is missing, or an id is empty or occurs twice in a table.
        """
        for path in files_below(self._archive.path, _SUFFIXES, self._name, "table"):
            yield from scenes_or_verdict(self._name, path, path.stem, self._of_table(path, full_digests))

    def _of_table(self, path: Path, full: bool) -> Iterator[Scene]:
        asset = file_asset(path, self._archive.root, band="table", rows=0, cols=1, dtype="float64", full=full)
        table = _Table(path, self._options.id)
        self._refuse_missing(path, table.names)
        options, known = self._options, set[str]()
        place = options.lonlat if set(options.lonlat) <= table.names else ()
        for group in range(table.groups):
            rows = table.read(group, (options.id, *place))
            ids = ["" if one is None else str(one) for one in rows[options.id].to_pylist()]
            self._refuse_ids(path, ids, known)
            at = [_numbers(rows[name]).tolist() for name in place] or [[None] * len(ids)] * 2
            samples = tuple(_listed(*one) for one in zip(ids, *at, strict=True))
            self._refuse_places(path, samples)
            yield Scene(
                id=f"{path.stem}-{group}" if table.groups > 1 else path.stem,
                archive=self._name,
                time=options.start or ALWAYS[0],
                end=self._end,
                acquisition=f"{self._name} row",
                bbox=box_around(samples),
                assets=(replace(asset, rows=len(ids), index=group + 1),),
                processing=self._in_words(),
                samples=samples,
            )

    @property
    def _end(self) -> datetime:
        """Last moment of the steps."""
        if self._options.start is None:
            return ALWAYS[1]
        return Duration.parse(self._options.step).after(self._options.start, self._options.steps) - timedelta(seconds=1)

    def _refuse_missing(self, path: Path, names: set[str]) -> None:
        wanted = [self._options.id, *(name for t in self._numbers_of_steps() for name in self._columns(t))]
        for name in wanted:
            if name not in names:
                raise RequestError(
                    f"archives.{self._name}: {path.name} has no column {name}{nearest(name, sorted(names))}"
                )

    def _refuse_ids(self, path: Path, ids: Sequence[str], known: set[str]) -> None:
        for one in ids:
            if words := usable_id(one):
                raise RequestError(f"archives.{self._name}: {path.name}, column {self._options.id}: {words}")
            if one in known:
                raise RequestError(
                    f"archives.{self._name}: {path.name} has two rows with the id {one}; an id is of one sample: give "
                    "each row its own, or remove one"
                )
            known.add(one)

    def _refuse_places(self, path: Path, samples: Sequence[Listed]) -> None:
        for one in samples:
            if not (-180 <= one.x <= 360 and -90 <= one.y <= 90):
                raise RequestError(
                    f"archives.{self._name}: {path.name}: the row {one.id} lies at {' '.join(self._options.lonlat)} "
                    f"{one.x:g} {one.y:g}, which are no degrees; correct it, or name other columns as options.lonlat"
                )

    def _numbers_of_steps(self) -> range:
        return range(self._options.steps if self._options.start is not None else 1)

    def _columns(self, t: int) -> list[str]:
        """Names of the columns of all bands at a step."""
        names = self._options.columns
        return [names.get(band, band).replace("{step}", str(self._options.first + t)) for band in self._archive.bands]

    def _in_words(self) -> str:
        words = []
        for band in self._archive.bands:
            formula = "DN"
            if band in self._options.decibels:
                factor, offset = self._options.decibels[band]
                formula = f"{factor!r} * log10(DN) + {offset!r}"
            if band in self._options.scale or band in self._options.add:
                scale, add = self._options.scale.get(band, 1.0), self._options.add.get(band, 0.0)
                formula = f"({formula}) * {scale!r} + {add!r}"
            if formula != "DN":
                words.append(f"{band} = {formula}")
        return "; ".join(words)

    def observe_samples(
        self, scene: Scene, frame: Window, samples: SampleList, side_px: int, reader: RasterReader
    ) -> Observation:
        """The values of the step that begins in the frame; of several the mean of those that are there."""
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        if side_px != 1:
            raise CorruptInput(f"a row of a table is one pixel, and chip_px is {side_px}; write chip_px: 1, cell_px: 1")
        asset, number = scene.assets[0], {one.id: i for i, one in enumerate(scene.samples)}
        rows = np.array([number[one] for one in samples.ids])
        steps = [self._values(asset, t, reader)[:, rows] for t in self._within(frame)]
        shape = (len(self._archive.bands), len(rows))
        values = np.full(shape, np.nan) if not steps else steps[0] if len(steps) == 1 else _mean(steps)
        values_cyx = values.astype(np.float32)[..., None]
        seen = np.asarray(np.isfinite(values_cyx).all(axis=0))
        return Observation(values_cyx=values_cyx, seen_yx=seen, clear_yx=seen)

    def _within(self, frame: Window) -> list[int]:
        """The steps that begin in a frame."""
        if self._options.start is None:
            return [0]
        length = Duration.parse(self._options.step)
        return [t for t in self._numbers_of_steps() if length.after(self._options.start, t) in frame]

    def _values(self, asset: Asset, t: int, reader: RasterReader) -> NDArray[np.float64]:
        """Values (band, row) of one step of a row group; NaN where there is none."""
        path, names = self._archive.root / asset.path, self._columns(t)

        def decode(table: _Table) -> NDArray[np.float64]:
            return table.values(asset.index - 1, tuple(names))

        future = read_file(reader, path, asset, partial(_Table, path, self._options.id), decode)
        numbers = future.result().copy()
        if self._options.nodata is not None:
            numbers[numbers == self._options.nodata] = np.nan
        for row, band in zip(numbers, self._archive.bands, strict=True):
            if band in self._options.decibels:
                factor, offset = self._options.decibels[band]
                row[~(row > 0)] = np.nan
                row[:] = factor * np.log10(row) + offset
            row[:] = row * self._options.scale.get(band, 1.0) + self._options.add.get(band, 0.0)
        return numbers

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The mean, or the median if the archive says so."""
        return composite(observations, self._archive.composite or "mean")


def _mean(steps: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of the steps that have a value."""
    stacked = np.stack(steps)
    there = np.isfinite(stacked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(there, stacked, 0).sum(axis=0) / there.sum(axis=0))


def _listed(name: str, lon: float | None, lat: float | None) -> Listed:
    if lon is None or lat is None or not np.isfinite([lon, lat]).all():
        return Listed(id=name)
    return Listed(id=name, crs="EPSG:4326", x=lon, y=lat)


@dataclass
class _Kept:
    """The columns that were read last: each frame of each shard asks for some of them."""

    group: int
    columns: dict[str, NDArray[np.float64]]


class _Table:
    """A table whose columns are read one row group at a time; a CSV file is one group.

    The column `ids` is text in a CSV file, too: read as a number, 0000200 would become 200.
    """

    def __init__(self, path: Path, ids: str) -> None:
        self._file: Any = None
        self._table: pyarrow.Table | None = None
        if path.suffix.lower() == ".parquet":
            self._file = pyarrow.parquet.ParquetFile(path)
            self.names = set(self._file.schema_arrow.names)
        else:
            as_text = pyarrow.csv.ConvertOptions(column_types={ids: pyarrow.string()})
            self._table = pyarrow.csv.read_csv(path, convert_options=as_text)
            self.names = set(self._table.column_names)
        self.groups = self._file.num_row_groups if self._file else 1
        self._kept = _Kept(group=-1, columns={})

    def read(self, group: int, names: Sequence[str]) -> pyarrow.Table:
        """Some columns of a row group."""
        if self._table is not None:
            return self._table.select(list(names))
        return self._file.read_row_group(group, columns=list(names))

    def values(self, group: int, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Columns of a row group as numbers (column, row); NaN where a value is empty."""
        if self._kept.group != group:
            self._kept = _Kept(group=group, columns={})
        missing = [name for name in names if name not in self._kept.columns]
        if missing:
            table = self.read(group, missing)
            self._kept.columns |= {name: _numbers(table[name]) for name in missing}
        return np.stack([self._kept.columns[name] for name in names])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _numbers(column: pyarrow.ChunkedArray) -> NDArray[np.float64]:
    values = pyarrow.compute.cast(column, pyarrow.float64()).combine_chunks()
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
