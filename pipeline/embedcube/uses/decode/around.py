"""Cells, each with the eight beside it: what a convolution of 3 x 3 cells sees. Needs NumPy only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PLACES = 9
"""cells that are seen for each cell: row by row, itself in the middle"""

OWN = PLACES // 2
"""place of the cell itself"""

NOTHING = -1
"""a place outside of the layer, or without a vector"""

_ROWS = 2048
"""cells whose surroundings are in memory at once"""


@dataclass(frozen=True, kw_only=True)
class Around:
    """Some cells, each with those beside it."""

    vectors: NDArray[np.float32]
    """(number, feature): every vector that is seen, once"""
    at: NDArray[np.int64]
    """(cell, place): number of the vector at each place, or `NOTHING`"""

    def __len__(self) -> int:
        return len(self.at)

    @property
    def own(self) -> NDArray[np.bool_]:
        """Whether each cell has a vector itself."""
        return np.asarray(self.at[:, OWN] != NOTHING)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Around":
        """Some of the cells."""
        return Around(vectors=self.vectors, at=self.at[rows])

    def said(self, say: Callable[[NDArray[np.float32]], NDArray[np.float64]]) -> NDArray[np.float64]:
        """What `say` says (cell, output) of what is seen (cell, place, feature), some cells at a time."""
        parts = [say(self.seen(self.at[first : first + _ROWS])) for first in range(0, len(self), _ROWS)]
        return np.concatenate(parts)

    def seen(self, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (cell, place, feature); NaN where there is none."""
        return np.where((at != NOTHING)[..., None], self.vectors[at], np.float32(np.nan))
