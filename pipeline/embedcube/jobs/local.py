"""The executor `local`: tasks on this machine, one after the other."""

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.progress import Progress


class LocalExecutor:
    """Runs tasks on this machine."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Run the tasks one after the other; each may use the whole machine."""
        from embedcube.workers.task import run_task

        finished = 0
        for task in tasks:

            def report(done: int, total: int | None, before: int = finished) -> None:
                """Progress of this task, added to the tasks before it."""
                progress(before + done, before + (total or 0))

            finished += run_task(campaign, run, task, report).shards
