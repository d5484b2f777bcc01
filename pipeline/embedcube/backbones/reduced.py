"""Any backbone with fewer numbers in its vectors: principal components, fitted once and frozen with the weights."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.backbones.around import Around
from embedcube.backbones.contract import Backbone, Chips, FitSample, Weights
from embedcube.grid import ShardLayout

_MEAN, _BASIS = "reduce.mean", "reduce.basis"
TABLES = (_MEAN, _BASIS)
"""names of the tensors of a reduction among those of the frozen weights"""

_VECTORS_PER_COMPONENT = 10
"""vectors of the sample for each component that is kept: fewer leave the last components to chance"""

_BATCH = 4
"""chips in a forward pass of the fit"""


class Reduced(Around):
    """A backbone, and behind it the projection on the first principal components of its vectors.

    Weights that `begin` and `load` give are the backbone's, still without components: `complete` adds them.
    """

    def __init__(self, backbone: Backbone, components: int, layout: ShardLayout) -> None:
        """`components` is the number of values that are kept."""
        super().__init__(backbone, layout)
        self._components = components

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: of the components that are kept."""
        return self._components

    @property
    def vector_chips(self) -> int | None:
        """Chips whose vectors `complete` needs: those of the fit, or more, for ten vectors of each component."""
        own = self._backbone.fit_chips
        if own is None:
            return None
        return max(own, -(-_VECTORS_PER_COMPONENT * self._components // self._layout.chip_cells**2))

    def fit(self, sample: FitSample) -> Weights:
        """The backbone's weights from the sample, and then the components of its vectors."""
        return self.complete(self.begin(sample), [sample])

    def begin(self, sample: FitSample) -> Weights:
        """The backbone's weights from its sample."""
        return self._backbone.fit(sample)

    def complete(self, weights: Weights, samples: Iterable[FitSample]) -> Weights:
        """The weights with the components of the vectors of samples, in float64 on one thread, stored in float32.

        Of each sample only its vectors are kept: their chips together may be larger than the memory.

        Raises:
            ValueError: the samples have too few vectors, or the backbone gives no more numbers than are kept.
        """
        given = self._backbone.dimensions(weights)
        if self._components >= given:
            raise ValueError(
                f"reduce.pca: {self._components} components of {given} numbers; keep fewer, or leave it out"
            )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = [self._vectors(weights, sample) for sample in samples]
            vectors = np.concatenate(found).astype(np.float64) if found else np.empty((0, given))
            if len(vectors) <= self._components:
                raise ValueError(f"reduce.pca: {len(vectors)} vectors in the sample for {self._components} components")
            mean = vectors.mean(axis=0)
            centred = torch.from_numpy(vectors - mean)
            _, bases = torch.linalg.eigh(centred.T @ centred / len(vectors))
            basis = bases.T.flip(0)[: self._components].numpy()
        finally:
            torch.set_num_threads(threads)
        # the sign of a component means nothing: the largest number of each is positive
        basis = basis * np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
        fitted = {_MEAN: mean.astype(np.float32), _BASIS: np.ascontiguousarray(basis, dtype=np.float32)}
        return replace(weights, tensors=weights.tensors | fitted)

    def _vectors(self, weights: Weights, sample: FitSample) -> NDArray[np.float32]:
        """The finite vectors (vector, number) of those cells of the sample's chips that have a clear pixel."""
        module, found = self._backbone.module(_without(weights)), []
        if sample.clear_ntsyx is None or sample.lonlat_nyxk is None or sample.dates_ntmd is None:
            raise ValueError("reduce.pca needs a sample with masks, places and dates")
        clear_nyx = self._clear_cells(sample.clear_ntsyx)
        x_ntcyx = (sample.x_ntcyx - weights.mean[:, None, None]) / weights.std[:, None, None]
        for first in range(0, len(x_ntcyx), _BATCH):
            # the dates of a batch are those of its first chip: chips of one window stand together in a batch of one
            own = [min(first + i, len(x_ntcyx) - 1) for i in range(_BATCH)]
            for chosen in _by_dates(own, sample.dates_ntmd):
                chips = Chips(
                    x_btcyx=torch.from_numpy(np.nan_to_num(x_ntcyx[chosen])),
                    clear_btsyx=torch.from_numpy(sample.clear_ntsyx[chosen]),
                    lonlat_byxn=torch.from_numpy(sample.lonlat_nyxk[chosen]),
                    dates_tmd=torch.from_numpy(sample.dates_ntmd[chosen[0]]),
                )
                each = list(dict.fromkeys(chosen))  # without those that fill up the batch
                with torch.inference_mode():
                    found.append(module(chips)[: len(each)].numpy()[clear_nyx[each]])
        vectors: NDArray[np.float32] = np.concatenate(found)
        return vectors[np.isfinite(vectors).all(axis=1)]

    def _clear_cells(self, clear_ntsyx: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which cells (chip, y, x) have a clear pixel in some frame and archive."""
        layout = self._layout
        kept = slice(layout.halo_px, layout.halo_px + layout.keep_px)
        clear_nyx = np.asarray(clear_ntsyx.any(axis=(1, 2)))[:, kept, kept]
        cells, px = layout.chip_cells, layout.cell_px
        return np.asarray(clear_nyx.reshape(-1, cells, px, cells, px).any(axis=(2, 4)))

    def module(self, weights: Weights) -> torch.nn.Module:
        """The backbone's module and the projection."""
        mean, basis = (torch.from_numpy(weights.tensors[name]) for name in (_MEAN, _BASIS))
        return _Projected(self._backbone.module(_without(weights)), mean, basis).requires_grad_(False).eval()


def _without(weights: Weights) -> Weights:
    """The backbone's own weights."""
    own = {name: tensor for name, tensor in weights.tensors.items() if name not in (_MEAN, _BASIS)}
    return replace(weights, tensors=own)


def _by_dates(chips: list[int], dates_ntmd: NDArray[np.int64]) -> list[list[int]]:
    """The chips of equal dates, each list padded to a batch with its last chip."""
    groups: dict[bytes, list[int]] = {}
    for i in dict.fromkeys(chips):
        groups.setdefault(dates_ntmd[i].tobytes(), []).append(i)
    return [[*some, *[some[-1]] * (_BATCH - len(some))] for some in groups.values()]


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
