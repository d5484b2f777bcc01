"""The cube is the same for every kind of Dask cluster: processes, dask-jobqueue, one Slurm step, MPI."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Campaign, cube_bytes, run_cli
from tests.slurm.cluster import Cluster, wait_until

pytestmark = pytest.mark.slurm

EMBEDCUBE = Path(sys.executable).parent / "embedcube"
SLOW = Path(__file__).parent / "slow"

SHORT_ADDRESSES = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
"""Addresses of UCX take several lines of PMI-1, which Slurm's pmi2 sometimes cuts: MPI_Init would then never return."""


def use(campaign: Campaign, kind: str) -> None:
    """Let the campaign be consolidated by two Dask workers of this kind."""
    campaign.change(lambda document: document["how"].update(dask={"kind": kind, "workers": 2, "threads": 1}))


@pytest.mark.parametrize("kind", [pytest.param("processes", marks=pytest.mark.slow), "slurm_cluster"])
@pytest.mark.usefixtures("cluster")
def test_workers_that_the_client_starts(embedded: Campaign, finished_demo: Campaign, kind: str) -> None:
    use(embedded, kind)
    done = run_cli("consolidate", embedded.file)
    assert done.returncode == 0, done.stderr
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    jobs = list(embedded.run.job_logs.glob("dask-worker-*.err"))
    assert bool(jobs) == (kind == "slurm_cluster")
    report = embedded.run.dask_report.read_text()
    assert "assembled" in report
    assert not re.search(r"<script[^>]*\bsrc=", report)  # the report opens without internet


@pytest.mark.parametrize(
    ("kind", "mpi"), [("slurm_runner", "none"), pytest.param("mpi", "pmi2", marks=pytest.mark.slow)]
)
def test_workers_that_are_started_beside_the_client(
    cluster: Cluster, embedded: Campaign, finished_demo: Campaign, kind: str, mpi: str
) -> None:
    use(embedded, kind)
    step = ("srun", f"--mpi={mpi}", "--nodes=2", "--ntasks-per-node=2", "--mem=3G", "--kill-on-bad-exit=0")
    said = cluster.run(*step, str(EMBEDCUBE), "consolidate", str(embedded.file), extra=SHORT_ADDRESSES, timeout_s=240)
    assert said.count("version") == 1  # one of the four was the client
    assert embedded.run.dask_report.exists()
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


@pytest.mark.slow
def test_a_lost_worker_costs_nothing(cluster: Cluster, embedded: Campaign, finished_demo: Campaign) -> None:
    use(embedded, "slurm_cluster")
    environment = os.environ | {"PYTHONPATH": f"{SLOW}{os.pathsep}{os.environ['PYTHONPATH']}"}
    with subprocess.Popen(
        [EMBEDCUBE, "consolidate", embedded.file], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        wait_until(lambda: len(list(embedded.run.cubes.rglob("c.*"))) > 2, "the first objects", timeout_s=180)
        victim = cluster.run("squeue", "--noheader", "--states=RUNNING", "--name=dask-worker", "--format=%A").split()[0]
        cluster.run("scancel", "--signal=KILL", "--full", victim)
        assert not embedded.run.newest_cube.exists()
        _, said = running.communicate(timeout=240)
    assert running.returncode == 0, said
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
