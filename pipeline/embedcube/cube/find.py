"""`Layer.find`: the cells of a layer whose vectors are most like those of some examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcube.cube.drawing import Batches, Drawing, Drawn
from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.examples import Examples, Wanted, wanted_by
from embedcube.cube.scan import LISTS, IndexScan, Statuses, from_cube
from embedcube.cube.segments import VectorIndex
from embedcube.cube.store import Cell, CubeStore, Time
from embedcube.cube.within import METRES_PER_DEGREE, Within, area_in
from embedcube.errors import RequestError
from embedcube.grid import is_geographic

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

EXACT_CELLS = 5_000_000
"""cells up to which every one is compared, also where there is an index"""

WITHIN_CELLS = 1_000_000
"""cells that `within` leaves up to which every one is compared: lists lose hits where a region is small"""

NEAR_M = 100.0
"""metres between hits by default, where two cells are smaller"""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A cell that was found."""

    rank: int
    """from 1"""
    cosine: float
    """with the vector that was searched for"""
    zone: str
    """path of the group: "<layer>/<zone>" """
    t: int
    """index of the window"""
    y: int
    x: int
    window: str
    """ISO 8601 interval"""
    lon: float
    """of the cell's centre, in degrees"""
    lat: float
    status: str

    @property
    def cell(self) -> Cell:
        """The cell, for `explain`."""
        return Cell(zone=self.zone, t=self.t, y=self.y, x=self.x)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Hits, best first, and how they were searched."""

    hits: list[Hit]
    exact: bool
    """whether every cell was compared; otherwise those in the nearest lists of the index"""
    cells: int
    """cells that windows and region left, with a vector or without"""
    indexed: bool
    """whether the vectors were read from the index beside the cube"""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where is searched, and how."""

    k: int = 10
    """hits that are wanted"""
    time: Time = None
    """selects windows"""
    within: Within | None = None
    """a box (west, south, east, north) or a polygon, in degrees"""
    apart_m: float | None = None
    """metres between hits; by default 100 m, or two cells where cells are larger than 50 m"""
    status: Sequence[str] = ("valid", "valid_incomplete")
    """kinds of cells that may be hits"""
    exact: bool | None = None
    """whether every cell is compared; by default where they are few, or where there is no index"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RequestError(f"k is {self.k}; ask for at least one hit")
        if self.apart_m is not None and not (self.apart_m >= 0 and math.isfinite(self.apart_m)):
            raise RequestError(f"apart_m is {self.apart_m}; it is a distance in metres, 0 or more")


def find(
    cube: CubeStore, layer: str, like: Examples, unlike: Examples | None, search: Search, index: VectorIndex | None
) -> Found:
    """The cells most like the examples; fewer than `k` where no more are left.

    Raises:
        RequestError: an example has no vector, nothing matches the time, or `exact` is false without an index.
    """
    return find_query(cube, layer, wanted_by(cube, layer, like, unlike, search.time), search, index)


def find_query(cube: CubeStore, layer: str, wanted: Wanted, search: Search, index: VectorIndex | None) -> Found:
    """The cells most like a vector: `find`, for what was made of examples before."""
    apart_m = default_apart_m(cube, layer) if search.apart_m is None else search.apart_m
    drawing, statuses = Drawing(cube, cube.zones_of(layer), apart_m), Statuses.named(search.status)
    query, within, time = wanted.query, search.within, search.time

    def best(batches: Batches) -> list[Drawn]:
        return drawing.best(batches, search.k, wanted.own, wanted.masks)

    if index is None:
        if search.exact is False:
            raise RequestError(
                f"{cube.address}: no vector index of {layer}; make it: embedcube index-vectors {cube.address}"
            )
        drawn = best(lambda: from_cube(cube, layer, query, statuses, within, time))
        return Found(
            hits=_hits(cube, drawing, drawn), exact=True, cells=_cells(cube, layer, within, time), indexed=False
        )
    scan = IndexScan(cube, index, statuses, within, time)
    few = scan.cells <= (EXACT_CELLS if within is None else WITHIN_CELLS)
    exact = few if search.exact is None else search.exact
    if exact:
        drawn = best(lambda: scan.all(query))
    else:
        lists, drawn = LISTS, best(partial(scan.lists, query, LISTS))
        while len(drawn) < search.k and lists < scan.most_lists:
            lists *= 4
            drawn = best(partial(scan.lists, query, lists))
    return Found(hits=_hits(cube, drawing, drawn), exact=exact, cells=scan.cells, indexed=True)


def default_apart_m(cube: CubeStore, layer: str) -> float:
    """Metres between hits by default: 100 m, or two cells where cells are larger than 50 m."""
    zone = cube.zones_of(layer)[0]
    attributes = cube.group(zone).attrs
    side = abs(float(attributes["spatial:transform"][0]))
    if is_geographic(attributes["proj:wkt2"]):
        side *= METRES_PER_DEGREE
    return max(NEAR_M, 2 * side)


def _cells(cube: CubeStore, layer: str, within: Within | None, time: Time) -> int:
    """Cells of a region, or of all shards of the layer, in some windows."""
    cells = 0
    for zone in cube.zones_of(layer):
        area = None if within is None else area_in(cube, zone, within)
        sides = [axis.stop - axis.start for axis in cube.cells_of_shards(zone)]
        inside = math.prod(sides) if within is None else area.cells if area else 0
        cells += len(cube.windows_of(zone, time)) * inside
    return cells


def _hits(cube: CubeStore, drawing: Drawing, drawn: list[Drawn]) -> list[Hit]:
    hits = []
    for rank, one in enumerate(drawn, start=1):
        (lon,), (lat,) = drawing.degrees(drawing.zones.index(one.zone), np.array([one.y]), np.array([one.x]))
        hits.append(
            Hit(
                rank=rank,
                cosine=round(one.cosine, 7),
                zone=one.zone,
                t=one.t,
                y=one.y,
                x=one.x,
                window=cube.windows(one.zone)[one.t].short,
                lon=round(float(lon), 7),
                lat=round(float(lat), 7),
                status=STATUS_MEANINGS[VALID_INCOMPLETE if one.incomplete else VALID],
            )
        )
    return hits


def table_of(found: Found) -> "GeoDataFrame":
    """Hits as a table with points; `attrs` say whether every cell was compared."""
    import geopandas

    columns: dict[str, Any] = {name: [getattr(hit, name) for hit in found.hits] for name in Hit.__dataclass_fields__}
    points = geopandas.points_from_xy(columns["lon"], columns["lat"])
    table = geopandas.GeoDataFrame(columns, geometry=points, crs="EPSG:4326")
    table.attrs = {"exact": found.exact, "cells": found.cells, "indexed": found.indexed}
    return table
