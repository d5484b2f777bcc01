"""Recipes: for each shard, one digest of all that determines its bytes."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow
from numpy.typing import NDArray

from embedcube.backbones.base import make_inputs
from embedcube.campaign import plugins as registry
from embedcube.campaign.plan import Shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of

_ROWS = 1 << 16
"""shards whose recipes are made as Python objects at a time; a plan may hold millions"""


def digest_as_read(scene: Scene, readers: dict[str, str]) -> bytes:
    """The digest of a scene and of the versions of the packages that decode it."""
    if not scene.software:
        return bytes.fromhex(scene.digest)
    return bytes.fromhex(digest_of([scene.digest, {package: readers[package] for package in scene.software}]))


def forward_digest(campaign: Campaign, name: str, weights: str, versions: dict[str, str]) -> str:
    """A digest of all that may determine a layer's forward pass, except the batch.

    It may change where the forward pass does not, never the other way round.
    """
    apart = {"batch", "chunk_windows", "encoding", "fit", "min_valid"}
    layer = {key: value for key, value in campaign.what["layers"][name].items() if key not in apart}
    plugin = registry.distribution("backbones", layer["backbone"]["name"])
    inputs = make_inputs(campaign, name)
    return digest_of([weights, versions, plugin, layer, inputs.bands, inputs.frames])


def recipes_of(
    campaign: Campaign,
    name: str,
    zone: str,
    batch: int,
    weights: str,
    program: str,
    versions: dict[str, str],
    shards: Shards,
    digests: NDArray[np.uint8],
) -> pyarrow.ChunkedArray:
    """For each shard, the SHA-256 of all that determines its bytes; `digests` are those of the scenes: (scene, 32)."""
    base = hashlib.sha256(_layer_digest(campaign, name, zone, batch, weights, program, versions).encode())
    windows = [str(window).encode() for window in campaign.all_windows]

    def recipes(rows: slice) -> Iterator[str]:
        first = shards.first[rows.start : rows.stop + 1]
        linked = memoryview(digests[shards.scenes[first[0] : first[-1]]].tobytes())
        places = (column[rows].tolist() for column in (shards.t, shards.row, shards.col))
        ends = pairwise((32 * (first - first[0])).tolist())
        for t, row, col, (start, end) in zip(*places, ends, strict=True):
            recipe = base.copy()
            recipe.update(b"%b %d %d " % (windows[t], row, col))
            recipe.update(linked[start:end])
            yield recipe.hexdigest()

    starts = range(0, len(shards.t), _ROWS)
    return pyarrow.chunked_array([pyarrow.array(recipes(slice(start, start + _ROWS))) for start in starts])


def _layer_digest(
    campaign: Campaign, name: str, zone: str, batch: int, weights: str, program: str, versions: dict[str, str]
) -> str:
    """A digest of all that determines the bytes of every shard of a layer in one zone."""
    what = campaign.what
    # how the cube is chunked changes no shard of work
    layer = {key: value for key, value in what["layers"][name].items() if key != "chunk_windows"} | {"batch": batch}
    archives = [what["archives"][archive] for archive in layer["archives"]]
    plugins = [registry.distribution("sources", archive["source"]) for archive in archives]
    plugins.append(registry.distribution("backbones", layer["backbone"]["name"]))
    common = {
        "layer": layer,
        "archives": archives,
        "grid": campaign.grid_of(name).model_dump(mode="json"),
        "zone": zone,
        "plugins": plugins,
    }
    common |= {"weights": weights, "versions": versions} | ({"program": program} if program else {})
    return digest_of(common)
