"""What a rank reads of a campaign of one shard."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tests.conftest import Campaign

from embedcube.backbones.base import Weights, make_inputs
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import Sample, read_sample
from embedcube.prepare.index import index
from embedcube.prepare.shards import cut
from embedcube.sources.reader import RasterReader


def sample_of_layer_x(folder: Path, document: dict[str, Any]) -> tuple[list[Scene], Sample]:
    """Write the campaign into `folder` and index it: its scenes, and the shard at the origin of layer `x` as read."""
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(yaml.safe_dump(document))
    resolved = load_campaign(campaign.file)
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    scenes = index(resolved, campaign.run)
    bands = np.ones(make_inputs(resolved, "x").channels, dtype=np.float32)
    weights = Weights(mean=0 * bands, std=bands, tensors={})
    context = make_context(resolved, "x", ["grid"], weights, torch.nn.Identity(), torch.device("cpu"), batch=2)
    found = cut(resolved, "x", context.grids["grid"], scenes)
    assert found is not None
    linked = tuple(found[0].scenes.tolist())
    shard = Shard(layer="x", zone="grid", t=0, row=0, col=0, iy=0, ix=0, recipe="", scenes=linked)
    reader = RasterReader(threads=2)
    try:
        return scenes, read_sample(shard, [scenes[i] for i in linked], context, reader)
    finally:
        reader.close()
