"""status: how much is done, how fast, and the state of the jobs. Reads files and asks Slurm; changes nothing.

What the files of the run folder say is told whether or not Slurm answers, the archive is mounted, or the campaign file
was changed after it was submitted.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute

from embedcube.campaign.columns import integers, numbers_of, places_in, texts
from embedcube.campaign.parts import best_records, version_of
from embedcube.campaign.plan import is_planned, read_any_plan, read_plan, read_plan_columns
from embedcube.campaign.record_tables import COUNTS
from embedcube.campaign.recorded import best_rows, quarantined_of, read_recorded, some_of
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import load_site
from embedcube.campaign.verdicts import MOST_ROUNDS, Verdicts
from embedcube.errors import RequestError, WorkError
from embedcube.jobs.at_work import files_change, process_here
from embedcube.jobs.lock import held_by
from embedcube.jobs.outcome import Facts, Failure, failures, in_words, next_move
from embedcube.jobs.queue import WAITING, Element, Queue, ask
from embedcube.jobs.rate import seconds_left, speed, times_of
from embedcube.jobs.submissions import Submission, submissions

_COLUMNS = ("recipe", "quarantined", COUNTS, "attempt", "job", "started", "finished")
"""what is looked at of each record"""

_INTERVAL_S = 2.0
"""seconds between two looks at a run folder without Slurm jobs"""

_QUEUE_INTERVAL_S = 30.0
"""seconds between two looks at Slurm's queue, where no site file says `poll_s`"""

_SILENT_LOOKS = 20
"""looks in a row at which Slurm may not answer, before `watched` ends: its controller may be restarting"""


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job and the state that it is in."""

    stage: str
    id: str
    states: dict[str, int]
    """number of its array elements in each state; empty where Slurm does not know the job, or does not answer"""
    waits_for: dict[str, int]
    """why elements wait, in Slurm's words, each with their number"""
    starts: str | None
    """when Slurm expects the last of those that wait to start; None where it does not say"""
    failures: tuple[Failure, ...]
    """what went wrong, once for each way in which an element failed"""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How much of a campaign is done."""

    shards: int
    """number of shards of the plan; 0 before there is a plan"""
    done: int
    """number of shards with a record"""
    round: int
    """round of `embed`: in the second and third, shards are embedded again without scenes that were found broken"""
    cells: dict[str, int]
    """number of cells with each status, in the shards that are done"""
    quarantined: dict[str, str]
    """scenes that could not be read, each with the reason"""
    shards_per_s: float | None
    """rate of all tasks that run now together; None before two of their shards are done"""
    seconds_left: float | None
    """until the last shard is done; None where nothing can be said"""
    cube: str | None
    """name of the newest version"""
    made: bool
    """whether that is the version that the plan and its records give"""
    verified: bool
    """whether that version was verified, and nothing was found wrong"""
    findings: int | None
    """number of findings of the last `verify` of the newest version; None where it was not verified"""
    tasks_left: int
    """number of tasks with a shard that has no record"""
    tasks_running: int
    """number of tasks that have made a record lately"""
    jobs: tuple[SubmittedJob, ...]
    """jobs of the newest submission"""
    slurm: str
    """`answered`, `silent` (its controller does not answer) or `absent` (there is no Slurm on this machine)"""
    at_work: str
    """who works on the campaign, in words; empty where nobody is known to"""
    notes: tuple[str, ...]
    """what else is to be known, one sentence each"""
    next: str
    """what to do next"""
    logs: str
    """folder of the logs of jobs and ranks"""


def status(campaign: Campaign, run: RunDir, campaign_file: Path | None = None, *, note: str = "") -> Status:
    """Count the records of the plan's shards, and ask Slurm for the state of the jobs.

    `campaign` is the campaign as the run folder has it. `note` is told with what is found.

    Raises:
        RequestError: there is no plan, and no job was submitted that would make one.
    """
    notes = [note] if note else []
    if (holder := held_by(run.submit_lock)) and not holder.at_work:
        notes.append(holder.words)
    noted = submissions(run)
    shards, verdicts = _shards(campaign, run, notes, submitted=bool(noted))
    recipes = pyarrow.compute.unique(shards["recipe"])
    records = best_rows(read_recorded(run, _COLUMNS), recipes)
    left = Counter(_tasks(shards, records, recorded=False))
    done, now = len(records), datetime.now(UTC)
    queue = ask([one for submission in noted for one in submission.ids])
    jobs = _jobs(noted[-1], queue, run) if noted else ()
    elements = [element for waiting in queue.elements.values() for element in waiting]
    running = {element.id for element in elements if element.state not in WAITING}
    fast = speed(times_of(records), running if queue.answer == "answered" else None, now)
    lately = records.take(integers(np.flatnonzero(places_in(records["attempt"], texts(fast.of_attempts)) >= 0)))
    of_task = set(_tasks(shards, lately, recorded=True))
    made = done == len(recipes) > 0 and _is_made(campaign, run, set(recipes.to_pylist()), notes)
    findings = _findings(run)
    facts = Facts(
        planned=bool(recipes),
        left=len(recipes) - done,
        made=made,
        findings=findings,
        answer=queue.answer,
        said=queue.said,
        at_work=_at_work(run, campaign_file or run.campaign, queue, elements),
        waiting=[element for element in elements if element.state in WAITING],
        submitted=bool(noted),
        failures=[failure for job in jobs for failure in job.failures],
    )
    return Status(
        shards=len(recipes),
        done=done,
        cells=_cells(records),
        quarantined={one.scene: one.reason for one in verdicts.scenes.values()}
        | {q["scene"]: q["reason"] for _, text in some_of(records, "quarantined") for q in quarantined_of(text)},
        round=verdicts.round,
        shards_per_s=fast.shards_per_s if left else None,
        seconds_left=_seconds_left(left, of_task, fast.shards_per_s, noted, queue, now) if recipes else None,
        cube=run.newest_cube.resolve().name if run.newest_cube.exists() else None,
        made=made,
        verified=made and findings == 0,
        findings=findings,
        tasks_left=len(left) if recipes else campaign.how.tasks,
        tasks_running=len(of_task),
        jobs=jobs,
        slurm=queue.answer,
        at_work=facts.at_work,
        notes=tuple(notes),
        next=next_move(facts, run, str(campaign_file or run.campaign)),
        logs=str(run.logs),
    )


def watched(
    campaign: Campaign, run: RunDir, campaign_file: Path, *, note: str = "", again: bool = False
) -> Iterator[Status]:
    """The status now; with `again` once more and once more, until the cube is verified or nobody works on it.

    A Slurm that does not answer may come back: that is waited for as long as files change, and for `_SILENT_LOOKS`.
    """
    silent = 0
    while True:
        now = status(campaign, run, campaign_file, note=note)
        yield now
        silent = silent + 1 if now.slurm == "silent" else 0
        if not again or now.verified or not (now.at_work or 0 < silent < _SILENT_LOOKS):
            return
        time.sleep(_interval_s(campaign) if now.jobs else _INTERVAL_S)


def _interval_s(campaign: Campaign) -> float:
    """Seconds between two looks: Slurm's queue serves all users of a cluster."""
    try:
        return load_site(campaign).poll_s
    except RequestError:
        return _QUEUE_INTERVAL_S


def describe(now: Status) -> list[str]:
    """Lines that say the status in words; the last one says what to do next."""
    rate = (
        f"{now.shards_per_s:.2f} shards/s" if now.shards_per_s else "no rate yet" if now.tasks_left else "all embedded"
    )
    tasks = f" of {now.tasks_running} tasks" if now.tasks_running > 1 and now.shards_per_s else ""
    left = f", about {now.seconds_left:.0f} s left" if now.seconds_left else ""
    done = f"{now.done} of {now.shards} shards" if now.shards else "no plan of this campaign yet"
    cube = "not yet" if now.cube is None else now.cube + _of_cube(now)
    lines = [f"{done}, {rate}{tasks}{left}; cube {cube}", *(f"  {note}" for note in now.notes)]
    if now.round > 1:
        lines.append(f"  round {now.round} of at most {MOST_ROUNDS}: without the scenes that shards have found broken")
    for job in now.jobs:
        states = ", ".join(f"{count} {in_words(state)}" for state, count in sorted(job.states.items()))
        unknown = "not known to Slurm any more" if now.slurm == "answered" else "Slurm does not say"
        lines.append(f"  {job.stage:<12}job {job.id}: {states or unknown}{_waits(job)}")
        lines += [f"  {'':<12}{failure}" for failure in job.failures]
    if now.jobs:
        lines.append(f"  {now.tasks_left} tasks left; logs in {now.logs}")
    lines += [f"  quarantined {scene}: {reason}" for scene, reason in sorted(now.quarantined.items())]
    return [*lines, f"next: {now.next}"]


def _shards(campaign: Campaign, run: RunDir, notes: list[str], *, submitted: bool) -> tuple[pyarrow.Table, Verdicts]:
    """Task and recipe of each shard of the plan in the run folder, even if it is to be made again; none without one.

    And the scenes that are out.
    """
    there = is_planned(run)
    try:
        read_plan(campaign, run)
    except RequestError as error:
        if not (submitted or there):
            raise
        notes += [str(error)] * there
    try:
        plan = read_any_plan(run)
        return read_plan_columns(run, plan, ("task", "recipe")), plan.verdicts
    except RequestError as error:
        # none, or damaged: what the queue says is told all the same
        notes += [str(error)] if there and str(error) not in notes else []
        return pyarrow.Table.from_arrays([integers([]), texts([])], names=["task", "recipe"]), Verdicts()


def _tasks(shards: pyarrow.Table, records: pyarrow.Table, *, recorded: bool) -> list[int]:
    """The task of each shard that has one of these records, or else of each that has none."""
    has_one = places_in(shards["recipe"], records["recipe"]) >= 0
    tasks: list[int] = numbers_of(shards["task"])[has_one == recorded].tolist()
    return tasks


def _jobs(submission: Submission, queue: Queue, run: RunDir) -> tuple[SubmittedJob, ...]:
    jobs = []
    for stage, ids in submission.jobs.items():
        for one in ids:
            waiting = [element for element in queue.elements.get(one, ()) if element.state in WAITING]
            starts = [element.start for element in waiting if element.start is not None]
            known = one in queue.elements or one in queue.ended or queue.answer != "answered"
            jobs.append(
                SubmittedJob(
                    stage=stage,
                    id=one,
                    states=queue.states(one),
                    waits_for=dict(Counter(element.reason for element in waiting if element.reason)),
                    starts=max(starts).isoformat(timespec="minutes") if len(starts) == len(waiting) > 0 else None,
                    failures=failures(stage, one, queue.ended.get(one, []), run, known=known),
                )
            )
    return tuple(jobs)


def _seconds_left(
    left: Counter[int], running: set[int], rate: float | None, noted: list[Submission], queue: Queue, now: datetime
) -> float | None:
    embedding = [one for submission in noted for one in submission.jobs.get("embed", [])]
    waiting: list[Element] = []
    if any(queue.elements.get(job) for submission in noted for job in submission.jobs.get("prepare", [])):
        return None  # the plan is being made again
    for job in embedding:
        waiting += [element for element in queue.elements.get(job, ()) if element.state in WAITING]
    return seconds_left(left, running, rate, waiting if embedding else None, now)


def _cells(records: pyarrow.Table) -> dict[str, int]:
    names = [name for name in records.column_names if name.startswith(COUNTS) and name != f"{COUNTS}chips"]
    return {name.removeprefix(COUNTS): pyarrow.compute.sum(records[name]).as_py() or 0 for name in names}


def _is_made(campaign: Campaign, run: RunDir, recipes: set[str], notes: list[str]) -> bool:
    """Whether the newest cube is the version that the records of the plan give."""
    if not run.newest_cube.exists():
        return False
    try:
        layers = read_any_plan(run).layers
        version = version_of(campaign, layers, [record for _, record in best_records(run, recipes).values()])
    except WorkError as error:
        notes.append(str(error))
        return False
    return run.newest_cube.resolve() == run.cube(version).resolve()


def _findings(run: RunDir) -> int | None:
    """Number of findings in the report of `verify`, if that is of the newest cube."""
    try:
        report = json.loads((run.report / "verify.json").read_bytes())
        same = run.newest_cube.exists() and report["cube"] == run.newest_cube.resolve().name
        return len(report["findings"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _at_work(run: RunDir, campaign_file: Path, queue: Queue, elements: list[Element]) -> str:
    """Who works on the campaign, in words; empty where nobody is known to."""
    # those that wait for a job of the chain are as stuck as that one
    if elements and not all(element.stuck or element.reason == "Dependency" for element in elements):
        return f"{len(queue.elements)} jobs are queued or running"
    if elements and not any(element.stuck for element in elements):
        return f"{len(queue.elements)} jobs are queued"
    if (pid := process_here(run, campaign_file)) is not None:
        return f"process {pid} of this machine works on it"
    if (holder := held_by(run.submit_lock)) and holder.at_work:
        return holder.words
    # jobs that Slurm knows to have ended may have written a moment ago
    known = queue.answer == "answered" and bool(submissions(run))
    return "" if known or not files_change(run) else "its files have changed within the last minute"


def _of_cube(now: Status) -> str:
    if not now.made:
        return " (of other records or another plan)" if now.shards else ""
    if now.findings is None:
        return ", not verified yet"
    return f", verified: {now.findings} findings" if now.findings else ", verified"


def _waits(job: SubmittedJob) -> str:
    if not job.waits_for:
        return ""
    reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(job.waits_for.items()))
    return f" ({reasons}{f'; Slurm expects the last to start by {job.starts}' if job.starts else ''})"
