"""A campaign's names and numbers -> the objects they stand for."""

import torch

from embedcube.backbones.base import Backbone, Weights
from embedcube.config import Campaign, Layer
from embedcube.embed import LayerKernel
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout
from embedcube.registry import plugin
from embedcube.sources.base import Source


def make_grid(campaign: Campaign) -> Grid:
    """The campaign's grid."""
    block = campaign.grid
    return Grid(crs=block.crs, pixel=block.pixel, origin_x=block.origin[0], origin_y=block.origin[1])


def make_layout(layer: Layer) -> ShardLayout:
    """How the layer cuts the grid."""
    return ShardLayout(chip_px=layer.chip_px, halo_px=layer.halo_px, cell_px=layer.cell_px, chips=layer.shard_chips)


def make_source(campaign: Campaign, archive: str) -> Source:
    """The source of one archive."""
    block = campaign.archives[archive]
    source: Source = plugin("sources", block.source)(archive, block)
    return source


def make_backbone(campaign: Campaign, layer_name: str) -> Backbone:
    """The backbone of one layer; wrong options are a RequestError."""
    layer = campaign.layers[layer_name]
    options = {key: value for key, value in layer.backbone.items() if key != "name"}
    bands = len(campaign.archives[layer.archive].bands)
    try:
        backbone: Backbone = plugin("backbones", layer.backbone["name"])(options, make_layout(layer), bands)
    except (TypeError, ValueError) as error:
        raise RequestError(f"layers.{layer_name}.backbone: {error}") from None
    return backbone


def make_kernel(campaign: Campaign, layer_name: str, weights: Weights, device: torch.device) -> LayerKernel:
    """The kernel of one layer, on `device`."""
    layer = campaign.layers[layer_name]
    backbone = make_backbone(campaign, layer_name)
    return LayerKernel(
        grid=make_grid(campaign),
        layout=make_layout(layer),
        source=make_source(campaign, layer.archive),
        composite=layer.composite,
        min_valid=layer.min_valid,
        batch=layer.batch,
        encoding=layer.encoding,
        dimensions=backbone.dimensions,
        mean=weights.mean,
        std=weights.std,
        module=backbone.module(weights).to(device),
        device=device,
    )
