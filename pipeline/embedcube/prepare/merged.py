"""The plan of a campaign whose shards were embedded by several runs: nothing is measured, all follows from theirs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.campaign.inventory import read_inventory, refuse_unknown_withdrawn
from embedcube.campaign.plan import LayerPlan, Plan, digest_of_recipes
from embedcube.campaign.price import Price
from embedcube.campaign.recipes import LayerRecipes, digest_as_read, layer_facts
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign, make_grid
from embedcube.campaign.tables import inventory_digest
from embedcube.errors import RequestError
from embedcube.kernel.recipes import recipes_of
from embedcube.prepare.gaps import empty_windows, gaps_of
from embedcube.prepare.resampled import resampled_on
from embedcube.prepare.shards import cut_all
from embedcube.prepare.write_plan import PlannedZone, in_draw_order, joined, shard_table, write_plan

_SUMS = {"shards", "cells", "chips", "scenes", "decoded_bytes", "needed_bytes", "cube_bytes", "files", "device_s"}
"""fields of a price that add up; of the others the largest holds"""

_SHOWN = 60
"""most characters of a value in a message"""


@dataclass(frozen=True, kw_only=True)
class PartialRun:
    """A run that has embedded a part of a campaign."""

    path: Path
    """as it is named"""
    campaign: Campaign
    """the campaign of the run, a part of the whole"""
    plan: Plan


def refuse_unlike(whole: Campaign, runs: Sequence[PartialRun]) -> None:
    """Refuse runs that would not make the same bytes as one run of the whole campaign.

    Raises:
        RequestError: a layer of one of them differs from the whole campaign, or from another run in batch, weights,
            software or plugins; or no run has a layer.
    """
    for name in whole.layers:
        having = [run for run in runs if name in run.plan.layers]
        if not having:
            raise RequestError(f"layers.{name}: none of the runs has it: {', '.join(str(run.path) for run in runs)}")
        first = having[0]
        expected = dict(_facts(whole, name, first.plan.layers[name]))
        for run in having:
            found = dict(_facts(run.campaign, name, run.plan.layers[name]))
            for key in sorted(expected.keys() | found.keys()):
                if found.get(key) != expected.get(key):
                    other = "the whole campaign" if key in _asked(whole, name) else str(first.path)
                    raise RequestError(
                        f"{run.path}: layer {name} has {key} {_short(found.get(key))}, {other} "
                        f"{_short(expected.get(key))}; only runs that make the same bytes can be merged"
                    )
    for name, version in ((name, version) for run in runs for name, version in run.plan.versions.items()):
        for run in runs:
            if run.plan.versions.get(name, version) != version:
                raise RequestError(
                    f"{run.path}: made with {name} {run.plan.versions[name]}, another run with {version}; only runs "
                    "that make the same bytes can be merged"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _asked(whole: Campaign, name: str) -> set[str]:
    """Keys of the facts of a layer that the campaign file says."""
    layer = whole.what["layers"][name]
    return {key for key, _ in _flat({"layer": layer | {"batch": None}, "archives": {}, "grid": {}})} | {
        f"archives.{archive}.{key}"
        for archive in layer["archives"]
        for key, _ in _flat(whole.what["archives"][archive])
    }


def _facts(campaign: Campaign, name: str, planned: LayerPlan) -> Iterator[tuple[str, Any]]:
    """All that decides the bytes of a layer's shards, by dotted keys."""
    facts = layer_facts(
        campaign, name, batch=planned.batch, weights=planned.weights, program=planned.program,
        versions=planned.versions, plugins=planned.plugins,
    )  # fmt: skip
    archives = dict(zip(facts["layer"]["archives"], facts["archives"], strict=True))
    return _flat(facts | {"archives": archives})


def _flat(document: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{within}{key}.")
        else:
            yield within + key, value


def merged_plan(whole: Campaign, run: RunDir, runs: Sequence[PartialRun]) -> Plan:
    """Cut the whole campaign into shards, with the recipes that the runs have used, and write its plan.

    Raises:
        RequestError: as `cut` says, or `withdraw` names a scene that no inventory has.
    """
    scenes = read_inventory(whole, run)
    refuse_unknown_withdrawn(whole, run)
    versions = {name: version for one in runs for name, version in one.plan.versions.items()}
    as_read = b"".join(digest_as_read(scene, versions) for scene in scenes)
    digests = np.frombuffer(as_read, dtype=np.uint8).reshape(-1, 32)
    layers: dict[str, LayerPlan] = {}
    zones: list[PlannedZone] = []
    price = _price([one.plan.price for one in runs])
    for name, layer in whole.layers.items():
        known = next(one.plan.layers[name] for one in runs if name in one.plan.layers)
        cuts = cut_all(whole, name, scenes)
        grids = {zone: make_grid(whole, name, zone) for zone in cuts}
        of_layer = []
        for zone, (shards, _) in cuts.items():
            maker = LayerRecipes(
                whole, name, zone, batch=known.batch, weights=known.weights, program=known.program,
                versions=known.versions, plugins=known.plugins,
            )  # fmt: skip
            recipes = recipes_of(maker, shards, digests)
            table = shard_table(name, zone, shards, recipes, np.ones(len(recipes)))
            of_layer.append(PlannedZone(table=table, group=np.arange(len(recipes)), price=price))
        zones += of_layer
        layers[name] = replace(
            known,
            zones={zone: place for zone, (_, place) in cuts.items()},
            grids=grids,
            chunk_windows=layer.chunk_windows,
            empty=empty_windows(whole, name, scenes, [zone.table for zone in of_layer]),
            gaps=gaps_of(whole, name, scenes, [zone.table for zone in of_layer]),
            reading="",
            resampled=resampled_on(whole, name, grids, cuts, scenes),
        )
    rows = in_draw_order(joined(zones), whole.how.tasks)
    plan = Plan(
        campaign=whole.digest,
        plan=digest_of_recipes(rows["recipe"].to_pylist()),
        inventory=inventory_digest(run),
        versions=versions,
        layers=layers,
        shards=len(rows),
        tasks=whole.how.tasks,
        price=replace(price, shards=len(rows)),
        files={},
    )
    return write_plan(run, plan, rows)


def _price(prices: Sequence[Price]) -> Price:
    """The price of several runs together."""
    worst = max(prices, key=lambda price: price.rank_bytes)
    sums = {name: sum(getattr(price, name) for price in prices) for name in _SUMS}
    largest = {
        field.name: max(getattr(price, field.name) for price in prices)
        for field in fields(Price)
        if field.name not in {*_SUMS, "worst_shard"}
    }
    return replace(worst, **sums, **largest)
