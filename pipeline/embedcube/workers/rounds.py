"""Rounds of `embed`: what shards found broken enters the plan; the shards that it fed are embedded without it.

A round begins when every shard of the one before has a record. What is found is a function of plan and records alone,
so that any process may begin the next round, and may do so twice (docs/adr/0011).
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow
import pyarrow.compute

from embedcube.campaign.columns import texts
from embedcube.campaign.inventory import read_names, scenes_as_planned, unplaced_scenes, unusable_scenes
from embedcube.campaign.parts import Quarantined, over_budget
from embedcube.campaign.plan import Plan, planned_scenes, read_plan_columns, read_recipes
from embedcube.campaign.recorded import best_rows, quarantined_of, read_recorded, some_of
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Archive, Campaign
from embedcube.campaign.tables import read_columns
from embedcube.campaign.verdicts import MOST_ROUNDS, Verdict, Verdicts, write_verdicts
from embedcube.campaign.withdrawn import uses_without
from embedcube.cube.encoding import why_not_held
from embedcube.errors import WorkError
from embedcube.printable import printable

_PLACE = re.compile(
    r" (?:at|for|in) (?:X offset \d+, Y offset \d+|(?:scanline|strip|tile|block|row|line) \d+)| \(short \d+ bytes\)"
)
"""In a decoder's complaint, the block that failed first: that depends on the shard. The rank's log and quarantine.jsonl
have it."""

_NAMED = 3
"""scenes that a message names"""

_REASON = 150
"""most characters of the reason that it gives"""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the records of a plan say of the scenes that could not be used."""

    count: int
    """recipes that have a record"""
    unusable: tuple[Quarantined, ...]
    """for each shard, the scenes that it missed"""
    broken: tuple[Quarantined, ...]
    """the same without the shards that killed their ranks: nobody knows which of their scenes is the cause"""
    not_held: Mapping[str, Mapping[str, int]]
    """by recipe and reason, the failed cells whose vector cannot be stored"""


def recorded(run: RunDir, recipes: Iterable[str]) -> Recorded:
    """What the record of each of these recipes says, as far as there is one."""
    rows = read_recorded(run, ("recipe", "quarantined", "refused", "not_held"))
    best = best_rows(rows, texts(dict.fromkeys(recipes)))
    refused = best["refused"]
    pairs = [
        (Quarantined(**one), bool(refused[row].as_py()))
        for row, text in some_of(best, "quarantined")
        for one in quarantined_of(text)
    ]
    return Recorded(
        count=len(best),
        unusable=tuple(one for one, _ in pairs),
        broken=tuple(one for one, is_refused in pairs if not is_refused),
        not_held={best["recipe"][row].as_py(): json.loads(text) for row, text in some_of(best, "not_held")},
    )


def not_held_in_words(campaign: Campaign, run: RunDir, plan: Plan, records: Recorded) -> Iterator[str]:
    """The failed cells whose vector cannot be stored, by layer of the plan and reason.

    A record may name its layer otherwise: the name is in no recipe, so a layer may have another one since.
    """
    counts: Counter[tuple[str, str]] = Counter()
    if records.not_held:
        columns = read_plan_columns(run, plan, ("layer", "recipe"))
        for layer, recipe in zip(*(columns[name].to_pylist() for name in ("layer", "recipe")), strict=True):
            counts.update({(layer, reason): count for reason, count in records.not_held.get(recipe, {}).items()})
    for (layer, reason), count in counts.items():
        yield f"layers.{layer}: {count:,} cells failed: {why_not_held(campaign.layers[layer].encoding)[reason]}"


def refuse_unusable(campaign: Campaign, run: RunDir, plan: Plan, unusable: Collection[Quarantined] = ()) -> None:
    """Raise a WorkError where more planned scenes than `how.error_budget` allows are unusable, by `index` or records.

    `unusable` is what records say; before anything is embedded it is left out.
    """
    if words := unusable_in_words(campaign, run, plan, unusable):
        raise WorkError(words)


def unusable_in_words(campaign: Campaign, run: RunDir, plan: Plan, unusable: Collection[Quarantined] = ()) -> str:
    """Why more planned scenes than `how.error_budget` allows are unusable, by `index` or records; empty if few are."""
    if not unusable and not unusable_scenes(run)[0]:
        return ""  # spares reading the scenes
    scenes = planned_scenes(run, plan, scenes_as_planned(campaign, run, plan))
    return over_budget(campaign, scenes, unusable, unplaced_scenes(campaign, run))


def new_verdicts(campaign: Campaign, run: RunDir, plan: Plan, broken: Iterable[Quarantined]) -> dict[int, Verdict]:
    """The scenes that records call broken and that are not out yet, by row of the inventory.

    Of several reasons that shards give for a scene it is that of the first band, in the order of the campaign, and it
    does not say where in the file.
    """
    known = {(one.archive, one.scene, one.scene_digest) for one in plan.verdicts.scenes.values()}
    reasons: dict[tuple[str, str, str], dict[str, bool]] = {}
    for one in broken:
        key = one.archive, one.scene, one.scene_digest
        if key not in known:
            reasons.setdefault(key, {})[_PLACE.sub("", one.reason)] = one.asks
    if not reasons:
        return {}
    names = ("embedcube:archive", "id", "embedcube:digest", "embedcube:verdict")
    table = read_columns(run.inventory, plan.inventory, names, "index")
    chosen = pyarrow.compute.is_in(table["id"], pyarrow.array(sorted({scene for _, scene, _ in reasons})))
    # as ranks have used them: the digest of one that only fills because of others is not that of the inventory
    scenes = scenes_as_planned(campaign, run, plan) if plan.verdicts.filling or campaign.withdraw else None
    found = {}
    for row in pyarrow.compute.indices_nonzero(chosen).to_pylist():
        archive, scene, digest, by_index = (table[name][row].as_py() for name in names)
        if scenes is not None and (row in plan.verdicts.filling or row in scenes.used_otherwise):
            digest = scenes[row].digest
        if not by_index and (of_scene := reasons.get((archive, scene, digest))):
            reason = _first(of_scene, campaign.archives[archive])
            found[row] = Verdict(
                archive=archive, scene=scene, scene_digest=digest, reason=reason, asks=of_scene[reason]
            )
    return _with_older(campaign, run, plan, found)


def _with_older(campaign: Campaign, run: RunDir, plan: Plan, found: dict[int, Verdict]) -> dict[int, Verdict]:
    """The verdicts with the scenes that are used instead: those that `index` would have used, had it known of all."""
    names = read_names(campaign, run, plan.inventory) if found else None
    if names is None or not any(names.superseded_by):
        return found
    scenes, out = scenes_as_planned(campaign, run, plan), plan.verdicts.scenes.keys() | found
    out |= {row for row in scenes.used_otherwise if scenes[row].withdrawn}
    result = dict(found)
    for rows in names.alike(found):
        used = {row: use for row, use in zip(rows, uses_without(scenes, rows, out), strict=True) if use.instead is None}
        newly = [row for row in used if names.superseded_by[row] and row not in out | plan.verdicts.instead]
        for row in found.keys() & set(rows):
            older = tuple(one for one in newly if not scenes[one].verdict and scenes[one].version < scenes[row].version)
            filling = tuple(one for one in older if used[one].fills)
            digests = tuple((scenes[one].filling() if one in filling else scenes[one]).digest for one in older)
            result[row] = replace(found[row], instead=older, instead_digests=digests, filling=filling)
    return result


def _first(reasons: Iterable[str], archive: Archive) -> str:
    """The reason that begins with the first band, in the order of the campaign; each shard may have found another."""
    bands = [*archive.bands, *([archive.mask.band] if archive.mask else [])]

    def order(reason: str) -> tuple[int, str]:
        band = reason.partition(":")[0]
        return (bands.index(band) if band in bands else len(bands), reason)

    return min(reasons, key=order)


def next_round(plan: Plan, found: Mapping[int, Verdict]) -> Verdicts:
    """The verdicts of the next round, with those that this one has found.

    Raises:
        WorkError: this was the last round that there may be.
    """
    if plan.verdicts.round >= MOST_ROUNDS:
        raise WorkError(
            f"round {plan.verdicts.round} of embed has found {named(found)}, and earlier rounds have read them: "
            "files of the archive change while they are read; wait until they do not, then `embedcube embed "
            "--retry-quarantined`"
        )
    return Verdicts(round=plan.verdicts.round + 1, scenes={**plan.verdicts.scenes, **found})


def begin_next_round(run: RunDir, plan: Plan, found: Mapping[int, Verdict]) -> None:
    """Let what was found enter the plan: from now on the shards of these scenes have other recipes.

    Raises:
        WorkError: as `next_round` says.
    """
    write_verdicts(run, plan.digests, next_round(plan, found))


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round of `embed`, as plan and records give it."""

    verdicts: Verdicts
    """the scenes that are out in it"""
    recipes: frozenset[str]
    """of all shards"""
    complete: bool
    """whether all of them have a record"""


def rounds(campaign: Campaign, run: RunDir, plan: Plan) -> Iterator[Round]:
    """The rounds that follow from the records, the first one first; one that is not complete is the last.

    Raises:
        WorkError: as `next_round` says.
    """
    now = replace(plan, verdicts=Verdicts())
    while True:
        recipes = frozenset(read_recipes(run, now))
        records = recorded(run, recipes)
        complete = records.count == len(recipes)
        yield Round(verdicts=now.verdicts, recipes=recipes, complete=complete)
        if not complete or not (found := new_verdicts(campaign, run, now, records.broken)):
            return
        now = replace(now, verdicts=next_round(now, found))


def replayed(campaign: Campaign, run: RunDir, plan: Plan) -> Verdicts | None:
    """The verdicts that follow from the records, derived round by round; None where records of a round are missing.

    Raises:
        WorkError: as `next_round` says.
    """
    *_, last = rounds(campaign, run, plan)
    return last.verdicts if last.complete else None


def named(found: Mapping[int, Verdict]) -> str:
    """The number of scenes that were found broken, the names of some, and the reason of the first."""
    verdicts = [verdict for _, verdict in sorted(found.items())]
    others = "".join(f"; {one.archive}/{one.scene}" for one in verdicts[1:_NAMED])
    more = f"; and {len(verdicts) - _NAMED} more" if len(verdicts) > _NAMED else ""
    first = f"{verdicts[0].archive}/{verdicts[0].scene}: {printable(verdicts[0].reason, _REASON)}"
    return f"{len(verdicts)} broken scene{'s'[: len(verdicts) > 1]} ({first}{others}{more})"
