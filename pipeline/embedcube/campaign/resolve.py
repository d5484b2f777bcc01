"""The campaign of a command: its file, with the options of the command line and of the site; and its run folder.

Heavy imports are inside functions, as in the command line.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from embedcube.errors import RequestError

if TYPE_CHECKING:
    from embedcube.campaign.run_folder import RunDir
    from embedcube.campaign.schema import Campaign

_AS_STARTED = "this is about the run as submitted"


def open_campaign(campaign_file: Path) -> "tuple[Campaign, RunDir]":
    """The campaign and its run folder, for a command that only reads."""
    from embedcube.campaign.load import load_campaign
    from embedcube.campaign.run_folder import RunDir

    campaign = load_campaign(campaign_file)
    return campaign, RunDir(campaign.run_folder)


def open_submitted(campaign_file: Path) -> "tuple[Campaign, RunDir, str]":
    """The campaign as its run folder has it, the run folder, and how the file differs from it; empty if it does not.

    For commands that tell or end what was started: they need neither the archive nor the file as it was. Before
    anything was started, the campaign is that of the file.
    """
    from embedcube.campaign.load import load_campaign, run_folder_of
    from embedcube.campaign.run_folder import RunDir

    root = run_folder_of(campaign_file)
    if root is None or not RunDir(root).campaign.exists():
        campaign = load_campaign(campaign_file, mounted=False)
        return campaign, RunDir(campaign.run_folder), ""
    folder = RunDir(root)
    try:
        started = load_campaign(folder.campaign, mounted=False)
    except RequestError as error:
        return load_campaign(campaign_file, mounted=False), folder, f"{error}; this is about the campaign file as it is"
    try:
        asked = load_campaign(campaign_file, mounted=False)
    except RequestError as error:
        return started, folder, f"the campaign file cannot be used now ({error}); {_AS_STARTED}"
    same = (asked.digest, asked.how.tasks) == (started.digest, started.how.tasks)
    return started, folder, "" if same else f"the campaign file was changed since; {_AS_STARTED}"


def open_run(
    campaign_file: Path, ranks: int | None = None, *, retry_quarantined: bool = False, uses_plugins: bool = True
) -> "tuple[Campaign, RunDir]":
    """The campaign and its run folder, for a command that writes: the folder gets the campaign as resolved."""
    campaign, folder = resolve_campaign(
        campaign_file, ranks, retry_quarantined=retry_quarantined, uses_plugins=uses_plugins
    )
    write_resolved(campaign, folder)
    return campaign, folder


def write_resolved(campaign: "Campaign", folder: "RunDir") -> None:
    """Write the campaign as resolved, which jobs and ranks read from now on."""
    from embedcube.campaign.load import dump_campaign
    from embedcube.campaign.run_folder import write_atomically

    folder.root.mkdir(parents=True, exist_ok=True)
    text = dump_campaign(campaign).encode()
    if not folder.campaign.exists() or folder.campaign.read_bytes() != text:
        write_atomically(folder.campaign, text)


def resolve_campaign(
    campaign_file: Path,
    ranks: int | None = None,
    *,
    retry_quarantined: bool = False,
    executor: str | None = None,
    site: Path | None = None,
    uses_plugins: bool = True,
    mounted: bool = True,
) -> "tuple[Campaign, RunDir]":
    """The campaign, with the options of the command line and of its site in `how`, and its run folder.

    Raises:
        RequestError: the campaign is wrong; or with `uses_plugins` it names a plugin that is not installed, with
            `mounted` an archive that is not on this machine.
    """
    from embedcube.campaign.load import load_campaign

    campaign = load_campaign(campaign_file, mounted=mounted)
    return resolved(
        campaign,
        ranks,
        retry_quarantined=retry_quarantined,
        executor=executor,
        site=site,
        uses_plugins=uses_plugins,
    )


def resolved(
    campaign: "Campaign",
    ranks: int | None = None,
    *,
    retry_quarantined: bool = False,
    executor: str | None = None,
    site: Path | None = None,
    uses_plugins: bool = True,
) -> "tuple[Campaign, RunDir]":
    """The campaign with the options of the caller and of its site in `how`, and its run folder."""
    from embedcube.campaign.plugins import refuse_unknown_plugins
    from embedcube.campaign.run_folder import RunDir
    from embedcube.campaign.site import at_site, load_site

    options = {
        "ranks": ranks,
        "retry_quarantined": retry_quarantined or None,
        "executor": executor,
        "site": site.absolute() if site else None,
    }
    how = campaign.how.model_copy(update={name: value for name, value in options.items() if value is not None})
    campaign = campaign.model_copy(update={"how": how})
    if how.executor == "slurm":
        campaign = at_site(campaign, load_site(campaign))
    if uses_plugins:
        refuse_unknown_plugins(campaign)
    return campaign, RunDir(campaign.run_folder)
