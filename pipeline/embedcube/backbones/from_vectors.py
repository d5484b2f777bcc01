"""A backbone with tables that are fitted on its own vectors: those of the clear cells of a sample."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.backbones.around import Around
from embedcube.backbones.contract import Chips, FitSample, Weights

_BATCH = 4
"""chips in a forward pass of the fit"""


class FromVectors(Around, ABC):
    """A backbone around another one, with tensors of its own that are fitted on the inner one's vectors.

    Weights that `begin` and `load` give are the inner backbone's, still without them: `complete` adds them.
    """

    asked = ""
    """the layer's key that asks for it, for messages"""
    own: Collection[str] = ()
    """names of its tensors among those of the frozen weights"""

    @property
    @abstractmethod
    def vectors_wanted(self) -> int:
        """Number of vectors that `complete` wants at least."""

    @property
    def vector_chips(self) -> int | None:
        """Chips whose vectors `complete` needs: those of the inner backbone's fit, or more."""
        fitted = self._backbone.fit_chips
        if fitted is None:
            return None
        return max(fitted, -(-self.vectors_wanted // self._layout.chip_cells**2))

    def fit(self, sample: FitSample) -> Weights:
        """The inner backbone's weights from the sample, and then the own tensors from its vectors."""
        return self.complete(self.begin(sample), [sample])

    def begin(self, sample: FitSample) -> Weights:
        """The inner backbone's weights from its sample."""
        return self._backbone.fit(sample)

    @abstractmethod
    def complete(self, weights: Weights, samples: Iterable[FitSample]) -> Weights:
        """The weights with the own tensors.

        Raises:
            ValueError: the samples do not suffice.
        """

    def vectors(self, weights: Weights, samples: Iterable[FitSample]) -> NDArray[np.float64]:
        """The finite vectors (vector, number) of the clear cells of samples, computed on one thread.

        Of each sample only its vectors are kept: their chips together may be larger than the memory.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = [self._of_sample(weights, sample) for sample in samples]
        finally:
            torch.set_num_threads(threads)
        given = self._backbone.dimensions(weights)
        return np.concatenate(found).astype(np.float64) if found else np.empty((0, given))

    def inner_module(self, weights: Weights) -> torch.nn.Module:
        """The inner backbone's module."""
        own = {name: tensor for name, tensor in weights.tensors.items() if name not in self.own}
        return self._backbone.module(replace(weights, tensors=own))

    def _of_sample(self, weights: Weights, sample: FitSample) -> NDArray[np.float32]:
        """The finite vectors (vector, number) of those cells of the sample's chips that have a clear pixel."""
        module, found = self.inner_module(weights), []
        if sample.clear_ntsyx is None or sample.lonlat_nyxk is None or sample.dates_ntmd is None:
            raise ValueError(f"{self.asked} needs a sample with masks, places and dates")
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


def _by_dates(chips: list[int], dates_ntmd: NDArray[np.int64]) -> list[list[int]]:
    """The chips of equal dates, each list padded to a batch with its last chip."""
    groups: dict[bytes, list[int]] = {}
    for i in dict.fromkeys(chips):
        groups.setdefault(dates_ntmd[i].tobytes(), []).append(i)
    return [[*some, *[some[-1]] * (_BATCH - len(some))] for some in groups.values()]
