"""Points in many forms, and the cell of a layer that holds each: the same rule as `Cube.cell_at`, for many at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyproj.enums import TransformDirection

from embedcube.cube.store import CubeStore
from embedcube.cube.within import METRES_PER_DEGREE
from embedcube.errors import RequestError
from embedcube.grid import LATLON, to_degrees, utm_zone_in, utm_zone_of

_REACH_CELLS = 2
"""a place that is further than this from the border of a zone lies in no cell of that zone"""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Points in degrees."""

    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    names: NDArray[Any]
    """of each point: the index of a GeoDataFrame, else 0, 1, 2 ..."""


@dataclass(frozen=True, kw_only=True)
class InZone:
    """Points that lie in the rectangle of one zone."""

    zone: str
    points: NDArray[np.int64]
    """their numbers"""
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def places_of(points: Any = None, x: ArrayLike | None = None, y: ArrayLike | None = None, crs: Any = None) -> Places:
    """Points in degrees, from a GeoDataFrame, from pairs (longitude, latitude), or from x and y in a CRS.

    Raises:
        RequestError: they are none of these, or nothing says in which CRS.
    """
    if (points is None) == (x is None or y is None):
        raise RequestError("points are a GeoDataFrame, pairs (longitude, latitude), or x=, y= and crs=")
    if points is None:
        return _from_crs(np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel(), crs or "EPSG:4326")
    if hasattr(points, "geometry") and hasattr(points, "crs"):
        geometry = points.geometry
        kinds = sorted(set(geometry.geom_type) - {"Point"}, key=str)
        if kinds or geometry.is_empty.any():
            raise RequestError(f"points are asked for, not {kinds[0] if kinds else 'empty ones'}; for areas: parcels()")
        if points.crs is None:
            raise RequestError('nothing says in which CRS the points are; for degrees: points.set_crs("EPSG:4326")')
        places = _from_crs(geometry.x.to_numpy(), geometry.y.to_numpy(), points.crs)
        return Places(lon=places.lon, lat=places.lat, names=points.index.to_numpy())
    try:
        pairs = np.asarray(points, np.float64)
        lon, lat = pairs.reshape(-1, 2).T if pairs.shape[-1:] == (2,) and pairs.ndim <= 2 else np.empty((2, 0))
    except (TypeError, ValueError):
        raise RequestError(f"points are pairs (longitude, latitude), not {str(points)[:80]}") from None
    if not lon.size:
        raise RequestError(f"points are pairs (longitude, latitude), for example [(7.6, 50.9)], not {str(points)[:80]}")
    return Places(lon=lon.copy(), lat=lat.copy(), names=np.arange(len(lon)))


def _from_crs(x: NDArray[np.float64], y: NDArray[np.float64], crs: Any) -> Places:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        known = CRS.from_user_input(crs)
    except CRSError:
        raise RequestError(f"{crs!r} is no CRS; write for example EPSG:32632") from None
    lon, lat = (x, y) if known == CRS.from_epsg(4326) else to_degrees(known.to_wkt()).transform(x, y)
    if len(x) != len(y):
        raise RequestError(f"{len(x)} values of x, {len(y)} of y: one of each for every point")
    return Places(lon=np.asarray(lon), lat=np.asarray(lat), names=np.arange(len(x)))


def own_cells(cube: CubeStore, layer: str, places: Places) -> list[InZone]:
    """For each zone the points that lie in it: by UTM zone of their longitude, where a layer has several grids."""
    zones = cube.zones_of(layer)
    if utm_zone_in(zones[0].split("/")[1]) is None:
        return [_in_zone(cube, zones[0], places, np.arange(len(places.lon)))]
    number = _utm_zones(places)
    return [_in_zone(cube, zone, places, np.flatnonzero(number == utm_zone_in(zone.split("/")[1]))) for zone in zones]


def cells_beside(cube: CubeStore, layer: str, places: Places) -> list[InZone]:
    """For each zone the points of its neighbours that are so near the border that a cell of this zone may hold them."""
    zones = cube.zones_of(layer)
    if utm_zone_in(zones[0].split("/")[1]) is None:
        return []
    found = []
    # the zone to the west of a place before the one to its east
    for step in (-1, 1):
        beside = (_utm_zones(places) + step - 1) % 60 + 1
        for zone in zones:
            number = utm_zone_in(zone.split("/")[1]) or 0
            beyond = np.abs((places.lon - (6 * number - 183) + 180) % 360 - 180) - 3
            reach_m = _REACH_CELLS * cube.group(zone).attrs["spatial:transform"][0]
            near = beyond * np.cos(np.radians(places.lat)) * METRES_PER_DEGREE < reach_m
            found.append(_in_zone(cube, zone, places, np.flatnonzero(near & (beside == number))))
    return found


def _utm_zones(places: Places) -> NDArray[np.int64]:
    """Number of the UTM zone of each place; 0 where the longitude is not a number."""
    known = np.isfinite(places.lon)
    return np.where(known, utm_zone_of(np.where(known, places.lon, 0.0)), 0)


def _in_zone(cube: CubeStore, zone: str, places: Places, points: NDArray[np.int64]) -> InZone:
    """Find the points, of those numbered `points`, that lie in the rectangle of a zone, and their cells."""
    attributes = cube.group(zone).attrs
    transformer = to_degrees(attributes["proj:wkt2"])
    x, y = (
        np.asarray(values, np.float64)
        for values in transformer.transform(
            places.lon[points], places.lat[points], direction=TransformDirection.INVERSE
        )
    )
    if zone.split("/")[1] == LATLON:
        first = attributes["spatial:bbox"][0]
        x = first + (x - first) % 360
    a, _, c, _, e, f = attributes["spatial:transform"]
    rows, columns = attributes["spatial:shape"]
    with np.errstate(invalid="ignore"):
        row, column = (y - f) // e, (x - c) // a
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return InZone(
        zone=zone,
        points=points[inside],
        rows=row[inside].astype(np.int64),
        columns=column[inside].astype(np.int64),
    )
