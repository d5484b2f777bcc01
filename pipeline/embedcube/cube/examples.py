"""Examples of a search: cells, places, polygons and vectors become one vector to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from embedcube.cube.blocks import blocks
from embedcube.cube.chunks import read_cells
from embedcube.cube.drawing import Mask, Place
from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE, directions
from embedcube.cube.places import cells_beside, own_cells, places_of
from embedcube.cube.similar import Query
from embedcube.cube.store import Cell, CubeStore, Time
from embedcube.cube.within import area_in, bounds_of
from embedcube.errors import RequestError

Example = Cell | tuple[float, float] | BaseGeometry | NDArray[Any] | str
"""A cell, a place (lon, lat), a polygon in degrees (the mean of its vectors), or a vector; in a list a sample's id."""

Examples = Example | Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is searched for, and where it was found already."""

    query: Query
    own: list[Place] = field(default_factory=list)
    """cells of the examples"""
    masks: list[Mask] = field(default_factory=list)
    """cells of the polygons of the examples"""


def wanted_by(cube: CubeStore, layer: str, like: Examples, unlike: Examples | None = None, time: Time = None) -> Wanted:
    """The vector that `like` and `unlike` stand for (`Query.by_examples`), and the places of `like`.

    A place or a polygon gives the mean direction of its vectors in the windows that `time` selects.

    Raises:
        RequestError: an example lies outside of the layer or has no vector there; nothing is said by its value.
    """
    own: list[Place] = []
    masks: list[Mask] = []
    vectors = [_vector(cube, layer, one, time, own, masks) for one in _several(like)]
    against = [_vector(cube, layer, one, time, [], []) for one in (() if unlike is None else _several(unlike))]
    return Wanted(query=Query.by_examples(vectors, against), own=own, masks=masks)


def _several(examples: Examples) -> list[Example]:
    """Examples one by one."""
    if isinstance(examples, np.ndarray):
        return [examples] if examples.ndim == 1 else list(examples)
    if isinstance(examples, Cell | BaseGeometry | str):
        return [examples]
    if isinstance(examples, Sequence):
        return [(examples[0], examples[1])] if _is_place(examples) else list(examples)  # type: ignore[arg-type, list-item]
    raise RequestError(f"an example is a cell, (lon, lat), a polygon in degrees or a vector; not {examples!r}")


def _is_place(one: Any) -> bool:
    return isinstance(one, tuple) and len(one) == 2 and all(isinstance(n, int | float | np.number) for n in one)


def _vector(cube: CubeStore, layer: str, one: Example, time: Time, own: list[Place], masks: list[Mask]) -> NDArray[Any]:
    """The vector of one example; its cells are added to `own`, its polygon to `masks`."""
    if isinstance(one, np.ndarray):
        return one
    if isinstance(one, BaseGeometry) and one.geom_type == "Point":
        one = (one.bounds[0], one.bounds[1])
    if isinstance(one, BaseGeometry):
        return _of_polygon(cube, layer, one, time, masks)
    if isinstance(one, Cell):
        if one.zone not in cube.zones_of(layer):
            raise RequestError(f"a cell of {one.zone} is no example for layer {layer}, whose vectors differ")
        cells = [one]
    elif _is_place(one):
        cells = cells_at(cube, layer, float(one[0]), float(one[1]), time)
    else:
        raise RequestError(f"an example is a cell, (lon, lat), a polygon in degrees or a vector; not {one!r}")
    own += [Place(zone=cell.zone, y=cell.y, x=cell.x) for cell in cells]
    first, windows = cells[0], [cell.t for cell in cells]
    status = _over_time(cube, first, windows, "status")
    valid = [t for t, own in zip(windows, status.tolist(), strict=True) if own in (VALID, VALID_INCOMPLETE)]
    if not valid:
        statuses = " or ".join(sorted({STATUS_MEANINGS[own] for own in status.tolist()}))
        raise RequestError(f"{one}: no vector there, its status is {statuses}; choose another place or --time")
    offset, stored = cube.offset(first.zone), _over_time(cube, first, valid, "embedding")
    scale = None if offset is None else _over_time(cube, first, valid, "scale")
    found = list(directions(stored, scale, offset))
    return Query.by_examples(found).vector if len(found) > 1 else found[0]


def _over_time(cube: CubeStore, cell: Cell, windows: list[int], name: str) -> NDArray[Any]:
    """Stored numbers (window) or (window, feature) at the place of a cell; each chunk is decoded once."""
    return read_cells(cube, cell.zone, name, windows, np.array([cell.y]), np.array([cell.x]))[:, 0]


def cells_at(cube: CubeStore, layer: str, lon: float, lat: float, time: Time) -> list[Cell]:
    """The cell of a place in each window that `time` selects.

    Of two zones that hold the place it is the cell with a vector in most windows, then that of the place's own zone.

    Raises:
        RequestError: no zone of the layer holds the place.
    """
    places, best = places_of([(lon, lat)]), list[Cell]()
    most = -1
    for found in (*own_cells(cube, layer, places), *cells_beside(cube, layer, places)):
        for y, x in zip(found.rows.tolist(), found.columns.tolist(), strict=True):
            windows = cube.windows_of(found.zone, time)
            cells = [Cell(zone=found.zone, t=t, y=y, x=x) for t in windows]
            status = _over_time(cube, cells[0], windows, "status")
            valid = int(np.isin(status, (VALID, VALID_INCOMPLETE)).sum())
            if valid > most:
                most, best = valid, cells
    if not best:
        where = ",".join(f"{edge:g}" for edge in bounds_of(cube, layer))
        raise RequestError(
            f"({lon}, {lat}) lies outside of layer {layer} of {cube.address}, which is in {where} degrees"
        )
    return best


def _of_polygon(
    cube: CubeStore, layer: str, polygon: BaseGeometry, time: Time, masks: list[Mask]
) -> NDArray[np.float64]:
    """Mean direction of the vectors whose cell centres lie in a polygon."""
    total, count = np.zeros(0), 0
    for block in blocks(cube, layer, polygon, time):
        inside = block.valid & (True if block.inside is None else block.inside)
        scale = None if block.scale is None else block.scale[inside]
        vectors = directions(block.stored[inside], scale, block.offset).astype(np.float64)
        length = np.linalg.norm(vectors, axis=1)
        vectors = vectors[length > 0] / length[length > 0, None]
        total = vectors.sum(axis=0) + (total if count else 0)
        count += len(vectors)
    if not count:
        raise RequestError(
            f"the polygon around {polygon.centroid.x:.5f}, {polygon.centroid.y:.5f} holds the centre of no cell with a "
            f"vector in layer {layer}; draw a larger one, or choose another --time"
        )
    found = ((zone, area_in(cube, zone, polygon)) for zone in cube.zones_of(layer))
    masks += [Mask(zone=zone, y=a.y, x=a.x, inside=a.cut(a.y, a.x)) for zone, a in found if a is not None]
    return total / count
