"""A layer of a campaign -> its context: sources, grids, and the module on the device."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import Weights, leaves_masked_out, make_backbone
from embedcube.campaign.schema import Campaign, make_grid
from embedcube.campaign.vectors import CENTRE
from embedcube.campaign.zones import layout_of
from embedcube.errors import RequestError
from embedcube.kernel.compile import Compiled
from embedcube.kernel.layer import LayerContext, LayerInput, Normalisation
from embedcube.sources.base import counted_archives, make_source
from embedcube.zones import SAMPLES, SampleList


def load_context(
    campaign: Campaign,
    layer_name: str,
    grids: Sequence[str],
    weights: Weights,
    device: torch.device,
    batch: int,
    program: bytes = b"",
    samples: SampleList | None = None,
) -> LayerContext:
    """The context of one layer in these zones, with its module on the device; `samples` is the zone that is a list.

    `batch` and `program` are the plan's; with a compiled `program`, that is the module.
    """
    if program:
        module: torch.nn.Module = Compiled(program, device)
    else:
        module = make_backbone(campaign, layer_name).module(weights).to(device)
    return make_context(campaign, layer_name, grids, weights, module, device, batch, samples)


def make_context(
    campaign: Campaign,
    layer_name: str,
    grids: Sequence[str],
    weights: Weights | None,
    module: torch.nn.Module,
    device: torch.device,
    batch: int,
    samples: SampleList | None = None,
) -> LayerContext:
    """The context of one layer in these zones; the module is on the `device` already.

    Without `weights` chips can be read, and not embedded.
    """
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
    backbone = make_backbone(campaign, layer_name)
    nothing = np.zeros(inputs[-1].channels.stop, dtype=np.float32)
    mean, std = (nothing, nothing) if weights is None else (weights.mean, weights.std)
    dimensions = 0 if weights is None else backbone.dimensions(weights)
    offset = _offset(layer_name, weights, dimensions) if weights and layer.centre else None
    return LayerContext(
        zones={SAMPLES: samples}
        if samples is not None
        else {name: make_grid(campaign, layer_name, name) for name in grids},
        layout=layout_of(campaign, layer_name),
        inputs=inputs,
        frames=campaign.frames(layer_name),
        min_valid=layer.min_valid,
        batch=batch,
        encoding=layer.encoding,
        precision=layer.precision,
        dimensions=dimensions,
        normalisation=Normalisation(mean=mean, std=std, masks=leaves_masked_out(backbone), offset=offset),
        module=module,
        device=device,
    )


def _offset(name: str, weights: Weights, dimensions: int) -> NDArray[np.float32]:
    """The mean of each feature of a centred layer."""
    offset = weights.tensors[CENTRE]
    if offset.shape != (dimensions,) or offset.dtype != np.float32 or not np.isfinite(offset).all():
        raise RequestError(
            f"layers.{name}.weights: `centre` needs {dimensions} finite numbers of float32, {CENTRE} of the file has "
            f"the shape {offset.shape} and the type {offset.dtype}; remove the file and run `embedcube fit` again"
        )
    return offset
