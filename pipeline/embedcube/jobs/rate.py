"""How fast a campaign is embedded, by all tasks that run now together, and how long the rest takes."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from embedcube.jobs.queue import Element

_RECENT = timedelta(minutes=10)
"""The rate is that of the last minutes; before, it may have been another (fewer ranks, smaller shards)."""

_SILENT = timedelta(minutes=2)
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


def speed(records: Iterable[Mapping[str, Any]], running: Collection[str] | None, now: datetime) -> Speed:
    """The rate of the attempts that are alive.

    `records` have the fields `attempt`, `job`, `started` and `finished`. `running` are the ids of Slurm's running jobs;
    None where Slurm does not say, and then an attempt is alive that has made a record lately.
    """
    of_attempt: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        of_attempt[record["attempt"]].append(record)
    rates, count = {}, 0
    for attempt, made in of_attempt.items():
        starts = min(datetime.fromisoformat(record["started"]) for record in made)
        ends = sorted(datetime.fromisoformat(record["finished"]) for record in made)
        # clocks of two nodes may differ by a little
        until = max(now, ends[-1])
        job = made[0]["job"]
        alive = job in running if job and running is not None else until - ends[-1] <= _patience(starts, ends)
        begin = max(starts, until - _RECENT)
        recent = sum(end > begin for end in ends)
        if recent < 2:  # shards that take longer than that
            begin, recent = starts, len(ends)
        if alive and until > begin:
            rates[attempt] = recent / (until - begin).total_seconds()
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


def _patience(start: datetime, ends: Sequence[datetime]) -> timedelta:
    return max(_SILENT, 3 * (ends[-1] - start) / len(ends))
