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
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.errors import RequestError


def _installed() -> ModuleType | None:
    """Module numkong, or None where it is not installed or does not fit this processor."""
    try:
        return import_module("numkong")
    except ImportError:
        return None


_numkong = _installed()

_EXACT_FEATURES = 1000
"""most numbers of two int8 vectors whose product float32 holds without rounding: 1000 x 128 x 128 < 2^24"""

_BLOCK_NUMBERS = 1 << 16
"""stored numbers that NumPy converts and multiplies at once: they stay in the cache, and OpenBLAS uses one thread"""

_ONE_THREAD, _LEAST_ROWS = 1 << 18, 64
"""products of numbers up to which OpenBLAS uses one thread, as more cost ten times the CPU time in so small a matrix;
and stored vectors that NumPy multiplies at once, at least"""

_BLOCK_ROWS = 1 << 14
"""stored vectors that numkong multiplies at once, so that what is between stays small"""

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
    def _planes(self) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """Vectors (plane, feature) and factors (plane) whose sum of products is the vector.

        A vector that was stored as int8 needs one plane.
        """
        return _planes_of(self.vector, _MOST_PLANES, _PRECISION)

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
        return self._by_numpy(stored) if _numkong is None else self._by_numkong(stored)

    @cached_property
    def _packed(self) -> Any:
        assert _numkong is not None
        return _numkong.dots_pack(self._planes[0])

    def _by_numkong(self, stored: NDArray[np.int8]) -> NDArray[np.float32]:
        assert _numkong is not None
        cosines = np.empty(len(stored), np.float32)
        for first in range(0, len(stored), _BLOCK_ROWS):
            rows = np.ascontiguousarray(stored[first : first + _BLOCK_ROWS])
            products = np.asarray(_numkong.dots_packed(rows, self._packed))
            squares = np.atleast_1d(np.asarray(_numkong.dot(rows, rows)))
            cosines[first : first + len(rows)] = self._cosine(products, squares)
        return cosines

    def _by_numpy(self, stored: NDArray[np.int8]) -> NDArray[np.float32]:
        planes, features = self._planes[0].T.astype(np.float32), stored.shape[1]
        cosines = np.empty(len(stored), np.float32)
        count = max(1, _BLOCK_NUMBERS // features)
        for first in range(0, len(stored), count):
            rows = stored[first : first + count].astype(np.float32)
            products, squares = np.zeros((len(rows), planes.shape[1])), np.zeros(len(rows))
            for begin in range(0, features, _EXACT_FEATURES):
                part = rows[:, begin : begin + _EXACT_FEATURES]
                products += part @ planes[begin : begin + _EXACT_FEATURES]
                squares += np.einsum("cf,cf->c", part, part)
            cosines[first : first + len(rows)] = self._cosine(products, squares)
        return cosines

    def _cosine(self, products: NDArray[Any], squares: NDArray[Any]) -> NDArray[np.float64]:
        """Cosines of whole numbers: products (cell, plane) with the planes, and sums of squares (cell)."""
        along = _summed(products, self._planes[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.clip(along / np.sqrt(squares, dtype=np.float64), -1, 1))

    def _centred(
        self, stored: NDArray[np.int8], scale: NDArray[np.float32], offset: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Cosines with vectors stored * scale + offset, from exact products of whole numbers."""
        added = offset.astype(np.float64)
        of_query, of_offset = (_planes_of(one, _CENTRED_PLANES, 0.0) for one in (self.vector, added))
        planes, count = np.concatenate([of_query[0], of_offset[0]]), len(of_query[1])
        packed = None if _numkong is None else _numkong.dots_pack(planes)
        along_offset, square = float(added @ self.vector), float(added @ added)
        cosines = np.empty(len(stored), np.float32)
        step = _BLOCK_ROWS if packed is not None else max(1, _BLOCK_NUMBERS // stored.shape[1])
        for first in range(0, len(stored), step):
            rows = np.ascontiguousarray(stored[first : first + step])
            if packed is None:
                products, squares = _products(rows, planes), np.einsum("cf,cf->c", rows, rows, dtype=np.int64)
            else:
                assert _numkong is not None
                products = np.asarray(_numkong.dots_packed(rows, packed))
                squares = np.atleast_1d(np.asarray(_numkong.dot(rows, rows)))
            steps = scale[first : first + step].astype(np.float64)
            own = steps * steps * squares
            length = own + 2 * steps * _summed(products[:, count:], of_offset[1]) + square
            along = steps * _summed(products[:, :count], of_query[1]) + along_offset
            length[length <= _LEAST_LENGTH**2 * (own + square)] = 0
            with np.errstate(invalid="ignore", divide="ignore"):
                found = np.where(length > 0, along / np.sqrt(length), np.nan)
            cosines[first : first + len(rows)] = np.clip(found, -1, 1)
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


def _planes_of(
    vector: NDArray[np.float64], most: int, precision: float
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Vectors (plane, feature) and factors (plane) whose sum of products is a vector; at most so many.

    No more are added where what is left has a length of `precision` or less.
    """
    rest, planes, steps = vector.copy(), list[NDArray[np.int8]](), list[float]()
    step = float(np.abs(rest).max()) / 127 or 1.0
    while len(planes) < most and (not planes or np.linalg.norm(rest) > precision):
        plane = np.rint(rest / step)
        rest -= plane * step
        planes.append(plane.astype(np.int8))
        steps.append(step)
        step /= 254
    return np.stack(planes), np.array(steps)


def _summed(products: NDArray[Any], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums (cell) of products (cell, plane) times the factors of the planes."""
    # plane by plane: a product of matrices would add in an order of its own
    along: NDArray[np.float64] = products[:, 0] * steps[0]
    for plane in range(1, len(steps)):
        along += products[:, plane] * steps[plane]
    return along


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


class WholeProducts:
    """Products of stored int8 with the same int8 vectors: whole numbers without rounding, so equal on every machine."""

    def __init__(self, vectors: NDArray[np.int8]) -> None:
        """`vectors` (vector, feature) are what others are multiplied with."""
        self._columns = vectors.T.astype(np.float32)
        self._packed = None if _numkong is None else _numkong.dots_pack(np.ascontiguousarray(vectors))

    def of(self, rows: NDArray[np.int8]) -> NDArray[Any]:
        """Products (row, vector) of stored vectors (row, feature)."""
        if self._packed is not None:
            assert _numkong is not None
            return np.asarray(_numkong.dots_packed(np.ascontiguousarray(rows), self._packed))
        total = np.zeros((len(rows), self._columns.shape[1]))
        count = max(_LEAST_ROWS, _ONE_THREAD // self._columns.size)
        for first in range(0, len(rows), count):
            block = rows[first : first + count].astype(np.float32)
            for begin in range(0, rows.shape[1], _EXACT_FEATURES):
                part = slice(begin, begin + _EXACT_FEATURES)
                total[first : first + count] += block[:, part] @ self._columns[part]
        return total
