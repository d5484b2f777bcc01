"""Which cells of a zone lie in a geometry: those whose centre is in it. Needs numpy, shapely and pyproj.

A centre on a left or upper edge is inside, one on a right or lower edge is outside, so that neighbouring parcels never
share a cell. In a layer with several UTM zones a cell near their border counts in the zone that its centre lies in.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj.enums import TransformDirection
from shapely.geometry.base import BaseGeometry

from embedcube.cube.store import CubeStore
from embedcube.errors import RequestError
from embedcube.grid import is_geographic, to_degrees, utm_grid_name, utm_zone_in

Within = tuple[float, float, float, float] | BaseGeometry
"""A bounding box (west, south, east, north) or a polygon, in degrees."""

STEP_DEGREES = 0.01
"""An edge is cut into pieces of this length before it is projected: it then lies within 0.3 m of its true place."""

METRES_PER_DEGREE = 111_320.0
"""along the equator, and nearly along a meridian"""

_POINTS = 21
"""points along each side of a zone that say which degrees it spans"""


@dataclass(frozen=True, kw_only=True)
class Area:
    """Cells of one zone, as spans along its rows: little memory, however large the area is."""

    row: NDArray[np.int64]
    """of each span, ascending"""
    first: NDArray[np.int64]
    """first column of each span"""
    end: NDArray[np.int64]
    """column after the last one of each span"""

    @property
    def y(self) -> slice:
        """Rows that it spans."""
        return slice(int(self.row[0]), int(self.row[-1]) + 1)

    @property
    def x(self) -> slice:
        """Columns that it spans."""
        return slice(int(self.first.min()), int(self.end.max()))

    @property
    def cells(self) -> int:
        """How many cells it has; one in several spans counts several times."""
        return int((self.end - self.first).sum())

    def cut(self, y: slice, x: slice) -> NDArray[np.bool_]:
        """Which cells (y, x) of a rectangle it has."""
        height, width = y.stop - y.start, x.stop - x.start
        own = slice(*np.searchsorted(self.row, (y.start, y.stop)))
        at = (self.row[own] - y.start) * (width + 1)
        changes = np.zeros(height * (width + 1), np.int32)
        np.add.at(changes, at + np.clip(self.first[own] - x.start, 0, width), 1)
        np.add.at(changes, at + np.clip(self.end[own] - x.start, 0, width), -1)
        # whole numbers of four bytes: those of eight, which numpy takes by default, would double the memory
        return np.cumsum(changes.reshape(height, width + 1), axis=1, dtype=np.int32)[:, :-1] > 0


def geometry_of(within: Within) -> BaseGeometry:
    """The geometry in degrees of a bounding box or a polygon; a box with west > east crosses the antimeridian.

    Raises:
        RequestError: it is neither, or has no area.
    """
    if isinstance(within, BaseGeometry):
        if within.geom_type not in ("Polygon", "MultiPolygon") or within.is_empty:
            raise RequestError(f"a region is a polygon in degrees, this is a {within.geom_type} ({within.area:g})")
        return within
    try:
        west, south, east, north = (float(edge) for edge in within)
    except (TypeError, ValueError):
        raise RequestError(f"a region is (west, south, east, north) or a polygon, in degrees; not {within!r}") from None
    east += 360 if east < west else 0
    if not (np.isfinite([west, south, east, north]).all() and -90 <= south < north <= 90 and west < east <= west + 360):
        raise RequestError(
            f"{tuple(within)} is no box (west, south, east, north) in degrees, for example (7, 50, 8, 51)"
        )
    return shapely.box(west, south, east, north)


def area_in(cube: CubeStore, zone: str, within: Within) -> Area | None:
    """Cells of a zone whose centre lies in a region in degrees; None where there is none."""
    (area,) = areas_in(cube, zone, np.array([geometry_of(within)]))
    return area


def areas_in(cube: CubeStore, zone: str, geometries: NDArray[Any]) -> list[Area | None]:
    """Cells of a zone whose centre lies in each of some polygons in degrees; None where there is none."""
    return [rasterised(geometry, cube, zone) for geometry in _in_zone(cube, zone, geometries).tolist()]


def _in_zone(cube: CubeStore, zone: str, geometries: NDArray[Any]) -> NDArray[Any]:
    """The part of each geometry in degrees that belongs to a zone, in the zone's CRS; empty where there is none."""
    wkt = cube.group(zone).attrs["proj:wkt2"]
    own = degrees_of(cube, zone)
    geometries = np.where(shapely.is_valid(geometries), geometries, shapely.make_valid(geometries))
    found = np.full(len(geometries), shapely.Polygon())
    bounds = shapely.bounds(geometries)
    # one that is empty, or lies nowhere on the Earth, has no cells
    somewhere = np.isfinite(bounds).all(axis=1) & (np.abs(bounds) <= [720, 90.001, 720, 90.001]).all(axis=1)
    if not somewhere.any():
        return found
    geometries = geometries.copy()
    geometries[~somewhere] = shapely.Polygon()
    turns = _turns(own, geometries)
    for turn in turns:
        moved = _shifted(geometries, 360.0 * turn) if turn else geometries
        left, bottom, right, top = shapely.bounds(moved).T
        within = (left >= own[0]) & (bottom >= own[1]) & (right <= own[2]) & (top <= own[3])
        beside = (left > own[2]) | (bottom > own[3]) | (right < own[0]) | (top < own[1])
        cut = ~within & ~beside
        moved = np.array(moved)
        moved[cut] = shapely.intersection(moved[cut], shapely.box(*own))
        found[~beside] = shapely.union(found[~beside], moved[~beside]) if turn != turns[0] else moved[~beside]
    return found if is_geographic(wkt) else projected(shapely.segmentize(found, STEP_DEGREES), wkt)


def outline_cells(cube: CubeStore, zone: str, geometries: NDArray[Any]) -> int:
    """Cells along the edges of polygons in degrees, as far as these lie in a zone: what drawing them takes.

    Each edge counts for itself, so a zigzag counts far more than the area that it covers.
    """
    attributes, own = cube.group(zone).attrs, degrees_of(cube, zone)
    step = abs(attributes["spatial:transform"][0])
    if not is_geographic(attributes["proj:wkt2"]):
        step = min(STEP_DEGREES, step / METRES_PER_DEGREE)
    edges = shapely.boundary(geometries)
    if not np.isfinite(shapely.total_bounds(edges)[[0, 2]]).all():
        return 0
    lengths = [
        shapely.length(shapely.clip_by_rect(_shifted(edges, 360.0 * turn), *own)).sum() for turn in _turns(own, edges)
    ]
    return int(sum(lengths) / step)


def _turns(own: tuple[float, float, float, float], geometries: NDArray[Any]) -> range:
    """Turns around the globe that may bring geometries to a zone: longitudes may be counted from another meridian."""
    west, _, east, _ = shapely.total_bounds(geometries)
    return range(int(np.floor((own[0] - east) / 360)), int(np.ceil((own[2] - west) / 360)) + 1)


def _shifted(geometries: NDArray[Any], degrees: float) -> NDArray[Any]:
    return np.asarray(shapely.transform(geometries, lambda xy: xy + np.array([degrees, 0.0])))


def projected(geometries: NDArray[Any], wkt: str) -> NDArray[Any]:
    """Geometries in degrees, vertex by vertex, in a CRS."""
    transformer = to_degrees(wkt)

    def move(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = transformer.transform(xy[:, 0], xy[:, 1], direction=TransformDirection.INVERSE)
        return np.stack([x, y], axis=1)

    return np.asarray(shapely.transform(geometries, move))


def degrees_of(cube: CubeStore, zone: str) -> tuple[float, float, float, float]:
    """West, south, east, north of a zone, east above west; of a UTM zone only what does not belong to a neighbour."""
    attributes = cube.group(zone).attrs
    layer, name = zone.split("/")
    xmin, ymin, xmax, ymax = attributes["spatial:bbox"]
    if is_geographic(attributes["proj:wkt2"]):
        return xmin, ymin, xmax, ymax
    transformer = to_degrees(attributes["proj:wkt2"])
    west, south, east, north = transformer.transform_bounds(xmin, ymin, xmax, ymax, densify_pts=_POINTS)
    if not np.isfinite([west, south, east, north]).all():
        west, south, east, north = -180.0, -90.0, 180.0, 90.0
    east += 360 if east < west else 0
    number = utm_zone_in(name)
    if number is None:
        return west, south, east, north
    middle, zones = 6 * number - 183, cube.zones_of(layer)
    # longitudes near those of the zone
    turn = 360 * round(((west + east) / 2 - middle) / 360)
    west, east = west - turn, east - turn
    if f"{layer}/{utm_grid_name((number - 2) % 60 + 1)}" in zones:
        west = max(west, middle - 3)
    if f"{layer}/{utm_grid_name(number % 60 + 1)}" in zones:
        east = min(east, middle + 3)
    return (west, south, east, north) if east > west else (middle, south, middle, north)


def bounds_of(cube: CubeStore, layer: str) -> tuple[float, float, float, float]:
    """West, south, east, north of a layer in degrees, rounded; west above east where it crosses the antimeridian."""
    boxes = sorted((degrees_of(cube, zone) for zone in cube.zones_of(layer)), key=lambda box: box[0] % 360)
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    # the widest gap between the zones, going around the globe, is what the layer leaves out
    gaps: list[tuple[float, float, float]] = []
    end = -np.inf
    for west, _, east, _ in [*boxes, (boxes[0][0] % 360 + 360, 0.0, boxes[0][2] % 360 + 360, 0.0)]:
        gaps.append((west % 360 + (360 if len(gaps) == len(boxes) else 0) - end, end, west))
        end = max(end, west % 360 + (east - west))
    width, last, first = max(gaps[1:])
    if width <= 0:
        return -180.0, round(south, 4), 180.0, round(north, 4)
    west, east = ((edge + 180) % 360 - 180 for edge in (first, last))
    return round(west, 4), round(south, 4), round(east, 4), round(north, 4)


def rasterised(geometry: BaseGeometry, cube: CubeStore, zone: str) -> Area | None:
    """Cells of a zone whose centre lies in a geometry in the CRS of the zone; None where there is none.

    A scan line along each row of centres: it is inside between its first and second crossing of an edge, between the
    third and fourth, and so on.
    """
    attributes = cube.group(zone).attrs
    a, _, c, _, e, f = attributes["spatial:transform"]
    rows, columns = attributes["spatial:shape"]
    edges = _edges(geometry)
    # in rows and columns counted from the first centre
    edges = np.stack([(edges[..., 0] - c) / a - 0.5, (edges[..., 1] - f) / e - 0.5], axis=-1)
    upper = np.where((edges[:, 0, 1] <= edges[:, 1, 1])[:, None, None], edges, edges[:, ::-1])
    (x0, y0), (x1, y1) = upper[:, 0].T, upper[:, 1].T
    first, last = (np.clip(np.ceil(y), 0, rows).astype(np.int64) for y in (y0, y1))
    count = last - first
    which = np.repeat(np.arange(len(count)), count)
    if not len(which):
        return None
    row = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    crossing = x0[which] + (row - y0[which]) * ((x1 - x0)[which] / (y1 - y0)[which])
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    order = np.lexsort((column, row))
    row, starts, ends = row[order][::2], column[order][::2], column[order][1::2]
    some = starts < ends
    return Area(row=row[some], first=starts[some], end=ends[some]) if some.any() else None


def union(areas: list[Area]) -> Area:
    """All cells of some areas, of which there is at least one."""
    row = np.concatenate([area.row for area in areas])
    order = np.argsort(row, kind="stable")
    first, end = (np.concatenate([getattr(area, name) for area in areas])[order] for name in ("first", "end"))
    return Area(row=row[order], first=first, end=end)


def _edges(geometry: BaseGeometry) -> NDArray[np.float64]:
    """Edges (edge, 2, 2) of all rings of the polygons of a geometry."""
    polygons = [part for part in shapely.get_parts(geometry).tolist() if part.geom_type == "Polygon"]
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygons).tolist()] if polygons else []
    return np.concatenate([np.stack([ring[:-1], ring[1:]], axis=1) for ring in rings] or [np.empty((0, 2, 2))])
