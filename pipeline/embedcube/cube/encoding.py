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


def decode(stored: NDArray[Any], scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Vectors in float32 of stored numbers; NaN where there is no vector, because the scale is NaN there."""
    values = stored.astype(np.float32)
    return values if scale is None else values * scale[..., None]


def int8_bound(scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest error of one number of an int8 vector: half a step plus the rounding of three float32 operations."""
    float32 = np.finfo(np.float32)
    return np.asarray(scale, np.float64) * (0.5 + 127 * 4 * float32.eps) + 127 * float(float32.smallest_subnormal)


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
