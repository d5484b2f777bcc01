"""Which shards of a zone touch a box of degrees."""

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.listed import is_list
from embedcube.cube.store import CubeStore
from embedcube.errors import RequestError
from embedcube.grid import is_geographic, to_degrees

Box = tuple[float, float, float, float]
"""west, south, east, north in degrees; west above east crosses the antimeridian"""

_STEPS = 8
"""parts of a side of a shard: between their ends the side is taken as straight"""

_SLACK = 1e-3
"""share of its own size by which a shard is taken larger, as its sides are curved in degrees"""


def parse_box(text: str) -> Box:
    """The box of a text "west,south,east,north"; a RequestError says what is wrong."""
    try:
        west, south, east, north = (float(edge) for edge in text.split(","))
    except ValueError:
        raise RequestError(f'"{text}" is no box; write west,south,east,north, for example 7.4,50.8,7.8,51.0') from None
    if not (np.isfinite([west, south, east, north]).all() and -90 <= south < north <= 90 and abs(east - west) <= 360):
        raise RequestError(f'"{text}" is no box in degrees; write west,south,east,north, for example 7.4,50.8,7.8,51.0')
    return west, south, east, north


def touching(cube: CubeStore, zone: str, places: NDArray[np.int64], box: Box) -> NDArray[np.bool_]:
    """Whether each shard (row, column) touches a box: (shard). One that lies close to it may count, too."""
    if not len(places):
        return np.zeros(0, bool)
    if is_list(zone):
        return _samples_in(cube, zone, places, box)
    attributes, side = cube.group(zone).attrs, cube.shard_cells(zone)
    a, _, left, _, e, top = attributes["spatial:transform"]
    along = np.linspace(0, 1, _STEPS + 1)
    rows, columns = (part.ravel() for part in np.meshgrid(along, along, indexing="ij"))
    x = left + (places[:, 1, None] + columns) * side * a
    y = top + (places[:, 0, None] + rows) * side * e
    lon, lat = (np.asarray(part) for part in to_degrees(attributes["proj:wkt2"]).transform(x, y))
    west, south, east, north = box
    height = np.ptp(lat, axis=1) * _SLACK
    beside = (lat.max(axis=1) + height >= south) & (lat.min(axis=1) - height <= north)
    if is_geographic(attributes["proj:wkt2"]):
        # a shard may be wider than half of the globe
        first, width = x.min(axis=1), np.ptp(x, axis=1)
    else:
        # longitudes from the first point of each shard on: it may lie on the antimeridian
        turned = (lon - lon[:, :1] + 180) % 360 - 180
        first, width = lon[:, 0] + turned.min(axis=1), np.ptp(turned, axis=1)
    first, width = first - width * _SLACK, width * (1 + 2 * _SLACK)
    span = 360.0 if east == west + 360 else (east - west) % 360
    return np.asarray(beside & (((first - west) % 360 <= span) | ((west - first) % 360 <= width)))


def _samples_in(cube: CubeStore, zone: str, places: NDArray[np.int64], box: Box) -> NDArray[np.bool_]:
    """Whether a sample of each shard of a list lies in a box; one without a place lies in none."""
    samples, slots = cube.samples(zone), cube.array(zone, "status").slots
    shards = np.flatnonzero(contains(box, samples.column("lon"), samples.column("lat"))) // slots
    return np.isin(places[:, 0], shards)


def contains(box: Box, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each place lies in a box; NaN does not."""
    west, south, east, north = box
    span = 360.0 if east == west + 360 else (east - west) % 360
    return np.asarray((lat >= south) & (lat <= north) & ((lon - west) % 360 <= span))
