"""What a new plan takes from an earlier run, and how it differs from it: the second half of `plan`."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain

from embedcube.campaign.base import Base, open_base
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.parts import scan_documents
from embedcube.campaign.plan import Plan, digest_of_recipes, read_plan_columns, read_recipes
from embedcube.campaign.reasons import Account, compared
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, period_of_fit
from embedcube.campaign.verdicts import Verdicts
from embedcube.campaign.withdrawn import matches
from embedcube.consolidate.accounts import UNREADABLE, account_of_base, account_of_cube, account_of_run
from embedcube.consolidate.adopt import Adopted, adopt_all
from embedcube.consolidate.base_verdicts import with_base_verdicts
from embedcube.consolidate.changes import Change, changes
from embedcube.consolidate.offers import records_in
from embedcube.cube.reader import Cube
from embedcube.printable import listed, printable
from embedcube.progress import Progress

log = logging.getLogger(__name__)

_NAMED = 4
"""scenes that a line names"""


def base_of(campaign: Campaign, run: RunDir) -> Base | None:
    """The base that the campaign names; of its own run folder only the cube, as `embed` finds its parts anyway.

    Raises:
        RequestError: there is no such folder.
    """
    if campaign.how.base is None:
        return None
    base = open_base(campaign.how.base)
    own = base.run is not None and base.run.root == run.root.resolve()
    return replace(base, has_parts=False) if own else base


def recipes_of(run: RunDir, plan: Plan) -> set[str]:
    """The recipes of a plan's shards, in its round and in the first one: `verify` needs the records of both."""
    return {*read_recipes(run, plan), *read_recipes(run, replace(plan, verdicts=Verdicts()))}


def adopt_from(base: Base, run: RunDir, plan: Plan, progress: Progress) -> Adopted:
    """Take over the shards of the plan that the base has and this run has not, in this round or in the first one."""
    wanted = recipes_of(run, plan) - recorded_recipes(run)
    adopted = Adopted()
    if wanted:
        adopt_all(run, base, wanted, adopted, progress=progress)
    return adopted


def newest_of(run: RunDir) -> Base:
    """The newest cube of a run folder as a base."""
    return Base(path=run.newest_cube, run=run, cube=run.newest_cube.resolve(), has_parts=False)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a new plan is compared with."""

    name: str
    """in words"""
    account: Account
    base: Base


def reference_of(campaign: Campaign, run: RunDir, base: Base | None) -> Reference | None:
    """The earlier side: the base, else the newest cube of the run folder; None where there is neither.

    One that cannot be compared, as of an earlier version of embedcube, is named in a warning.
    """
    try:
        if base is not None:
            return Reference(name=str(base.path), account=account_of_base(base), base=base)
        if run.newest_cube.exists():
            cube = Cube(run.newest_cube.resolve())
            return Reference(name=f"version {cube.version}", account=account_of_cube(cube), base=newest_of(run))
    except UNREADABLE as error:
        log.warning("%s: no table of reasons: %s", base.path if base else run.newest_cube, error)
    return None


def changes_since(reference: Reference, campaign: Campaign, run: RunDir, plan: Plan) -> list[Change]:
    """The table of reasons: why shards of the plan differ from those of the reference, and what that costs.

    It is empty, with a warning, where the reference cannot be read to its end.
    """
    try:
        return _changes_since(reference, campaign, run, plan)
    except UNREADABLE as error:
        log.warning("%s: no table of reasons: %s", reference.base.path, printable(error))
        return []


def _changes_since(reference: Reference, campaign: Campaign, run: RunDir, plan: Plan) -> list[Change]:
    if campaign.how.base is None:
        # what the last version left out is left out again, in the second round at the latest
        plan = with_base_verdicts(campaign, run, plan, [newest_of(run)])
    done = recorded_recipes(run)
    if same := _all_unchanged(reference, run, plan, done):
        return same
    account = account_of_run(campaign, run, plan)
    records = chain((record for _, record in scan_documents(run)), records_in(reference.base))
    return changes(compared(reference.account, account), plan, account.scenes, done, records)


def _all_unchanged(reference: Reference, run: RunDir, plan: Plan, done: Set[str]) -> list[Change]:
    """The table where the reference has the very shards of the plan, and none is to be embedded; empty elsewhere.

    So it is each time that a finished campaign is run again: millions of shards need not be compared one by one.
    """
    if reference.base.cube is None or reference.base.has_parts:
        return []
    digest = Cube(reference.base.cube).provenance.attributes["plan_digest"]
    rows = read_plan_columns(run, plan, ("layer", "recipe"))
    recipes = rows["recipe"].to_pylist()
    if digest != digest_of_recipes(recipes) or not done >= set(recipes):
        return []
    counts = Counter(rows["layer"].to_pylist())
    return [Change(layer=name, kind="unchanged", keys=(), shards=counts[name]) for name in plan.layers]


def has_full_digests(base: Base | None) -> bool:
    """Whether all digests of a base's inventory are of whole files: with others, all of its scenes would differ."""
    try:
        scenes = account_of_base(base).scenes if base is not None else ()
    except UNREADABLE:
        return False
    return bool(scenes) and not any(scene.weak or scene.declared for scene in scenes)


def remarks(campaign: Campaign, run: RunDir, plan: Plan, reference: Reference | None) -> Iterator[str]:
    """What `plan` says of scenes that are withdrawn, and of weights that a run from nothing would not have."""
    withdrawn: list[Scene] = []
    if campaign.withdraw:
        scenes = read_inventory(campaign, run, plan.inventory)
        used = [scenes[row] for row in scenes.used_otherwise]
        withdrawn = [scene for scene in used if scene.withdrawn]
        out = [f"{scene.archive}/{scene.id}" for scene in withdrawn]
        yield f"{len(out)} scene{'s'[: len(out) > 1]} withdrawn: {listed(out, _NAMED)}"
        if instead := [f"{scene.archive}/{scene.id}" for scene in used if not scene.superseded_by]:
            yield f"used instead: {listed(instead, _NAMED)}"
    yield from _weights_in_words(campaign, plan, reference, withdrawn)


def _weights_in_words(
    campaign: Campaign, plan: Plan, reference: Reference | None, withdrawn: Sequence[Scene]
) -> Iterator[str]:
    """The layers whose weights are kept, and would be fitted otherwise in a run from nothing, as far as is known."""
    earlier = reference.account if reference else None
    kept = {layer.weights for layer in earlier.plan.layers.values()} if earlier else set()
    for name, layer in plan.layers.items():
        if not layer.fitted_on or campaign.layers[name].weights:
            continue  # a run from nothing takes the same file
        why = []
        if layer.fitted_on != (period := period_of_fit(campaign, name)):
            why.append(f"fitted on {layer.fitted_on}, not on {period}")
        newly = [
            f"{scene.archive}/{scene.id}"
            for scene in withdrawn
            if scene.archive in campaign.layers[name].archives
            and earlier is not None
            and layer.weights in kept
            and not matches(earlier.campaign.withdraw, scene.archive, scene.id)
        ]
        if newly:
            why.append(f"fitted before {listed(newly, _NAMED)} {'were' if len(newly) > 1 else 'was'} withdrawn")
        if why:
            yield f"layers.{name}: weights {' and '.join(why)}: a run from nothing fits its own"
