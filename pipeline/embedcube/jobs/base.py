"""The contract of an executor: run tasks somewhere. `local.py` in this folder is the smallest example."""

from typing import Protocol

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.progress import Progress


class Executor(Protocol):
    """A plugin that runs tasks, registered as an entry point of the group `embedcube.executors`."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Run each task until all of its shards have a record.

        Raises:
            StartAgain: some shards have no record for a reason that may pass, such as a killed process.
            WorkError: some shards cannot be computed.
        """
        ...
