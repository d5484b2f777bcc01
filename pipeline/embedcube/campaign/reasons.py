"""Reasons: why a shard of one plan has another recipe than the same shard of an earlier plan.

Two plans, or two cubes, or one of each, are compared. What differs is found where `recipes.py` makes recipes: in the
facts of the layer, in the scenes and in the verdicts.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from embedcube.campaign.plan import Shard
from embedcube.campaign.recipes import Planned, planned_facts
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, make_layout
from embedcube.zones import SAMPLES

Kind = Literal["unchanged", "new", "gone", "other recipe", "other scenes", "other verdict", "unexplained"]

KINDS: tuple[Kind, ...] = ("new", "gone", "other recipe", "other scenes", "other verdict", "unexplained", "unchanged")
"""All kinds of reasons, in the order in which tables list them."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one side says of its shards: a plan with its inventory, or a cube."""

    campaign: Campaign
    plan: Planned
    """layers, versions and verdicts; the recipes were made with the plugins that its layers name"""
    scenes: Sequence[Scene]
    """the inventory, whose rows the shards name"""
    shards: Iterable[Shard]
    """read once"""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why the recipe of a shard differs. Scenes are named "<archive>/<id>"."""

    kind: Kind
    """the first that applies of: new, gone, other recipe, other scenes, other verdict, unchanged; unexplained where the
    recipes differ and nothing that is known of the two sides does"""
    keys: tuple[str, ...] = ()
    """what decides the bytes of all shards of the layer and differs: keys of *what* (`archives.s2.mask.clear`), and
    `weights`, `program`, `plugins`, `versions.<package>`; `samples` where a list has other samples at its place"""
    added: tuple[str, ...] = ()
    """scenes that only the later one has"""
    removed: tuple[str, ...] = ()
    """scenes that only the earlier one has"""
    changed: tuple[str, ...] = ()
    """scenes of both whose facts or bytes differ"""
    verdicts: tuple[str, ...] = ()
    """scenes of both that only one of them could use"""
    reordered: bool = False
    """whether the same scenes come in another order"""

    @property
    def label(self) -> str:
        """The reason in words, without names of scenes: shards with one label belong together."""
        return f"{self.kind}: {', '.join(self.keys)}" if self.keys else self.kind

    def __str__(self) -> str:
        lists = (
            ("with", self.added), ("without", self.removed), ("changed", self.changed), ("verdict on", self.verdicts)
        )  # fmt: skip
        words = [f"{word} {', '.join(names)}" for word, names in lists if names]
        return "; ".join([self.label, *words, *(["another order of the scenes"] if self.reordered else [])])


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One shard of two plans."""

    earlier: Shard | None
    """None where the earlier plan has no such shard"""
    later: Shard | None
    """None where the later plan has no such shard"""
    reason: Reason


_UNCHANGED = Reason(kind="unchanged")


def compared(earlier: Account, later: Account) -> Iterator[Compared]:
    """Compare all shards of two plans: those of the later one in their order, then those that are gone.

    Shards are the same where layer, window and place are. A shard of the same recipe is unchanged wherever it lies, as
    its bytes are the same: so a layer may be renamed. A layer whose lattice differs (grid, size of its shards) has no
    shard in common with the earlier one; all of its shards have another recipe then, by the keys that changed it.
    """
    sides = _Sides(earlier, later)
    before = {sides.earlier.place(shard): shard for shard in earlier.shards}
    # only a layer that has another name now can have shards of the same recipe at other places
    renamed = not later.plan.layers.keys() <= earlier.plan.layers.keys()
    by_recipe = {shard.recipe: place for place, shard in before.items()} if renamed else {}
    matched = set()
    for shard in later.shards:
        place = sides.later.place(shard)
        if place not in before:
            place = by_recipe.get(shard.recipe, place)
        matched.add(place)
        other = before.get(place)
        yield Compared(earlier=other, later=shard, reason=sides.reason(other, shard))
    for place, shard in before.items():
        if place not in matched:
            yield Compared(earlier=shard, later=None, reason=Reason(kind="gone", keys=sides.moved(shard.layer)))


_Place = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class _Input:
    """A scene of a shard."""

    name: str
    digest: str
    usable: bool
    """whether neither `index` nor the reading of it found it broken"""
    instead: bool
    """whether it is only used because another one is out"""
    software: Mapping[str, str]
    """packages that decode it, with their versions"""


class _Side:
    """One side of a comparison."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._inputs: dict[int, _Input] = {}
        self._lattices: dict[str, _Place] = {}

    @cached_property
    def _windows(self) -> list[str]:
        """All windows in words."""
        return [str(window) for window in self._account.campaign.all_windows]

    def place(self, shard: Shard) -> _Place:
        """Where a shard lies: equal for shards of both sides that are of the same ground and time."""
        return shard.layer, self.lattice(shard.layer), shard.zone, self._windows[shard.t], shard.row, shard.col

    def has(self, layer: str) -> bool:
        """Whether there is a layer of this name."""
        return layer in self._account.plan.layers

    def lattice(self, layer: str) -> _Place:
        """What rows and columns of shards count from and in which steps."""
        if layer not in self._lattices:
            grid, layout = self._account.campaign.grid_of(layer), make_layout(self._account.campaign.layers[layer])
            self._lattices[layer] = (grid.crs, grid.pixel, *grid.origin, layout.shard_px)
        return self._lattices[layer]

    def facts(self, name: str) -> dict[str, Any]:
        """All that decides the bytes of every shard of a layer, by the keys of *what*."""
        facts = planned_facts(self._account.campaign, name, self._account.plan.layers[name])
        block = facts.pop("layer")
        if block["grid"] is not None:
            del facts["grid"]  # the block has it
        return {"layers": {name: block}, **facts}

    def inputs(self, shard: Shard) -> list[_Input]:
        """The scenes of a shard, in its order."""
        return [self._input(row) for row in shard.scenes]

    def scenes_of(self, shard: Shard) -> list[tuple[str, str, bool]]:
        """Names and digests of the scenes of a shard, in its order, and whether each could be used."""
        return [(one.name, one.digest, one.usable) for one in self.inputs(shard)]

    def _input(self, row: int) -> _Input:
        if row not in self._inputs:
            scene, plan = self._account.scenes[row], self._account.plan
            self._inputs[row] = _Input(
                name=f"{scene.archive}/{scene.id}",
                digest=scene.digest,
                usable=not scene.verdict and row not in plan.verdicts.scenes,
                instead=row in plan.verdicts.instead,
                software={package: plan.versions[package] for package in scene.software},
            )
        return self._inputs[row]


class _Sides:
    """Both sides of a comparison, with what is derived once for a layer."""

    def __init__(self, earlier: Account, later: Account) -> None:
        self.earlier, self.later = _Side(earlier), _Side(later)
        self._keys: dict[str, tuple[str, ...]] = {}

    def moved(self, layer: str) -> tuple[str, ...]:
        """The keys that differ of a layer that both sides have, on another lattice; none for other layers."""
        both = self.earlier.has(layer) and self.later.has(layer)
        return self.keys(layer) if both and self.earlier.lattice(layer) != self.later.lattice(layer) else ()

    def keys(self, layer: str) -> tuple[str, ...]:
        """What differs of the facts of a layer that both sides have."""
        if layer not in self._keys:
            self._keys[layer] = tuple(key for key, *_ in differing(self.earlier.facts(layer), self.later.facts(layer)))
        return self._keys[layer]

    def reason(self, before: Shard | None, after: Shard) -> Reason:
        """Why the shard `after` has another recipe than the shard `before`."""
        if before is None:
            keys = self.moved(after.layer)
            return Reason(kind="other recipe" if keys else "new", keys=keys)
        if before.recipe == after.recipe:
            return _UNCHANGED
        old, new = self.earlier.inputs(before), self.later.inputs(after)
        keys = self.keys(after.layer)
        keys += tuple(key for key in _other_software(old, new) if key not in keys)
        if not keys and after.zone == SAMPLES and self.earlier.scenes_of(before) == self.later.scenes_of(after):
            keys = ("samples",)  # rows of the list hold other samples than before
        return _reason(keys, old, new)


def differing(before: Mapping[str, Any], after: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values of nested dicts that differ: dotted name, value before, value after; None where a side lacks it.

    They come in alphabetical order.
    """
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key), after.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differing(a, b, f"{within}{key}.")
        elif a != b:
            yield within + key, a, b


def _by_name(inputs: Iterable[_Input]) -> dict[str, list[_Input]]:
    """The scenes by name, in order; an archive may hold two scenes of one name."""
    found: dict[str, list[_Input]] = defaultdict(list)
    for one in inputs:
        found[one.name].append(one)
    return found


def _other_software(before: Sequence[_Input], after: Sequence[_Input]) -> Iterator[str]:
    """Packages that decode a scene of both, and that have another version."""
    versions = {(one.name, package): version for one in before for package, version in one.software.items()}
    for package in sorted({package for one in after for package in one.software}):
        if any(
            versions.get((one.name, package), one.software[package]) != one.software[package]
            for one in after
            if package in one.software
        ):
            yield f"versions.{package}"


def _reason(keys: tuple[str, ...], before: Sequence[_Input], after: Sequence[_Input]) -> Reason:
    """The reason for a shard of both sides, from the keys that differ and the scenes of each side."""
    old, new = _by_name(before), _by_name(after)
    changed, verdicts = list[str](), list[str]()
    for name in (name for name in new if name in old):
        if [one.usable for one in old[name]] != [one.usable for one in new[name]]:
            verdicts.append(name)
        elif [one.digest for one in old[name]] != [one.digest for one in new[name]]:
            changed.append(name)
    added, removed = _only(new, old, bool(verdicts)), _only(old, new, bool(verdicts))
    reordered = [one.name for one in before if one.name in new] != [one.name for one in after if one.name in old]
    if verdicts:  # what is used instead of a broken scene may be used otherwise: to fill, or not
        changed = [name for name in changed if not any(one.instead for one in (*old[name], *new[name]))]
    kind: Kind = "other verdict" if verdicts else "unexplained"
    if added or removed or changed or reordered:
        kind = "other scenes"
    return Reason(
        kind="other recipe" if keys else kind, keys=keys, added=added, removed=removed, changed=tuple(changed),
        verdicts=tuple(verdicts), reordered=reordered,
    )  # fmt: skip


def _only(
    side: Mapping[str, Sequence[_Input]], other: Mapping[str, Sequence[_Input]], verdicts: bool
) -> tuple[str, ...]:
    """Scenes that one side has alone; with `verdicts` without those that are only used instead of broken ones."""
    alone = [name for name in side if name not in other]
    return tuple(name for name in alone if not (verdicts and all(one.instead for one in side[name])))
