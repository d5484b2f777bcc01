"""verify: compare the cube with its records and its plan. Each check yields findings; no finding means a good cube.

From the cube alone: structure, coordinates, every object against its recorded digest, and the rules between arrays.
From the run folder: the plan's shards, recipes and weights, the error budget, and some shards embedded again.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.accounts import UNREADABLE
from embedcube.consolidate.against_plan import against_plan
from embedcube.consolidate.derived import NO_FILE, derived, foreign
from embedcube.consolidate.findings import Finding
from embedcube.consolidate.recomputed import Drawn, recomputed
from embedcube.consolidate.seal import check_seal, checked_seal, seal_of
from embedcube.consolidate.soundness import FIGURES, Soundness, examine, keep_figures
from embedcube.cube.arrays import FILES, file_names, is_object
from embedcube.cube.encoding import (
    NOT_PROCESSED,
    VALID,
    VALID_INCOMPLETE,
)
from embedcube.cube.listed import is_list
from embedcube.cube.part import PULLED
from embedcube.cube.reader import Cube
from embedcube.errors import WorkError
from embedcube.grid import Grid, PixelArea, utm_zone_in
from embedcube.progress import Progress

_BREAKAGE = (*UNREADABLE, WorkError, ArithmeticError, MemoryError)
"""errors that readers of a store with damaged metadata raise"""


_BYTES, _DAMAGED = "bytes", "damaged"
"""The check of the bytes of objects; what it says of an object that cannot be read."""

_KEEP_BYTES = 1 << 26
"""of each array: decoded chunks that are kept, as several checks look at the same ones"""


def verify_cube(path: Path, progress: Progress, report: Path | None = None, seal: str | None = None) -> list[Finding]:
    """Findings of all checks that need the cube alone; statistics come last, and are written into `report` if given.

    `seal` is the digest that was kept of this cube (`seal.py`). The STAC beside the cube has one, too.
    """
    seal = checked_seal(seal)
    others = list(foreign(path.resolve()))
    if devices := [one for one in others if one.found == NO_FILE]:
        return devices  # to read one may wait for ever
    # what the root repeats of the nodes may differ from what they say
    cube = Cube(path, node_by_node=True, keep_bytes=_KEEP_BYTES)
    findings: list[Finding] = []
    examined: dict[str, Soundness] = {}
    try:
        findings += check_seal(path, seal)
        findings += others
        findings += _files(cube)
        for zone in cube.zones:
            findings += _structure(cube, zone)
        findings += _part(cube)
        places = cube.held
        of_shards: list[Finding] = []
        for done, ((zone, t, iy, ix), row) in enumerate(places.items(), start=1):
            of_shards += _shard(cube, zone, (t, iy, ix), row)
            progress(done, len(places))
        findings += _once_an_object(of_shards, {one.place for one in findings if one.check == _BYTES})
        if not wrong(_but_seals(findings)):
            findings += derived(cube)
        if not wrong(_but_seals(findings)):
            here = {zone.partition("/")[0] for zone, *_ in places}  # of a part of a cube, some layers
            examined = {layer: examine(cube, layer) for layer in cube.layers if layer in here}
            findings += [finding for one in examined.values() for finding in one.findings()]
    except _BREAKAGE as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        findings.append(Finding(check="readable", place=str(path), found=found, expected="a store that can be read"))
    # not above: a full disk under the report is no damage of the cube
    if report is not None and examined:
        keep_figures(Cube(path), examined, report)
    return findings


def verify_run(
    campaign: Campaign, run: RunDir, progress: Progress, *, recompute: int, seed: int = 0, seal: str | None = None
) -> list[Finding]:
    """Findings of all checks, with the run folder.

    `recompute` shards of each layer and zone are embedded again, drawn at random by `seed`.
    Writes the statistics (`soundness.py`), and `report/verify.json`: the findings, and for each layer that is compiled
    or of reduced precision the least cosine between a vector and the same vector in float32, not compiled.
    """
    least_cosine: dict[str, float] = {}
    path = run.newest_cube
    run.report.mkdir(exist_ok=True)
    (run.report / FIGURES).unlink(missing_ok=True)
    findings = verify_cube(path, progress, run.report, seal)
    if not wrong(_but_seals(findings)):
        findings += against_plan(campaign, run, Cube(path))
    if not wrong(findings):
        findings += recomputed(campaign, run, Cube(path), Drawn(count=recompute, seed=seed), least_cosine)
    report = {
        "cube": path.resolve().name,
        "seal": seal_of(path),
        "recomputed": {"shards": recompute, "seed": seed},
        "findings": [asdict(finding) for finding in wrong(findings)],
        "remarks": [asdict(finding) for finding in findings if finding.remark],
        "least_cosine": least_cosine,
    }
    write_atomically(run.report / "verify.json", json.dumps(report, indent=1).encode())
    return findings


def _but_seals(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, but for seals: a wrong one says that something has changed, and what is still to be found."""
    return [finding for finding in findings if finding.check != "seal"]


def wrong(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are no remarks."""
    return [finding for finding in findings if not finding.remark]


def _structure(cube: Cube, zone: str) -> Iterator[Finding]:
    """Check that arrays agree in shape, coordinates with the transform, and that windows are in order."""
    group = cube.group(zone)
    shape = group["embedding"].shape[:-1]
    for name in ("status", "n_obs", *(("scale",) if "scale" in group else ())):
        if group[name].shape != shape:
            yield Finding(check="shape", place=f"{zone}/{name}", found=str(group[name].shape), expected=str(shape))
    yield from _samples(cube, zone, shape) if is_list(zone) else _centres(group, zone, shape)
    bounds = group["time_bnds"][...]
    if not (bounds[:, 1] > bounds[:, 0]).all() or not (np.diff(bounds[:, 0]) > 0).all():
        yield Finding(check="windows", place=f"{zone}/time_bnds", found="out of order", expected="rising, not empty")
    if not np.array_equal(group["time"][...], bounds[:, 0]):
        yield Finding(check="windows", place=f"{zone}/time", found="other values", expected="starts of time_bnds")


def _samples(cube: Cube, zone: str, shape: tuple[int, ...]) -> Iterator[Finding]:
    """Check that each sample has an id of its own."""
    ids = cube.samples(zone).ids
    if len(ids) != shape[1] or len(set(ids)) < len(ids):
        found = f"{len(ids)} ids, {len(set(ids))} of them distinct"
        yield Finding(check="samples", place=f"{zone}/sample_id", found=found, expected=f"{shape[1]} distinct ids")


def _centres(group: Any, zone: str, shape: tuple[int, ...]) -> Iterator[Finding]:
    """Check that coordinates agree with the transform."""
    a, _, c, _, e, f = group.attrs["spatial:transform"]
    for name, size, start, step in (("y", shape[1], f, e), ("x", shape[2], c, a)):
        expected = start + (np.arange(size) + 0.5) * step
        found = group[name][...]
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-6 * abs(step)):
            yield Finding(check="coordinates", place=f"{zone}/{name}", found="other values", expected="cell centres")


def _shard(cube: Cube, zone: str, place: tuple[int, int, int], row: int) -> Iterator[Finding]:
    """Check the bytes of a shard's arrays against its record; then the rules between their values."""
    damaged = False
    for stored in cube.provenance.arrays_of(row) if cube.as_recorded(zone) else ():
        name = cube.object_name(zone, stored["array"], place)
        try:
            data = cube.objects(zone, stored["array"]).member(place) or b""
        except WorkError:
            damaged = True
            yield Finding(check=_BYTES, place=name, found=_DAMAGED, expected="an object that can be read")
            continue
        if (found := hashlib.sha256(data).hexdigest()) != stored["sha256"]:
            damaged = True
            words = f"{len(data)} bytes, SHA-256 {found[:12]}" if data else "nothing of it"
            expected = f"of shard {place} {stored['size']} bytes, SHA-256 {stored['sha256'][:12]}"
            yield Finding(check=_BYTES, place=name, found=words, expected=expected)
    if not damaged:
        yield from _rules(cube, zone, place, row)


def _once_an_object(of_shards: Iterable[Finding], named: set[str]) -> Iterator[Finding]:
    """The findings of shards, but those in the bytes of one object once, with the number of its shards.

    `named` are objects of which something is said already: that they cannot be read is not said again.
    """
    of_objects: dict[str, list[Finding]] = defaultdict(list)
    for one in of_shards:
        if one.check != _BYTES:
            yield one
        elif one.found != _DAMAGED or one.place not in named:
            of_objects[one.place].append(one)
    for first, *others in of_objects.values():
        words = f"{first.found}, the first of {1 + len(others)} such shards" if others else first.found
        yield replace(first, found=words)


def _rules(cube: Cube, zone: str, place: tuple[int, int, int], row: int) -> Iterator[Finding]:
    """Check the rules between status, scale, n_obs, the vectors and the provenance of a shard."""
    t, iy, ix = place
    side = cube.shard_cells(zone)
    window = (t, slice(iy * side, (iy + 1) * side), slice(ix * side, (ix + 1) * side))
    status, n_obs, stored = (cube.stored(zone, name, *window) for name in ("status", "n_obs", "embedding"))
    valid = (status == VALID) | (status == VALID_INCOMPLETE)
    where = f"{zone} window {t} shard ({iy}, {ix})"

    def breach(check: str, wrong: Any, expected: str) -> Iterator[Finding]:
        if count := int(np.count_nonzero(wrong)):
            yield Finding(check=check, place=where, found=f"{count} cells otherwise", expected=expected)

    yield from breach(
        "status",
        (status > VALID_INCOMPLETE) | ((status != NOT_PROCESSED) != _own_cells(cube, zone, window)),
        "every cell of a shard processed that is the grid's own",
    )
    yield from breach("n_obs", valid & (n_obs == 0), "an acquisition behind every vector")
    yield from breach("n_obs", (status == NOT_PROCESSED) & (n_obs > 0), "no acquisition where nothing was processed")
    contributions = np.unpackbits(cube.provenance.contributions(row), axis=1, count=side * side).astype(bool)
    yield from breach(
        "provenance",
        _acquisitions(cube, zone, row, contributions).reshape(side, side) != n_obs,
        "n_obs = acquisitions that contributed to the cell",
    )
    _, quarantined = cube.provenance.links(row)
    if not (quarantined.any() or _may_lack_archives(cube, zone)):
        yield from breach("status", status == VALID_INCOMPLETE, "no incomplete cell where every scene was read")
    if cube.has_scale(zone):
        scale = cube.stored(zone, "scale", *window)
        largest = np.abs(stored.astype(np.int16)).max(axis=-1)
        yield from breach("scale", valid != np.isfinite(scale), "a scale exactly where there is a vector")
        yield from breach("scale", valid & ~(scale >= 0), "scales of at least 0")
        yield from breach("encoding", valid & (scale > 0) & (largest != 127), "a largest number of 127 in each vector")
        yield from breach("missing", ~valid & (largest != 0), "the fill value where there is no vector")
    else:
        finite = np.isfinite(stored).all(axis=-1)
        yield from breach("missing", valid != finite, "numbers exactly where there is a vector")


def _may_lack_archives(cube: Cube, zone: str) -> bool:
    """Whether an archive of the layer may show nothing of a cell that has a vector.

    So it is with fields, of which a step or a whole frame may be missing, and with several archives.
    """
    layer, _, _ = zone.partition("/")
    archives = cube.what["layers"][layer]["archives"]
    if len(archives) > 1:
        return True
    return not all(cube.what["archives"][name]["source"].startswith("sentinel") for name in archives)


def _own_cells(cube: Cube, zone: str, window: Any) -> Any:
    """Which cells belong to the grid: those that touch its UTM zone, and on a grid of degrees each place once."""
    group, (layer, name) = cube.group(zone), zone.split("/")
    if is_list(zone):
        rows, cols = (np.arange(part.start, part.stop) for part in window[1:])
        numbers = cube.array(zone, "status").sample(*np.meshgrid(rows, cols, indexing="ij"))
        return numbers < len(cube.samples(zone).ids)
    what = cube.what["layers"][layer]
    asked = what["grid"] or cube.what["grid"]
    pixel, (origin_x, origin_y), cell_px = asked["pixel"], asked["origin"], what["cell_px"]
    grid = Grid(
        crs=group.attrs["proj:wkt2"], pixel=pixel, origin_x=origin_x, origin_y=origin_y, utm_zone=utm_zone_in(name)
    )
    _, _, left, _, _, top = group.attrs["spatial:transform"]
    rows, cols = window[1:]
    area = PixelArea(
        row=round((origin_y - top) / pixel) + rows.start * cell_px,
        col=round((left - origin_x) / pixel) + cols.start * cell_px,
        rows=(rows.stop - rows.start) * cell_px,
        cols=(cols.stop - cols.start) * cell_px,
    )
    return grid.owns(area, cell_px)


def _acquisitions(cube: Cube, zone: str, row: int, contributions: Any) -> Any:
    rows, _ = cube.provenance.links(row)
    counted = cube.provenance.attributes["counted"][zone.split("/", maxsplit=1)[0]]
    scenes = [cube.provenance.scene(scene) for scene in rows.tolist()]
    acquisitions = [scene["acquisition"] if scene["archive"] in counted else None for scene in scenes]
    count = np.zeros(contributions.shape[1], dtype=np.int64)
    for acquisition in set(acquisitions) - {None}:
        members = [link for link, name in enumerate(acquisitions) if name == acquisition]
        count += contributions[members].any(axis=0)
    return count


def _part(cube: Cube) -> Iterator[Finding]:
    """Say that a cube is a part of one: what was not copied is not looked at."""
    if cube.part is not None:
        yield Finding(
            check="part",
            place=cube.version,
            found=f"{len(cube.part.objects)} of {cube.part.of} objects, pulled for {'; '.join(cube.part.asked)}",
            expected="a whole cube; the rest was not looked at",
            remark=True,
        )


def _files(cube: Cube) -> Iterator[Finding]:
    """Check every file of the cube against its digest, except objects, which are checked with their records.

    Objects that were not copied may be absent.
    """
    sealed = json.loads(cube.provenance.array(FILES).tobytes())
    if cube.part is not None:
        copied = cube.part.objects
        sealed = {name: one for name, one in sealed.items() if not is_object(name) or name in copied}
    names = file_names(cube.path) - {PULLED}
    for name in sorted({name for name in names if not is_object(name)} | sealed.keys()):
        yield from _file(cube, name, sealed.get(name))
    # after the metadata, which say how objects are made: they may be damaged
    objects = _objects(cube)
    for name, members in objects.items():
        yield from _members(cube, name, members)
    for name in sorted(names - objects.keys() - sealed.keys()):
        if is_object(name):
            yield from _file(cube, name, None)


def _file(cube: Cube, name: str, digest: str | None) -> Iterator[Finding]:
    """Check a file against its SHA-256; None where there should be none."""
    path = cube.path / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else "no file"
    expected = "no such file" if digest is None else digest[:12]
    if found != expected:
        yield Finding(check="files", place=name, found=found, expected=expected)


def _objects(cube: Cube) -> dict[str, set[tuple[int, ...]]]:
    """For each object that records speak of, by its name, the places of its members."""
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for (zone, t, iy, ix), row in cube.provenance.places.items():
        if cube.as_recorded(zone):
            for stored in cube.provenance.arrays_of(row):
                if stored["size"]:
                    key, at = cube.objects(zone, stored["array"]).locate((t, iy, ix))
                    found[f"{zone}/{stored['array']}/{key}"].add(at)
    return found


def _members(cube: Cube, name: str, expected: set[tuple[int, ...]]) -> Iterator[Finding]:
    """Check that an object has the members that records speak of, and no byte besides; absent objects come later."""
    path = cube.path / name
    if not path.is_file():
        return
    zone, array, key = name.rsplit("/", 2)
    try:
        found = cube.objects(zone, array).members(key, path.stat().st_size)
    except WorkError as error:
        words = f"the {len(expected)} shards of its records alone"
        yield Finding(check=_BYTES, place=name, found=str(error), expected=words)
        return
    if found != expected:
        yield Finding(
            check=_BYTES, place=name, found=f"{len(found)} shards", expected=f"the {len(expected)} of its records"
        )
