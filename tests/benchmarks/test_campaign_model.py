"""The model of a campaign against what can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.campaign_model import like, simulate

from embedcube.prepare.makespan import Machine, Spread, Work, makespan

SHARDS = 240
QUICK = Machine(
    nodes=1,
    ranks=1,
    start_s=10,
    starts=0,
    queue_s=5,
    between_failures_h=1e12,
    node_bytes_per_s=1e12,
    bytes_per_s=1e12,
    calls_per_s=1e9,
)


def work(read_s: float = 1.0, device_s: float = 2.0, read_bytes: float = 0.0, calls: float = 0.0) -> Work:
    return Work(
        read_s=np.full(SHARDS, read_s),
        device_s=np.full(SHARDS, device_s),
        read_bytes=np.full(SHARDS, read_bytes),
        calls=np.full(SHARDS, calls),
    )


def test_one_rank_reads_while_its_device_computes() -> None:
    computing = simulate(work(read_s=1, device_s=2), QUICK, Spread(tasks=1))
    assert computing.end_s == pytest.approx(5 + 10 + 1 + SHARDS * 2)
    reading = simulate(work(read_s=3, device_s=2), QUICK, Spread(tasks=1))
    assert reading.end_s == pytest.approx(5 + 10 + SHARDS * 3 + 2)
    assert len(reading.records) == SHARDS


def test_the_file_system_gives_no_more_than_its_rates() -> None:
    machine = replace(QUICK, nodes=8, ranks=4, start_s=0, queue_s=0)
    slow = replace(machine, calls_per_s=100.0)
    asked = simulate(work(calls=50), slow, Spread(tasks=8))
    assert asked.end_s == pytest.approx(SHARDS * 50 / 100 + 1 + 2, abs=0.1), "all wait for metadata alone"
    narrow = replace(machine, bytes_per_s=1e6)
    assert simulate(work(read_bytes=1e6), narrow, Spread(tasks=8)).end_s == pytest.approx(SHARDS + 2, abs=0.1)
    links = replace(machine, node_bytes_per_s=1e6)
    assert simulate(work(read_bytes=1e6), links, Spread(tasks=8)).end_s == pytest.approx(SHARDS / 8 + 2, abs=1.1)


def test_ranks_that_draw_end_together() -> None:
    random = np.random.default_rng(0)
    uneven = replace(work(), device_s=random.lognormal(0, 1, SHARDS))
    machine = replace(QUICK, ranks=8, start_s=0, queue_s=0)
    drawn, static = (simulate(uneven, machine, Spread(tasks=1, drawn=drawn)) for drawn in (True, False))
    assert drawn.end_s < static.end_s
    ideal = uneven.device_s.sum() / 8
    assert drawn.end_s <= ideal + 1 + 2 * uneven.device_s.max()


def test_no_shard_is_lost_to_failures_and_time_limits() -> None:
    failing = replace(QUICK, nodes=4, ranks=2, between_failures_h=0.02)
    out = simulate(work(), failing, Spread(tasks=8), seed=3)
    assert len(out.records) == SHARDS
    assert out.failures > 0
    assert out.lost > 0
    limited = replace(QUICK, limit_s=100, lead_s=10)
    out = simulate(work(), limited, Spread(tasks=1))
    assert len(out.records) == SHARDS
    # each job has 10 s of start, and ends before its limit: 80 s for shards of 2 s
    assert out.jobs >= SHARDS * 2 / 80
    assert out.lost == 0


def test_the_same_seed_gives_the_same_outcome() -> None:
    failing = replace(QUICK, nodes=4, ranks=2, between_failures_h=0.02)
    first, again, other = (simulate(work(), failing, Spread(tasks=8), seed) for seed in (1, 1, 2))
    assert first == again
    assert first.end_s != other.end_s


def test_shards_like_the_measured_ones_keep_their_mean() -> None:
    random = np.random.default_rng(5)
    measured = replace(work(), device_s=random.lognormal(0, 0.5, SHARDS))
    many = like(measured, 20_000, times=3, seed=1)
    assert len(many) == 20_000
    assert many.device_s.mean() == pytest.approx(3 * measured.device_s.mean(), rel=0.05)


LIKE_A_SITE = replace(QUICK, ranks=4, start_s=12, queue_s=60, starts=1, calls_per_s=30_000, bytes_per_s=100e9)


@pytest.mark.parametrize(
    ("machine", "spread", "changed"),
    [
        (replace(LIKE_A_SITE, nodes=1), Spread(tasks=1), {}),
        (replace(LIKE_A_SITE, nodes=8), Spread(tasks=8), {}),
        (replace(LIKE_A_SITE, nodes=8), Spread(tasks=2, nodes_of_task=4), {}),
        (replace(LIKE_A_SITE, nodes=4), Spread(tasks=12), {}),
        (replace(LIKE_A_SITE, nodes=2, limit_s=500, lead_s=60), Spread(tasks=2), {}),
        (replace(LIKE_A_SITE, nodes=8, calls_per_s=300), Spread(tasks=8), {"calls": 66.0}),
        (replace(LIKE_A_SITE, nodes=8, bytes_per_s=2e9), Spread(tasks=8), {"read_bytes": 1e9}),
        (replace(LIKE_A_SITE, nodes=8, node_bytes_per_s=0.2e9), Spread(tasks=8), {"read_bytes": 1e9}),
    ],
    ids=["a node", "nodes", "tasks of nodes", "rounds", "time limit", "metadata", "bytes", "links"],
)
def test_the_closed_form_of_plan_says_what_the_simulation_says(
    machine: Machine, spread: Spread, changed: dict[str, float]
) -> None:
    random = np.random.default_rng(2)
    shards = 1200
    uneven = Work(
        read_s=random.lognormal(0, 0.4, shards),
        device_s=2 * random.lognormal(0, 0.4, shards),
        read_bytes=np.full(shards, changed.get("read_bytes", 0.0)),
        calls=np.full(shards, changed.get("calls", 0.0)),
    )
    simulated = simulate(uneven, machine, spread)
    told = makespan(uneven.totals, machine, spread)
    assert told.end_s == pytest.approx(simulated.end_s, rel=0.05)
    assert told.efficiency == pytest.approx(simulated.efficiency, rel=0.05)
