"""What an executor must do: run tasks somewhere. `local.py` beside this file is the small one."""

from typing import Protocol

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.progress import Progress


class Executor(Protocol):
    """Runs tasks; registered as an entry point of the group `embedcube.executors`."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Run each task until its shards have records.

        Raises:
            StartAgain: some are undone for a reason that may pass.
            WorkError: some cannot be done.
        """
        ...
