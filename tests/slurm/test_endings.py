"""How jobs of a campaign end when something stops them: `status` names it and the next move, and nothing is left."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.conftest import Campaign, call_cli, cube_bytes
from tests.slurm.chain import wait_for_cube
from tests.slurm.cluster import Cluster, wait_until

from embedcube.campaign.run_folder import TEMPORARY_PREFIX

pytestmark = [pytest.mark.slurm, pytest.mark.chaos]

HERE = Path(__file__).parent


@pytest.fixture
def with_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that puts a folder with a `sitecustomize.py` on the path of all jobs submitted from now on."""

    def put(name: str) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{HERE / name}", prepend=os.pathsep)

    return put


def submit(campaign: Campaign) -> dict[str, str]:
    """Submit what is left; returns the id of the job of each stage."""
    jobs = json.loads(campaign.cli("submit", "--json"))["jobs"]
    return {stage: ids[0] for stage, ids in jobs.items()}


def watch(campaign: Campaign) -> tuple[int, str]:
    """The exit code of `status --watch`, and the last status that it printed."""
    ended = call_cli("status", campaign.file, "--watch")
    *_, words, move = ("\n" + ended.stdout).split("\nnext: ")
    last = "\n".join(words.splitlines()[-12:]) + f"\nnext: {move}"
    print(last)
    return ended.returncode, last


def assert_ends_well(cluster: Cluster, campaign: Campaign, finished_demo: Campaign, began: float) -> None:
    """A second `submit` makes the cube, and leaves nothing that was begun before."""
    submit(campaign)
    wait_for_cube(cluster, campaign)
    print(f"{time.monotonic() - began:.0f} s from the second submission to the end of verification")
    code, said = watch(campaign)
    assert code == 0
    assert said.splitlines()[-1].startswith("next: nothing is left to do")
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    assert list(campaign.run.cubes.glob(f"{TEMPORARY_PREFIX}*")) == []
    assert not campaign.run.submit_lock.exists()
    assert cluster.run("squeue", "--noheader").strip() == ""


@pytest.mark.slow
def test_a_consolidation_that_is_killed_is_named(
    cluster: Cluster, embedded: Campaign, finished_demo: Campaign, with_folder: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = os.environ["PYTHONPATH"]
    with_folder("slow")
    jobs = submit(embedded)
    wait_until(lambda: len(list(embedded.run.cubes.rglob("c.*"))) > 2, "the first objects", timeout_s=180)
    node = cluster.run("squeue", "--noheader", f"--jobs={jobs['consolidate']}", "--format=%N").strip()
    [victim] = [p for p in cluster.processes(node) if "consolidate" in p.cmdline() and "python" in p.name()]
    victim.send_signal(signal.SIGKILL)
    code, said = watch(embedded)
    assert code == 1
    job = jobs["consolidate"]
    assert (
        f"consolidate job {job}: failed: consolidate was killed by signal 9; if it was out of memory, write more memory"
        in said
    )
    assert said.splitlines()[-1].endswith("makes the cube: every shard has a record")
    assert cluster.wait(jobs["verify"]) == {"CANCELLED": 1}
    monkeypatch.setenv("PYTHONPATH", before)
    assert_ends_well(cluster, embedded, finished_demo, time.monotonic())


@pytest.mark.slow
def test_a_consolidation_that_is_out_of_memory_is_named(
    cluster: Cluster, embedded: Campaign, finished_demo: Campaign, site: Path, with_folder: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before, enough = os.environ["PYTHONPATH"], site.read_text()
    site.write_text(yaml.safe_dump(yaml.safe_load(enough) | {"mem_gb_per_node": 1}))
    with_folder("hungry")
    jobs = submit(embedded)
    code, said = watch(embedded)
    assert code == 1
    print(cluster.run("sacct", f"--jobs={jobs['consolidate']}", "--format=JobID,State,ExitCode"))
    assert f"consolidate job {jobs['consolidate']}: out of memory; write more memory in the site's file" in said
    assert "next: write more memory in the site's file (cpu_nodes.mem_gb_per_node, or mem_gb_per_node); then" in said
    monkeypatch.setenv("PYTHONPATH", before)
    site.write_text(enough)
    assert_ends_well(cluster, embedded, finished_demo, time.monotonic())


@pytest.mark.slow
def test_a_walltime_that_is_shorter_than_the_start_is_named(
    cluster: Cluster, demo: Campaign, site: Path, with_folder: Callable[[str], None]
) -> None:
    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | {"time_min": 2, "resubmissions": 0}))
    demo.change(lambda document: document["how"].update(ranks=1, threads=1, site=str(site)))
    demo.cli("run", "--until", "plan")
    with_folder("late")
    began = time.monotonic()
    jobs = submit(demo)
    code, said = watch(demo)
    print(f"{time.monotonic() - began:.0f} s from submission to the end of watching")
    assert code == 1
    assert "has made nothing new in two starts, and is not started again: the time of the job ends before" in said
    assert "write more minutes in how.time_min" in said
    assert "next: write more minutes in how.time_min; then `embedcube submit" in said
    states = [row["State"] for row in cluster.sacct(jobs["embed"], "State")]
    print(states)
    assert len(states) == 2
    assert cluster.wait(jobs["consolidate"]) == {"FAILED": 1}
    assert not list(demo.run.job_logs.glob("starts-*"))
    assert cluster.run("squeue", "--noheader").strip() == ""


def test_without_a_plan_nothing_is_started(cluster: Cluster, demo: Campaign, site: Path, demo_archive: Path) -> None:
    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | {"prepare_in_job": True}))
    archive = demo.file.parent / "moved"
    archive.symlink_to(demo_archive / "archive" / "sentinel2")
    demo.change(lambda document: document["archives"]["s2"].update(path=str(archive)))
    demo.change(lambda document: document["how"].update(ranks=1, threads=1, site=str(site)))
    gone = demo.file.parent / "empty"
    gone.mkdir()
    # the archive is there when it is submitted, and not when the job looks for scenes
    asked = cluster.run("sbatch", "--parsable", "--exclusive", "--nodes=4", text="#!/bin/bash\nsleep 600\n").strip()
    cluster.wait_for(asked, "RUNNING")
    jobs = submit(demo)
    archive.unlink()
    archive.symlink_to(gone)
    cluster.run("scancel", asked)
    code, said = watch(demo)
    assert code == 1
    assert f"prepare job {jobs['prepare']}: failed: archives.s2: no scene found in" in said
    assert "no plan was made" in said.splitlines()[-1]
    for stage in ("embed", "consolidate", "verify"):
        assert cluster.wait(jobs[stage]) == {"CANCELLED": 1}
        assert not list(demo.run.job_logs.glob(f"{jobs[stage]}_*_log.out")), "it never ran"
