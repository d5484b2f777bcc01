"""How many cells polygons touch, estimated from their bounds before anything is read or drawn."""

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from embedcube.cube.store import CubeStore
from embedcube.grid import is_geographic
from embedcube.uses.serve.limits import Limits, refuse_above

_DEGREE_M = 111_320.0
"""metres of a degree of latitude"""


def cells_around(cube: CubeStore, zone: str, polygons: Sequence[BaseGeometry]) -> int:
    """Cells of the boxes around polygons in degrees, in one window; of each at most all cells of the zone."""
    attributes = cube.group(zone).attrs
    west, south, east, north = shapely.bounds(np.array(polygons, object)).T
    height, width = north - south, east - west
    if not is_geographic(attributes["proj:wkt2"]):
        nearest = np.where((south < 0) & (north > 0), 0, np.minimum(np.abs(south), np.abs(north)))
        height, width = height * _DEGREE_M, width * _DEGREE_M * np.cos(np.radians(nearest))
    side = abs(attributes["spatial:transform"][0])
    each = np.minimum((height / side + 1) * (width / side + 1), cells_of_zone(cube, zone))
    return int(each.sum())


def cells_of_zone(cube: CubeStore, zone: str) -> int:
    """Cells of a zone in one window."""
    rows, columns = cube.group(zone).attrs["spatial:shape"]
    return int(rows * columns)


def refuse_large_window(cube: CubeStore, zone: str, limits: Limits) -> None:
    """Refuse what needs a whole window of a zone in memory, where it is too large for that."""
    embedding = cube.array(zone, "embedding")
    megabytes = cells_of_zone(cube, zone) * embedding.shape[-1] * embedding.dtype.itemsize >> 20
    refuse_above("MB of vectors in one window", megabytes, limits.windows_mb)
    refuse_above("cells of one window", cells_of_zone(cube, zone), limits.scan_cells)
