"""Opening a campaign for a verb that writes into its run folder, with a word about what is there already."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedcube.errors import RequestError
from embedcube.progress import Say

if TYPE_CHECKING:
    from embedcube.campaign.run_folder import RunDir
    from embedcube.campaign.schema import Campaign


def open_to_plan(campaign_file: Path, say: Say, ranks: int | None = None) -> "tuple[Campaign, RunDir]":
    """The campaign and its run folder, for verbs that make inventory, weights and plan anew.

    Raises:
        RequestError: as `resolve_to_plan` says; nothing is written then.
    """
    from embedcube.campaign.resolve import write_resolved

    campaign, folder = resolve_to_plan(campaign_file, say, ranks)
    write_resolved(campaign, folder)
    return campaign, folder


def resolve_to_plan(
    campaign_file: Path, say: Say, ranks: int | None = None, *, mounted: bool = True
) -> "tuple[Campaign, RunDir]":
    """The campaign and its run folder, in which nothing is written yet.

    Raises:
        RequestError: somebody works on the folder with another version of the campaign, as far as that can be seen: a
            process of this machine, a job in the queue, or another user whose files have changed within a minute. With
            `mounted` also if an archive is not on this machine.
    """
    from embedcube.campaign.earlier import differs_from
    from embedcube.campaign.resolve import resolve_campaign
    from embedcube.jobs.at_work import another_user, process_here
    from embedcube.jobs.slurm import refuse_while_queued

    campaign, folder = resolve_campaign(campaign_file, ranks, mounted=mounted)
    if differs := differs_from(campaign, folder):
        pid = process_here(folder, campaign_file)
        if who := f"process {pid}" if pid is not None else another_user(folder):
            raise RequestError(
                f"{folder.root}: {who} works on it with another version of this campaign ({differs}); wait "
                "until it has ended, or give the file another `campaign` and name this folder with how.base"
            )
        if folder.submissions.exists():
            refuse_while_queued(folder)
        say(f"{folder.root}: was made for another version of this campaign ({differs})")
        say("            its versions and parts stay, and what is unchanged is not embedded again")
    return campaign, folder


def open_to_go_on(
    campaign_file: Path, ranks: int | None = None, *, retry_quarantined: bool = False, uses_plugins: bool = True
) -> "tuple[Campaign, RunDir]":
    """The campaign and its run folder, for verbs that work by the plan that is there.

    Raises:
        RequestError: the plan is that of another version of the campaign; nothing is written then. Of a plan that
            cannot be read nobody can tell: the campaign is written, and whoever needs the plan says what is wrong.
    """
    from embedcube.campaign.earlier import refuse_other_plan
    from embedcube.campaign.resolve import resolve_campaign, write_resolved

    campaign, folder = resolve_campaign(
        campaign_file, ranks, retry_quarantined=retry_quarantined, uses_plugins=uses_plugins
    )
    refuse_other_plan(campaign, folder)
    write_resolved(campaign, folder)
    return campaign, folder
