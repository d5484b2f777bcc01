"""Recipes: for each shard, one digest of all that determines its bytes. The only place where recipes are made."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol

from embedcube.campaign.backbone_parts import names_of
from embedcube.campaign.plan import LayerPlan, Shard
from embedcube.campaign.plugins import distribution
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.verdicts import Reason, Verdicts, recipe_without
from embedcube.errors import WorkError
from embedcube.grid import ShardLayout
from embedcube.zones import SampleList, Zone


def digest_as_read(scene: Scene, readers: Mapping[str, str]) -> bytes:
    """The digest of a scene and of the versions of the packages that decode it."""
    if not scene.software:
        return bytes.fromhex(scene.digest)
    return bytes.fromhex(digest_of([scene.digest, {package: readers[package] for package in scene.software}]))


def plugins_of(campaign: Campaign, name: str) -> tuple[str, ...]:
    """Names and versions of the packages here that register the sources and the backbone of a layer, with its parts."""
    layer = campaign.layers[name]
    sources = [distribution("sources", campaign.archives[archive].source) for archive in layer.archives]
    return (*sources, *(distribution("backbones", name) for name in names_of(layer.backbone)))


def layer_facts(
    campaign: Campaign,
    name: str,
    *,
    batch: int,
    weights: str,
    program: str,
    versions: Mapping[str, str],
    plugins: Sequence[str],
) -> dict[str, Any]:
    """Return all that decides the bytes of every shard of a layer, as JSON; arguments are those of `LayerRecipes`."""
    what = campaign.what
    # how the cube is chunked changes no shard of work
    layer = {key: value for key, value in what["layers"][name].items() if key != "chunk_windows"} | {"batch": batch}
    return {
        "layer": layer,
        "archives": [what["archives"][archive] for archive in layer["archives"]],
        "grid": campaign.grid_of(name).model_dump(mode="json"),
        "plugins": list(plugins),
        "weights": weights,
        "versions": dict(versions),
    } | ({"program": program} if program else {})


def planned_facts(campaign: Campaign, name: str, layer: LayerPlan) -> dict[str, Any]:
    """The facts of a planned layer (`layer_facts`), with the facts of its archives by name."""
    facts = layer_facts(
        campaign, name, batch=layer.batch, weights=layer.weights, program=layer.program, versions=layer.versions,
        plugins=layer.plugins,
    )  # fmt: skip
    return facts | {"archives": dict(zip(facts["layer"]["archives"], facts["archives"], strict=True))}


def samples_of(zone: Zone, layout: ShardLayout) -> Callable[[int], bytes] | None:
    """The digest of the samples of a row of shards; None in a zone that is no list of samples."""
    return cache(partial(zone.digest_of, layout)) if isinstance(zone, SampleList) else None


class LayerRecipes:
    """Makes the recipes of the shards of one layer in one zone."""

    def __init__(
        self,
        campaign: Campaign,
        name: str,
        zone: str,
        *,
        batch: int,
        weights: str,
        program: str,
        versions: Mapping[str, str],
        plugins: Sequence[str],
        samples: Callable[[int], bytes] | None = None,
    ) -> None:
        """`weights` and `program` are digests; `versions` and `plugins` are of the software that computes the layer.

        `samples` gives the digest of the samples of a row of shards, in a zone that is a list.
        """
        common = layer_facts(
            campaign, name, batch=batch, weights=weights, program=program, versions=versions, plugins=plugins
        )
        common |= {"zone": zone}
        self._base = hashlib.sha256(digest_of(common).encode())
        self._windows = [str(window).encode() for window in campaign.all_windows]
        self._samples = samples

    def recipe(self, t: int, row: int, col: int, scenes: bytes | memoryview) -> str:
        """The recipe of a shard; `scenes` are the digests of its scenes as they are read, 32 bytes each."""
        recipe = self._base.copy()
        recipe.update(b"%b %d %d " % (self._windows[t], row, col))
        if self._samples is not None:
            recipe.update(self._samples(row))
        recipe.update(scenes)
        return recipe.hexdigest()


class Planned(Protocol):
    """What recipes need of a plan."""

    @property
    def layers(self) -> Mapping[str, LayerPlan]:
        """What holds for all shards of each layer."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of all software that computes bytes."""

    @property
    def verdicts(self) -> Verdicts:
        """The scenes that are out for all shards."""


class PlannedRecipes:
    """Derives the recipes of planned shards again, from the inventory and from what the plan says of their layers."""

    def __init__(
        self,
        campaign: Campaign,
        plan: Planned,
        scenes: Sequence[Scene],
        plugins: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`scenes` is the inventory; `plugins` are those of each layer, by default those that the plan names."""
        self._campaign, self._plan, self._scenes = campaign, plan, scenes
        self._plugins = plugins or {name: layer.plugins for name, layer in plan.layers.items()}
        self._of_layer: dict[tuple[str, str], LayerRecipes] = {}
        self._digests: dict[int, bytes] = {}
        self._instead = plan.verdicts.instead

    @classmethod
    def here(cls, campaign: Campaign, plan: Planned, scenes: Sequence[Scene]) -> "PlannedRecipes":
        """With the plugins of this machine: one that was updated since `plan` gives other recipes."""
        return cls(campaign, plan, scenes, {name: plugins_of(campaign, name) for name in plan.layers})

    def derive(self, shard: Shard) -> str:
        """The recipe that inventory and plan give; in words why they give none, where the shard cannot be theirs."""
        try:
            planned = [row for row in shard.scenes if row not in self._instead]
            digests = b"".join(self._digest(row) for row in planned)
            recipe = self._recipes(shard.layer, shard.zone).recipe(shard.t, shard.row, shard.col, digests)
            out = [row for row in self._plan.verdicts.rows(planned) if row in self._plan.verdicts.scenes]
            others = [other for row in out for other in self._plan.verdicts.scenes[row].instead]
            return recipe_without(
                recipe, [self._scenes[row].digest for row in out], [self._scenes[row].digest for row in others]
            )
        except (KeyError, IndexError) as error:
            return f"none ({type(error).__name__}: {error})"

    def out(self, shard: Shard) -> dict[int, Reason]:
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
                versions=layer.versions,
                plugins=self._plugins[name],
                samples=samples_of(layer.zone(zone), layer.layout),
            )
        return self._of_layer[name, zone]

    def _digest(self, row: int) -> bytes:
        if row not in self._digests:
            self._digests[row] = digest_as_read(self._scenes[row], self._plan.versions)
        return self._digests[row]
