"""`submit` and `status` without a cluster: Slurm's commands are small scripts that print what a test needs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT, Campaign

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Quarantined
from embedcube.campaign.plan import read_plan
from embedcube.campaign.seals import from_line, to_line
from embedcube.campaign.site import Container, Site
from embedcube.campaign.verdicts import Verdict, Verdicts, write_verdicts
from embedcube.errors import RequestError, StartAgain, WorkError
from embedcube.jobs import slurm
from embedcube.jobs.slurm import image_digest, wait_for
from embedcube.jobs.submissions import submissions
from embedcube.jobs.submit import planned, refuse_at_site
from embedcube.prepare.price import DECODE_BYTES_PER_S
from embedcube.progress import silent
from embedcube.workers.protocol import END_TIME

CLUSTER: dict[str, Any] = {"site": "lab", "cpus_per_node": 2, "mem_gb_per_node": 16, "max_time_min": 60}


@pytest.fixture
def fresh(demo: Campaign, tmp_path: Path) -> Campaign:
    """The demo campaign with a site file; nothing has been run yet."""
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER))
    demo.change(lambda document: document.update(how={"site": "lab.yaml", "ranks": 1, "threads": 1}))
    return demo


@pytest.fixture
def placed(fresh: Campaign, fitted: Campaign) -> Campaign:
    """The same with its inventory and weights."""
    assert fresh.file == fitted.file
    return fresh


def submitted(campaign: Campaign, **jobs: list[str]) -> None:
    """Write a line to submissions.jsonl, as `submit` does."""
    line = {"time": "2026-01-01T00:00:00+00:00", "again": False, "tasks": [0], "jobs": jobs}
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    with campaign.run.submissions.open("a") as file:
        file.write(json.dumps(line) + "\n")


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file in the folder, by path."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [("--dry-run",), (), ("--pilot", "3")], ids=" ".join)
def test_an_edited_file_changes_nothing_while_jobs_wait(
    placed: Campaign, stand_in: Callable[[str, str], None], options: tuple[str, ...]
) -> None:
    """Array elements that start later read the campaign and the plan from the run folder."""
    placed.cli("run", "--until", "plan")
    submitted(placed, embed=["7"])
    stand_in("squeue", "echo '7 7 PENDING'")
    before = files_of(placed.run.root)
    placed.change(lambda document: document.update(windows=[["2023-06-01", "2023-06-08"]]))
    if options == ("--dry-run",):
        assert "#SBATCH" in placed.cli("submit", *options)
    else:
        with pytest.raises(RequestError, match="jobs 7 of this campaign are still queued or running"):
            placed.cli("submit", *options)
    assert files_of(placed.run.root) == before


@pytest.mark.parametrize(
    ("said", "queue", "ends"),
    [
        ("1800000000", "exit 1", "1800000000"),
        ("", "echo 2027-01-15T08:00:00", "1800000000"),
        ("", "exit 0", ""),
        ("", "exit 1", ""),
        ("", "echo NONE", ""),
    ],
)
@pytest.mark.parametrize("plain", [False, True], ids=["submit", "plain"])
def test_a_job_knows_when_it_ends_or_says_nothing(
    placed: Campaign,
    stand_in: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    plain: bool,
    said: str,
    queue: str,
    ends: str,
) -> None:
    """`date` turns an empty answer into midnight: the job would seem to have ended, and no rank would begin a shard."""
    script = (ROOT / "slurm" / "embed.sbatch").read_text() if plain else placed.cli("submit", "--dry-run")
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    begin = next(i for i, line in enumerate(lines) if END_TIME in line)
    end = next(i for i, line in enumerate(lines) if i > begin and line.rstrip().endswith("fi"))
    stand_in("squeue", queue)
    monkeypatch.setenv("SLURM_JOB_END_TIME", said)
    monkeypatch.setenv("TZ", "UTC")
    text = "\n".join(["set -u", "job=7", *lines[begin : end + 1], f'printf "%s" "${END_TIME}"'])
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == ends


def test_waiting_survives_a_queue_that_does_not_answer(
    fresh: Campaign, stand_in: Callable[[str, str], None], tmp_path: Path
) -> None:
    """While Slurm's controller restarts, squeue fails: 19 failures in a row are accepted, 20 are not."""
    looks = tmp_path / "looks"
    stand_in("squeue", f"echo >> {looks}; [ $(wc -l < {looks}) -ge 20 ]")
    wait_for(["7"], set(), fresh.run, silent, poll_s=0.01)
    assert len(looks.read_text().splitlines()) == 20
    stand_in("squeue", "echo no controller >&2; exit 1")
    with pytest.raises(StartAgain, match="no controller"):
        wait_for(["7"], set(), fresh.run, silent, poll_s=0.01)


def test_an_image_is_read_once(fresh: Campaign, tmp_path: Path) -> None:
    image = tmp_path / "a.sif"
    image.write_bytes(b"one")
    fresh.run.root.mkdir(parents=True)
    container = Container(image=str(image))
    assert image_digest(container, fresh.run) == f"sha256:{sha256(b'one').hexdigest()}"
    changed = image.stat().st_mtime_ns
    image.write_bytes(b"two")
    os.utime(image, ns=(changed, changed))
    assert (
        image_digest(container, fresh.run) == f"sha256:{sha256(b'one').hexdigest()}"
    )  # size and time are unchanged: not read again
    os.utime(image, ns=(changed, changed + 1))
    assert image_digest(container, fresh.run) == f"sha256:{sha256(b'two').hexdigest()}"
    assert image_digest(Container(image="/nowhere.sif"), fresh.run) == ""


def test_to_look_at_scripts_no_image_is_read(fresh: Campaign, tmp_path: Path) -> None:
    image = tmp_path / "a.sif"
    image.write_bytes(b"one")
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"container": {"image": str(image)}}))
    said = fresh.cli("submit", "--dry-run")
    assert f"EMBEDCUBE_IMAGE_DIGEST='<sha256 of {image}>'" in said
    assert not fresh.run.root.exists()


def test_a_torn_line_hides_no_other(placed: Campaign, stand_in: Callable[[str, str], None]) -> None:
    submitted(placed, embed=["7"])
    with placed.run.submissions.open("a") as file:
        file.write('{"time": "2026')
    assert [one.jobs for one in submissions(placed.run)] == [{"embed": ["7"]}]
    stand_in("squeue", "exit 0")
    stand_in("sacct", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 8")
    placed.cli("run", "--until", "plan")
    placed.cli("submit")
    assert [one.jobs for one in submissions(placed.run)][1:] == [
        {"embed": ["8"], "consolidate": ["8"], "verify": ["8"]}
    ]


def test_the_longest_shard_decides_on_the_time(placed: Campaign) -> None:
    placed.cli("run", "--until", "plan")
    campaign = load_campaign(placed.run.campaign)
    price = read_plan(campaign, placed.run).price
    mean_s = (price.device_s + price.decoded_bytes / DECODE_BYTES_PER_S) / price.shards
    assert price.longest_s > 1.2 * mean_s  # the demo's shards differ in their scenes
    site = Site.model_validate(CLUSTER | {"time_min": 10})
    enough_s = 10 * 60 - site.lead_s
    refuse_at_site(replace(price, longest_s=enough_s), campaign, site)
    with pytest.raises(RequestError, match=f"the longest shard takes about {enough_s + 1} s, a job has {enough_s} s"):
        refuse_at_site(replace(price, longest_s=enough_s + 1), campaign, site)


def test_another_number_of_tasks_is_another_plan(placed: Campaign) -> None:
    """The same shards are divided into other tasks, so `submit` makes the plan again."""
    placed.cli("run", "--until", "plan")
    assert "--array=0%" in placed.cli("submit", "--dry-run")
    placed.change(lambda document: document["how"].update(tasks=3))
    campaign = load_campaign(placed.file)
    assert planned(campaign, placed.run) is None
    assert "--array=0,1,2%" in placed.cli("submit", "--dry-run")


def test_status_shows_the_job_that_makes_the_plan(placed: Campaign, stand_in: Callable[[str, str], None]) -> None:
    with pytest.raises(RequestError, match="there is no plan yet"):
        placed.cli("status")
    submitted(placed, prepare=["7"], embed=["8"])
    stand_in("squeue", "echo '7 7 RUNNING'; echo '8 8 PENDING'")
    said = placed.cli("status")
    assert "no plan of this campaign yet" in said
    assert "prepare     job 7: 1 running" in said
    assert "1 tasks left" in said


def test_the_price_is_held_against_the_site_where_the_plan_is_made(placed: Campaign, tmp_path: Path) -> None:
    """The plan is made in a job, so only that job can compare its price with the limits of the site."""
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"max_files": 10, "prepare_in_job": True}))
    placed.change(lambda document: document["how"].update(executor="slurm"))
    with pytest.raises(RequestError, match="quota of lab leaves 10"):
        placed.cli("run", "--until", "plan")


def test_a_pilot_makes_the_plan_in_a_job_first(
    placed: Campaign, stand_in: Callable[[str, str], None], tmp_path: Path
) -> None:
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"prepare_in_job": True, "poll_s": 0.01}))
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 7")
    with pytest.raises(WorkError, match=r"job 7 has made no plan: the logs in .*/logs/slurm say why"):
        placed.cli("submit", "--pilot", "3")
    prepare = f"{sys.executable} -m embedcube run {placed.run.campaign} --until plan >&2"
    stand_in("sbatch", f'if grep -q "until plan" "$1"; then {prepare}; fi; echo Submitted batch job 8')
    with pytest.raises(StartAgain, match="3 of 3 shards have no record after jobs 8"):
        placed.cli("submit", "--pilot", "3")
    assert [one.jobs for one in submissions(placed.run)] == [{"prepare": ["7"]}, {"prepare": ["8"]}, {"embed": ["8"]}]


def test_cancel_finds_the_jobs_of_embed(placed: Campaign, stand_in: Callable[[str, str], None], tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"poll_s": 0.01}))
    placed.change(lambda document: document["how"].update(executor="slurm"))
    placed.cli("run", "--until", "plan")
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 8")
    with pytest.raises(StartAgain, match="30 of 30 shards have no record after jobs 8"):
        placed.cli("embed")
    assert [one.jobs for one in submissions(placed.run)] == [{"embed": ["8"]}]
    stand_in("squeue", "echo '8 8 RUNNING'")
    with pytest.raises(RequestError, match="jobs 8 of this campaign are still queued or running"):
        placed.cli("embed")
    stand_in("scancel", f'echo "$@" > {tmp_path}/cancelled')
    assert json.loads(placed.cli("cancel", "--json")) == {"cancelled": ["8"]}
    assert (tmp_path / "cancelled").read_text() == "8\n"


def test_the_last_stage_is_cancelled_first(
    placed: Campaign, stand_in: Callable[[str, str], None], tmp_path: Path
) -> None:
    """No job starts because the one before it was cancelled."""
    numbers = tmp_path / "numbers"
    stand_in("sbatch", f"echo >> {numbers}; echo Submitted batch job $(wc -l < {numbers})")
    stand_in("squeue", "exit 0")
    placed.cli("run", "--until", "plan")
    assert json.loads(placed.cli("submit", "--json"))["jobs"] == {"embed": ["1"], "consolidate": ["2"], "verify": ["3"]}
    stand_in("squeue", "for i in 1 2 3; do echo $i $i PENDING; done")
    assert [job["stage"] for job in json.loads(placed.cli("status", "--json"))["jobs"]] == [
        "embed",
        "consolidate",
        "verify",
    ]
    stand_in("scancel", f'echo "$@" > {tmp_path}/cancelled')
    placed.cli("cancel")
    assert (tmp_path / "cancelled").read_text() == "3 2 1\n"


def test_sbatch_that_does_not_answer_is_named_and_keeps_no_lock(
    placed: Campaign, stand_in: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_SBATCH_S", 0.5)
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "exec sleep 20")
    placed.cli("run", "--until", "plan")
    with pytest.raises(
        StartAgain, match=r"sbatch has not answered within 0.5 s, and Slurm may have taken the embed job"
    ):
        placed.cli("submit")
    assert not placed.run.submit_lock.exists()
    assert not list(placed.run.job_logs.glob(".submission-*"))


def test_a_resubmission_in_vain_is_the_last(placed: Campaign, stand_in: Callable[[str, str], None]) -> None:
    """Consolidation submits what is missing, until a resubmission has made no record."""
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 8")
    placed.cli("run", "--until", "plan")
    assert "embed" in placed.cli("submit", "--dry-run")
    assert placed.run.recorded() == []
    placed.cli("submit")
    assert len(placed.run.recorded()) == 1
    placed.cli("submit", "--again")
    assert [(one.again, one.records) for one in submissions(placed.run)] == [(False, 0), (True, 0)]
    with pytest.raises(
        WorkError, match="tasks 0 have shards without a record, and the last resubmission has made none"
    ):
        placed.cli("submit", "--again")
    # a person may always
    assert json.loads(placed.cli("submit", "--json"))["jobs"]["embed"] == ["8"]


def test_a_new_round_is_no_resubmission_in_vain(placed: Campaign, stand_in: Callable[[str, str], None]) -> None:
    """What shards find broken leaves others to be embedded again, which consolidation submits."""
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 8")
    placed.cli("run", "--until", "plan")
    placed.cli("submit")
    placed.cli("submit", "--again")
    plan = read_plan(load_campaign(placed.file), placed.run)
    verdict = Verdict(archive="s2", scene="broken", scene_digest="0" * 64, reason="B02: broken")
    for number in (2, 3):
        verdicts = Verdicts(round=number, scenes={0: verdict})
        write_verdicts(placed.run, plan.digests, verdicts)
        placed.cli("submit", "--again")
        with pytest.raises(WorkError, match="the last resubmission has made none"):
            placed.cli("submit", "--again")
    assert [(one.again, one.round) for one in submissions(placed.run)] == [(False, 1), (True, 1), (True, 2), (True, 3)]
    placed.change(lambda document: document["how"].update(retry_quarantined=True))
    placed.cli("submit")
    assert not placed.run.verdicts.exists(), "all scenes are read again"


def test_jobs_of_the_executor_and_of_the_pilot_are_noted_with_their_round(
    placed: Campaign, stand_in: Callable[[str, str], None]
) -> None:
    """Resubmissions are counted in each round anew."""
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 8")
    placed.cli("run", "--until", "plan")
    plan = read_plan(load_campaign(placed.file), placed.run)
    verdict = Verdict(archive="s2", scene="broken", scene_digest="0" * 64, reason="B02: broken")
    write_verdicts(placed.run, plan.digests, Verdicts(round=2, scenes={0: verdict}))
    with pytest.raises(StartAgain, match="2 of 2 shards have no record"):
        placed.cli("submit", "--pilot", "2")
    # tasks read one table of what is recorded, whoever submits them
    [merged] = placed.run.recorded()
    merged.unlink()
    placed.change(lambda document: document["how"].update(executor="slurm"))
    with pytest.raises(StartAgain, match="shards have no record after jobs 8"):
        placed.cli("embed")
    assert len(placed.run.recorded()) == 1
    assert [one.round for one in submissions(placed.run)] == [2, 2]


def test_where_quarantined_shards_are_tried_again_a_failed_consolidation_is_named(
    embedded: Campaign, stand_in: Callable[[str, str], None], tmp_path: Path
) -> None:
    """A shard whose scenes stay unreadable is no reason to submit the same tasks again and again."""
    stand_in("squeue", "exit 0")
    stand_in("sbatch", "echo Submitted batch job 8")
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER))
    how = {"site": "lab.yaml", "ranks": 1, "threads": 1, "retry_quarantined": True}
    embedded.change(lambda document: document.update(how=how))
    records = min(embedded.run.parts.glob("*/*/*/records.jsonl"))
    lines = records.read_bytes().splitlines(keepends=True)
    broken = asdict(Quarantined(archive="s2", scene="x", scene_digest="0" * 64, reason="B02: broken"))
    records.write_bytes(b"".join([*lines[:-1], to_line((from_line(lines[-1]) or {}) | {"quarantined": [broken]})]))
    embedded.cli("submit")
    with pytest.raises(WorkError, match="every shard has a record, so consolidation itself failed"):
        embedded.cli("submit", "--again")
