"""Tokens of a ViT-tiny with random weights, of a real tile: what `python -m benchmarks.find --vit` indexes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.plugins.tiny_vit import MEAN_DN, PATCH_PX, STD_DN, TinyVit

from benchmarks.find import tile
from embedcube.backbones.base import Chips
from embedcube.grid import ShardLayout

CHIP_PX = 224

STEP_PX = 2
"""distance of two tokens: the chips are moved by so much between two passes"""

SIDE_CHIPS = 4


class _FourBands:
    """The one thing that the backbone asks of its inputs."""

    channels = 4


def vectors_of_tile() -> NDArray[np.float32]:
    """(window, y, x, feature) of a real tile; the second window has other gains."""
    torch.set_num_threads(1)
    inputs: Any = _FourBands()
    layout = ShardLayout(chip_px=CHIP_PX, halo_px=0, cell_px=PATCH_PX, chips=1)
    backbone = TinyVit({"width": 192, "depth": 12, "heads": 3}, layout, inputs)
    empty: Any = None
    module = backbone.module(backbone.fit(empty))
    pixels = (tile(("B02", "B03", "B04", "B08")) - MEAN_DN) / STD_DN
    return np.stack([_tokens(module, pixels * gain) for gain in (np.float32(1), np.float32(0.85))])


def _tokens(module: torch.nn.Module, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tokens (y, x, feature) every STEP_PX pixels."""
    moves, side = PATCH_PX // STEP_PX, SIDE_CHIPS * CHIP_PX // STEP_PX
    found = np.empty((side, side, 192), np.float32)
    nothing = torch.empty(0)
    for down in range(moves):
        for right in range(moves):
            size = SIDE_CHIPS * CHIP_PX
            part = pixels[:, down * STEP_PX :, right * STEP_PX :][:, :size, :size]
            chips = part.reshape(4, SIDE_CHIPS, CHIP_PX, SIDE_CHIPS, CHIP_PX).transpose(1, 3, 0, 2, 4)
            x_btcyx = torch.from_numpy(np.ascontiguousarray(chips).reshape(-1, 1, 4, CHIP_PX, CHIP_PX))
            batch = Chips(x_btcyx=x_btcyx, clear_btsyx=nothing, lonlat_byxn=nothing, dates_tmd=nothing)
            tokens = module(batch).numpy()
            across = CHIP_PX // PATCH_PX
            rows = tokens.reshape(SIDE_CHIPS, SIDE_CHIPS, across, across, 192).transpose(0, 2, 1, 3, 4)
            found[down::moves, right::moves] = rows.reshape(side // moves, side // moves, 192)
    return found
