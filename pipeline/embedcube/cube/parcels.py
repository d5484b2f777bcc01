"""Statistics of the vectors in parcels: mean, standard deviation, number of cells, share of them that have a vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.cube.blocks import Block, blocks_in
from embedcube.cube.encoding import to_values
from embedcube.cube.sample import times_of, vector_attributes
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import STEP_DEGREES, Area, areas_in, rasterised, union
from embedcube.errors import RequestError
from embedcube.progress import Progress, silent

if TYPE_CHECKING:
    import xarray

STATISTICS = ("mean", "std", "count")
"""what can be asked for; `count` is always given, and `valid_share`"""

_STEP_M = 1000.0
"""edges in metres are cut into pieces of this length before they are projected"""

_NUMBERS = 1 << 24
"""stored numbers of a block that are held at once"""


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums over the cells of each parcel, of all zones together."""

    cells: NDArray[np.int64]
    """(parcel): cells whose centre lies in it"""
    count: NDArray[np.int64]
    """(parcel, window): those with a vector"""
    total: NDArray[np.float64]
    """(parcel, window, feature)"""
    squares: NDArray[np.float64]
    """(parcel, window, feature)"""

    def add(self, block: Block, window: int, areas: dict[int, Area]) -> None:
        """Take over the cells of a block; `window` is the number of its window in the result."""
        for parcel, area in areas.items():
            y = slice(max(area.y.start, block.y.start), min(area.y.stop, block.y.stop))
            x = slice(max(area.x.start, block.x.start), min(area.x.stop, block.x.stop))
            if y.start >= y.stop or x.start >= x.stop:
                continue
            here = (
                slice(y.start - block.y.start, y.stop - block.y.start),
                slice(x.start - block.x.start, x.stop - block.x.start),
            )
            cells = area.cut(y, x) & block.valid[here]
            vectors = block.stored[here][cells].astype(np.float64)
            if block.scale is not None:
                to_values(vectors, block.scale[here][cells][:, None], block.offset)
            self.count[parcel, window] += len(vectors)
            self.total[parcel, window] += vectors.sum(axis=0)
            self.squares[parcel, window] += np.square(vectors, out=vectors).sum(axis=0)


def parcels(
    cube: CubeStore, layer: str, gdf: Any, time: Time, stats: Sequence[str], progress: Progress = silent
) -> "xarray.Dataset":
    """Statistics of parcels: what `Layer.parcels` returns. `progress` counts blocks of cells."""
    stats = (stats,) if isinstance(stats, str) else stats
    unknown = [name for name in stats if name not in STATISTICS]
    if unknown:
        raise RequestError(f"no statistic {unknown[0]}; there are {', '.join(STATISTICS)}")
    geometries = _polygons(gdf)
    zones = cube.zones_of(layer)
    windows = cube.windows_of(zones[0], time)
    shape = (len(geometries), len(windows), cube.array(zones[0], "embedding").shape[3])
    sums = _Sums(
        cells=np.zeros(shape[:1], np.int64),
        count=np.zeros(shape[:2], np.int64),
        total=np.zeros(shape),
        squares=np.zeros(shape),
    )
    done = 0
    for zone, areas in _areas(cube, zones, gdf, geometries):
        held = {parcel: area for parcel, area in enumerate(areas) if area is not None}
        for parcel, area in held.items():
            sums.cells[parcel] += area.cells
        if held:
            for block in blocks_in(cube, zone, union(list(held.values())), windows, max(1, _NUMBERS // shape[2])):
                sums.add(block, windows.index(block.t), held)
                done += 1
                progress(done, None)
    return _dataset(cube, layer, gdf, windows, sums, stats)


def _polygons(gdf: Any) -> NDArray[Any]:
    if not hasattr(gdf, "geometry") or not hasattr(gdf, "crs"):
        raise RequestError(f"parcels are a GeoDataFrame of polygons, not {type(gdf).__name__}")
    if gdf.crs is None:
        raise RequestError('nothing says in which CRS the parcels are; for degrees: gdf.set_crs("EPSG:4326")')
    geometries = np.asarray(gdf.geometry.values)
    kinds = {geometry.geom_type if geometry is not None else "missing" for geometry in geometries}
    wrong = sorted(kinds - {"Polygon", "MultiPolygon"})
    if wrong or not len(geometries):
        raise RequestError(f"parcels are polygons, this has {wrong[0] if wrong else 'none'}; points are for `sample`")
    return geometries


def _areas(
    cube: CubeStore, zones: tuple[str, ...], gdf: Any, geometries: NDArray[Any]
) -> "list[tuple[str, list[Area | None]]]":
    """For each zone the cells of each parcel."""
    from pyproj import CRS

    own = CRS.from_wkt(cube.group(zones[0]).attrs["proj:wkt2"])
    if len(zones) == 1 and own == CRS.from_user_input(gdf.crs):
        return [(zones[0], [rasterised(geometry, cube, zones[0]) for geometry in geometries.tolist()])]
    step = STEP_DEGREES if gdf.crs.is_geographic else _STEP_M
    degrees = np.asarray(gdf.geometry.set_axis(range(len(gdf))).segmentize(step).to_crs("EPSG:4326").values)
    if not gdf.crs.is_geographic:
        degrees = _unbroken(degrees)
    return [(zone, areas_in(cube, zone, degrees)) for zone in zones]


def _unbroken(polygons: NDArray[Any]) -> NDArray[Any]:
    """Polygons whose longitudes jump from 180 to -180, as those of metres do, with longitudes that go on instead."""
    west, _, east, _ = shapely.bounds(polygons).T
    broken = np.flatnonzero(east - west > 180)
    polygons = polygons.copy()
    polygons[broken] = shapely.transform(polygons[broken], lambda xy: xy + np.where(xy < [0, -1e9], [360.0, 0.0], 0.0))
    return polygons


def _dataset(
    cube: CubeStore, layer: str, gdf: Any, windows: list[int], sums: _Sums, stats: Sequence[str]
) -> "xarray.Dataset":
    import xarray

    starts, ends = times_of(cube, cube.zones_of(layer)[0], windows)
    about = vector_attributes(cube, layer)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = sums.count[..., None]
        mean = sums.total / count
        std = np.sqrt(np.maximum(sums.squares / count - mean**2, 0))
        share = sums.count / sums.cells[:, None]
    variables: dict[str, Any] = {
        "count": (("parcel", "time"), sums.count, {"long_name": "cells with a vector whose centre is in the parcel"}),
        "valid_share": (("parcel", "time"), share, {"long_name": "share of the parcel's cells that have a vector"}),
    }
    for name, values in (("mean", mean), ("std", std)):
        if name in stats:
            named = about | {"long_name": f"{name} of the vectors of the parcel", "cell_methods": f"area: {name}"}
            variables[name] = (("parcel", "time", "feature"), values.astype(np.float32), named)
    return xarray.Dataset(
        variables,
        coords={
            "parcel": gdf.index.to_numpy(),
            "time": starts,
            "time_end": ("time", ends),
            "t": ("time", np.array(windows)),
            "cells": ("parcel", sums.cells, {"long_name": "cells whose centre is in the parcel"}),
        },
        attrs={"cube": cube.address, "version": cube.version, "layer": layer},
    )
