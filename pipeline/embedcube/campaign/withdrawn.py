"""`withdraw` of a campaign: scenes that are left out of all shards, as if the archive did not have them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from embedcube.campaign.scene import WITHDRAWN, Scene


@dataclass(frozen=True, kw_only=True)
class Names:
    """Columns of the inventory: one entry for each scene."""

    archives: Sequence[str]
    ids: Sequence[str]
    superseded_by: Sequence[str]
    """id of the scene that is used instead; empty for one that is used"""

    def older(self) -> dict[tuple[str, str], list[int]]:
        """For each scene that is used instead of others, by archive and id, the rows of the others."""
        found: dict[tuple[str, str], list[int]] = {}
        for row, (archive, used) in enumerate(zip(self.archives, self.superseded_by, strict=True)):
            if used:
                found.setdefault((archive, used), []).append(row)
        return found


def matches(withdraw: Collection[str], archive: str, scene: str) -> bool:
    """Whether a campaign that withdraws these means the scene with this id: by the id, or by "<archive>/<id>"."""
    return scene in withdraw or f"{archive}/{scene}" in withdraw


def unknown_ids(withdraw: Sequence[str], names: Names) -> list[str]:
    """The entries of `withdraw` that no scene of the inventory has."""
    known = {*names.ids, *(f"{archive}/{scene}" for archive, scene in zip(names.archives, names.ids, strict=True))}
    return [entry for entry in withdraw if entry not in known]


def newest_usable(scenes: Sequence[Scene], older: Collection[int], than: float) -> tuple[int, ...]:
    """Rows of the scenes that stand in for one of version `than`: of the older ones that can be used, the newest."""
    usable = [row for row in older if not scenes[row].verdict and scenes[row].version < than]
    newest = max((scenes[row].version for row in usable), default=0.0)
    return tuple(row for row in usable if scenes[row].version == newest)


def superseding(withdraw: Sequence[str], names: Names, scenes: Sequence[Scene]) -> Mapping[int, str]:
    """The rows of the inventory whose `superseded_by` is another because scenes are withdrawn, and which it is.

    A scene that was superseded by a withdrawn one is used again, if it is the newest that can be used; the others
    are superseded by it.
    """
    asked = set(withdraw)
    pairs = enumerate(zip(names.archives, names.ids, strict=True))
    out = [row for row, (archive, scene) in pairs if matches(asked, archive, scene)]
    changes = dict.fromkeys(out, WITHDRAWN)
    older = names.older() if out else {}
    for row in out:
        if names.superseded_by[row]:
            continue  # another one is used instead of it as before
        others = [one for one in older.get((names.archives[row], names.ids[row]), []) if one not in changes]
        instead = newest_usable(scenes, others, scenes[row].version)
        for one in others if instead else ():
            changes[one] = "" if one in instead else names.ids[instead[0]]
    return changes
