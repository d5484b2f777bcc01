"""What a batch script decides after its command: start again, or give up by name."""

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.site import Site
from embedcube.jobs import slurm
from embedcube.jobs.script import Job, after, before
from embedcube.jobs.slurm import given_environment, setup_lines

Put = Callable[[str, str], None]


@pytest.fixture
def run(tmp_path: Path, stand_in: Put) -> RunDir:
    """A run folder; what scontrol is asked is in `tmp_path / "asked"`."""
    stand_in("scontrol", f'echo "$@" >> {tmp_path}/asked')
    stand_in("squeue", "exit 1")
    folder = RunDir(tmp_path / "a run")
    folder.job_logs.mkdir(parents=True)
    return folder


def site(**keys: Any) -> Site:
    return Site.model_validate({"site": "lab", "cpus_per_node": 2, "mem_gb_per_node": 8, "max_time_min": 60} | keys)


def start(job: Job, run: RunDir, command: str, restarts: int, lab: Site | None = None, left_s: int = 3000) -> Any:
    """Run the batch script of a job whose command is `command`."""
    lab = lab or site()
    lines = before(job, lab, run, first=0, host=[])
    lines += [command, *after(job, lab, lead_s=60, minutes="how.time_min")]
    numbers = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    numbers |= {"SLURM_RESTART_COUNT": f"{restarts}"} if restarts else {}
    environment = os.environ | numbers | {"SLURM_JOB_END_TIME": f"{int(time.time()) + left_s}"}
    text = "\n".join(["set -u", *lines])
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment, check=False)


def new_record(run: RunDir, name: str = "records.jsonl") -> str:
    """A command that adds to the records of task 3."""
    part = run.part(3, "9-0-x", 0)
    part.mkdir(parents=True, exist_ok=True)
    return f"echo one >> '{part / name}'; (exit 75)"


EMBED = Job(stage="embed", command=("embed",), tasks=(3,))
IN_VAIN = "(exit 75)"


def test_two_starts_in_vain_are_enough(run: RunDir, tmp_path: Path) -> None:
    first = start(EMBED, run, IN_VAIN, 0)
    assert (first.returncode, first.stdout, first.stderr) == (75, "", "")
    assert (tmp_path / "asked").read_text() == "requeue 7_3\n"
    second = start(EMBED, run, IN_VAIN, 1)
    assert second.returncode == 1
    assert second.stdout == (
        "embedcube: embed 7_3 has made nothing new in two starts, and is not started again: the lines above say why\n"
    )
    assert (tmp_path / "asked").read_text() == "requeue 7_3\n"
    assert not list(run.job_logs.iterdir())


def test_a_walltime_that_is_shorter_than_the_start_is_named(run: RunDir) -> None:
    start(EMBED, run, IN_VAIN, 0, left_s=55)
    second = start(EMBED, run, IN_VAIN, 1, left_s=55)
    assert second.returncode == 1
    assert (
        "not started again: the time of the job ends before anything is done (its warning comes 60 s ahead): "
        "write more minutes in how.time_min" in second.stdout
    )


@pytest.mark.parametrize("name", ["records.jsonl", "crash.json"])
def test_starts_that_make_something_go_on(run: RunDir, tmp_path: Path, name: str) -> None:
    """A crash is something new: it leads to the shard that is the cause."""
    for restarts, command in enumerate([IN_VAIN, new_record(run, name), IN_VAIN, new_record(run, name), IN_VAIN]):
        assert start(EMBED, run, command, restarts).returncode == 75
    assert start(EMBED, run, IN_VAIN, 5).returncode == 1
    assert len((tmp_path / "asked").read_text().splitlines()) == 5


def test_a_job_with_the_number_of_an_older_one_begins_anew(run: RunDir) -> None:
    """A cluster that is set up again counts from 1."""
    start(EMBED, run, IN_VAIN, 0)
    assert start(EMBED, run, IN_VAIN, 0).returncode == 75
    assert start(EMBED, run, IN_VAIN, 1).returncode == 1


def test_the_site_bounds_the_starts(run: RunDir, tmp_path: Path) -> None:
    few = site(max_requeues=1)
    assert start(EMBED, run, new_record(run), 0, few).stdout == ""
    last = start(EMBED, run, new_record(run), 1, few)
    assert last.stdout == "embedcube: embed 7_3 is not started again after 1 times (max_requeues of the site)\n"
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


@pytest.mark.parametrize(("task", "name"), [(3, "records.jsonl"), (3, "crash.json"), (4, "records.jsonl")])
def test_the_plain_batch_file_counts_its_own_task(
    run: RunDir, stand_in: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: int, name: str
) -> None:
    """What another task records is no progress of this one, which would be started again twenty times."""
    part = run.part(task, "9-0-x", 0)
    part.mkdir(parents=True)
    # `done` counts the records of all tasks
    said = f'"{{\\"done\\": $(cat {shlex.quote(str(run.parts))}/*/*/*/* | wc -l), \\"logs\\": \\"{run.logs}\\"}}"'
    stand_in("embedcube", f"echo {said}")
    stand_in("srun", f"echo one >> {shlex.quote(str(part / name))}; exit 75")
    for variable in ("SLURM_ARRAY_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_RESTART_COUNT"):
        monkeypatch.setenv(variable, "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    words = ["bash", str(ROOT / "slurm" / "embed.sbatch"), "campaign.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")
    assert (tmp_path / "asked").exists() == (task == 3)
    assert ("has made nothing new" in done.stdout) == (task != 3)


@pytest.mark.parametrize("stage", ["prepare", "consolidate", "verify"])
def test_other_stages_are_bounded_too(run: RunDir, stage: str) -> None:
    job = Job(stage=stage, command=(stage,))
    made = {
        "prepare": f"touch '{run.inventory}'; {IN_VAIN}",
        "consolidate": f'd=\'{run.cubes}/.tmp-v.9-a.zarr/a\'; mkdir -p "$d"; touch "$d/c.$RANDOM$RANDOM"; {IN_VAIN}',
        "verify": IN_VAIN,
    }[stage]
    assert start(job, run, made, 0).returncode == 75
    if stage != "verify":
        assert start(job, run, IN_VAIN, 1).returncode == 75
    assert start(job, run, IN_VAIN, 2).returncode == 1


def test_a_killed_command_is_named(run: RunDir) -> None:
    job = Job(stage="consolidate", command=("consolidate",))
    done = start(job, run, "(exit 137)", 0)
    assert done.returncode == 137
    assert done.stdout == "embedcube: consolidate was killed by signal 9\n"
    assert not list(run.job_logs.iterdir())


def test_what_embedcube_sets_for_one_processor_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch hands its environment on: a value for the login node's processor would reach all others."""
    (tmp_path / "environ").write_bytes(b"A=1\0MKL_CBWR=AVX2\0B=\0")
    assert given_environment(tmp_path / "environ") == {"A": "1", "MKL_CBWR": "AVX2", "B": ""}
    monkeypatch.setattr(slurm, "given_environment", lambda: {"A": "1"})
    assert setup_lines(site(environment={"MKL_CBWR": "AVX2"})) == ["unset MKL_CBWR", "export MKL_CBWR=AVX2"]
    monkeypatch.setattr(slurm, "given_environment", lambda: {"MKL_CBWR": "COMPATIBLE"})
    assert setup_lines(site()) == []
