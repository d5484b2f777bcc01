"""Decoding: stored numbers -> vectors, the values of `status`, error bounds. Needs numpy only."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["int8", "float16", "float32"]

NOT_PROCESSED, VALID, NO_DATA, MASKED, FAILED, VALID_INCOMPLETE = range(6)
"""Values of `status`, in the order of `STATUS_MEANINGS`."""

STATUS_MEANINGS = ("not_processed", "valid", "no_data", "masked", "failed", "valid_incomplete")

OUTSIDE = 255
"""Status of a place that is in no cell of a layer, among answers; never stored in a cube."""


OFFSET = "offset"
"""Array (feature) of a zone whose layer is centred: what was subtracted from each feature before it was stored."""


def decode(
    stored: NDArray[Any], scale: NDArray[np.float32] | None, offset: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Vectors in float32 of stored numbers; NaN where there is no vector, because the scale is NaN there.

    `offset` (feature) is that of a centred layer.
    """
    values = stored.astype(np.float32)
    if scale is not None:
        to_values(values, scale[..., None], offset)
    return values


def to_values(numbers: NDArray[Any], scale: NDArray[np.float32], offset: NDArray[np.float32] | None) -> None:
    """Make stored numbers, held in a type of floats, the values that they stand for, in place.

    value = number * scale, and + offset in a centred layer. `scale` and `offset` have a shape that goes with `numbers`.
    """
    numbers *= scale
    if offset is not None:
        numbers += offset


def directions(
    stored: NDArray[Any], scale: NDArray[np.float32] | None, offset: NDArray[np.float32] | None
) -> NDArray[Any]:
    """Numbers (..., feature) with the directions of stored vectors: as they are stored, which needs no scale.

    In a centred layer these have another direction: the values in float64.
    """
    if scale is None or offset is None:
        return stored
    values = stored.astype(np.float64)
    to_values(values, scale[..., None], offset)
    return values


def int8_bound(scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest error of one number of an int8 vector: half a step plus the rounding of three float32 operations."""
    float32 = np.finfo(np.float32)
    return np.asarray(scale, np.float64) * (0.5 + 127 * 4 * float32.eps) + 127 * float(float32.smallest_subnormal)


def bound_of_numbers(scale: NDArray[np.float32], offset: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """`int8_bound` of each number: (..., 1), or (..., feature) with the `offset` (feature) of a centred layer.

    A centred layer has two operations more: one rounds a number of the stored range, one a number as large as the
    offset.
    """
    bound = int8_bound(scale)[..., None]
    if offset is None:
        return bound
    eps = float(np.finfo(np.float32).eps)
    return bound + np.asarray(scale, np.float64)[..., None] * 127 * 2 * eps + np.abs(offset.astype(np.float64)) * eps


def fill_value(encoding: Encoding) -> float | int:
    """Number that the embedding array holds where there is no vector; `status` says why."""
    return 0 if encoding == "int8" else float("nan")


LARGEST_NUMBER: dict[str, float] = {
    "int8": float(np.finfo(np.float32).max),
    "float16": float(np.finfo(np.float16).max),
    "float32": float(np.finfo(np.float32).max),
}
"""Largest magnitude of a number of a vector that can be stored, by encoding: a cell with a larger one has no vector."""


def why_not_held(encoding: Encoding) -> dict[str, str]:
    """Why the vector of a cell cannot be stored, in words, by the names under which a record counts such cells."""
    limit = LARGEST_NUMBER[encoding]
    return {
        "not_finite": "the backbone gave a number that is not finite",
        "too_large": f"the backbone gave a number above {limit:,.0f}, the largest of {encoding}; write int8 or float32",
    }


LEAST_COSINE = 0.999
"""smallest cosine between a vector of reduced precision or of a compiled layer and the same vector in float32"""

ERROR_BOUNDS = {
    "int8": "abs(x - embedding * scale) <= 0.50007 * scale for each number",
    "float16": "relative 2^-11 for numbers from 6.1e-5 to 65504; a cell with a larger one is failed",
    "float32": "exact",
}
"""Largest difference between the vector that the backbone gave and the decoded one, by encoding."""

CENTRED_BOUND = "abs(x - (embedding * scale + offset)) <= 0.5001 * scale + 1.2e-7 * abs(offset) for each number"
"""The same for int8 in a centred layer."""
