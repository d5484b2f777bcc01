"""pilot: embed a few shards first, and estimate from their measured times what the whole campaign costs.

The pilot is one more task, with the number after the last task of the plan. Its shards belong to other tasks too; these
find the pilot's records and do not embed them again.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow

from embedcube.campaign.plan import Plan, read_plan, read_plan_columns, write_pilot
from embedcube.campaign.price import duration, size
from embedcube.campaign.recorded import best_documents
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import WorkError


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The estimated price of a campaign, from the shards that have a record."""

    shards: int
    """number of shards that were measured"""
    of_shards: int
    """number of shards of the campaign"""
    rank_s: float
    """seconds of all ranks together, for all shards"""
    wall_s: float
    """seconds from start to end if as many tasks run as may run at once; without the queue and the start of jobs"""
    core_hours: float
    """core hours of whole nodes, as a site bills them"""
    stored_bytes: float
    """compressed size of all shards"""


def choose_pilot(run: RunDir, plan: Plan, count: int) -> int:
    """Number of the pilot's task, after writing its shards: they are spread evenly over layers, zones and costs."""
    table = read_plan_columns(run, plan, ("layer", "zone", "cost"))
    order = np.lexsort((table["cost"].to_numpy(), *(_codes(table[name]) for name in ("zone", "layer"))))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    write_pilot(run, plan, order[places].tolist())
    return plan.tasks


def measured_price(campaign: Campaign, run: RunDir, *, at_once: int, cores_per_node: int) -> Measured:
    """Estimate of the campaign's price from the shards that have a record.

    The measured sums of each layer are scaled by its planned costs (for seconds) or by its number of shards (for
    bytes). This is the ratio estimator (Cochran 1977, Sampling Techniques, chapter 6).

    Raises:
        WorkError: no shard has a record yet.
    """
    plan = read_plan(campaign, run)
    table = read_plan_columns(run, plan, ("recipe", "layer", "cost"))
    recipes = table["recipe"].to_pylist()
    names = ("seconds", "started", "finished", "attempt", "rank", "arrays")
    records = best_documents(run, set(recipes), names)
    if not records:
        raise WorkError(f"no shard of the pilot has a record: the logs in {run.logs} say why")
    layers, costs = table["layer"].to_pylist(), table["cost"].to_pylist()
    seconds = rank_seconds(records)
    stored = {recipe: float(sum(o["size"] for o in one["arrays"])) for recipe, one in records.items()}
    rank_s = scaled(seconds, dict(zip(recipes, zip(layers, costs, strict=True), strict=True)))
    return Measured(
        shards=len(records),
        of_shards=len(recipes),
        rank_s=rank_s,
        wall_s=_wall_s(campaign, plan, rank_s, max(seconds.values()), at_once),
        core_hours=rank_s / campaign.how.ranks * cores_per_node / 3600,
        stored_bytes=scaled(stored, {recipe: (layer, 1.0) for recipe, layer in zip(recipes, layers, strict=True)}),
    )


def _wall_s(campaign: Campaign, plan: Plan, rank_s: float, longest_s: float, at_once: int) -> float:
    ranks = min(plan.tasks, at_once) * campaign.how.nodes * campaign.how.ranks
    # the longest shard may be the last one, begun just before all others are done
    return rank_s / ranks + longest_s


def rank_seconds(records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Seconds that each shard took of its rank: the rank's whole time, divided in proportion to the steps' seconds.

    The steps of consecutive shards overlap. So the cost of a shard is neither the sum of its steps nor the time from
    its start to its end.
    """
    of_rank: dict[tuple[str, int], list[str]] = defaultdict(list)
    for recipe, record in records.items():
        of_rank[record["attempt"], record["rank"]].append(recipe)
    cost: dict[str, float] = {}
    for members in of_rank.values():
        first, last = (
            edge(datetime.fromisoformat(records[m][name]) for m in members)
            for edge, name in ((min, "started"), (max, "finished"))
        )
        busy = {m: sum(records[m]["seconds"].values()) for m in members}
        share = (last - first).total_seconds() / (sum(busy.values()) or 1.0)
        cost |= {m: seconds * share for m, seconds in busy.items()}
    return cost


def scaled(measured: Mapping[str, float], planned: Mapping[str, tuple[str, float]]) -> float:
    """Estimate of the sum over all planned shards; `planned` has the layer and the cost of each shard.

    A layer without any measured shard gets the ratio of all other layers together.
    """
    all_cost: dict[str, float] = defaultdict(float)
    measured_cost: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for recipe, (layer, cost) in planned.items():
        all_cost[layer] += cost
        if recipe in measured:
            measured_cost[layer] += cost
            total[layer] += measured[recipe]
    overall = sum(total.values()) / sum(measured_cost.values())
    ratio = {layer: total[layer] / cost if cost else overall for layer, cost in measured_cost.items()}
    return sum(cost * ratio.get(layer, overall) for layer, cost in all_cost.items())


def describe_measured(price: Measured) -> list[str]:
    """Lines that say the price in words."""
    return [
        f"measured {price.shards} of {price.of_shards} shards: one rank would take {duration(price.rank_s)}",
        f"about {duration(price.wall_s)} once all tasks run, {price.core_hours:.2g} core hours of whole nodes",
        f"{size(price.stored_bytes)} in the parts, and as much again in the cube",
    ]


def _codes(column: pyarrow.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """A number for each value of a column of text, in the order of the texts."""
    return np.unique(np.asarray(column.to_pylist()), return_inverse=True)[1]
