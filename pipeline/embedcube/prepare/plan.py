"""plan: inventory and grid to plan.parquet, with one row per shard (recipe, task, draw group); and the price."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from embedcube.backbones.base import make_backbone
from embedcube.backbones.weights import fitted_on, read_weights
from embedcube.campaign.backbone_parts import names_of
from embedcube.campaign.base import base_run
from embedcube.campaign.inventory import read_inventory, refuse_unknown_withdrawn
from embedcube.campaign.plan import LayerPlan, Plan
from embedcube.campaign.recipes import LayerRecipes, digest_as_read, plugins_of, samples_of
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.tables import inventory_digest
from embedcube.campaign.zones import listed_in, own_scenes, zones_of
from embedcube.cube.arrays import object_shape
from embedcube.cube.encoding import LARGEST_NUMBER
from embedcube.errors import RequestError
from embedcube.grid import Grid
from embedcube.kernel.compile import Compiled
from embedcube.kernel.device import device_memory, exact_arithmetic
from embedcube.kernel.embed import blank_chips, forward
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.kernel.quantise import quantise
from embedcube.kernel.recipes import forward_digest
from embedcube.kernel.versions import installed, software_versions
from embedcube.prepare.batch_size import best_batch
from embedcube.prepare.blocks import LayerCosts
from embedcube.prepare.gaps import empty_windows, gaps_of
from embedcube.prepare.large_blocks import refuse_too_large
from embedcube.prepare.last_plan import batch_of_last_plan
from embedcube.prepare.pieces import Linked, Pieces
from embedcube.prepare.price import (
    DECODE_BYTES_PER_S,
    Activations,
    input_bytes,
    measure_activations,
    refuse_over_limit,
    seconds_per_batch,
    total_price,
)
from embedcube.prepare.program import Program, program_of
from embedcube.prepare.resampled import resampled_on
from embedcube.prepare.shards import cut_all
from embedcube.prepare.write_plan import PlannedZone, write_plan
from embedcube.printable import listed
from embedcube.sources.era5.steps import refuse_long_steps
from embedcube.zones import SampleList

Measured = TypeVar("Measured")


def plan(campaign: Campaign, run: RunDir) -> Plan:
    """Cut the region into shards and write the plan.

    Raises:
        RequestError: there is nothing to do, or one shard needs more memory than a rank has.
    """
    scenes = read_inventory(campaign, run)
    refuse_unknown_withdrawn(campaign, run)
    refuse_too_large(scenes, {name for layer in campaign.layers.values() for name in layer.archives}, campaign.how)
    _refuse_absent_device(campaign)
    exact_arithmetic(campaign.how.threads_per_rank)
    computing = software_versions(torch.device(campaign.how.device))
    readers = installed({package for scene in scenes for package in scene.software})
    encoders = installed({package for name in campaign.layers for package in make_backbone(campaign, name).software})
    as_read = b"".join(digest_as_read(scene, readers) for scene in scenes)
    digests = np.frombuffer(as_read, dtype=np.uint8).reshape(-1, 32)
    layers, zones = {}, []
    for name in campaign.layers:
        layers[name], zones_of_layer = _plan_layer(campaign, run, name, scenes, computing)
        zones += zones_of_layer
    loaded = [_loaded_bytes(run, name, layers[name]) for name in campaign.layers]
    device_bytes = device_memory(torch.device(campaign.how.device))
    price = total_price([zone.price for zone in zones], loaded, campaign.how, device_bytes)
    refuse_over_limit(price)
    used = {row for zone in zones for row in zone.linked.scenes}
    price = replace(price, input_bytes=input_bytes(scenes[i] for i in used))
    result = Plan(
        campaign=campaign.digest,
        plan="",
        inventory=inventory_digest(run),
        versions=computing | readers | encoders,
        layers=layers,
        shards=price.shards,
        tasks=campaign.how.tasks,
        price=price,
        files={},
    )
    return write_plan(run, result, zones, digests)


def _refuse_absent_device(campaign: Campaign) -> None:
    if campaign.how.device == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "how.device: there is no CUDA device here; plan where the ranks will run (at a batch system: "
            "`prepare_in_job: true` in the site file), or write cpu"
        )


def _plan_layer(
    campaign: Campaign,
    run: RunDir,
    name: str,
    scenes: Sequence[Scene],
    versions: dict[str, str],
) -> tuple[LayerPlan, list[PlannedZone]]:
    """The plan of one layer and its shards, by zone."""
    layer = campaign.layers[name]
    refuse_long_steps(campaign, name, own_scenes(layer, scenes))
    zones_of_layer = zones_of(campaign, name, scenes)
    cuts = cut_all(campaign, name, zones_of_layer, scenes)
    forward = _decide_forward(campaign, run, name, {zone: zones_of_layer[zone] for zone in cuts}, versions)
    backbone, context = make_backbone(campaign, name), forward.context
    _refuse_without_places(campaign, name, context)
    costs = LayerCosts(
        campaign=campaign,
        name=name,
        scenes=scenes,
        context=context,
        activations=forward.activations,
        batch_s=forward.batch_s,
        loaded_bytes=[run.weights(layer).stat().st_size for layer in campaign.layers],
        device_limit_bytes=device_memory(context.device),
    )
    zones = [_plan_zone(costs, zone, pieces, forward) for zone, (pieces, _) in cuts.items()]
    objects = object_shape(
        context.layout, dimensions=context.dimensions, encoding=context.encoding, windows=layer.chunk_windows
    )
    advice = costs.advice([zone.price for zone in zones])
    planned = LayerPlan(
        zones={zone: objects.from_border(place) for zone, (_, place) in cuts.items()},
        grids=context.grids,
        samples=context.samples,
        layout=context.layout,
        encoding=context.encoding,
        dimensions=context.dimensions,
        chunk_windows=layer.chunk_windows,
        objects=objects,
        collections=tuple(one.source.collection for one in context.inputs),
        counted=tuple(one.archive for one in context.inputs if one.counts),
        weights=forward.weights,
        fitted_on=fitted_on(run, name),
        model=backbone.model,
        batch=context.batch,
        batch_for=forward.batch_for,
        program=forward.program.digest,
        compiled_for=forward.program.compiled_for,
        versions=forward.versions,
        plugins=plugins_of(campaign, name),
        empty=empty_windows(zone.linked for zone in zones),
        gaps=gaps_of(campaign, name, scenes, [zone.linked for zone in zones]),
        reading=advice.words,
        better_chips=advice.shard_chips,
        resampled=resampled_on(campaign, name, zones_of_layer, {zone.zone: zone.linked for zone in zones}, scenes),
        offset=() if context.offset is None else tuple(context.offset.tolist()),
    )
    return planned, zones


@dataclass(frozen=True, kw_only=True)
class _Forward:
    """The forward pass of a layer as every rank will run it, and its cost on this device."""

    context: LayerContext
    """with the batch, and the compiled module where the layer asks for one"""
    activations: Activations
    weights: str
    """SHA-256 of the file of weights"""
    versions: dict[str, str]
    batch_for: str
    """digest for which `batch` was measured, as in LayerPlan"""
    program: Program
    batch_s: float
    """seconds of one batch"""


def _decide_forward(
    campaign: Campaign, run: RunDir, name: str, zones: Mapping[str, Grid | SampleList], versions: dict[str, str]
) -> _Forward:
    """Load the weights, decide batch and program (those of the last plan where they still hold), and time one batch."""
    layer, how = campaign.layers[name], campaign.how
    base = base_run(how.base, run)
    weights, weights_digest = read_weights(campaign, run, name)
    backbone = make_backbone(campaign, name)
    versions = versions | installed(set(backbone.software))
    made_of = forward_digest(campaign, name, weights_digest, versions)
    device = torch.device(how.device)
    module = backbone.module(weights).to(device)
    batch_for = made_of if layer.batch == "auto" else ""
    batch = layer.batch if layer.batch != "auto" else batch_of_last_plan(run, base, name, batch_for)
    context = make_context(campaign, name, list(zones), weights, module, device, batch or 2, samples=listed_in(zones))
    activations = _measured(name, replace(context, batch=batch or 4), measure_activations)
    if not batch:
        memory_bytes = (device_memory(device) or how.mem_bytes_per_rank / 2) / 2
        context = replace(context, batch=best_batch(context, activations, memory_bytes))
    program = Program()
    if layer.compile:
        program = program_of(run, base, name, context, digest_of([made_of, context.batch]))
        context = replace(context, module=Compiled(program.data, device))
    if context.encoding == "float16":
        _measured(name, context, partial(_refuse_too_large, name))
    return _Forward(
        context=context,
        activations=activations,
        weights=weights_digest,
        versions=versions,
        batch_for=batch_for,
        program=program,
        batch_s=_measured(name, context, seconds_per_batch),
    )


def _refuse_too_large(name: str, context: LayerContext) -> None:
    """Refuse an encoding that can hold none of the vectors that the backbone gives for chips of mean values."""
    vectors = forward(context, blank_chips(context))
    quantised = quantise(vectors, context.encoding)
    if quantised.finite.all() and not quantised.held.any():
        limit = LARGEST_NUMBER[context.encoding]
        raise RequestError(
            f"layers.{name}.encoding: {context.encoding} holds numbers up to {limit:,.0f}, and the backbone gives "
            f"{float(vectors.abs().max()):.3g} for a chip of mean values; write int8 or float32"
        )


def _refuse_without_places(campaign: Campaign, name: str, context: LayerContext) -> None:
    """Refuse a list that has samples without a place, where the backbone gives no vector without one."""
    samples = context.samples
    if samples is None or "" not in samples.crs:
        return
    chips = blank_chips(context)
    chips = replace(chips, lonlat_byxn=torch.full_like(chips.lonlat_byxn, torch.nan))
    if bool(forward(context, chips).isfinite().all()):
        return
    nowhere = samples.chosen([not crs for crs in samples.crs])
    raise RequestError(
        f"layers.{name}: {len(nowhere)} of {len(samples)} samples have no place ({listed(nowhere)}), and the backbone "
        f"{' with '.join(names_of(campaign.layers[name].backbone))} gives no vector without one: give them places in "
        "their archive (a table: longitude and latitude; a chip: its CRS and transform), take them out of it, or "
        "choose a backbone that is told no place, such as mosaiks"
    )


def _plan_zone(costs: LayerCosts, zone: str, pieces: Pieces, forward: _Forward) -> PlannedZone:
    """The shards of one grid: their draw groups, price and cost, and what makes their recipes."""
    linked = Linked.of(costs.campaign, costs.name, pieces, costs.scenes)
    reading, price = costs.of_zone(pieces, linked, forward.context.zones[zone])
    maker = LayerRecipes(
        costs.campaign,
        costs.name,
        zone,
        batch=forward.context.batch,
        weights=forward.weights,
        program=forward.program.digest,
        versions=forward.versions,
        plugins=plugins_of(costs.campaign, costs.name),
        samples=samples_of(forward.context.zones[zone], forward.context.layout),
    )
    return PlannedZone(
        layer=costs.name,
        zone=zone,
        pieces=pieces,
        linked=linked,
        recipes=maker,
        group=reading.group,
        cost=reading.decoded / DECODE_BYTES_PER_S + price.device_s / len(pieces),
        price=price,
    )


def _measured(name: str, context: LayerContext, measure: Callable[[LayerContext], Measured]) -> Measured:
    """The result of `measure`; a RequestError where the device has too little memory for it."""
    try:
        return measure(context)
    except torch.cuda.OutOfMemoryError:
        raise RequestError(
            f"layers.{name}: a batch of {context.batch} does not fit into the device's memory; lower batch or chip_px"
        ) from None


def _loaded_bytes(run: RunDir, name: str, planned: LayerPlan) -> int:
    """Bytes of the files of weights and program, which every rank reads."""
    program = run.program(name, planned.compiled_for, planned.program)
    return run.weights(name).stat().st_size + (program.stat().st_size if planned.program else 0)
