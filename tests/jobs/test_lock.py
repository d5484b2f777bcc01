"""Two calls of `submit` at once: the second is refused; a killed one leaves a lock that says what to do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Campaign

from embedcube.campaign.run_folder import RunDir
from embedcube.errors import RequestError, StartAgain
from embedcube.jobs import lock
from embedcube.jobs.lock import held_by, only_submit
from embedcube.jobs.submissions import submissions


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "a")


def refused(run: RunDir) -> str:
    """Why the lock is refused."""
    with pytest.raises(RequestError) as caught, only_submit(run):
        raise AssertionError("two at once")
    return str(caught.value)


def test_the_second_is_told_who_the_first_is(run: RunDir) -> None:
    with only_submit(run):
        words = refused(run)
        assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in words
        assert "is at work" in words
        assert run.submit_lock.exists()
    with only_submit(run):
        pass


@pytest.mark.parametrize("error", [RequestError("x"), StartAgain("x"), OSError("x"), KeyboardInterrupt()], ids=repr)
def test_no_error_leaves_the_lock(run: RunDir, error: BaseException) -> None:
    with pytest.raises(type(error)), only_submit(run):
        raise error
    assert list(run.root.iterdir()) == []


def test_a_killed_one_is_explained(run: RunDir) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from embedcube.campaign.run_folder import RunDir; from embedcube.jobs.lock import only_submit\n"
        f"with only_submit(RunDir(Path({str(run.root)!r}))): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    words = refused(run)
    assert f"rm {run.submit_lock}" in words
    assert "was killed" in words
    # a later process with the number of the dead one is not taken for it
    owner = json.loads(run.submit_lock.read_text()) | {"pid": os.getpid()}
    run.submit_lock.write_text(json.dumps(owner))
    assert "was killed" in refused(run)
    run.submit_lock.unlink()
    with only_submit(run):
        pass


@pytest.mark.parametrize(
    ("owner", "at_work", "words"),
    [
        ({"host": "elsewhere", "pid": 7, "time": "2020-01-01T00:00:00+00:00"}, False, "ssh elsewhere ps -p 7"),
        ({"host": "elsewhere", "pid": 7, "time": "2020-01-01T00:00:00"}, False, "is old"),
        ({"host": "elsewhere", "pid": 7, "time": None}, False, "does not say whose it is"),
        ({"host": "elsewhere", "pid": 7, "time": "now"}, True, "process 7 on elsewhere, since"),
        ({"host": socket.gethostname(), "pid": "7", "time": "now"}, False, "does not say whose it is"),
        ({"host": socket.gethostname(), "pid": 0, "time": "now"}, False, "does not say whose it is"),
        ("", False, "does not say whose it is"),
        ("[1]", False, "does not say whose it is"),
    ],
    ids=str,
)
def test_what_another_machine_or_a_full_disk_leaves(run: RunDir, owner: Any, at_work: bool, words: str) -> None:
    run.root.mkdir(parents=True)
    if isinstance(owner, dict) and owner["time"] == "now":
        owner["time"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    run.submit_lock.write_text(owner if isinstance(owner, str) else json.dumps(owner))
    long_ago = time.time() - 60
    os.utime(run.submit_lock, (long_ago, long_ago))
    holder = held_by(run.submit_lock)
    assert holder is not None
    assert holder.at_work == at_work
    assert words in refused(run)
    assert f"rm {run.submit_lock}" in refused(run)


def left_by(run: RunDir, process: "subprocess.Popen[bytes]", **other: Any) -> None:
    """A lock as a process of this machine leaves it."""
    with only_submit(run):
        owner = json.loads(run.submit_lock.read_text())
    run.submit_lock.write_text(json.dumps(owner | {"pid": process.pid, "started": "1"} | other))


def test_a_process_that_proc_hides_is_not_called_killed(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `hidepid=2`: its number can be asked about, its start cannot."""
    monkeypatch.setattr(lock, "_started", lambda _: None)
    with subprocess.Popen(["sleep", "5"]) as process:
        left_by(run, process)
        holder = held_by(run.submit_lock)
        assert holder is not None
        assert holder.at_work
        assert "/proc hides from you whether it is that one" in refused(run)
        process.kill()
    assert "was killed" in refused(run)


def test_a_process_with_numbers_of_its_own_is_not_called_killed(run: RunDir) -> None:
    """A container may have the name of its host."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    left_by(run, process)
    assert "was killed" in refused(run)
    run.submit_lock.unlink()
    left_by(run, process, processes="pid:[1]")
    holder = held_by(run.submit_lock)
    assert holder is not None
    assert holder.at_work
    assert "has process numbers of its own" in refused(run)


def test_a_lock_of_somebody_else_is_not_removed(run: RunDir) -> None:
    with only_submit(run):
        run.submit_lock.unlink()
        other = only_submit(run)
        other.__enter__()
    assert run.submit_lock.exists()
    other.__exit__(None, None, None)
    assert not run.submit_lock.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_the_lock_and_what_was_submitted_is_known(
    demo: Campaign, tmp_path: Path, stand_in: Callable[[str, str], None], number: signal.Signals
) -> None:
    site = {"site": "lab", "cpus_per_node": 2, "mem_gb_per_node": 16, "max_time_min": 60, "prepare_in_job": True}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(site))
    demo.change(lambda document: document.update(how={"site": "lab.yaml", "ranks": 1, "threads": 1}))
    begun = tmp_path / "begun"
    # the first job is taken at once, the second is waited for
    stand_in(
        "sbatch",
        f"if [ -e {begun} ]; then touch {begun}2; exec sleep 60; fi; touch {begun}; echo Submitted batch job 7",
    )
    stand_in("squeue", "exit 0")
    command = [str(Path(sys.executable).parent / "embedcube"), "submit", str(demo.file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 120
        while not Path(f"{begun}2").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        with pytest.raises(
            RequestError, match=rf"another `submit` of this campaign is at work \(process {first.pid} on"
        ):
            demo.cli("submit")
        first.send_signal(number)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 75, said
    assert not demo.run.submit_lock.exists()
    # the job that exists is not forgotten
    assert [one.jobs for one in submissions(demo.run)] == [{"prepare": ["7"]}]
    stand_in("squeue", "echo '7 7 PENDING'")
    with pytest.raises(RequestError, match="jobs 7 of this campaign are still queued or running"):
        demo.cli("submit")
