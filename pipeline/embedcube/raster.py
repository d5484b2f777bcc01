"""Reading raster files onto the grid, each block decoded once, and telling a broken file from a broken moment."""

import math
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, is_geographic, shift_between
from embedcube.scene import Asset

Pixels = NDArray[Any]
T = TypeVar("T")


def raster_settings() -> Any:
    """Of GDAL while files are opened: no folder is listed; files beside them, as .aux.xml, are found by their names."""
    return rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE")


class Opened(Protocol):
    """An open file of any kind."""

    def close(self) -> None:
        """Let go of it."""
        ...


H = TypeVar("H", bound=Opened)


def open_raster(path: Path, inner: str) -> Any:
    """Open a raster file; `inner` names the member of a zip archive or the variable of a NetCDF file."""
    if not inner:
        return rasterio.open(path)
    return rasterio.open(f"netcdf:{path}:{inner}" if is_netcdf(path) else f"/vsizip/{path}/{inner}")


def is_netcdf(path: Path) -> bool:
    """By its suffix."""
    return path.suffix in (".nc", ".nc4")


Method = Literal["nearest", "bilinear"]

_MOST_FILES = 1024
"""of a rank; each takes some 20 kB"""
Conversion = Callable[[Pixels], Pixels]
"""A file's pixels, of whatever type -> float32 of the same shape, each on its own; NaN where there is no value"""

_ALIGNED = 1e-4
"""pixels by which a file may miss the lattice and still be copied: far below any geolocation, far above rounding"""


class RasterReader:
    """The open files of one rank.

    A band is always read by the same thread: two threads on one file would each decode its blocks.
    Decoded blocks stay in GDAL's cache (GDAL_CACHEMAX) as long as their file stays open.
    """

    def __init__(self, threads: int, attempts: int = 4, wait_s: float = 0.5) -> None:
        """`attempts` tries of a read that fails for a passing reason, `wait_s`, twice that, ... apart."""
        self._pools = [ThreadPoolExecutor(1, thread_name_prefix=f"read-{i}") for i in range(threads)]
        self._files: list[OrderedDict[Hashable, Opened]] = [OrderedDict() for _ in range(threads)]
        # as many as may be: the neighbouring shards of a group find their files and decoded blocks again
        self._open_files = max(16, min(_MOST_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2) // threads)
        self._attempts = attempts
        self._wait_s = wait_s

    def submit(
        self,
        path: Path,
        asset: Asset,
        grid: Grid,
        area: PixelArea,
        method: Method,
        lane: int,
        convert: Conversion | None = None,
    ) -> Future[Pixels]:
        """Start reading `asset` onto `area`; equal lanes are read by one thread, one after the other.

        The result is as `read_onto` says. It raises CorruptInput when the file is wrong in its bytes, and OSError
        when it could not be read for a reason that may pass.
        """

        def opened() -> Any:
            if (size := path.stat().st_size) != asset.size:
                raise ValueError(f"{size} bytes")
            return open_raster(path, asset.inner)

        def decode(dataset: Any) -> Pixels:
            return read_onto(dataset, asset, grid, area, method, convert)

        def judged() -> CorruptInput | OSError:
            return judge(path, asset.inner, asset.band, asset.path, decode, size=asset.size)

        return self.run(lane, key=(path, asset.inner), opened=opened, decode=decode, judged=judged)

    def read_bands(
        self,
        root: Path,
        assets: Sequence[Asset],
        grid: Grid,
        area: PixelArea,
        method_of: Callable[[str], Method],
        convert_of: Callable[[str], Conversion],
    ) -> Pixels:
        """All bands of a scene, converted, each in a lane of its own: (band, y, x) float32, NaN where there is none.

        Raises:
            CorruptInput, OSError: as `submit` says.
        """
        futures = [
            self.submit(root / one.path, one, grid, area, method_of(one.band), lane, convert_of(one.band))
            for lane, one in enumerate(assets)
        ]
        return np.stack([future.result() for future in futures])

    def run(
        self,
        lane: int,
        *,
        key: Hashable,
        opened: Callable[[], H],
        decode: Callable[[H], T],
        judged: Callable[[], CorruptInput | OSError],
    ) -> "Future[T]":
        """Start `decode` on the file that `opened` opens, in the thread of `lane`.

        The file stays open there for later calls with an equal `key`. A read that fails (OSError, ValueError) is
        tried again on a file opened afresh, unless `judged` blames the bytes (CorruptInput).
        """
        place = lane % len(self._pools)

        def judged_closed(_: Exception) -> CorruptInput | OSError:
            if (broken := self._files[place].pop(key, None)) is not None:
                broken.close()
            return judged()

        def read() -> T:
            return retried(
                lambda: decode(self._kept_open(place, key, opened)),
                judged_closed,
                attempts=self._attempts,
                wait_s=self._wait_s,
            )

        return self._pools[place].submit(read)

    def close(self) -> None:
        """Stop the threads and close their files; what they have not begun is dropped."""
        for pool, files in zip(self._pools, self._files, strict=True):
            pool.shutdown(wait=True, cancel_futures=True)
            for file in files.values():
                file.close()
            files.clear()

    def _kept_open(self, place: int, key: Hashable, opened: Callable[[], H]) -> H:
        files: OrderedDict[Hashable, Any] = self._files[place]
        if key in files:
            files.move_to_end(key)
        else:
            files[key] = opened()
            if len(files) > self._open_files:
                files.popitem(last=False)[1].close()
        kept: H = files[key]
        return kept


def retried(
    read: Callable[[], T],
    judge: Callable[[Exception], CorruptInput | OSError],
    *,
    attempts: int = 4,
    wait_s: float = 0.5,
) -> T:
    """Call `read` until it succeeds or its input is judged corrupt, `attempts` times at most."""
    for attempt in range(attempts):
        try:
            return read()
        except (RasterioError, OSError, ValueError) as error:
            judged = judge(error)
            if isinstance(judged, CorruptInput) or attempt + 1 == attempts:
                raise judged from error
        time.sleep(wait_s * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def judge(
    path: Path, inner: str, band: str, name: str, decode: Callable[[Any], object], *, size: int | None = None
) -> CorruptInput | OSError:
    """Why a file could not be decoded: wrong bytes (CorruptInput) or a passing failure to get them (OSError).

    GDAL reports both alike. So the bytes are read plainly, and decoded from memory: what fails there is wrong.
    `name` is the file's path below the archive, `size` what it had when it was indexed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as missing:
        return judge_missing(path, band, name, missing)
    except OSError as passing:
        return passing
    if size is not None and len(data) != size:
        return CorruptInput(f"{band}: {name} has {len(data)} bytes, {size} when it was indexed")
    try:
        # the library of NetCDF cannot read from memory; all bytes of the file have just come in, so that is as good
        with MemoryFile(data, ext=path.suffix) as memory:
            there = path if is_netcdf(path) else Path(memory.name)
            with open_raster(there, inner) as dataset:
                decode(dataset)
    except (RasterioError, ValueError) as error:
        reason = (
            str(error.__cause__ or error).replace(memory.name, path.name).replace(Path(memory.name).name, path.name)
        )
        return CorruptInput(f"{band}: {name} does not decode: {' '.join(reason.split())}")
    return OSError(f"{band}: {name} could not be read whole, though its bytes are right")


def judge_missing(path: Path, band: str, name: str, missing: FileNotFoundError) -> CorruptInput | OSError:
    """A file that is gone from its archive has been deleted; an archive that is gone or empty is not mounted.

    Of a file outside of the archive's folder its own folder must be there.
    """
    inside = len(Path(name).parts) if ".." not in Path(name).parts else 1
    archive = path.parents[inside - 1]
    if archive.exists() and any(archive.iterdir()):
        return CorruptInput(f"{band}: {name} is gone since it was indexed")
    return missing


def read_onto(
    dataset: Any, asset: Asset, grid: Grid, area: PixelArea, method: Method, convert: Conversion | None = None
) -> Pixels:
    """The pixels of an open file on `area`, (rows, cols) in the file's type; `asset.nodata` where it has nothing.

    With `convert` they are float32, NaN where there is nothing: each of the file's own pixels is converted before any
    is resampled, for the mean of decibels is not the decibels of the mean.

    Files on the lattice are copied, coarser ones that nest in it repeated (nearest); all else is warped exactly,
    so that a pixel gets the same value whatever area it is asked with.
    """
    if dataset.shape != (asset.rows, asset.cols):
        raise ValueError(f"{dataset.shape[0]} x {dataset.shape[1]} pixels, {asset.rows} x {asset.cols} when indexed")

    def read(window: Window) -> Pixels:
        pixels = dataset.read(asset.index, window=window)
        return pixels if convert is None else np.where(_known(pixels, asset), convert(pixels), np.float32(np.nan))

    # what `read` gives, from here on
    given = asset if convert is None else replace(asset, dtype="float32", nodata=math.nan)
    result = np.full((area.rows, area.cols), given.nodata, dtype=given.dtype)
    step = nesting(given, grid)
    if step is not None and (step == 1 or method == "nearest"):
        _copy(read, given, grid, area, step, result)
    else:
        _warp(read, given, grid, area, method, result)
    return result


def _known(pixels: Pixels, asset: Asset) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(pixels) & (pixels != asset.nodata))


def nesting(asset: Asset, grid: Grid) -> int | None:
    """How many grid pixels make one side of a file's pixel, where the file's pixels nest in the grid; else None."""
    a, b, c, d, e, f = asset.transform
    step, shift = round(a / grid.pixel), shift_between(asset.crs, grid.crs)
    if step < 1 or b or d or not math.isclose(a, -e, rel_tol=1e-9) or shift is None:
        return None
    offsets = (
        (c + shift[0] - grid.origin_x) / grid.pixel,
        (grid.origin_y - f - shift[1]) / grid.pixel,
        max(asset.rows, asset.cols) * (a / grid.pixel - step),
    )
    if abs(offsets[2]) > _ALIGNED or any(abs(o - round(o)) > _ALIGNED for o in offsets[:2]):
        return None
    return step


def _copy(
    read: Callable[[Window], Pixels], asset: Asset, grid: Grid, area: PixelArea, step: int, result: Pixels
) -> None:
    dx, dy = shift_between(asset.crs, grid.crs) or (0.0, 0.0)
    left = round((asset.transform[2] + dx - grid.origin_x) / grid.pixel)
    top = round((grid.origin_y - asset.transform[5] - dy) / grid.pixel)
    around = 360 / grid.pixel
    turns = range(-2, 3) if grid.geographic and abs(around - round(around)) < _ALIGNED else (0,)
    for turn in turns:
        _copy_at(read, asset, area, step, (top, left + turn * round(around)), result)


def _copy_at(
    read: Callable[[Window], Pixels], asset: Asset, area: PixelArea, step: int, corner: tuple[int, int], result: Pixels
) -> None:
    """Copy a file whose upper left pixel is at `corner` (row, column) of the grid."""
    top, left = corner
    row0, row1 = max(area.row, top), min(area.row + area.rows, top + asset.rows * step)
    col0, col1 = max(area.col, left), min(area.col + area.cols, left + asset.cols * step)
    if row0 >= row1 or col0 >= col1:
        return
    first_row, last_row = (row0 - top) // step, -((top - row1) // step)
    first_col, last_col = (col0 - left) // step, -((left - col1) // step)
    pixels = read(Window(first_col, first_row, last_col - first_col, last_row - first_row))
    if step > 1:
        pixels = pixels.repeat(step, axis=0).repeat(step, axis=1)
    skip_row, skip_col = row0 - top - first_row * step, col0 - left - first_col * step
    result[row0 - area.row : row1 - area.row, col0 - area.col : col1 - area.col] = pixels[
        skip_row : skip_row + row1 - row0, skip_col : skip_col + col1 - col0
    ]


def _warp(
    read: Callable[[Window], Pixels], asset: Asset, grid: Grid, area: PixelArea, method: Method, result: Pixels
) -> None:
    """Each pixel from the file's pixels around its centre.

    The centre is found exactly and from whole numbers, so that a place has the same bits whatever area it is asked
    with (rasterio's `reproject` always interpolates the places).
    """
    x = grid.origin_x + (2 * np.arange(area.col, area.col + area.cols) + 1) * (grid.pixel / 2)
    y = grid.origin_y - (2 * np.arange(area.row, area.row + area.rows) + 1) * (grid.pixel / 2)
    transformer = Transformer.from_crs(grid.crs, asset.crs, always_xy=True)
    a, b, c, d, e, f = tuple(~Affine(*asset.transform))[:6]
    xs, ys = transformer.transform(*np.meshgrid(x, y))
    if is_geographic(asset.crs):
        # in the file's own longitudes, which may begin anywhere
        first = asset.bounds[0] - abs(asset.transform[0])
        xs = xs - 360 * np.floor((xs - first) / 360)
    cols, rows = a * xs + b * ys + c, d * xs + e * ys + f
    window = _source_window(asset, rows, cols)
    if window is None:
        return
    pixels = read(window)
    known = _known(pixels, asset)
    cols, rows = cols - window.col_off, rows - window.row_off
    total, weight = np.zeros(result.shape), np.zeros(result.shape)
    shift = 0.5 if method == "bilinear" else 0.0
    row0, col0 = np.floor(rows - shift).astype(np.int64), np.floor(cols - shift).astype(np.int64)
    for down in (0, 1) if shift else (0,):
        for right in (0, 1) if shift else (0,):
            row, col = row0 + down, col0 + right
            share = (1 - np.abs(rows - 0.5 - row)) * (1 - np.abs(cols - 0.5 - col)) if shift else np.ones(result.shape)
            inside = (row >= 0) & (row < pixels.shape[0]) & (col >= 0) & (col < pixels.shape[1])
            at = (np.clip(row, 0, pixels.shape[0] - 1), np.clip(col, 0, pixels.shape[1] - 1))
            share = np.where(inside & known[at], share, 0)
            total += np.where(share > 0, pixels[at], 0) * share
            weight += share
    found = weight > 1e-5
    values = total[found] / weight[found]
    result[found] = np.rint(values) if result.dtype.kind in "iu" else values


def _source_window(asset: Asset, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Window | None:
    """The file's pixels around places in it, with two to spare for the kernel; None when there are none."""
    near = (rows > -1) & (rows < asset.rows + 1) & (cols > -1) & (cols < asset.cols + 1)
    if not near.any():
        return None
    row0, row1 = max(0, math.floor(rows[near].min()) - 2), min(asset.rows, math.ceil(rows[near].max()) + 2)
    col0, col1 = max(0, math.floor(cols[near].min()) - 2), min(asset.cols, math.ceil(cols[near].max()) + 2)
    return Window(col0, row0, col1 - col0, row1 - row0)
