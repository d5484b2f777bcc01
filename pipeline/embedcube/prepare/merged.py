"""The plan of a campaign whose shards were embedded by several runs: nothing is measured, all follows from theirs."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from embedcube.campaign.inventory import read_inventory, refuse_unknown_withdrawn
from embedcube.campaign.partial_runs import PartialRun
from embedcube.campaign.plan import LayerPlan, Plan
from embedcube.campaign.price import Price
from embedcube.campaign.recipes import LayerRecipes, digest_as_read, samples_of
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.tables import inventory_digest
from embedcube.campaign.zones import listed_in, zones_of
from embedcube.cube.arrays import object_shape
from embedcube.grid import Grid
from embedcube.prepare.gaps import empty_windows, gaps_of
from embedcube.prepare.pieces import Linked
from embedcube.prepare.resampled import resampled_on
from embedcube.prepare.shards import cut_all
from embedcube.prepare.write_plan import PlannedZone, write_plan

_SUMS = {"shards", "cells", "chips", "scenes", "decoded_bytes", "needed_bytes", "cube_bytes", "files", "device_s"}
"""fields of a price that add up; of the others the largest holds"""


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
        all_zones = zones_of(whole, name, scenes)
        cuts = cut_all(whole, name, all_zones, scenes)
        spanned = {zone: all_zones[zone] for zone in cuts}
        of_layer = []
        for zone, (pieces, _) in cuts.items():
            maker = LayerRecipes(
                whole, name, zone, batch=known.batch, weights=known.weights, program=known.program,
                versions=known.versions, plugins=known.plugins, samples=samples_of(spanned[zone], known.layout),
            )  # fmt: skip
            linked = Linked.of(whole, name, pieces, scenes)
            each, costs = np.arange(len(pieces)), np.ones(len(pieces))
            planned = PlannedZone(
                layer=name, zone=zone, pieces=pieces, linked=linked, recipes=maker, group=each, cost=costs, price=price
            )
            of_layer.append(planned)
        zones += of_layer
        objects = object_shape(
            known.layout, dimensions=known.dimensions, encoding=known.encoding, windows=layer.chunk_windows
        )
        layers[name] = replace(
            known,
            zones={zone: objects.from_border(place) for zone, (_, place) in cuts.items()},
            grids={zone: grid for zone, grid in spanned.items() if isinstance(grid, Grid)},
            samples=listed_in(spanned),
            chunk_windows=layer.chunk_windows,
            objects=objects,
            empty=empty_windows(zone.linked for zone in of_layer),
            gaps=gaps_of(whole, name, scenes, [zone.linked for zone in of_layer]),
            reading="",
            resampled=resampled_on(whole, name, spanned, {zone.zone: zone.linked for zone in of_layer}, scenes),
        )
    shards = sum(len(zone.pieces) for zone in zones)
    plan = Plan(
        campaign=whole.digest,
        plan="",
        inventory=inventory_digest(run),
        versions=versions,
        layers=layers,
        shards=shards,
        tasks=whole.how.tasks,
        price=replace(price, shards=shards),
        files={},
    )
    return write_plan(run, plan, zones, digests)


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
