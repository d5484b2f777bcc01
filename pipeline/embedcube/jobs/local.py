"""Tasks on this machine, one after the other."""

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.progress import Progress


class LocalExecutor:
    """The executor `local`."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Run the tasks here; each has the whole machine."""
        from embedcube.workers.task import run_task

        finished = 0
        for task in tasks:

            def report(done: int, total: int | None, before: int = finished) -> None:
                progress(before + done, before + (total or 0))

            finished += run_task(campaign, run, task, report).shards
