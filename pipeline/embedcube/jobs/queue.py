"""What Slurm says of jobs: those in the queue and what they wait for (squeue), and how the others ended (sacct)."""

import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from embedcube.errors import RequestError, StartAgain

_ANSWER_S = 60
"""Seconds after which a command of Slurm that does not answer is given up."""

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
"""States of a job that is in the queue and does not run."""

_HELD = ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
"""States of a job that waits until a person releases it."""

_STUCK = ("DependencyNeverSatisfied", "JobHeld", "launch failed requeued held", "BadConstraints", "PartitionTimeLimit")
"""Beginnings of the reasons for which a job waits until a person changes it."""

_UNFINISHED = (*WAITING, "RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SUSPENDED", "STAGE_OUT", "STOPPED")
"""States of a job that has not ended; the accounts are some seconds late."""


@dataclass(frozen=True, kw_only=True)
class Element:
    """One array element, or one job that is no array, in the queue."""

    id: str
    """its own number, which SLURM_JOB_ID has inside of it"""
    array: str
    """the number of its array, or its own"""
    state: str
    reason: str = ""
    """why it waits, in squeue's word; empty where it runs, or squeue does not say"""
    start: datetime | None = None
    """when Slurm expects it to start, if it does; for a running one, when it started"""

    @property
    def stuck(self) -> bool:
        """Whether it will never start by itself: it is held, or waits for what cannot come."""
        return self.state in _HELD or self.reason.startswith(_STUCK)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One array element, or one job that is no array, that has left the queue."""

    id: str
    state: str
    """as sacct says; OUT_OF_MEMORY also where only a step of the job was ended so"""
    exit_code: str = ""
    """`<exit code>:<signal>`"""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What Slurm says of some jobs."""

    answer: Literal["answered", "silent", "absent"] = "answered"
    """`silent`: Slurm's controller did not answer; `absent`: this machine has no Slurm"""
    said: str = ""
    """why there is no answer, in words"""
    elements: dict[str, list[Element]] = field(default_factory=dict)
    """by the ids that were asked for; jobs that are not in the queue are left out"""
    ended: dict[str, list[Ended]] = field(default_factory=dict)
    """by the ids that were asked for; of an array these are the elements that are no longer in the queue"""

    def states(self, job: str) -> dict[str, int]:
        """Number of the elements of a job in each state; empty where Slurm does not know it."""
        return dict(Counter(one.state for one in (*self.elements.get(job, ()), *self.ended.get(job, ()))))


def ask(ids: list[str]) -> Queue:
    """Ask Slurm for the state of jobs. A Slurm that is away or absent is an answer, too, and never an error."""
    if not ids:
        return Queue()
    try:
        elements = in_queue(ids)
    except RequestError as error:
        return Queue(answer="absent", said=str(error))
    except StartAgain as error:
        return Queue(answer="silent", said=str(error))
    return Queue(elements=elements, ended=_ended(ids, {one.id for job in elements.values() for one in job}))


def queued(ids: list[str]) -> dict[str, list[str]]:
    """States of the array elements of each job that is still queued or running; jobs that have ended are left out.

    Raises:
        RequestError: this machine has no Slurm.
        StartAgain: squeue failed.
    """
    return {job: [one.state for one in elements] for job, elements in in_queue(ids).items()}


def in_queue(ids: list[str]) -> dict[str, list[Element]]:
    """The array elements of each job that is still queued or running; raises as `queued` does."""
    if not ids:
        return {}
    try:
        done = _slurm("squeue", "--me", "--noheader", "--array", "--format=%A %F %T %S %r")
    except FileNotFoundError:
        raise RequestError(
            "there is no squeue here; run this on a machine of the cluster, such as a login node"
        ) from None
    if done.returncode:
        raise StartAgain(f"squeue failed: {' '.join(done.stderr.split())}; start the same command again")
    elements: dict[str, list[Element]] = {}
    for line in done.stdout.splitlines():
        number, array, state, *rest = line.split(None, 4)
        start, reason = [*rest, "", ""][:2]
        waits = state in WAITING
        one = Element(id=number, array=array, state=state, reason=reason if waits else "", start=_time(start))
        for asked in {number, array} & set(ids):
            elements.setdefault(asked, []).append(one)
    return elements


def end_jobs(ids: tuple[str, ...]) -> None:
    """Call scancel.

    Raises:
        StartAgain: scancel failed; the message quotes it.
    """
    done = _slurm("scancel", *ids)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit {done.returncode}"
        raise StartAgain(f"scancel failed for jobs {', '.join(ids)}: {said}; start the same command again")


def _ended(ids: list[str], in_queue: set[str]) -> dict[str, list[Ended]]:
    """How jobs ended that are not in the queue; empty on a machine without accounting."""
    if shutil.which("sacct") is None:
        return {}
    asked = ("--format=JobID,State,ExitCode,JobIDRaw", f"--jobs={','.join(ids)}")
    done = _slurm("sacct", "--parsable2", "--noheader", *asked)
    rows: dict[str, dict[str, Ended]] = {}
    for line in done.stdout.splitlines():
        name, separator, columns = line.partition("|")
        if not separator:
            continue
        state, *rest = columns.split("|")
        element, _, step = name.partition(".")
        # the first word alone: a state may be "CANCELLED by 1000"
        state = state.split()[0] if state else "UNKNOWN"
        job = rows.setdefault(element.split("_")[0], {})
        if step:
            # the batch script outlives a step that needed too much memory, and then the job itself is only FAILED
            if state == "OUT_OF_MEMORY" and element in job and job[element].state in ("FAILED", "CANCELLED"):
                job[element] = Ended(id=job[element].id, state=state, exit_code=job[element].exit_code)
            continue
        code, number = [*rest, "", element][:2]
        job[element] = Ended(id=number, state=state, exit_code=code)
    ended = {
        job: [one for one in of_job.values() if one.id not in in_queue and one.state not in _UNFINISHED]
        for job, of_job in rows.items()
    }
    return {job: elements for job, elements in ended.items() if elements}


def _slurm(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm; one that does not answer in time counts as one that failed."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_ANSWER_S} s")


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None  # N/A
