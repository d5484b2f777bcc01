"""Features that say nothing, vectors that are at two places, and windows that differ as a whole."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.consolidate.blocks import Sampling, Spot
from embedcube.cube.encoding import bound_of_numbers

DUPLICATE_BOUND = 0.001
"""share of different vectors that may be at a second place, all of them equally far from the first one"""

LEAST_DUPLICATES = 64
"""such vectors without which nothing is said about them"""

LEAST_PLACES = 2048
"""places with a vector without which a layer is too small for these figures to tell anything"""

DRIFT_BOUND = 0.8
"""distance, less two standard errors, above which a window is a finding: of two windows of one season that follow one
another, in standard deviations between the cells of a window, root mean square over features"""

DRIFT_RATIO = 3.0
"""in a cube of many windows, how many times the usual distance it must be, too"""

SEASON_D = 45.0
"""days of the year between the middles of two windows of one season, at most"""

LEAST_OF_WINDOW = 512
"""vectors of a window without which its drift tells nothing"""

_LEAST_CELLS = 0.25
"""share of a square's cells that must have a vector in both windows"""


class Features:
    """Range of each feature, within what the encoding can tell."""

    def __init__(self, sampling: Sampling) -> None:
        """Nothing is seen yet."""
        self._sampling = sampling
        self._low = np.full(sampling.features, -np.inf)
        self._high = np.full(sampling.features, np.inf)
        self._largest = np.zeros(sampling.features)
        self.seen = 0
        """vectors that were looked at"""

    def add(self, spot: Spot, vectors: NDArray[np.float32]) -> None:
        """Take in a square: its vectors (y, x, feature) as they are read, margins included."""
        own, cube = vectors[spot.inner], self._sampling.cube
        seen = np.isfinite(own[..., 0])
        if not seen.any():
            return
        values = own[seen]
        bound = np.abs(values).astype(np.float64) * 1e-6
        if cube.has_scale(spot.zone):
            scale = cube.stored(spot.zone, "scale", spot.t, *spot.cells)[spot.inner][seen]
            bound = bound_of_numbers(scale, cube.offset(spot.zone))
        self._low = np.maximum(self._low, (values - bound).max(axis=0))
        self._high = np.minimum(self._high, (values + bound).min(axis=0))
        self._largest = np.maximum(self._largest, np.abs(values).max(axis=0))
        self.seen += len(values)

    @property
    def dead(self) -> list[int]:
        """Features that are 0 in all vectors."""
        return np.flatnonzero(self._largest == 0).tolist() if self.seen else []

    @property
    def constant(self) -> list[int]:
        """Features that may have one value, not 0, in all vectors: none differs by more than the encoding's error."""
        return np.flatnonzero((self._largest > 0) & (self._low <= self._high)).tolist() if self.seen else []


class Duplicates:
    """Stored vectors that are equal at different places: a block of them that was written twice.

    Equal land has equal vectors, at any distance. So only those count that are as far from their second place as most.
    """

    def __init__(self, sampling: Sampling) -> None:
        """Nothing is seen yet."""
        self._sampling = sampling
        self._zones = list(sampling.cube.zones_of(sampling.layer))
        self._weights = np.random.default_rng(0).integers(1, 1 << 62, sampling.features + 1).astype(
            np.uint64
        ) | np.uint64(1)
        self._hashes: list[NDArray[np.uint64]] = []
        self._places: list[NDArray[np.int64]] = []

    def add(self, spot: Spot) -> None:
        """Take in a square."""
        cube, (y, x) = self._sampling.cube, spot.cells
        rows, cols = (slice(s.start + i.start, s.start + i.stop) for s, i in zip((y, x), spot.inner, strict=True))
        valid = cube.valid(spot.zone, spot.t, rows, cols)
        if not valid.any():
            return
        stored = cube.stored(spot.zone, "embedding", spot.t, rows, cols)[valid]
        bits = stored.view(f"u{stored.dtype.itemsize}").astype(np.uint64)
        hashed = (bits * self._weights[:-1]).sum(axis=-1, dtype=np.uint64)
        if cube.has_scale(spot.zone):
            scale = np.ascontiguousarray(cube.stored(spot.zone, "scale", spot.t, rows, cols)[valid])
            hashed += scale.view(np.uint32).astype(np.uint64) * self._weights[-1]
        at = np.argwhere(valid) + np.array([rows.start, cols.start])
        self._hashes.append(hashed)
        self._places.append((self._zones.index(spot.zone) << 56) + (at[:, 0] << 28) + at[:, 1])

    @property
    def counts(self) -> tuple[int, int]:
        """Different vectors that are at a second place, as far from the first as most are; and all different ones."""
        if not self._hashes:
            return 0, 0
        pairs = np.stack([np.concatenate(self._hashes), np.concatenate(self._places).astype(np.uint64)], axis=1)
        pairs = np.unique(pairs, axis=0)
        again = pairs[1:, 0] == pairs[:-1, 0]
        apart = np.stack([pairs[1:, 0], pairs[1:, 1] - pairs[:-1, 1]], axis=1)[again]
        _, times = np.unique(np.unique(apart, axis=0)[:, 1], return_counts=True)
        different = len(pairs) - int(again.sum())
        return int(times.max(initial=0)), different if len(pairs) >= LEAST_PLACES else 0


class Drift:
    """Mean vectors of the squares in each window, and the spread between the cells of a window."""

    def __init__(self, features: int) -> None:
        """Nothing is seen yet."""
        self._means: dict[int, dict[tuple[str, int, int], NDArray[np.float64]]] = defaultdict(dict)
        # for each window: number of cells, sum and sum of squares of each feature
        self._moments: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros((3, features)))

    def add(self, spot: Spot, vectors: NDArray[np.float32]) -> None:
        """Take in a square: its vectors (y, x, feature) as they are read, margins included."""
        whole = vectors[spot.inner].reshape(-1, vectors.shape[-1])
        own = whole[np.isfinite(whole[:, 0])].astype(np.float64)
        if len(own) < max(1, _LEAST_CELLS * len(whole)):
            return
        self._means[spot.t][spot.zone, *spot.place] = own.mean(axis=0)
        self._moments[spot.t] += np.stack(
            [np.full(own.shape[1], len(own)), own.sum(axis=0), np.square(own).sum(axis=0)]
        )

    def distances(self) -> list[tuple[int, int, float, float]]:
        """For each pair of windows that follow one another: both, their distance and its standard error.

        The distance is that of the means over the squares that both show.
        """
        found = []
        spread = self._spread()
        large = [t for t in sorted(self._means) if self._moments[t][0, 0] >= LEAST_OF_WINDOW]
        for one, other in pairwise(large):
            shared = sorted(self._means[one].keys() & self._means[other].keys())
            if len(shared) < 2:
                continue
            shifts = np.stack([self._means[other][place] - self._means[one][place] for place in shared]) / spread
            mean = shifts.mean(axis=0)
            size = float(np.sqrt(np.square(mean).mean()))
            along: Any = shifts @ mean / max(float(mean @ mean), 1e-30) * size
            found.append((one, other, size, float(along.std() / np.sqrt(len(shared) - 1))))
        return found

    def _spread(self) -> NDArray[np.float64]:
        """Standard deviation of each feature between the cells of a window, the mean over windows.

        Infinite where it is 0: such a feature adds nothing to a distance.
        """
        variances = [
            np.maximum(squares / count - np.square(total / count), 0)
            for count, total, squares in self._moments.values()
        ]
        spread = np.sqrt(np.mean(variances, axis=0)) if variances else np.ones(1)
        return np.where(spread > 0, spread, np.inf)
