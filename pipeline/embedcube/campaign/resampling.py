"""How a file's pixels are resampled onto a grid, decided by its geometry alone; `sources/resample.py` does it."""

import math
from functools import lru_cache
from typing import Literal

from pyproj import CRS

from embedcube.campaign.scene import Asset
from embedcube.grid import Grid, shift_between

Method = Literal["nearest", "bilinear", "average"]

ALIGNED = 1e-4
"""tolerance (pixels) within which a file lies on the grid: far below any geolocation error, far above rounding"""

_FINER = 1.75
"""a file with more pixels than this along one grid pixel is averaged instead of interpolated: twice as fine, less what
projections distort"""

_EARTH_M = 6_371_000.0
"""radius of the Earth"""


def resampling_of(asset: Asset, grid: Grid, method: Method) -> Literal["copied", "repeated"] | Method:
    """How a file's pixels are resampled onto a grid.

    A file that lies on the grid is copied. A coarser one that nests in it is repeated (nearest, average). All others
    are warped exactly. Where a file is about twice as fine as the grid or finer, bilinear would skip most of its
    pixels, so they are averaged.
    """
    step = nesting(asset, grid)
    if step == 1:
        return "copied"
    if step is not None and method != "bilinear":
        return "repeated"
    return "average" if method == "bilinear" and fineness(asset, grid) > _FINER else method


def resampling_in_words(asset: Asset, grid: Grid, method: Method) -> str:
    """The result of `resampling_of` in words, as `explain` prints it for a band."""
    way = resampling_of(asset, grid, method)
    if way not in ("copied", "repeated"):
        return f"warped ({way})"
    step, shift = nesting(asset, grid) or 1, shift_between(asset.crs, grid.crs) or (0.0, 0.0)
    words = way if step == 1 else f"{way} {step} x {step}"
    return f"{words}, shifted by {shift[1] / 1000:+,.0f} km to the north" if shift[1] else words


def nesting(asset: Asset, grid: Grid) -> int | None:
    """Grid pixels along one side of a file's pixel, where the file's pixels nest in the grid; else None."""
    a, b, c, d, e, f = asset.transform
    step, shift = round(a / grid.pixel), shift_between(asset.crs, grid.crs)
    if step < 1 or b or d or not math.isclose(a, -e, rel_tol=1e-9) or shift is None:
        return None
    offsets = (
        (c + shift[0] - grid.origin_x) / grid.pixel,
        (grid.origin_y - f - shift[1]) / grid.pixel,
        max(asset.rows, asset.cols) * (a / grid.pixel - step),
    )
    if abs(offsets[2]) > ALIGNED or any(abs(o - round(o)) > ALIGNED for o in offsets[:2]):
        return None
    return step


def fineness(asset: Asset, grid: Grid) -> float:
    """How many of a file's pixels lie along one side of a grid pixel, by their nominal sizes."""
    a, b, _, d, e, _ = asset.transform
    return grid.pixel * _unit_m(grid.crs) / (math.sqrt(abs(a * e - b * d)) * _unit_m(asset.crs))


@lru_cache(maxsize=1024)
def _unit_m(crs: str) -> float:
    """Metres in one unit of a CRS; for degrees, along a meridian."""
    known = CRS.from_user_input(crs)
    unit = known.axis_info[0].unit_conversion_factor
    return unit * _EARTH_M if known.is_geographic else unit
