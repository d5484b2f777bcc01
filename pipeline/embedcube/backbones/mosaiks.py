"""MOSAIKS: random convolutional features (Rolf et al. 2021, doi:10.1038/s41467-021-24638-z), frozen after one fit.

The filters are small patches, cut from the data and whitened (ZCA; Coates & Ng 2012). The normalised chip is convolved
with them and a bias is added; the positive and the negative part of the result are averaged over each cell.

Only clear patches count: one that touches a masked pixel is left out of the averages of its frame, and a frame without
a clear patch in a cell is left out of the cell's vector. A cell without any has no vector. Of several archives all must
be clear; where they are nowhere in a cell, one suffices, and the others are at their mean.
"""

from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.campaign.options import PluginOptions, check_options
from embedcube.grid import ShardLayout

ZCA_BIAS = 1e-3
"""added to the eigenvalues of the patches' covariance"""

CONVOLUTION_BIAS = -1.0
"""added to each convolution, so that a filter responds only where the pixels resemble it"""

_WHITENING_PATCHES = 100_000


class Options(PluginOptions):
    """Options of the backbone `mosaiks`."""

    filters: int = Field(256, ge=1)
    """number of filters in the bank; a vector has two numbers for each"""
    kernel_px: int = 3
    """side of a filter in pixels: an odd number, at least 3"""
    seed: int = Field(0, ge=0)
    """seed of the random places in the sample that filters are cut from"""

    @field_validator("kernel_px")
    @classmethod
    def _odd(cls, kernel_px: int) -> int:
        if kernel_px % 2 == 0 or kernel_px < 3:
            raise ValueError(f"{kernel_px} is not an odd number of at least 3")
        return kernel_px


class Mosaiks:
    """The backbone `mosaiks`."""

    options = Options
    """options of the YAML block"""

    software: tuple[str, ...] = ()
    """no package beyond torch computes vectors"""

    masks = True
    """masked pixels are left out"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """One card, as `mosaiks` is a single model."""
        return (
            ModelCard(
                model="",
                inputs="any bands of any archives; frames are averaged",
                cell="any cell_px; halo_px at least half a kernel",
                dimensions="2 x filters (512)",
                normalisation="fitted to the archives",
            ),
        )

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Refuse wrong options, and halos that are smaller than half a kernel."""
        self._options = check_options(Options, options, "mosaiks")
        self._layout = layout
        self._bands = inputs.channels
        kernel = self._options.kernel_px
        if layout.halo_px < kernel // 2:
            raise ValueError(
                f"mosaiks: a kernel of {kernel} px needs halo_px >= {kernel // 2}, it is {layout.halo_px}: "
                "cells at a chip's edge would be averaged over less and leave a seam"
            )

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector, two for each filter: the means of its positive and of its negative part."""
        return 2 * self._options.filters

    @property
    def model(self) -> str:
        """URI of the paper."""
        return "https://doi.org/10.1038/s41467-021-24638-z"

    @property
    def fit_chips(self) -> int:
        """64 chips: enough for the bands' statistics, and for many more patches than are whitened."""
        return 64

    def load(self, checkpoint: bytes) -> Weights:
        """Raise a ValueError: no filter bank is published for these bands."""
        raise ValueError("not a weights file of embedcube; mosaiks reads no other, leave out `weights` to fit one")

    def fit(self, sample: FitSample) -> Weights:
        """Band statistics and the whitened filter bank, in float64 on one thread, stored in float32."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._fit(torch.from_numpy(sample.x_ntcyx).flatten(0, 1).double())
        finally:
            torch.set_num_threads(threads)

    def _fit(self, x_ncyx: torch.Tensor) -> Weights:
        options = self._options
        flat = x_ncyx.transpose(0, 1).flatten(1)
        flat = flat[:, flat.isfinite().all(dim=0)]
        mean, std = flat.mean(dim=1), flat.std(dim=1).clamp_min(1e-6)
        del flat
        z_ncyx = (x_ncyx - mean[:, None, None]).div_(std[:, None, None])
        size = options.kernel_px
        gaps = (~z_ncyx.isfinite()).any(dim=1, keepdim=True).half()
        whole = (
            torch.nn.functional.max_pool2d(gaps, size, stride=1)[:, 0] == 0
        ).nonzero()  # (n, y, x) of each clear patch
        if len(whole) < options.filters:
            raise ValueError(f"only {len(whole)} clear patches in the sample for {options.filters} filters")
        rng = np.random.default_rng(options.seed)
        chosen = rng.choice(len(whole), size=min(len(whole), _WHITENING_PATCHES), replace=False)
        patches = z_ncyx.unfold(2, size, 1).unfold(3, size, 1)  # n c y x ky kx: a view
        n, y, x = whole[torch.from_numpy(chosen)].T
        sample = patches[n, :, y, x].flatten(1)
        sample = sample - sample.mean(dim=1, keepdim=True)
        sample = sample / sample.norm(dim=1, keepdim=True).clamp_min(1e-12)
        centre = sample.mean(dim=0)
        covariance = (sample - centre).T @ (sample - centre) / len(sample)
        values, vectors = torch.linalg.eigh(covariance)
        whitening = vectors @ torch.diag((values + ZCA_BIAS).rsqrt()) @ vectors.T
        bank = (sample[: options.filters] - centre) @ whitening @ whitening.T
        shape = (options.filters, self._bands, options.kernel_px, options.kernel_px)
        return Weights(
            mean=mean.float().numpy(),
            std=std.float().numpy(),
            tensors={"bank": bank.reshape(shape).float().contiguous().numpy()},
        )

    def module(self, weights: Weights) -> torch.nn.Module:
        """Convolution with the filters, rectification and averaging over cells."""
        module = _RandomConvolutions(torch.from_numpy(weights.tensors["bank"]), self._layout)
        return module.eval()


class _RandomConvolutions(torch.nn.Module):
    def __init__(self, bank: torch.Tensor, layout: ShardLayout) -> None:
        super().__init__()
        self.bank = torch.nn.Parameter(bank, requires_grad=False)
        self._bias: torch.Tensor
        self.register_buffer("_bias", torch.full((bank.shape[0],), CONVOLUTION_BIAS), persistent=False)
        self._cell_px = layout.cell_px
        self._margin = layout.halo_px - bank.shape[-1] // 2

    def forward(self, chips: Chips) -> torch.Tensor:
        """Mean of the features of the frames with a clear patch in the cell; NaN where no frame has one."""
        frames = range(chips.x_btcyx.shape[1])
        pooled = [self._features(chips.x_btcyx[:, t], chips.clear_btsyx[:, t]) for t in frames]
        if len(pooled) == 1:
            return pooled[0]
        features = torch.stack(pooled)
        counted = ~features.isnan().all(dim=-1, keepdim=True)
        return torch.where(counted, features, 0).sum(dim=0) / counted.sum(dim=0)

    def _features(self, x_bcyx: torch.Tensor, clear_bsyx: torch.Tensor) -> torch.Tensor:
        # two chips at a time: the convolved chips then stay in the processor's cache until they are averaged;
        # never one: sums over a single chip may depend on the number of threads
        few = 2 if x_bcyx.shape[0] % 2 == 0 else x_bcyx.shape[0]
        pieces = zip(x_bcyx.split(few), clear_bsyx.split(few), strict=True)
        return torch.cat([self._filter(chips, clear) for chips, clear in pieces])

    def _filter(self, x_bcyx: torch.Tensor, clear_bsyx: torch.Tensor) -> torch.Tensor:
        if margin := self._margin:
            x_bcyx = x_bcyx[..., margin:-margin, margin:-margin]
            clear_bsyx = clear_bsyx[..., margin:-margin, margin:-margin]
        filtered = torch.nn.functional.conv2d(x_bcyx, self.bank, self._bias)
        if clear_bsyx.shape[1] == 1:
            return self._averages(filtered, clear_bsyx[:, 0])
        of_some = self._averages(filtered.clone(), clear_bsyx.any(dim=1))
        of_all = self._averages(filtered, clear_bsyx.all(dim=1))
        return torch.where(of_all.isnan().all(dim=-1, keepdim=True), of_some, of_all)

    def _averages(self, filtered: torch.Tensor, clear_byx: torch.Tensor) -> torch.Tensor:
        """Vectors (b, y, x, feature) of the clear patches of each cell; NaN where there is none. Changes `filtered`."""
        masked = (~clear_byx)[:, None].to(filtered.dtype)
        clear = 1 - torch.nn.functional.max_pool2d(masked, self.bank.shape[-1], stride=1)
        # a patch that is not clear adds nothing to either part
        filtered *= clear
        positive = torch.nn.functional.avg_pool2d(filtered.relu(), self._cell_px)
        negative = torch.nn.functional.avg_pool2d(filtered.clamp_(max=0), self._cell_px).neg_()
        # the share of clear patches: 1 where all are, so that the quotient has the same bits
        share = torch.nn.functional.avg_pool2d(clear.float(), self._cell_px)
        return (torch.cat([positive, negative], dim=1) / share).permute(0, 2, 3, 1)
