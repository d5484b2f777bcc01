"""Vectors <-> stored numbers (numpy only: readers need nothing else)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["int8", "float16", "float32"]

NOT_PROCESSED, VALID, NO_DATA, MASKED, FAILED, VALID_INCOMPLETE = range(6)
"""The values of `status`, in the order of `STATUS_MEANINGS`."""

STATUS_MEANINGS = ("not_processed", "valid", "no_data", "masked", "failed", "valid_incomplete")


_LARGEST_SCALE = np.nextafter(np.float32(np.finfo(np.float32).max / 127), np.float32(0))
"""127 times this is still finite"""


@dataclass(frozen=True, kw_only=True)
class EncodedVectors:
    """Vectors as they are stored."""

    stored: NDArray[Any]
    """(..., D) in the encoding's type"""
    scale: NDArray[np.float32] | None
    """(...); None where the encoding has no scale"""


def encode(vectors: NDArray[np.float32], encoding: Encoding) -> EncodedVectors:
    """Finite float32 vectors (..., D) as stored numbers.

    `int8` is per-vector absmax: s = max|x| / 127, q = round(x / s), half to even. The norm survives; no number is
    off by more than `int8_bound(s)`. A vector of zeros has s = 0. float16 saturates at its largest number.
    """
    if encoding == "int8":
        largest = np.abs(vectors).max(axis=-1, initial=0)
        scale = np.minimum((largest / np.float32(127)).astype(np.float32), _LARGEST_SCALE)
        # scales so small that they lose digits (subnormal) would make q exceed 127
        divisor = np.where(scale > 0, scale, np.float32(1))[..., None]
        stored = np.clip(np.rint(vectors / divisor), -127, 127).astype(np.int8)
        return EncodedVectors(stored=stored, scale=scale)
    if encoding == "float16":
        limit = np.finfo(np.float16).max
        return EncodedVectors(stored=np.clip(vectors, -limit, limit).astype(np.float16), scale=None)
    return EncodedVectors(stored=vectors.astype(np.float32, copy=False), scale=None)


def decode(stored: NDArray[Any], scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Stored numbers as float32 vectors; NaN where the scale is NaN, that is where there is no vector."""
    values = stored.astype(np.float32)
    return values if scale is None else values * scale[..., None]


def int8_bound(scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """The largest error of one number of an int8 vector: half a step, and the rounding of three float32 operations."""
    float32 = np.finfo(np.float32)
    return np.asarray(scale, np.float64) * (0.5 + 127 * 4 * float32.eps) + 127 * float(float32.smallest_subnormal)


def fill_value(encoding: Encoding) -> float | int:
    """What the embedding array holds where there is no vector; `status` says why."""
    return 0 if encoding == "int8" else float("nan")
