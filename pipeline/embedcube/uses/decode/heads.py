"""Heads: vectors -> classes or numbers, with NumPy alone and the same result for a row whatever rows are beside it.

A head is a few arrays, as the file of a decoder holds them; `ARRAYS` says which, `fit.py` makes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.uses.decode.around import PLACES

Kind = Literal["ridge", "logistic", "knn", "forest", "conv"]

ARRAYS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "ridge": {"coefficients": ("output", "feature"), "intercepts": ("output",)},
    "logistic": {"coefficients": ("output", "feature"), "intercepts": ("output",)},
    "knn": {"vectors": ("example", "feature"), "targets": ("example", "output"), "neighbours": ()},
    "forest": {
        "feature": ("node",), "threshold": ("node",), "left": ("node",), "right": ("node",),
        "value": ("node", "output"), "first": ("tree",),
    },
    "conv": {
        "kernel": ("hidden", "place", "feature"), "hidden_intercepts": ("hidden",),
        "coefficients": ("output", "hidden"), "intercepts": ("output",),
    },
}  # fmt: skip
"""Arrays of each kind of head, with the names of their dimensions. All have `mean` and `std` (feature) beside them,
by which features are standardised first."""

OPTIONAL: dict[Kind, dict[str, tuple[str, ...]]] = {"ridge": {"bounds": ("bound",)}}
"""arrays that a kind of head may have: `bounds`, the least and the greatest number that it says, of a label that is a
share"""

MOST_CLASSES = 255
"""classes of a head, at most: a map has one byte for a cell, and 255 is a cell without a vector"""

_ROWS = 256
"""rows of a product of matrices: always as many, so that the sums of a row are equal"""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A fitted head."""

    kind: Kind
    outputs: int
    """classes; 1 for a number"""
    arrays: Mapping[str, NDArray[Any]]
    """`mean`, `std`, and those of `ARRAYS`"""

    @property
    def features(self) -> int:
        """Numbers of a vector that it takes."""
        return int(self.arrays["mean"].size)

    @property
    def parameters(self) -> int:
        """Numbers that it holds: coefficients, stored vectors, or nodes of trees."""
        beside = ("neighbours", "first", "bounds")
        return sum(int(array.size) for name, array in self.arrays.items() if name not in beside)

    @property
    def around(self) -> bool:
        """Whether it takes the cells beside a cell too: vectors (row, place, feature), as `Around` gives them."""
        return self.kind == "conv"

    @property
    def has_logits(self) -> bool:
        """Whether it has logits of classes, which can be interpolated."""
        return self.kind in ("logistic", "conv")

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predictions (row, output) of finite vectors (row, feature): probabilities of classes, or one number.

        Of a head that takes the cells beside too, vectors are (row, place, feature), NaN where there is none.
        """
        if self.has_logits:
            return softmax(self.logits(vectors))
        if self.kind == "ridge":
            said = self.logits(vectors)
            return said.clip(*self.arrays["bounds"]) if "bounds" in self.arrays else said
        # as scikit-learn's trees compare, in float32
        standard = ((vectors - self.arrays["mean"]) / self.arrays["std"]).astype(np.float32)
        return self._of_neighbours(standard) if self.kind == "knn" else self._of_trees(standard)

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Linear outputs (row, output) of a head: of classes before they become probabilities."""
        standard = (vectors - self.arrays["mean"]) / self.arrays["std"]
        if self.around:
            standard = self._hidden(standard)
        # not a product of BLAS: the order of its sums depends on the number of rows
        return np.asarray(np.einsum("nd,kd->nk", standard, self.arrays["coefficients"]) + self.arrays["intercepts"])

    def _hidden(self, standard: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a convolution of 3 x 3 cells gives (row, hidden), nothing below 0; zeros stand for cells without."""
        kernel, intercepts = self.arrays["kernel"], self.arrays["hidden_intercepts"]
        flat, across = np.nan_to_num(standard).reshape(len(standard), -1), kernel.reshape(len(kernel), -1).T
        hidden = np.empty((len(flat), len(kernel)))
        padded = np.zeros((_ROWS, flat.shape[1]))
        for first in range(0, len(flat), _ROWS):
            rows = flat[first : first + _ROWS]
            padded[: len(rows)] = rows
            hidden[first : first + len(rows)] = (padded @ across)[: len(rows)]
        return np.asarray(np.maximum(hidden + intercepts, 0))

    def _of_neighbours(self, standard: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean target of the nearest examples."""
        vectors, targets, count = (self.arrays[name] for name in ("vectors", "targets", "neighbours"))
        squared, known = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64), vectors.astype(np.float64).T
        means = np.empty((len(standard), targets.shape[1]))
        for first in range(0, len(standard), _ROWS):
            rows = standard[first : first + _ROWS]
            padded = np.zeros((_ROWS, rows.shape[1]))
            padded[: len(rows)] = rows
            distance = (squared - 2 * (padded @ known))[: len(rows)]
            nearest = np.argpartition(distance, int(count) - 1, axis=1)[:, : int(count)]
            means[first : first + len(rows)] = targets[np.sort(nearest, axis=1)].mean(axis=1)
        return means

    def _of_trees(self, standard: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean of the leaves that a row reaches in each tree."""
        names = ("feature", "threshold", "left", "right", "value", "first")
        feature, threshold, left, right, value, firsts = (self.arrays[name] for name in names)
        total = np.zeros((len(standard), value.shape[1]))
        rows = np.arange(len(standard))
        for first in firsts.tolist():
            node = np.full(len(standard), first)
            inner = rows
            while len(inner):
                at = node[inner]
                below = standard[inner, feature[at]] <= threshold[at]
                node[inner] = np.where(below, left[at], right[at])
                inner = inner[left[node[inner]] >= 0]
            total += value[node]
        return np.asarray(total / len(firsts))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (..., class) of logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def why_wrong(head: Head) -> str:
    """What is wrong with the arrays of a head from a file, in words; empty where they are consistent."""
    expected = {"mean": ("feature",), "std": ("feature",), **ARRAYS[head.kind]}
    optional = OPTIONAL.get(head.kind, {})
    if unknown := sorted(head.arrays.keys() - expected.keys() - optional.keys()):
        return f"it holds the array {unknown[0]}, which a {head.kind} head does not have"
    if missing := sorted(expected.keys() - head.arrays.keys()):
        return f"it lacks the array {missing[0]}, which a {head.kind} head has"
    expected |= {name: dimensions for name, dimensions in optional.items() if name in head.arrays}
    sizes: dict[str, int] = {"output": head.outputs, "feature": head.features, "place": PLACES, "bound": 2}
    for name, dimensions in expected.items():
        array = head.arrays[name]
        wanted = tuple(sizes.setdefault(d, n) for d, n in zip(dimensions, array.shape, strict=False))
        if array.ndim != len(dimensions) or array.shape != wanted:
            return f"{name} has the shape {array.shape}, the others ask for {dimensions} = {wanted}"
        if array.size == 0 or not np.isfinite(array).all():
            return f"{name} is empty or not finite"
        # of a forest the tree's structure is whole numbers
        kind = "i" if name in ("feature", "left", "right", "first", "neighbours") else "f"
        if array.dtype.kind != kind:
            return f"{name} holds {array.dtype}"
    if not (head.arrays["std"] > 0).all():
        return "std is not above 0 everywhere"
    if "bounds" in head.arrays and not np.less(*head.arrays["bounds"]):
        return f"its bounds are {head.arrays['bounds'].tolist()}, the first is not below the second"
    if head.kind == "knn" and not 0 < int(head.arrays["neighbours"]) <= len(head.arrays["vectors"]):
        return f"it asks for {int(head.arrays['neighbours'])} neighbours of {len(head.arrays['vectors'])} examples"
    return _why_no_forest(head) if head.kind == "forest" else ""


def _why_no_forest(head: Head) -> str:
    """Each node's children come after it, or it is a leaf: so every walk ends."""
    feature, left, right, first = (head.arrays[name] for name in ("feature", "left", "right", "first"))
    node = np.arange(len(left))
    leaf = left < 0
    if (leaf != (right < 0)).any() or ((first < 0) | (first >= len(left))).any():
        return "its trees have nodes with one child, or begin outside of them"
    inner = node[~leaf]
    children = np.stack([left[inner], right[inner]])
    if (children <= inner).any() or (children >= len(left)).any():
        return "its trees have a child before its parent, or outside of the tree"
    if ((feature[inner] < 0) | (feature[inner] >= head.features)).any():
        return "its trees ask for a feature that there is none of"
    # a walk looks at the root as at an inner node
    return "a tree has no inner node" if leaf[first].any() else ""
