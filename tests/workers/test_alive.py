"""Every wait of a rank and of its parent has an end, and what ended it is named."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from tests.conftest import Campaign, demo_in
from tests.workers.parents import EMBEDCUBE, embedding, sleepy, two_parents, wait_until

from embedcube.campaign.parts import RECORDS
from embedcube.campaign.plan import Shard
from embedcube.campaign.recorded import recorded_recipes
from embedcube.errors import WorkError
from embedcube.sources.reader import RasterReader
from embedcube.workers import pipeline, prefetch
from embedcube.workers.crashes import CrashHistory
from embedcube.workers.pipeline import Pipeline
from embedcube.workers.protocol import Place
from embedcube.workers.queue import RankDraws
from embedcube.workers.stopping import Stop

# --- threads of one rank ----------------------------------------------------------------------------------


def test_a_reader_that_is_closed_lets_nobody_wait_for_what_it_has_dropped() -> None:
    reader, ended = RasterReader(2, attempts=1), threading.Event()

    def read_six() -> None:
        with pytest.raises(CancelledError):
            reader.together([lambda: time.sleep(0.5)] * 6)
        ended.set()

    threading.Thread(target=read_six, daemon=True).start()
    time.sleep(0.2)
    closing = threading.Thread(target=reader.close, daemon=True)
    closing.start()
    closing.join(timeout=10)
    assert not closing.is_alive(), "close never returns"
    assert ended.wait(10), "who asked never gets an answer"


def test_leaving_a_thread_that_hangs_takes_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_LEAVE_S", 0.5)
    never = threading.Event()

    def source() -> Generator[int, None, None]:
        yield 1
        never.wait(60)
        yield 2

    items = prefetch.prefetched(source())
    assert next(items) == 1
    began_s = time.monotonic()
    items.close()
    assert time.monotonic() - began_s < 5
    never.set()


class LoneParent:
    """A parent that counts."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.held: list[set[str]] = []

    def count(self, counter: str) -> int:
        self._counts[counter] = self._counts.get(counter, 0) + 1
        return self._counts[counter]

    def hold(self, held: Any, finish_s: float) -> None:
        self.held.append({one.shard for one in held})


def shard(number: int) -> Shard:
    return Shard(layer="l", zone="z", t=0, row=0, col=0, iy=0, ix=number, recipe=f"{number:064}", scenes=())


def draws_of(parent: LoneParent, shards: int) -> RankDraws:
    place, history = Place(rank=0, local_rank=0, world=1, parent=0, store=""), CrashHistory(crashes={}, refused={})
    group = [shard(n) for n in range(shards)]
    left = {one.recipe for one in group}
    return RankDraws([group], left, history, parent, place, 1, Stop(), float("inf"))


NO_MEMORY = {
    "host": MemoryError("Unable to allocate 9.3 TiB for an array"),
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY.keys())
@pytest.mark.parametrize(
    ("stage", "doing"), [("read_stage", "read"), ("embed_stage", "embedded"), ("encode_stage", "written")]
)
def test_no_memory_in_any_thread_ends_the_work_and_names_the_shard(
    stage: str, doing: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the other threads wait for a file that never comes."""
    monkeypatch.setattr(prefetch, "_LEAVE_S", 0.5)
    never, passed = threading.Event(), iter(range(100))

    def failing(*_: object) -> Any:
        raise error

    def reading(of: Shard, *_: object) -> Any:
        if next(passed) >= 2:
            never.wait(60)
        return SimpleNamespace(shard=of, timings=SimpleNamespace(add=lambda *_: None), drop_pixels=lambda: None)

    def embedding_one(read: Any) -> Any:
        return SimpleNamespace(read=read)

    stages = {"read_stage": reading, "embed_stage": embedding_one, "encode_stage": lambda one: one} | {stage: failing}
    for name, function in stages.items():
        monkeypatch.setattr(pipeline, name, function)
    recorder: Any = SimpleNamespace(write=lambda _: 0.1)
    reader: Any = None
    recipes: Any = SimpleNamespace(refuse_other=lambda _: None, out=lambda _: {})
    work = Pipeline({"l": None}, [], {}, reader, recorder, recipes)  # type: ignore[dict-item]
    began_s = time.monotonic()
    with pytest.raises(WorkError, match=rf"l/z t0 y0 x0: no memory while it was {doing}: .*allocate") as said:
        work.run(draws_of(LoneParent(), 5), busy_core=False)
    assert time.monotonic() - began_s < 10
    assert "how.ranks" in str(said.value)
    never.set()


def test_a_shard_left_undone_is_not_in_hand_any_more() -> None:
    """A kill afterwards must not make it a suspect."""
    parent = LoneParent()
    draws = draws_of(parent, 4)
    shards = draws.ahead()
    first, second = next(shards), next(shards)
    draws.let_go(first)
    draws.written(second, 0.1)
    third = next(shards)
    assert parent.held == [{str(first)}, {str(first), str(second)}, {str(third)}]


GUARDED = """
import sys, time
from embedcube.workers.stopping import Guard, Stop
stop = Stop()
guard = Guard(int(sys.argv[1]), stop)
if sys.argv[2] == "works":
    guard.working(lambda: 1.0)
print("ready", flush=True)
while True:
    time.sleep(100)
"""


@pytest.mark.parametrize("works", ["works", "starts"])
@pytest.mark.parametrize("lost", [True, False], ids=["parent lost", "asked to stop"])
def test_a_rank_whose_threads_hang_ends_when_it_is_to_stop(works: str, lost: bool) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", GUARDED, str(theirs.fileno()), works]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    theirs.close()
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if lost:
        ours.close()
    else:
        process.send_signal(signal.SIGUSR2)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 75
    assert (b"the parent of the rank is gone" if lost else b"asked to stop by SIGUSR2") in said
    assert (b"has not ended" if works == "works" else b"before the work began") in said
    ours.close()


HANGING_LOG = (
    """
import logging, sys
from embedcube.workers import stopping
stopping._LOG_S = 0.5
handler = logging.StreamHandler()
logging.getLogger().addHandler(handler)
handler.acquire()  # as a thread does whose line no file system takes
"""
    + GUARDED
)


@pytest.mark.parametrize("works", ["works", "starts"])
def test_a_log_that_hangs_keeps_no_rank(works: str) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", HANGING_LOG, str(theirs.fileno()), works]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        theirs.close()
        ours.close()
        try:
            assert process.wait(timeout=20) == 75
        finally:
            process.kill()


def test_a_log_that_hangs_keeps_no_process_that_ends() -> None:
    hanging = HANGING_LOG.removesuffix(GUARDED).replace(
        "handler.acquire()", "__import__('threading').Thread(target=handler.acquire).start()"
    )
    command = [sys.executable, "-c", f"{hanging}\nstopping.end_process(3)"]
    assert subprocess.run(command, timeout=20, check=False).returncode == 3


A_RANK = "import sys; from embedcube.workers.rank import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("closed", ["the other end", "its own end"])
def test_a_rank_that_cannot_reach_its_parent_says_start_again(closed: str, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    place = Place(rank=0, local_rank=0, world=1, parent=theirs.fileno(), store=str(tmp_path / "store"))
    with theirs:
        done = subprocess.run(
            [sys.executable, "-c", A_RANK, str(tmp_path), "0", "attempt"],
            env=os.environ | place.variables(),
            pass_fds=[theirs.fileno()] if closed == "the other end" else [],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 75, done.stderr
    assert "the parent of the rank is gone" in done.stderr
    assert "Traceback" not in done.stderr


# --- the task -----------------------------------------------------------------------------------------------


def ranks_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if child.name().startswith("rank ")]


def has_records(campaign: Campaign) -> bool:
    return any(campaign.run.parts.glob(f"*/*/*/{RECORDS}"))


@pytest.fixture(scope="module")
def planned(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo with a slow backbone, two ranks of two threads, planned."""
    campaign = sleepy(demo_in(tmp_path_factory.mktemp("planned"), demo_archive), ranks=2, threads=2)
    campaign.cli("run", "--until", "plan")
    return campaign


@pytest.fixture
def clean(planned: Campaign) -> Campaign:
    """The same without any part or log."""
    shutil.rmtree(planned.run.parts, ignore_errors=True)
    shutil.rmtree(planned.run.logs, ignore_errors=True)
    return planned


def full_disk(campaign: Campaign, size_kb: int, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """`embed` where the parts are on a file system of their own that is too small."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    parts = campaign.run.parts
    parts.mkdir(exist_ok=True)
    script = f"mount -t tmpfs -o size={size_kb}k full {parts} || exit 99; exec {EMBEDCUBE} embed {campaign.file}"
    return subprocess.run([*own, "sh", "-c", script], capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_full_disk_ends_the_task_and_names_the_file(clean: Campaign) -> None:
    done = full_disk(clean, 200, timeout_s=180)
    assert done.returncode == 1, done.stderr
    said = r"shards are undone; a rank failed: rank \d on node \S+: \[Errno 28\] No space left on device: '(.*)' \("
    named = re.search(said, done.stderr)
    assert named, done.stderr
    assert named[1].startswith(str(clean.run.parts))
    assert "Traceback" not in done.stderr


def test_a_file_that_may_not_grow_ends_the_task_and_names_it(clean: Campaign) -> None:
    """EFBIG stands for EDQUOT and EIO: any write that fails for good."""
    limited = ["prlimit", "--fsize=4000"] if shutil.which("prlimit") else ["sh", "-c", 'ulimit -f 8; exec "$0" "$@"']
    done = subprocess.run(
        [*limited, str(EMBEDCUBE), "embed", str(clean.file)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 1, done.stderr
    assert re.search(rf"a rank failed: rank .*\[Errno {errno.EFBIG}\] File too large: '{clean.run.parts}", done.stderr)


@pytest.mark.slow
def test_a_second_stop_signal_ends_at_once(clean: Campaign) -> None:
    with embedding(clean, SLEEPY_S="3") as process:
        wait_until(lambda: has_records(clean))
        ranks = ranks_of(process)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert process.poll() is None, "the shards in hand take longer"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=15)
        assert process.returncode == 75, said
        assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert "stopped by signal 15 (SIGTERM)" in said


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_task_within_a_minute(clean: Campaign) -> None:
    """Even beside a rank that is deaf."""
    with embedding(clean, SLEEPY_S="0.3") as process:
        wait_until(lambda: len(list(clean.run.parts.glob(f"*/*/*/{RECORDS}"))) == 2)
        deaf = next(rank for rank in ranks_of(process) if rank.name() == "rank 0")
        deaf.suspend()
        (part,) = clean.run.parts.glob("*/*/0001")
        part.rename(part.with_name("gone"))
        failed_s = time.monotonic()
        _, said = process.communicate(timeout=110)
        assert process.returncode == 1, said
        assert time.monotonic() - failed_s < 60
    assert re.search(rf"a rank failed: rank 1 on node \S+: .*No such file or directory: '{part}", said)


@pytest.fixture
def one_each(clean: Campaign) -> Campaign:
    """Two parents have one rank each."""
    clean.change(lambda document: document["how"].update(ranks=1))
    return clean


def both_have_records(campaign: Campaign) -> bool:
    return len(list(campaign.run.parts.glob(f"*/*/*/{RECORDS}"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_parent_costs_what_its_ranks_held(one_each: Campaign, lost: int) -> None:
    """Parent 0 is killed and its rank lives on for a while; of parent 1, the whole node is lost."""
    slowly = {"SLEEPY_S": "0.5"}
    with two_parents(one_each, slowly, slowly) as both:
        wait_until(lambda: both_have_records(one_each))
        (orphan,) = ranks_of(both[lost])
        os.kill(both[0].pid, signal.SIGKILL) if lost == 0 else os.killpg(both[1].pid, signal.SIGKILL)
        killed_s = time.monotonic()
        other = both[1 - lost]
        _, said = other.communicate(timeout=150)
        assert other.returncode == 75, said
        if lost == 0:
            assert time.monotonic() - killed_s < 60
            assert re.search(r"parent 0 of the task, at \S+ port \d+, is gone", said)
        else:
            assert re.search(r"shards are undone: parent 1 of the task, on \S+, was lost; start the same", said)
        wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, timeout_s=60)
    assert 0 < len(recorded_recipes(one_each.run)) < 30


@pytest.mark.slow
def test_a_rank_killed_on_another_node_is_named(one_each: Campaign) -> None:
    slowly = {"SLEEPY_S": "0.3"}
    with two_parents(one_each, slowly, slowly) as (first, second):
        wait_until(lambda: both_have_records(one_each))
        ranks_of(second)[0].kill()
        _, said = first.communicate(timeout=200)
        second.communicate(timeout=60)
        assert (first.returncode, second.returncode) == (75, 0), said
    killed = r"rank 1 on node \S+ was killed by SIGKILL \(out of memory\?\) while it held s2_mosaiks/"
    assert re.search(f"shards are undone: {killed}", said)
