"""The cluster of the tests behaves like a real one, as the other tests assume.

What only the slow tests of faults assume is slow too.
"""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.slurm.cluster import Cluster, processes_of, wait_until

pytestmark = pytest.mark.slurm


def test_two_nodes_are_two_hosts(cluster: Cluster) -> None:
    assert sorted(cluster.run("srun", "--nodes=2", "--ntasks-per-node=1", "hostname").split()) == ["n1", "n2"]


def test_every_element_of_an_array_ends(cluster: Cluster) -> None:
    job = cluster.submit(
        "[ $SLURM_ARRAY_TASK_ID != 5 ] && echo $CUDA_VISIBLE_DEVICES", "--array=0-7", "--gpus-per-node=2"
    )
    assert cluster.wait(job) == {"COMPLETED": 7, "FAILED": 1}
    assert {len(cluster.output(f"{job}_{i}").split(",")) for i in range(8) if i != 5} == {2}
    wait_until(lambda: {row["State"] for row in cluster.sacct(job, "State")} == {"COMPLETED", "FAILED"}, "accounts")
    ended = {row["JobID"]: row["ExitCode"] for row in cluster.sacct(job, "JobID", "ExitCode")}
    assert ended == {f"{job}_{i}": "1:0" if i == 5 else "0:0" for i in range(8)}


@pytest.mark.slow
def test_a_power_cut_is_seen(cluster: Cluster) -> None:
    job = cluster.submit("echo begun; sleep 300", "--nodelist=n4", "--no-requeue")
    wait_until(lambda: cluster.output(job), "the script's start")
    cluster.power_off("n4")
    cluster.set_down("n4")
    assert cluster.wait(job) == {"NODE_FAIL": 1}
    cluster.power_on("n4")
    assert cluster.run("srun", "--nodelist=n4", "hostname").strip() == "n4"


@pytest.mark.slow
def test_a_job_outlives_the_daemon_that_started_it(cluster: Cluster) -> None:
    job = cluster.submit("echo begun; while [ ! -e go ]; do sleep 0.1; done", "--nodelist=n3")
    wait_until(lambda: cluster.output(job), "the script's start")
    cluster.kill_slurmd("n3")
    names = []
    for process in cluster.processes("n3"):
        with suppress(psutil.NoSuchProcess):  # a command of the job may have ended
            names.append(process.name())
    assert "slurmd" not in names
    assert "slurmstepd" in names
    cluster.start_slurmd("n3")
    (cluster.jobs / "go").touch()
    assert cluster.wait(job) == {"COMPLETED": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "states"),
    [
        ("exit 75", ["FAILED"]),  # a job that ends by itself after the warning is not requeued
        ("scontrol requeue $SLURM_JOB_ID", ["REQUEUED", "COMPLETED"]),
        (": ignored", ["PREEMPTED", "COMPLETED"]),
    ],
)
def test_preemption_warns_then_requeues(cluster: Cluster, answer: str, states: list[str]) -> None:
    begin = f"trap '{answer}' TERM; echo start $SLURM_RESTART_COUNT"
    script = f"{begin}; [ $SLURM_RESTART_COUNT ] || while true; do sleep 0.1; done"
    options = ("--nodes=4", "--exclusive", "--signal=B:TERM@60", "--open-mode=append")
    job = cluster.submit(script, "--partition=low", *options)
    wait_until(lambda: cluster.output(job), "the script's start")
    assert cluster.run("srun", "--partition=high", "--nodes=4", "--exclusive", "echo", "first").split() == ["first"] * 4
    assert cluster.wait(job) == {states[-1]: 1}
    assert ("start 1" in cluster.output(job)) == (len(states) == 2)
    wait_until(lambda: [row["State"] for row in cluster.sacct(job, "State")] == states, f"accounts of {states}")


@pytest.mark.slow
def test_a_restarted_controller_knows_its_jobs(cluster: Cluster) -> None:
    job = cluster.submit("sleep 300")
    cluster.wait_for(job, "RUNNING")
    cluster.restart_controller()
    cluster.run("scancel", job)
    assert cluster.wait(job) == {"CANCELLED": 1}
    assert int(cluster.submit("true")) == int(job) + 1


OWNER = """
import sys
from tests.slurm.cluster import running_cluster
with running_cluster(nodes=1) as cluster:
    print(cluster.folder, flush=True)
    sys.stdin.read()
    raise SystemExit("a test failed")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("killed", [False, True])
def test_no_process_outlives_the_tests(killed: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().decode().strip())
        assert len(processes_of(folder)) > 5
        if killed:
            owner.kill()
    wait_until(lambda: not processes_of(folder), "the end of all processes")
    shutil.rmtree(folder)
