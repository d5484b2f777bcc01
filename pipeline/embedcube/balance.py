"""Who does which shards: draw groups that share blocks of their files, tasks of equal cost."""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedcube.grid import Grid, ShardLayout
from embedcube.scene import Scene

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

AMPLIFICATION_GOAL = 1.3
"""Decoded bytes over the bytes of each needed block once (DESIGN 5)."""

_GROUP_SIDES = (1, 2, 4, 8, 16)
_GROUPS_PER_RANK = 4
"""at least: with fewer, ranks would wait for the last one"""


@dataclass(frozen=True, kw_only=True)
class ReadCost:
    """What reading groups of `side` x `side` shards costs, when blocks are kept between the shards of a group."""

    side: int
    group: Ints
    """of each shard"""
    decoded: Floats
    """bytes, of each shard (its group's, shared out)"""
    needed_bytes: float
    """each needed block once"""
    cache_bytes: float
    """decoded blocks that the worst group must keep"""

    @property
    def amplification(self) -> float:
        """Decoded over needed."""
        return float(self.decoded.sum()) / self.needed_bytes if self.needed_bytes else 1.0


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The shards of a layer, as columns; the scenes of shard i are `scenes[first[i] : first[i + 1]]`."""

    t: Ints
    row: Ints
    col: Ints
    first: Ints
    scenes: Ints


def draw_groups(
    shards: Shards, scenes: list[Scene], grid: Grid, layout: ShardLayout, *, ranks: int, cache_bytes: int
) -> ReadCost:
    """The smallest groups that read no block much more than once, fit the cache, and leave every rank enough."""
    geometry = _BlockGeometry.of(scenes, grid, layout)
    best = None
    for side in _GROUP_SIDES:
        cost = _read_cost(shards, geometry, side)
        groups = len(np.unique(cost.group))
        if best is not None and (cost.cache_bytes > cache_bytes or groups < ranks * _GROUPS_PER_RANK):
            break
        best = cost
        if cost.amplification <= AMPLIFICATION_GOAL:
            break
    assert best is not None
    return best


@dataclass(frozen=True, kw_only=True)
class _BlockGeometry:
    """Per scene and asset, in shard units of the grid: where its blocks lie. Arrays (scene, asset)."""

    left: Floats
    top: Floats
    wide: Floats
    high: Floats
    """footprint, in grid pixels from the origin, rows downward (scene, 1)"""
    cols: Floats
    rows: Floats
    block_cols: Floats
    block_rows: Floats
    itemsize: Floats
    """0 where a scene has fewer assets than others"""
    layout: ShardLayout

    @classmethod
    def of(cls, scenes: list[Scene], grid: Grid, layout: ShardLayout) -> "_BlockGeometry":
        most = max((len(scene.assets) for scene in scenes), default=0)
        facts = np.zeros((5, len(scenes), most))
        facts[:4] = 1
        box = np.zeros((4, len(scenes), 1))
        box[2:] = 1
        for i, scene in enumerate(scenes):
            if not (pieces := scene.boxes_in(grid)):
                continue
            # of a footprint in two pieces the wider one stands for both: this only balances
            xmin, ymin, xmax, ymax = max(pieces, key=lambda piece: piece[2] - piece[0])
            box[:, i, 0] = (
                (xmin - grid.origin_x) / grid.pixel,
                (grid.origin_y - ymax) / grid.pixel,
                (xmax - xmin) / grid.pixel,
                (ymax - ymin) / grid.pixel,
            )
            for k, asset in enumerate(scene.assets):
                size = 0 if scene.verdict else np.dtype(asset.dtype).itemsize * asset.steps
                facts[:, i, k] = (asset.cols, asset.rows, asset.block_cols, asset.block_rows, size)
        return cls(
            left=box[0], top=box[1], wide=box[2], high=box[3], cols=facts[0], rows=facts[1],
            block_cols=facts[2], block_rows=facts[3], itemsize=facts[4], layout=layout,
        )  # fmt: skip

    def block_bytes(self, scene: Ints, row0: Ints, col0: Ints, row1: Ints, col1: Ints) -> Floats:
        """Bytes of the decoded blocks that shards [row0, row1) x [col0, col1) and their halo need of each scene."""
        side, halo = self.layout.shard_px, self.layout.halo_px

        def blocks(first: Ints, last: Ints, start: Floats, length: Floats, pixels: Floats, block: Floats) -> Floats:
            per_grid_pixel = pixels[scene] / length[scene]
            low = (first[:, None] * side - halo - start[scene]) * per_grid_pixel
            high = (last[:, None] * side + halo - start[scene]) * per_grid_pixel
            low, high = np.clip(low, 0, pixels[scene]), np.clip(high, 0, pixels[scene])
            count = np.ceil(high / block[scene] - 1e-9) - np.floor(low / block[scene] + 1e-9)
            return np.where(high > low, count, 0)

        down = blocks(row0, row1, self.top, self.high, self.rows, self.block_rows)
        across = blocks(col0, col1, self.left, self.wide, self.cols, self.block_cols)
        size = self.block_rows[scene] * self.block_cols[scene] * self.itemsize[scene]
        return np.asarray((down * across * size).sum(axis=1))


def _read_cost(shards: Shards, geometry: _BlockGeometry, side: int) -> ReadCost:
    row, col = shards.row - shards.row.min(), shards.col - shards.col.min()
    wide = int(col.max()) // side + 1
    high = int(row.max()) // side + 1
    _, group = np.unique((shards.t * high + row // side) * wide + col // side, return_inverse=True)
    groups = int(group.max()) + 1
    corner = _extremes(group, groups, shards.row, shards.col)
    shard_of = np.repeat(np.arange(len(group)), np.diff(shards.first))
    pairs, of_scene = np.unique(np.stack([group[shard_of], shards.scenes]), axis=1)
    decoded = np.bincount(pairs, geometry.block_bytes(of_scene, *(c[pairs] for c in corner)), minlength=groups)
    held = np.zeros(groups)
    for down in range(side):
        top = np.minimum(corner[0] + down, corner[2] - 1)
        one_row = (top, corner[1], top + 1, corner[3])
        blocks = np.bincount(pairs, geometry.block_bytes(of_scene, *(c[pairs] for c in one_row)), minlength=groups)
        held = np.maximum(held, blocks)
    members = np.bincount(group, minlength=groups)
    return ReadCost(
        side=side,
        group=np.asarray(group, dtype=np.int64),
        decoded=(decoded / members)[group],
        needed_bytes=_needed(shards, geometry, shard_of),
        cache_bytes=float(held.max(initial=0)),
    )


def _needed(shards: Shards, geometry: _BlockGeometry, shard_of: Ints) -> float:
    """Each block that any shard needs, once: the extent of all shards of a scene in a window."""
    used, scene = np.unique(shards.scenes, return_inverse=True)
    if not len(used):
        return 0.0
    corner = _extremes(scene, len(used), shards.row[shard_of], shards.col[shard_of])
    return float(geometry.block_bytes(used, *corner).sum())


def _extremes(label: Ints, labels: int, row: Ints, col: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """First row, first column, last row + 1, last column + 1 of each label."""
    big = np.iinfo(np.int64).max
    row0, col0 = np.full(labels, big), np.full(labels, big)
    row1, col1 = np.full(labels, -big), np.full(labels, -big)
    np.minimum.at(row0, label, row)
    np.minimum.at(col0, label, col)
    np.maximum.at(row1, label, row + 1)
    np.maximum.at(col1, label, col + 1)
    return row0, col0, row1, col1


def assign(groups: Ints, costs: Floats, tasks: int) -> tuple[Ints, Ints]:
    """Task and place in the task's draw order of each shard, from its group and cost.

    Groups go, largest first, to the task that has least so far (Graham 1969: within 4/3 of the best).
    """
    labels, group = np.unique(groups, return_inverse=True)
    total = np.bincount(group, costs, minlength=len(labels))
    task, draw = np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=np.int64)
    heap = [(0.0, 0, i) for i in range(tasks)]
    for label in np.argsort(-total, kind="stable"):
        load, count, least = heapq.heappop(heap)
        task[label], draw[label] = least, count
        heapq.heappush(heap, (load + float(total[label]), count + 1, least))
    return task[group], draw[group]
