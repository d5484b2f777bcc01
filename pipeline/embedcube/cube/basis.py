"""Colours of vectors: the first three principal components of a layer as red, green and blue.

One basis holds for all windows and zones of a layer: equal colours are equal vectors in all its pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.encoding import decode
from embedcube.cube.products import BLOCK_ROWS, WholeProducts, planes_of, summed
from embedcube.cube.store import CubeStore

SAMPLE_CELLS = 20_000
"""number of cells that a basis is fitted on"""

_SAMPLE_CHUNKS = 64
"""number of chunks, spread over windows and zones, that a sample comes from when all of their cells are valid"""

_BLOCK_NUMBERS = 1 << 16
"""Stored floats that are converted to float32 and multiplied at once. They stay in the processor's cache, and the
product is too small for OpenBLAS to use several threads, which cost ten times as much CPU time where cores are busy."""

_PLANES = 3
"""of the factors of a colour: their error is below 1e-7 of the largest, as that of float32"""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Principal components of a layer's vectors, and the range of each that the colours span."""

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    """(component, feature)"""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """2nd and 98th percentile of the sample along each component"""
    variance: NDArray[np.float64]
    """share of the variance of the sample along each component"""

    @cached_property
    def _to_colour(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factors (feature, component) and offsets (component) that lead from vectors to 0 ... 254."""
        span = self.high - self.low
        spread = span > 1e-12 * np.maximum(1, np.abs(self.high))
        factors = np.divide(254, span, out=np.zeros(len(span)), where=spread)
        offsets = np.where(spread, -(self.components @ self.mean + self.low) * factors, 127)
        return (self.components * factors[:, None]).T.astype(np.float32), offsets.astype(np.float32)

    @cached_property
    def _planes(self) -> tuple[WholeProducts, list[NDArray[np.float64]]]:
        """Planes of the factors, ready for products, one component behind the other; their own factors by component."""
        parts = [planes_of(one.astype(np.float64), _PLANES, 0.0) for one in self._to_colour[0].T]
        return WholeProducts(np.concatenate([planes for planes, _ in parts])), [factors for _, factors in parts]

    def along(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates (..., component) of vectors (..., feature) along the components."""
        return np.asarray((vectors - self.mean) @ self.components.T)

    def colours(
        self,
        stored: NDArray[Any],
        scale: NDArray[np.float32] | None,
        valid: NDArray[np.bool_],
        offset: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """Colours (..., component) of stored vectors (..., feature), 1 to 255; 0 where `valid` (...) is false.

        The stored numbers are multiplied as they are: `scale` is applied to the products, and the products of the
        `offset` of a centred layer are added.
        """
        offsets = self._to_colour[1]
        rows = stored.reshape(-1, stored.shape[-1])
        along = self._of_int8(rows) if rows.dtype == np.int8 else self._of_floats(rows)
        if scale is not None:
            along *= scale.reshape(-1, 1)
        along += (
            offsets if offset is None else offsets + (offset.astype(np.float64) @ self._to_colour[0]).astype(np.float32)
        )
        missing = ~valid.reshape(-1)
        along[missing] = 0
        np.rint(np.clip(along, 0, 254, out=along), out=along)
        colours = along.astype(np.uint8) + np.uint8(1)
        colours[missing] = 0
        return colours.reshape(*stored.shape[:-1], len(offsets))

    def _of_int8(self, rows: NDArray[np.int8]) -> NDArray[np.float32]:
        """Products (row, component) of stored vectors (row, feature) with the factors of colours."""
        products_with, factors = self._planes
        along, ends = np.empty((len(rows), len(factors)), np.float32), np.cumsum([0, *map(len, factors)])
        for first in range(0, len(rows), BLOCK_ROWS):
            products = products_with.of(rows[first : first + BLOCK_ROWS])
            for component, own in enumerate(factors):
                planes = products[:, ends[component] : ends[component + 1]]
                along[first : first + BLOCK_ROWS, component] = summed(planes, own)
        return along

    def _of_floats(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Products (row, component) of stored floats (row, feature) with the factors of colours."""
        factors = self._to_colour[0]
        # always the same shape: a row gives the same bits wherever it stands
        block = np.zeros((max(1, _BLOCK_NUMBERS // len(factors)), len(factors)), np.float32)
        along = np.empty((len(rows), factors.shape[1]), np.float32)
        for first in range(0, len(rows), len(block)):
            count = min(len(block), len(rows) - first)
            block[:count] = rows[first : first + count]
            along[first : first + count] = (block @ factors)[:count]
        return along


def fit_basis(cube: CubeStore, layer: str, count: int = 3) -> Basis | None:
    """Principal component analysis of a sample of a layer's vectors; None where the layer has no vector.

    It has `count` components; those beyond the number of features are zero.

    Chunks are drawn at random from all zones and windows, always the same ones, until they have given SAMPLE_CELLS
    cells. The sign of a component makes its largest number positive, so that colours repeat.
    """
    sample, cells = [], 0
    for vectors in sampled(cube, layer):
        sample.append(vectors)
        cells += len(vectors)
        if cells >= SAMPLE_CELLS:
            break
    if not cells:
        return None
    vectors = np.concatenate(sample).astype(np.float64)
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    variance, directions = np.linalg.eigh(centred.T @ centred)
    some = min(count, len(variance))
    components, along = np.zeros((count, len(variance))), np.zeros(count)
    components[:some] = directions.T[::-1][:some]
    along[:some] = variance[::-1][:some]
    largest = np.abs(components).argmax(axis=1)
    components *= np.where(components[np.arange(count), largest] < 0, -1, 1)[:, None]
    low, high = np.percentile(centred @ components.T, (2, 98), axis=0)
    return Basis(
        mean=mean,
        components=components,
        low=low,
        high=high,
        variance=along / max(variance.sum(), np.finfo(np.float64).tiny),
    )


def sampled(
    cube: CubeStore, layer: str, cells: int = SAMPLE_CELLS, chunks: int = _SAMPLE_CHUNKS
) -> Iterator[NDArray[np.float32]]:
    """Valid vectors (cell, feature) of one chunk after the other, at most an equal share of `cells` of each.

    They come from all zones and windows at random, always the same; from `chunks` chunks where all of their cells are
    valid. It goes on until no chunk is left: take as many as needed.
    """
    grids = [
        (zone, [-(-size // chunk) for size, chunk in zip(array.shape[:3], array.chunks[:3], strict=True)])
        for zone in cube.zones_of(layer)
        for array in (cube.array(zone, "embedding"),)
    ]
    ends = np.cumsum([int(np.prod(grid)) for _, grid in grids])
    rng = np.random.default_rng(0)
    share = max(1, cells // min(chunks, int(ends[-1])))
    for number in rng.permutation(int(ends[-1])).tolist():
        which = int(np.searchsorted(ends, number, side="right"))
        zone, grid = grids[which]
        place = np.unravel_index(number - (int(ends[which - 1]) if which else 0), grid)
        size = cube.array(zone, "embedding").chunks
        region = tuple(slice(int(i) * step, (int(i) + 1) * step) for i, step in zip(place, size[:3], strict=True))
        valid = cube.valid(zone, *region)
        if valid.any():
            stored = cube.stored(zone, "embedding", *region)[valid]
            scale = cube.stored(zone, "scale", *region)[valid] if cube.has_scale(zone) else None
            chosen = rng.permutation(len(stored))[:share]
            yield decode(stored[chosen], None if scale is None else scale[chosen], cube.offset(zone))
