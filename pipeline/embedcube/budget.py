"""How many unreadable scenes a campaign bears before it fails."""

from collections.abc import Iterable

from embedcube.config import Campaign
from embedcube.errors import WorkError
from embedcube.parts import Quarantined
from embedcube.scene import Scene


def unreadable(planned: list[Scene], quarantined: Iterable[Quarantined]) -> dict[tuple[str, str], str]:
    """Archive, id and reason of every planned scene that `index` or a shard could not read."""
    found = {(scene.archive, scene.id): scene.verdict for scene in planned if scene.verdict}
    for one in quarantined:
        found.setdefault((one.archive, one.scene), one.reason)
    return found


def refuse_over_budget(campaign: Campaign, planned: list[Scene], quarantined: Iterable[Quarantined]) -> None:
    """Raise a WorkError when more of the planned scenes are unreadable than `how.error_budget` allows."""
    found = unreadable(planned, quarantined)
    budget = campaign.how.error_budget
    if len(found) > budget * len(planned):
        (archive, scene), reason = min(found.items())
        raise WorkError(
            f"{len(found)} of {len(planned)} scenes cannot be read, how.error_budget allows {budget:.0%}; "
            f"the first is {archive}/{scene}: {reason}. Replace the files and index again, or where they have only "
            "come back `embedcube embed --retry-quarantined`; or raise the budget"
        )
