"""The shards of a layer, cut from region, windows and scenes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import affinity

from embedcube.campaign.boxes import Box
from embedcube.campaign.plan import Ints, Shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, Region, make_layout
from embedcube.errors import RequestError
from embedcube.grid import (
    UTM_NORTH,
    UTM_SOUTH,
    Grid,
    ShardLayout,
    ShardRange,
    is_geographic,
    same_crs,
    shards_touching,
    to_degrees,
)
from embedcube.prepare.draw_groups import Floats, distinct
from embedcube.prepare.listed import cut_list
from embedcube.prepare.pieces import Pieces, Span, spans_of
from embedcube.prepare.resampled import Resampled
from embedcube.sources.base import counted_archives
from embedcube.windows import Window
from embedcube.zones import SampleList

_MARGIN = 0.1
"""degrees beside a UTM zone within which a region is kept: shards reach a little over the edge of the zone"""


@dataclass(frozen=True, kw_only=True)
class _Footprints:
    """Boxes of a layer's scenes on one grid, in the order in which scenes are composited."""

    scene: Ints
    """index of the scene of each box; the boxes of one scene are neighbours"""
    boxes: Floats
    """xmin, ymin, xmax, ymax in the CRS of the grid (box, 4)"""
    times_s: Floats
    """Unix time of the first and of the last moment of the scene (box, 2)"""
    counts: NDArray[np.bool_]
    """whether the scene makes cells valid"""

    @classmethod
    def of(cls, scenes: Sequence[Scene], order: Sequence[int], counted: Sequence[str], grid: Grid) -> "_Footprints":
        """Footprints of the scenes whose indices are in `order`; those of `counted` archives make cells valid."""
        pairs = [(i, box) for i in order for box in scenes[i].boxes_in(grid)]
        scene = [i for i, _ in pairs]
        return cls(
            scene=np.array(scene, dtype=np.int64),
            boxes=np.array([box for _, box in pairs]).reshape(-1, 4),
            times_s=np.array([_seconds(scenes[i]) for i in scene]).reshape(-1, 2),
            counts=np.array([scenes[i].archive in counted for i in scene], dtype=bool),
        )

    def within(self, window: Window) -> Ints:
        """Indices of the boxes whose scenes lie in a window, at least in part, as `Scene.meets` says."""
        first_s, last_s = self.times_s.T
        return np.nonzero((first_s < window.end.timestamp()) & (last_s >= window.start.timestamp()))[0]


def cut_all(
    campaign: Campaign, name: str, zones: Mapping[str, Grid | SampleList], scenes: Sequence[Scene]
) -> dict[str, tuple[Pieces, ShardRange]]:
    """For each zone that holds any of the region, its shards and the rectangle that they span."""
    cuts = {}
    for name_of, zone in zones.items():
        if (found := cut_in_pieces(campaign, name, zone, scenes)) is not None:
            cuts[name_of] = found
    if not cuts:
        raise RequestError(f"layers.{name}: no shard holds any of the region; is its CRS right?")
    return cuts


def cut(
    campaign: Campaign, name: str, grid: Grid | SampleList, scenes: Sequence[Scene]
) -> tuple[Shards, ShardRange] | None:
    """The shards of a layer in one of its zones, all at once, and the rectangle of shards that its arrays span."""
    found = cut_in_pieces(campaign, name, grid, scenes)
    return None if found is None else (found[0].whole(), found[1])


def cut_in_pieces(
    campaign: Campaign, name: str, grid: Grid | SampleList, scenes: Sequence[Scene]
) -> tuple[Pieces, ShardRange] | None:
    """The shards of a layer in one of its zones, in every window, with their scenes: of a grid, those in the region.

    Also the rectangle of shards that the layer's arrays span. None where the grid holds no shard.

    Raises:
        RequestError: no scene shows any of the region, or the region lies outside of all UTM zones.
    """
    if isinstance(grid, SampleList):
        shards, place = cut_list(campaign, name, grid, scenes)
        return Pieces.of(shards), place
    layer = campaign.layers[name]
    layout = make_layout(layer)
    ways = Resampled(campaign, name, grid)
    # scenes of one acquisition must be neighbours: they are composited as one, and the first clear one counts
    order = sorted(
        (i for i, s in enumerate(scenes) if s.archive in layer.archives and not s.superseded_by),
        key=lambda i: (_rank(scenes[i], ways), scenes[i].time, scenes[i].id),
    )
    counted = counted_archives(campaign, name)
    footprints = _Footprints.of(scenes, order, counted, grid)
    if grid.utm_zone is not None:
        places = [scenes[i].bbox for i in order if scenes[i].assets and scenes[i].archive in counted]
        _refuse_poles(campaign.region, places)
    wanted, place = _wanted(campaign.region, grid, layout, footprints.boxes[footprints.counts])
    if not wanted.any():
        return None
    reach = shards_touching(grid, layout, footprints.boxes, layout.halo_px)
    reach = np.clip(reach - [place.row, place.col, place.row, place.col], 0, [place.rows, place.cols] * 2)
    return _linked(footprints, campaign.all_windows, reach, wanted, place), place


def _rank(scene: Scene, ways: Resampled) -> tuple[str, bool, float, int]:
    """Order of a scene among all: within its acquisition the newest processing first, copied before resampled."""
    return scene.acquisition, scene.fills, -scene.version if scene.fills else 0.0, len(ways.methods(scene))


def _linked(
    footprints: _Footprints, windows: Sequence[Window], reach: Ints, wanted: NDArray[np.bool_], place: ShardRange
) -> Pieces:
    """The wanted shards of a rectangle in every window, each with the scenes that reach it.

    `reach` (box, 4) is the first row, first column, last row + 1 and last column + 1 of the shards that each footprint
    touches, counted from the rectangle's corner.
    """
    slot = np.full(wanted.shape, -1, dtype=np.int64)
    slot[wanted] = np.arange(wanted.sum())
    rows, cols = np.nonzero(wanted)

    def links(span: Span) -> tuple[Ints, Ints]:
        many = span.places.stop - span.places.start
        top, bottom = rows[span.places.start], rows[span.places.stop - 1] + 1
        near = np.clip(reach, [top, 0, top, 0], [bottom, place.cols, bottom, place.cols])
        firsts, linked = [np.zeros(1, dtype=np.int64)], []
        for t in span.windows:
            chosen = footprints.within(windows[t])
            chosen = chosen[near[chosen, 2] > near[chosen, 0]]
            of_scenes, shard_of = _links(chosen, footprints.scene, near, slot)
            linked.append(of_scenes)
            counts = np.bincount(shard_of - span.places.start, minlength=many)
            firsts.append(firsts[-1][-1] + np.cumsum(counts))
        return np.concatenate(firsts), np.concatenate(linked)

    sizes = (reach[:, 2] - reach[:, 0]) * (reach[:, 3] - reach[:, 1])
    counts = [len(rows) + int(sizes[footprints.within(window)].sum()) for window in windows]
    return Pieces(rows + place.row, cols + place.col, spans_of(counts, rows), links)


def _refuse_poles(region: Region | None, places: list[Box]) -> None:
    """Refuse a region that lies outside of all UTM zones; without a region, such scenes."""
    boxes = places if region is None else [_degrees(region)]
    if not boxes:
        return
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if south >= UTM_NORTH or north <= UTM_SOUTH:
        raise RequestError(
            f"grid.crs: {'the scenes lie' if region is None else 'the region lies'} from {south:.2f} to {north:.2f} "
            f"degrees of latitude, and UTM is used from {UTM_SOUTH:g} to {UTM_NORTH:g}; write "
            f"{'EPSG:3413 (polar stereographic, north)' if south > 0 else 'EPSG:3031 (polar stereographic, south)'}, "
            "or EPSG:4326 with pixels in degrees"
        )


def _geometry(region: Region) -> tuple[Any, str]:
    """The region as a geometry, and the CRS of its coordinates."""
    if region.bbox is not None:
        return shapely.box(*region.bbox), region.crs
    assert region.geometry is not None
    return shapely.geometry.shape(region.geometry), "EPSG:4326"


def _degrees(region: Region) -> Box:
    """Box around the region in degrees."""
    shape, crs = _geometry(region)
    west, south, east, north = shape.bounds
    if region.bbox is not None:
        west, south, east, north = to_degrees(crs).transform_bounds(west, south, east, north, densify_pts=21)
    return west, south, east, north


def _seconds(scene: Scene) -> tuple[float, float]:
    """Unix time of the first and the last moment of a scene; exact for whole seconds, where windows begin and end."""
    return scene.time.timestamp(), (scene.end or scene.time).timestamp()


def _links(chosen: Ints, of_scene: Ints, reach: Ints, slot: Ints) -> tuple[Ints, Ints]:
    """Scene and shard of every link of the chosen boxes, by shard and then in the order of compositing."""
    row0, col0, row1, col1 = reach[chosen].T
    wide = col1 - col0
    sizes = (row1 - row0) * wide
    box = np.repeat(np.arange(len(chosen)), sizes)
    place = np.arange(len(box)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shard = slot[row0[box] + place // wide[box], col0[box] + place % wide[box]]
    # two boxes of one scene, which are neighbours, may touch one shard, which then has it once
    first = np.diff(of_scene[chosen], prepend=-1) != 0
    rank = np.maximum.accumulate(np.where(first, np.arange(len(chosen)), 0))
    shard_of, rank_of = np.divmod(distinct((shard * len(chosen) + rank[box])[shard >= 0]), max(1, len(chosen)))
    return of_scene[chosen[rank_of]], shard_of


def _apart(shape: Any, boxes: Floats, grid: Grid) -> str:
    """Where region and scenes lie, and what to look at."""
    question = "is its CRS right, and its order west, south, east, north?"
    if shape is None or not len(boxes):
        return f"; {question}"
    scenes = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    to_lonlat = to_degrees(grid.crs)
    degrees = [to_lonlat.transform_bounds(w, s, e, n, densify_pts=21) for w, s, e, n in (shape.bounds, scenes)]
    at = [" ".join(f"{number:.2f}" for number in box) for box in degrees]
    return f": it lies at {at[0]}, the scenes at {at[1]} (degrees); {question}"


def _wanted(
    region: Region | None, grid: Grid, layout: ShardLayout, boxes: Floats
) -> tuple[NDArray[np.bool_], ShardRange]:
    """A rectangle of shards, and which of them the region touches; without a region, which the scenes touch."""
    shape = None if region is None else _region_shape(region, grid)
    shown = len(boxes) > 0
    if shape is not None:
        shown = bool(np.isfinite(shape.bounds).all() and shapely.intersects(shape, _boxes(boxes)).any())
    if not shown:
        if grid.utm_zone is not None:
            return np.zeros((0, 0), dtype=bool), ShardRange(row=0, col=0, rows=0, cols=0)
        raise RequestError(f"region: no scene shows any of it{_apart(shape, boxes, grid)}")
    touched = shards_touching(grid, layout, boxes if shape is None else np.array([shape.bounds]))
    row, col = touched[:, :2].min(axis=0)
    last_row, last_col = touched[:, 2:].max(axis=0)
    place = ShardRange(row=int(row), col=int(col), rows=int(last_row - row), cols=int(last_col - col))
    if shape is None:
        wanted = np.zeros((place.rows, place.cols), dtype=bool)
        for r0, c0, r1, c1 in touched - [row, col, row, col]:
            wanted[r0:r1, c0:c1] = True
    else:
        wanted = _touches(shape, grid, layout, place)
    return _trimmed(wanted & grid.owns_shards(layout, place), place)


def _trimmed(wanted: NDArray[np.bool_], place: ShardRange) -> tuple[NDArray[np.bool_], ShardRange]:
    """The same shards in the smallest rectangle that holds them."""
    rows, cols = (np.nonzero(wanted.any(axis=axis))[0] for axis in (1, 0))
    if not len(rows):
        return np.zeros((0, 0), dtype=bool), place
    trimmed = wanted[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    first = place.row + int(rows[0]), place.col + int(cols[0])
    return trimmed, ShardRange(row=first[0], col=first[1], rows=trimmed.shape[0], cols=trimmed.shape[1])


def _region_shape(region: Region, grid: Grid) -> Any:
    """The region as a geometry in the grid's CRS; empty where a UTM zone holds none of it."""
    shape, crs = _geometry(region)
    if grid.utm_zone is not None:
        shape, crs = _within_zone(shape, crs, grid.utm_zone), "EPSG:4326"
        if shape.is_empty:
            return shape
    west, south, east, north = shape.bounds
    in_grid = projected(shape, crs, grid.crs, step=max(east - west, north - south) / 100)
    if not grid.geographic:
        return in_grid
    # in the longitudes of the grid, which may begin anywhere
    turned = shapely.union_all(_turned(in_grid, 2))
    return shapely.intersection(turned, shapely.box(grid.origin_x, -90, grid.origin_x + 360, 90))


def _within_zone(shape: Any, crs: str, zone: int) -> Any:
    """The part of a region in a UTM zone and a little beyond, in degrees; empty where the zone holds none of it."""
    # about a hundred points along each side of a square
    degrees = projected(shape, crs, "EPSG:4326", step=math.sqrt(shape.area) * 4 / 100)
    if not is_geographic(crs):
        # one piece across the antimeridian, where longitudes jump
        degrees = shapely.transform(degrees, lambda xy: np.column_stack([np.unwrap(xy[:, 0], period=360), xy[:, 1]]))
    west = -180 + 6 * (zone - 1)
    own = shapely.box(west, UTM_SOUTH, west + 6, UTM_NORTH)
    copies = _turned(degrees, 1)
    # a region that ends at the border has no area in the zone behind it
    if not any(shapely.intersection(copy, own).area for copy in copies):
        return shapely.Polygon()
    # coordinates far outside of a zone have no meaning, and these places belong to other zones
    strip = shapely.box(west - _MARGIN, UTM_SOUTH, west + 6 + _MARGIN, UTM_NORTH)
    return shapely.union_all([part for copy in copies if (part := shapely.intersection(copy, strip)).area])


def _turned(shape: Any, turns: int) -> list[Any]:
    """The geometry in degrees, and the same place with longitudes up to so many turns of the globe to either side."""
    return [affinity.translate(shape, xoff=360 * k) for k in range(-turns, turns + 1)]


@lru_cache(maxsize=256)
def _transformer(crs: str, target: str) -> Transformer:
    return Transformer.from_crs(crs, target, always_xy=True)


def projected(shape: Any, crs: str, target: str, step: float) -> Any:
    """A geometry in another CRS: straight edges become curves, which a point every `step` units of `crs` follows."""
    if same_crs(crs, target):
        return shape
    transformer = _transformer(crs, target)

    def ring(line: Any) -> Floats:
        return np.column_stack(transformer.transform(*_with_points(shapely.get_coordinates(line), step).T))

    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    polygons = [shapely.Polygon(ring(part.exterior), [ring(hole) for hole in part.interiors]) for part in parts]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _with_points(coordinates: Floats, step: float) -> Floats:
    """The vertices of a line, and between each two a point every `step` units."""
    edges: Any = shapely.linestrings(np.stack([coordinates[:-1], coordinates[1:]], axis=1))
    lengths = shapely.length(edges)
    distances = np.cumsum(np.full(math.ceil(lengths.max() / step) + 1, step))
    counts = np.searchsorted(distances, lengths)
    # an edge along x = 0 stays straight: plans have always been made so, and a region keeps its shards
    counts[coordinates[:-1, 0] ** 2 + coordinates[1:, 0] ** 2 < step**2] = 0
    edge = np.repeat(np.arange(len(edges)), counts)
    along = distances[np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)]
    points = shapely.get_coordinates(shapely.line_interpolate_point(edges[edge], along))
    return np.insert(coordinates, edge + 1, points, axis=0)


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
