"""Scenes of one window -> one picture. Arrays in, arrays out; nothing is read here."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Method = Literal["median", "mean"]


class Seen(Protocol):
    """What is composited: the part of a source's Observation that matters here."""

    @property
    def values_cyx(self) -> NDArray[Any]:
        """Bands."""
        ...

    @property
    def seen_yx(self) -> NDArray[np.bool_]:
        """Every band has data."""
        ...

    @property
    def clear_yx(self) -> NDArray[np.bool_]:
        """Seen, and not masked."""
        ...


@dataclass(frozen=True, kw_only=True)
class Composite:
    """One picture of a window, and what each scene gave to it."""

    x_cyx: NDArray[Any]
    """NaN where no scene is clear; float32, or the acquisition's own type where there is but one, clear everywhere"""
    clear_yx: NDArray[np.bool_]
    """some scene is clear"""
    masked_yx: NDArray[np.bool_]
    """some scene has data that its mask rejects"""
    used_yx: tuple[NDArray[np.bool_], ...]
    """per observation, in order: the pixels it gave"""


def composite(observations: Sequence[tuple[str, Seen]], method: Method) -> Composite:
    """The median or mean, per band and pixel, over the clear acquisitions.

    `observations` are (acquisition, observation), neighbours in the list where the acquisition is the same. Scenes
    of one acquisition are one measurement: where they overlap, the first clear one counts. The median of an even
    number is the mean of the middle two. Everything is computed in float32 (the mean in float64).
    """
    pictures: list[tuple[NDArray[Any], NDArray[np.bool_]]] = []
    used: list[NDArray[np.bool_]] = []
    masked = np.zeros(observations[0][1].clear_yx.shape, dtype=bool)
    for _, members in groupby(observations, key=lambda item: item[0]):
        values, taken = _mosaic([observation for _, observation in members], used)
        pictures.append((values, taken))
    for _, observation in observations:
        masked |= observation.seen_yx & ~observation.clear_yx
    clear = np.logical_or.reduce([taken for _, taken in pictures])
    if len(pictures) == 1:
        x = pictures[0][0] if clear.all() else pictures[0][0].astype(np.float32)
    elif method == "median":
        x = _median([values for values, _ in pictures], [taken for _, taken in pictures])
    else:
        x = _mean([values for values, _ in pictures], [taken for _, taken in pictures])
    if not clear.all():
        x[:, ~clear] = np.nan
    return Composite(x_cyx=x, clear_yx=clear, masked_yx=masked, used_yx=tuple(used))


def _mosaic(members: list[Seen], used: list[NDArray[np.bool_]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """One acquisition from its scenes; appends what each of them gave to `used`."""
    values, taken = members[0].values_cyx, members[0].clear_yx
    used.append(taken)
    for member in members[1:]:
        new = member.clear_yx & ~taken
        values = np.where(new, member.values_cyx, values)
        taken = taken | new
        used.append(new)
    return values, taken


def _median(pictures: list[NDArray[Any]], taken: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    # what is not taken stands above all values and below them by turns: the middle of all is that of the taken
    dtype = pictures[0].dtype
    below, above = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    result = np.empty(pictures[0].shape, dtype=np.float32)
    everywhere = all(mask.all() for mask in taken)
    odd = np.zeros(taken[0].shape, dtype=bool)
    padding = []
    for mask in taken:
        padding.append(np.where(odd, dtype.type(below), dtype.type(above)))
        odd ^= ~mask
    middle = len(pictures) // 2
    for band in range(len(result)):
        layers = [picture[band] for picture in pictures]
        if not everywhere:
            layers = [np.where(*one) for one in zip(taken, layers, padding, strict=True)]
        ordered = _sorted_pixelwise(layers)
        low, high = ordered[middle - 1], ordered[middle]
        if len(pictures) % 2:
            low = np.where(odd, low, high)
        else:
            high = np.where(odd, low, high)
        # where nothing is taken, infinities of both signs may meet
        with np.errstate(invalid="ignore"):
            result[band] = (low.astype(np.float32) + high.astype(np.float32)) * np.float32(0.5)
    return result


def _sorted_pixelwise(layers: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The layers sorted at each pixel: Batcher's odd-even merge network (Knuth, TAOCP 3, 5.2.2, algorithm M).

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


def _mean(pictures: list[NDArray[Any]], taken: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    count = np.sum(taken, axis=0, dtype=np.float64)
    total = np.zeros(pictures[0].shape, dtype=np.float64)
    for values, mask in zip(pictures, taken, strict=True):
        total += np.where(mask, values, values.dtype.type(0))
    return np.divide(total, np.maximum(count, 1)).astype(np.float32)
