"""What a request costs, from the bounds of what it asks for and the shapes of arrays, before anything is read or drawn.

The estimate is never far below the truth: a polygon counts as the box around it, and a chunk that is touched as whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from embedcube.cube.store import CubeStore
from embedcube.cube.within import degrees_of, outline_cells
from embedcube.grid import is_geographic
from embedcube.uses.serve.limits import Limits, refuse_above

_DEGREE_M = 111_320.0
"""metres of a degree of latitude"""

_TURNS = (-360.0, 0.0, 360.0)
"""degrees by which longitudes of a polygon may be counted from another meridian than those of a zone"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a request looks at."""

    cells: int = 0
    """cells x windows"""
    decoded: int = 0
    """bytes of stored vectors in the chunks that it touches"""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(cells=self.cells + other.cells, decoded=self.decoded + other.decoded)

    def refuse(self, what: str, limits: Limits) -> None:
        """Refuse with 413 what costs too much; `what` names the cells."""
        refuse_above(what, self.cells, limits.scan_cells)
        refuse_above("MB of vectors to decode", self.decoded >> 20, limits.decoded_mb)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of some costs."""
    return sum(costs, Cost())


def of_windows(cube: CubeStore, zone: str, windows: Sequence[int]) -> Cost:
    """All cells of a zone in some windows."""
    embedding = cube.array(zone, "embedding")
    rows, columns = (-(-size // chunk) for size, chunk in zip(embedding.shape[1:3], embedding.chunks[1:3], strict=True))
    return Cost(
        cells=cells_of_zone(cube, zone) * len(windows), decoded=rows * columns * _chunk_bytes(cube, zone, windows)
    )


def of_points(cube: CubeStore, zone: str, windows: Sequence[int], count: int) -> Cost:
    """Some scattered cells of a zone in some windows."""
    every = of_windows(cube, zone, windows)
    return Cost(cells=count * len(windows), decoded=min(every.decoded, count * _chunk_bytes(cube, zone, windows)))


def of_polygons(cube: CubeStore, zone: str, windows: Sequence[int], polygons: Sequence[BaseGeometry]) -> Cost:
    """The boxes around polygons in degrees, as far as they lie in a zone, in some windows."""
    every = of_windows(cube, zone, windows)
    attributes, own = cube.group(zone).attrs, degrees_of(cube, zone)
    cells = chunks = 0.0
    height, width = cube.array(zone, "embedding").chunks[1:3]
    for turn in _TURNS:
        west, south, east, north = shapely.bounds(np.array(polygons, object)).T
        west, east = np.maximum(west + turn, own[0]), np.minimum(east + turn, own[2])
        south, north = np.maximum(south, own[1]), np.minimum(north, own[3])
        touches = (east >= west) & (north >= south)
        high, wide = (north - south)[touches], (east - west)[touches]
        if not is_geographic(attributes["proj:wkt2"]):
            nearest = np.where((south < 0) & (north > 0), 0, np.minimum(np.abs(south), np.abs(north)))[touches]
            high, wide = high * _DEGREE_M, wide * _DEGREE_M * np.cos(np.radians(nearest))
        side = abs(attributes["spatial:transform"][0])
        rows, columns = high / side + 1, wide / side + 1
        cells += float(np.minimum(rows * columns, cells_of_zone(cube, zone)).sum())
        chunks += float(((rows / height + 2) * (columns / width + 2)).sum())
    return Cost(
        cells=int(cells) * len(windows), decoded=min(every.decoded, int(chunks) * _chunk_bytes(cube, zone, windows))
    )


def refuse_long_outlines(
    cube: CubeStore, zones: Sequence[str], polygons: Sequence[BaseGeometry], limits: Limits
) -> None:
    """Refuse polygons whose edges cross so many cells that drawing them takes the memory of the server."""
    if polygons:
        cells = sum(outline_cells(cube, zone, np.array(polygons, object)) for zone in zones)
        refuse_above("cells along the edges of the polygons", cells, limits.outline_cells)


def cells_of_zone(cube: CubeStore, zone: str) -> int:
    """Cells of a zone in one window."""
    rows, columns = cube.group(zone).attrs["spatial:shape"]
    return int(rows * columns)


def window_bytes(cube: CubeStore, zone: str, name: str) -> int:
    """Bytes of one array in one window of a zone, decoded."""
    array = cube.array(zone, name)
    return int(np.prod([int(size) for size in array.shape[1:]], dtype=object)) * int(array.dtype.itemsize)


def _chunk_bytes(cube: CubeStore, zone: str, windows: Sequence[int]) -> int:
    """Bytes of the chunks of vectors that hold one place in some windows."""
    embedding = cube.array(zone, "embedding")
    depth, height, width, features = map(int, embedding.chunks)
    groups = len({t // depth for t in windows})
    return groups * depth * height * width * features * int(embedding.dtype.itemsize)
