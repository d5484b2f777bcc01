"""Maps of numbers as they are sent: in steps of one byte, or as they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.uses.serve.holdings import Holding

STEPS = 254
"""steps between the lowest and the highest value of a map in uint8"""


def raw_map(
    values: NDArray[np.float32], kind: str, holding: Holding, zone: str, t: int
) -> tuple[NDArray[Any], dict[str, object]]:
    """A map (y, x), NaN where there is no number, as it is sent, and what its headers say.

    `kind` is float32, or uint8: then 0 is no number, and n is low + (n - 1) / STEPS * (high - low).
    """
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    about = about_map(values, kind, holding, zone, t) | {"Range": f"{low!r},{high!r}"}
    if kind == "float32":
        return values.astype("<f4", copy=False), about
    factor = STEPS / (high - low) if high > low else 0.0
    with np.errstate(invalid="ignore"):
        steps = (values - np.float32(low)) * np.float32(factor) + np.float32(1.5)
    steps[~known] = 0
    return steps.astype(np.uint8), about


def about_map(values: NDArray[Any], kind: str, holding: Holding, zone: str, t: int) -> dict[str, object]:
    """What the headers say of every map (y, x): which zone and window, rows and columns, type of its numbers."""
    return {
        "Zone": zone.partition("/")[2],
        "Window": holding.cube.windows(zone)[t].short,
        "Shape": ",".join(map(str, values.shape)),
        "Type": kind,
    }
