"""plan: inventory x grid -> plan.parquet. One row per shard, with its recipe, task and draw group; and the price."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import make_backbone
from embedcube.backbones.weights import fitted_on, read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.plan import LayerPlan, Plan, Shards, digest_of_recipes
from embedcube.campaign.price import Price
from embedcube.campaign.run_folder import RunDir, replacing, write_atomically
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of, grid_names, make_grid, make_layout
from embedcube.errors import RequestError
from embedcube.grid import Grid
from embedcube.kernel.compile import Compiled, compile_forward
from embedcube.kernel.device import device_memory, exact_arithmetic
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.kernel.recipes import digest_as_read, forward_digest, recipes_of
from embedcube.kernel.versions import installed, software_versions
from embedcube.prepare.batch_size import best_batch
from embedcube.prepare.draw_groups import ReadCost, assign, draw_groups
from embedcube.prepare.price import (
    DECODE_BYTES_PER_S,
    Activations,
    measure_activations,
    price_layer,
    refuse_over_limit,
    seconds_per_batch,
    total_price,
)
from embedcube.prepare.shards import cut
from embedcube.sources.base import counted_archives
from embedcube.sources.era5.steps import refuse_long_steps

Ints = NDArray[np.int64]

Measured = TypeVar("Measured")


def plan(campaign: Campaign, run: RunDir) -> Plan:
    """Cut the region into shards and write the plan.

    Raises:
        RequestError: nothing to do, or one shard needs more memory than a rank has.
    """
    scenes = read_inventory(campaign, run)
    if campaign.how.device == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "how.device: there is no CUDA device here; plan where the ranks will run (at a batch system: "
            "`prepare_in_job: true` in the site file), or write cpu"
        )
    versions = software_versions(torch.device(campaign.how.device))
    readers = installed({package for scene in scenes for package in scene.software})
    encoders = installed({package for name in campaign.layers for package in make_backbone(campaign, name).software})
    as_read = b"".join(digest_as_read(scene, readers) for scene in scenes)
    digests = np.frombuffer(as_read, dtype=np.uint8).reshape(-1, 32)
    exact_arithmetic(campaign.how.threads_per_rank)
    tables, layers, prices = [], {}, []
    groups = 0
    for name in campaign.layers:
        layers[name], priced = _plan_layer(campaign, run, name, scenes, digests, versions)
        for one in priced:
            tables.append(one.table.append_column("group", pyarrow.array(one.group + groups)))
            prices.append(one.price)
            groups += int(one.group.max()) + 1
    table = _in_draw_order(pyarrow.concat_tables(tables, promote_options="permissive"), campaign.how.tasks)
    loaded = [_loaded_bytes(run, name, layers[name]) for name in campaign.layers]
    price = total_price(prices, loaded, campaign.how, device_memory(torch.device(campaign.how.device)))
    refuse_over_limit(price)
    result = Plan(
        campaign=campaign.digest,
        plan=digest_of_recipes(table["recipe"].to_pylist()),
        inventory=hashlib.sha256(run.inventory.read_bytes()).hexdigest(),
        versions=versions | readers | encoders,
        layers=layers,
        shards=len(table),
        tasks=campaign.how.tasks,
        price=price,
    )
    # the table is what is asked for, so it comes last: a killed `plan` leaves no half of one
    for path in (run.plan, run.pilot):
        path.unlink(missing_ok=True)
    write_atomically(run.plan_summary, json.dumps(asdict(result), indent=1).encode())
    with replacing(run.plan) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return result


@dataclass(frozen=True, kw_only=True)
class _PlannedZone:
    table: pyarrow.Table
    group: Ints
    price: Price


def _plan_layer(
    campaign: Campaign,
    run: RunDir,
    name: str,
    scenes: Sequence[Scene],
    digests: NDArray[np.uint8],
    versions: dict[str, str],
) -> tuple[LayerPlan, list[_PlannedZone]]:
    layer, how = campaign.layers[name], campaign.how
    mine = [scene for scene in scenes if scene.archive in layer.archives]
    refuse_long_steps(campaign, name, mine)
    weights, weights_digest = read_weights(campaign, run, name)
    backbone = make_backbone(campaign, name)
    versions = versions | installed(set(backbone.software))
    device = torch.device(how.device)
    module = backbone.module(weights).to(device)
    activations: Activations | None = None
    zones, planned = {}, []
    made_of = forward_digest(campaign, name, weights_digest, versions)
    probed_for = made_of if layer.batch == "auto" else ""
    batch = layer.batch if layer.batch != "auto" else _probed_before(run, name, probed_for)
    batch_s, program = 0.0, _Program()
    for zone in grid_names(campaign, name, mine):
        grid = make_grid(campaign, name, zone)
        found = cut(campaign, name, grid, scenes)
        if found is None:
            continue
        shards, zones[zone] = found
        reading = _reading(campaign, name, shards, scenes, grid)
        context = make_context(campaign, name, [zone], weights, module, device, batch or 2)
        activations = activations or _measured(name, replace(context, batch=batch or 4), measure_activations)
        if not batch:
            batch = best_batch(context, activations, (device_memory(device) or how.mem_bytes_per_rank / 2) / 2)
            context = replace(context, batch=batch)
        if layer.compile and not program.data:
            program = _program(run, name, context, digest_of([made_of, context.batch]))
            module = Compiled(program.data, device)
        context = replace(context, module=module)
        batch_s = batch_s or _measured(name, context, seconds_per_batch)
        price = price_layer(layer, shards, mine, reading, batch_s, how.threads_per_rank, context, activations)
        recipes = recipes_of(campaign, name, zone, batch, weights_digest, program.digest, versions, shards, digests)
        cost = reading.decoded / DECODE_BYTES_PER_S + price.device_s / len(recipes)
        planned.append(_PlannedZone(table=_table(name, zone, shards, recipes, cost), group=reading.group, price=price))
    if not planned:
        raise RequestError(f"layers.{name}: no shard holds any of the region; is its CRS right?")
    return (
        LayerPlan(
            zones=zones,
            dimensions=backbone.dimensions(weights),
            weights=weights_digest,
            fitted_on=fitted_on(run, name),
            model=backbone.model,
            batch=batch,
            probed_for=probed_for,
            program=program.digest,
            compiled_for=program.compiled_for,
            empty=_empty_windows(campaign, name, scenes, [zone.table for zone in planned]),
        ),
        planned,
    )


def _reading(campaign: Campaign, name: str, shards: Shards, scenes: Sequence[Scene], grid: Grid) -> ReadCost:
    """What the shards cost to read, and in which groups least."""
    how = campaign.how
    return draw_groups(
        shards,
        scenes,
        campaign.all_windows,
        grid,
        make_layout(campaign.layers[name]),
        ranks=how.tasks * how.nodes * how.ranks,
        cache_bytes=how.cache_mb << 20,
    )


@dataclass(frozen=True, kw_only=True)
class _Program:
    """The compiled forward pass of a layer; by default none."""

    data: bytes = b""
    compiled_for: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.data else ""


def _program(run: RunDir, name: str, context: LayerContext, compiled_for: str) -> _Program:
    """The program that is there, or a new one: compiled again it might differ, and so would every recipe.

    Raises:
        RequestError: the one that is there is not what was written; as `compile_forward` says.
    """
    made = run.programs(name, compiled_for)
    # of two that were made at once, the one that the last plan names
    last = run.program(name, compiled_for, _of_last_plan(run, name).get("program", ""))
    for path in [last] if last in made else made[:1]:
        program = _Program(data=path.read_bytes(), compiled_for=compiled_for)
        if path != run.program(name, compiled_for, program.digest):
            raise RequestError(
                f"{path} has been changed: its SHA-256 is {program.digest}, its name says otherwise; restore it, or "
                "remove it, and the layer is compiled again"
            )
        return program
    program = _Program(data=compile_forward(context, name), compiled_for=compiled_for)
    write_atomically(run.program(name, compiled_for, program.digest), program.data)
    return program


def _measured(name: str, context: LayerContext, measure: Callable[[LayerContext], Measured]) -> Measured:
    """The result of `measure`; a RequestError where the device has too little memory for it."""
    try:
        return measure(context)
    except torch.cuda.OutOfMemoryError:
        raise RequestError(
            f"layers.{name}: a batch of {context.batch} does not fit into the device's memory; lower batch or chip_px"
        ) from None


def _loaded_bytes(run: RunDir, name: str, planned: LayerPlan) -> int:
    """Of the files that a rank reads before it begins."""
    program = run.program(name, planned.compiled_for, planned.program)
    return run.weights(name).stat().st_size + (program.stat().st_size if planned.program else 0)


def _empty_windows(
    campaign: Campaign, name: str, scenes: Sequence[Scene], tables: list[pyarrow.Table]
) -> tuple[int, ...]:
    """The windows in which no shard has a scene that makes a cell valid."""
    counted = set(counted_archives(campaign, name))
    shows = np.array([scene.archive in counted for scene in scenes], dtype=bool)
    empty = np.ones(len(campaign.all_windows), dtype=bool)
    for table in tables:
        linked = pyarrow.compute.list_flatten(table["scenes"]).to_numpy()
        counts = pyarrow.compute.list_value_length(table["scenes"]).to_numpy()
        empty[np.repeat(table["t"].to_numpy(), counts)[shows[linked]]] = False
    return tuple(np.nonzero(empty)[0].tolist())


def _probed_before(run: RunDir, name: str, probed_for: str) -> int:
    """The batch of the last plan, if it was found for the same weights, software and layer, else 0.

    Probed again it might come out otherwise, and every shard would have to be embedded again.
    """
    layer = _of_last_plan(run, name)
    return int(layer["batch"]) if layer.get("probed_for") == probed_for else 0


def _of_last_plan(run: RunDir, name: str) -> dict[str, Any]:
    """What plan.json says of a layer; nothing where there was no plan, or none of the layer."""
    if not run.plan_summary.exists():
        return {}
    layer: dict[str, Any] = json.loads(run.plan_summary.read_text())["layers"].get(name, {})
    return layer


def _table(
    name: str, zone: str, shards: Shards, recipes: pyarrow.ChunkedArray, cost: NDArray[np.float64]
) -> pyarrow.Table:
    return pyarrow.table(
        {
            "layer": pyarrow.array([name] * len(recipes), pyarrow.string()).dictionary_encode(),
            "zone": pyarrow.array([zone] * len(recipes), pyarrow.string()).dictionary_encode(),
            "t": shards.t,
            "row": shards.row,
            "col": shards.col,
            "recipe": recipes,
            "scenes": pyarrow.ListArray.from_arrays(shards.first.astype(np.int32), shards.scenes.astype(np.int32)),
            "cost": cost,
        }
    )


def _in_draw_order(table: pyarrow.Table, tasks: int) -> pyarrow.Table:
    """Rows sorted by task, then by draw (largest group first), then by place within the group."""
    task, draw = assign(table["group"].to_numpy(), table["cost"].to_numpy(), tasks)
    order = np.lexsort((table["col"].to_numpy(), table["row"].to_numpy(), draw, task))
    return table.append_column("task", pyarrow.array(task)).append_column("draw", pyarrow.array(draw)).take(order)
