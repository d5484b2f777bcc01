"""Where a STAC Item says that its pixels lie, in the words of the extension "projection" (v1 and v2)."""

import math
from collections.abc import Mapping
from typing import Any

from embedcube.sources.catalog.products import StatedRaster

_TRANSFORM, _SHAPE = (6, 9), 2
"""how many numbers a transform has (the last row of a matrix may be written out), and a shape"""


def stated_raster(properties: Mapping[str, Any], assets: Mapping[str, Any]) -> StatedRaster | None:
    """The raster of the first asset that states one with transform, shape and CRS; None if none does."""
    for asset in assets.values():
        stated = {**properties, **asset} if isinstance(asset, dict) else properties
        transform, shape = _numbers(stated.get("proj:transform")), _numbers(stated.get("proj:shape"))
        code, number = stated.get("proj:code"), stated.get("proj:epsg")
        crs = code if isinstance(code, str) else f"EPSG:{number}" if isinstance(number, int) else ""
        if crs and len(transform) in _TRANSFORM and len(shape) == _SHAPE:
            return StatedRaster(crs=crs, transform=transform[:6], rows=int(shape[0]), cols=int(shape[1]))
    return None


def _numbers(value: Any) -> tuple[float, ...]:
    """A list of finite numbers; empty if it is anything else."""
    if not isinstance(value, list) or not all(isinstance(one, int | float) and math.isfinite(one) for one in value):
        return ()
    return tuple(float(one) for one in value)
