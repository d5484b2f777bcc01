"""Any backbone whose vectors are stored as int8 without the mean of each feature: fitted once, frozen with the weights.

The vectors of the module stay as they are: the mean is subtracted when they are stored, and added when they are read.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from embedcube.backbones.contract import FitSample, Weights
from embedcube.backbones.from_vectors import FromVectors
from embedcube.campaign.vectors import CENTRE

_CHIPS, _VECTORS = 64, 2048
"""chips and vectors of the sample, at least: a mean of few places would be that of these places"""


class Centred(FromVectors):
    """A backbone, and beside its weights the mean of each feature over the clear cells of the sample."""

    asked = "centre"
    own = (CENTRE,)

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: the inner backbone's."""
        return self._backbone.dimensions(weights)

    @property
    def vectors_wanted(self) -> int:
        """Enough for the mean of each feature, from enough chips."""
        return max(_VECTORS, _CHIPS * self._layout.chip_cells**2)

    def complete(self, weights: Weights, samples: Iterable[FitSample]) -> Weights:
        """The weights with the mean of the vectors of samples, added up in float64, stored in float32.

        Raises:
            ValueError: no cell of the samples has a vector.
        """
        vectors = self.vectors(weights, samples)
        if not len(vectors):
            raise ValueError("centre: no clear cell of the sample has a vector")
        return replace(weights, tensors=weights.tensors | {CENTRE: vectors.mean(axis=0).astype(np.float32)})

    def module(self, weights: Weights) -> torch.nn.Module:
        """The inner backbone's module."""
        return self.inner_module(weights)
