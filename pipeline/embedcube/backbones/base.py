"""The contract of a backbone (`contract.py`), and how a layer's backbone is made. `mosaiks.py` is a real one."""

from dataclasses import replace

from embedcube.backbones.contract import (
    Backbone,
    Chips,
    FitSample,
    Inputs,
    ModelCard,
    Weights,
    leaves_masked_out,
)
from embedcube.backbones.over_time import EachFrame
from embedcube.backbones.reduced import Reduced
from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.schema import Campaign, make_layout
from embedcube.errors import RequestError

__all__ = [
    "Backbone",
    "Chips",
    "FitSample",
    "Inputs",
    "ModelCard",
    "Weights",
    "leaves_masked_out",
    "make_backbone",
    "make_inputs",
]


def make_inputs(campaign: Campaign, layer_name: str) -> Inputs:
    """Bands and frames of the layer's chips."""
    bands = tuple(campaign.archives[archive].bands for archive in campaign.layers[layer_name].archives)
    return Inputs(bands=bands, frames=len(campaign.frames(layer_name)[0]))


def make_backbone(campaign: Campaign, layer_name: str) -> Backbone:
    """The backbone of one layer.

    Raises:
        RequestError: the backbone is not installed, or refuses its options, the chips or the bands.
        WorkError: its constructor has a bug.
    """
    layer = campaign.layers[layer_name]
    options = {key: value for key, value in layer.backbone.items() if key != "name"}
    inputs = make_inputs(campaign, layer_name)
    seen = replace(inputs, frames=1) if layer.over_time else inputs
    backbone: Backbone = make_plugin(
        "backbones", layer.backbone["name"], f"layers.{layer_name}.backbone", options, make_layout(layer), seen
    )
    if layer.over_time:
        try:
            backbone = EachFrame(backbone, layer.over_time, inputs.frames, make_layout(layer))
        except ValueError as error:
            raise RequestError(f"layers.{layer_name}.{error}") from None
    if layer.reduce:
        backbone = Reduced(backbone, layer.reduce.pca, make_layout(layer))
    return backbone
