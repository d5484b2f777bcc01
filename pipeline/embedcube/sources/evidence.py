"""Look at a few pixels of a file, so that metadata are not believed against them.

Does a number fill its edge that nobody calls no data? What do offset, scale and unit make of its numbers? The windows
lie at fixed places of the file, so a file has one answer, whatever shard reads it. Which scenes are looked at, and what
follows: `believed.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from embedcube.campaign.scene import Asset
from embedcube.errors import CorruptInput
from embedcube.sources.masks import missing_pixels, open_mask
from embedcube.sources.opening import open_raster
from embedcube.sources.reader import judge_asset
from embedcube.sources.warp import has_data

_SIDE = 64
"""side of a window in pixels; there are up to nine: at the corners, between them, and in the middle"""

_WHOLE = 192
"""images of at most this side are read whole"""

_TILE = 4
"""side of the square of equal pixels by which a number fills a place"""

LEAST = 64
"""fewer pixels with data tell nothing of a scene"""

_CLASSES = 32
"""most numbers of a classification"""

_ALONE = 3
"""where more numbers than this fill squares at the edge, it is flat land or cloud, and no number is special"""

_FILLS = frozenset(
    (0, 255, 65535, -99, -999, 9999, -9999, 99999, -99999, -32768, 32767, -32767, 1e20, -1e20, 1e30, -1e30)
)
"""numbers that programs write where there is nothing, other than the largest and smallest of a type"""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of one file, in the file's numbers."""

    values: NDArray[np.float64]
    """some of the pixels that have data, as far as file, mask and catalogue say"""
    at_edge: tuple[float, ...]
    """numbers that fill squares at the edge of the image, the most frequent first"""
    anywhere: tuple[float, ...]
    """numbers that fill squares anywhere"""


Judge = Callable[[Evidence], str]
"""Why a scene cannot be used by what was seen of one of its files, in words; empty if nothing contradicts"""


def look(path: Path, asset: Asset) -> Evidence:
    """Look at a few windows of a file.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with open_raster(path, asset.inner, sidecars=False) as image:
        return look_at(image, path, asset)


def why_unseen(path: Path, asset: Asset) -> CorruptInput | OSError:
    """Why a file could not be looked at: its bytes are wrong (CorruptInput), or a failure that may pass (OSError)."""
    return judge_asset(path, asset, lambda image: look_at(image, path, asset))


def look_at(image: Any, path: Path, asset: Asset) -> Evidence:
    """Look at a few windows of an open file; `path` is where the mask beside it is found.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    beside = open_mask(Path(f"{path}{asset.mask}")) if asset.mask_digest else None
    try:
        seen = list(_windows(image, beside, asset))
    finally:
        if beside is not None:
            beside.close()
    pixels = np.stack([pixels for _, pixels, _ in seen])
    known = has_data(pixels, asset)
    if asset.mask:
        known &= ~np.stack([missing for _, _, missing in seen])
    numbers, edges = _filled(pixels, known, [window for window, _, _ in seen], asset)
    return Evidence(
        values=pixels[known].astype(np.float64),
        at_edge=_commonest_first(numbers[edges]),
        anywhere=_commonest_first(numbers),
    )


def _commonest_first(numbers: NDArray[Any]) -> tuple[float, ...]:
    """Different numbers, the most frequent first."""
    if not numbers.size:
        return ()
    distinct, counts = np.unique(numbers, return_counts=True)
    order = np.lexsort((distinct, -counts))
    return tuple(float(number) for number in distinct[order])


def _windows(image: Any, beside: Any, asset: Asset) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    """Windows of a file, all of one size, with their pixels, and which of these its mask calls missing, if any."""
    if is_jpeg2000(asset) and max(image.shape) > _WHOLE:
        # all tiles at a coarse resolution take less time than one tile at the finest
        shape = tuple(max(1, side // 32) for side in image.shape)
        yield Window(0, 0, shape[1], shape[0]), image.read(asset.index, out_shape=shape), np.zeros(shape, dtype=bool)
        return
    rows, cols = (_places(side) for side in image.shape)
    for row, height in rows:
        for col, width in cols:
            window = Window(col, row, width, height)
            pixels = image.read(asset.index, window=window)
            missing = missing_pixels(image, beside, asset, window) if asset.mask else np.zeros(pixels.shape, dtype=bool)
            yield window, pixels, missing


def _places(side: int) -> list[tuple[int, int]]:
    """Starts and lengths of the windows along a side of an image."""
    if side <= _WHOLE:
        return [(0, side)]
    return [(0, _SIDE), ((side - _SIDE) // 2, _SIDE), (side - _SIDE, _SIDE)]


def _filled(
    pixels: NDArray[Any], known: NDArray[np.bool_], windows: Sequence[Window], asset: Asset
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The numbers of squares of equal pixels with data in windows (window, y, x), and which squares lie at the edge."""
    count, high, wide = len(windows), *(side // _TILE for side in pixels.shape[1:])
    if not high or not wide:
        return pixels[:0, 0, 0], known[:0, 0, 0]

    def squares(array: NDArray[Any]) -> NDArray[Any]:
        return array[:, : high * _TILE, : wide * _TILE].reshape(count, high, _TILE, wide, _TILE)

    cut, last = squares(pixels), _TILE - 1
    first = cut[:, :, 0, :, 0]
    # most squares are ruled out by their corners, which takes a tenth of the time
    equal = (first == cut[:, :, 0, :, last]) & (first == cut[:, :, last, :, 0]) & (first == cut[:, :, last, :, last])
    at, rows, cols = np.nonzero(equal & squares(known)[:, :, 0, :, 0])
    numbers = first[at, rows, cols]
    whole = (cut[at, rows, :, cols] == numbers[:, None, None]) & squares(known)[at, rows, :, cols]
    chosen = whole.all(axis=(1, 2))
    edge = np.zeros((count, high, wide), dtype=bool)
    for number, window in enumerate(windows):
        edge[number, 0] |= window.row_off == 0
        edge[number, -1] |= window.row_off + window.height >= asset.rows
        edge[number, :, 0] |= window.col_off == 0
        edge[number, :, -1] |= window.col_off + window.width >= asset.cols
    return numbers[chosen], edge[at, rows, cols][chosen]


def is_jpeg2000(asset: Asset) -> bool:
    """Whether a file is a JPEG 2000, by its name."""
    return (asset.inner or asset.path).lower().endswith((".jp2", ".j2k"))


def undeclared(asset: Asset, evidence: Evidence, numbers: Sequence[float], *, zero: bool) -> str:
    """Why it is not known which number means no data, where one that nobody declares fills a place; else empty.

    `numbers` are those that fill a place. One of them is asked about if programs write it where there is nothing, or if
    it lies far from all other values. `zero`: whether 0 is such a number here.
    """
    for number in numbers:
        rest = evidence.values[evidence.values != number]
        if (len(numbers) <= _ALONE and _is_fill(number, asset, zero=zero)) or _is_far(number, rest):
            return (
                f"{asset.band}: {number:g} fills an edge of {asset.path} and nobody declares it as no data; is it a "
                "value? options.nodata says which number is none (one that never occurs, if all are)"
            )
    return ""


def _is_fill(number: float, asset: Asset, *, zero: bool) -> bool:
    if number == 0:
        return zero
    dtype = np.dtype(asset.dtype)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return number in _FILLS or number in (float(limits.min), float(limits.max)) or abs(number) > 1e30


def _is_far(number: float, rest: NDArray[np.float64]) -> bool:
    """Whether a number lies farther from all other values than these from each other."""
    if rest.size < LEAST or _are_classes(rest):
        return False
    least, most = float(rest.min()), float(rest.max())
    return most > least and not least - (most - least) <= number <= most + (most - least)


def _are_classes(values: NDArray[np.float64]) -> bool:
    """Whether numbers are few integers: those of classes may lie anywhere."""
    distinct = np.unique(values)
    return distinct.size <= _CLASSES and np.array_equal(distinct, np.rint(distinct))


def destroyed(asset: Asset, evidence: Evidence, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> str:
    """Why a conversion cannot be meant: it makes one number, or none, of most of a file; else empty.

    Raises:
        CorruptInput: as `convert` does.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = convert(evidence.values)
    lost, shown = float((~np.isfinite(values)).mean()), "no number"
    if lost <= 0.5 < _commonest(values) and _commonest(evidence.values) <= 0.5:
        lost, shown = _commonest(values), "one and the same number"
    if lost <= 0.5:
        return ""
    return (
        f"{asset.band}: scale and offset make {shown} of {lost:.0%} of {asset.path} (median "
        f"{np.median(evidence.values):g}); write options.packing: ignored, or the right options.scale and options.add"
    )


def packed_floats(asset: Asset, evidence: Evidence) -> str:
    """Why a declared packing may be a relic: the numbers are floats and no integers, so they seem to be unpacked."""
    if (
        np.dtype(asset.dtype).kind != "f"
        or not asset.packed
        or np.array_equal(evidence.values, np.rint(evidence.values))
    ):
        return ""
    return (
        f"{asset.band}: {asset.path} holds fractions (median {np.median(evidence.values):g}), and a packing is "
        f"declared, DN * {asset.scale:g} + {asset.add:g}; write options.packing: ignored if they are the values, else "
        "declared"
    )


def _commonest(values: NDArray[Any]) -> float:
    """Share of the most frequent number."""
    return float(np.unique(values, return_counts=True)[1].max()) / values.size if values.size else 0.0


def first_words(*judges: Callable[[], str]) -> str:
    """What the first judge says that finds something; empty if none does. An input that is refused is an answer."""
    for judge in judges:
        try:
            if words := judge():
                return words
        except CorruptInput as error:
            return str(error)
    return ""
