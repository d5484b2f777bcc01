"""submit and cancel: a campaign as a chain of Slurm jobs.

The chain is: a job array of tasks, then consolidation, however the tasks ended, then verification. A second `submit`
continues a campaign: its array has only the tasks with a shard that has no record. Consolidation does this itself,
from its batch script, when it finds that shards have no record, or that a scene is broken which other shards have used:
then these have new recipes, and a new round begins (`workers/rounds.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from embedcube.campaign.plan import Plan, read_plan, read_recipes, tasks_undone
from embedcube.campaign.price import Price
from embedcube.campaign.recorded import merge_recorded, recorded_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site, load_site, processes_per_node
from embedcube.campaign.verdicts import forget_verdicts
from embedcube.errors import RequestError, WorkError
from embedcube.jobs.pilot import choose_pilot
from embedcube.jobs.queue import end_jobs, queued
from embedcube.jobs.script import Job
from embedcube.jobs.slurm import embed_jobs, script, submit_all, wait_for
from embedcube.jobs.submissions import Submission, new_submission, submissions
from embedcube.progress import Progress, silent
from embedcube.workers.rounds import refuse_unusable


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One link of the chain: jobs that are submitted together, and the stage that they wait for."""

    name: str
    jobs: tuple[Job, ...]
    after: dict[str, Literal["afterok", "afterany"]] = field(default_factory=dict)
    """stages to wait for, with the condition: `afterok`: start only if all of their jobs succeeded; `afterany`: start
    however they ended"""

    def dependency(self, ids: Mapping[str, list[str]]) -> str:
        """Value of Slurm's `--dependency`, from the job ids of the stages before; empty for none."""
        return ",".join(f"{condition}:{':'.join(ids[stage])}" for stage, condition in self.after.items())


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
        WorkError: consolidation has resubmitted as often as the site allows, or `index` has found more scenes unusable
            than the error budget allows.
    """
    site = load_site(campaign)
    if campaign.how.retry_quarantined and not again:
        forget_verdicts(run)
    plan = planned(campaign, run)
    if plan:
        refuse_unusable(campaign, run, plan)
        refuse_at_site(plan.price, campaign, site)
        merge_recorded(run, plan)
    tasks, round_ = tasks_left(campaign, run, plan), plan.verdicts.round if plan else 1
    done = recorded_recipes(run)
    if again:
        # where quarantined shards are tried again, tasks may be left although each shard has a record
        unrecorded = tasks_undone(run, plan, done) if plan else tasks
        _limit_resubmissions(run, site, unrecorded, round_, records=len(done))
    submission = new_submission(tasks, again=again, records=len(done), round_=round_)
    for stage in _chain(campaign, site, run, tasks, plan):
        submit_all(stage.jobs, campaign, site, run, submission, dependency=stage.dependency(submission.jobs))
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
        preparing = new_submission((), round_=1)
        submit_all((_preparation(run),), campaign, site, run, preparing)
        wait_for(preparing.ids, set(), run, silent, poll_s=site.poll_s)
        if not planned(campaign, run):
            raise WorkError(f"job {', '.join(preparing.ids)} has made no plan: the logs in {run.job_logs} say why")
    plan = read_plan(campaign, run)
    refuse_at_site(plan.price, campaign, site)
    task = choose_pilot(run, plan, count)
    merge_recorded(run, plan)
    recipes = set(read_recipes(run, plan, task))
    done = recorded_recipes(run)
    submission = new_submission((task,), records=len(done), round_=plan.verdicts.round)
    if not recipes <= done:
        submit_all(embed_jobs(campaign, site, run, (task,)), campaign, site, run, submission)
    wait_for(submission.ids, recipes, run, progress, poll_s=site.poll_s)


def _preparation(run: RunDir) -> Job:
    return Job(stage="prepare", command=("run", str(run.campaign), "--until", "plan"))


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
    done = recorded_recipes(run, whole=plan.verdicts.retries(campaign.how))
    return tasks_undone(run, plan, done)


def cancel(run: RunDir) -> Cancelled:
    """Cancel the jobs that are still queued or running.

    The last stage comes first, so that no job starts because the one before it was cancelled.
    """
    noted = submissions(run)
    # the same job may be in two lines
    ids = dict.fromkeys(one for submission in noted for stage in reversed(submission.jobs.values()) for one in stage)
    states = queued(list(ids))
    active = tuple(one for one in ids if one in states)
    if active:
        end_jobs(active)
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
    # without a plan nothing can be embedded or consolidated
    prepared: dict[str, Literal["afterok", "afterany"]] = {"prepare": "afterok"} if chain else {}
    if tasks:
        chain.append(Stage(name="embed", jobs=embed_jobs(campaign, site, run, tasks), after=prepared))
    processes = processes_per_node(campaign.how.dask, campaign.how.nodes)
    consolidation = Job(
        stage="consolidate",
        command=("consolidate", name),
        nodes=campaign.how.nodes if processes > 1 else 1,
        processes=processes,
        on_failure=("submit", name, "--again"),
    )
    verification = Job(stage="verify", command=("verify", name))
    # afterany: consolidation counts the records itself, and submits again what failed tasks have left undone
    embedded: dict[str, Literal["afterok", "afterany"]] = {"embed": "afterany"} if tasks else {}
    return [
        *chain,
        Stage(name="consolidate", jobs=(consolidation,), after=prepared | embedded),
        Stage(name="verify", jobs=(verification,), after={"consolidate": "afterok"}),
    ]


def planned(campaign: Campaign, run: RunDir) -> Plan | None:
    """The plan of the run folder; None where there is none, or it was made for another campaign or number of tasks."""
    try:
        plan = read_plan(campaign, run)
    except RequestError:
        return None
    return plan if plan.tasks == campaign.how.tasks else None


def _limit_resubmissions(run: RunDir, site: Site, tasks: tuple[int, ...], round_: int, *, records: int) -> None:
    """Refuse a resubmission by consolidation after as many as the site allows since the last `submit` by a person.

    The first of a new round is none: consolidation has not failed, but has found scenes broken.
    """
    if not tasks:
        raise WorkError(f"every shard has a record, so consolidation itself failed: its log in {run.job_logs} says why")
    earlier = submissions(run)
    last = earlier[-1] if earlier else None
    if last and last.again and last.round == round_ and last.records == records:
        raise WorkError(
            f"tasks {', '.join(map(str, tasks))} have shards without a record, and the last resubmission has made "
            f"none: the logs in {run.logs} say why; then run `embedcube submit` again"
        )
    times = 0
    for submission in reversed(earlier):
        if not submission.again or submission.round < round_:
            break
        times += 1
    if times >= site.resubmissions + (round_ > 1):
        raise WorkError(
            f"tasks {', '.join(map(str, tasks))} have shards without a record after {times} resubmissions: the logs "
            f"in {run.logs} say why; then run `embedcube submit` again"
        )


def refuse_at_site(price: Price, campaign: Campaign, site: Site) -> None:
    """Refuse before submission a plan that cannot work at the site: too long shards, or too many files.

    Raises:
        RequestError: the message names the two figures and the key to change.
    """
    minutes = campaign.how.time_min or site.time_min
    time_s = minutes * 60 - site.lead_s
    if time_s <= 0:
        raise RequestError(
            f"how.time_min: a job of {minutes} minutes gets the warning of {site.site} at once, as that comes "
            f"{site.lead_s} s before its end (lead_s); write more minutes"
        )
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


_OF_RANK = 5
"""files and folders of a rank: its part with the pack, the records and the quarantine, and its log"""


def files_needed(price: Price, campaign: Campaign) -> int:
    """Number of files and folders, at most, in the cube and in the parts if each task is started once."""
    return price.files + price.folders + _OF_RANK * campaign.how.tasks * campaign.how.nodes * campaign.how.ranks
