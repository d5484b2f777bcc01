"""What `plan` makes with recipes: those of all shards, and the digest of a layer's forward pass."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow
from numpy.typing import NDArray

from embedcube.backbones.base import make_inputs
from embedcube.campaign.backbone_parts import names_of
from embedcube.campaign.plan import Shards
from embedcube.campaign.plugins import distribution
from embedcube.campaign.recipes import LayerRecipes
from embedcube.campaign.schema import Campaign, digest_of

_ROWS = 1 << 16
"""shards whose recipes are made as Python objects at a time; a plan may hold millions"""


def forward_digest(campaign: Campaign, name: str, weights: str, versions: dict[str, str]) -> str:
    """A digest of all that may determine a layer's forward pass, except the batch.

    It may change where the forward pass does not, never the other way round.
    """
    apart = {"batch", "chunk_windows", "encoding", "fit", "min_valid"}
    layer = {key: value for key, value in campaign.what["layers"][name].items() if key not in apart}
    plugin = " ".join(filter(None, (distribution("backbones", one) for one in names_of(layer["backbone"]))))
    inputs = make_inputs(campaign, name)
    return digest_of([weights, versions, plugin, layer, inputs.bands, inputs.frames])


def recipes_of(layer: LayerRecipes, shards: Shards, digests: NDArray[np.uint8]) -> pyarrow.ChunkedArray:
    """For each shard, the SHA-256 of all that determines its bytes; `digests` are those of the scenes: (scene, 32)."""

    def recipes(rows: slice) -> Iterator[str]:
        first = shards.first[rows.start : rows.stop + 1]
        linked = memoryview(digests[shards.scenes[first[0] : first[-1]]].tobytes())
        places = (column[rows].tolist() for column in (shards.t, shards.row, shards.col))
        ends = pairwise((32 * (first - first[0])).tolist())
        for t, row, col, (start, end) in zip(*places, ends, strict=True):
            yield layer.recipe(t, row, col, linked[start:end])

    starts = range(0, len(shards.t), _ROWS)
    return pyarrow.chunked_array([pyarrow.array(recipes(slice(start, start + _ROWS))) for start in starts])
