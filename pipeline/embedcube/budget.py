"""How many unreadable scenes a campaign bears before it fails."""

from collections.abc import Iterable

from embedcube.config import Campaign
from embedcube.embed import Shard
from embedcube.errors import WorkError
from embedcube.parts import Record
from embedcube.scene import Scene


def planned_scenes(scenes: list[Scene], shards: Iterable[Shard]) -> list[Scene]:
    """The scenes that shards need: only these count."""
    return [scenes[i] for i in sorted({i for shard in shards for i in shard.scenes})]


def unreadable(planned: list[Scene], records: Iterable[Record]) -> dict[str, str]:
    """Id and reason of every planned scene that `index` or a shard could not read."""
    found = {scene.id: scene.verdict for scene in planned if scene.verdict}
    for record in records:
        for quarantined in record.quarantined:
            found.setdefault(quarantined.scene, quarantined.reason)
    return found


def refuse_over_budget(campaign: Campaign, planned: list[Scene], records: Iterable[Record]) -> None:
    """Raise a WorkError when more of the planned scenes are unreadable than `how.error_budget` allows."""
    found = unreadable(planned, records)
    budget = campaign.how.error_budget
    if len(found) > budget * len(planned):
        scene, reason = next(iter(sorted(found.items())))
        raise WorkError(
            f"{len(found)} of {len(planned)} scenes cannot be read, how.error_budget allows {budget:.0%}; "
            f"the first is {scene}: {reason}. Replace the files and index again, or where they have only "
            "come back `embedcube embed --retry-quarantined`; or raise the budget"
        )
