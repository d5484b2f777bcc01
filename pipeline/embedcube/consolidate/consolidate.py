"""consolidate: parts to cube. Records are counted, objects made of their shards; the cube appears whole."""

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from embedcube.campaign.base import open_base
from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.parts import Stored, best_records, version_of
from embedcube.campaign.plan import LayerPlan, Plan, Shard, read_plan, read_shards
from embedcube.campaign.record_tables import forget_tables
from embedcube.campaign.recorded import recorded_recipes
from embedcube.campaign.run_folder import RunDir, fsync_folder, point_symlink
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import load_site
from embedcube.consolidate.assemble import Brought, Member, Planned, assembled
from embedcube.consolidate.dask import dask_client
from embedcube.consolidate.earlier import with_earlier
from embedcube.consolidate.endings import in_words, results
from embedcube.consolidate.provenance import Made, fitted_weights, write_provenance
from embedcube.consolidate.stac import write_catalogue
from embedcube.consolidate.template import kinds_of, write_template
from embedcube.consolidate.unfinished import TakenOver, Unfinished, building, remove_abandoned
from embedcube.errors import WorkError, naming
from embedcube.progress import Progress
from embedcube.workers.rounds import begin_next_round, named, new_verdicts, refuse_unusable


@dataclass(frozen=True, kw_only=True)
class Consolidated:
    """The cube, and what was done to make it."""

    cube: Path
    version: str
    shards: int
    objects: int
    """number of objects that were made or linked; 0 where the cube was there already"""
    linked: int
    """number of those that an earlier version has too: they are stored once"""
    purged: date | None
    """day on which the site begins to delete files of the cube: linked ones are older than the others"""


def consolidate(campaign: Campaign, run: RunDir, progress: Progress) -> Consolidated:
    """Make the cube of the plan from the parts.

    The version is named by what is in it, so an equal cube that exists already is not made again.

    Raises:
        WorkError: shards without a record, unequal results of one recipe, a damaged object, too many unreadable
            scenes, or scenes that one shard found broken and others still have.
    """
    # first of all: with some kinds of workers, most processes end within this call
    with dask_client(campaign, run) as client:
        return _consolidate(campaign, run, client, progress)


def _consolidate(campaign: Campaign, run: RunDir, client: Any, progress: Progress) -> Consolidated:
    plan, made = _settled(campaign, run)
    scenes = scenes_as_planned(campaign, run, plan)
    version = version_of(campaign, plan.layers, [m.record for m in made])
    cube = run.cube(version)
    objects = linked = 0
    if not cube.exists():
        try:
            # of metadata and provenance, which zarr writes, a full disk does not say what it had no room for
            with building(run, version) as unfinished, naming(unfinished.path):
                objects, linked = _fill(campaign, run, plan, made, unfinished, client, progress)
                write_provenance(campaign, plan, scenes, made, unfinished.path, fitted_weights(run, plan))
                unfinished.remove_temporary()
                _fsync_all(unfinished.path)
                # that of an equal cube that was removed: its provenance, and so its seal, may have been another
                (run.catalogue(version) / "collection.json").unlink(missing_ok=True)
                unfinished.publish(cube)
        except TakenOver:
            if not cube.exists():
                raise
    fsync_folder(cube.parent)
    remove_abandoned(run, version)
    if not (run.catalogue(version) / "collection.json").exists():
        write_catalogue(cube, run.catalogue(version), run.weights_folder)
    point_symlink(run.newest_cube, cube)
    return Consolidated(
        cube=cube,
        version=version,
        shards=len(made),
        objects=objects,
        linked=linked,
        purged=_purged(campaign, cube),
    )


def _settled(campaign: Campaign, run: RunDir) -> tuple[Plan, list[Made]]:
    """The plan, and one record for each shard, when no shard has found a scene broken that others have used.

    Where one has, another round of `embed` begins, and its records may be there already (`workers/rounds.py`).

    Raises:
        WorkError: shards have no record, too many scenes are unreadable, or there may be no other round.
    """
    while True:
        plan = read_plan(campaign, run)
        refuse_unusable(campaign, run, plan)
        shards = [shard for group in read_shards(run, plan) for shard in group]
        shards.sort(key=lambda shard: (shard.layer, shard.zone, shard.t, shard.iy, shard.ix))
        made = _chosen(run, plan, shards)
        quarantined = [q for m in made for q in m.record.quarantined]
        refuse_unusable(campaign, run, plan, quarantined)
        broken = (q for m in made if not m.record.refused for q in m.record.quarantined)
        if not (found := new_verdicts(campaign, run, plan, broken)):
            return plan, made
        begin_next_round(run, plan, found)


def _purged(campaign: Campaign, cube: Path) -> date | None:
    days = load_site(campaign).purge_days if campaign.how.executor == "slurm" else None
    if days is None:
        return None
    oldest = min(path.stat().st_mtime for path in cube.rglob("*") if path.is_file())
    return datetime.fromtimestamp(oldest, UTC).date() + timedelta(days=days)


def _fsync_all(folder: Path) -> None:
    """Flush metadata and provenance to the disk; objects, which are read-only, were flushed when they were made."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        elif path.stat().st_mode & 0o200:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def _chosen(run: RunDir, plan: Plan, shards: list[Shard]) -> list[Made]:
    """One record for each shard, in the order of `shards`."""
    best = best_records(run, {shard.recipe for shard in shards})
    if missing := [shard for shard in shards if shard.recipe not in best]:
        # where a file of records was damaged since a table was made of it, nobody would embed its shards again
        if not recorded_recipes(run).isdisjoint(shard.recipe for shard in missing):
            forget_tables(run)
        out = plan.verdicts.scenes
        in_round = f" in round {plan.verdicts.round}, without {named(out)}" if out else ""
        raise WorkError(
            f"{len(missing)} of {len(shards)} shards have no record{in_round}, the first is {missing[0]}; "
            "run `embedcube embed` again, it does only those"
        )
    return [Made(shard=s, part=best[s.recipe][0], record=best[s.recipe][1]) for s in shards]


def _fill(
    campaign: Campaign, run: RunDir, plan: Plan, made: list[Made], unfinished: Unfinished, client: Any, done: Progress
) -> tuple[int, int]:
    """Write metadata, and every object by a Dask task; returns the numbers of objects, and of those that are linked."""
    cube = unfinished.path
    objects = [one for name, layer in plan.layers.items() for one in _objects(layer, name, made, cube)]
    unfinished.keep_only(one.target for one in objects)
    write_template(campaign, plan.layers, cube)
    base = open_base(campaign.how.base).cube if campaign.how.base is not None else None
    noted = unfinished.noted()
    objects = [
        replace(one, noted=noted.get(str(one.target.relative_to(cube)), "")) for one in with_earlier(objects, run, base)
    ]
    unfinished.check_owned()  # zarr makes folders that are gone again, and a worker must not write into those
    futures = client.map(assembled, objects, pure=False)
    linked, failures = 0, []
    for number, brought in enumerate(results(futures, client, campaign, run), start=1):
        if isinstance(brought, Brought):
            if brought.digest and brought.new:
                unfinished.note(str(brought.target.relative_to(cube)), brought.digest)
            linked += brought.linked
            done(number, len(futures))
        else:
            failures.append(brought)
    if failures:
        raise in_words(failures[0], campaign)
    for folder in {one.target.parent for one in objects}:
        fsync_folder(folder)
    return len(objects), linked


def _objects(layer: LayerPlan, name: str, made: list[Made], cube: Path) -> list[Planned]:
    """The objects of a layer, each with its members in their order."""
    kinds = {kind.cube.name: kind for kind in kinds_of(layer)}
    counts = next(iter(kinds.values())).counts
    members: dict[tuple[str, str, tuple[int, int, int]], dict[tuple[int, int, int], list[tuple[int, Path, Stored]]]]
    members = defaultdict(lambda: defaultdict(list))
    for one in made:
        if one.shard.layer != name:
            continue
        number, window = divmod(one.shard.t, layer.chunk_windows)
        pairs = [divmod(i, n) for i, n in zip((number, one.shard.iy, one.shard.ix), counts, strict=True)]
        place, at = (pairs[0][0], pairs[1][0], pairs[2][0]), (pairs[0][1], pairs[1][1], pairs[2][1])
        for stored in one.record.arrays:
            if stored.path:
                members[one.zone, stored.array, place][at].append((window, one.part, stored))
    return [
        Planned(
            target=cube / zone / array / kinds[array].cube.key(*place),
            place=place,
            kind=kinds[array],
            members=tuple(Member(at=at, windows=tuple(windows)) for at, windows in sorted(inside.items())),
        )
        for (zone, array, place), inside in members.items()
    ]
