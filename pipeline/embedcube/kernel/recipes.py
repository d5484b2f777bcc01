"""Recipes: for each shard, one digest of all that determines its bytes."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow
from numpy.typing import NDArray

from embedcube.backbones.base import make_backbone, make_inputs
from embedcube.campaign import plugins as registry
from embedcube.campaign.plan import Plan, Shard, Shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.verdicts import recipe_without
from embedcube.errors import WorkError
from embedcube.kernel.versions import computing

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


class LayerRecipes:
    """Makes the recipes of the shards of one layer in one zone; the only place where recipes are made."""

    def __init__(
        self,
        campaign: Campaign,
        name: str,
        zone: str,
        *,
        batch: int,
        weights: str,
        program: str,
        versions: dict[str, str],
    ) -> None:
        """`weights` and `program` are digests; `versions` those of the software that computes the layer."""
        layer = _layer_digest(campaign, name, zone, batch, weights, program, versions)
        self._base = hashlib.sha256(layer.encode())
        self._windows = [str(window).encode() for window in campaign.all_windows]

    def recipe(self, t: int, row: int, col: int, scenes: bytes | memoryview) -> str:
        """The recipe of a shard; `scenes` are the digests of its scenes as they are read, 32 bytes each."""
        recipe = self._base.copy()
        recipe.update(b"%b %d %d " % (self._windows[t], row, col))
        recipe.update(scenes)
        return recipe.hexdigest()


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


class PlannedRecipes:
    """Derives the recipes of planned shards again, from the inventory and from what the plan says of their layers."""

    def __init__(self, campaign: Campaign, plan: Plan, scenes: Sequence[Scene]) -> None:
        """`scenes` is the inventory."""
        self._campaign, self._plan, self._scenes = campaign, plan, scenes
        self._of_layer: dict[tuple[str, str], LayerRecipes] = {}
        self._digests: dict[int, bytes] = {}

    def derive(self, shard: Shard) -> str:
        """The recipe that inventory and plan give; in words why they give none, where the shard cannot be theirs."""
        try:
            instead = self._plan.verdicts.instead
            digests = b"".join(self._digest(row) for row in shard.scenes if row not in instead)
            recipe = self._recipes(shard.layer, shard.zone).recipe(shard.t, shard.row, shard.col, digests)
            out = [row for row in shard.scenes if row in self._plan.verdicts.scenes]
            others = [other for row in out for other in self._plan.verdicts.scenes[row].instead]
            return recipe_without(
                recipe, [self._scenes[row].digest for row in out], [self._scenes[row].digest for row in others]
            )
        except (KeyError, IndexError) as error:
            return f"none ({type(error).__name__}: {error})"

    def out(self, shard: Shard) -> dict[int, str]:
        """Why scenes of the shard are out for all shards, by row of the inventory."""
        return self._plan.verdicts.reasons(shard.scenes)

    def refuse_other(self, shard: Shard) -> None:
        """Raise a WorkError where the shard has another recipe than inventory and plan give."""
        if (derived := self.derive(shard)) != shard.recipe:
            raise WorkError(
                f"{shard}: its recipe in the plan is {shard.recipe[:12]}, inventory and plan give {derived[:60]}; run "
                "`embedcube plan` again"
            )

    def _recipes(self, name: str, zone: str) -> LayerRecipes:
        if (name, zone) not in self._of_layer:
            layer = self._plan.layers[name]
            self._of_layer[name, zone] = LayerRecipes(
                self._campaign,
                name,
                zone,
                batch=layer.batch,
                weights=layer.weights,
                program=layer.program,
                versions=computing(self._plan.versions, self._software[name]),
            )
        return self._of_layer[name, zone]

    @cached_property
    def _software(self) -> dict[str, tuple[str, ...]]:
        """For each layer, the packages that its backbone names."""
        return {name: make_backbone(self._campaign, name).software for name in self._plan.layers}

    def _digest(self, row: int) -> bytes:
        if row not in self._digests:
            self._digests[row] = digest_as_read(self._scenes[row], self._plan.versions)
        return self._digests[row]


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
