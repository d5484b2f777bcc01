"""What a consolidation says when it loses workers, memory or patience: in words, with the next move, and it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client
from distributed.scheduler import KilledWorker
from tests.conftest import ROOT, Campaign, cube_bytes, run_cli
from tests.consolidate import slurm_here
from tests.consolidate.test_resuming import begun, interrupted, unfinished

from embedcube.campaign.resolve import open_campaign
from embedcube.consolidate import alone, endings, on_nodes
from embedcube.consolidate.stored import StoredReader
from embedcube.consolidate.unfinished import building
from embedcube.errors import RequestError, StartAgain, WorkError

CHAOS = ROOT / "tests" / "chaos"
"""A folder that, on the path, kills a process at a named point."""


def use(campaign: Campaign, kind: str, **how: object) -> None:
    """Let the campaign be consolidated by one worker of this kind."""
    dask = {"kind": kind, "workers": 1, "threads": 1}
    campaign.change(lambda document: document.update(how={"ranks": 1, "threads": 1, "dask": dask} | how))


def killing(path: str) -> dict[str, str]:
    """An environment in which whoever makes an object of this name is killed, as the kernel does without memory."""
    point = {
        "event": "os.rename",
        "path": path,
        "nth": 1,
        "moment": "before",
        "rank": None,
        "group": False,
        "signal": 9,
    }
    path = os.pathsep.join((str(CHAOS), os.environ["PYTHONPATH"]))
    return {"KILL_POINT": json.dumps(point), "PYTHONPATH": path}


@pytest.mark.chaos
@pytest.mark.slow
def test_workers_that_are_killed(embedded: Campaign, finished_demo: Campaign) -> None:
    """A start that made progress is to be repeated, one that made none is not."""
    use(embedded, "processes")
    objects = sorted(f"{path.parent.name}/{path.name}" for path in finished_demo.run.newest_cube.rglob("n_obs/c.*"))
    some = run_cli("consolidate", embedded.file, environment=killing(objects[-1].replace(".", r"\.") + "$"))
    assert some.returncode == 75, some.stderr
    assert len(unfinished(embedded)) == 1
    none = run_cli("consolidate", embedded.file, environment=killing(objects[-1].replace(".", r"\.") + "$"))
    assert none.returncode == 1
    assert len(unfinished(embedded)) == 1
    for done in (some, none):
        assert "killed by signal 9" in done.stderr
        assert "memory" in done.stderr
        assert "give the job more memory; then start again" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Logs of workers: " in done.stderr
    embedded.cli("consolidate")
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


def test_memory_that_runs_out_within_a_worker(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> bytes:
        raise MemoryError("Unable to allocate 9.31 GiB")

    monkeypatch.setattr(StoredReader, "read", too_large)
    with pytest.raises(WorkError, match=r"no memory left \(Unable to allocate 9.31 GiB\): .*give the job"):
        embedded.cli("consolidate")


def test_what_is_made_stays_when_memory_runs_out(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the start made nothing itself, and took over what an earlier one had made."""
    left = interrupted(embedded, monkeypatch, StartAgain("stopped by signal 12"), "write_provenance")
    *kept, last = sorted(left.rglob("n_obs/c.*"))
    inodes = [path.stat().st_ino for path in kept]
    last.unlink()

    def too_large(*_: object) -> bytes:
        raise MemoryError("Unable to allocate 9.31 GiB")

    with monkeypatch.context() as context:
        context.setattr(StoredReader, "read", too_large)
        with pytest.raises(WorkError, match="what is made stays"):
            embedded.cli("consolidate")
    (still,) = unfinished(embedded)
    assert [(still / path.relative_to(left)).stat().st_ino for path in kept] == inodes


def test_what_is_made_stays_when_workers_die(embedded: Campaign) -> None:
    """The error that a lost worker gives, where the start has made nothing, removes nothing."""
    campaign, run = open_campaign(embedded.file)

    def die() -> None:
        raise KilledWorker("assembled", SimpleNamespace(address="tls://n1:1"), 3)  # type: ignore[arg-type]

    def make() -> None:
        with building(run, "0" * 12) as made:
            (made.path / "c.0").touch()
            list(endings.results([client.submit(die)], client, campaign, run))

    with (
        Client(processes=False, n_workers=1, dashboard_address=None) as client,
        pytest.raises(WorkError, match="what is made stays"),
    ):
        make()
    assert [path.name for path in unfinished(embedded)[0].iterdir()] == ["c.0"]


def test_it_ends_soon_when_it_is_told_to(embedded: Campaign) -> None:
    use(embedded, "processes")
    with begun(embedded, 2) as running:
        start = time.monotonic()
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 75
    assert said.decode().splitlines() == [
        "embedcube: stopped by signal 15; start the same command again, it continues where it stopped"
    ]
    assert time.monotonic() - start < 60
    assert len(unfinished(embedded)) == 1


LOUD = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from embedcube.cli.verbs import main
sys.argv[1:] = ["consolidate", sys.argv[1]]
main()
"""


def test_it_is_quiet_whatever_the_root_logger_says(embedded: Campaign) -> None:
    """TerraTorch sets it to INFO when it is imported."""
    use(embedded, "threads")
    done = subprocess.run(
        [sys.executable, "-c", LOUD, embedded.file], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- jobs of workers ------------------------------------------------------------------------------


@pytest.fixture
def in_jobs(embedded: Campaign) -> Campaign:
    """The campaign, with workers that are jobs."""
    use(embedded, "slurm_cluster", site=str(ROOT / "configs" / "sites" / "local.yaml"))
    return embedded


def test_jobs_that_never_start(in_jobs: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm_here.install(
        in_jobs.file.parent / "bin",
        monkeypatch,
        sbatch="echo Submitted batch job 12",
        squeue="echo 12 PENDING Priority",
    )
    for module in (alone, endings, on_nodes):
        monkeypatch.setattr(module, "patience_s", lambda _: 3.0)
    with pytest.raises(StartAgain, match=r"how\.dask\.wait_min\) \(12 PENDING Priority\): `squeue --me` says"):
        in_jobs.cli("consolidate")
    assert list(in_jobs.run.job_logs.glob(".*")) == []


def test_jobs_that_are_refused(in_jobs: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm_here.install(
        in_jobs.file.parent / "bin",
        monkeypatch,
        sbatch='echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1',
    )
    with pytest.raises(RequestError, match=r"refused: sbatch: error: .*Invalid account; correct partition, account"):
        in_jobs.cli("consolidate")
    assert list(in_jobs.run.job_logs.glob(".*")) == []


def test_a_whole_node_is_filled(in_jobs: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One job with as many workers as the node has cores for, and all of its memory."""
    site = tmp_path / "whole.yaml"
    site.write_text("{site: lab, cpus_per_node: 12, mem_gb_per_node: 24, max_time_min: 60, interface: lo}")
    use(in_jobs, "slurm_cluster", site=str(site))
    in_jobs.change(lambda document: document["how"]["dask"].update(workers=3, threads=5))
    commands = tmp_path / "bin"
    slurm_here.install(commands, monkeypatch, sbatch='cp "$1" "$0-script"; exit 1')
    with pytest.raises(RequestError):
        in_jobs.cli("consolidate")
    script = (commands / "sbatch-script").read_text()
    directives = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"-n 1", "--cpus-per-task=10", "--exclusive", "--mem=0"} <= directives
    assert not [line for line in directives if line.startswith("--mem=") and line != "--mem=0"]
    assert "--nthreads 5" in script
    assert "--nworkers 2" in script
    assert "--interface lo" in script
