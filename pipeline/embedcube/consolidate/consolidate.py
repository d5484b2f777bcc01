"""consolidate: parts to cube. Records are counted, objects verified and hard-linked; the cube appears whole."""

import os
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.parts import best_records, version_of
from embedcube.campaign.plan import Plan, Shard, read_plan, read_shards
from embedcube.campaign.run_folder import RunDir, fsync_folder, point_symlink
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import load_site
from embedcube.consolidate.dask import dask_client
from embedcube.consolidate.endings import in_words, results
from embedcube.consolidate.link import Brought, adopted, rechunked
from embedcube.consolidate.provenance import Made, fitted_weights, write_provenance
from embedcube.consolidate.rechunk import Series
from embedcube.consolidate.stac import write_catalogue
from embedcube.consolidate.template import cube_specs, part_specs, write_template
from embedcube.consolidate.unfinished import TakenOver, Unfinished, building, remove_abandoned
from embedcube.cube.arrays import zone_dimensions
from embedcube.errors import WorkError
from embedcube.progress import Progress
from embedcube.workers.rounds import begin_next_round, named, new_verdicts, refuse_unusable


@dataclass(frozen=True, kw_only=True)
class Consolidated:
    """The cube, and what was done to make it."""

    cube: Path
    version: str
    shards: int
    linked: int
    """number of objects that were hard-linked"""
    copied: int
    """number of objects that could not be linked (another file set): the disk holds them twice"""
    rechunked: int
    """number of objects that were made of several windows"""
    purged: date | None
    """day on which the site begins to delete files of the cube: links are as old as the parts"""


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
    version = version_of(campaign, [m.record for m in made])
    cube = run.cube(version)
    counts = {"linked": 0, "copied": 0, "rechunked": 0}
    if not cube.exists():
        try:
            with building(run, version) as unfinished:
                counts = _fill(campaign, run, plan, made, unfinished, client, progress)
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
        linked=counts["linked"],
        copied=counts["copied"],
        rechunked=counts["rechunked"],
        purged=_purged(campaign, made),
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


def _purged(campaign: Campaign, made: list[Made]) -> date | None:
    days = load_site(campaign).purge_days if campaign.how.executor == "slurm" else None
    if days is None:
        return None
    return datetime.fromisoformat(min(m.record.finished for m in made)).date() + timedelta(days=days)


def _fsync_all(folder: Path) -> None:
    """Flush metadata and provenance to the disk; linked objects were flushed when they were written."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        elif path.stat().st_nlink == 1:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def _chosen(run: RunDir, plan: Plan, shards: list[Shard]) -> list[Made]:
    """One record for each shard, in the order of `shards`."""
    best = best_records(run, {shard.recipe for shard in shards})
    if missing := [shard for shard in shards if shard.recipe not in best]:
        out = plan.verdicts.scenes
        in_round = f" in round {plan.verdicts.round}, without {named(out)}" if out else ""
        raise WorkError(
            f"{len(missing)} of {len(shards)} shards have no record{in_round}, the first is {missing[0]}; "
            "run `embedcube embed` again, it does only those"
        )
    axes = {name: len(zone_dimensions(layer.layout)) for name, layer in plan.layers.items()}
    return [Made(shard=s, part=best[s.recipe][0], record=best[s.recipe][1], axes=axes[s.layer]) for s in shards]


def _fill(
    campaign: Campaign, run: RunDir, plan: Plan, made: list[Made], unfinished: Unfinished, client: Any, done: Progress
) -> dict[str, int]:
    """Write metadata, and bring every object into the cube by Dask tasks; returns their numbers by how it was done."""
    cube = unfinished.path
    series = {
        name: series_of([m for m in made if m.shard.layer == name], layer.chunk_windows, cube)
        for name, layer in plan.layers.items()
        if layer.chunk_windows > 1
    }
    links = [m for m in made if m.shard.layer not in series]
    known = unfinished.rechunked()
    unfinished.keep_only(
        [target for m in links for target in m.targets(cube)]
        + [path for name, group in series.items() for one in group for path in one.paths(cube_specs(plan.layers[name]))]
    )
    write_template(campaign, plan.layers, cube)
    unfinished.check_owned()  # zarr makes folders that are gone again, and a worker must not write into those
    futures = []
    if links:
        columns = [(m.part, m.record.objects, m.targets(cube)) for m in links]
        futures += client.map(adopted, *zip(*columns, strict=True), pure=False)
    for name, group in series.items():
        specs = (list(repeat(s, len(group))) for s in (part_specs(plan.layers[name]), cube_specs(plan.layers[name])))
        futures += client.map(rechunked, group, [known.get(one.name, {}) for one in group], *specs, pure=False)
    counts, failures = dict.fromkeys(("linked", "copied", "rechunked"), 0), []
    for number, brought in enumerate(results(futures, client, campaign, run), start=1):
        if not isinstance(brought, Brought):
            failures.append(brought)
            continue
        if brought.series:
            unfinished.note_rechunked(brought.series, brought.rechunked)
        counts["linked"] += brought.linked
        counts["copied"] += brought.copied
        counts["rechunked"] += sum(map(bool, brought.rechunked.values()))
        done(number, len(futures))
    if failures:
        raise in_words(failures[0], campaign)
    for folder in {target.parent for m in made for target in m.targets(cube)}:
        fsync_folder(folder)
    return counts


def series_of(made: list[Made], windows: int, building: Path) -> list[Series]:
    """For each place, and each chunk of windows, the shards that become one object."""
    members: dict[tuple[str, int, int, int], list[Made]] = defaultdict(list)
    for one in made:
        zone, t, iy, ix = one.shard.place
        members[zone, t // windows, iy, ix].append(one)
    return [
        Series(
            members=tuple((m.shard.t % windows, m.part, m.record.objects) for m in group),
            target=building / zone,
            place=place,
        )
        for (zone, *place3), group in members.items()
        for place in [(place3[0], place3[1], place3[2])]
    ]
