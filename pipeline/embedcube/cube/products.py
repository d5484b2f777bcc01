"""Exact products of stored int8 vectors with others: whole numbers without rounding, so equal on every machine.

A vector of any numbers is taken apart into *planes* for it: int8 vectors whose sum, each times a factor, is the vector.
numkong multiplies where it is installed (extra `find`), else NumPy, with the same numbers.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _installed() -> ModuleType | None:
    """Module numkong, or None where it is not installed or does not fit this processor."""
    try:
        return import_module("numkong")
    except ImportError:
        return None


_numkong = _installed()

BLOCK_ROWS = 1 << 14
"""stored vectors that are multiplied at once, so that what is between stays small"""

_EXACT_FEATURES = 1000
"""most numbers of two int8 vectors whose product float32 holds without rounding: 1000 x 128 x 128 < 2^24"""

_ONE_THREAD, _LEAST_ROWS = 1 << 18, 64
"""products of numbers up to which OpenBLAS uses one thread, as more cost ten times the CPU time in so small a matrix;
and stored vectors that NumPy multiplies at once, at least"""


class WholeProducts:
    """Products of stored int8 vectors with the same int8 vectors."""

    def __init__(self, vectors: NDArray[np.int8]) -> None:
        """`vectors` (vector, feature) are what others are multiplied with."""
        self._columns = vectors.T.astype(np.float32)
        self._packed = None if _numkong is None else _numkong.dots_pack(np.ascontiguousarray(vectors))

    def of(self, rows: NDArray[np.int8]) -> NDArray[Any]:
        """Products (row, vector) of stored vectors (row, feature)."""
        if _numkong is None:
            return self._by_numpy(rows, None)
        return np.asarray(_numkong.dots_packed(np.ascontiguousarray(rows), self._packed))

    def with_squares(self, rows: NDArray[np.int8]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Products (row, vector) of stored vectors (row, feature), and the sum of squares of each (row)."""
        if _numkong is None:
            squares = np.zeros(len(rows))
            return self._by_numpy(rows, squares), squares
        rows = np.ascontiguousarray(rows)
        return self.of(rows), np.atleast_1d(np.asarray(_numkong.dot(rows, rows)))

    def _by_numpy(self, rows: NDArray[np.int8], squares: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Products (row, vector) in float32 without rounding; sums of squares (row) are added to `squares`."""
        total = np.zeros((len(rows), self._columns.shape[1]))
        count = max(_LEAST_ROWS, _ONE_THREAD // self._columns.size)
        for first in range(0, len(rows), count):
            block = rows[first : first + count].astype(np.float32)
            for begin in range(0, rows.shape[1], _EXACT_FEATURES):
                part = block[:, begin : begin + _EXACT_FEATURES]
                total[first : first + count] += part @ self._columns[begin : begin + _EXACT_FEATURES]
                if squares is not None:
                    squares[first : first + count] += np.einsum("rf,rf->r", part, part)
        return total


def planes_of(vector: NDArray[np.float64], most: int, precision: float) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Vectors (plane, feature) and factors (plane) whose sum of products is a vector; at most so many.

    No more are added where what is left has a length of `precision` or less. Each makes the error 254 times smaller.
    """
    rest, planes, factors = vector.copy(), list[NDArray[np.int8]](), list[float]()
    factor = float(np.abs(rest).max()) / 127 or 1.0
    while len(planes) < most and (not planes or np.linalg.norm(rest) > precision):
        plane = np.rint(rest / factor)
        rest -= plane * factor
        planes.append(plane.astype(np.int8))
        factors.append(factor)
        factor /= 254
    return np.stack(planes), np.array(factors)


def summed(products: NDArray[Any], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums (row) of products (row, plane) times the factors of the planes."""
    # plane by plane: a product of matrices would add in an order of its own
    along: NDArray[np.float64] = products[:, 0] * factors[0]
    for plane in range(1, len(factors)):
        along += products[:, plane] * factors[plane]
    return along
