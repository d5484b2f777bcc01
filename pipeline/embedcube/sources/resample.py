"""Put the pixels of an open file onto the grid: copied, repeated where they nest in it, or warped."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from embedcube.campaign.resampling import ALIGNED, Method, fineness, nesting, resampling_of
from embedcube.campaign.scene import Asset
from embedcube.grid import Grid, PixelArea, shift_between
from embedcube.sources.masks import fits, missing_pixels
from embedcube.sources.warp import average, has_data, warp
from embedcube.timings import Timings

Pixels = NDArray[Any]

Conversion = Callable[[Pixels], Pixels]
"""Converts a file's pixels, of any type, to float32 of the same shape, pixel by pixel; NaN where there is no value"""

_AT_ONCE = 1 << 19
"""about how many pixels of a file are averaged at once"""


def read_onto(
    dataset: Any,
    asset: Asset,
    grid: Grid,
    area: PixelArea,
    method: Method,
    convert: Conversion | None = None,
    timings: Timings | None = None,
    mask: Any = None,
) -> Pixels:
    """The pixels of an open file on `area`, (rows, cols) in the file's type; `asset.nodata` where it has no data.

    `mask` is the open mask beside the file, if there is one. A pixel that a mask calls missing has no weight.

    With `convert` the result is float32 with NaN for no data. The file's pixels are converted before they are
    resampled, because the mean of decibels is not the decibels of the mean.

    `resampling_of` decides how the pixels are resampled. A pixel gets the same value whatever area it is read with.
    Seconds of decoding are added to `timings` as "decode", all others as "warp".
    """
    spent = Timings()
    with spent.step("total"):
        result = _read_onto(dataset, asset, grid, area, method, convert, spent, mask)
    if timings is not None:
        decode_s = spent.seconds.get("decode", 0.0)
        timings.add("decode", decode_s)
        timings.add("warp", spent.seconds["total"] - decode_s)
    return result


def _read_onto(
    dataset: Any,
    asset: Asset,
    grid: Grid,
    area: PixelArea,
    method: Method,
    convert: Conversion | None,
    spent: Timings,
    mask: Any,
) -> Pixels:
    if dataset.shape != (asset.rows, asset.cols):
        raise ValueError(f"{dataset.shape[0]} x {dataset.shape[1]} pixels, {asset.rows} x {asset.cols} when indexed")

    def read(window: Window) -> Pixels:
        with spent.step("decode"):
            pixels = dataset.read(asset.index, window=window)
            missing = missing_pixels(dataset, mask, asset, window) if asset.mask else None
        if convert is None and missing is None and not asset.also_nodata:
            return np.asarray(pixels)
        known = has_data(pixels, asset)
        if missing is not None:
            known &= ~missing
        if asset.nodata is not None and fits(asset.nodata, pixels.dtype):
            # also before a conversion, which may refuse numbers that no pixel with data has
            pixels = np.where(known, pixels, pixels.dtype.type(asset.nodata))
        return np.asarray(pixels if convert is None else np.where(known, convert(pixels), np.float32(np.nan)))

    # describes what `read` returns
    given = asset if convert is None else replace(asset, dtype="float32", nodata=math.nan)
    result = np.full((area.rows, area.cols), given.nodata, dtype=given.dtype)
    way = resampling_of(given, grid, method)
    if way == "copied" or way == "repeated":
        _copy(read, given, grid, area, nesting(given, grid) or 1, result)
    elif way == "average":
        for strip in _strips(given, grid, area):
            average(read, given, grid, strip, result[strip.row - area.row :][: strip.rows])
    else:
        warp(read, given, grid, area, way, result)
    return result


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


def _strips(asset: Asset, grid: Grid, area: PixelArea) -> Iterator[PixelArea]:
    """Split an area into strips of rows, each over about `_AT_ONCE` pixels of the file."""
    rows = max(1, round(_AT_ONCE / (max(1.0, fineness(asset, grid)) ** 2 * area.cols)))
    for first in range(0, area.rows, rows):
        yield replace(area, row=area.row + first, rows=min(rows, area.rows - first))
