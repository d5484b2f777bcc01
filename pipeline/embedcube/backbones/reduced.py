"""Any backbone with fewer numbers in its vectors: principal components, fitted once and frozen with the weights."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from embedcube.backbones.contract import Backbone, Chips, FitSample, Weights
from embedcube.backbones.from_vectors import FromVectors
from embedcube.grid import ShardLayout

_MEAN, _BASIS = "reduce.mean", "reduce.basis"
TABLES = (_MEAN, _BASIS)
"""names of the tensors of a reduction among those of the frozen weights"""

_VECTORS_PER_COMPONENT = 10
"""vectors of the sample for each component that is kept: fewer leave the last components to chance"""


class Reduced(FromVectors):
    """A backbone, and behind it the projection on the first principal components of its vectors."""

    asked = "reduce.pca"
    own = TABLES

    def __init__(self, backbone: Backbone, components: int, layout: ShardLayout) -> None:
        """`components` is the number of values that are kept."""
        super().__init__(backbone, layout)
        self._components = components

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: of the components that are kept."""
        return self._components

    @property
    def vectors_wanted(self) -> int:
        """Ten vectors for each component."""
        return _VECTORS_PER_COMPONENT * self._components

    def complete(self, weights: Weights, samples: Iterable[FitSample]) -> Weights:
        """The weights with the components of the vectors of samples, in float64 on one thread, stored in float32.

        Raises:
            ValueError: the samples have too few vectors, or the backbone gives no more numbers than are kept.
        """
        given = self._backbone.dimensions(weights)
        if self._components >= given:
            raise ValueError(
                f"reduce.pca: {self._components} components of {given} numbers; keep fewer, or leave it out"
            )
        vectors = self.vectors(weights, samples)
        if len(vectors) <= self._components:
            raise ValueError(f"reduce.pca: {len(vectors)} vectors in the sample for {self._components} components")
        mean = vectors.mean(axis=0)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            centred = torch.from_numpy(vectors - mean)
            _, bases = torch.linalg.eigh(centred.T @ centred / len(vectors))
            basis = bases.T.flip(0)[: self._components].numpy()
        finally:
            torch.set_num_threads(threads)
        # the sign of a component means nothing: the largest number of each is positive
        basis = basis * np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
        fitted = {_MEAN: mean.astype(np.float32), _BASIS: np.ascontiguousarray(basis, dtype=np.float32)}
        return replace(weights, tensors=weights.tensors | fitted)

    def module(self, weights: Weights) -> torch.nn.Module:
        """The backbone's module and the projection."""
        mean, basis = (torch.from_numpy(weights.tensors[name]) for name in (_MEAN, _BASIS))
        return _Projected(self.inner_module(weights), mean, basis).requires_grad_(False).eval()


class _Projected(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, mean: torch.Tensor, basis: torch.Tensor) -> None:
        super().__init__()
        self.module = module
        self.mean: torch.Tensor
        self.basis: torch.Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)

    def forward(self, chips: Chips) -> torch.Tensor:
        """Scores on the components; NaN where the backbone gives no vector."""
        vectors = self.module(chips).float()
        # a matrix product of all vectors of the batch: its shape, and so its rounding, is that of every batch
        return torch.nn.functional.linear(vectors.flatten(0, -2) - self.mean, self.basis).view(*vectors.shape[:-1], -1)
