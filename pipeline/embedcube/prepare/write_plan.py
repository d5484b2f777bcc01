"""The files of a plan: rows of plan.parquet, joined and put in the order in which they are drawn, and written."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from embedcube.campaign.plan import Ints, Plan, Shards
from embedcube.campaign.price import Price
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.seals import write_sealed
from embedcube.campaign.verdicts import forget_other_verdicts
from embedcube.prepare.draw_groups import assign


@dataclass(frozen=True, kw_only=True)
class PlannedZone:
    """The shards of a layer on one grid."""

    table: pyarrow.Table
    """one row per shard, still without its draw group and task"""
    group: Ints
    """draw group of each shard, counted from 0 in this zone"""
    price: Price


def shard_table(
    name: str, zone: str, shards: Shards, recipes: pyarrow.ChunkedArray, cost: NDArray[np.float64]
) -> pyarrow.Table:
    """The rows of one layer and zone, without draw group and task; `cost` is in seconds of a rank."""
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


def joined(zones: Sequence[PlannedZone]) -> pyarrow.Table:
    """All shards, with the number of their draw group among the groups of all zones."""
    tables, groups = [], 0
    for zone in zones:
        tables.append(zone.table.append_column("group", pyarrow.array(zone.group + groups)))
        groups += int(zone.group.max()) + 1
    return pyarrow.concat_tables(tables, promote_options="permissive")


def in_draw_order(table: pyarrow.Table, tasks: int) -> pyarrow.Table:
    """Rows sorted by task, then by draw (largest group first), then by place within the group."""
    task, draw = assign(table["group"].to_numpy(), table["cost"].to_numpy(), tasks)
    order = np.lexsort((table["col"].to_numpy(), table["row"].to_numpy(), draw, task))
    return table.append_column("task", pyarrow.array(task)).append_column("draw", pyarrow.array(draw)).take(order)


def write_plan(run: RunDir, result: Plan, table: pyarrow.Table) -> Plan:
    """Write the files of the plan, and return the plan with their digests.

    Killed before plan.json is replaced, `plan` leaves the last plan as it was. Killed between plan.json and
    plan.parquet, it leaves two that do not agree: every reader sees that, and so does a job of the last plan.
    """
    with replacing(run.plan) as temporary:
        pyarrow.parquet.write_table(table, temporary)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        result = replace(result, files={run.plan.name: digest})
        write_sealed(run.plan_summary, result.summary)
    run.pilot.unlink(missing_ok=True)
    forget_other_verdicts(run, result.digests)
    return result
