"""Contexts of a layer made by hand, for tests that never read a scene."""

from datetime import UTC, datetime

import numpy as np
import torch

from embedcube.grid import ShardLayout
from embedcube.kernel.layer import LayerContext, LayerInput, Normalisation
from embedcube.windows import Window


def bare_context(
    module: torch.nn.Module,
    layout: ShardLayout,
    *,
    bands: int,
    batch: int,
    dimensions: int,
    inputs: tuple[LayerInput, ...] = (),
    device: str = "cpu",
) -> LayerContext:
    """A layer of one frame in float32 whose bands are normalised already."""
    return LayerContext(
        zones={},
        layout=layout,
        inputs=inputs,
        frames=((Window(datetime(2023, 6, 1, tzinfo=UTC), datetime(2023, 7, 1, tzinfo=UTC)),),),
        min_valid=0.5,
        batch=batch,
        encoding="int8",
        precision="float32",
        dimensions=dimensions,
        normalisation=Normalisation(mean=np.zeros(bands, np.float32), std=np.ones(bands, np.float32)),
        module=module.eval(),
        device=torch.device(device),
    )
