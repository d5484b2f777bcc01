"""A small vision transformer with seeded weights. It uses torch and public names of embedcube, as any plugin.

The chip is cut into patches of 16 x 16 pixels, each of which becomes a token; the ring of tokens that the halo
covers sees its neighbours and is dropped. A cell is a token.
"""

import math
import os
import signal
import time
from dataclasses import dataclass, fields
from datetime import date, timedelta
from typing import Any

import numpy as np
import torch
from torch import nn

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.grid import ShardLayout

PATCH_PX = 16

MEAN_DN, STD_DN = 2000.0, 1800.0
"""mean and standard deviation of every band, in reflectance x 10000"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the YAML block."""

    width: int = 64
    depth: int = 2
    heads: int = 4
    stem: int = 0
    """channels of a 3 x 3 convolution before the patches; 0: no such convolution"""
    seed: int = 0
    """seed of the random weights"""


class TinyVit:
    """The backbone `tiny_vit`."""

    software: tuple[str, ...] = ()

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        normalisation = f"mean {MEAN_DN:.0f}, standard deviation {STD_DN:.0f}"
        return (
            ModelCard(model="", inputs="any bands", cell="16 px", dimensions="width (64)", normalisation=normalisation),
        )

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        known = sorted(field.name for field in fields(Options))
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f'tiny_vit has no option "{unknown[0]}"; it has {", ".join(known)}')
        self._options = Options(**options)
        if self._options.width % (4 * self._options.heads):
            raise ValueError(f"tiny_vit: width {self._options.width} is not a multiple of 4 x {self._options.heads}")
        if layout.cell_px != PATCH_PX:
            raise ValueError(f"tiny_vit: a cell is a patch of {PATCH_PX} px, cell_px is {layout.cell_px}")
        if layout.halo_px % PATCH_PX:
            raise ValueError(f"tiny_vit: halo_px {layout.halo_px} is not whole patches of {PATCH_PX} px")
        self._layout = layout
        self._bands = inputs.channels

    def dimensions(self, weights: Weights) -> int:
        return self._options.width

    @property
    def model(self) -> str:
        return "https://doi.org/10.48550/arXiv.2010.11929"

    @property
    def fit_chips(self) -> int:
        return 0

    def load(self, checkpoint: bytes) -> Weights:
        raise ValueError("tiny_vit has no published weights")

    def fit(self, sample: FitSample) -> Weights:
        """Random weights from the seed; the sample is ignored."""
        rng = np.random.default_rng(self._options.seed)
        tensors = {}
        for name, parameter in self._empty().state_dict().items():
            fan_in = math.prod(parameter.shape[1:])
            drawn = rng.standard_normal(tuple(parameter.shape), dtype=np.float32) / np.float32(math.sqrt(fan_in))
            # normalisations and biases are vectors, projections are not
            tensors[name] = drawn if parameter.ndim > 1 else np.full_like(drawn, name.endswith(".norm.weight"))
        return Weights(
            mean=np.full(self._bands, MEAN_DN, dtype=np.float32),
            std=np.full(self._bands, STD_DN, dtype=np.float32),
            tensors=tensors,
        )

    def module(self, weights: Weights) -> nn.Module:
        module = self._empty()
        module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.tensors.items()}, assign=True)
        return module.requires_grad_(False).eval()

    def _empty(self) -> "_Vit":
        with torch.device("meta"):  # shapes alone: nothing is allocated, no random number is drawn
            return _Vit(self._options, self._layout, self._bands)


class Sleepy(TinyVit):
    """The backbone `sleepy`: `tiny_vit` that sleeps SLEEPY_S seconds in every batch. Its bytes are the same."""

    def module(self, weights: Weights) -> nn.Module:
        return _Sleeping(super().module(weights))


class _Sleeping(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, chips: Chips) -> torch.Tensor:
        time.sleep(float(os.environ.get("SLEEPY_S", "0")))
        vectors: torch.Tensor = self.inner(chips)
        return vectors


class Deadly(TinyVit):
    """The backbone `deadly`: `tiny_vit` that kills its process at the chip named by the environment variable DEADLY.

    Its value is "longitude latitude first-day-of-the-window", for example "7.6 50.9 2023-06-01".
    """

    def module(self, weights: Weights) -> nn.Module:
        return _Killing(super().module(weights))


class _Killing(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, chips: Chips) -> torch.Tensor:
        lon, lat, day = os.environ.get("DEADLY", "999 999 never").split()
        place = torch.tensor([float(lon), float(lat)])
        year, _, day_of_year = chips.dates_tmd[0, 0].tolist()
        today = date(year, 1, 1) + timedelta(days=day_of_year - 1)
        if str(today) == day and (chips.lonlat_byxn - place).abs().amax(-1).min() < 1e-5:
            os.kill(os.getpid(), signal.SIGKILL)
        vectors: torch.Tensor = self.inner(chips)
        return vectors


class _Vit(nn.Module):
    def __init__(self, options: Options, layout: ShardLayout, bands: int) -> None:
        super().__init__()
        side = layout.chip_px // PATCH_PX
        self.stem = nn.Conv2d(bands, options.stem, 3, padding=1) if options.stem else nn.Identity()
        self.patches = nn.Conv2d(options.stem or bands, options.width, PATCH_PX, stride=PATCH_PX)
        self.position = nn.Parameter(torch.empty(side, side, options.width))
        self.blocks = nn.Sequential(*(_Block(options) for _ in range(options.depth)))
        self.last = _Normed(options.width, nn.Identity())
        self._ring = layout.halo_px // PATCH_PX

    def forward(self, chips: Chips) -> torch.Tensor:
        tokens_byxd = self.patches(self.stem(chips.x_btcyx.mean(dim=1))).permute(0, 2, 3, 1) + self.position
        tokens_bnd = self.last(self.blocks(tokens_byxd.flatten(1, 2)))
        kept = slice(self._ring, tokens_byxd.shape[1] - self._ring)
        vectors: torch.Tensor = tokens_bnd.view(tokens_byxd.shape)[:, kept, kept]
        return vectors


class _Block(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        width = options.width
        self.attend = _Normed(width, _Attention(width, options.heads))
        self.think = _Normed(width, nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)))

    def forward(self, x_bnd: torch.Tensor) -> torch.Tensor:
        x_bnd = x_bnd + self.attend(x_bnd)
        thought: torch.Tensor = self.think(x_bnd)
        return x_bnd + thought


class _Normed(nn.Module):
    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = inner

    def forward(self, x_bnd: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(self.norm(x_bnd))
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_bnd: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x_bnd).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result
