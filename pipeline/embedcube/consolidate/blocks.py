"""The squares of cells on which `verify` takes its statistics: around corners of chips, the same in every call.

A layer is divided into squares of whole chips, moved by half a chip, so that each border between two chips lies inside
of one square. Where the squares of a layer are too many, some places are drawn at random, seeded by the campaign's
digest, and read in all windows that planned them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube

MARGIN = 3
"""cells around a square that are read too: a step across its edge is compared with its neighbours"""

_BLOCK_NUMBERS = 1 << 21
"""numbers of a square, at most: 8 MB as float32"""

_NUMBERS = 1 << 27
"""numbers of a layer that are looked at, about"""

_CELLS = 1 << 22
"""cells of a layer that are looked at, about"""

_PLACES = 8
"""places that are looked at, at least: so many in every window"""

_MOST = 4096
"""squares of a layer, at most, all windows together"""


Within = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Which rectangles of cells are meant, of rows and columns (top, bottom, left, right) for each"""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One square of a zone, in one window: what is read, and which part of that belongs to the square."""

    zone: str
    t: int
    place: tuple[int, int]
    """row and column of the square among those of the zone"""
    top: int
    """first row of cells that is read"""
    left: int
    """first column of cells that is read"""
    rows: int
    """rows of cells that are read"""
    cols: int
    """columns of cells that are read"""
    inner: tuple[slice, slice]
    """the square itself, within what is read"""

    @property
    def cells(self) -> tuple[slice, slice]:
        """The rows and columns of the zone that are read."""
        return slice(self.top, self.top + self.rows), slice(self.left, self.left + self.cols)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The lattice of one layer, and its squares."""

    cube: Cube
    layer: str

    @cached_property
    def shard(self) -> int:
        """Cells along one side of a shard."""
        return self.cube.shard_cells(self.cube.zones_of(self.layer)[0])

    @cached_property
    def chip(self) -> int:
        """Cells along one side of a chip."""
        return self.shard // int(self.cube.what["layers"][self.layer]["shard_chips"])

    @property
    def halo_px(self) -> int:
        """Pixels that are read around a chip's kept centre."""
        return int(self.cube.what["layers"][self.layer]["halo_px"])

    @cached_property
    def features(self) -> int:
        """Numbers in a vector."""
        return int(self.cube.array(self.cube.zones_of(self.layer)[0], "embedding").shape[-1])

    @cached_property
    def step(self) -> int:
        """Cells from one square to the next: whole chips that divide a shard."""
        chips = self.shard // self.chip
        fitting = [n for n in range(1, chips + 1) if chips % n == 0 and n * self.chip <= self._widest]
        return self.chip * max(fitting, default=1)

    @cached_property
    def side(self) -> int:
        """Cells along one side of a square."""
        return min(self.step, self._widest)

    @property
    def _widest(self) -> int:
        return max(2 * MARGIN, int((_BLOCK_NUMBERS / self.features) ** 0.5))

    @cached_property
    def places(self) -> list[tuple[str, int, int, int, int]]:
        """Zone, row and column of the shard, row and column of the square in it: all, or those that were drawn."""
        shards = sorted({(zone, iy, ix) for zone, _, iy, ix in self._planned})
        along = self.shard // self.step
        total, count = len(shards) * along**2, self._count
        rng = np.random.default_rng(int(self.cube.provenance.attributes["campaign_digest"][:16], 16))
        drawn = np.arange(total) if count >= total else np.sort(rng.choice(total, count, replace=False, shuffle=False))
        return [(*shards[n // along**2], n % along**2 // along, n % along) for n in drawn.tolist()]

    @cached_property
    def words(self) -> str:
        """What is looked at, in words."""
        total = len({(zone, iy, ix) for zone, _, iy, ix in self._planned}) * (self.shard // self.step) ** 2
        named = f"all {total}" if len(self.places) == total else f"{len(self.places)} of {total}"
        return f"{named} squares of {self.side} x {self.side} cells, in {len(self._windows)} windows"

    @cached_property
    def _planned(self) -> list[tuple[str, int, int, int]]:
        return [place for place in self.cube.held if place[0].split("/")[0] == self.layer]

    @cached_property
    def _windows(self) -> list[int]:
        """The windows that are looked at: all, but of very many some, evenly spread."""
        windows = sorted({t for _, t, _, _ in self._planned})
        most = _MOST // _PLACES
        return (
            windows if len(windows) <= most else [windows[i] for i in np.linspace(0, len(windows) - 1, most, dtype=int)]
        )

    @property
    def _count(self) -> int:
        """How many places are looked at, at most."""
        cells = self.side**2 * len(self._windows)
        affordable = min(_NUMBERS // (cells * self.features), _CELLS // cells, _MOST // len(self._windows))
        return max(_PLACES, affordable)

    def spots(self) -> Iterator[Spot]:
        """The squares, window after window at each place; those that no shard was planned for are left out."""
        planned = self.cube.held
        for zone, iy, ix, row, col in self.places:
            for t in self._windows:
                if (zone, t, iy, ix) in planned:
                    yield self._spot(zone, t, iy * self.shard // self.step + row, ix * self.shard // self.step + col)

    def spots_of(self, zone: str, within: Within) -> list[Spot]:
        """The squares of a zone `within` something, also those that were not drawn, in its first window looked at.

        Squares are made of the shards that are within it, each with a margin.
        """
        along, first, margin = self.shard // self.step, self._windows[0], MARGIN + self.step
        found = {(iy, ix) for name, t, iy, ix in self._planned if name == zone and t == first}
        if not found:
            return []
        shards = np.array(sorted(found))
        start, end = shards.T * self.shard - margin, (shards.T + 1) * self.shard + margin
        spots = [
            self._spot(zone, first, iy * along + y, ix * along + x)
            for iy, ix in shards[within(np.stack([start[0], end[0], start[1], end[1]]))].tolist()
            for y, x in np.ndindex(along, along)
        ]
        sides = [(y.start, y.stop, x.start, x.stop) for y, x in (spot.cells for spot in spots)]
        return [spots[i] for i in np.flatnonzero(within(np.array(sides).reshape(-1, 4).T))]

    def _spot(self, zone: str, t: int, row: int, col: int) -> Spot:
        """The square number (row, col) of a zone; it is cut where the zone ends."""
        read, inner = [], []
        for number, size in zip((row, col), self.cube.array(zone, "status").shape[1:], strict=True):
            first = number * self.step - min(self.chip, self.side) // 2
            last = min(first + self.side, size)
            start, end = max(0, first - MARGIN), min(size, last + MARGIN)
            read.append((start, end - start))
            inner.append(slice(max(first, 0) - start, last - start))
        (top, rows), (left, cols) = read
        inner_yx = (inner[0], inner[1])
        return Spot(zone=zone, t=t, place=(row, col), top=top, left=left, rows=rows, cols=cols, inner=inner_yx)

    def vectors(self, spot: Spot) -> NDArray[np.float32]:
        """Decoded vectors (y, x, feature) of what is read of a square; NaN where a cell has none."""
        vectors = self.cube.vectors(spot.zone, spot.t, *spot.cells)
        vectors[~self.cube.valid(spot.zone, spot.t, *spot.cells)] = np.nan
        return vectors

    def spread(self) -> NDArray[np.float32]:
        """Standard deviation of each feature between cells, from some of the squares; 1 where it is 0."""
        spots = list(self.spots())
        chosen = [spots[i] for i in np.unique(np.linspace(0, len(spots) - 1, min(len(spots), 32), dtype=int))]
        sums: Any = 0.0
        squares: Any = 0.0
        count = 0
        for spot in chosen:
            vectors = self.vectors(spot).reshape(-1, self.features).astype(np.float64)
            vectors = vectors[np.isfinite(vectors[:, 0])]
            sums, squares, count = (
                sums + vectors.sum(axis=0),
                squares + np.square(vectors).sum(axis=0),
                count + len(vectors),
            )
        if not count:
            return np.ones(self.features, np.float32)
        variance = np.maximum(squares / count - np.square(sums / count), 0)
        return np.where(variance > 0, np.sqrt(variance), 1).astype(np.float32)
