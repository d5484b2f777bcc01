"""submit and cancel: a campaign as a chain of Slurm jobs.

The chain is: a job array of tasks, then consolidation, however the tasks ended, then verification. A second `submit`
continues a campaign: its array has only the tasks with a shard that has no record. Consolidation does this itself,
from its batch script, when it finds that shards have no record.
"""

import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from embedcube.campaign.parts import recorded_recipes
from embedcube.campaign.plan import Plan, read_plan, read_recipes, tasks_undone
from embedcube.campaign.price import Price
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.seals import from_line, to_line
from embedcube.campaign.site import Site, load_site, processes_per_node
from embedcube.errors import RequestError, WorkError
from embedcube.jobs.pilot import choose_pilot
from embedcube.jobs.slurm import Job, embed_jobs, queued, script, submit_all, wait_for
from embedcube.progress import Progress, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The jobs of one call of `submit`: one line of submissions.jsonl."""

    time: str
    """of the call, in UTC"""
    again: bool
    """whether consolidation called it, because shards had no record"""
    tasks: tuple[int, ...]
    """tasks in the job array"""
    jobs: dict[str, list[str]]
    """ids of the jobs of each stage, in the order of submission"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One link of the chain: jobs that are submitted together, and the stage that they wait for."""

    name: str
    jobs: tuple[Job, ...]
    after: str = ""
    """name of the stage to wait for; empty for none"""
    condition: Literal["afterok", "afterany"] = "afterok"
    """`afterok`: start only if all of its jobs succeeded; `afterany`: start however they ended"""

    def dependency(self, ids: Mapping[str, list[str]]) -> str:
        """Value of Slurm's `--dependency`, from the job ids of the stages before; empty for none."""
        return f"{self.condition}:{':'.join(ids[self.after])}" if self.after else ""


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """What `cancel` did."""

    submissions: int
    """number of earlier calls of `submit`; 0 for a campaign that was never submitted"""
    jobs: tuple[str, ...]
    """ids of the jobs that were cancelled"""


def submit(campaign: Campaign, run: RunDir, *, again: bool = False) -> Submission:
    """Submit the stages and tasks that are left; the campaign's `how` is already resolved for its site.

    Raises:
        RequestError: the site refused a job, or would refuse it.
        WorkError: consolidation has resubmitted as often as the site allows.
    """
    site = load_site(campaign)
    plan = planned(campaign, run)
    if plan:
        refuse_at_site(plan.price, campaign, site)
    tasks = tasks_left(campaign, run, plan)
    if again:
        _limit_resubmissions(run, site, tasks)
    ids: dict[str, list[str]] = {}
    submission = _submission(tasks, ids, again=again)
    try:
        for stage in _chain(campaign, site, run, tasks, plan):
            ids[stage.name] = submit_all(stage.jobs, campaign, site, run, dependency=stage.dependency(ids))
    finally:
        # also when sbatch refuses a later stage: `cancel` must know the jobs that exist already
        if ids:
            _note(submission, run)
    return submission


def embed_pilot(campaign: Campaign, run: RunDir, count: int, progress: Progress) -> None:
    """Embed `count` shards of the plan in a job of their own, and wait until it has ended.

    Shards that have a record already are not embedded again. Where the site says `prepare_in_job`, a job makes the
    plan first.

    Raises:
        RequestError: there is no plan, or the site refused the job.
        StartAgain: some of these shards have no record.
        WorkError: the job that should make the plan made none.
    """
    site = load_site(campaign)
    if site.prepare_in_job and not planned(campaign, run):
        preparing = submit_all((_preparation(run),), campaign, site, run)
        _note(_submission((), {"prepare": preparing}), run)
        wait_for(preparing, set(), run, silent, poll_s=site.poll_s)
        if not planned(campaign, run):
            raise WorkError(f"job {', '.join(preparing)} has made no plan: the logs in {run.job_logs} say why")
    plan = read_plan(campaign, run)
    refuse_at_site(plan.price, campaign, site)
    task = choose_pilot(run, plan, count)
    recipes = set(read_recipes(run, plan, task))
    ids: list[str] = []
    if not recipes <= recorded_recipes(run):
        ids = submit_all(embed_jobs(campaign, site, run, (task,)), campaign, site, run)
        _note(_submission((task,), {"embed": ids}), run)
    wait_for(ids, recipes, run, progress, poll_s=site.poll_s)


def _preparation(run: RunDir) -> Job:
    return Job(stage="prepare", command=("run", str(run.campaign), "--until", "plan"))


def _submission(tasks: tuple[int, ...], jobs: dict[str, list[str]], *, again: bool = False) -> Submission:
    return Submission(time=datetime.now(UTC).isoformat(timespec="seconds"), again=again, tasks=tasks, jobs=jobs)


def _note(submission: Submission, run: RunDir) -> None:
    """Append a line to submissions.jsonl; a line that was cut off by a crash is ended first."""
    torn = run.submissions.exists() and not run.submissions.read_bytes().endswith(b"\n")
    with run.submissions.open("ab") as file:
        file.write(b"\n" * torn + to_line(asdict(submission)))


def dry_run(campaign: Campaign, run: RunDir) -> str:
    """The batch scripts that `submit` would submit, as one text."""
    site = load_site(campaign)
    plan = planned(campaign, run)
    chain = _chain(campaign, site, run, tasks_left(campaign, run, plan), plan)
    ids = {stage.name: [f"<{stage.name}>"] for stage in chain}
    return "\n".join(
        script(job, campaign, site, run, dependency=stage.dependency(ids)) for stage in chain for job in stage.jobs
    )


def tasks_left(campaign: Campaign, run: RunDir, plan: Plan | None) -> tuple[int, ...]:
    """Numbers of the tasks with a shard that has no record; before there is a plan, of all tasks."""
    if plan is None:
        return tuple(range(campaign.how.tasks))
    done = recorded_recipes(run, whole=campaign.how.retry_quarantined)
    return tasks_undone(run, plan, done)


def submissions(run: RunDir) -> list[Submission]:
    """All submissions of a run folder, the oldest first. A damaged line is passed over: squeue still lists its jobs."""
    if not run.submissions.exists():
        return []
    noted = []
    for number, line in enumerate(run.submissions.read_bytes().splitlines(keepends=True), start=1):
        try:
            fields = from_line(line) or _of_older_version(line)
            noted.append(Submission(**(fields | {"tasks": tuple(fields["tasks"])})))
        except (ValueError, TypeError, KeyError, RecursionError):
            if line.strip():
                log.warning("%s: line %d is damaged and passed over; squeue lists its jobs", run.submissions, number)
    return noted


def _of_older_version(line: bytes) -> dict[str, Any]:
    """The fields of a line without a checksum, as older versions of embedcube wrote it; its jobs may still run."""
    fields: dict[str, Any] = json.loads(line)
    return fields


def cancel(run: RunDir) -> Cancelled:
    """Cancel the jobs that are still queued or running.

    The last stage comes first, so that no job starts because the one before it was cancelled.
    """
    noted = submissions(run)
    ids = [one for submission in noted for stage in reversed(submission.jobs.values()) for one in stage]
    states = queued(ids)
    active = tuple(one for one in ids if one in states)
    if active:
        subprocess.run(["scancel", *active], check=True)
    return Cancelled(submissions=len(noted), jobs=active)


def describe_cancelled(cancelled: Cancelled, run: RunDir) -> str:
    """What was cancelled, in words."""
    if cancelled.jobs:
        return f"cancelled jobs {', '.join(cancelled.jobs)}; finished shards keep their records, `submit` does the rest"
    if cancelled.submissions:
        return "no job of this campaign is queued or running: nothing to cancel"
    return (
        f"this campaign was never submitted (there is no {run.submissions}): nothing to cancel. `embedcube submit` "
        "submits it; stop a run on this machine with Ctrl-C"
    )


def _chain(campaign: Campaign, site: Site, run: RunDir, tasks: tuple[int, ...], plan: Plan | None) -> list[Stage]:
    """The stages that are left, in the order of submission."""
    name = str(run.campaign)
    chain = []
    if site.prepare_in_job and not plan:
        chain.append(Stage(name="prepare", jobs=(_preparation(run),)))
    if tasks:
        chain.append(Stage(name="embed", jobs=embed_jobs(campaign, site, run, tasks), after="prepare" if chain else ""))
    processes = processes_per_node(campaign.how.dask, campaign.how.nodes)
    consolidation = Job(
        stage="consolidate",
        command=("consolidate", name),
        nodes=campaign.how.nodes if processes > 1 else 1,
        processes=processes,
        needs_gpus=False,
        on_failure=("submit", name, "--again"),
    )
    verification = Job(stage="verify", command=("verify", name))
    return [
        *chain,
        # afterany: consolidation counts the records itself, and submits again what failed tasks have left undone
        Stage(name="consolidate", jobs=(consolidation,), after="embed" if tasks else "", condition="afterany"),
        Stage(name="verify", jobs=(verification,), after="consolidate"),
    ]


def planned(campaign: Campaign, run: RunDir) -> Plan | None:
    """The plan of the run folder; None where there is none, or it was made for another campaign or number of tasks."""
    try:
        plan = read_plan(campaign, run)
    except RequestError:
        return None
    return plan if plan.tasks == campaign.how.tasks else None


def refuse_while_queued(run: RunDir) -> None:
    """Refuse while jobs of the campaign are in the queue: they read files that the caller is about to write.

    Raises:
        RequestError: some jobs are still queued or running.
    """
    earlier = submissions(run)
    ids = {one for submission in earlier for stage in submission.jobs.values() for one in stage}
    own = {os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")}
    # within a consolidation that failed, its verification still waits in the queue; Slurm removes it by itself
    waiting = {one for submission in earlier for one in submission.jobs.get("verify", [])} if own != {None} else set()
    active = queued(sorted(ids - own - waiting))
    if active:
        raise RequestError(
            f"jobs {', '.join(sorted(active))} of this campaign are still queued or running; wait until they end "
            "(`embedcube status` shows them), or run `embedcube cancel` first"
        )


def _limit_resubmissions(run: RunDir, site: Site, tasks: tuple[int, ...]) -> None:
    """Refuse a resubmission by consolidation after as many as the site allows since the last `submit` by a person."""
    if not tasks:
        raise WorkError(f"every shard has a record, so consolidation itself failed: its log in {run.job_logs} says why")
    times = 0
    for submission in reversed(submissions(run)):
        if not submission.again:
            break
        times += 1
    if times >= site.resubmissions:
        raise WorkError(
            f"tasks {', '.join(map(str, tasks))} have shards without a record after {times} resubmissions: the logs "
            f"in {run.logs} say why; then run `embedcube submit` again"
        )


def refuse_at_site(price: Price, campaign: Campaign, site: Site) -> None:
    """Refuse before submission a plan that cannot work at the site: too long shards, or too many files.

    Raises:
        RequestError: the message names the two figures and the key to change.
    """
    time_s = (campaign.how.time_min or site.time_min) * 60 - site.lead_s
    if price.longest_s > time_s:
        raise RequestError(
            f"how.time_min: the longest shard takes about {price.longest_s:.0f} s, a job has {time_s:.0f} s before "
            f"{site.site} sends its warning signal; write more minutes, or make shards smaller (layers.*.shard_chips)"
        )
    files = files_needed(price, campaign)
    if site.max_files is not None and files > site.max_files:
        raise RequestError(
            f"{files} files and folders are needed, the quota of {site.site} leaves {site.max_files}; make shards "
            "larger (layers.*.shard_chips)"
        )


def files_needed(price: Price, campaign: Campaign) -> int:
    """Number of files and folders, at most, in the cube and in the parts if each task is started once."""
    return price.files + price.folders * (1 + campaign.how.tasks * campaign.how.nodes * campaign.how.ranks)
