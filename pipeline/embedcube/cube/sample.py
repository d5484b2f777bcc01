"""The vectors of points over time: which cell holds each point, and what the cube has there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.chunks import read_cells
from embedcube.cube.encoding import (
    NOT_PROCESSED,
    OUTSIDE,
    STATUS_MEANINGS,
    VALID,
    VALID_INCOMPLETE,
    decode,
)
from embedcube.cube.places import InZone, Places, cells_beside, own_cells
from embedcube.cube.store import CubeStore, Time

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The cell of each point, and its status in each window."""

    zone: NDArray[np.int64]
    """number of the zone; -1 outside"""
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    status: NDArray[np.uint8]
    """(point, window)"""


def sample(cube: CubeStore, layer: str, places: Places, time: Time) -> "xarray.Dataset":
    """Vectors of points in the windows that a time selects: what `Layer.sample` returns."""
    return sample_windows(cube, layer, places, cube.windows_of(cube.zones_of(layer)[0], time))


def sample_windows(cube: CubeStore, layer: str, places: Places, windows: list[int]) -> "xarray.Dataset":
    """Vectors of points in some windows, by their numbers: what `Layer.sample` returns."""
    zones = cube.zones_of(layer)
    chosen = _choose(cube, layer, places, windows)
    shape = (len(places.lon), len(windows))
    features = cube.array(zones[0], "embedding").shape[3]
    vectors, n_obs = np.full((*shape, features), np.nan, np.float32), np.zeros(shape, np.uint16)
    has_vector = (chosen.status == VALID) | (chosen.status == VALID_INCOMPLETE)
    for i, zone in enumerate(zones):
        in_zone = np.flatnonzero(chosen.zone == i)
        at = (windows, chosen.rows[in_zone], chosen.columns[in_zone])
        n_obs[in_zone] = read_cells(cube, zone, "n_obs", *at).T
        some = in_zone[has_vector[in_zone].any(axis=1)]
        at = (windows, chosen.rows[some], chosen.columns[some])
        scale = read_cells(cube, zone, "scale", *at) if cube.has_scale(zone) else None
        decoded = decode(read_cells(cube, zone, "embedding", *at), scale, cube.offset(zone))
        vectors[some] = np.moveaxis(decoded, 0, 1)
    vectors[~has_vector] = np.nan
    return _dataset(cube, layer, places, windows, chosen, vectors, n_obs)


def _choose(cube: CubeStore, layer: str, places: Places, windows: list[int]) -> _Chosen:
    """The cell of each point: of the cells that hold it, the one with a vector in most windows.

    Where two have equally many it is that of the place's own zone. The cell of a neighbouring zone counts only where it
    was processed.
    """
    count = len(places.lon)
    zones = cube.zones_of(layer)
    chosen = _Chosen(
        zone=np.full(count, -1),
        rows=np.full(count, -1),
        columns=np.full(count, -1),
        status=np.full((count, len(windows)), OUTSIDE, np.uint8),
    )
    best = np.full(count, -1, np.int64)

    def take(found: InZone, least: int) -> None:
        if not len(found.points):
            return
        status = read_cells(cube, found.zone, "status", windows, found.rows, found.columns).T
        rank = _rank(status)
        better = rank > np.maximum(best[found.points], least - 1)
        points = found.points[better]
        best[points] = rank[better]
        chosen.zone[points] = zones.index(found.zone)
        chosen.rows[points], chosen.columns[points] = found.rows[better], found.columns[better]
        chosen.status[points] = status[better]

    for found in own_cells(cube, layer, places):
        take(found, least=0)
    for found in cells_beside(cube, layer, places):
        missing = best[found.points] < 2 * len(windows)  # there may be a better one
        take(
            InZone(
                zone=found.zone,
                points=found.points[missing],
                rows=found.rows[missing],
                columns=found.columns[missing],
            ),
            least=1,
        )
    return chosen


def _rank(status: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For statuses (point, window): 2 for each window with a vector, 1 for each other that was processed."""
    has_vector = (status == VALID) | (status == VALID_INCOMPLETE)
    return np.asarray((has_vector.astype(np.int64) + (status != NOT_PROCESSED)).sum(axis=1))


def _dataset(
    cube: CubeStore,
    layer: str,
    places: Places,
    windows: list[int],
    chosen: _Chosen,
    vectors: NDArray[np.float32],
    n_obs: NDArray[np.uint16],
) -> "xarray.Dataset":
    import xarray

    zones = cube.zones_of(layer)
    starts, ends = times_of(cube, zones[0], windows)
    return xarray.Dataset(
        {
            "vector": (("point", "time", "feature"), vectors, vector_attributes(cube, layer)),
            "status": (("point", "time"), chosen.status, status_attributes(outside=True)),
            "n_obs": (("point", "time"), n_obs, {"long_name": "acquisitions with a clear pixel in the cell"}),
        },
        coords={
            "point": places.names,
            "time": starts,
            "time_end": ("time", ends),
            "lon": ("point", places.lon, {"units": "degrees_east"}),
            "lat": ("point", places.lat, {"units": "degrees_north"}),
            "zone": ("point", np.array(["", *zones])[chosen.zone + 1]),
            "t": ("time", np.array(windows)),
            "y": ("point", chosen.rows, {"long_name": "row of the cell in its zone; -1 outside"}),
            "x": ("point", chosen.columns, {"long_name": "column of the cell in its zone; -1 outside"}),
        },
        attrs={"cube": cube.address, "version": cube.version, "layer": layer},
    )


def times_of(cube: CubeStore, zone: str, windows: list[int]) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    """Starts and ends of some windows of a zone, UTC."""
    own = cube.windows(zone)
    seconds = [[int(own[t].start.timestamp()), int(own[t].end.timestamp())] for t in windows]
    starts, ends = np.array(seconds, np.int64).astype("datetime64[s]").astype("datetime64[ns]").T
    return starts, ends


def vector_attributes(cube: CubeStore, layer: str) -> dict[str, Any]:
    """Attributes of decoded vectors: which model made them, by the digest of its weights."""
    about = cube.group(cube.zones_of(layer)[0]).attrs
    kept = ("geoemb:model", "embedcube:weights_sha256", "embedcube:error_bound")
    return {"long_name": "embedding vector", "units": "1"} | {key: about[key] for key in kept if key in about}


def status_attributes(outside: bool = False) -> dict[str, Any]:
    """CF attributes of a status: its values, and their names."""
    values = [*range(len(STATUS_MEANINGS)), *([OUTSIDE] if outside else [])]
    names = [*STATUS_MEANINGS, *(["outside"] if outside else [])]
    return {
        "long_name": "why there is a vector or none",
        "flag_values": np.array(values, np.uint8),
        "flag_meanings": " ".join(names),
    }
