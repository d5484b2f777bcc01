"""A campaign's names and numbers -> the objects they stand for."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch

from embedcube.backbones.base import Backbone, Inputs, Weights
from embedcube.compiled import Compiled
from embedcube.config import Campaign, Layer
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout, utm_zone_of
from embedcube.kernel import LayerInput, LayerKernel
from embedcube.registry import plugin
from embedcube.scene import Scene
from embedcube.sources.base import Source
from embedcube.store import ArraySpec, array_specs

UTM = "utm"
"""What `grid.crs` says for one grid per zone."""

_AROUND = 360 - 1e-6
"""degrees of a scene that shows all longitudes: where it begins and ends is one meridian"""


def make_grid(campaign: Campaign, layer: str, name: str) -> Grid:
    """A layer's grid of a name; a layer has one, or one for each UTM zone."""
    block = campaign.grid_of(layer)
    if block.crs == UTM:
        return Grid.of_zone(int(name.removeprefix("utm")), block.pixel, block.origin)
    return Grid(crs=block.crs, pixel=block.pixel, origin_x=block.origin[0], origin_y=block.origin[1])


def grid_names(campaign: Campaign, layer: str, scenes: Sequence[Scene]) -> tuple[str, ...]:
    """Of the grids that scenes touch: one, or one for each UTM zone."""
    if campaign.grid_of(layer).crs != UTM:
        return (make_grid(campaign, layer, "").name,)
    zones: set[int] = set()
    for west, _, east, _ in (scene.bbox for scene in scenes):
        if east - west >= _AROUND:
            zones.update(range(1, 61))
            continue
        first, last = (int(zone) for zone in utm_zone_of(np.array([west, east])))
        zones.update((first + i - 1) % 60 + 1 for i in range((last - first) % 60 + 1))
    return tuple(f"utm{zone:02d}" for zone in sorted(zones))


def make_layout(layer: Layer) -> ShardLayout:
    """How the layer cuts the grid."""
    return ShardLayout(chip_px=layer.chip_px, halo_px=layer.halo_px, cell_px=layer.cell_px, chips=layer.shard_chips)


def cube_specs(campaign: Campaign, layer_name: str, dimensions: int) -> tuple[ArraySpec, ...]:
    """The layer's arrays as the cube holds them."""
    layer = campaign.layers[layer_name]
    return array_specs(
        cells=make_layout(layer).shard_cells,
        dimensions=dimensions,
        encoding=layer.encoding,
        windows=layer.chunk_windows,
    )


def part_specs(campaign: Campaign, layer_name: str, dimensions: int) -> tuple[ArraySpec, ...]:
    """The layer's arrays as the parts hold them: a window an object."""
    layer = campaign.layers[layer_name]
    return array_specs(cells=make_layout(layer).shard_cells, dimensions=dimensions, encoding=layer.encoding)


def make_source(campaign: Campaign, archive: str) -> Source:
    """The source of one archive."""
    block = campaign.archives[archive]
    source: Source = plugin("sources", block.source)(archive, block)
    return source


def counted_archives(campaign: Campaign, layer_name: str) -> tuple[str, ...]:
    """Those of a layer whose scenes make a cell valid and are counted: photographs, or fields where it has none."""
    names = campaign.layers[layer_name].archives
    return tuple(name for name in names if make_source(campaign, name).photographs) or names


def make_inputs(campaign: Campaign, layer_name: str) -> Inputs:
    """What the layer's chips are made of."""
    bands = tuple(campaign.archives[archive].bands for archive in campaign.layers[layer_name].archives)
    return Inputs(bands=bands, frames=len(campaign.frames(layer_name)[0]))


def make_backbone(campaign: Campaign, layer_name: str) -> Backbone:
    """The backbone of one layer; wrong options are a RequestError."""
    layer = campaign.layers[layer_name]
    options = {key: value for key, value in layer.backbone.items() if key != "name"}
    inputs = make_inputs(campaign, layer_name)
    try:
        backbone: Backbone = plugin("backbones", layer.backbone["name"])(options, make_layout(layer), inputs)
    except (TypeError, ValueError) as error:
        raise RequestError(f"layers.{layer_name}.backbone: {error}") from None
    return backbone


def load_kernel(
    campaign: Campaign,
    layer_name: str,
    grids: Sequence[str],
    weights: Weights,
    device: torch.device,
    batch: int,
    program: bytes = b"",
) -> LayerKernel:
    """The kernel of one layer on its `grids`, its module, or the compiled `program` of it, brought to the device.

    `batch` and `program` are the plan's.
    """
    if program:
        module: torch.nn.Module = Compiled(program, device)
    else:
        module = make_backbone(campaign, layer_name).module(weights).to(device)
    return make_kernel(campaign, layer_name, grids, weights, module, device, batch)


def make_kernel(
    campaign: Campaign,
    layer_name: str,
    grids: Sequence[str],
    weights: Weights,
    module: torch.nn.Module,
    device: torch.device,
    batch: int,
) -> LayerKernel:
    """The kernel of one layer on its `grids`; the module lies on the `device` already."""
    layer = campaign.layers[layer_name]
    counted = counted_archives(campaign, layer_name)
    ends = accumulate((len(campaign.archives[archive].bands) for archive in layer.archives), initial=0)
    inputs = tuple(
        LayerInput(
            archive=archive,
            source=make_source(campaign, archive),
            channels=slice(*channels),
            counts=archive in counted,
        )
        for archive, channels in zip(layer.archives, pairwise(ends), strict=True)
    )
    return LayerKernel(
        grids={name: make_grid(campaign, layer_name, name) for name in grids},
        layout=make_layout(layer),
        inputs=inputs,
        frames=campaign.frames(layer_name),
        min_valid=layer.min_valid,
        batch=batch,
        encoding=layer.encoding,
        precision=layer.precision,
        dimensions=make_backbone(campaign, layer_name).dimensions(weights),
        mean=weights.mean,
        std=weights.std,
        module=module,
        device=device,
    )
