"""Checks of `verify` that compare cube, plan and inventory: what follows from one of them is derived again."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import safetensors

from embedcube.campaign.inventory import scenes_as_planned, unplaced_scenes
from embedcube.campaign.parts import Quarantined, record_lines, refuse_over_budget
from embedcube.campaign.plan import Plan, Shard, digest_of_recipes, planned_scenes, read_plan, read_recipes, read_shards
from embedcube.campaign.plugins import refuse_unknown_plugins
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.vectors import CENTRE
from embedcube.campaign.verdicts import Verdict, Verdicts
from embedcube.consolidate.findings import Finding
from embedcube.cube.reader import Cube
from embedcube.errors import EmbedcubeError, WorkError
from embedcube.grid import ShardRange
from embedcube.workers.rounds import replayed

log = logging.getLogger(__name__)


def against_plan(campaign: Campaign, run: RunDir, cube: Cube) -> Iterator[Finding]:
    """Check the plan itself; that the cube has its shards, with the same recipes; the error budget and the weights."""
    plan = read_plan(campaign, run)
    scenes = scenes_as_planned(campaign, run, plan)
    planned = {s.place: s for group in read_shards(run, plan) for s in group}
    yield from _recipes(campaign, plan, scenes, planned.values())
    yield from _zones(plan, planned.values())
    yield from _shards(run, plan, cube, planned)
    yield from _said(campaign, plan, cube, scenes)
    yield from _records(run, cube)
    yield from _verdicts(campaign, run, plan)
    yield from _budget(campaign, run, cube, planned_scenes(run, plan, scenes))
    yield from _weights(run, plan)
    yield from _offsets(run, plan, cube)


def _recipes(campaign: Campaign, plan: Plan, scenes: Sequence[Scene], shards: Iterable[Shard]) -> Iterator[Finding]:
    """Check that each shard of the plan has the recipe that inventory and plan give, where the plugins are here."""
    from embedcube.campaign.recipes import PlannedRecipes, plugins_of

    recipes = PlannedRecipes(campaign, plan, scenes)
    for name, layer in plan.layers.items():
        if (here := plugins_of(campaign, name)) != layer.plugins:
            log.warning("%s was planned with the plugins %s, here are %s", name, layer.plugins, here)
    try:
        refuse_unknown_plugins(campaign)
        derived = [(shard, recipes.derive(shard)) for shard in shards]
    except EmbedcubeError as error:
        log.warning("no recipe is derived again: %s", error)
        return
    for shard, recipe in derived:
        if recipe != shard.recipe:
            yield Finding(check="recipe", place=f"{shard} in the plan", found=shard.recipe[:12], expected=recipe[:60])


def _zones(plan: Plan, shards: Iterable[Shard]) -> Iterator[Finding]:
    """Check that each zone spans the rows and columns of its shards: the place in the cube follows from that."""
    rows, cols = defaultdict(set), defaultdict(set)
    for shard in shards:
        rows[shard.layer, shard.zone].add(shard.row)
        cols[shard.layer, shard.zone].add(shard.col)
    for layer, planned in plan.layers.items():
        for zone, place in planned.zones.items():
            row, col = rows[layer, zone], cols[layer, zone]
            held = ShardRange(row=min(row), col=min(col), rows=max(row) - min(row) + 1, cols=max(col) - min(col) + 1)
            spanned = planned.objects.from_border(held)
            if place != spanned:
                yield Finding(
                    check="place", place=f"{layer}/{zone} in the plan", found=str(place), expected=str(spanned)
                )


def _shards(run: RunDir, plan: Plan, cube: Cube, planned: dict[tuple[str, int, int, int], Shard]) -> Iterator[Finding]:
    """Check that the cube has the shards of the plan, made by the same recipes."""
    places = cube.provenance.places
    recipes = [bytes(recipe).hex() for recipe in cube.provenance.array("shard_recipe")]
    for place in sorted(planned.keys() ^ places.keys()):
        found, expected = ("planned", "in the cube") if place in planned else ("in the cube", "planned")
        yield Finding(check="plan", place=str(place), found=f"only {found}", expected=f"also {expected}")
    for place, row in places.items():
        if place in planned and planned[place].recipe != recipes[row]:
            yield Finding(
                check="recipe", place=str(place), found=recipes[row][:12], expected=planned[place].recipe[:12]
            )
    first = read_recipes(run, replace(plan, verdicts=Verdicts()))
    digests = {str(run.plan_summary): (plan.plan, digest_of_recipes(first))}
    digests[cube.path.name] = (
        digest_of_recipes(recipes),
        digest_of_recipes([shard.recipe for shard in planned.values()]),
    )
    for place_of, (found, expected) in digests.items():
        if found != expected:
            yield Finding(check="plan", place=place_of, found=found[:12], expected=expected[:12])


def _said(campaign: Campaign, plan: Plan, cube: Cube, scenes: Sequence[Scene]) -> Iterator[Finding]:
    """Check that the cube says of campaign, layers and scenes what campaign, plan and inventory say.

    An equal cube is kept when the inventory grows: only the scenes of its shards must be there.
    """
    about = cube.provenance.attributes
    facts: dict[str, tuple[Any, Any]] = {
        "what": (cube.what, campaign.what),
        "weights": (about["weights"], {name: layer.weights for name, layer in plan.layers.items()}),
        "counted": (about["counted"], {name: list(layer.counted) for name, layer in plan.layers.items()}),
    }
    facts |= {
        f"version of {name}": (found, plan.versions[name])
        for name, found in about["versions"].items()
        if name in plan.versions
    }
    for name, (found, expected) in facts.items():
        if found != expected:
            yield Finding(check="plan", place=name, found=str(found)[:60], expected=str(expected)[:60])
    if missing := sorted(
        {name for layer in plan.layers.values() for name in layer.versions} - about["versions"].keys()
    ):
        yield Finding(check="plan", place="versions", found="others", expected=f"also {missing[0]}")
    by_id = {(scene.archive, scene.id): scene for scene in scenes}
    used = np.unique(cube.provenance.array("link_scene")).tolist()
    for row in used:
        said = Scene.from_json(json.dumps(cube.provenance.scene(row)))
        known = by_id.get((said.archive, said.id))
        if known is None or known.digest != said.digest:
            place, found = f"{said.archive}/{said.id}", "other facts" if known else "a scene of the cube alone"
            yield Finding(check="inventory", place=place, found=found, expected="those of the inventory")


def _records(run: RunDir, cube: Cube) -> Iterator[Finding]:
    """Remark records of the cube that no part has, where one has another of the same recipe.

    The shard was embedded again after the cube was made, or somebody has changed the record.
    """
    provenance = cube.provenance
    # digests, as there may be millions of records
    missing = {hashlib.sha256(provenance.record_line(row)).digest(): row for row in provenance.places.values()}
    for line in record_lines(run):
        missing.pop(hashlib.sha256(line).digest(), None)
    recorded = recorded_recipes(run) if missing else set()
    stored = provenance.array("shard_recipe")
    place_of = {row: place for place, row in provenance.places.items()}
    gone = 0
    for row in missing.values():
        if bytes(stored[row]).hex() in recorded:
            zone, t, iy, ix = place_of[row]
            found, expected = "a record that no part has", "that of a part"
            yield Finding(check="record", place=f"{zone} t{t} y{iy} x{ix}", found=found, expected=expected, remark=True)
        else:
            gone += 1
    if gone:
        log.warning("%s: %d of %d records of the cube are in no part any more", run.parts, gone, len(place_of))


def _verdicts(campaign: Campaign, run: RunDir, plan: Plan) -> Iterator[Finding]:
    """Check that the scenes that are out are those that the records give, as long as the parts are there."""
    try:
        derived = replayed(campaign, run, plan)
    except WorkError as error:
        yield Finding(
            check="verdicts", place=run.verdicts.name, found=str(error), expected="no scene that comes and goes"
        )
        return
    if derived is None:
        return
    for row in sorted(derived.scenes.keys() ^ plan.verdicts.scenes.keys()):
        one = derived.scenes.get(row) or plan.verdicts.scenes[row]
        found, expected = ("out", "in use") if row in plan.verdicts.scenes else ("in use", "out")
        yield Finding(
            check="verdicts", place=f"{one.archive}/{one.scene}", found=found, expected=f"{expected}, by the records"
        )
    for row in sorted(derived.scenes.keys() & plan.verdicts.scenes.keys()):
        one, kept = derived.scenes[row], plan.verdicts.scenes[row]
        if _instead(kept) != _instead(one):
            yield Finding(
                check="verdicts", place=f"{one.archive}/{one.scene}", found=_instead(kept), expected=_instead(one)
            )


def _instead(verdict: Verdict) -> str:
    """What is used instead of a scene that is out: rows of the inventory and the digests that they are used with."""
    used = [
        f"{row} {digest[:12]}{' to fill' if row in verdict.filling else ''}"
        for row, digest in zip(verdict.instead, verdict.instead_digests, strict=True)
    ]
    return f"instead of it {', '.join(used) or 'no scene'}"


def _budget(campaign: Campaign, run: RunDir, cube: Cube, planned: list[Scene]) -> Iterator[Finding]:
    """Check that no more scenes are unreadable than the campaign allows."""
    records = (cube.provenance.record(row) for row in cube.provenance.places.values())
    quarantined = [Quarantined(**one) for record in records for one in record["quarantined"]]
    try:
        refuse_over_budget(campaign, planned, quarantined, unplaced_scenes(campaign, run))
    except WorkError as error:
        yield Finding(check="error budget", place=cube.path.name, found=str(error), expected="within the budget")


def _weights(run: RunDir, plan: Plan) -> Iterator[Finding]:
    """Check the files of weights and of compiled programs."""
    for name, layer in plan.layers.items():
        files = {"weights": (run.weights(name), layer.weights)}
        if layer.program:
            files["compiled"] = run.program(name, layer.compiled_for, layer.program), layer.program
        for check, (path, expected) in files.items():
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
            if digest != expected:
                yield Finding(check=check, place=name, found=digest[:12], expected=expected[:12])


def _offsets(run: RunDir, plan: Plan, cube: Cube) -> Iterator[Finding]:
    """Check that the offset of a centred layer is that of its weights, in the plan and in each zone of the cube."""
    for name, layer in plan.layers.items():
        path = run.weights(name)
        if not layer.offset or not path.exists():
            continue
        with safetensors.safe_open(path, framework="numpy") as weights:
            expected = tuple(weights.get_tensor(CENTRE).tolist())
        said = {f"{name} in the plan": layer.offset}
        for zone in cube.zones_of(name):
            stored = cube.offset(zone)
            said[f"{zone}/offset"] = () if stored is None else tuple(stored.tolist())
        for place, found in said.items():
            if found != expected:
                yield Finding(check="offset", place=place, found="other numbers", expected="those of the weights")
