"""How long a campaign takes, and what `plan` proposes for a site: against what can be worked out by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.conftest import Campaign

from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Plan, read_plan
from embedcube.campaign.price import to_move
from embedcube.campaign.schema import Campaign as Document
from embedcube.campaign.site import Site
from embedcube.prepare.makespan import Machine, Spread, Totals, makespan
from embedcube.prepare.proposal import Proposal, in_words, propose, totals_of

EIGHT_HOURS = Totals(shards=1000, rank_s=8000, device_s=8000, longest_s=8, read_bytes=0, calls=0)
FOUR_NODES = Machine(nodes=4, ranks=2, start_s=10, starts=0, queue_s=60)


@pytest.mark.parametrize(
    ("machine", "tasks", "end_s", "jobs"),
    [
        # 8,000 s on 8 ranks, and half of the longest shard for one of two ranks: 1,002 s
        (FOUR_NODES, 4, 60 + 10 + 1002, 1),
        # each node has two tasks one after the other, and the queue is waited for meanwhile; of the 125 shards of a
        # task one rank has 63, which are 504 s
        (FOUR_NODES, 8, 60 + 2 * (10 + 504), 1),
        # of 600 s a job has 490 for shards
        (replace(FOUR_NODES, limit_s=600, lead_s=100), 4, 3 * (60 + 10) + 1002, 3),
        # four nodes that start ask 8,000 times, and get 1,000 answers a second
        (replace(FOUR_NODES, starts=2, start_calls=1000, calls_per_s=1000), 4, 60 + 10 + 8 + 1002, 1),
    ],
    ids=["a task a node", "two tasks a node", "a short time limit", "starts that ask"],
)
def test_the_end_is_what_it_is_by_hand(machine: Machine, tasks: int, end_s: float, jobs: int) -> None:
    found = makespan(EIGHT_HOURS, machine, Spread(tasks=tasks))
    assert found.end_s == pytest.approx(end_s)
    assert found.jobs_of_task == jobs
    # all ranks are held from the start of their jobs, not while these wait
    if jobs == 1:
        assert found.efficiency == pytest.approx(8000 / (8 * (end_s - 60)))


def test_what_decides_is_named() -> None:
    def limit(tasks: int = 4, machine: Machine = FOUR_NODES, **changed: float) -> tuple[str, float]:
        found = makespan(replace(EIGHT_HOURS, **changed), machine, Spread(tasks=tasks))  # type: ignore[arg-type]
        return found.limit, found.end_s

    assert limit()[0] == "work"
    assert limit(longest_s=4000) == ("shards", 60 + 10 + 4000), "no rank can end before its shard"
    assert limit(calls=90e6) == ("metadata", 60 + 10 + 3000), "30,000 calls a second"
    assert limit(read_bytes=80e12) == ("bytes", 60 + 10 + 2000), "four nodes of 10 GB a second"
    assert limit(machine=replace(FOUR_NODES, start_s=5000))[0] == "start"


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="a task of 5 nodes does not fit on 4"):
        makespan(EIGHT_HOURS, FOUR_NODES, Spread(tasks=1, nodes_of_task=5))
    with pytest.raises(ValueError, match="a job of 300 s ends before its ranks begin, after 10 s"):
        makespan(EIGHT_HOURS, replace(FOUR_NODES, limit_s=300), Spread(tasks=1))


Planned = Callable[..., tuple[Document, Plan]]


@pytest.fixture
def planned(finished_demo: Campaign) -> Planned:
    """The demo and its plan, as of so many hours of nodes that have four ranks of one core each, and read nothing."""
    loaded = load_campaign(finished_demo.file)
    made = read_plan(loaded, finished_demo.run)

    def change(node_hours: float, *, shards: int = 100_000, longest_s: float = 10, **how: Any) -> tuple[Document, Plan]:
        price = replace(
            made.price,
            shards=shards,
            device_s=4 * 3600 * node_hours,
            longest_s=longest_s,
            decoded_bytes=0,
            reads=0,
        )
        layers = {name: replace(layer, better_chips=0) for name, layer in made.layers.items()}
        fixed = loaded.how.model_copy(update={"ranks": 4, "threads": 1, "tasks": 1, "nodes": 1, "mem_gb": 1.0} | how)
        return loaded.model_copy(update={"how": fixed}), replace(made, price=price, layers=layers)

    return change


def site(**changed: Any) -> Site:
    described = {"site": "lab", "cpus_per_node": 4, "mem_gb_per_node": 16, "max_time_min": 1440}
    return Site.model_validate(described | changed)


def proposed(planned: tuple[Document, Plan], place: Site) -> Proposal:
    found = propose(*planned, place)
    assert found is not None
    return found


def test_the_fewest_nodes_that_end_within_an_hour(planned: Planned) -> None:
    """20 hours of a node on 21 are 57 min 9 s; the queue, the start, and half of the last shard make 1.6 min more."""
    found = proposed(planned(20), site())
    assert (found.tasks, found.nodes, found.nodes_at_once) == (21, 1, 21)
    assert found.ends.end_s == pytest.approx(60 + 12 + 21 + 20 * 3600 / 21 + 10 * 0.75 / 2)
    # twice the time of a task, and the lead of 5 min: 120.4 min
    assert found.time_min == 180
    # in jobs of an hour, of which 3,287 s remain: 22 of them
    assert found.as_set is not None
    assert found.as_set.end_s == pytest.approx(22 * (60 + 12 + 1) + 20 * 3600 + 3.75)
    assert not found.same
    assert in_words(found, *planned(20)) == [
        "for lab: `tasks: 21`, `nodes: 1`, `time_min: 180` end in about 59 min, 21 nodes at once, ranks work 99 % "
        "of the time",
        "as set (`tasks: 1`, `nodes: 1`) it ends in about 20.4 h, ranks work 100 %",
    ]


def test_what_is_set_well_stays(planned: Planned) -> None:
    """Thirty tasks where 21 would do: they end earlier, and their ranks work nearly as much."""
    found = proposed(planned(20, tasks=30, time_min=200), site())
    assert (found.tasks, found.nodes_at_once, found.same) == (30, 30, True)
    # twice 12 + 30 + 2,400 + 3.75 s, and the lead: 86.5 min
    assert found.time_min == 90
    # at once ten of them may run, and that takes hours
    assert proposed(planned(20, tasks=30, time_min=200, parallel=10), site()).same
    # ranks that start 1,000 times wait for metadata, and work less than half of the time
    assert proposed(planned(20, tasks=1000, time_min=200), site(parallel=1000)).tasks == 21


def test_a_small_campaign_is_one_task(planned: Planned) -> None:
    """Thirty shards of 4.8 s: some of four ranks have eight. With the queue and the start that is 111 s."""
    found = proposed(planned(0.01, shards=30, longest_s=2), site())
    assert (found.tasks, found.nodes, found.time_min, found.same) == (1, 1, 10, True)
    assert in_words(found, *planned(0.01))[0] == (
        "for lab: `tasks: 1`, `nodes: 1` as set end in about 111 s; `time_min: 10` is enough for a task"
    )


def test_tasks_are_short_enough_for_the_site_and_no_more_than_it_allows(planned: Planned) -> None:
    """Ten tasks at once: 1,000 hours of a node would take more than a day on 40 nodes, 48 are the next."""
    found = proposed(planned(1000), site(parallel=10, max_time_min=600))
    assert found.nodes_at_once == 48
    assert found.nodes in (8, 16)
    assert found.ends.end_s < 86_400
    alone = proposed(planned(200), site(parallel=10, max_time_min=600))
    assert (alone.nodes, alone.nodes_at_once) == (1, 10)
    assert alone.ends.end_s < 86_400
    assert (2 * alone.ends.task_s + 300) / 60 <= alone.time_min <= 600
    assert alone.tasks % 10 == 0
    few = proposed(planned(200), site(parallel=10, max_time_min=600, max_array=12))
    assert few.tasks == 10, "the array has no room for a second task on each node"


def test_more_nodes_than_shards_keep_busy_are_not_proposed(planned: Planned) -> None:
    """Forty shards of two hours: on 24 ranks some have two of them, and on 28 these would cost too much."""
    few = planned(20, shards=40, longest_s=7200)
    found = proposed(few, site())
    assert found.nodes_at_once == 6
    assert found.ends.end_s == pytest.approx(60 + 12 + 6 + 80 * 3600 / 24 + 7200 * 0.75 / 2)
    assert found.shard_chips == {"s2_mosaiks": 1}, "of three along a side: nine times as many"
    assert in_words(found, *few)[-1] == "layers.s2_mosaiks: with `shard_chips: 1` it would end earlier there"
    smaller = proposed(planned(20, shards=360, longest_s=800), site())
    assert (smaller.nodes_at_once, smaller.shard_chips) == (23, {})
    assert smaller.ends.end_s < 3600


def test_shards_that_decode_less_are_proposed_and_said_once(planned: Planned) -> None:
    """`plan` has said in words which these are, with how much less they decode."""
    campaign, plan = planned(1)
    (name,) = plan.layers
    plan = replace(plan, layers={name: replace(plan.layers[name], better_chips=24)})
    found = proposed((campaign, plan), site())
    assert found.shard_chips == {name: 24}
    assert not any("shard_chips" in line for line in in_words(found, campaign, plan))


def test_what_a_rank_does_beside_its_device(planned: Planned) -> None:
    """On a CPU decoding takes the cores of the forward pass; beside a GPU it does not."""
    campaign, plan = planned(1, threads=2)
    plan = replace(plan, price=replace(plan.price, device_s=100, decoded_bytes=60e9, reads=7, shards=11))
    found = totals_of(plan.price, campaign)
    # 600 s of a core are 300 s of a rank with two
    assert (found.rank_s, found.device_s, found.calls) == (400, 400, 3 * 7 + 3 * 11)
    gpu = campaign.model_copy(update={"how": campaign.how.model_copy(update={"device": "cuda"})})
    found = totals_of(plan.price, gpu)
    assert (found.rank_s, found.device_s) == (300, 100)


def test_jobs_that_end_before_they_begin_get_no_proposal(planned: Planned) -> None:
    assert propose(*planned(1), site(max_time_min=5, time_min=5)) is None


def test_what_the_cube_saves_is_said_where_it_is_much(finished_demo: Campaign) -> None:
    price = read_plan(load_campaign(finished_demo.file), finished_demo.run).price
    assert to_move(price) == [], "the demo's inputs are some megabytes"
    large = replace(price, cube_bytes=41e9, input_bytes=2.3e12)
    assert to_move(large) == ["the cube weighs 41.0 GB, its inputs 2.30 TB: 56.1 times less to move"]
    assert to_move(replace(large, cube_bytes=4.6e12))[0].endswith(": 2 times more to move")
    assert to_move(replace(large, cube_bytes=2.4e12))[0].endswith(": about as much to move")
    assert to_move(replace(large, input_bytes=0)) == []
    assert to_move(replace(large, cube_bytes=2.2e12, input_bytes=22e15))[0].split(": ")[0].endswith("22.00 PB")


def test_plan_prints_it_where_there_is_a_site(finished: Campaign) -> None:
    described = {"site": "lab", "cpus_per_node": 2, "mem_gb_per_node": 8, "max_time_min": 60, "time_min": 30}
    place = finished.file.with_name("lab.yaml")
    place.write_text(yaml.safe_dump(described))
    said = finished.cli("plan")
    assert "`tasks:" not in said
    assert "to move" not in said
    finished.change(lambda document: document["how"].update(executor="slurm", site=str(place), tasks=3))
    assert "for lab: `tasks: 1`, `nodes: 1`, `time_min: 10` end in about " in finished.cli("plan")
    answer = json.loads(finished.cli("plan", "--json"))
    assert (answer["proposal"]["tasks"], answer["proposal"]["time_min"]) == (1, 10)
    assert answer["proposal"]["ends"]["limit"] in ("work", "start", "shards")
    assert answer["price"]["input_bytes"] > 0
