"""Seams: whether vectors change more across the borders of chips, shards, tiles and zones than inside.

The step between two neighbouring cells is the distance of their vectors, each feature over its standard deviation
between cells. A step across a border is compared with the two steps beside it, in the same line of cells, so that a
change of the land costs nothing. The effect is the mean of these differences over the standard deviation of the steps
inside of chips; its standard error is that between lines (a border of one square is one line). A shard's border is a
chip's border too: what counts is by how much its effect is larger.

A tile's border is where neighbouring cells come from the same acquisitions, but from other scenes. There steps over two
cells are taken, as the cell between may come from both scenes, and from the one to the other: the land beside a border
has no direction, an error of one tile has. The effect is the length of the mean step, without the part that chance has
in it, over the same deviation; its error is that of a jackknife over lines.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.consolidate.blocks import Sampling, Spot
from embedcube.consolidate.scenes_of_cells import Origins

SEAM_BOUND = 0.5
"""effect above which a border is a finding, if it is certain"""

HALO_BOUND = 1.25
"""the same for borders of chips that were read with a halo: what is seen then is the model's own"""

ZONE_BOUND = 0.1
"""the same for borders of zones: cells at one place differ less than neighbours"""

TILE_BOUND = 0.25
"""the same for borders of tiles"""

CERTAIN = 3.0
"""standard errors above 0 from which an effect is certain"""

LEAST_LINES = {"chip": 24, "shard": 8, "zone": 6, "tile": 8}
"""lines of each kind without which nothing is a finding; of tiles, lines between the same two"""

_MEASURED_LINES = 4
"""lines between two tiles without which no effect is measured"""


@dataclass(kw_only=True)
class Seam:
    """What was found at one kind of border, from the lengths of steps."""

    kind: str
    """chip, shard or zone"""
    bound: float = SEAM_BOUND
    lines: list[tuple[float, int]] = field(default_factory=list)
    """of each line its mean difference to the steps beside it, and how many steps it has"""

    @property
    def counts(self) -> tuple[int, int]:
        """Number of lines, and of steps on all of them."""
        return len(self.lines), sum(count for _, count in self.lines)

    @property
    def enough(self) -> bool:
        """Whether there are lines enough for a finding."""
        return len(self.lines) >= LEAST_LINES[self.kind]

    def effect(self, spread: float) -> tuple[float, float]:
        """The effect and its standard error; NaN where there are fewer than two lines."""
        if len(self.lines) < 2 or not spread:
            return float("nan"), float("nan")
        means, counts = np.array(self.lines).T
        mean = np.average(means, weights=counts)
        # of a weighted mean of independent lines
        error = np.sqrt(np.square(counts * (means - mean)).sum()) / counts.sum()
        return float(mean / spread), float(error / spread)


@dataclass(kw_only=True)
class TileSeam:
    """What was found at borders of tiles, from steps with their directions."""

    kind: str = "tile"
    bound: float = TILE_BOUND
    lines: dict[tuple[int, int], list[tuple[NDArray[np.float64], int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """for each pair of scenes, of each line the mean step from the one to the other, and how many steps it has"""

    @property
    def counts(self) -> tuple[int, int]:
        """Number of lines, and of steps on all of them."""
        every = [line for lines in self.lines.values() for line in lines]
        return len(every), sum(count for _, count in every)

    @property
    def enough(self) -> bool:
        """Whether any two tiles have lines enough between them for a finding."""
        return bool(self._judged)

    def effect(self, spread: float) -> tuple[float, float]:
        """The effect of the pair with the largest one, and its standard error; NaN where there are too few lines.

        Pairs with too few lines for a finding count only where no pair has more.
        """
        measured = [lines for lines in self.lines.values() if len(lines) >= _MEASURED_LINES]
        found = [_length(lines) for lines in self._judged or measured]
        if not found or not spread:
            return float("nan"), float("nan")
        length, error = max(found, key=lambda one: one[0] - 2 * one[1])
        return length / spread, error / spread

    @property
    def _judged(self) -> list[list[tuple[NDArray[np.float64], int]]]:
        """The lines of the pairs of tiles that have enough of them for a finding."""
        return [lines for lines in self.lines.values() if len(lines) >= LEAST_LINES[self.kind]]


def _length(lines: list[tuple[NDArray[np.float64], int]]) -> tuple[float, float]:
    """Length of the expected step, of which chance has no part, and its standard error by a jackknife over lines."""
    means = np.stack([mean for mean, _ in lines])
    weights = np.array([count for _, count in lines], dtype=float)

    def squared(kept: NDArray[np.bool_]) -> float:
        w, m = weights[kept, None], means[kept]
        total = np.square((w * m).sum(axis=0)).sum() - np.square(w * m).sum()
        return float(total / (w.sum() ** 2 - np.square(w).sum()))

    every = np.ones(len(lines), dtype=bool)
    without = [squared(every & (np.arange(len(lines)) != i)) for i in range(len(lines))]
    lengths = np.sqrt(np.maximum(without, 0))
    error = np.sqrt((len(lines) - 1) * np.square(lengths - lengths.mean()).mean())
    return float(np.sqrt(max(squared(every), 0))), float(error)


class Steps:
    """Gathers the steps of a layer, square by square."""

    def __init__(self, sampling: Sampling, origins: Origins, spread: NDArray[np.float32]) -> None:
        """`spread` is the standard deviation of each feature."""
        self.sampling, self._origins, self._spread = sampling, origins, spread
        self.lengths = {kind: Seam(kind=kind) for kind in ("chip", "shard", "zone")}
        self.lengths["zone"].bound = ZONE_BOUND
        if sampling.halo_px:
            self.lengths["chip"].bound = HALO_BOUND
        self.tiles = TileSeam()
        self.by_place: dict[tuple[str, int, int], list[tuple[float, int]]] = defaultdict(list)
        """differences at the borders of each square, for the map"""
        self._sums = np.zeros(3)

    @property
    def features(self) -> int:
        """Numbers in a vector."""
        return len(self._spread)

    @property
    def seams(self) -> tuple[Seam | TileSeam, ...]:
        """All kinds of borders."""
        return (*self.lengths.values(), self.tiles)

    @property
    def inside(self) -> tuple[float, float, int]:
        """Mean and standard deviation of the steps inside of chips, and their number."""
        count, total, squares = self._sums
        mean = total / max(count, 1)
        return float(mean), float(np.sqrt(max(squares / max(count, 1) - mean * mean, 0))), int(count)

    def add(self, spot: Spot, vectors: NDArray[np.float32]) -> None:
        """Take in a square: its vectors (y, x, feature) as they are read, margins included."""
        if min(vectors.shape[:2]) < 4:
            return
        scaled = vectors / (self._spread * np.float32(np.sqrt(len(self._spread))))
        keys = self._origins.of(spot)
        for axis, first in ((1, spot.left), (0, spot.top)):
            along = np.swapaxes(scaled, 0, 1) if axis else scaled
            steps = np.linalg.norm(np.diff(along, axis=0), axis=-1)
            self._borders(spot, steps, first, spot.inner[axis], spot.inner[1 - axis])
            if keys is not None:
                inner = spot.inner[axis], spot.inner[1 - axis]
                self._tiles(spot, along, [np.swapaxes(k, 0, 1) if axis else k for k in keys], inner)

    def _borders(self, spot: Spot, steps: NDArray[Any], first: int, lines: slice, within: slice) -> None:
        """Borders of chips and shards across one axis; line i of `steps` is that between cells i and i + 1."""
        chip, shard = self.sampling.chip, self.sampling.shard
        at = first + np.arange(1, len(steps) + 1)  # the cell behind each step
        border = at % chip == 0
        for i in np.flatnonzero(~border):
            if lines.start <= i + 1 < lines.stop:
                seen = steps[i, within][np.isfinite(steps[i, within])].astype(np.float64)
                self._sums += (len(seen), seen.sum(), np.square(seen).sum())
        if chip < 2:
            return
        for i in np.flatnonzero(border[1:-1]) + 1:
            if not lines.start <= i + 1 < lines.stop:
                continue
            differences = (steps[i] - (steps[i - 1] + steps[i + 1]) / 2)[within]
            self._take("chip", spot, differences)
            if at[i] % shard == 0:
                self._take("shard", spot, differences)

    def _tiles(
        self, spot: Spot, along: NDArray[Any], keys: list[NDArray[np.uint64]], inner: tuple[slice, slice]
    ) -> None:
        """Borders of tiles across one axis: steps over two cells, of which the one between lies in the square."""
        scenes, acquisitions, alone = keys
        same = (acquisitions[2:] == acquisitions[:-2]) & (alone[2:] == 1) & (alone[:-2] == 1)
        own = np.zeros(scenes.shape, dtype=bool)
        own[inner] = True
        changed = same & (scenes[2:] != scenes[:-2]) & own[1:-1]
        steps = along[2:] - along[:-2]
        changed &= np.isfinite(steps[..., 0])
        before, behind = scenes[:-2][changed], scenes[2:][changed]
        directed = steps[changed] * np.where(before < behind, 1, -1)[:, None]
        pairs = np.stack([np.minimum(before, behind), np.maximum(before, behind)], axis=1)
        for pair in np.unique(pairs, axis=0):
            line = directed[(pairs == pair).all(axis=1)].astype(np.float64)
            self.tiles.lines[int(pair[0]), int(pair[1])].append((line.mean(axis=0), len(line)))

    def add_pairs(self, kind: str, spot: Spot, differences: NDArray[Any]) -> None:
        """Take in differences of steps that were measured elsewhere: those of one line."""
        self._take(kind, spot, differences)

    def _take(self, kind: str, spot: Spot, differences: NDArray[Any]) -> None:
        seen = differences[np.isfinite(differences)]
        if len(seen):
            line = float(seen.mean()), len(seen)
            self.lengths[kind].lines.append(line)
            if kind == "chip":
                self.by_place[spot.zone, *spot.place].append(line)
