"""How fast a campaign is embedded, by all tasks that run now together, and how long the rest takes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow
from numpy.typing import NDArray

from embedcube.campaign.columns import coded, numbers_of
from embedcube.jobs.queue import Element

Milliseconds = NDArray[np.int64]

_RECENT_MS = 10 * 60_000
"""The rate is that of the last minutes; before, it may have been another (fewer ranks, smaller shards)."""

_SILENT_MS = 2 * 60_000
"""An attempt without Slurm has ended when it made no record for so long, or for three of its intervals."""

_THROTTLED = "JobArrayTaskLimit"
"""Slurm's reason for elements that wait because as many of their array run as may (`parallel`)."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the tasks that run now make records."""

    of_attempts: dict[str, float]
    """shards per second, of each attempt that is alive and has made a record"""
    shards: int
    """number of records that these figures are made of"""

    @property
    def shards_per_s(self) -> float | None:
        """The rate of all attempts together; None before two shards are done."""
        return sum(self.of_attempts.values()) if self.shards >= 2 else None


@dataclass(frozen=True, kw_only=True)
class Times:
    """When the records of an attempt were made, in milliseconds since 1970; at least one."""

    job: str
    started: Milliseconds
    finished: Milliseconds


def times_of(records: pyarrow.Table) -> dict[str, Times]:
    """The times of each attempt; records have the columns `attempt`, `job`, `started` and `finished`."""
    attempts, codes = coded(records["attempt"])
    jobs, job_codes = coded(records["job"])
    started, finished = numbers_of(records["started"]), numbers_of(records["finished"])
    order = np.argsort(codes, kind="stable")
    rows_of = np.split(order, np.searchsorted(codes[order], np.arange(1, len(attempts))))
    return {
        attempt: Times(job=jobs[job_codes[rows[0]]], started=started[rows], finished=finished[rows])
        for attempt, rows in zip(attempts, rows_of, strict=len(attempts) > 0)
    }


def speed(attempts: Mapping[str, Times], running: Collection[str] | None, now: datetime) -> Speed:
    """The rate of the attempts that are alive.

    `running` are the ids of Slurm's running jobs; None where Slurm does not say, and then an attempt is alive that has
    made a record lately.
    """
    now_ms = round(now.timestamp() * 1000)
    rates, count = {}, 0
    for attempt, made in attempts.items():
        first, last, job = int(made.started.min()), int(made.finished.max()), made.job
        # clocks of two nodes may differ by a little
        until = max(now_ms, last)
        patience = max(_SILENT_MS, 3 * (last - first) / len(made.finished))
        alive = job in running if job and running is not None else until - last <= patience
        begin = max(first, until - _RECENT_MS)
        recent = int((made.finished > begin).sum())
        if recent < 2:  # shards that take longer than that
            begin, recent = first, len(made.finished)
        if alive and until > begin:
            rates[attempt] = recent / (until - begin) * 1000
            count += recent
    return Speed(of_attempts=rates, shards=count)


def seconds_left(
    left: Mapping[int, int],
    running: Collection[int],
    rate: float | None,
    waiting: Sequence[Element] | None,
    now: datetime,
) -> float | None:
    """Seconds until the last shard is done; None where nothing can be said.

    `left` has the number of shards without a record of each task, `running` are tasks that run and have made a record,
    at `rate` together, and `waiting` are array elements that Slurm has not started yet; None where nothing was
    submitted, and tasks follow each other on this machine.
    """
    total = sum(left.values())
    if not total:
        return 0.0
    if not rate:
        return None
    if waiting is None:
        return total / rate
    of_running = sum(left.get(task, 0) for task in running)
    if not waiting and of_running < total:
        return None  # some tasks neither run nor wait: nobody does them
    if all(element.reason == _THROTTLED for element in waiting):
        return total / rate
    starts = [element.start for element in waiting if element.reason != _THROTTLED]
    if not running or None in starts:
        return None  # Slurm does not know when they start
    last = max(start for start in starts if start is not None)
    then = (total - of_running) / (rate / len(running) * len(waiting))
    return max(of_running / rate, max(0.0, (last - now).total_seconds()) + then)
