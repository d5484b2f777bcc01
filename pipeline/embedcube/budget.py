"""How many unreadable scenes a campaign bears before it fails."""

from embedcube.config import Campaign
from embedcube.errors import WorkError
from embedcube.parts import Record
from embedcube.scene import Scene


def unreadable(scenes: list[Scene], records: list[Record]) -> dict[str, str]:
    """Id and reason of every scene that `index` or a shard could not read."""
    found = {scene.id: scene.verdict for scene in scenes if scene.verdict and not scene.superseded_by}
    for record in records:
        for quarantined in record.quarantined:
            found.setdefault(quarantined.scene, quarantined.reason)
    return found


def refuse_over_budget(campaign: Campaign, scenes: list[Scene], records: list[Record]) -> None:
    """Raise a WorkError when more scenes are unreadable than `how.error_budget` allows."""
    found = unreadable(scenes, records)
    budget = campaign.how.error_budget
    if len(found) > budget * len(scenes):
        scene, reason = next(iter(sorted(found.items())))
        raise WorkError(
            f"{len(found)} of {len(scenes)} scenes cannot be read, how.error_budget allows {budget:.0%}; "
            f"the first is {scene}: {reason}. Replace the files and index again, or where they have only "
            "come back `embedcube embed --retry-quarantined`; or raise the budget"
        )
