"""embed: one task. A parent on each of its nodes spawns ranks; the first one holds the counter that they draw from.

The parents do no device work, so that the counter (a TCPStore) outlives any rank. `rank.py` is what they spawn,
`rendezvous.py` how they find each other; on one machine there is one parent.
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

from torch import distributed

from embedcube.campaign.parts import RECORDS, recorded_recipes, scan_documents
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import StartAgain, WorkError
from embedcube.progress import Progress
from embedcube.workers.crashes import Crash, write_crash
from embedcube.workers.protocol import ABANDONED, FAILED, IN_HAND, LEFT, MEETING_S, MET
from embedcube.workers.rendezvous import Announcement, Meeting, meet, own_host

_SILENT_S = 60.0
"""A parent that has not been heard of for so long is dead, and is not waited for."""


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
    meeting = meet(run, task)
    return (
        _lead(campaign, run, task, meeting, progress) if meeting.number == 0 else _follow(campaign, run, task, meeting)
    )


def _lead(campaign: Campaign, run: RunDir, task: int, meeting: Meeting, progress: Progress) -> TaskResult:
    """The first parent: holds the counter, and says in the end what was done."""
    total, todo = shards_to_do(campaign, run, task)
    progress(total - len(todo), total)
    host = "127.0.0.1" if meeting.count == 1 else own_host()
    store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
    said = Announcement(attempt=meeting.attempt, host=host, port=store.port, work=bool(todo))
    meeting.share(said)
    if not todo:
        return TaskResult(shards=total, undone=0, exit_codes=(), logs=())
    recorded = _RecordCounter(run.task(task) / said.attempt)

    def tell() -> None:
        progress(total - len(todo) + recorded.count(), total)

    ranks = _Ranks(campaign, run, task, meeting, said, store)
    codes = ranks.wait(tell)
    _wait_for_others(store, meeting.count, tell)
    failed = [_failure(codes, ranks.logs), *_failures_elsewhere(store, meeting.count)]
    now = {document["recipe"] for _, document in scan_documents(run, said.attempt)}
    # and what another start of this task has done meanwhile
    undone = len(todo - now - recorded_recipes(run, whole=campaign.how.retry_quarantined))
    progress(total - undone, total)
    result = TaskResult(shards=total, undone=undone, exit_codes=codes, logs=ranks.logs)
    if undone:
        _explain(result, next(filter(None, failed), ""))
    return result


def shards_to_do(campaign: Campaign, run: RunDir, task: int) -> tuple[int, set[str]]:
    """How many shards a task has, and the recipes of those without a record."""
    read_plan(campaign, run)
    recipes = read_recipes(run, task)
    return len(recipes), set(recipes) - recorded_recipes(run, whole=campaign.how.retry_quarantined)


def _follow(campaign: Campaign, run: RunDir, task: int, meeting: Meeting) -> TaskResult:
    """Another parent: its ranks draw from the first one's counter, and that one says what was done."""
    said = meeting.share(None)
    if not said.work:
        return TaskResult(shards=0, undone=0, exit_codes=(), logs=())
    lost = StartAgain(f"the counter at {said.host}:{said.port} is lost: the first parent of the task is gone")
    try:
        store = distributed.TCPStore(said.host, said.port, is_master=False, timeout=timedelta(seconds=MEETING_S))
        ranks = _Ranks(campaign, run, task, meeting, said, store)
        codes = ranks.wait(lambda: store.add(f"alive/{meeting.number}", 1))
        if failed := _failure(codes, ranks.logs):
            store.set(f"{FAILED}/{meeting.number}", failed)
        store.add(LEFT, 1)
    except RuntimeError:
        raise lost from None
    return TaskResult(shards=0, undone=0, exit_codes=codes, logs=ranks.logs)


def _wait_for_others(store: distributed.TCPStore, parents: int, tell: Callable[[], None]) -> None:
    """Keep the counter until all other parents have ended, or are not heard of any more."""
    heard, since = 0, time.monotonic()
    while store.add(LEFT, 0) < parents - 1 and time.monotonic() - since < _SILENT_S:
        time.sleep(0.1)
        tell()
        beats = sum(store.add(f"alive/{number}", 0) for number in range(1, parents))
        if beats != heard:
            heard, since = beats, time.monotonic()


def _failure(codes: tuple[int, ...], logs: tuple[Path, ...]) -> str:
    """What the first rank of this node said that failed for a reason which will not pass; empty where none did."""
    for code, path in zip(codes, logs, strict=True):
        if code > 0 and code != StartAgain.exit_code:
            last = path.read_text().strip().splitlines()[-1:] or [f"it said nothing, and ended with {code}"]
            return f"{last[0]} ({path})"
    return ""


def _failures_elsewhere(store: distributed.TCPStore, parents: int) -> list[str]:
    """Of the other nodes, as far as they are heard of."""
    keys = [f"{FAILED}/{number}" for number in range(1, parents)]
    return [store.get(key).decode() for key in keys if store.check([key])]


def _explain(result: TaskResult, failed: str) -> None:
    if failed:
        raise WorkError(f"{result.undone} of {result.shards} shards are undone; a rank failed: {failed}")
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
        meeting: Meeting,
        said: Announcement,
        store: distributed.TCPStore,
    ) -> None:
        here = campaign.how.ranks
        self._store, self._world = store, here * meeting.count
        self._run, self._task, self._attempt = run, task, said.attempt
        self._died: set[int] = set()
        if store.add(f"parent/{meeting.number}", 1) > 1:
            raise WorkError(
                f"two parents of attempt {said.attempt} are both number {meeting.number}: how were they started?"
            )
        run.logs.mkdir(parents=True, exist_ok=True)
        numbers = range(meeting.number * here, (meeting.number + 1) * here)
        self.logs = tuple(run.rank_log(task, said.attempt, rank) for rank in numbers)
        command = [sys.executable, "-m", "embedcube.workers.rank", str(run.root), str(task), said.attempt]
        self._processes, self._numbers = [], numbers
        for number, log in zip(numbers, self.logs, strict=True):
            environment = _environment(campaign, said, number, self._world)
            with log.open("ab") as out:
                self._processes.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
                )

    def wait(self, meanwhile: Callable[[], object]) -> tuple[int, ...]:
        """Until all have ended; returns their exit codes. Calls `meanwhile` again and again."""
        signal.signal(signal.SIGQUIT, self._show_stacks)
        try:
            while None in (codes := [process.poll() for process in self._processes]):
                self._abandon(codes)
                self._note_crashes()
                meanwhile()
                time.sleep(0.1)
            # those of other nodes may still wait for one that has just ended here
            self._abandon(codes)
            self._note_crashes()
        except BaseException:
            self._stop()
            raise
        return tuple(process.returncode for process in self._processes)

    def _abandon(self, codes: list[int | None]) -> None:
        """Once a rank has failed before all have met, anywhere: the others would wait for it until their time-out."""
        if self._all_met():
            return
        if any(codes):
            self._store.add(ABANDONED, 1)
        if self._store.add(ABANDONED, 0):
            for process in self._processes:
                process.kill()

    def _note_crashes(self) -> None:
        """What a rank had in hand that a signal has ended is suspect."""
        for number, process in zip(self._numbers, self._processes, strict=True):
            if (process.poll() or 0) < 0 and number not in self._died and self._store.check([f"{IN_HAND}/{number}"]):
                self._died.add(number)
                part = self._run.part(self._task, self._attempt, number)
                drawn = self._store.get(f"{IN_HAND}/{number}").decode().split()
                done = {one["recipe"] for folder, one in scan_documents(self._run, self._attempt) if folder == part}
                in_hand = tuple(recipe for recipe in drawn if recipe not in done)
                write_crash(part, Crash(host=socket.gethostname(), signal=-process.returncode, shards=in_hand))

    def _show_stacks(self, *_: object) -> None:
        """In the logs, of this process and of the ranks: a debugger cannot be attached everywhere."""
        faulthandler.dump_traceback()
        for process in self._processes:
            process.send_signal(signal.SIGQUIT)

    def _all_met(self) -> bool:
        return self._store.add(MET, 0) == self._world

    def _stop(self) -> None:
        """End them: what each has in hand is finished and recorded."""
        try:
            met = self._all_met()
        except RuntimeError:
            met = True
        for process in self._processes:
            # before they have met they are deaf to SIGTERM, and hold nothing yet
            process.send_signal(signal.SIGTERM if met else signal.SIGKILL)
        for process in self._processes:
            process.wait()


def _environment(campaign: Campaign, said: Announcement, number: int, world: int) -> dict[str, str]:
    how = campaign.how
    # on one machine nothing is to leave it; between nodes the job script names the network, or gloo finds one
    network = {"GLOO_SOCKET_IFNAME": "lo"} if world == how.ranks else {}
    settled = {
        "RANK": str(number),
        "LOCAL_RANK": str(number % how.ranks),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": said.host,
        "MASTER_PORT": str(said.port),
        "OMP_NUM_THREADS": str(how.threads_per_rank),
        # idle threads of one rank must not spin on the cores of another
        "OMP_WAIT_POLICY": "PASSIVE",
        "GDAL_CACHEMAX": str(how.cache_mb),
        # the inventory knows the geometry; listing a folder of a million files for sidecars is not needed
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        # arrays of a shard come and go, from thread to thread: kept in one heap, they cost no page faults
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    return network | os.environ | settled


class _RecordCounter:
    """Counts the records of an attempt as they come, reading each byte once."""

    def __init__(self, attempt: Path) -> None:
        self._attempt = attempt
        self._lines = 0
        self._read: dict[Path, int] = {}

    def count(self) -> int:
        """Of all ranks, so far."""
        for path in self._attempt.glob(f"*/{RECORDS}"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                appended = file.read()
            self._read[path] = self._read.get(path, 0) + len(appended)
            self._lines += appended.count(b"\n")
        return self._lines
