"""`withdraw` of a campaign: scenes that are left out of all shards, as if the archive did not have them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from embedcube.campaign.baselines import Use, uses
from embedcube.campaign.scene import WITHDRAWN, Scene


@dataclass(frozen=True, kw_only=True)
class Names:
    """Columns of the inventory: one entry for each scene."""

    archives: Sequence[str]
    ids: Sequence[str]
    superseded_by: Sequence[str]
    """id of the scene that is used instead; empty for one that is used"""
    shows: Sequence[str]
    """what each shows (`Scene.shows`)"""

    def alike(self, rows: Iterable[int]) -> Iterator[list[int]]:
        """For each subject of these rows, all rows that show the same, in ascending order."""
        wanted = {(self.archives[row], self.shows[row]) for row in rows}
        found: dict[tuple[str, str], list[int]] = {}
        for row, pair in enumerate(zip(self.archives, self.shows, strict=True)):
            if pair in wanted:
                found.setdefault(pair, []).append(row)
        yield from found.values()


@dataclass(frozen=True, kw_only=True)
class Used:
    """How a scene is used, where that is otherwise than the inventory says."""

    superseded_by: str
    """as in `Scene`"""
    fills: bool
    """whether it only fills what newer scenes of its acquisition do not show"""

    def of(self, scene: Scene) -> Scene:
        """The scene, used so."""
        scene = scene.filling() if self.fills else scene.not_filling()
        return replace(scene, superseded_by=self.superseded_by)


def matches(withdraw: Collection[str], archive: str, scene: str) -> bool:
    """Whether a campaign that withdraws these means the scene with this id: by the id, or by "<archive>/<id>"."""
    return scene in withdraw or f"{archive}/{scene}" in withdraw


def unknown_ids(withdraw: Sequence[str], names: Names) -> list[str]:
    """The entries of `withdraw` that no scene of the inventory has."""
    known = {*names.ids, *(f"{archive}/{scene}" for archive, scene in zip(names.archives, names.ids, strict=True))}
    return [entry for entry in withdraw if entry not in known]


def uses_without(scenes: Sequence[Scene], rows: Sequence[int], out: Collection[int]) -> list[Use]:
    """How scenes that show the same are used where those of `out` cannot be; `instead` counts in `rows`."""
    return uses([replace(scenes[row], verdict="out") if row in out else scenes[row] for row in rows])


def used_otherwise(withdraw: Sequence[str], names: Names, scenes: Sequence[Scene]) -> Mapping[int, Used]:
    """The rows of the inventory that are used otherwise because scenes are withdrawn, and how.

    Which of the scenes that show the same are used is decided as `index` does for an archive without those withdrawn.
    """
    asked = set(withdraw)
    pairs = enumerate(zip(names.archives, names.ids, strict=True))
    out = {row for row, (archive, scene) in pairs if matches(asked, archive, scene)}
    changes = {row: Used(superseded_by=WITHDRAWN, fills=scenes[row].fills) for row in sorted(out)}
    for rows in names.alike(out) if out else ():
        for row, use in zip(rows, uses_without(scenes, rows, out), strict=True):
            used = Used(superseded_by="" if use.instead is None else names.ids[rows[use.instead]], fills=use.fills)
            before = Used(superseded_by=names.superseded_by[row], fills=scenes[row].fills)
            if row not in out and used != before:
                changes[row] = used
    return changes
