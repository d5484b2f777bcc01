"""embed: one task. A parent on each of its nodes starts the ranks of that node; parent 0 opens the store.

Parents do no device work, so the store outlives any rank. `rank.py` is what they start, `rendezvous.py` how they find
each other, and `protocol.py` tells the whole story. On one machine there is one parent.
"""

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from embedcube.campaign.parts import RECORDS, recorded_recipes, scan_documents
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import StartAgain, WorkError
from embedcube.progress import Progress
from embedcube.workers.crashes import Crash, write_crash
from embedcube.workers.protocol import (
    ABORT,
    EXIT_START_AGAIN,
    PARENT_SILENT_S,
    PARENTS_DONE,
    POLL_S,
    RANKS_READY,
    STACKS_SIGNAL,
    START_TIMEOUT_S,
    Place,
    drawn_key,
    failure_key,
    heartbeat_key,
    parent_key,
)
from embedcube.workers.rendezvous import Announcement, Rendezvous, find_parents, own_host


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What became of a task."""

    shards: int
    undone: int
    exit_codes: tuple[int, ...]
    """of this node's ranks; negative where a signal killed one"""
    logs: tuple[Path, ...]


def run_task(campaign: Campaign, run: RunDir, task: int, progress: Progress) -> TaskResult:
    """Embed the shards of a task that have no record yet, with as many ranks on each node as the campaign says.

    Raises:
        StartAgain: some shards are undone for a reason that may pass.
        WorkError: a rank failed for a reason that will not.
    """
    parents = find_parents(run, task)
    if parents.number == 0:
        return _run_parent_0(campaign, run, task, parents, progress)
    return _run_other_parent(campaign, run, task, parents)


def _run_parent_0(campaign: Campaign, run: RunDir, task: int, parents: Rendezvous, progress: Progress) -> TaskResult:
    """Parent 0: opens the store, and counts in the end what was done."""
    total, to_do = shards_to_do(campaign, run, task)
    progress(total - len(to_do), total)
    host = "127.0.0.1" if parents.count == 1 else own_host()
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    announcement = Announcement(attempt=parents.attempt, host=host, port=store.port, work=bool(to_do))
    parents.share(announcement)
    if not to_do:
        return TaskResult(shards=total, undone=0, exit_codes=(), logs=())
    records = _RecordCounter(run.task(task) / announcement.attempt)

    def report() -> None:
        progress(total - len(to_do) + records.count(), total)

    ranks = _Ranks(campaign, run, task, parents, announcement, store)
    codes = ranks.wait(report)
    _wait_for_others(store, parents.count, report)
    failures = [_failure(codes, ranks.logs), *_failures_elsewhere(store, parents.count)]
    recorded = {document["recipe"] for _, document in scan_documents(run, announcement.attempt)}
    # another start of this task may have recorded some meanwhile
    undone = len(to_do - recorded - recorded_recipes(run, whole=campaign.how.retry_quarantined))
    progress(total - undone, total)
    result = TaskResult(shards=total, undone=undone, exit_codes=codes, logs=ranks.logs)
    if undone:
        _explain(result, next(filter(None, failures), ""))
    return result


def shards_to_do(campaign: Campaign, run: RunDir, task: int) -> tuple[int, set[str]]:
    """How many shards a task has, and the recipes of those without a record."""
    recipes = read_recipes(run, read_plan(campaign, run), task)
    return len(recipes), set(recipes) - recorded_recipes(run, whole=campaign.how.retry_quarantined)


def _run_other_parent(campaign: Campaign, run: RunDir, task: int, parents: Rendezvous) -> TaskResult:
    """Another parent: its ranks draw from the store of parent 0, which alone counts what was done."""
    announcement = parents.share(None)
    if not announcement.work:
        return TaskResult(shards=0, undone=0, exit_codes=(), logs=())
    host, port = announcement.host, announcement.port
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=START_TIMEOUT_S))
        ranks = _Ranks(campaign, run, task, parents, announcement, store)
        codes = ranks.wait(lambda: store.add(heartbeat_key(parents.number), 1))
        if failure := _failure(codes, ranks.logs):
            store.set(failure_key(parents.number), failure)
        store.add(PARENTS_DONE, 1)
    except RuntimeError:
        raise StartAgain(f"the store at {host}:{port} does not answer: parent 0 of the task is gone") from None
    return TaskResult(shards=0, undone=0, exit_codes=codes, logs=ranks.logs)


def _wait_for_others(store: TCPStore, parents: int, report: Callable[[], None]) -> None:
    """Keep the store open until all other parents have ended, or have no heartbeat any more."""
    heartbeats, since_s = 0, time.monotonic()
    while store.add(PARENTS_DONE, 0) < parents - 1 and time.monotonic() - since_s < PARENT_SILENT_S:
        time.sleep(POLL_S)
        report()
        total = sum(store.add(heartbeat_key(number), 0) for number in range(1, parents))
        if total != heartbeats:
            heartbeats, since_s = total, time.monotonic()


def _failure(codes: tuple[int, ...], logs: tuple[Path, ...]) -> str:
    """The last line of the first rank of this node that failed for good; empty where none did."""
    for code, path in zip(codes, logs, strict=True):
        if code > 0 and code != EXIT_START_AGAIN:
            last = path.read_text().strip().splitlines()[-1:] or [f"its log is empty, its exit code is {code}"]
            return f"{last[0]} ({path})"
    return ""


def _failures_elsewhere(store: TCPStore, parents: int) -> list[str]:
    """The failures that other parents have reported."""
    keys = [failure_key(number) for number in range(1, parents)]
    return [store.get(key).decode() for key in keys if store.check([key])]


def _explain(result: TaskResult, failure: str) -> None:
    if failure:
        raise WorkError(f"{result.undone} of {result.shards} shards are undone; a rank failed: {failure}")
    raise StartAgain(
        f"{result.undone} of {result.shards} shards are undone: ranks ended with {list(result.exit_codes)}, see "
        f"{result.logs[0].parent}; start the same command again, it does only what has no record"
    )


class _Ranks:
    """The ranks of one node."""

    def __init__(
        self,
        campaign: Campaign,
        run: RunDir,
        task: int,
        parents: Rendezvous,
        announcement: Announcement,
        store: TCPStore,
    ) -> None:
        """Starts them."""
        count = campaign.how.ranks
        self._store, self._world = store, count * parents.count
        self._run, self._task, self._attempt = run, task, announcement.attempt
        self._crashed: set[int] = set()
        if store.add(parent_key(parents.number), 1) > 1:
            raise WorkError(
                f"two parents of attempt {self._attempt} both have number {parents.number}: let the launcher start one "
                "parent on each node, with numbers of their own"
            )
        run.logs.mkdir(parents=True, exist_ok=True)
        self._numbers = range(parents.number * count, (parents.number + 1) * count)
        self.logs = tuple(run.rank_log(task, self._attempt, rank) for rank in self._numbers)
        command = [sys.executable, "-m", "embedcube.workers.rank", str(run.root), str(task), self._attempt]
        self._processes = []
        for rank, log in zip(self._numbers, self.logs, strict=True):
            place = Place(
                rank=rank,
                local_rank=rank % count,
                world=self._world,
                host=announcement.host,
                port=announcement.port,
            )
            with log.open("ab") as out:
                self._processes.append(
                    subprocess.Popen(
                        command, env=_environment(campaign, place), stdin=subprocess.DEVNULL, stdout=out, stderr=out
                    )
                )

    def wait(self, meanwhile: Callable[[], object]) -> tuple[int, ...]:
        """Wait until all have ended, and return their exit codes; `meanwhile` is called again and again."""
        signal.signal(STACKS_SIGNAL, self._show_stacks)
        try:
            while None in (codes := [process.poll() for process in self._processes]):
                self._kill_on_abort(codes)
                self._write_crashes()
                meanwhile()
                time.sleep(POLL_S)
            # ranks of other nodes may still wait for one that has just ended here
            self._kill_on_abort(codes)
            self._write_crashes()
        except BaseException:
            self._stop()
            raise
        return tuple(process.returncode for process in self._processes)

    def _kill_on_abort(self, codes: list[int | None]) -> None:
        """Kill all ranks when one, on any node, failed before all were ready: they would wait for its time-out."""
        if self._all_ready():
            return
        if any(codes):
            self._store.add(ABORT, 1)
        if self._store.add(ABORT, 0):
            for process in self._processes:
                process.kill()

    def _write_crashes(self) -> None:
        """For each rank that a signal has killed, write which shards it held."""
        for rank, process in zip(self._numbers, self._processes, strict=True):
            killed = (process.poll() or 0) < 0
            if killed and rank not in self._crashed and self._store.check([drawn_key(rank)]):
                self._crashed.add(rank)
                part = self._run.part(self._task, self._attempt, rank)
                drawn = self._store.get(drawn_key(rank)).decode().split()
                done = {one["recipe"] for folder, one in scan_documents(self._run, self._attempt) if folder == part}
                held = tuple(recipe for recipe in drawn if recipe not in done)
                write_crash(part, Crash(host=socket.gethostname(), signal=-process.returncode, shards=held))

    def _show_stacks(self, *_: object) -> None:
        """Write the stacks of this process and of the ranks to the logs."""
        faulthandler.dump_traceback()
        for process in self._processes:
            process.send_signal(STACKS_SIGNAL)

    def _all_ready(self) -> bool:
        return self._store.add(RANKS_READY, 0) == self._world

    def _stop(self) -> None:
        """End the ranks; each finishes and records the shards that it holds."""
        try:
            ready = self._all_ready()
        except RuntimeError:
            ready = True
        for process in self._processes:
            # before it is ready, a rank waits in a collective, does not react to SIGTERM, and holds no shard
            process.send_signal(signal.SIGTERM if ready else signal.SIGKILL)
        for process in self._processes:
            process.wait()


def _environment(campaign: Campaign, place: Place) -> dict[str, str]:
    """The environment of a rank."""
    how = campaign.how
    # on one machine nothing must leave it; between nodes the job script names the network, or gloo finds one
    network = {"GLOO_SOCKET_IFNAME": "lo"} if place.world == how.ranks else {}
    fixed = {
        "OMP_NUM_THREADS": str(how.threads_per_rank),
        # idle threads of one rank must not spin on the cores of another
        "OMP_WAIT_POLICY": "PASSIVE",
        "GDAL_CACHEMAX": str(how.cache_mb),
        # the inventory knows the geometry: no folder of a million files is listed to look for sidecars
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        # the arrays of shards are allocated and freed by several threads: kept in one heap, they cost no page faults
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    return network | os.environ | fixed | place.variables()


class _RecordCounter:
    """Counts the records of an attempt while they are written; each byte is read once."""

    def __init__(self, attempt: Path) -> None:
        self._attempt = attempt
        self._lines = 0
        self._read: dict[Path, int] = {}

    def count(self) -> int:
        """The records of all ranks so far."""
        for path in self._attempt.glob(f"*/{RECORDS}"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                appended = file.read()
            self._read[path] = self._read.get(path, 0) + len(appended)
            self._lines += appended.count(b"\n")
        return self._lines
