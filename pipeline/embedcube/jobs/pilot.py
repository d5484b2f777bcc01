"""pilot: a few shards embedded first, and the price of the campaign as they turn out.

The pilot is one more task, after the last of the plan, whose shards belong to other tasks too: its records count, and
nothing is embedded twice.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from embedcube.campaign.parts import best_documents
from embedcube.campaign.plan import Plan, read_plan
from embedcube.campaign.price import duration, size
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.schema import Campaign
from embedcube.errors import WorkError


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The price of a campaign, from the shards that have a record."""

    shards: int
    """measured"""
    of_shards: int
    rank_s: float
    """of all ranks together, for all shards"""
    wall_s: float
    """with all tasks that may run at once; without waiting in a queue and starting"""
    core_hours: float
    """of whole nodes"""
    stored_bytes: float
    """of all shards, compressed"""


def choose_pilot(campaign: Campaign, run: RunDir, count: int) -> int:
    """Write the pilot's shards, evenly spread over layers, zones and prices; returns the number of its task."""
    plan = read_plan(campaign, run)
    table = pyarrow.parquet.read_table(run.plan)
    order = np.lexsort((table["cost"].to_numpy(), *(_codes(table[name]) for name in ("zone", "layer"))))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    chosen = table.take(order[places])
    number = {"task": np.full(len(places), plan.tasks), "draw": np.arange(len(places))}
    for name, values in number.items():
        chosen = chosen.set_column(chosen.schema.get_field_index(name), name, pyarrow.array(values))
    with replacing(run.pilot) as temporary:
        pyarrow.parquet.write_table(chosen, temporary)
    return plan.tasks


def measured_price(campaign: Campaign, run: RunDir, *, at_once: int, cores_per_node: int) -> Measured:
    """What the campaign costs, were all shards like those with a record, for their price in the plan.

    Of each layer the sums are scaled by the planned costs (seconds) or the numbers of shards (bytes): the ratio
    estimator (Cochran 1977, Sampling Techniques, chapter 6).

    Raises:
        WorkError: no shard has a record yet.
    """
    plan = read_plan(campaign, run)
    table = pyarrow.parquet.read_table(run.plan, columns=["recipe", "layer", "cost"])
    recipes = table["recipe"].to_pylist()
    names = ("seconds", "started", "finished", "attempt", "rank", "objects")
    found = best_documents(run, set(recipes), names)
    if not found:
        raise WorkError(f"no shard of the pilot has a record: see {run.logs} for why")
    layers, costs = table["layer"].to_pylist(), table["cost"].to_pylist()
    seconds = rank_seconds(found)
    stored = {recipe: float(sum(o["size"] for o in one["objects"])) for recipe, one in found.items()}
    rank_s = scaled(seconds, dict(zip(recipes, zip(layers, costs, strict=True), strict=True)))
    return Measured(
        shards=len(found),
        of_shards=len(recipes),
        rank_s=rank_s,
        wall_s=_wall_s(campaign, plan, rank_s, max(seconds.values()), at_once),
        core_hours=rank_s / campaign.how.ranks * cores_per_node / 3600,
        stored_bytes=scaled(stored, {recipe: (layer, 1.0) for recipe, layer in zip(recipes, layers, strict=True)}),
    )


def _wall_s(campaign: Campaign, plan: Plan, rank_s: float, longest_s: float, at_once: int) -> float:
    ranks = min(plan.tasks, at_once) * campaign.how.nodes * campaign.how.ranks
    # the last shard may begin just before all others are done
    return rank_s / ranks + longest_s


def rank_seconds(records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What each shard took of its rank: the rank's time from first to last, shared out by the seconds of the steps.

    The steps of neighbouring shards overlap, so neither their sum nor the time from start to end is what one costs.
    """
    of_rank: dict[tuple[str, int], list[str]] = defaultdict(list)
    for recipe, record in records.items():
        of_rank[record["attempt"], record["rank"]].append(recipe)
    took: dict[str, float] = {}
    for members in of_rank.values():
        first, last = (
            edge(datetime.fromisoformat(records[m][name]) for m in members)
            for edge, name in ((min, "started"), (max, "finished"))
        )
        busy = {m: sum(records[m]["seconds"].values()) for m in members}
        share = (last - first).total_seconds() / (sum(busy.values()) or 1.0)
        took |= {m: seconds * share for m, seconds in busy.items()}
    return took


def scaled(measured: Mapping[str, float], planned: Mapping[str, tuple[str, float]]) -> float:
    """The sum over all that is planned; `planned` has the layer and the cost of each shard.

    A layer of which nothing was measured is taken to be like the others.
    """
    all_cost: dict[str, float] = defaultdict(float)
    seen_cost: dict[str, float] = defaultdict(float)
    seen: dict[str, float] = defaultdict(float)
    for recipe, (layer, cost) in planned.items():
        all_cost[layer] += cost
        if recipe in measured:
            seen_cost[layer] += cost
            seen[layer] += measured[recipe]
    overall = sum(seen.values()) / sum(seen_cost.values())
    return sum(cost * (seen[la] / seen_cost[la] if seen_cost[la] else overall) for la, cost in all_cost.items())


def describe_measured(found: Measured) -> list[str]:
    """The price in words."""
    return [
        f"of {found.shards} of {found.of_shards} shards: the campaign takes {duration(found.rank_s)} of a rank",
        f"about {duration(found.wall_s)} once all tasks run, {found.core_hours:.2g} core hours of whole nodes",
        f"{size(found.stored_bytes)} in the parts and, as links, in the cube",
    ]


def _codes(column: pyarrow.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.unique(np.asarray(column.to_pylist()), return_inverse=True)[1]
