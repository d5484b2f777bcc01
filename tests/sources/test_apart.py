"""A decoder that crashes or never ends takes only its own process with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sources.endings import OddError, compute, computed, crash, fail, ignore_the_end
from tests.sources.test_era5 import NORTH_UP, era5, write_netcdf

from embedcube.campaign.scene import Scene
from embedcube.errors import StartAgain
from embedcube.sources import apart as module
from embedcube.sources.apart import apart
from embedcube.sources.catalog import pool


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    module.close()


def test_results_and_errors_come_back() -> None:
    first = apart(os.getpid, 0)
    assert first != os.getpid()
    with pytest.raises(KeyError, match="words"):
        apart(fail, 0, KeyError)
    with pytest.raises(ValueError, match="OddError: 1 and 2"):
        apart(fail, 0, OddError)
    assert apart(os.getpid, 0) == first, "an error costs no process"


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"])
def test_a_crash_is_a_fault_of_the_file(how: str) -> None:
    with pytest.raises(ValueError, match=f"its decoder crashed \\({how}\\)"):
        apart(crash, 0, how)
    assert apart(abs, 0, -1) == 1


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGALRM"])
def test_a_process_killed_from_outside_is_no_fault_of_the_file(how: str) -> None:
    with pytest.raises(StartAgain, match=how):
        apart(crash, 0, how)


@pytest.mark.parametrize("how", ["SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_to_all_processes_of_a_job_is_not_for_this_one(how: str) -> None:
    assert apart(crash, 0, how) == "alive"


def test_of_several_files_only_the_one_that_never_ends_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT_S", 1)
    monkeypatch.setattr(pool, "_ANY_SIZE", 0)
    found = pool._alone(computed, [0.0, 60.0], lambda item, words: f"{item}: {words}", str)
    assert found == ["done", "60.0: its decoder did not end within 1 s of CPU time"]
    monkeypatch.undo()
    assert pool._ANY_SIZE // module._BYTES_PER_S < 2 * 3600


@pytest.mark.slow
def test_a_call_that_computes_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT_S", 1)
    with pytest.raises(ValueError, match="did not end within 1 s"):
        apart(compute, 0, 60.0)
    apart(compute, 0, 0.6)
    apart(compute, 0, 0.6)  # the limit is one of each call


def test_it_ends_with_its_parent() -> None:
    program = "import os; from embedcube.sources.apart import apart; print(apart(os.getpid, 0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    end_s = time.monotonic() + 20
    while Path(f"/proc/{done.stdout.strip()}").exists():
        assert time.monotonic() < end_s
        time.sleep(0.05)


class Interrupt(BaseException):
    """Ctrl-C, or a signal whose handler raises."""


def interrupt(*_: object) -> None:
    """Handle a signal."""
    raise Interrupt


def test_an_interrupted_call_leaves_its_answer_to_nobody() -> None:
    """The process that has one call's answer in its pipe is never asked again: answers would be shifted by one."""
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        first = apart(os.getpid, 0)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupt):
            apart(compute, 0, 1.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [apart(abs, 0, number) for number in (-7, -8)] == [7, 8]
    assert not Path(f"/proc/{first}").exists()


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END_S", 0.2)
    helper = apart(ignore_the_end, 0)
    module.close()
    assert not Path(f"/proc/{helper}").exists()


DIES = """
import os, signal
import netCDF4
before = netCDF4.Dataset.__init__
class Dataset(netCDF4.Dataset):
    def __init__(self, name, *args, **options):
        if "dies" in str(name):
            os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(name, *args, **options)
netCDF4.Dataset = Dataset
"""


def test_index_gives_the_file_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that crashes on one file of a folder: that file is named, and the other one is used."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(DIES)
    archive = tmp_path / "archive"
    archive.mkdir()
    write_netcdf(archive / "good.nc", NORTH_UP)
    write_netcdf(archive / "dies.nc", NORTH_UP)
    module.close()
    monkeypatch.syspath_prepend(tmp_path / "code")
    verdicts = {scene.assets[0].path if scene.assets else scene.id: scene.verdict for scene in scenes_of(archive)}
    assert verdicts == {"good.nc": "", "dies.nc": "dies.nc does not decode: its decoder crashed (SIGSEGV)"}


def scenes_of(archive: Path) -> list[Scene]:
    """What `index` finds."""
    return list(era5(archive, str(NORTH_UP.name)).scenes(full_digests=False))
