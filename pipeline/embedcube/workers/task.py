"""embed: one task. A parent on each of its nodes starts the ranks of that node; parent 0 coordinates them.

Parents do no device work and do not load torch. `ranks.py` is what they start, `rendezvous.py` how they find each
other, and `protocol.py` tells the whole story. On one machine there is one parent.
"""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from embedcube.campaign.plan import Plan, read_plan, read_recipes
from embedcube.campaign.plugins import own_modules
from embedcube.campaign.record_tables import write_table
from embedcube.campaign.recorded import recorded_in, recorded_of_task
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import StartAgain, WorkError
from embedcube.progress import Progress
from embedcube.workers.channel import Lost
from embedcube.workers.coordinator import Ending, OwnCoordinator
from embedcube.workers.crashes import CrashHistory
from embedcube.workers.left import write_left
from embedcube.workers.parents import ParentsListener, join_parent_0
from embedcube.workers.protocol import POLL_S, SHARDS_RECORDED
from embedcube.workers.ranks import Crew, Ranks, common_environment
from embedcube.workers.rendezvous import Announcement, Rendezvous, find_parents, own_host
from embedcube.workers.starting import ForkServer, fork_server
from embedcube.workers.stopping import StopRequests

log = logging.getLogger(__name__)


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
    # first of all: what it forks must not come from a process that has used MPI
    with fork_server(common_environment(campaign), own_modules(campaign)) as server:
        parents = find_parents(run, task)
        if parents.number == 0:
            return _run_parent_0(campaign, run, task, parents, server, progress)
        return _run_other_parent(campaign, run, task, parents, server)


def _run_parent_0(
    campaign: Campaign, run: RunDir, task: int, parents: Rendezvous, server: ForkServer, progress: Progress
) -> TaskResult:
    """Parent 0: coordinates the ranks of all nodes, and counts in the end what was done."""
    plan = read_plan(campaign, run)
    retries = plan.verdicts.retries(campaign.how)
    total, to_do, crashes = shards_to_do(run, plan, task, whole=retries)
    progress(total - len(to_do), total)
    if not to_do:
        parents.share(Announcement(attempt=parents.attempt, work=False))
        return TaskResult(shards=total, undone=0, exit_codes=(), logs=())
    write_left(run.left(task, parents.attempt), to_do, CrashHistory.read(crashes, to_do, retries=retries))
    crew = Crew(parent=0, parents=parents.count, ranks=campaign.how.ranks)
    coordinator = OwnCoordinator(world=crew.ranks * crew.parents, parents=crew.parents)

    def report() -> None:
        progress(total - len(to_do) + coordinator.counted(SHARDS_RECORDED), total)

    with _tabled(run, task, parents.attempt, crew), StopRequests() as asked, _announced(parents, coordinator):
        ranks = Ranks(campaign, run, task, parents.attempt, crew, coordinator, asked, server)
        codes = ranks.wait(report)
        while coordinator.waited_for():
            report()
            asked.act()
            time.sleep(POLL_S)
    parts = (run.part(task, parents.attempt, rank) for rank in range(crew.ranks * crew.parents))
    undone_recipes = to_do.difference(*map(recorded_in, parts))
    # another start of this task may have recorded some meanwhile
    undone = len(undone_recipes - recorded_of_task(run, plan, task, undone_recipes, whole=retries).recipes)
    progress(total - undone, total)
    result = TaskResult(shards=total, undone=undone, exit_codes=codes, logs=ranks.logs)
    if undone:
        _explain(result, coordinator)
    return result


@contextmanager
def _announced(parents: Rendezvous, coordinator: OwnCoordinator) -> Iterator[None]:
    """Let the other parents, where there are any, reach the coordinator."""
    if parents.count == 1:
        yield
        return
    key = secrets.token_hex(32)
    listener = ParentsListener(own_host(), key.encode(), coordinator)
    try:
        host, port = listener.address
        parents.share(Announcement(attempt=parents.attempt, work=True, host=host, port=port, key=key))
        yield
    finally:
        listener.close()
        # who comes too late has nothing to do, and need not look for this process
        with suppress(OSError):
            parents.withdraw(Announcement(attempt=parents.attempt, work=False))


@contextmanager
def _tabled(run: RunDir, task: int, attempt: str, crew: Crew) -> Iterator[None]:
    """At the end, however it came, write what the ranks of this node have recorded as a table for others to read."""
    try:
        yield
    finally:
        try:
            write_table(run, task, attempt, crew.parent, crew.numbers)
        except OSError as error:  # the records are there, and are read line by line
            log.warning("no table of records: %s", error)


def shards_to_do(run: RunDir, plan: Plan, task: int, *, whole: bool) -> tuple[int, set[str], tuple[Path, ...]]:
    """How many shards a task has, the recipes of those that are to be embedded, and the files of earlier crashes.

    With `whole`, those are to be embedded again for which a scene was not read.
    """
    recipes = read_recipes(run, plan, task)
    recorded = recorded_of_task(run, plan, task, recipes, whole=whole)
    return len(recipes), set(recipes) - recorded.recipes, recorded.crashes


def _run_other_parent(
    campaign: Campaign, run: RunDir, task: int, parents: Rendezvous, server: ForkServer
) -> TaskResult:
    """Another parent: its ranks draw from the counters of parent 0, which alone counts what was done."""
    announcement = parents.share(None)
    if not announcement.work:
        return TaskResult(shards=0, undone=0, exit_codes=(), logs=())
    address = announcement.host, announcement.port
    coordinator = join_parent_0(address, announcement.key.encode(), parents.number)
    crew = Crew(parent=parents.number, parents=parents.count, ranks=campaign.how.ranks)
    try:
        with _tabled(run, task, announcement.attempt, crew), StopRequests() as asked:
            ranks = Ranks(campaign, run, task, announcement.attempt, crew, coordinator, asked, server)
            codes = ranks.wait(lambda: None)
    except Lost as error:
        raise StartAgain(
            f"parent 0 of the task, at {announcement.host} port {announcement.port}, is gone ({error}); "
            "start the same command again"
        ) from None
    finally:
        with suppress(Lost):
            coordinator.done()
    return TaskResult(shards=0, undone=0, exit_codes=codes, logs=ranks.logs)


def _explain(result: TaskResult, coordinator: OwnCoordinator) -> None:
    """Raise the error that says why shards are undone, by the most telling end of a rank."""
    kinds = [(kind, coordinator.reports(kind)) for kind in Ending]
    kind, reports = next(((kind, reports) for kind, reports in kinds if reports), (Ending.EARLY, []))
    why = reports[0] if reports else f"ranks ended with {list(result.exit_codes)}, see {result.logs[0].parent}"
    why += f"; {len(reports) - 1} more ended so" if len(reports) > 1 else ""
    if kind == Ending.FAILED:
        raise WorkError(f"{result.undone} of {result.shards} shards are undone; a rank failed: {why}")
    raise StartAgain(
        f"{result.undone} of {result.shards} shards are undone: {why}; start the same command again, it does only what "
        "has no record"
    )
