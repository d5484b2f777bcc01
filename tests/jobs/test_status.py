"""`status`: what files and Slurm say, how fast all tasks are together, when `--watch` ends, and the next move."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from tests.conftest import Campaign, call_cli, planned_records

from embedcube.campaign.columns import integers, texts
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record
from embedcube.campaign.resolve import open_submitted, write_resolved
from embedcube.campaign.run_folder import RunDir
from embedcube.jobs import at_work, rate
from embedcube.jobs.queue import Element
from embedcube.jobs.rate import seconds_left
from embedcube.jobs.status import Status, describe, status

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

Put = Callable[[str, str], None]


@pytest.fixture
def done(finished_demo: Campaign, tmp_path: Path, stand_in: Put) -> Campaign:
    """A copy of the finished demo with a site, whose archive is not on this machine; Slurm knows none of its jobs."""
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(finished_demo.file, campaign.file)
    site = {"site": "lab", "cpus_per_node": 2, "mem_gb_per_node": 16, "max_time_min": 60, "poll_s": 0.01}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(site))
    shutil.copytree(finished_demo.run.root, campaign.run.root, symlinks=True)
    campaign.change(lambda document: document["archives"]["s2"].update(path=str(tmp_path / "not-mounted")))
    campaign.change(
        lambda document: document["how"].update(site=str(tmp_path / "lab.yaml"), runs=str(tmp_path / "runs"))
    )
    write_resolved(load_campaign(campaign.file, mounted=False), campaign.run)
    stand_in("squeue", "exit 0")
    stand_in("sacct", "exit 0")
    return campaign


def submitted(campaign: Campaign, **jobs: list[str]) -> None:
    """Write a line to submissions.jsonl, as `submit` does."""
    line = {"time": "2026-01-01T00:00:00+00:00", "again": False, "tasks": [0], "jobs": jobs}
    with campaign.run.submissions.open("a") as file:
        file.write(json.dumps(line) + "\n")


def records_of(campaign: Campaign) -> list[Record]:
    return planned_records(campaign)


def write(campaign: Campaign, records: Sequence[Record], attempt: str = "7-0-1", task: int = 0) -> None:
    """Let an attempt have these records."""
    part = campaign.run.part(task, attempt, 0)
    part.mkdir(parents=True, exist_ok=True)
    with (part / "records.jsonl").open("ab") as file:
        for record in records:
            file.write(replace(record, attempt=attempt).to_line())


def without_cube(campaign: Campaign) -> None:
    shutil.rmtree(campaign.run.cubes)
    campaign.run.newest_cube.unlink()


def now_of(campaign: Campaign) -> Status:
    opened, run, changed = open_submitted(campaign.file)
    return status(opened, run, campaign.file, note=changed)


def said(campaign: Campaign) -> list[str]:
    return describe(now_of(campaign))


def watch(campaign: Campaign) -> tuple[int, str, str]:
    ended = call_cli("status", campaign.file, "--watch")
    return ended.returncode, ended.stdout, ended.stderr


# --- rate ---------------------------------------------------------------------------------------------------------


def line(attempt: str, begun_s: float, ended_s: float, job: str = "") -> tuple[str, str, int, int]:
    """Attempt, job and times of a record whose shard began and ended so many seconds ago."""
    started, finished = (round((NOW.timestamp() - seconds) * 1000) for seconds in (begun_s, ended_s))
    return attempt, job, started, finished


def speed(records: Sequence[tuple[str, str, int, int]], running: set[str] | None, now: datetime) -> rate.Speed:
    makers: dict[str, Callable[[Any], Any]] = {
        "attempt": texts,
        "job": texts,
        "started": integers,
        "finished": integers,
    }
    columns = [make(values) for make, values in zip(makers.values(), zip(*records, strict=True), strict=True)]
    return rate.speed(rate.times_of(pyarrow.Table.from_arrays(columns, names=list(makers))), running, now)


def test_the_rate_is_that_of_all_tasks_that_run() -> None:
    """Forty tasks, of which each makes a record every 50 s."""
    records = [
        line(f"{100 + task}-0-1", 50 * k + 50, 50 * k + task, f"{100 + task}") for task in range(40) for k in range(5)
    ]
    running = {f"{100 + task}" for task in range(40)}
    assert speed(records, running, NOW).shards_per_s == pytest.approx(40 / 50, rel=0.25)
    assert speed(records, None, NOW).shards_per_s == pytest.approx(40 / 50, rel=0.25)
    # the one with the greatest name has ended long ago: it counts no more
    old = [line("999-0-1", 9000 + k, 8999 + k, "999") for k in range(100)]
    assert speed(records + old, running, NOW).shards_per_s == speed(records, running, NOW).shards_per_s
    assert speed(records + old, None, NOW).shards_per_s == speed(records, None, NOW).shards_per_s
    assert speed(old, running, NOW).shards_per_s is None
    assert speed(records[:1], running, NOW).shards_per_s is None


def test_the_rate_is_that_of_the_last_minutes() -> None:
    slow_now = [line("7-0-1", 3600 - k, 3599 - k) for k in range(3000)] + [line("7-0-1", 70, 60 * k) for k in range(10)]
    assert speed(slow_now, {"7"}, NOW).shards_per_s == pytest.approx(10 / 600, rel=0.1)
    long_shards = [line("7-0-1", 3000 * k + 3000, 3000 * k + 20, "7") for k in range(4)]
    assert speed(long_shards, {"7"}, NOW).shards_per_s == pytest.approx(1 / 3000, rel=0.02)


def waiting(reason: str, start: datetime | None = None) -> Element:
    return Element(id="7", array="7", state="PENDING", reason=reason, start=start)


@pytest.mark.parametrize(
    ("left", "running", "rate", "queue", "expected"),
    [
        ({}, (), None, (), 0.0),
        ({0: 10}, (), None, (), None),
        ({0: 10, 1: 10}, (0, 1), 2.0, (), 10.0),
        # nothing was submitted: tasks follow each other on this machine
        ({0: 10, 1: 10}, (0,), 2.0, None, 10.0),
        # a task neither runs nor waits: it has failed, and nobody does it
        ({0: 10, 1: 10}, (0,), 2.0, (), None),
        # as many as may run at once do: the others follow at the same rate
        ({0: 10, 1: 30}, (0,), 2.0, (waiting("JobArrayTaskLimit"),), 20.0),
        # Slurm does not know when it starts
        ({0: 10, 1: 30}, (0,), 2.0, (waiting("Priority"),), None),
        ({0: 10, 1: 30}, (), None, (waiting("Priority", NOW + timedelta(hours=1)),), None),
        ({0: 10, 1: 30}, (0,), 2.0, (waiting("Resources", NOW + timedelta(hours=1)),), 3600 + 15.0),
    ],
)
def test_time_left_says_no_more_than_is_known(
    left: dict[int, int],
    running: Sequence[int],
    rate: float | None,
    queue: Sequence[Element] | None,
    expected: float | None,
) -> None:
    assert seconds_left(left, running, rate, queue, NOW) == expected


def test_the_queue_is_quoted(done: Campaign, stand_in: Put) -> None:
    records = records_of(done)
    shutil.rmtree(done.run.parts)
    without_cube(done)
    now = datetime.now(UTC)
    for job in ("11", "12"):
        some = records[:5] if job == "11" else records[5:10]
        times = [now - timedelta(seconds=10 * k) for k in range(1, 6)]
        made = [
            replace(r, job=job, started=(end - timedelta(seconds=10)).isoformat(), finished=end.isoformat())
            for r, end in zip(some, times, strict=True)
        ]
        write(done, made, f"{job}-0-1")
    submitted(done, embed=["10"], consolidate=["20"])
    # as squeue lists an array of three
    queue = "echo '11 10 RUNNING 2026-01-01T00:00:00 None'; echo '12 10 RUNNING 2026-01-01T00:00:00 None'"
    stand_in("squeue", f"{queue}; echo '10 10 PENDING N/A Priority'; echo '20 20 PENDING N/A Dependency'")
    found = now_of(done)
    assert (found.done, found.tasks_left) == (10, 1)
    assert found.shards_per_s == pytest.approx(2 * 5 / 60, rel=0.1)
    assert found.seconds_left is None
    assert "embed       job 10: 1 pending, 2 running (1 for Priority)" in "\n".join(describe(found))
    assert describe(found)[-1].startswith("next: wait (2 jobs are queued or running)")
    stand_in("squeue", queue)
    assert now_of(done).seconds_left == pytest.approx(20 / (10 / 60), rel=0.1)
    assert f"about {20 / (10 / 60):.0f} s left"[:8] in said(done)[0]


# --- the end of watching ------------------------------------------------------------------------------------------


def test_watching_ends_with_a_verified_cube(done: Campaign, stand_in: Put) -> None:
    stand_in("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    submitted(done, embed=["7"])
    code, out, _ = watch(done)
    assert code == 0
    assert out.splitlines()[0].endswith(", verified")
    assert out.splitlines()[-1] == f"next: nothing is left to do; the cube {done.run.newest_cube} is verified"


def test_a_cube_of_other_records_is_not_the_end(done: Campaign) -> None:
    """The version is that of the plan and its records, not just any that was verified."""
    records = records_of(done)
    shutil.rmtree(done.run.parts)
    first = records[0].arrays[0]
    other = replace(records[0], arrays=(replace(first, sha256="0" * 64), *records[0].arrays[1:]))
    write(done, [other, *records[1:]])
    submitted(done, embed=["7"])
    code, out, err = watch(done)
    assert code == 1
    assert "(of other records or another plan)" in out
    assert f"`embedcube submit {done.file}` makes the cube" in err


@pytest.mark.parametrize(
    ("report", "words"),
    [(None, "verifies the cube"), ({"findings": [{}, {}]}, "read the 2 findings in"), ("torn{", "verifies the cube")],
)
def test_a_cube_that_is_not_verified_is_not_the_end(done: Campaign, report: Any, words: str) -> None:
    path = done.run.report / "verify.json"
    if report is None:
        path.unlink()
    else:
        earlier = json.loads(path.read_text())
        path.write_text(report if isinstance(report, str) else json.dumps(earlier | report))
    submitted(done, verify=["7"])
    code, out, err = watch(done)
    assert code == 1
    assert words in err
    assert words in out.splitlines()[-1]


def test_watching_outlasts_consolidation(done: Campaign, stand_in: Put, tmp_path: Path) -> None:
    """All shards are done and there is no cube yet, while its job runs; then the job is gone, and the cube is there."""
    away, looks = tmp_path / "away", tmp_path / "looks"
    done.run.newest_cube.rename(away)
    submitted(done, consolidate=["7"], verify=["8"])
    running = f"echo >> {looks}; if [ $(wc -l < {looks}) -lt 4 ]; then echo '7 7 RUNNING'; echo '8 8 PENDING'"
    stand_in("squeue", f"{running}; else mv {away} {done.run.newest_cube}; fi")
    code, out, _ = watch(done)
    assert code == 0
    assert out.count("30 of 30 shards") == 4
    assert "consolidate job 7: 1 running" in out


@pytest.mark.parametrize(
    ("accounts", "log", "words"),
    [
        ("7|OUT_OF_MEMORY|0:125|7", "", "job 7: out of memory; write more memory in the site's file"),
        (
            "7|FAILED|137:0|7\n7.batch|FAILED|137:0|7.batch\n7.0|OUT_OF_MEMORY|0:125|7.0",
            "",
            "job 7: out of memory; write",
        ),
        (
            "7|CANCELLED by 0|0:0|7",
            "slurmstepd: error: StepId=7.0 exceeded memory limit (9 > 8)",
            "out of memory; write",
        ),
        ("7|TIMEOUT|0:0|7", "", "ended by Slurm as the time was up; write more minutes"),
        ("7|NODE_FAIL|1:0|7", "", "lost as a node failed"),
        ("7|PREEMPTED|0:15|7", "", "ended by Slurm for another job (preempted)"),
        ("7|FAILED|1:0|7", "embedcube: 3 of 30 shards have no record", "failed: 3 of 30 shards have no record"),
        ("7|FAILED", "", "failed"),
        # no accounts: the log still says why
        (
            "",
            "embedcube: consolidate was killed by signal 9",
            "unknown: consolidate was killed by signal 9; if it was out of memory, write more",
        ),
    ],
)
def test_watching_ends_with_jobs_that_failed(
    done: Campaign, stand_in: Put, accounts: str, log: str, words: str
) -> None:
    without_cube(done)
    submitted(done, consolidate=["7"], verify=["8"])
    stand_in("sacct", f"cat <<END\n{accounts}\nEND")
    done.run.job_logs.mkdir(parents=True)
    (done.run.job_logs / "7_0_log.out").write_text(f"some lines\n{log}\n")
    code, out, err = watch(done)
    assert code == 1
    assert words in out
    assert f"`embedcube submit {done.file}` makes the cube: every shard has a record" in out.splitlines()[-1]
    assert "nothing is queued or running, and the cube of the plan is not verified" in err
    assert json.loads(call_cli("status", done.file, "--json").stdout)["verified"] is False


@pytest.mark.parametrize(
    "line",
    ["7 7 PENDING N/A JobHeldAdmin", "7 7 PENDING N/A launch failed requeued held", "7 7 REQUEUE_HOLD N/A None"],
)
def test_watching_ends_with_jobs_that_are_held(done: Campaign, stand_in: Put, line: str) -> None:
    without_cube(done)
    submitted(done, consolidate=["7"], verify=["8"])
    stand_in("squeue", f"echo '{line}'; echo '8 8 PENDING N/A Dependency'")
    code, out, _ = watch(done)
    assert code == 1
    assert "next: job 7 does not start by itself (" in out
    stand_in("squeue", "echo '7 7 PENDING N/A Priority'; echo '8 8 PENDING N/A Dependency'")
    assert now_of(done).at_work == "2 jobs are queued or running"


def test_watching_ends_where_nothing_runs_on_this_machine(done: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "_RECENT_S", -1e9)
    shutil.rmtree(done.run.parts)
    code, out, _ = watch(done)
    assert code == 1
    assert (
        out.splitlines()[-1]
        == f"next: `embedcube run {done.file}` embeds the 30 shards that have no record, and only those"
    )


def test_a_process_of_this_machine_is_at_work(done: Campaign, tmp_path: Path) -> None:
    processes = tmp_path / "proc"
    for number, words in {
        7: ["/usr/bin/python", "-m", "embedcube", "status", "campaign.yaml"],
        8: ["vi", str(done.file)],
        9: ["/x/bin/python", "/x/bin/embedcube", "embed", "--ranks", "2", "campaign.yaml"],
    }.items():
        (processes / f"{number}").mkdir(parents=True)
        (processes / f"{number}" / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
        (processes / f"{number}" / "cwd").symlink_to(tmp_path)
    assert at_work.process_here(done.run, done.file, processes) == 9
    shutil.rmtree(processes / "9")
    assert at_work.process_here(done.run, done.file, processes) is None
    # a rank tells by its log which campaign it works for
    for number, run in {10: type(done.run)(tmp_path / "other"), 11: done.run}.items():
        (processes / f"{number}" / "fd").mkdir(parents=True)
        (processes / f"{number}" / "cmdline").write_bytes(b"python\0-m\0embedcube.workers.forkserver\0")
        (processes / f"{number}" / "cwd").symlink_to(tmp_path)
        (processes / f"{number}" / "fd" / "2").symlink_to(run.rank_log(0, "attempt", 3))
    assert at_work.process_here(done.run, done.file, processes) == 11


def test_another_user_whose_files_change_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    run.logs.mkdir()
    log = run.rank_log(0, "x", 0)
    log.touch()
    assert at_work.another_user(run) == ""
    monkeypatch.setattr(os, "geteuid", lambda: log.stat().st_uid + 1)
    assert at_work.another_user(run) == f"user {log.owner()}"
    os.utime(log, (1e9, 1e9))
    assert at_work.another_user(run) == ""


# --- what files say is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("silence", ["echo no controller >&2; exit 1", None])
def test_a_slurm_that_is_away_hides_nothing(
    done: Campaign, stand_in: Put, monkeypatch: pytest.MonkeyPatch, silence: str | None
) -> None:
    monkeypatch.setattr(at_work, "_RECENT_S", -1e9)
    without_cube(done)
    submitted(done, consolidate=["7"])
    if silence is None:
        monkeypatch.setenv("PATH", "/usr/bin-nothing")
    else:
        stand_in("squeue", silence)
    ended = call_cli("status", done.file)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("30 of 30 shards")
    assert "consolidate job 7: Slurm does not say" in ended.stdout
    words = "look again when Slurm answers (squeue failed: no controller" if silence else "on a machine of the cluster"
    assert words in lines[-1]


def test_a_silent_slurm_is_not_watched_for_ever(
    done: Campaign, stand_in: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(at_work, "_RECENT_S", -1e9)
    without_cube(done)
    submitted(done, consolidate=["7"])
    stand_in("squeue", f"echo >> {tmp_path}/looks; exit 1")
    assert watch(done)[0] == 1
    assert len((tmp_path / "looks").read_text().splitlines()) == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(windows=[["2023-06-01", "2023-06-08"]]), "the campaign file was changed since"),
        (lambda d: d["how"].update(tasks=9), "the campaign file was changed since"),
        (lambda d: d.update(lyers={}), 'the campaign file cannot be used now (.*unknown key "lyers"'),
    ],
)
def test_a_file_that_was_changed_hides_nothing(
    done: Campaign, stand_in: Put, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    submitted(done, embed=["7"])
    done.change(change)
    found = now_of(done)
    assert (found.shards, found.done, found.verified) == (30, 30, True)
    assert words.split("(.*", maxsplit=1)[0] in found.notes[0]
    assert found.notes[0].endswith("this is about the run as submitted")
    stand_in("squeue", "echo '7 7 RUNNING'")
    stand_in("scancel", "exit 0")
    assert json.loads(call_cli("cancel", done.file, "--json").stdout) == {"cancelled": ["7"]}


def test_a_run_folder_planned_for_another_version_is_told(done: Campaign) -> None:
    """`embedcube index` after an edit writes the campaign of the run folder, whose plan is then an older one."""
    done.change(lambda document: document.update(windows=[["2023-06-01", "2023-06-08"]]))
    write_resolved(load_campaign(done.file, mounted=False), done.run)
    found = now_of(done)
    assert (found.shards, found.done, found.verified) == (30, 30, False)
    assert "run `embedcube plan` again" in found.notes[0]


def test_a_cancel_that_fails_says_so(done: Campaign, stand_in: Put) -> None:
    submitted(done, embed=["7"])
    stand_in("squeue", "echo '7 7 RUNNING'")
    stand_in("scancel", "echo no controller >&2; exit 1")
    ended = call_cli("cancel", done.file)
    assert ended.returncode == 75
    assert "scancel failed for jobs 7: no controller" in ended.stderr


def test_a_lock_that_was_left_is_told(done: Campaign) -> None:
    done.run.submit_lock.write_text("")
    at = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    os.utime(done.run.submit_lock, (at, at))
    assert f"rm {done.run.submit_lock}" in now_of(done).notes[0]
    assert "rm " in "\n".join(said(done))
