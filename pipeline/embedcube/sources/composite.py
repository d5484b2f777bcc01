"""Composite the observations of one frame: arrays in, arrays out; nothing is read here."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Method = Literal["median", "mean"]


class Observed(Protocol):
    """The attributes of a source's Observation that compositing needs."""

    @property
    def values_cyx(self) -> NDArray[Any]:
        """Values of all bands."""
        ...

    @property
    def seen_yx(self) -> NDArray[np.bool_]:
        """Whether every band has data."""
        ...

    @property
    def clear_yx(self) -> NDArray[np.bool_]:
        """Whether a pixel is seen and not masked."""
        ...

    @property
    def fills(self) -> bool:
        """Whether it only fills pixels that no other observation of its acquisition shows, clear or not."""
        ...


@dataclass(frozen=True, kw_only=True)
class Composite:
    """The composite of one frame, and the pixels that each observation gave to it."""

    x_cyx: NDArray[Any]
    """float32, NaN where no observation is clear; a single acquisition that is clear everywhere keeps its own type"""
    clear_yx: NDArray[np.bool_]
    """at least one observation is clear"""
    masked_yx: NDArray[np.bool_]
    """at least one observation has data that its mask rejects"""
    used_yx: tuple[NDArray[np.bool_], ...]
    """for each observation, in order, the pixels that entered the composite"""
    incomplete_yx: NDArray[np.bool_] | None = None
    """clear pixels of which a part of the frame is missing; None if there is none"""
    share_yx: NDArray[np.float64] | None = None
    """for a series: share of the frame that its steps fill, of the band that has least; None where a frame is seen
    or not"""


def composite(observations: Sequence[tuple[str, Observed]], method: Method) -> Composite:
    """The median or mean of the clear acquisitions, for each band and pixel.

    `observations` are pairs (acquisition, observation); those of one acquisition stand next to each other. They are one
    measurement: where they overlap, the first clear one counts. Those that only fill come after all others, and
    give no pixel that those before them show, not even under their clouds. The median of an even number of acquisitions
    is the mean of the middle two. Medians are computed in float32, means in float64.
    """
    mosaics: list[tuple[NDArray[Any], NDArray[np.bool_]]] = []
    used: list[NDArray[np.bool_]] = []
    masked = np.zeros(observations[0][1].clear_yx.shape, dtype=bool)
    for _, members in groupby(observations, key=lambda item: item[0]):
        mosaics.append(_mosaic([observation for _, observation in members], used))
    for _, observation in observations:
        masked |= observation.seen_yx & ~observation.clear_yx
    values, clears = [values for values, _ in mosaics], [clear for _, clear in mosaics]
    clear = np.logical_or.reduce(clears)
    if len(mosaics) == 1:
        x = values[0] if clear.all() else values[0].astype(np.float32)
    elif method == "median":
        x = _median(values, clears)
    else:
        x = _mean(values, clears)
    if not clear.all():
        x[:, ~clear] = np.nan
    return Composite(x_cyx=x, clear_yx=clear, masked_yx=masked, used_yx=tuple(used))


def _mosaic(members: list[Observed], used: list[NDArray[np.bool_]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values and clear pixels of one acquisition; appends the pixels that each of its scenes gave to `used`."""
    # those that only fill come last, wherever they stand
    first, *others = sorted(range(len(members)), key=lambda number: members[number].fills)
    values, clear, seen = members[first].values_cyx, members[first].clear_yx, members[first].seen_yx
    gave = {first: clear}
    for number in others:
        member = members[number]
        new = member.clear_yx & ~(seen if member.fills else clear)
        values = np.where(new, member.values_cyx, values)
        clear, seen = clear | new, seen | member.seen_yx
        gave[number] = new
    used += [gave[number] for number in range(len(members))]
    return values, clear


def _median(mosaics: list[NDArray[Any]], clears: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """The median of the clear values; arbitrary where none is clear.

    Values that are not clear are replaced by the largest and the smallest number in turn, so that they cancel: the
    middle of all values is then the middle of the clear ones.
    """
    dtype = mosaics[0].dtype
    below, above = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    result = np.empty(mosaics[0].shape, dtype=np.float32)
    everywhere = all(clear.all() for clear in clears)
    odd = np.zeros(clears[0].shape, dtype=bool)  # an odd number of values has been replaced
    replacements = []
    for clear in clears:
        replacements.append(np.where(odd, dtype.type(below), dtype.type(above)))
        odd ^= ~clear
    middle = len(mosaics) // 2
    for band in range(len(result)):
        layers = [mosaic[band] for mosaic in mosaics]
        if not everywhere:
            layers = [np.where(*layer) for layer in zip(clears, layers, replacements, strict=True)]
        ordered = _sorted_pixelwise(layers)
        low, high = ordered[middle - 1], ordered[middle]
        if len(mosaics) % 2:
            low = np.where(odd, low, high)
        else:
            high = np.where(odd, low, high)
        # where no value is clear, infinities of both signs may be added
        with np.errstate(invalid="ignore"):
            result[band] = (low.astype(np.float32) + high.astype(np.float32)) * np.float32(0.5)
    return result


def _sorted_pixelwise(layers: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The layers, sorted at each pixel by Batcher's odd-even merge network (Knuth, TAOCP 3, 5.2.2, algorithm M).

    A network compares whole layers, which vectorises; sorting pixel by pixel is several times slower.
    """
    layers = list(layers)
    n = len(layers)
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        a, b = layers[i + j], layers[i + j + k]
                        layers[i + j], layers[i + j + k] = np.minimum(a, b), np.maximum(a, b)
            k //= 2
        p *= 2
    return layers


def _mean(mosaics: list[NDArray[Any]], clears: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    count = np.sum(clears, axis=0, dtype=np.float64)
    total = np.zeros(mosaics[0].shape, dtype=np.float64)
    for values, clear in zip(mosaics, clears, strict=True):
        total += np.where(clear, values, values.dtype.type(0))
    return np.divide(total, np.maximum(count, 1)).astype(np.float32)
