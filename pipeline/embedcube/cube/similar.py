"""Cosines between one vector and many stored ones. Needs numpy; numkong makes it faster where it is installed.

Both ways give the same bits. Stored int8 are multiplied as whole numbers, which have no rounding: the sums are exact,
and only the last division rounds. `scale` is not needed, as a cosine does not depend on the length of a vector.

A centred layer stores q of v = q * s + o, with the scale s of the vector and the offset o of the layer. There

    v . u = s (q . u) + o . u        v . v = s^2 (q . q) + 2 s (q . o) + o . o

so products of whole numbers suffice again: with q, and with planes of u and of o.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.products import BLOCK_ROWS, WholeProducts, planes_of, summed
from embedcube.errors import RequestError

_BLOCK_NUMBERS = 1 << 16
"""stored floats that are converted to float64 and multiplied at once: they stay in the cache"""

_MOST_PLANES = 4
"""int8 vectors whose sum stands for one vector in float64; four have an error below 1e-9 of its largest number"""

_CENTRED_PLANES = 6
"""the same in a centred layer: an error below 1e-14, as sums of unlike signs may be far smaller than their parts"""

_LEAST_LENGTH = 3e-7
"""length of a vector of a centred layer, beside those of its parts, below which it is the rounding of float32"""

_PRECISION = 1e-7
"""error of a cosine at which no more planes are added"""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A vector that others are compared with."""

    vector: NDArray[np.float64]
    """(feature), of length 1"""

    @classmethod
    def of(cls, vector: NDArray[Any]) -> "Query":
        """Query of a vector of any length.

        Raises:
            RequestError: the vector has a number that is not finite, or has the length zero.
        """
        numbers = np.asarray(vector, np.float64)
        if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
            raise RequestError(
                f"a vector to compare with has finite numbers in one dimension; this one has the shape {numbers.shape} "
                f"and {int(np.count_nonzero(~np.isfinite(numbers)))} numbers that are not finite"
            )
        largest = np.abs(numbers).max()
        if largest == 0:
            raise RequestError("the vector to compare with is zero everywhere, so it has no direction")
        numbers = numbers / largest
        return cls(vector=numbers / np.linalg.norm(numbers))

    @classmethod
    def by_examples(cls, like: Sequence[NDArray[Any]], unlike: Sequence[NDArray[Any]] = ()) -> "Query":
        """The prototype of several vectors: their mean direction; with counter-examples 2 x mean - mean of those.

        Every example is first brought to length 1. It is the rule of Earth Index and geovibes. As the result is one
        vector, a search costs the same for any number of examples, and its values stay cosines. It suits examples of
        one kind of place: of two kinds, search for each.

        Raises:
            RequestError: there is no example, one has no direction, or they cancel out.
        """
        if not like:
            raise RequestError("a search needs at least one example to be like")
        if len(like) == 1 and not unlike:
            return cls.of(like[0])
        prototype = np.mean([cls.of(vector).vector for vector in like], axis=0)
        if unlike:
            prototype = 2 * prototype - np.mean([cls.of(vector).vector for vector in unlike], axis=0)
        if np.linalg.norm(prototype) < 1e-6:
            raise RequestError("the examples cancel out: their mean has no direction; give examples of one kind")
        return cls.of(prototype)

    @cached_property
    def _planes(self) -> tuple[WholeProducts, NDArray[np.float64]]:
        """Planes of the vector, ready for products, and their factors. A vector stored as int8 has one plane."""
        planes, factors = planes_of(self.vector, _MOST_PLANES, _PRECISION)
        return WholeProducts(planes), factors

    def cosines(
        self,
        stored: NDArray[Any],
        scale: NDArray[np.float32] | None = None,
        offset: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Cosine of each stored vector (cell, feature) with the query: (cell). The error is below 1e-6.

        `scale` (cell) and `offset` (feature) are those of a centred layer; in others no scale is needed.

        A vector of length zero has no direction: NaN. Which cells have a vector is said by `status`, never by the
        numbers here, so the caller takes cells without one out.
        """
        if stored.shape[1] != len(self.vector):
            raise RequestError(
                f"the vector to compare with has {len(self.vector)} numbers, those of the layer have {stored.shape[1]}"
            )
        if not len(stored):
            return np.empty(0, np.float32)
        if stored.dtype != np.int8:
            return self._of_floats(stored)
        if offset is not None:
            assert scale is not None
            return self._centred(stored, scale, offset)
        return self._of_int8(stored)

    def _of_int8(self, stored: NDArray[np.int8]) -> NDArray[np.float32]:
        cosines, (products_with, factors) = np.empty(len(stored), np.float32), self._planes
        for first in range(0, len(stored), BLOCK_ROWS):
            products, squares = products_with.with_squares(stored[first : first + BLOCK_ROWS])
            with np.errstate(invalid="ignore", divide="ignore"):
                found = summed(products, factors) / np.sqrt(squares, dtype=np.float64)
            cosines[first : first + BLOCK_ROWS] = np.clip(found, -1, 1)
        return cosines

    def _centred(
        self, stored: NDArray[np.int8], scale: NDArray[np.float32], offset: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Cosines with vectors stored * scale + offset, from exact products of whole numbers."""
        added = offset.astype(np.float64)
        of_query, of_offset = (planes_of(one, _CENTRED_PLANES, 0.0) for one in (self.vector, added))
        products_with = WholeProducts(np.concatenate([of_query[0], of_offset[0]]))
        count, along_offset, square = len(of_query[1]), float(added @ self.vector), float(added @ added)
        cosines = np.empty(len(stored), np.float32)
        for first in range(0, len(stored), BLOCK_ROWS):
            products, squares = products_with.with_squares(stored[first : first + BLOCK_ROWS])
            steps = scale[first : first + BLOCK_ROWS].astype(np.float64)
            own = steps * steps * squares
            length = own + 2 * steps * summed(products[:, count:], of_offset[1]) + square
            along = steps * summed(products[:, :count], of_query[1]) + along_offset
            length[length <= _LEAST_LENGTH**2 * (own + square)] = 0
            with np.errstate(invalid="ignore", divide="ignore"):
                found = np.where(length > 0, along / np.sqrt(length), np.nan)
            cosines[first : first + BLOCK_ROWS] = np.clip(found, -1, 1)
        return cosines

    def _of_floats(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        cosines = np.empty(len(stored), np.float32)
        count = max(1, _BLOCK_NUMBERS // stored.shape[1])
        for first in range(0, len(stored), count):
            rows = stored[first : first + count].astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                found = rows @ self.vector / np.sqrt(np.einsum("cf,cf->c", rows, rows))
            cosines[first : first + len(rows)] = np.clip(found, -1, 1)
        return cosines


def nearest(stored: NDArray[np.int8], centroids: NDArray[np.int8]) -> NDArray[np.int64]:
    """Number of the centroid with the largest cosine, for each stored vector: (cell). Both are int8 (row, feature).

    The first of equals. The products are whole numbers, so the answer is the same on every machine.
    """
    squares = np.einsum("cf,cf->c", centroids.astype(np.int64), centroids.astype(np.int64))
    weights = (1 / np.sqrt(squares)).astype(np.float32)
    product, found = WholeProducts(centroids), np.empty(len(stored), np.int64)
    count = max(1, (1 << 21) // len(centroids))
    for first in range(0, len(stored), count):
        products = product.of(stored[first : first + count])
        found[first : first + len(products)] = np.argmax(products.astype(np.float32) * weights, axis=1)
    return found
