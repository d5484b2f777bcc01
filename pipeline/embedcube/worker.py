"""embed: one task on one machine. A parent spawns ranks and holds the counter that they draw groups of shards from.

The parent does no device work, so that the counter (a TCPStore) outlives any rank. `rank.py` is what it spawns.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import distributed

from embedcube.config import Campaign
from embedcube.errors import StartAgain, WorkError
from embedcube.parts import RECORDS, recorded_recipes, scan_documents
from embedcube.plan import read_plan, read_recipes
from embedcube.progress import Progress
from embedcube.rank import MET
from embedcube.rundir import RunDir


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What became of a task."""

    shards: int
    undone: int
    exit_codes: tuple[int, ...]
    """of the ranks; negative where a signal killed one"""
    logs: tuple[Path, ...]


def run_task(campaign: Campaign, run: RunDir, task: int, progress: Progress) -> TaskResult:
    """Embed the shards of a task that have no record yet, with as many ranks as the campaign says.

    Raises:
        StartAgain: some shards are undone for a reason that may pass.
        WorkError: a rank failed for a reason that will not.
    """
    total, todo = shards_to_do(campaign, run, task)
    progress(total - len(todo), total)
    if not todo:
        return TaskResult(shards=total, undone=0, exit_codes=(), logs=())
    attempt = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    run.logs.mkdir(parents=True, exist_ok=True)
    logs = tuple(run.rank_log(task, attempt, rank) for rank in range(campaign.how.ranks))
    ranks = [_start_rank(campaign, run, task, attempt, rank, store.port, path) for rank, path in enumerate(logs)]
    recorded = _RecordCounter()
    try:
        while None in (codes := [rank.poll() for rank in ranks]):
            time.sleep(0.1)
            if any(codes) and store.add(MET, 0) < len(ranks):
                for rank in ranks:  # they would wait for the dead one until their time-out
                    rank.kill()
            recorded.update(run.task(task) / attempt)
            progress(total - len(todo) + recorded.lines, total)
    except BaseException:
        # before they have met they are deaf to SIGTERM, and hold nothing yet
        met = store.add(MET, 0) == len(ranks)
        for rank in ranks:
            rank.send_signal(signal.SIGTERM if met else signal.SIGKILL)
        for rank in ranks:
            rank.wait()
        raise
    now = {document["recipe"] for _, document in scan_documents(run, attempt)}
    undone = len(todo - now)
    progress(total - undone, total)
    result = TaskResult(shards=total, undone=undone, exit_codes=tuple(rank.returncode for rank in ranks), logs=logs)
    if undone:
        _explain(result)
    return result


def shards_to_do(campaign: Campaign, run: RunDir, task: int) -> tuple[int, set[str]]:
    """How many shards a task has, and the recipes of those without a record."""
    read_plan(campaign, run)
    recipes = read_recipes(run, task)
    return len(recipes), set(recipes) - recorded_recipes(run, whole=campaign.how.retry_quarantined)


def _explain(result: TaskResult) -> None:
    for code, path in zip(result.exit_codes, result.logs, strict=True):
        if code > 0 and code != StartAgain.exit_code:
            last = path.read_text().strip().splitlines()[-1:] or ["it said nothing"]
            raise WorkError(f"{result.undone} of {result.shards} shards are undone; a rank failed: {last[0]} ({path})")
    raise StartAgain(
        f"{result.undone} of {result.shards} shards are undone: ranks ended with {list(result.exit_codes)}, see "
        f"{result.logs[0].parent}; start the same command again, it does only what has no record"
    )


def _start_rank(
    campaign: Campaign, run: RunDir, task: int, attempt: str, rank: int, port: int, log_path: Path
) -> "subprocess.Popen[bytes]":
    how = campaign.how
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(how.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        "OMP_NUM_THREADS": str(how.threads_per_rank),
        "MKL_CBWR": os.environ["MKL_CBWR"],
        # idle threads of one rank must not spin on the cores of another
        "OMP_WAIT_POLICY": "PASSIVE",
        "GDAL_CACHEMAX": str(how.cache_mb),
        # the inventory knows the geometry; listing a folder of a million files for sidecars is not needed
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_NUM_THREADS": "1",
        # arrays of a shard come and go: kept in the heap, they cost no page faults (a quarter of all CPU time)
        "MALLOC_ARENA_MAX": "4",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    command = [sys.executable, "-m", "embedcube.rank", str(run.root), str(task), attempt]
    with log_path.open("ab") as out:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


class _RecordCounter:
    """Counts the records of an attempt as they come, reading each byte once."""

    def __init__(self) -> None:
        self.lines = 0
        self._read: dict[Path, int] = {}

    def update(self, attempt: Path) -> None:
        """Look at what has been appended since the last time."""
        for path in attempt.glob(f"*/{RECORDS}"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                appended = file.read()
            self._read[path] = self._read.get(path, 0) + len(appended)
            self.lines += appended.count(b"\n")
