"""pilot: its shards are spread over the plan, and their cost is scaled to the campaign."""

from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tests.conftest import Campaign

from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_recipes, read_shards
from embedcube.cube.arrays import ARRAYS
from embedcube.cube.reader import Cube
from embedcube.jobs.pilot import choose_pilot, measured_price, rank_seconds, scaled


def record(rank: int, start_s: int, end_s: int, **seconds: float) -> dict[str, Any]:
    """The record of a shard that a rank started and finished at these seconds of one minute."""
    return {
        "attempt": "1-0",
        "rank": rank,
        "started": f"2026-01-01T00:00:{start_s:02d}+00:00",
        "finished": f"2026-01-01T00:00:{end_s:02d}+00:00",
        "seconds": seconds,
    }


def test_a_ranks_time_is_shared_out_among_its_shards() -> None:
    """Two shards with 4 s and 12 s of steps overlap and are done in 10 s, so they cost 2.5 s and 7.5 s."""
    records = {
        "a": record(0, 0, 4, read=3, embed=1),
        "b": record(0, 1, 10, read=3, embed=9),
        "c": record(1, 5, 7, read=2),
    }
    assert rank_seconds(records) == {"a": 2.5, "b": 7.5, "c": 2.0}


def test_sums_are_scaled_by_planned_cost_layer_by_layer() -> None:
    planned = {"a": ("x", 1.0), "b": ("x", 3.0), "c": ("y", 5.0), "d": ("y", 5.0), "e": ("z", 2.0)}
    # x: 2 s for each planned second; y: half a second; z was not measured and gets the ratio of both: 4.5 s for 6
    assert scaled({"a": 2.0, "c": 2.5}, planned) == pytest.approx(4 * 2 + 10 * 0.5 + 2 * 4.5 / 6)


def test_the_pilot_is_spread_over_the_price_range(fitted: Campaign) -> None:
    fitted.change(lambda document: document["how"].update(tasks=3))
    fitted.cli("run", "--until", "plan")
    campaign = load_campaign(fitted.run.campaign)
    plan = read_plan(campaign, fitted.run)
    assert choose_pilot(fitted.run, plan, 5) == 3
    chosen = read_recipes(fitted.run, plan, 3)
    table = pyarrow.parquet.read_table(fitted.run.plan)
    cost = dict(zip(table["recipe"].to_pylist(), table["cost"].to_pylist(), strict=True))
    dearer = np.sort([cost[recipe] for recipe in chosen])
    assert len(set(chosen)) == 5
    np.testing.assert_array_equal(dearer, np.quantile(list(cost.values()), [0, 0.25, 0.5, 0.75, 1], method="nearest"))
    # it is one more task: those of the plan keep their shards; each of its shards is a draw group of its own
    assert all(read_recipes(fitted.run, plan, task) for task in range(3))
    assert [len(group) for group in read_shards(fitted.run, plan, 3)] == [1] * 5
    assert len(read_recipes(fitted.run, plan)) == 30
    assert choose_pilot(fitted.run, plan, 99) == 3
    assert set(read_recipes(fitted.run, plan, 3)) == set(cost)
    # another plan has no pilot yet
    fitted.cli("plan")
    assert read_recipes(fitted.run, read_plan(campaign, fitted.run), 3) == []


def test_all_shards_measured_are_their_own_price(finished_demo: Campaign) -> None:
    """With a record for every shard the price is the sum of the records."""
    campaign = load_campaign(finished_demo.run.campaign)
    found = measured_price(campaign, finished_demo.run, at_once=7, cores_per_node=4)
    assert found.shards == found.of_shards == 30
    cube = Cube(finished_demo.run.newest_cube)
    arrays = [
        cube.objects(zone, name).member((t, iy, ix)) for zone, t, iy, ix in cube.provenance.places for name in ARRAYS
    ]
    assert found.stored_bytes == pytest.approx(sum(len(data) for data in arrays if data is not None))
    assert found.core_hours == pytest.approx(found.rank_s / campaign.how.ranks * 4 / 3600)
