"""Warp the pixels of a file onto the grid: interpolate or average them, with the same bits whatever area is read."""

import math
from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window

from embedcube.campaign.resampling import ALIGNED
from embedcube.campaign.scene import Asset
from embedcube.grid import Grid, PixelArea, is_geographic, shift_between

Pixels = NDArray[Any]
Floats = NDArray[np.float64]


def has_data(pixels: Pixels, asset: Asset) -> NDArray[np.bool_]:
    """Whether each pixel of a file is finite and none of the numbers that mean no data."""
    missing = [number for number in (asset.nodata, *asset.also_nodata) if number is not None]
    if pixels.dtype.kind != "f":
        # compared as integers, because numpy would convert every pixel to compare it with a float
        missing = [int(number) for number in missing if float(number).is_integer()]
    known = [pixels != number for number in missing]
    if pixels.dtype.kind == "f":
        known.append(np.isfinite(pixels))
    return reduce(np.logical_and, known) if known else np.ones(pixels.shape, dtype=bool)


def warp(
    read: Callable[[Window], Pixels],
    asset: Asset,
    grid: Grid,
    area: PixelArea,
    method: Literal["nearest", "bilinear"],
    result: Pixels,
) -> None:
    """Interpolate each pixel of the grid from the file's pixels around its centre.

    Each centre is transformed exactly and from integers, so that a place has the same bits whatever area it is read
    with (rasterio's `reproject` always interpolates the coordinates).
    """
    rows, cols = _centres_in_file(asset, grid, area)
    shift = 0.5 if method == "bilinear" else 0.0
    row0, col0 = np.floor(rows - shift).astype(np.int64), np.floor(cols - shift).astype(np.int64)
    around = _around(asset)
    turn = _turn(col0, around)
    window = _window_around(asset, rows, cols + turn, around)
    if window is None:
        return
    mean = _WeightedMean(_read_around(read, window, around), window, asset, result.shape)
    if method == "nearest":
        mean.add(mean.rows(row0), mean.cols(col0 + turn), np.ones(result.shape))
    else:
        for down, right in product((0, 1), (0, 1)):
            row, col = row0 + down, col0 + right
            weight = (1 - np.abs(rows - 0.5 - row)) * (1 - np.abs(cols - 0.5 - col))
            mean.add(mean.rows(row), mean.cols(col + turn), weight)
    mean.write(result)


def _centres_in_file(asset: Asset, grid: Grid, area: PixelArea) -> tuple[Floats, Floats]:
    """Rows and columns in the file of the centres of an area's pixels; a row of -10 where the file's CRS has none."""
    x = grid.origin_x + (2 * np.arange(area.col, area.col + area.cols) + 1) * (grid.pixel / 2)
    y = grid.origin_y - (2 * np.arange(area.row, area.row + area.rows) + 1) * (grid.pixel / 2)
    rows, cols = _in_file(asset, grid, x, y)
    finite = np.isfinite(cols) & np.isfinite(rows)
    return np.where(finite, rows, -10.0), np.where(finite, cols, 0.0)


def _in_file(asset: Asset, grid: Grid, x: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Floats]:
    """Rows and columns in a file, from its upper left corner, of the points (y, x) of a grid."""
    a, b, c, d, e, f = asset.transform
    xs, ys = np.meshgrid(x, y)
    if (shift := shift_between(grid.crs, asset.crs)) is not None:
        # exact where PROJ rounds: half way between two pixels, rounding decides which of them a file in the other half
        # of a UTM zone gives
        xs, ys = xs + shift[0], ys + shift[1]
    else:
        xs, ys = Transformer.from_crs(grid.crs, asset.crs, always_xy=True).transform(xs, ys)
    if is_geographic(asset.crs):
        # the file's longitudes may begin anywhere
        first = asset.bounds[0] - abs(a)
        xs = xs - 360 * np.floor((xs - first) / 360)
    # from the file's corner, so that large coordinates do not round what is less than a pixel
    xs, ys = xs - c, ys - f
    if not (b or d):
        return ys / e, xs / a
    inverse = ~Affine(a, b, 0.0, d, e, 0.0)
    return inverse.d * xs + inverse.e * ys, inverse.a * xs + inverse.b * ys


def average(read: Callable[[Window], Pixels], asset: Asset, grid: Grid, area: PixelArea, result: Pixels) -> None:
    """Average the file's pixels under each pixel of the grid, weighted by the shared area; no data does not count.

    The area under a pixel is a box around its centre, as wide and high in the file's pixels as the pixel's sides are
    long: exact where both rasters have parallel axes, of the same size where one is rotated.
    """
    top, bottom, left, right = _boxes_under(asset, grid, area)
    around = _around(asset)
    row0, col0 = np.floor(top), np.floor(left)
    turn = _turn(col0, around)
    meets = (bottom > 0) & (top < asset.rows) & ((around > 0) | ((right > 0) & (left < asset.cols)))
    if not meets.any():
        return
    window = _window_under((top, bottom, left + turn, right + turn), meets, asset, around)
    mean = _WeightedMean(_read_around(read, window, around), window, asset, result.shape)
    for down in range(math.ceil((bottom - row0)[meets].max())):
        row = row0 + down
        height = np.clip(np.minimum(bottom, row + 1) - np.maximum(top, row), 0, None)
        height, rows = np.where(meets, height, 0), mean.rows(row)
        for across in range(math.ceil((right - col0)[meets].max())):
            col = col0 + across
            width = np.clip(np.minimum(right, col + 1) - np.maximum(left, col), 0, None)
            mean.add(rows, mean.cols(col + turn), height * width)
    mean.write(result)


_Index = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Indices along one axis of the pixels that were read, clipped to its ends; and which were not beyond an end"""


class _WeightedMean:
    """A weighted mean of pixels of a file for each pixel of the grid; pixels without data do not count."""

    def __init__(self, pixels: Pixels, window: Window, asset: Asset, shape: tuple[int, ...]) -> None:
        """`pixels` were read from `window` of the file; `shape` is that of the area on the grid."""
        self._pixels = pixels
        self._window = window
        self._known = has_data(pixels, asset)
        self._total, self._weight = np.zeros(shape), np.zeros(shape)

    def rows(self, row: NDArray[Any]) -> _Index:
        """Index of rows of the file."""
        return _within(row - self._window.row_off, self._pixels.shape[0])

    def cols(self, col: NDArray[Any]) -> _Index:
        """Index of columns of the file."""
        return _within(col - self._window.col_off, self._pixels.shape[1])

    def add(self, rows: _Index, cols: _Index, weight: Floats) -> None:
        """Add one pixel of the file to each mean, with its weight."""
        at = rows[0], cols[0]
        weight = np.where(rows[1] & cols[1] & self._known[at], weight, 0)
        self._total += np.where(weight > 0, self._pixels[at], 0) * weight
        self._weight += weight

    def write(self, result: Pixels) -> None:
        """Write the means into `result`, rounded for integers; pixels without data keep what they have."""
        found = self._weight > 1e-5
        values = self._total[found] / self._weight[found]
        result[found] = np.rint(values) if result.dtype.kind in "iu" else values


def _within(index: NDArray[Any], size: int) -> _Index:
    return np.clip(index, 0, size - 1).astype(np.int64), (index >= 0) & (index < size)


def _boxes_under(asset: Asset, grid: Grid, area: PixelArea) -> tuple[Floats, Floats, Floats, Floats]:
    """Top and bottom row, left and right column, in the file, of the box under each pixel of an area."""
    x = grid.origin_x + np.arange(2 * area.col, 2 * (area.col + area.cols) + 1) * (grid.pixel / 2)
    y = grid.origin_y - np.arange(2 * area.row, 2 * (area.row + area.rows) + 1) * (grid.pixel / 2)
    rows, cols = _in_file(asset, grid, x, y)  # of the pixels' centres, and of the middles of their sides

    def side(places: Floats, period: float) -> Floats:
        across, down = places[1::2, 2::2] - places[1::2, :-1:2], places[2::2, 1::2] - places[:-1:2, 1::2]
        if period:
            across, down = across - period * np.rint(across / period), down - period * np.rint(down / period)
        return np.asarray(np.hypot(across, down))

    height = side(rows, 0.0) / 2
    width = side(cols, 360 / abs(asset.transform[0]) if is_geographic(asset.crs) else 0.0) / 2
    row, col = rows[1::2, 1::2], cols[1::2, 1::2]
    edges = row - height, row + height, col - width, col + width
    # a place outside of the file's CRS gets a box above the file
    finite = np.logical_and.reduce([np.isfinite(edge) for edge in edges])
    snapped = [np.where(np.abs(edge - np.rint(edge)) < ALIGNED, np.rint(edge), edge) for edge in edges]
    top, bottom, left, right = (
        np.where(finite, edge, outside) for edge, outside in zip(snapped, (-10, -9, 0, 1), strict=True)
    )
    return top, bottom, left, right


def _around(asset: Asset) -> int:
    """Columns of a file that goes once around the globe; 0 for any other file."""
    a, b, _, d, _, _ = asset.transform
    if b or d or not is_geographic(asset.crs):
        return 0
    around = round(360 / abs(a))
    return around if asset.cols >= around and abs(360 / abs(a) - around) < ALIGNED else 0


def _turn(col: NDArray[Any], around: int) -> Any:
    """Columns to add so that places beside each other keep neighbouring columns across a global file's first column."""
    return np.where(col < around // 2, around, 0) if np.ptp(col) > around // 2 else 0


def _window_around(asset: Asset, rows: Floats, cols: Floats, around: int) -> Window | None:
    """The window of the file around places in it, two pixels wider for the kernel; None where no place is near it.

    The columns of a global file (`around` > 0) may go beyond both of its ends.
    """
    near = (rows > -1) & (rows < asset.rows + 1) & ((around > 0) | ((cols > -1) & (cols < asset.cols + 1)))
    if not near.any():
        return None
    row0, row1 = max(0, math.floor(rows[near].min()) - 2), min(asset.rows, math.ceil(rows[near].max()) + 2)
    col0, col1 = math.floor(cols[near].min()) - 2, math.ceil(cols[near].max()) + 2
    if not around:
        col0, col1 = max(0, col0), min(asset.cols, col1)
    return Window(col0, row0, col1 - col0, row1 - row0)


def _window_under(
    boxes: tuple[Floats, Floats, Floats, Floats], meets: NDArray[np.bool_], asset: Asset, around: int
) -> Window:
    """The window of the file that holds all boxes (top, bottom, left, right) that meet the file."""
    top, bottom, left, right = (edge[meets] for edge in boxes)
    row0, row1 = max(0, math.floor(top.min())), min(asset.rows, math.ceil(bottom.max()))
    col0, col1 = math.floor(left.min()), math.ceil(right.max())
    if not around:
        col0, col1 = max(0, col0), min(asset.cols, col1)
    return Window(col0, row0, col1 - col0, row1 - row0)


def _read_around(read: Callable[[Window], Pixels], window: Window, around: int) -> Pixels:
    """Read a window, in pieces where its columns go beyond an end of a global file."""
    pieces, col, end = [], window.col_off, window.col_off + window.width
    while col < end:
        width = min(end - col, around - col % around) if around else end - col
        pieces.append(read(Window(col % around if around else col, window.row_off, width, window.height)))
        col += width
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
