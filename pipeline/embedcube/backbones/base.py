"""What a backbone must do. `mosaiks.py` beside this file is a small real one."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.schema import Campaign, make_layout
from embedcube.grid import ShardLayout


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the chips of a layer are made of: known before any pixel is read."""

    bands: tuple[tuple[str, ...], ...]
    """names of the bands of each archive"""
    frames: int = 1
    """T"""

    @property
    def channels(self) -> int:
        """C: the bands of all archives, one after the other."""
        return sum(map(len, self.bands))


@dataclass(frozen=True, kw_only=True)
class Chips:
    """Some chips, as a module sees them."""

    x_btcyx: torch.Tensor
    """float32, normalised; 0 where masked"""
    clear_btsyx: torch.Tensor
    """bool: where archive s shows frame t"""
    lonlat_byxn: torch.Tensor
    """float32 (B, chip_cells, chip_cells, 2): degrees of the centres of the cells"""
    dates_tmd: torch.Tensor
    """int64 (T, 2, 3), of the beginning and of the middle of each frame: year, month, day of the year, all from 1"""


@dataclass(frozen=True, kw_only=True)
class FitSample:
    """Some chips, as a fit sees them."""

    x_ntcyx: NDArray[np.float32]
    """as composited; NaN where masked"""
    lat_ny: NDArray[np.float64]
    """degrees, of the rows of pixels"""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Frozen weights: how to normalise the bands, and the tensors of the module."""

    mean: NDArray[np.float32]
    """(C,) subtracted from each band; masked pixels enter the module as this, that is as 0"""
    std: NDArray[np.float32]
    """(C,) each band is divided by"""
    tensors: dict[str, NDArray[Any]]
    """state dict of the module"""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What `embedcube models` says of a model, without loading it."""

    model: str
    """what the backbone's option `model` says; empty where a backbone is one model"""
    inputs: str
    """bands or modalities, and frames"""
    cell: str
    """what a cell is"""
    dimensions: str
    """of a vector, and what they depend on"""
    normalisation: str
    """where the mean and standard deviation of the bands come from"""
    hub: tuple[str, str] | None = None
    """repository and file on the Hugging Face Hub, where `embedcube weights` gets published weights"""


class Backbone(Protocol):
    """A kind of encoder with its options, for chips of one layout and of certain bands.

    Made by `Backbone(options, layout, inputs)`; registered as an entry point of the group `embedcube.backbones`. The
    constructor refuses wrong options with a ValueError, or with a RequestError that names the key (exit 2). Any other
    exception but an OSError is a bug of the plugin and is reported as one (exit 1).
    """

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """`options` is the campaign's `backbone` block without its `name`."""
        ...

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """What `embedcube models` lists, without any package beyond embedcube's own."""
        ...

    @property
    def software(self) -> tuple[str, ...]:
        """Other packages that compute: their versions enter the recipes, and a rank with others refuses to start."""
        ...

    def dimensions(self, weights: Weights) -> int:
        """Numbers in a vector; where a model is made somewhere else, its weights say so."""
        ...

    @property
    def model(self) -> str:
        """A URI of the model: where its paper, code or card is."""
        ...

    @property
    def fit_chips(self) -> int | None:
        """How many chips a fit wants to look at: 0 for a backbone with weights of its own, None for all there are.

        All there are must fit into memory, together with what decomposes them: `price.refuse_large_fit`.
        """
        ...

    def fit(self, sample: FitSample) -> Weights:
        """Frozen weights from a sample of chips; the same sample always gives the same weights.

        Raises:
            ValueError: the sample does not suffice, or there is nothing to fit.
        """
        ...

    def load(self, checkpoint: bytes) -> Weights:
        """Frozen weights from the bytes of a checkpoint that somebody else has published.

        Raises:
            ValueError: not a checkpoint of this backbone.
        """
        ...

    def module(self, weights: Weights) -> torch.nn.Module:
        """The module in evaluation mode, its parameters those of `weights`.

        It maps `Chips` to the vectors of the kept centres (B, chip_cells, chip_cells, dimensions), float32, and each
        chip on its own: what else is in the batch must not matter.
        """
        ...


def make_inputs(campaign: Campaign, layer_name: str) -> Inputs:
    """What the layer's chips are made of."""
    bands = tuple(campaign.archives[archive].bands for archive in campaign.layers[layer_name].archives)
    return Inputs(bands=bands, frames=len(campaign.frames(layer_name)[0]))


def make_backbone(campaign: Campaign, layer_name: str) -> Backbone:
    """The backbone of one layer; wrong options are a RequestError."""
    layer = campaign.layers[layer_name]
    options = {key: value for key, value in layer.backbone.items() if key != "name"}
    inputs = make_inputs(campaign, layer_name)
    backbone: Backbone = make_plugin(
        "backbones", layer.backbone["name"], f"layers.{layer_name}.backbone", options, make_layout(layer), inputs
    )
    return backbone
