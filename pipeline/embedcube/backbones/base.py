"""The contract of a backbone (`contract.py`), and how a layer's backbone is made. `mosaiks.py` is a real one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedcube.backbones.centred import Centred
from embedcube.backbones.contract import (
    Backbone,
    Chips,
    FitSample,
    Inputs,
    ModelCard,
    Weights,
    leaves_masked_out,
)
from embedcube.backbones.over_time import EachFrame, OverTime
from embedcube.backbones.reduced import Reduced
from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.schema import Campaign, make_layout
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout

__all__ = [
    "Backbone",
    "Chips",
    "FitSample",
    "Inputs",
    "ModelCard",
    "Weights",
    "backbone_over_time",
    "leaves_masked_out",
    "make_backbone",
    "make_inputs",
]


def make_inputs(campaign: Campaign, layer_name: str) -> Inputs:
    """Bands and frames of the layer's chips."""
    archives = campaign.layers[layer_name].archives
    bands = tuple(campaign.archives[archive].bands for archive in archives)
    return Inputs(bands=bands, frames=len(campaign.frames(layer_name)[0]), archives=archives)


def make_backbone(campaign: Campaign, layer_name: str) -> Backbone:
    """The backbone of one layer.

    Raises:
        RequestError: the backbone is not installed, or refuses its options, the chips or the bands.
        WorkError: its constructor has a bug.
    """
    layer, layout = campaign.layers[layer_name], make_layout(campaign.layers[layer_name])
    inputs = make_inputs(campaign, layer_name)
    backbone = backbone_over_time(layer.backbone, layer.over_time, layout, inputs, f"layers.{layer_name}")
    if layer.reduce:
        return Reduced(backbone, layer.reduce.pca, layout)
    return Centred(backbone, layout) if layer.centre else backbone


def backbone_over_time(
    block: Mapping[str, Any], over_time: OverTime | None, layout: ShardLayout, inputs: Inputs, place: str
) -> Backbone:
    """The backbone of a block `{name: ..., OPTION: ...}`, around which the frames are combined where that is asked.

    `place` is the key of the campaign that the block is in. Errors are those of `make_backbone`.
    """
    options = {key: value for key, value in block.items() if key != "name"}
    seen = replace(inputs, frames=1) if over_time else inputs
    backbone: Backbone = make_plugin("backbones", block["name"], f"{place}.backbone", options, layout, seen)
    if not over_time:
        return backbone
    try:
        return EachFrame(backbone, over_time, inputs.frames, layout)
    except ValueError as error:
        raise RequestError(f"{place}.{error}") from None
