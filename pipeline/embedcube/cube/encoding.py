"""What stored numbers mean: stored numbers -> vectors (numpy only: readers need nothing else)."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["int8", "float16", "float32"]

NOT_PROCESSED, VALID, NO_DATA, MASKED, FAILED, VALID_INCOMPLETE = range(6)
"""The values of `status`, in the order of `STATUS_MEANINGS`."""

STATUS_MEANINGS = ("not_processed", "valid", "no_data", "masked", "failed", "valid_incomplete")


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


LEAST_COSINE = 0.999
"""between a vector of a reduced precision, or of a compiled layer, and that of float32 (DESIGN 4.1)"""

ERROR_BOUNDS = {
    "int8": "abs(x - embedding * scale) <= 0.50007 * scale for each number",
    "float16": "relative 2^-11 for numbers from 6.1e-5 to 65504",
    "float32": "exact",
}
"""The largest difference between what the backbone gave and what the array holds."""
