"""status: how much is done, how fast, and the state of the jobs. Reads records and asks Slurm; changes nothing."""

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
    """A job and the state that it is in."""

    stage: str
    id: str
    states: dict[str, int]
    """number of its array elements in each state; empty where Slurm does not know the job, or there is no Slurm"""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How much of a campaign is done."""

    shards: int
    """number of shards of the plan; 0 before there is a plan"""
    done: int
    """number of shards with a record"""
    cells: dict[str, int]
    """number of cells with each status, in the shards that are done"""
    quarantined: dict[str, str]
    """scenes that could not be read, each with the reason"""
    shards_per_s: float | None
    """rate of the newest attempt; None before two of its shards are done"""
    seconds_left: float | None
    """at that rate; None where there is none"""
    cube: str | None
    """name of the newest version"""
    tasks_left: int
    """number of tasks with a shard that has no record"""
    jobs: tuple[SubmittedJob, ...]
    """jobs of the newest submission"""
    logs: str
    """folder of the logs of jobs and ranks"""


def status(campaign: Campaign, run: RunDir) -> Status:
    """Count the records of the plan's shards, and ask Slurm for the state of the jobs.

    Raises:
        RequestError: there is no plan, and no job was submitted that would make one.
    """
    try:
        plan = read_plan(campaign, run)
    except RequestError:
        if not submissions(run):
            raise
        plan = None
    recipes = set(read_recipes(run, plan)) if plan else set()
    records = best_documents(run, recipes, ("counts", "attempt", "finished"))
    cells: Counter[str] = Counter()
    quarantined: dict[str, str] = {}
    for record in records.values():
        cells.update({name: count for name, count in record["counts"].items() if name != "chips"})
        quarantined.update({q["scene"]: q["reason"] for q in record["quarantined"]})
    rate = _rate(list(records.values()))
    left = len(recipes) - len(records)
    return Status(
        shards=len(recipes),
        done=len(records),
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
    """Lines that say the status in words."""
    rate = f"{now.shards_per_s:.2f} shards/s" if now.shards_per_s else "no rate yet"
    left = f", about {now.seconds_left:.0f} s left" if now.seconds_left else ""
    done = f"{now.done} of {now.shards} shards" if now.shards else "no plan of this campaign yet"
    lines = [f"{done}, {rate}{left}; cube {now.cube or 'not yet'}"]
    for job in now.jobs:
        states_of = ", ".join(f"{count} {state.lower()}" for state, count in sorted(job.states.items()))
        lines.append(f"  {job.stage:<12}job {job.id}: {states_of or 'not known to Slurm, or no Slurm here'}")
    if now.jobs:
        lines.append(f"  {now.tasks_left} tasks left; logs in {now.logs}")
    return lines + [f"  quarantined {scene}: {reason}" for scene, reason in sorted(now.quarantined.items())]


def _newest_jobs(run: RunDir) -> tuple[SubmittedJob, ...]:
    noted = submissions(run)
    stages = noted[-1].jobs if noted else {}
    counts = states([one for ids in stages.values() for one in ids])
    return tuple(SubmittedJob(stage=stage, id=one, states=counts[one]) for stage, ids in stages.items() for one in ids)


def _rate(records: list[dict[str, Any]]) -> float | None:
    """Shards per second of the newest attempt; None before two of its shards are done."""
    newest = max((record["attempt"] for record in records), default="")
    ends = sorted(datetime.fromisoformat(r["finished"]) for r in records if r["attempt"] == newest)
    if len(ends) < 2 or ends[0] == ends[-1]:
        return None
    return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()
