"""Seams between UTM zones: cells of two zones at one place should have vectors as near as neighbours' are."""

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from embedcube.consolidate.blocks import Sampling, Spot, Within
from embedcube.consolidate.seams import Steps
from embedcube.cube.reader import Cube
from embedcube.grid import to_degrees, utm_grid_name, utm_zone_in

_SPOTS = 64
"""squares at borders of zones that are looked at, at most"""

_NEAR = 0.75
"""cells between the centres of two cells that are compared, at most"""


def add_zone_borders(sampling: Sampling, steps: Steps, spread: NDArray[np.float32]) -> None:
    """Add the differences of cells on both sides of the zones' borders, each beside a step inside of its zone."""
    cube = sampling.cube
    for zone in cube.zones_of(sampling.layer):
        number = utm_zone_in(zone.split("/")[1])
        other = f"{sampling.layer}/{utm_grid_name(number % 60 + 1)}" if number else ""
        if other not in cube.zones:
            continue
        spots = sampling.spots_of(zone, _reaching_east(cube, zone, number or 0))
        chosen = [spots[i] for i in np.unique(np.linspace(0, len(spots) - 1, min(len(spots), _SPOTS), dtype=int))]
        for spot in chosen:
            steps.add_pairs("zone", spot, _differences(sampling, spot, other, spread))


def _reaching_east(cube: Cube, zone: str, number: int) -> Within:
    """Which rectangles of cells of a zone come near the zone's eastern border."""
    group, middle = cube.group(zone), 6 * number - 183
    a, _, c, _, e, f = group.attrs["spatial:transform"]
    transformer = to_degrees(group.attrs["proj:wkt2"])

    def reaching(sides: NDArray[np.int64]) -> NDArray[np.bool_]:
        top, bottom, left, right = sides
        # the border is straight enough between the northern and the southern side of a shard
        x, y = c + a * np.stack([left, right + 2] * 2), f + e * np.stack([top, top, bottom, bottom])
        lon, _ = transformer.transform(x, y)
        # degrees east of the zone's middle: beyond the antimeridian longitudes begin anew
        beyond = (lon - middle + 180) % 360 - 180
        return np.asarray((np.min(beyond, axis=0) <= 3) & (np.max(beyond, axis=0) >= 3))

    return reaching


def _centres(cube: Cube, spot: Spot) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    group, (y, x) = cube.group(spot.zone), spot.cells
    return np.asarray(group["x"][x], dtype=float), np.asarray(group["y"][y], dtype=float)


def _differences(sampling: Sampling, spot: Spot, other: str, spread: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each cell with a vector in both zones: the step to the other zone's cell, less that to a neighbour."""
    cube = sampling.cube
    x, y = np.meshgrid(*_centres(cube, spot))
    here, there = (cube.group(zone).attrs["proj:wkt2"] for zone in (spot.zone, other))
    there_x, there_y = Transformer.from_crs(here, there, always_xy=True).transform(x, y)
    a, _, c, _, e, f = cube.group(other).attrs["spatial:transform"]
    col, row = (there_x - c) / a - 0.5, (there_y - f) / e - 0.5
    near_col, near_row = np.rint(col), np.rint(row)
    rows, cols = cube.array(other, "status").shape[1:]
    near = (np.hypot(col - near_col, row - near_row) <= _NEAR) & (near_row >= 0) & (near_row < rows)
    near &= (near_col >= 0) & (near_col < cols)
    if not near.any():
        return np.empty(0)
    near_row, near_col = near_row.astype(int), near_col.astype(int)
    y_of, x_of = (slice(int(v[near].min()), int(v[near].max()) + 1) for v in (near_row, near_col))
    status = cube.valid(other, spot.t, y_of, x_of)
    if not status.any() or status.size * sampling.features > 1 << 24:
        return np.empty(0)
    scale = spread * np.float32(np.sqrt(len(spread)))
    beyond = cube.vectors(other, spot.t, y_of, x_of) / scale
    beyond[~status] = np.nan
    own = sampling.vectors(spot) / scale
    across = np.full(own.shape[:2], np.nan)
    across[near] = np.linalg.norm(own[near] - beyond[near_row[near] - y_of.start, near_col[near] - x_of.start], axis=-1)
    beside = np.full(own.shape[:2], np.nan)
    beside[:, :-1] = np.linalg.norm(np.diff(own, axis=1), axis=-1)
    beside[:, 1:] = np.fmin(beside[:, 1:], beside[:, :-1])
    return np.asarray((across - beside).ravel())
