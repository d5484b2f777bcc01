"""consolidate: parts to cube. Records are counted, objects verified and hard-linked; the cube appears whole."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.parts import best_records, refuse_over_budget, version_of
from embedcube.campaign.plan import Plan, Shard, planned_scenes, read_plan, read_shards
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir, fsync_folder, point_symlink
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import load_site
from embedcube.consolidate.dask import dask_client
from embedcube.consolidate.link import adopted, rechunked
from embedcube.consolidate.provenance import Made, write_provenance
from embedcube.consolidate.rechunk import Series
from embedcube.consolidate.stac import write_catalogue
from embedcube.consolidate.template import cube_specs, part_specs, write_template
from embedcube.errors import StartAgain, WorkError
from embedcube.progress import Progress

_ABANDONED_S = 24 * 3600.0
"""seconds without a change, after which an unfinished cube was left by a killed process"""


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
        WorkError: shards without a record, unequal results of one recipe, a damaged object, or too many
            unreadable scenes.
    """
    # first of all: with some kinds of workers, most processes end within this call
    with dask_client(campaign, run) as client:
        return _consolidate(campaign, run, client, progress)


def _consolidate(campaign: Campaign, run: RunDir, client: Any, progress: Progress) -> Consolidated:
    plan = read_plan(campaign, run)
    shards = [shard for group in read_shards(run, plan) for shard in group]
    shards.sort(key=lambda shard: (shard.layer, shard.zone, shard.t, shard.iy, shard.ix))
    made = _chosen(run, shards)
    scenes = read_inventory(campaign, run)
    refuse_over_budget(campaign, planned_scenes(run, scenes), [q for m in made for q in m.record.quarantined])
    version = version_of(campaign, [m.record for m in made])
    cube = run.cube(version)
    linked = copied = rechunked = 0
    if not cube.exists():
        _remove_abandoned(run)
        with _building(run, version) as building:
            write_template(campaign, plan, building)
            linked, copied, rechunked = _fill(plan, made, building, client, progress)
            for unfinished in building.rglob(f"{TEMPORARY_PREFIX}*"):
                unfinished.unlink()  # left by a worker that was lost
            write_provenance(campaign, plan, scenes, made, building)
            _fsync_all(building)
            try:
                building.rename(cube)
            except OSError:
                if not cube.exists():
                    raise
                shutil.rmtree(building)  # another consolidation was first, with the same bytes
        fsync_folder(cube.parent)
    if not (run.catalogue(version) / "collection.json").exists():
        write_catalogue(cube, run.catalogue(version))
    point_symlink(run.newest_cube, cube)
    return Consolidated(
        cube=cube,
        version=version,
        shards=len(shards),
        linked=linked,
        copied=copied,
        rechunked=rechunked,
        purged=_purged(campaign, made),
    )


def _purged(campaign: Campaign, made: list[Made]) -> date | None:
    days = load_site(campaign).purge_days if campaign.how.executor == "slurm" else None
    if days is None:
        return None
    return datetime.fromisoformat(min(m.record.finished for m in made)).date() + timedelta(days=days)


@contextmanager
def _building(run: RunDir, version: str) -> Iterator[Path]:
    """The folder of a cube under construction: a new one, or the unfinished one of an earlier start of this job.

    The unfinished one is renamed first: processes of the earlier start that still run, on a node believed to be dead,
    then fail. The folder is kept for the next start of the job when the time is up, and removed on any other error.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    building = run.cube_under_construction(version, job)
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        for earlier in run.cubes_under_construction(version, job)[:1]:
            earlier.rename(building)
    building.mkdir(parents=True, exist_ok=True)
    try:
        yield building
    except BaseException as error:
        if not (job and isinstance(error, StartAgain)):
            shutil.rmtree(building, ignore_errors=True)
        raise


def _remove_abandoned(run: RunDir) -> None:
    for folder in run.cubes.glob(f"{TEMPORARY_PREFIX}*"):
        changed = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.is_dir())
        if time.time() - changed > _ABANDONED_S:
            shutil.rmtree(folder)


def _fsync_all(folder: Path) -> None:
    """Flush metadata and provenance to the disk; linked objects were flushed when they were written."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        elif path.stat().st_nlink == 1:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def _chosen(run: RunDir, shards: list[Shard]) -> list[Made]:
    """One record for each shard, in the order of `shards`."""
    best = best_records(run, {shard.recipe for shard in shards})
    missing = [shard for shard in shards if shard.recipe not in best]
    if missing:
        raise WorkError(
            f"{len(missing)} of {len(shards)} shards have no record, the first is {missing[0]}; "
            "run `embedcube embed` again, it does only those"
        )
    return [Made(shard=s, part=best[s.recipe][0], record=best[s.recipe][1]) for s in shards]


def _fill(plan: Plan, made: list[Made], building: Path, client: Any, progress: Progress) -> tuple[int, int, int]:
    """Bring every shard into the cube by Dask tasks; returns the numbers of objects linked, copied and rechunked."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = []
    for name, planned in plan.layers.items():
        of_layer = [m for m in made if m.shard.layer == name]
        if planned.chunk_windows == 1:
            columns = [(m.part, m.record.objects, m.targets(building)) for m in of_layer]
            futures += client.map(adopted, *zip(*columns, strict=True), pure=False)
        else:
            series = series_of(of_layer, planned.chunk_windows, building)
            specs = (list(repeat(specs, len(series))) for specs in (part_specs(planned), cube_specs(planned)))
            futures += client.map(rechunked, series, *specs, pure=False)
    counts, failures = [0, 0, 0], []
    try:
        for done, (_, result) in enumerate(as_completed(futures, with_results=True), start=1):
            if isinstance(result, WorkError):
                failures.append(result)
                continue
            counts = [total + count for total, count in zip(counts, result, strict=True)]
            progress(done, len(futures))
    except KilledWorker as error:
        raise StartAgain(f"workers were lost too often: {error}") from None
    if failures:
        raise failures[0]
    for folder in {target.parent for m in made for target in m.targets(building)}:
        fsync_folder(folder)
    return counts[0], counts[1], counts[2]


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
