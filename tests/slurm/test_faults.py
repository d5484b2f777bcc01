"""Whatever happens to a task on a cluster, the chain ends in the cube that a quiet machine makes, byte for byte."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.conftest import Campaign, cube_bytes
from tests.slurm.cluster import Cluster, wait_until

from embedcube.campaign_file import load_campaign
from embedcube.parts import Record, scan_records
from embedcube.plan import read_plan, read_shards

pytestmark = [pytest.mark.slurm, pytest.mark.chaos]

SHARDS = 30


@dataclass(frozen=True, kw_only=True)
class Started:
    """A chain whose task has written its first records, and has far to go."""

    campaign: Campaign
    jobs: dict[str, str]

    @property
    def records(self) -> list[Record]:
        """So far."""
        return [record for _, record in scan_records(self.campaign.run)]


def sleepy(campaign: Campaign) -> Campaign:
    """With the backbone that takes its time."""

    def change(document: dict[str, dict[str, dict[str, object]]]) -> None:
        document["layers"]["s2_mosaiks"] |= {"backbone": {"name": "sleepy"}, "chip_px": 160, "halo_px": 16}

    campaign.change(change)
    return campaign


@pytest.fixture(scope="session")
def quiet_cube(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the files of the cube are to be."""
    campaign = Campaign(tmp_path_factory.mktemp("quiet") / "campaign.yaml")
    campaign.file.write_text((demo_archive / "campaign.yaml").read_text())
    campaign.change(lambda document: document["archives"]["s2"].update(path=str(demo_archive / "archive")))
    sleepy(campaign).cli("run")
    return cube_bytes(campaign.run.newest_cube)


@pytest.fixture
def started(cluster: Cluster, demo: Campaign, site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Started]:
    """Submit one task of two nodes to a partition, and wait until it has recorded three shards."""

    def start(partition: str = "debug") -> Started:
        site.write_text(site.read_text().replace("partition: debug", f"partition: {partition}"))
        sleepy(demo).change(lambda document: document["how"].update(nodes=2, ranks=1, threads=2, site=str(site)))
        monkeypatch.setenv("SLEEPY_S", "0.5")
        asked = json.loads(demo.cli("submit", "--json"))
        begun = Started(campaign=demo, jobs={stage: ids[0] for stage, ids in asked["jobs"].items()})
        wait_until(lambda: len(begun.records) >= 3, "the first records", timeout_s=120)
        return begun

    return start


def assert_struck_amid(begun: Started) -> None:
    """The fault came after the first record and before the last."""
    assert 3 <= len(begun.records) < SHARDS - 4


def assert_ends_well(cluster: Cluster, begun: Started, quiet_cube: dict[str, str]) -> None:
    """The chain as it was submitted ends, and its cube is the quiet one."""
    assert cluster.wait(begun.jobs["verify"], timeout_s=240) == {"COMPLETED": 1}
    assert cube_bytes(begun.campaign.run.newest_cube) == quiet_cube


def ranks_on(cluster: Cluster, node: str) -> list[psutil.Process]:
    """The ranks that run on a node."""
    return [process for process in cluster.processes(node) if "embedcube.rank" in process.cmdline()]


def nodes_of(cluster: Cluster, job: str) -> list[str]:
    """Of a running job, the first one first: that is where the batch script and the counter are."""
    names = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    return cluster.run("scontrol", "show", "hostnames", names).split()


def test_a_killed_rank_costs_what_it_had_drawn(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    begun = started()
    victim = ranks_on(cluster, nodes_of(cluster, begun.jobs["embed"])[1])[0]
    assert_struck_amid(begun)
    victim.send_signal(signal.SIGKILL)
    assert_ends_well(cluster, begun, quiet_cube)
    attempts = {record.attempt for record in begun.records}
    assert len(attempts) == 2
    # the other rank did all the rest: the second attempt had only what the dead one had drawn, the group in hand and
    # the one that its reading thread had begun
    again = {record.recipe for record in begun.records if record.attempt == max(attempts)}
    run = begun.campaign.run
    groups = read_shards(run, read_plan(load_campaign(run.campaign), run), 0)
    assert sum(not again.isdisjoint(shard.recipe for shard in group) for group in groups) <= 2


@pytest.mark.slow
def test_a_warning_before_the_end_is_heeded(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    begun = started()
    assert_struck_amid(begun)
    cluster.run("scancel", "--signal=USR2", begun.jobs["embed"])
    assert_ends_well(cluster, begun, quiet_cube)
    assert len({record.attempt for record in begun.records}) == 2
    assert len(begun.records) == SHARDS  # what was in hand was finished, nothing was done twice


def test_preemption(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]) -> None:
    begun = started("low")
    assert_struck_amid(begun)
    cluster.run("srun", "--partition=high", "--nodes=4", "--exclusive", "true", timeout_s=120)
    assert_ends_well(cluster, begun, quiet_cube)
    assert len({record.attempt for record in begun.records}) == 2


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["the batch host", "another node"])
def test_a_power_cut(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str], which: int) -> None:
    begun = started()
    node = nodes_of(cluster, begun.jobs["embed"])[which]
    assert_struck_amid(begun)
    cluster.power_off(node)
    cluster.set_down(node)
    try:
        assert_ends_well(cluster, begun, quiet_cube)
    finally:
        cluster.power_on(node)
    assert len({record.attempt for record in begun.records}) == 2


@pytest.mark.slow
def test_two_attempts_alive_at_once(
    cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]
) -> None:
    """Slurm believes that a node is dead and requeues the task, while its processes go on."""
    begun = started()
    node = nodes_of(cluster, begun.jobs["embed"])[0]
    assert_struck_amid(begun)
    cluster.kill_slurmd(node)
    try:
        assert_ends_well(cluster, begun, quiet_cube)
    finally:
        cluster.start_slurmd(node)
        cluster.wait_for_node(node)


@pytest.mark.slow
def test_a_restarted_controller(cluster: Cluster, started: Callable[..., Started], quiet_cube: dict[str, str]) -> None:
    begun = started()
    assert_struck_amid(begun)
    cluster.restart_controller()
    assert_ends_well(cluster, begun, quiet_cube)
