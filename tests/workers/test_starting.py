"""The fork server: what it is when it forks, whose children ranks are, and what is said when it fails."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import cast

import psutil
import pytest
from tests.conftest import Campaign, demo_in
from tests.workers.parents import embedding, sleepy, wait_until

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import RECORDS
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import StartAgain, WorkError
from embedcube.workers import task
from embedcube.workers.coordinator import OwnCoordinator
from embedcube.workers.protocol import Place
from embedcube.workers.ranks import Crew, Ranks, common_environment
from embedcube.workers.starting import MODULE, Forked, ForkServer, fork_server, servers_kept
from embedcube.workers.stopping import StopRequests

LOOK = """
import json, os, sys
HARMLESS = ("null", "log", "proj.db", "memfd:embedcube (deleted)")
def look():
    import torch, zarr.core.sync
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if os.path.exists(link)]
    found = {
        "MPI": "mpi4py.MPI" in sys.modules,
        "CUDA": torch.cuda.is_initialized(),
        "process group": torch.distributed.is_initialized(),
        "event loop of zarr": zarr.core.sync.loop[0] is not None,
        "third parties": [name for name in ("tiny_vit", "snow_cover", "terratorch", "cfgrib") if name in sys.modules],
        "threads but one": len(os.listdir("/proc/self/task")) - 1,
        # PROJ opens its database again after a fork; the log is the rank's
        "open files": [one for one in opened if one.startswith("/") and os.path.basename(one) not in HARMLESS],
    }
    with open(WHERE, "w") as file:
        json.dump(found, file)
os.register_at_fork(before=look)
"""


def test_it_has_one_thread_and_nothing_that_a_fork_would_break(finished_demo: Campaign, tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(LOOK.replace("WHERE", repr(str(tmp_path / "found"))))
    modules = ["embedcube.sources.era5.source", "embedcube.sources.sentinel2.source", "embedcube.backbones.mosaiks"]
    path = {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"]))}
    server = ForkServer(common_environment(load_campaign(finished_demo.file)) | path, [*modules, "looks"])
    ours, theirs = socket.socketpair()
    variables = Place(rank=3, local_rank=0, world=4, parent=0, store=str(tmp_path / "store")).variables()
    with ours, (tmp_path / "log").open("wb") as log:
        rank = server.fork(3, variables, [str(tmp_path), "0", "attempt"], [theirs.fileno(), log.fileno()])
        theirs.close()
        wait_until(lambda: rank.poll() is not None)
    assert rank.poll() == 2, "there is no campaign in this folder"
    assert str(tmp_path) in (tmp_path / "log").read_text()
    found = json.loads((tmp_path / "found").read_text())
    assert not any(found.values()), found
    assert server.usable
    server.close()
    assert not server.usable


def test_what_is_asked_of_a_server_that_starts_or_has_ended(tmp_path: Path) -> None:
    """A launcher has SIGCHLD ignored, a person asks for stacks too early, and the server dies between two ranks."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    variables = Place(rank=0, local_rank=0, world=1, parent=0, store=str(tmp_path / "store")).variables()
    (tmp_path / "dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with (tmp_path / "log").open("wb") as log:
        descriptors = [log.fileno(), log.fileno()]
        try:
            server = ForkServer(os.environ, [])
            rank = server.fork(0, variables, [str(tmp_path), "0", "attempt"], descriptors)
            rank.send_signal(signal.SIGQUIT)
            wait_until(lambda: rank.poll() is not None)
            assert (rank.poll(), rank.failure) == (2, ""), "it ran, and there is no campaign in this folder"
        finally:
            server.close()
            signal.signal(signal.SIGCHLD, before)
        dying = ForkServer(os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}"}, ["dies"])
        first = dying.fork(0, variables, [], descriptors)
        wait_until(lambda: first.poll() is not None)
        second = dying.fork(1, variables, [], descriptors)
    assert first.failure == second.failure == "the fork server of the ranks is gone: killed by SIGKILL"
    assert first.poll() == second.poll() == 75
    adopts = ctypes.c_int(1)
    ctypes.CDLL(None).prctl(37, ctypes.byref(adopts), 0, 0, 0)
    assert not adopts.value, "this process is given no orphans any more"


def test_a_signal_handler_may_ask_for_the_end_of_a_rank_while_it_is_looked_for() -> None:
    """The handler interrupts the thread that holds the lock, and would wait for it for ever."""
    rank = Forked(cast("ForkServer", None))
    with subprocess.Popen(["sleep", "60"]) as process:
        rank.pid = process.pid
        with rank._lock:
            handler = threading.Thread(target=rank.poll, daemon=True)
            handler.start()
            handler.join(5)
            assert not handler.is_alive()
        process.kill()
        wait_until(lambda: rank.poll() is not None)
        assert rank.poll() == -signal.SIGKILL


class Killed:
    """A fork server that was killed after it had forked a rank, and before it said so."""

    def fork(self, number: int, variables: object, arguments: object, descriptors: list[int]) -> Forked:
        """What the rank has, stays open."""
        self.rank = socket.socket(fileno=os.dup(descriptors[0]))
        forked = Forked(cast("ForkServer", self))
        forked.never_started("the fork server is gone", 75)
        return forked


def test_a_rank_of_which_its_parent_was_never_told_ends(finished_demo: Campaign, tmp_path: Path) -> None:
    server = Killed()
    with StopRequests() as asked:
        ranks = Ranks(
            load_campaign(finished_demo.file),
            RunDir(tmp_path),
            0,
            "lost",
            Crew(parent=0, parents=1, ranks=1),
            OwnCoordinator(world=1, parents=1),
            asked,
            cast("ForkServer", server),
        )
        server.rank.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.rank.recv(1)
        assert ranks.wait(lambda: None) == (75,)
    server.rank.settimeout(20)
    assert server.rank.recv(1) == b"", "the rank sees that nobody is there, and ends"
    server.rank.close()


def failed(module: str, folder: Path) -> tuple[int, str]:
    """The exit code and the words of a rank whose fork server imports this module of the folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), os.environ["PYTHONPATH"]))}
    server = ForkServer(environment, [module])
    with Path(os.devnull).open("wb") as null:
        rank = server.fork(0, {}, [], [null.fileno(), null.fileno()])
    wait_until(lambda: rank.poll() is not None)
    assert not server.usable
    code = rank.poll()
    assert code is not None
    return code, rank.failure


def test_a_failed_import_is_an_error_in_words(tmp_path: Path) -> None:
    assert failed("not_installed", tmp_path) == (
        1,
        "what ranks need cannot be imported: ModuleNotFoundError: No module named 'not_installed'",
    )


def test_a_server_that_dies_is_named_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("import os\nprint('half of it', flush=True)\nos.kill(os.getpid(), 9)\n")
    assert failed("dies", tmp_path) == (75, "the fork server of the ranks is gone: killed by SIGKILL; half of it")


@pytest.fixture(scope="module")
def planned(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo with a slow backbone and two ranks, planned."""
    campaign = sleepy(demo_in(tmp_path_factory.mktemp("planned"), demo_archive), ranks=2)
    campaign.cli("run", "--until", "plan")
    return campaign


def test_the_task_says_why_no_rank_was_started(
    planned: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(task, "own_modules", lambda _: ["not_installed"])
    with pytest.raises(WorkError, match=r"a rank failed: rank 0 on node .*cannot be imported: ModuleNotFoundError"):
        planned.cli("embed")
    (tmp_path / "slow_to_import.py").write_text("import time\n\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(task, "own_modules", lambda _: ["slow_to_import"])
    monkeypatch.setattr("embedcube.workers.starting.START_TIMEOUT_S", 0.0)
    with pytest.raises(StartAgain, match="what ranks need was not imported within 0 s"):
        planned.cli("embed")


def test_one_server_serves_the_next_task_of_the_same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcube.workers.starting._kept", None)  # not that of all tests
    with servers_kept():
        with fork_server(os.environ, []) as first:
            pass
        with fork_server(os.environ, []) as second:
            assert second is first
        with fork_server(os.environ | {"OMP_NUM_THREADS": "7"}, []) as third:
            assert third is not first
            assert not first.usable, "one of them is enough"
        assert third.usable
    assert not third.usable


def server_of(parent: psutil.Process) -> psutil.Process:
    """The fork server of a parent."""
    (server,) = (child for child in parent.children() if MODULE in child.cmdline() and not is_rank(child))
    return server


def is_rank(process: psutil.Process) -> bool:
    """Whether a fork of the server is a rank."""
    return process.name().startswith("rank ")


def test_ranks_outlive_their_server_and_not_their_parent(planned: Campaign) -> None:
    with embedding(planned, SLEEPY_S="0.3") as process:
        wait_until(lambda: any(planned.run.parts.glob(f"*/*/*/{RECORDS}")))
        parent = psutil.Process(process.pid)
        ranks = [child for child in parent.children() if is_rank(child)]
        assert sorted(rank.name() for rank in ranks) == ["rank 0", "rank 1"]
        server_of(parent).kill()
        time.sleep(1)
        assert all(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(rank.is_running() for rank in ranks), timeout_s=60)
    logs = [path.read_text() for path in planned.run.logs.glob("embed-*.log")]
    assert any("the parent of the rank is gone" in text for text in logs)


def test_a_server_whose_parent_is_killed_ends(planned: Campaign) -> None:
    with embedding(planned, SLEEPY_S="0.3") as process:
        parent = psutil.Process(process.pid)
        wait_until(lambda: any(MODULE in child.cmdline() for child in parent.children()))
        server = server_of(parent)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not server.is_running(), timeout_s=60)
