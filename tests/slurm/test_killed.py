"""A consolidation that is killed twenty times at random moments, over all kinds of Dask, makes the same cube."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.conftest import Campaign, cube_bytes
from tests.consolidate.test_alone import tree_of
from tests.slurm.cluster import Cluster, wait_until

from embedcube.campaign.run_folder import TEMPORARY_PREFIX

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.chaos]

EMBEDCUBE = Path(sys.executable).parent / "embedcube"
SLOW = Path(__file__).parent / "slow"
"""A folder that, on the path, lets each of the 8 objects take half a second."""

KILLS = 4
"""of each kind"""

LATE_S = 120.0
"""Seconds after which all processes of a killed consolidation are gone; a minute is promised, of a machine at rest."""

VICTIMS = {
    "threads": ("all",),
    "processes": ("client", "worker", "all"),
    "slurm_cluster": ("client", "worker", "all"),
    "slurm_runner": ("scheduler", "client", "worker", "all"),
    "mpi": ("scheduler", "client", "worker", "all"),
}
"""In threads the client has the workers in it."""

IN_A_STEP = {
    # as the job script starts them; with MPI processes would wait for a dead one
    "slurm_runner": ("--mpi=none", "--kill-on-bad-exit=0"),
    "mpi": ("--mpi=pmi2", "--kill-on-bad-exit=1"),
}


@dataclass(frozen=True, kw_only=True)
class Consolidation:
    """One start of `consolidate`."""

    kind: str
    campaign: Campaign
    cluster: Cluster
    process: "subprocess.Popen[bytes]"
    said: Path

    def in_step(self, numbers: set[int]) -> list[psutil.Process]:
        """Processes of a job step, by their number in it: 0 is the scheduler, 1 the client, the others are workers."""
        found = []
        for process in tree_of(self.campaign):
            with suppress(psutil.Error):
                program = process.cmdline()[0].rpartition("/")[2]  # srun is not of the step
                if program.startswith("python") and int(process.environ().get("SLURM_PROCID", -1)) in numbers:
                    found.append(process)
        return found

    def jobs(self, name: str = "dask-worker,embedcube") -> list[str]:
        """Jobs with this name that run or wait: those of workers, and those that srun has made."""
        return self.cluster.run("squeue", "--noheader", f"--name={name}", "--format=%A").split()

    def kill(self, victim: str, pick: random.Random) -> bool:
        """Kill it, with SIGKILL; False where it is not there at this moment."""
        if victim == "all":
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            for process in tree_of(self.campaign):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if jobs := self.jobs():
                self.cluster.run("scancel", *jobs)  # without srun a job would keep its nodes
            return True
        if self.kind == "slurm_cluster" and victim == "worker":
            jobs = self.jobs("dask-worker")
            if jobs:
                self.cluster.run("scancel", "--signal=KILL", "--full", pick.choice(jobs))
            return bool(jobs)
        if self.kind in IN_A_STEP:
            found = self.in_step({"scheduler": {0}, "client": {1}, "worker": {2, 3}}[victim])
        elif victim == "client":
            found = [psutil.Process(self.process.pid)]
        else:
            children = psutil.Process(self.process.pid).children(recursive=True)
            found = [one for one in children if any("spawn_main" in word for word in one.cmdline())]
        if found:
            pick.choice(found).kill()
        return bool(found)

    def ended(self) -> bool:
        """Whether nothing of it is alive, on any node or in the queue."""
        return self.process.poll() is not None and not tree_of(self.campaign) and not self.jobs()


def objects_of(campaign: Campaign) -> int:
    """Objects that are there, in a cube under construction or a finished one."""
    # not Path.rglob, which raises where a folder is renamed meanwhile
    return sum(name.startswith("c.") for _, _, names in os.walk(campaign.run.cubes) for name in names)


@contextmanager
def started(kind: str, campaign: Campaign, cluster: Cluster) -> Iterator[Consolidation]:
    """One start of `consolidate`; after the block nothing of it is alive."""
    path = os.pathsep.join((str(SLOW), os.environ["PYTHONPATH"]))
    step = ("srun", "--nodes=2", "--ntasks-per-node=2", "--mem=3G", *IN_A_STEP[kind]) if kind in IN_A_STEP else ()
    said = campaign.file.parent / "said.txt"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [*step, EMBEDCUBE, "consolidate", campaign.file],
            # addresses of UCX are too long for Slurm's pmi2, see test_dask
            env=os.environ | {"PYTHONPATH": path, "MPIR_CVAR_CH4_NETMOD": "ofi"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    running = Consolidation(kind=kind, campaign=campaign, cluster=cluster, process=process, said=said)
    try:
        yield running
    finally:
        if not running.ended():
            running.kill("all", random.Random())
        process.wait()


def at_a_random_moment(running: Consolidation, before: int, least: int, pick: random.Random) -> None:
    """Wait for `least` to three objects more than `before`, and a little; or, of none, for any moment of the start."""
    more = pick.randrange(least, 4)
    wanted = min(8, before + more)
    with suppress(TimeoutError):
        wait_until(
            lambda: running.process.poll() is not None or objects_of(running.campaign) >= wanted,
            f"{wanted} objects",
            timeout_s=240,
        )
    time.sleep(pick.uniform(0, 0.6 if before < wanted < 8 else 4))


@pytest.mark.parametrize("kind", VICTIMS)
def test_killed_at_random_moments(
    cluster: Cluster, embedded: Campaign, finished_demo: Campaign, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pick = random.Random(f"killed {kind}")
    embedded.change(lambda document: document["how"].update(dask={"kind": kind, "workers": 2, "threads": 1}))
    expected, run = cube_bytes(finished_demo.run.newest_cube), embedded.run
    kills = 0
    for _ in range(4 * KILLS):
        before, victim = objects_of(embedded), VICTIMS[kind][kills % len(VICTIMS[kind])]
        with started(kind, embedded, cluster) as running:
            # a worker is there once it has made something
            at_a_random_moment(running, before, int(victim == "worker"), pick)
            objects = objects_of(embedded)
            killed = running.process.poll() is None and running.kill(victim, pick)
            kills += killed
            wait_until(
                running.ended,
                f"the end of {kind} after its {victim} was killed",
                timeout_s=_patience_s(victim if killed else ""),
            )
        code, words = running.process.returncode, running.said.read_text()
        with capsys.disabled():
            print(f"\n{kind}: {victim} {'killed' if killed else 'missed'} at {objects} objects: exit {code}", end="")
        assert "Traceback" not in words
        assert not run.newest_cube.exists() or cube_bytes(run.newest_cube) == expected, "whole or not at all"
        if run.newest_cube.exists():
            shutil.rmtree(run.cubes)
            run.newest_cube.unlink()
        if kills == KILLS:
            break
    assert kills == KILLS
    with started(kind, embedded, cluster) as last:
        wait_until(last.ended, f"the end of {kind}", timeout_s=300)
    assert last.process.returncode == 0, last.said.read_text()
    assert cube_bytes(run.newest_cube) == expected
    assert list(run.cubes.rglob(f"{TEMPORARY_PREFIX}*")) == [], "nothing is left"


def _patience_s(victim: str) -> float:
    """Where nothing or a worker alone is lost, the consolidation goes on to its end."""
    return 300.0 if victim in ("", "worker") else LATE_S
