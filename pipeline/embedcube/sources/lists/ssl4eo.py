"""SSL4EO-S12 v1.1 and -downstream: Zarr stores (format 2) of many samples at four dates, in zip files.

One that is unpacked is named as the archive's `path` itself: folders below it are not looked through.

As their publishers print them: `bands` (sample, time, band, y, x) in int16, with +1000 for Sentinel-2 of v1.1, or in
float16 (dB) for Sentinel-1; `time` counts, `time_` has the dates; `crs` is an EPSG number for each sample;
`cloud_mask` is of Sentinel-2 alone. A store of -downstream is one sample without place, dates and +1000; its id is the
name of the file.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from embedcube.campaign.fields import nearest
from embedcube.campaign.options import PluginOptions
from embedcube.campaign.scene import Listed, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.sources.base import Observation
from embedcube.sources.composite import Composite, composite
from embedcube.sources.lists.scenes import box_around, file_asset, files_below, read_file, scenes_or_verdict, usable_id
from embedcube.sources.options import read_options, refuse_keys
from embedcube.sources.reader import RasterReader
from embedcube.sources.stores import refuse_store
from embedcube.windows import Window
from embedcube.zones import UNDATED, SampleList

_SUFFIXES = (".zarr.zip",)

_SMALL = 1 << 24
"""most values of an array that is read whole, and most samples times dates of a store"""

_SEASONS = (4, 7, 10, 13)
"""months in whose middle the seasons have theirs, in the order of -downstream: MAM, JJA, SON, DJF of the next year"""


class Options(PluginOptions):
    """The options of the YAML block."""

    seasons_of: int | None = None
    """year that begins in March, to whose four seasons the four time steps are assigned, whatever their dates: for
    files without dates, and for samples of several years in windows or frames of three months from March on. The true
    dates are kept in the coordinate `acquired`"""
    offset: Literal["auto"] | float = "auto"
    """number that Sentinel-2 holds too much: with `auto` 1000 in files with dates and places (v1.1), 0 in others
    (-downstream); Sentinel-1 has none"""
    clear: tuple[int, ...] = ()
    """classes of `cloud_mask` that are clear, in files that have it; without any no pixel is masked by it"""
    id: Literal["sample", "file"] | None = None
    """where ids come from: the coordinate `sample`, or the name of the file; by default `file` for files of one sample
    without places"""


class Ssl4eo:
    """A source of stores of SSL4EO-S12."""

    options = Options
    """options of the YAML block"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for unknown options, and for keys that have no meaning for these stores."""
        self._name, self._archive = name, archive
        self._options = read_options(Options, name, archive)
        refuse_keys(
            name,
            archive,
            {"mask": "write options.clear", "offset": "write options.offset",
             "resampling": "chips are read as they are", "search": "the stores lie in a folder"},
        )  # fmt: skip

    @property
    def collection(self) -> str:
        """The data set's paper."""
        return "https://doi.org/10.48550/arXiv.2503.00168"

    @property
    def counted(self) -> bool:
        """True: each time step is an acquisition."""
        return True

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """One scene for each time step of each store, in the order of the files.

        Raises:
            RequestError: there is no store, or one lacks dates and `options.seasons_of` is not set.
        """
        for path in self._stores():
            yield from scenes_or_verdict(self._name, path, _stem(path), self._of_store(path, full_digests))

    def _stores(self) -> list[Path]:
        """The zip files below the archive, or a single one, or an unpacked store."""
        root = self._archive.path
        if (root / ".zgroup").exists():
            return [root]
        return files_below(root, _SUFFIXES, self._name, "store of SSL4EO-S12")

    def _of_store(self, path: Path, full: bool) -> Iterator[Scene]:
        refuse_store(zipfile.Path(path) if path.is_file() else path)
        with closing(_Store(path)) as store:
            facts = self._facts(path, store)
        asset = file_asset(
            path if path.is_file() else path / "bands" / ".zarray",
            self._archive.root,
            band="bands",
            rows=facts.side,
            cols=facts.side,
            dtype=facts.dtype,
            full=full,
        )
        for step in range(facts.steps):
            samples = facts.samples_at(step)
            time, end, dated = self._times(path, step, samples)
            yield Scene(
                id=f"{_stem(path)}-{step}",
                archive=self._name,
                time=time,
                end=end,
                acquisition=f"{self._name} step {step}",
                bbox=box_around(samples),
                # the number of a time step, as of a band in a raster
                assets=(replace(asset, index=step + 1, block_bytes=facts.block_bytes),),
                offset=-facts.offset,
                samples=samples,
                dated=dated,
            )

    def _times(self, path: Path, step: int, samples: Sequence[Listed]) -> tuple[datetime, datetime | None, bool]:
        """First and last moment of a step, and whether each sample has a date of its own."""
        if (year := self._options.seasons_of) is not None:
            years, month = divmod(_SEASONS[step % len(_SEASONS)] - 1, 12)
            return datetime(year + years, month + 1, 15, tzinfo=UTC), None, False
        known = [one.seconds for one in samples if one.seconds != UNDATED]
        if not known:
            raise RequestError(
                f"archives.{self._name}: {path.name} has no dates (time_); write options.seasons_of: 2020, and windows "
                "or frames of three months from 2020-03-01 on"
            )
        first, last = (datetime.fromtimestamp(seconds, UTC) for seconds in (min(known), max(known)))
        return first, last, True

    def _facts(self, path: Path, store: "_Store") -> "_Facts":
        bands = store.array("bands")
        if bands is None or len(bands.shape) != 5:
            raise ValueError("it has no array `bands` of sample, time, band, y and x")
        named = store.texts("band")
        for band in self._archive.bands:
            if named is not None and band.lower() not in [one.lower() for one in named]:
                raise RequestError(f"archives.{self._name}: {path.name} has no band {band}{nearest(band, named)}")
        if named is None and len(self._archive.bands) != bands.shape[2]:
            raise RequestError(
                f"archives.{self._name}: {path.name} does not name its {bands.shape[2]} bands; name all of them, in "
                f"their order, the campaign has {len(self._archive.bands)}"
            )
        count, steps, side = bands.shape[0], bands.shape[1], bands.shape[-1]
        systems, placed = store.values("crs"), store.values("center_lat") is not None
        by_file = self._options.id == "file" or (self._options.id is None and not placed and count == 1)
        ids = [_stem(path)] if by_file else store.texts("sample")
        if ids is None or len(ids) != count:
            raise ValueError(f"it has {count} samples and {len(ids or ())} ids (coordinate `sample`)")
        for one, times in Counter(ids).items():
            if words := usable_id(one):
                raise ValueError(words)
            if times > 1:
                raise RequestError(
                    f"archives.{self._name}: {path.name} has {times} samples with the id {one}; an id is of one "
                    "sample: give each its own, or leave the file out"
                )
        offset = self._options.offset
        if offset == "auto":
            radar = np.dtype(bands.dtype).kind == "f"
            offset = 0.0 if radar or not placed else 1000.0
        return _Facts(
            ids=ids, steps=steps, side=side, dtype=np.dtype(bands.dtype).name, offset=float(offset),
            block_bytes=max(map(store.chunk_bytes, ("bands", "cloud_mask"))),
            places=_places(store, systems, count), seconds=store.seconds(count, steps),
        )  # fmt: skip

    def observe_samples(
        self, scene: Scene, frame: Window, samples: SampleList, side_px: int, reader: RasterReader
    ) -> Observation:
        """The middles of the chips as DN without the offset (0 is no data), or dB; clear where no cloud is."""
        if scene.verdict:
            raise CorruptInput(scene.verdict)
        asset = scene.assets[0]
        if asset.cols < side_px:
            raise CorruptInput(f"its chips have {asset.cols} pixels along a side, chip_px is {side_px}; lower chip_px")
        number = {one.id: i for i, one in enumerate(scene.samples)}
        rows = [number[one] for one in samples.ids]
        path = self._archive.root / asset.path
        path = path if path.is_file() and path.name != ".zarray" else path.parent.parent

        def decode(store: _Store) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            return self._read(store, asset.index - 1, rows, side_px, scene.offset)

        values, clear = read_file(
            reader, self._archive.root / asset.path, asset, partial(_Store, path), decode
        ).result()
        within = np.array([scene.holds(scene.samples[i], frame) for i in rows])
        seen = np.isfinite(values).all(axis=1) & within[:, None, None]
        shape = (len(rows) * side_px, side_px)
        return Observation(
            values_cyx=values.swapaxes(0, 1).reshape(values.shape[1], *shape),
            seen_yx=seen.reshape(shape),
            clear_yx=(seen & clear).reshape(shape),
        )

    def _read(
        self, store: "_Store", step: int, rows: Sequence[int], side_px: int, offset: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values (sample, band, y, x) of some samples, NaN where there is none; and where they are clear."""
        named = [one.lower() for one in store.texts("band") or self._archive.bands]
        channels = [named.index(band.lower()) for band in self._archive.bands]
        stored = store.middles("bands", step, rows, side_px, channels)
        values = stored.astype(np.float32)
        if stored.dtype.kind != "f":
            # 0 is no data; what the offset would make negative is the least value, as elsewhere
            values = np.where(stored == 0, np.nan, np.maximum(values + np.float32(offset), 1)).astype(np.float32)
        clear = np.ones((len(rows), side_px, side_px), dtype=bool)
        if self._options.clear and store.array("cloud_mask") is not None:
            clear = np.isin(store.middles("cloud_mask", step, rows, side_px), self._options.clear)
        return values, clear

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """The median, or the mean if the archive says so."""
        return composite(observations, self._archive.composite or "median")


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a store says of its samples."""

    ids: Sequence[str]
    steps: int
    side: int
    dtype: str
    offset: float
    block_bytes: int
    """bytes of one chunk of `bands`"""
    places: Sequence[Listed]
    """without ids and dates"""
    seconds: NDArray[np.int64]
    """Unix time (sample, step); UNDATED where there is none"""

    def samples_at(self, step: int) -> tuple[Listed, ...]:
        """The samples of a time step."""
        columns = zip(self.ids, self.places, self.seconds[:, step].tolist(), strict=True)
        return tuple(replace(place, id=name, seconds=seconds) for name, place, seconds in columns)


def _places(store: "_Store", systems: NDArray[Any] | None, count: int) -> list[Listed]:
    """Place of each sample: its UTM coordinates where the store has them, else the centre in degrees, else none."""
    lat, lon, x, y = (store.values(name) for name in ("center_lat", "center_lon", "x_", "y_"))
    if systems is not None and x is not None and y is not None and x.ndim == y.ndim == 2:
        found = []
        for i in range(count):
            dx, dy = ((axis[-1] - axis[0]) / (len(axis) - 1) for axis in (x[i], y[i]))
            middle = [float(axis[0] + axis[-1]) / 2 for axis in (x[i], y[i])]
            found.append(
                Listed(id="", crs=f"EPSG:{int(systems[i])}", x=middle[0], y=middle[1], dx=float(dx), dy=float(dy))
            )
        return found
    if lat is not None and lon is not None:
        return [Listed(id="", crs="EPSG:4326", x=float(lon[i]), y=float(lat[i])) for i in range(count)]
    return [Listed(id="")] * count


def _stem(path: Path) -> str:
    return re.sub(r"(\.zarr)?(\.zip)?$", "", path.name)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The samples of one chunk at the time step that was read last."""

    step: int
    chunk: int
    values: NDArray[Any]


class _Store:
    """An open store; Zarr format 2, with or without consolidated metadata."""

    def __init__(self, path: Path) -> None:
        self._store: Any = ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)
        self._group = zarr.open_group(self._store, mode="r", zarr_format=2, use_consolidated=False)
        self._kept: dict[str, _Kept] = {}

    def array(self, name: str) -> Any:
        """An array; None where there is none."""
        try:
            return self._group[name]
        except KeyError:
            return None

    def values(self, name: str) -> NDArray[Any] | None:
        """All values of a small array; None where there is none. A ValueError says that it is not small."""
        array = self.array(name)
        if array is None:
            return None
        if (most := max(array.size, int(np.prod(array.chunks, dtype=object)))) > _SMALL:
            raise ValueError(f"{name} has {most:,} values, where at most {_SMALL:,} are read")
        return np.asarray(array[...])

    def texts(self, name: str) -> list[str] | None:
        """A coordinate of texts."""
        values = self.values(name)
        if values is None:
            return None
        return [one.decode() if isinstance(one, bytes) else str(one) for one in values.tolist()]

    def seconds(self, count: int, steps: int) -> NDArray[np.int64]:
        """Unix time (sample, step) of each acquisition; UNDATED where there is none."""
        if count * steps > _SMALL:
            raise ValueError(f"it has {count:,} samples at {steps:,} times; at most {_SMALL:,} together are read")
        array, values = self.array("time_"), self.values("time_")
        if array is None or values is None:
            return np.full((count, steps), UNDATED)
        about = dict(array.attrs)
        if values.dtype.kind != "M" and "since" not in str(about.get("units", "")):
            raise ValueError("time_ holds numbers without the units of a time, as `days since 1970-01-01`")
        if values.dtype.kind == "M":
            moments = values.astype("datetime64[s]")
        else:
            import xarray

            variable = xarray.Variable(("sample", "time"), values, about)
            moments = np.asarray(xarray.conventions.decode_cf_variable("time_", variable).values)
            moments = moments.astype("datetime64[s]")
        return np.where(np.isnat(moments), UNDATED, moments.astype(np.int64)).reshape(count, steps)

    def chunk_bytes(self, name: str) -> int:
        """Bytes of one chunk of an array, decoded; 0 where there is none."""
        if (array := self.array(name)) is None:
            return 0
        return int(np.prod(array.chunks, dtype=object)) * int(np.dtype(array.dtype).itemsize)

    def middles(
        self, name: str, step: int, rows: Sequence[int], side_px: int, channels: Sequence[int] | None = None
    ) -> NDArray[Any]:
        """The middles (sample[, band], y, x) of some samples of an array (sample, time[, band], y, x) at a time step.

        Chunks are read one after the other; the last one is kept.
        """
        array, found = self.array(name), list[NDArray[Any]]()
        first, size = (array.shape[-1] - side_px) // 2, array.chunks[0]
        middle = slice(first, first + side_px)
        for row in rows:
            own = self._chunk(name, step, row // size)[row % size]
            found.append((own if channels is None else own[channels])[..., middle, middle])
        return np.stack(found)

    def _chunk(self, name: str, step: int, chunk: int) -> NDArray[Any]:
        kept = self._kept.get(name)
        if kept is None or (kept.step, kept.chunk) != (step, chunk):
            self._kept.pop(name, None)
            array = self.array(name)
            size = array.chunks[0]
            values = np.asarray(array[chunk * size : (chunk + 1) * size, step])
            kept = self._kept[name] = _Kept(step=step, chunk=chunk, values=values)
        return kept.values

    def close(self) -> None:
        """Close the file."""
        self._store.close()
