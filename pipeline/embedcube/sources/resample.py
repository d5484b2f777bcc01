"""The pixels of an open file on the grid: copied where they lie on it, repeated where they nest in it, or warped."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window

from embedcube.campaign.resampling import ALIGNED, Method, fineness, nesting, resampling_of
from embedcube.campaign.scene import Asset
from embedcube.grid import Grid, PixelArea, is_geographic, shift_between
from embedcube.timings import Timings

Pixels = NDArray[Any]
Floats = NDArray[np.float64]

Conversion = Callable[[Pixels], Pixels]
"""A file's pixels, of whatever type -> float32 of the same shape, each on its own; NaN where there is no value"""

_AT_ONCE = 1 << 19
"""pixels of a file that are averaged at once, about"""


def read_onto(
    dataset: Any,
    asset: Asset,
    grid: Grid,
    area: PixelArea,
    method: Method,
    convert: Conversion | None = None,
    timings: Timings | None = None,
) -> Pixels:
    """The pixels of an open file on `area`, (rows, cols) in the file's type; `asset.nodata` where it has nothing.

    With `convert` they are float32, NaN where there is nothing: each of the file's own pixels is converted before any
    is resampled, for the mean of decibels is not the decibels of the mean.

    `resampling_of` says which way is taken. A pixel gets the same value whatever area it is asked with. `timings` get
    the seconds of `decode`, and as `warp` all others.
    """
    spent = Timings()
    with spent.step("in all"):
        result = _read_onto(dataset, asset, grid, area, method, convert, spent)
    if timings is not None:
        decode_s = spent.seconds.get("decode", 0.0)
        timings.add("decode", decode_s)
        timings.add("warp", spent.seconds["in all"] - decode_s)
    return result


def _read_onto(
    dataset: Any,
    asset: Asset,
    grid: Grid,
    area: PixelArea,
    method: Method,
    convert: Conversion | None,
    spent: Timings,
) -> Pixels:
    if dataset.shape != (asset.rows, asset.cols):
        raise ValueError(f"{dataset.shape[0]} x {dataset.shape[1]} pixels, {asset.rows} x {asset.cols} when indexed")

    def read(window: Window) -> Pixels:
        with spent.step("decode"):
            pixels = dataset.read(asset.index, window=window)
        return pixels if convert is None else np.where(_known(pixels, asset), convert(pixels), np.float32(np.nan))

    # what `read` gives, from here on
    given = asset if convert is None else replace(asset, dtype="float32", nodata=math.nan)
    result = np.full((area.rows, area.cols), given.nodata, dtype=given.dtype)
    way = resampling_of(given, grid, method)
    if way == "copied" or way == "repeated":
        _copy(read, given, grid, area, nesting(given, grid) or 1, result)
    elif way == "average":
        for strip in _strips(given, grid, area):
            _average(read, given, grid, strip, result[strip.row - area.row :][: strip.rows])
    else:
        _warp(read, given, grid, area, way, result)
    return result


def _known(pixels: Pixels, asset: Asset) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(pixels) & (pixels != asset.nodata))


def _copy(
    read: Callable[[Window], Pixels], asset: Asset, grid: Grid, area: PixelArea, step: int, result: Pixels
) -> None:
    dx, dy = shift_between(asset.crs, grid.crs) or (0.0, 0.0)
    left = round((asset.transform[2] + dx - grid.origin_x) / grid.pixel)
    top = round((grid.origin_y - asset.transform[5] - dy) / grid.pixel)
    around = 360 / grid.pixel
    turns = range(-2, 3) if grid.geographic and abs(around - round(around)) < ALIGNED else (0,)
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
    rows, cols = _in_file(asset, grid, x, y)
    # of a place that the file's CRS does not know, a row that no file has
    there = np.isfinite(cols) & np.isfinite(rows)
    cols, rows = np.where(there, cols, 0.0), np.where(there, rows, -10.0)
    shift = 0.5 if method == "bilinear" else 0.0
    row0, col0 = np.floor(rows - shift).astype(np.int64), np.floor(cols - shift).astype(np.int64)
    # counted so that the places lie side by side, also where the file's first column is between them
    around = _around(asset)
    turn = np.where(col0 < around // 2, around, 0) if np.ptp(col0) > around // 2 else 0
    window = _source_window(asset, rows, cols + turn, around)
    if window is None:
        return
    pixels = _read_around(read, window, around)
    known = _known(pixels, asset)
    total, weight = np.zeros(result.shape), np.zeros(result.shape)
    for down in (0, 1) if shift else (0,):
        for right in (0, 1) if shift else (0,):
            row, col = row0 + down, col0 + right
            share = (1 - np.abs(rows - 0.5 - row)) * (1 - np.abs(cols - 0.5 - col)) if shift else np.ones(result.shape)
            row, col = row - window.row_off, col + turn - window.col_off
            inside = (row >= 0) & (row < pixels.shape[0]) & (col >= 0) & (col < pixels.shape[1])
            at = (np.clip(row, 0, pixels.shape[0] - 1), np.clip(col, 0, pixels.shape[1] - 1))
            share = np.where(inside & known[at], share, 0)
            total += np.where(share > 0, pixels[at], 0) * share
            weight += share
    found = weight > 1e-5
    values = total[found] / weight[found]
    result[found] = np.rint(values) if result.dtype.kind in "iu" else values


def _in_file(asset: Asset, grid: Grid, x: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Floats]:
    """Rows and columns in a file, from its upper left corner, of the places at each y and x of a grid."""
    transformer = Transformer.from_crs(grid.crs, asset.crs, always_xy=True)
    a, b, c, d, e, f = tuple(~Affine(*asset.transform))[:6]
    xs, ys = transformer.transform(*np.meshgrid(x, y))
    if is_geographic(asset.crs):
        # in the file's own longitudes, which may begin anywhere
        first = asset.bounds[0] - abs(asset.transform[0])
        xs = xs - 360 * np.floor((xs - first) / 360)
    return d * xs + e * ys + f, a * xs + b * ys + c


def _strips(asset: Asset, grid: Grid, area: PixelArea) -> Iterator[PixelArea]:
    """Rows of an area under which a file has not too many pixels."""
    rows = max(1, round(_AT_ONCE / (max(1.0, fineness(asset, grid)) ** 2 * area.cols)))
    for first in range(0, area.rows, rows):
        yield replace(area, row=area.row + first, rows=min(rows, area.rows - first))


def _average(read: Callable[[Window], Pixels], asset: Asset, grid: Grid, area: PixelArea, result: Pixels) -> None:
    """Each pixel is the mean of the file's pixels under it, by the area that they share; no data does not count.

    What lies under it is a box around its centre, as wide and high in the file's pixels as its sides are long: exact
    where both have parallel axes, the same area where they are turned.
    """
    top, bottom, left, right = _boxes_under(asset, grid, area)
    around = _around(asset)
    col0 = np.floor(left)
    turn = np.where(col0 < around // 2, around, 0) if np.ptp(col0) > around // 2 else 0
    meets = (bottom > 0) & (top < asset.rows) & ((around > 0) | ((right > 0) & (left < asset.cols)))
    if not meets.any():
        return
    low, high = math.floor((left + turn)[meets].min()), math.ceil((right + turn)[meets].max())
    if not around:
        low, high = max(0, low), min(asset.cols, high)
    above, below = max(0, math.floor(top[meets].min())), min(asset.rows, math.ceil(bottom[meets].max()))
    pixels = _read_around(read, Window(low, above, high - low, below - above), around)
    known = _known(pixels, asset)
    total, weight = np.zeros(result.shape), np.zeros(result.shape)
    for down in range(math.ceil((bottom - np.floor(top))[meets].max())):
        row = np.floor(top) + down
        tall = np.clip(np.minimum(bottom, row + 1) - np.maximum(top, row), 0, None)
        at_row, in_rows = _within(row - above, pixels.shape[0])
        for across in range(math.ceil((right - col0)[meets].max())):
            col = col0 + across
            wide = np.clip(np.minimum(right, col + 1) - np.maximum(left, col), 0, None)
            at_col, in_cols = _within(col + turn - low, pixels.shape[1])
            at = at_row, at_col
            share = np.where(meets & in_rows & in_cols & known[at], tall * wide, 0)
            total += np.where(share > 0, pixels[at], 0) * share
            weight += share
    found = weight > 1e-5
    values = total[found] / weight[found]
    result[found] = np.rint(values) if result.dtype.kind in "iu" else values


def _within(index: Floats, size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Indices of an axis, those beyond its ends at the ends; and which are not beyond."""
    return np.clip(index, 0, size - 1).astype(np.int64), (index >= 0) & (index < size)


def _boxes_under(asset: Asset, grid: Grid, area: PixelArea) -> tuple[Floats, Floats, Floats, Floats]:
    """Upper and lower row, left and right column in a file of the box under each pixel of a grid."""
    x = grid.origin_x + np.arange(2 * area.col, 2 * (area.col + area.cols) + 1) * (grid.pixel / 2)
    y = grid.origin_y - np.arange(2 * area.row, 2 * (area.row + area.rows) + 1) * (grid.pixel / 2)
    rows, cols = _in_file(asset, grid, x, y)  # of centres, and of the middles of sides

    def side(places: Floats, period: float) -> Floats:
        across, down = places[1::2, 2::2] - places[1::2, :-1:2], places[2::2, 1::2] - places[:-1:2, 1::2]
        if period:
            across, down = across - period * np.rint(across / period), down - period * np.rint(down / period)
        return np.asarray(np.hypot(across, down))

    height = side(rows, 0.0) / 2
    width = side(cols, 360 / abs(asset.transform[0]) if is_geographic(asset.crs) else 0.0) / 2
    row, col = rows[1::2, 1::2], cols[1::2, 1::2]
    edges = row - height, row + height, col - width, col + width
    # of a place that the file's CRS does not know, a row that no file has
    there = np.logical_and.reduce([np.isfinite(edge) for edge in edges])
    snapped = [np.where(np.abs(edge - np.rint(edge)) < ALIGNED, np.rint(edge), edge) for edge in edges]
    top, bottom, left, right = (
        np.where(there, edge, other) for edge, other in zip(snapped, (-10, -9, 0, 1), strict=True)
    )
    return top, bottom, left, right


def _around(asset: Asset) -> int:
    """The columns that go once around the globe, where a file has them all; else 0."""
    a, b, _, d, _, _ = asset.transform
    if b or d or not is_geographic(asset.crs):
        return 0
    around = round(360 / abs(a))
    return around if asset.cols >= around and abs(360 / abs(a) - around) < ALIGNED else 0


def _source_window(asset: Asset, rows: NDArray[np.float64], cols: NDArray[np.float64], around: int) -> Window | None:
    """The file's pixels around places in it, with two to spare for the kernel; None when there are none.

    Columns are the file's own; those of one that goes `around` the globe go on beyond both ends.
    """
    near = (rows > -1) & (rows < asset.rows + 1) & ((around > 0) | ((cols > -1) & (cols < asset.cols + 1)))
    if not near.any():
        return None
    row0, row1 = max(0, math.floor(rows[near].min()) - 2), min(asset.rows, math.ceil(rows[near].max()) + 2)
    col0, col1 = math.floor(cols[near].min()) - 2, math.ceil(cols[near].max()) + 2
    if not around:
        col0, col1 = max(0, col0), min(asset.cols, col1)
    return Window(col0, row0, col1 - col0, row1 - row0)


def _read_around(read: Callable[[Window], Pixels], window: Window, around: int) -> Pixels:
    """The pixels of a window, piece by piece where its columns go on beyond an end of the file."""
    pieces, col, end = [], window.col_off, window.col_off + window.width
    while col < end:
        width = min(end - col, around - col % around) if around else end - col
        pieces.append(read(Window(col % around if around else col, window.row_off, width, window.height)))
        col += width
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
