"""status: how much is done, how fast, and what became of the jobs. Reads records and asks Slurm; changes nothing."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from embedcube.campaign.parts import best_documents
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError
from embedcube.jobs.slurm import states
from embedcube.jobs.submit import submissions, tasks_left


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """What became of a job."""

    stage: str
    id: str
    states: dict[str, int]
    """how many of its elements are in which; none where Slurm does not know it, or is not here"""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a campaign is."""

    shards: int
    """none before there is a plan"""
    done: int
    cells: dict[str, int]
    """per status, of the shards that are done"""
    quarantined: dict[str, str]
    """scenes that could not be read, and why"""
    shards_per_s: float | None
    """over the newest attempts; None before two shards are done"""
    seconds_left: float | None
    cube: str | None
    """the newest version"""
    tasks_left: int
    """with a shard that has no record"""
    jobs: tuple[SubmittedJob, ...]
    """of the newest submission"""
    logs: str
    """the folder where jobs and ranks leave theirs"""


def status(campaign: Campaign, run: RunDir) -> Status:
    """Count the records of the plan's shards; before a plan is made, in a job, there is that job to tell of.

    Raises:
        RequestError: there is no plan, nor a job that would make one.
    """
    try:
        plan = read_plan(campaign, run)
    except RequestError:
        if not submissions(run):
            raise
        plan = None
    wanted = set(read_recipes(run)) if plan else set()
    seen = best_documents(run, wanted, ("counts", "attempt", "finished"))
    cells: Counter[str] = Counter()
    quarantined: dict[str, str] = {}
    for record in seen.values():
        cells.update({name: count for name, count in record["counts"].items() if name != "chips"})
        quarantined.update({q["scene"]: q["reason"] for q in record["quarantined"]})
    rate = _rate(list(seen.values()))
    left = len(wanted) - len(seen)
    return Status(
        shards=len(wanted),
        done=len(seen),
        cells=dict(cells),
        quarantined=quarantined,
        shards_per_s=rate,
        seconds_left=left / rate if rate and left else (0.0 if plan and not left else None),
        cube=run.newest_cube.resolve().name if run.newest_cube.exists() else None,
        tasks_left=len(tasks_left(campaign, run, plan)),
        jobs=_newest_jobs(run),
        logs=str(run.logs),
    )


def describe(now: Status) -> list[str]:
    """The status in words."""
    rate = f"{now.shards_per_s:.2f} shards/s" if now.shards_per_s else "no rate yet"
    left = f", about {now.seconds_left:.0f} s left" if now.seconds_left else ""
    done = f"{now.done} of {now.shards} shards" if now.shards else "no plan of this campaign yet"
    lines = [f"{done}, {rate}{left}; cube {now.cube or 'not yet'}"]
    for job in now.jobs:
        became = ", ".join(f"{count} {state.lower()}" for state, count in sorted(job.states.items()))
        lines.append(f"  {job.stage:<12}job {job.id}: {became or 'not known here'}")
    if now.jobs:
        lines.append(f"  {now.tasks_left} tasks left; logs in {now.logs}")
    return lines + [f"  quarantined {scene}: {reason}" for scene, reason in sorted(now.quarantined.items())]


def _newest_jobs(run: RunDir) -> tuple[SubmittedJob, ...]:
    asked = submissions(run)
    stages = asked[-1].jobs if asked else {}
    found = states([one for ids in stages.values() for one in ids])
    return tuple(SubmittedJob(stage=stage, id=one, states=found[one]) for stage, ids in stages.items() for one in ids)


def _rate(records: list[dict[str, Any]]) -> float | None:
    newest = max((record["attempt"] for record in records), default="")
    ends = sorted(datetime.fromisoformat(r["finished"]) for r in records if r["attempt"] == newest)
    if len(ends) < 2 or ends[0] == ends[-1]:
        return None
    return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()
