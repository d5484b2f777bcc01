"""What a run folder was last used for, in words: for somebody who comes with another campaign file."""

from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_any_plan
from embedcube.campaign.reasons import differing
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError
from embedcube.printable import listed

_NAMED = 4
"""keys that are named"""


def differs_from(campaign: Campaign, run: RunDir) -> str:
    """How the campaign differs from the one that the run folder has, by the keys of *what*; empty where it does not.

    It is empty where the folder has none yet, too.
    """
    if not run.campaign.exists():
        return ""
    try:
        earlier = load_campaign(run.campaign, mounted=False)
    except RequestError:
        return f"its {run.campaign.name} cannot be read: damaged, or of another version of embedcube"
    if earlier.digest == campaign.digest:
        return ""
    return f"other {listed([key for key, *_ in differing(earlier.what, campaign.what)], _NAMED)}"


def refuse_other_plan(campaign: Campaign, run: RunDir) -> None:
    """Raise a RequestError where the plan of the run folder was made for another version of the campaign.

    Nothing is written then: jobs of that plan may be at work.
    """
    if not run.plan_summary.exists():
        return
    try:
        plan = read_any_plan(run)
    except RequestError:
        return  # whoever needs it says what is wrong
    if plan.campaign != campaign.digest:
        differs = differs_from(campaign, run)
        raise RequestError(
            f"{run.plan} was made for another version of the campaign ({plan.campaign[:12]}, the file now says "
            f"{campaign.digest[:12]}{': ' if differs else ''}{differs}); run `embedcube plan` again"
        )
