"""What a backbone must do. `mosaiks.py` beside this file is a small real one."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.grid import ShardLayout


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Frozen weights: how to normalise the bands, and the tensors of the module."""

    mean: NDArray[np.float32]
    """(C,) subtracted from each band; masked pixels enter the module as this, that is as 0"""
    std: NDArray[np.float32]
    """(C,) each band is divided by"""
    tensors: dict[str, NDArray[Any]]
    """state dict of the module"""


class Backbone(Protocol):
    """A kind of encoder with its options, for chips of one layout and a number of bands.

    Made by `Backbone(options, layout, bands)`, which refuses wrong options with a ValueError;
    registered as an entry point of the group `embedcube.backbones`.
    """

    def __init__(self, options: dict[str, Any], layout: ShardLayout, bands: int) -> None:
        """`options` is the campaign's `backbone` block without its `name`."""
        ...

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def model(self) -> str:
        """A URI of the model: where its paper, code or card is."""
        ...

    def activation_bytes(self, batch: int) -> int:
        """Memory that one forward pass takes at most, weights and chips excluded; `plan` prices it."""
        ...

    def fit(self, x_ncyx: NDArray[np.float32]) -> Weights:
        """Frozen weights from a sample of chips (NaN where masked); the same sample always gives the same weights.

        A backbone with weights of its own ignores the pixels.
        """
        ...

    def module(self, weights: Weights) -> torch.nn.Module:
        """The module in evaluation mode, its parameters those of `weights`.

        It maps normalised chips (B, T, C, chip_px, chip_px), float32, 0 where masked, to the vectors of the kept
        centres (B, chip_cells, chip_cells, dimensions), float32, and each chip on its own: what else is in the
        batch must not matter.
        """
        ...
