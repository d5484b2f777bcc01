"""Faults on a cluster: whatever happens to a task, the chain of jobs makes the same cube, byte for byte."""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.conftest import Campaign, cube_bytes, demo_in
from tests.slurm.chain import first_round, wait_for_cube
from tests.slurm.cluster import Cluster, wait_until

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record
from embedcube.campaign.plan import read_plan, read_shards

pytestmark = [pytest.mark.slurm, pytest.mark.chaos]

SHARDS = 30


@dataclass(frozen=True, kw_only=True)
class Started:
    """A submitted chain of jobs whose task has written its first records but is far from its end."""

    campaign: Campaign
    jobs: dict[str, str]
    submitted: float
    """time of `submit`, as time.monotonic() gives it"""

    @property
    def records(self) -> list[Record]:
        """The records of the first round so far."""
        return first_round(self.campaign)


def sleepy(campaign: Campaign) -> Campaign:
    """The campaign, changed to use the slow backbone `sleepy`."""

    def change(document: dict[str, dict[str, dict[str, object]]]) -> None:
        document["layers"]["s2_mosaiks"] |= {"backbone": {"name": "sleepy"}, "chip_px": 160, "halo_px": 16}

    campaign.change(change)
    return campaign


@pytest.fixture(scope="session")
def quiet_cube(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the cube's files as a run without faults makes them."""
    campaign = sleepy(demo_in(tmp_path_factory.mktemp("quiet"), demo_archive))
    campaign.cli("run")
    return cube_bytes(campaign.run.newest_cube)


@pytest.fixture
def started(cluster: Cluster, demo: Campaign, site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Started]:
    """A function that submits one task with two nodes to a partition, and waits for three records."""

    def start(partition: str = "debug", batch_s: float = 0.5) -> Started:
        site.write_text(site.read_text().replace("partition: debug", f"partition: {partition}"))
        sleepy(demo).change(lambda document: document["how"].update(nodes=2, ranks=1, threads=2, site=str(site)))
        monkeypatch.setenv("SLEEPY_S", f"{batch_s}")
        demo.cli("run", "--until", "plan")
        submitted = time.monotonic()
        asked = json.loads(demo.cli("submit", "--json"))
        jobs = {stage: ids[0] for stage, ids in asked["jobs"].items()}
        begun = Started(campaign=demo, jobs=jobs, submitted=submitted)
        wait_until(lambda: len(begun.records) >= 3, "the first records", timeout_s=120)
        return begun

    return start


def assert_struck_amid(begun: Started) -> None:
    """The fault came after the first record and before the last."""
    assert 3 <= len(begun.records) < SHARDS - 4


def assert_ends_well(cluster: Cluster, begun: Started, quiet_cube: dict[str, str], *starts: str) -> None:
    """The chain ends, its cube is right, and Slurm accounts for each start of the task with the state in `starts`."""
    wait_for_cube(cluster, begun.campaign)
    # figures of the table in docs/slurm.md
    print(f"{time.monotonic() - begun.submitted:.0f} s from submission to the end of verification")
    print(begun_and_ended(cluster, begun))
    wait_until(lambda: became(cluster, begun) == list(starts), f"accounts of {starts}: {became(cluster, begun)}")
    assert cube_bytes(begun.campaign.run.newest_cube) == quiet_cube


def became(cluster: Cluster, begun: Started) -> list[str]:
    """The final state of each start of the task, in order."""
    return [row["State"].split()[0] for row in cluster.sacct(begun.jobs["embed"], "State")]


def begun_and_ended(cluster: Cluster, begun: Started) -> str:
    """State, start, end and nodes of each start of the task, from sacct."""
    rows = cluster.sacct(begun.jobs["embed"], "State", "Start", "End", "NodeList")
    return "\n".join(" ".join(row.values()) for row in rows)


def ranks_on(cluster: Cluster, node: str) -> list[psutil.Process]:
    """The processes of ranks on a node."""
    return [process for process in cluster.processes(node) if process.name().startswith("rank ")]


def nodes_of(cluster: Cluster, job: str) -> list[str]:
    """The nodes of a running job; the batch script and the shared store are on the first one."""
    names = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    return cluster.run("scontrol", "show", "hostnames", names).split()


@pytest.mark.slow
def test_nothing_happens(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]) -> None:
    begun = started()
    assert_ends_well(cluster, begun, quiet_cube, "COMPLETED")
    assert len({record.attempt for record in begun.records}) == 1


@pytest.mark.slow
def test_a_killed_rank_costs_what_it_had_drawn(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    begun = started()
    victim = ranks_on(cluster, nodes_of(cluster, begun.jobs["embed"])[1])[0]
    assert_struck_amid(begun)
    victim.send_signal(signal.SIGKILL)
    assert_ends_well(cluster, begun, quiet_cube, "REQUEUED", "COMPLETED")
    attempts = {record.attempt for record in begun.records}
    assert len(attempts) == 2
    # the other rank embedded all the rest: the second attempt had only what the killed rank had drawn, which is the
    # group that it was embedding and the one that its reading thread had begun
    again = {record.recipe for record in begun.records if record.attempt == max(attempts)}
    run = begun.campaign.run
    groups = read_shards(run, read_plan(load_campaign(run.campaign), run), 0)
    assert sum(not again.isdisjoint(shard.recipe for shard in group) for group in groups) <= 2


@pytest.mark.slow
def test_a_warning_before_the_time_limit_stops_the_task_cleanly(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    begun = started()
    assert_struck_amid(begun)
    cluster.run("scancel", "--signal=USR2", begun.jobs["embed"])
    assert_ends_well(cluster, begun, quiet_cube, "REQUEUED", "COMPLETED")
    assert len({record.attempt for record in begun.records}) == 2
    assert len(begun.records) == SHARDS  # the shards that were begun were finished, and no shard was embedded twice


@pytest.mark.slow
def test_preemption(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]) -> None:
    begun = started("low")
    assert_struck_amid(begun)
    cluster.run("srun", "--partition=high", "--nodes=4", "--exclusive", "true", timeout_s=120)
    assert_ends_well(cluster, begun, quiet_cube, "REQUEUED", "COMPLETED")
    assert len({record.attempt for record in begun.records}) == 2


@pytest.mark.slow
def test_preemption_without_grace(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    """The ranks are killed with what they have in progress; the second start does that again, and the rest."""
    begun = started("graceless")
    assert_struck_amid(begun)
    cluster.run("srun", "--partition=high", "--nodes=4", "--exclusive", "true", timeout_s=120)
    assert_ends_well(cluster, begun, quiet_cube, "PREEMPTED", "COMPLETED")
    assert len({record.attempt for record in begun.records}) == 2
    assert "next: nothing is left to do" in begun.campaign.cli("status")


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["the batch host", "another node"])
def test_a_power_cut(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str], which: int) -> None:
    begun = started()
    node = nodes_of(cluster, begun.jobs["embed"])[which]
    assert_struck_amid(begun)
    cluster.power_off(node)
    cluster.set_down(node)
    try:
        assert_ends_well(cluster, begun, quiet_cube, "NODE_FAIL", "COMPLETED")
    finally:
        cluster.power_on(node)
    assert len({record.attempt for record in begun.records}) == 2


@pytest.mark.slow
def test_two_attempts_alive_at_once(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    """Slurm takes a node for dead and requeues the task, while the processes on the node continue."""
    begun = started(batch_s=1.5)
    node = nodes_of(cluster, begun.jobs["embed"])[0]
    assert_struck_amid(begun)
    first = begun.records[0].attempt
    cluster.kill_slurmd(node)
    cluster.set_down(node)
    assert ranks_on(cluster, node)
    try:
        assert_ends_well(cluster, begun, quiet_cube, "NODE_FAIL", "COMPLETED")
    finally:
        cluster.start_slurmd(node)
        cluster.wait_for_node(node)
    # both attempts wrote at the same time, some shards twice
    old, new = ([r for r in begun.records if (r.attempt == first) == same] for same in (True, False))
    assert max(r.finished for r in old) > min(r.started for r in new)
    assert {r.recipe for r in old} & {r.recipe for r in new}
    assert node not in {r.host for r in new}


@pytest.mark.slow
def test_a_restarted_controller(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]) -> None:
    begun = started()
    assert_struck_amid(begun)
    cluster.restart_controller()
    assert_struck_amid(begun)  # the controller was back before the task ended
    assert_ends_well(cluster, begun, quiet_cube, "COMPLETED")
