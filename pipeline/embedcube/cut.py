"""Region x windows x scenes -> the shards of a layer, as columns."""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.assemble import make_grid, make_layout
from embedcube.balance import Shards
from embedcube.config import Campaign, Region
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout, ShardRange, shards_touching
from embedcube.scene import Scene


def cut(campaign: Campaign, name: str, scenes: list[Scene]) -> tuple[Shards, ShardRange]:
    """The shards of a layer: those that the region touches, in every window, with the scenes that reach them.

    Also the rectangle of shards that the layer's arrays span.
    """
    layer = campaign.layers[name]
    grid, layout = make_grid(campaign), make_layout(layer)
    # scenes of one photograph must be neighbours: they are composited as one
    order = sorted(
        (i for i, scene in enumerate(scenes) if scene.archive == layer.archive),
        key=lambda i: (scenes[i].photograph, scenes[i].time, scenes[i].id),
    )
    bounds = np.array([scenes[i].bounds_in(grid.crs) for i in order])
    wanted, place = _wanted(campaign.region, grid, layout, bounds)
    slot = np.full(wanted.shape, -1, dtype=np.int64)
    slot[wanted] = np.arange(wanted.sum())
    rows, cols = np.nonzero(wanted)
    reach = shards_touching(grid, layout, bounds, layout.halo_px)
    reach = np.clip(reach - [place.row, place.col, place.row, place.col], 0, [place.rows, place.cols] * 2)
    firsts, links = [np.zeros(1, dtype=np.int64)], []
    for window in campaign.all_windows:
        pairs_shard, pairs_scene = [], []
        for rank, i in enumerate(order):
            if scenes[i].time in window:
                r0, c0, r1, c1 = reach[rank]
                touched = slot[r0:r1, c0:c1]
                pairs_shard.append(touched[touched >= 0])
                pairs_scene.append(np.full(pairs_shard[-1].size, i, dtype=np.int64))
        shard_of = np.concatenate([*pairs_shard, np.empty(0, dtype=np.int64)])
        by_shard = np.argsort(shard_of, kind="stable")
        links.append(np.concatenate([*pairs_scene, np.empty(0, dtype=np.int64)])[by_shard])
        counts = np.bincount(shard_of, minlength=len(rows))
        firsts.append(firsts[-1][-1] + np.cumsum(counts))
    windows = len(campaign.all_windows)
    shards = Shards(
        t=np.repeat(np.arange(windows), len(rows)),
        row=np.tile(rows + place.row, windows),
        col=np.tile(cols + place.col, windows),
        first=np.concatenate(firsts),
        scenes=np.concatenate(links),
    )
    return shards, place


def _wanted(
    region: Region | None, grid: Grid, layout: ShardLayout, bounds: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], ShardRange]:
    """Which shards of a rectangle of them the region touches; without a region, the scenes."""
    shape = None if region is None else _region_shape(region, grid.crs)
    if shape is not None and not (np.isfinite(shape.bounds).all() and shapely.intersects(shape, _boxes(bounds)).any()):
        raise RequestError(
            "region: no scene shows any of it; is its CRS right, and its order west, south, east, north?"
        )
    boxes = bounds if shape is None else np.array([shape.bounds])
    touched = shards_touching(grid, layout, boxes)
    row, col = touched[:, :2].min(axis=0)
    last_row, last_col = touched[:, 2:].max(axis=0)
    place = ShardRange(row=int(row), col=int(col), rows=int(last_row - row), cols=int(last_col - col))
    if shape is None:
        wanted = np.zeros((place.rows, place.cols), dtype=bool)
        for r0, c0, r1, c1 in touched - [row, col, row, col]:
            wanted[r0:r1, c0:c1] = True
    else:
        wanted = _touches(shape, grid, layout, place)
    if not wanted.any():
        raise RequestError("region: it is empty on this grid; is its CRS right?")
    return wanted, place


def _region_shape(region: Region, crs: str) -> Any:
    from odc.geo.geom import Geometry  # brings Dask along, which ranks do not need

    if region.bbox is not None:
        shape = Geometry(shapely.box(*region.bbox), region.crs)
    else:
        assert region.geometry is not None
        shape = Geometry(region.geometry, "EPSG:4326")
    west, south, east, north = shape.boundingbox.bbox
    # straight edges are curves in another CRS: a point every hundredth of the extent follows them
    return shape.to_crs(crs, resolution=max(east - west, north - south) / 100).geom


def _boxes(bounds: NDArray[np.float64]) -> NDArray[Any]:
    return np.asarray(shapely.box(*bounds.T))


def _touches(shape: Any, grid: Grid, layout: ShardLayout, place: ShardRange) -> NDArray[np.bool_]:
    rows, cols = np.mgrid[place.row : place.row + place.rows, place.col : place.col + place.cols]
    side = layout.shard_px * grid.pixel
    slack = 1e-6 * grid.pixel
    left, top = grid.origin_x + cols * side, grid.origin_y - rows * side
    shapely.prepare(shape)
    boxes = shapely.box(left + slack, top - side + slack, left + side - slack, top - slack)
    return np.asarray(shapely.intersects(shape, boxes))
