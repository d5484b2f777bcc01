"""verify: compare the cube with its records and its plan. Each check yields findings; no finding means a good cube.

From the cube alone: structure, coordinates, every object against its recorded digest, and the rules between arrays.
From the run folder: the plan's shards, recipes and weights, the error budget, and some shards embedded again.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.against_plan import against_plan
from embedcube.consolidate.findings import Finding
from embedcube.consolidate.soundness import FIGURES, sound
from embedcube.cube.arrays import FILES, file_names, object_key
from embedcube.cube.encoding import (
    LARGEST_NUMBER,
    LEAST_COSINE,
    NOT_PROCESSED,
    VALID,
    VALID_INCOMPLETE,
    decode,
    int8_bound,
)
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.grid import Grid, PixelArea, utm_zone_in
from embedcube.progress import Progress

if TYPE_CHECKING:
    import torch

    from embedcube.backbones.base import Weights
    from embedcube.campaign.plan import LayerPlan, Shard
    from embedcube.kernel.embed import Cells, EncodedShard
    from embedcube.kernel.layer import LayerContext


log = logging.getLogger(__name__)

_BREAKAGE = (
    zarr.errors.BaseZarrError, RequestError, KeyError, ValueError, TypeError, IndexError, OSError, RuntimeError,
)  # fmt: skip
"""errors that readers of a store with damaged metadata raise"""


def verify_cube(path: Path, progress: Progress, report: Path | None = None) -> list[Finding]:
    """Findings of all checks that need the cube alone; statistics come last, and are written into `report` if given."""
    cube = Cube(path)
    findings: list[Finding] = []
    try:
        findings += _files(cube)
        for zone in cube.zones:
            findings += _structure(cube, zone)
        places = cube.provenance.places
        for done, ((zone, t, iy, ix), row) in enumerate(places.items(), start=1):
            findings += _shard(cube, zone, (t, iy, ix), row)
            progress(done, len(places))
        if not findings:
            findings += sound(cube, report)
    except _BREAKAGE as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        findings.append(Finding(check="readable", place=str(path), found=found, expected="a store that can be read"))
    return findings


def verify_run(campaign: Campaign, run: RunDir, progress: Progress, *, recompute: int) -> list[Finding]:
    """Findings of all checks, with the run folder; `recompute` shards of each layer are embedded again.

    Writes the statistics (`soundness.py`), and `report/verify.json`: the findings, and for each layer that is compiled
    or of reduced precision the least cosine between a vector and the same vector in float32, not compiled.
    """
    least_cosine: dict[str, float] = {}
    path = run.newest_cube
    run.report.mkdir(exist_ok=True)
    (run.report / FIGURES).unlink(missing_ok=True)
    findings = verify_cube(path, progress, run.report)
    if not findings:
        findings += against_plan(campaign, run, Cube(path))
    if not findings:
        findings += _recomputed(campaign, run, Cube(path), recompute, least_cosine)
    report = {
        "cube": path.resolve().name,
        "findings": [asdict(finding) for finding in findings],
        "least_cosine": least_cosine,
    }
    write_atomically(run.report / "verify.json", json.dumps(report, indent=1).encode())
    return findings


def _structure(cube: Cube, zone: str) -> Iterator[Finding]:
    """Check that arrays agree in shape, coordinates with the transform, and that windows are in order."""
    group = cube.group(zone)
    shape = group["embedding"].shape[:3]
    for name in ("status", "n_obs", *(("scale",) if "scale" in group else ())):
        if group[name].shape != shape:
            yield Finding(check="shape", place=f"{zone}/{name}", found=str(group[name].shape), expected=str(shape))
    a, _, c, _, e, f = group.attrs["spatial:transform"]
    for name, size, start, step in (("y", shape[1], f, e), ("x", shape[2], c, a)):
        expected = start + (np.arange(size) + 0.5) * step
        found = group[name][...]
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-6 * abs(step)):
            yield Finding(check="coordinates", place=f"{zone}/{name}", found="other values", expected="cell centres")
    bounds = group["time_bnds"][...]
    if not (bounds[:, 1] > bounds[:, 0]).all() or not (np.diff(bounds[:, 0]) > 0).all():
        yield Finding(check="windows", place=f"{zone}/time_bnds", found="out of order", expected="rising, not empty")
    if not np.array_equal(group["time"][...], bounds[:, 0]):
        yield Finding(check="windows", place=f"{zone}/time", found="other values", expected="starts of time_bnds")


def _shard(cube: Cube, zone: str, place: tuple[int, int, int], row: int) -> Iterator[Finding]:
    """Check the bytes of a shard's objects against its record; then the rules between their values."""
    damaged = False
    for stored in cube.provenance.record(row)["objects"] if cube.adopted(zone) else ():
        path = _object(cube, zone, stored["array"], place)
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != stored["sha256"]:
            damaged = True
            found = f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}" if data else "no object"
            expected = f"{stored['size']} bytes, SHA-256 {stored['sha256'][:12]}"
            yield Finding(check="bytes", place=str(path.relative_to(cube.path)), found=found, expected=expected)
    if not damaged:
        yield from _rules(cube, zone, place, row)


def _object(cube: Cube, zone: str, array: str, place: tuple[int, int, int]) -> Path:
    return cube.path / zone / array / object_key(array, place)


def _rules(cube: Cube, zone: str, place: tuple[int, int, int], row: int) -> Iterator[Finding]:
    """Check the rules between status, scale, n_obs, the vectors and the provenance of a shard."""
    t, iy, ix = place
    side = cube.array(zone, "embedding").shards[1]
    window = (t, slice(iy * side, (iy + 1) * side), slice(ix * side, (ix + 1) * side))
    status, n_obs, stored = (cube.array(zone, name)[window] for name in ("status", "n_obs", "embedding"))
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
    if not (quarantined.any() or _may_lack_fields(cube, zone)):
        yield from breach("status", status == VALID_INCOMPLETE, "no incomplete cell where every scene was read")
    if cube.has_scale(zone):
        scale = cube.array(zone, "scale")[window]
        largest = np.abs(stored.astype(np.int16)).max(axis=-1)
        yield from breach("scale", valid != np.isfinite(scale), "a scale exactly where there is a vector")
        yield from breach("scale", valid & ~(scale >= 0), "scales of at least 0")
        yield from breach("encoding", valid & (scale > 0) & (largest != 127), "a largest number of 127 in each vector")
        yield from breach("missing", ~valid & (largest != 0), "the fill value where there is no vector")
    else:
        finite = np.isfinite(stored).all(axis=-1)
        yield from breach("missing", valid != finite, "numbers exactly where there is a vector")


def _may_lack_fields(cube: Cube, zone: str) -> bool:
    """Whether the layer has an archive of fields, of which a step or a whole frame may be missing."""
    layer, _, _ = zone.partition("/")
    archives = cube.what["layers"][layer]["archives"]
    return not all(cube.what["archives"][name]["source"].startswith("sentinel") for name in archives)


def _own_cells(cube: Cube, zone: str, window: Any) -> Any:
    """Which cells belong to the grid: those that touch its UTM zone, and on a grid of degrees each place once."""
    group, (layer, name) = cube.group(zone), zone.split("/")
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


def _files(cube: Cube) -> Iterator[Finding]:
    """Check every file of the cube against its digest, except objects, which are checked with their records."""
    sealed = json.loads(cube.provenance.array(FILES).tobytes())
    objects = {
        f"{zone}/{stored['array']}/{object_key(stored['array'], (t, iy, ix))}"
        for (zone, t, iy, ix), row in cube.provenance.places.items()
        if cube.adopted(zone)
        for stored in cube.provenance.record(row)["objects"]
        if stored["path"]
    }
    for name in sorted(file_names(cube.path) - objects | sealed.keys()):
        path = cube.path / name
        found = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else "no file"
        expected = sealed[name][:12] if name in sealed else "no such file"
        if found != expected:
            yield Finding(check="files", place=name, found=found, expected=expected)


def _recomputed(
    campaign: Campaign, run: RunDir, cube: Cube, count: int, least_cosine: dict[str, float]
) -> Iterator[Finding]:
    """Embed `count` shards of each layer again, in this process; `least_cosine` is filled in (see `verify_run`)."""
    if not count:
        return
    import torch

    from embedcube.campaign.plan import read_plan, read_shards
    from embedcube.kernel.device import exact_arithmetic
    from embedcube.kernel.embed import run_shard
    from embedcube.kernel.versions import versions_here
    from embedcube.sources.reader import RasterReader

    plan = read_plan(campaign, run)
    device = torch.device(campaign.how.device)
    versions = versions_here(plan, device)
    if versions != plan.versions:
        log.warning(
            "no shard is embedded again: this machine has %s, the plan was made for %s", versions, plan.versions
        )
        return
    exact_arithmetic(campaign.how.threads_per_rank)
    scenes = read_inventory(campaign, run, plan.inventory)
    shards = [s for group in read_shards(run, plan) for s in group]
    reader = RasterReader(campaign.how.threads_per_rank, attempts=campaign.how.read_attempts)
    try:
        for name in campaign.layers:
            layer = _layer_again(campaign, run, name, plan.layers[name], device)
            for shard, record in _most_embedded([s for s in shards if s.layer == name], cube, count):
                own, out = [scenes[i] for i in shard.scenes], plan.verdicts.reasons(shard.scenes)
                again = run_shard(shard, own, layer.context, reader, out)
                yield from _same_bytes(shard, again.objects, record)
                yield from _compared(layer, again, least_cosine)
            if least_cosine.get(name, 1.0) < LEAST_COSINE:
                kind = layer.context.precision + (" compiled" if campaign.layers[name].compile else "")
                found = f"a cosine of {least_cosine[name]:.5f} between {kind} and float32"
                yield Finding(check="precision", place=name, found=found, expected=f"at least {LEAST_COSINE}")
    finally:
        reader.close()


@dataclass(frozen=True, kw_only=True)
class _LayerAgain:
    """What a layer's shards are embedded with."""

    context: "LayerContext"
    """that of the ranks"""
    exact: "LayerContext | None"
    """that in float32, not compiled; None where it is that of the ranks"""


def _layer_again(
    campaign: Campaign, run: RunDir, name: str, planned: "LayerPlan", device: "torch.device"
) -> _LayerAgain:
    from embedcube.backbones.weights import read_weights

    weights = read_weights(campaign, run, name)[0]
    context = _planned_context(campaign, run, name, planned, weights, device)
    return _LayerAgain(context=context, exact=_exact(campaign, name, context, weights))


def _compared(layer: _LayerAgain, again: "EncodedShard", least_cosine: dict[str, float]) -> Iterator[Finding]:
    """Check a shard's stored numbers against its vectors before they are quantised, and note the least cosine."""
    from embedcube.kernel.embed import embed_stage

    # the same pixels again: the vectors before they are quantised, and those of the exact kernel
    given = embed_stage(replace(again.read, context=replace(layer.context, encoding="float32"))).cells
    yield from _bound(again.read.shard, again.cells, given)
    if layer.exact is not None:
        full = embed_stage(replace(again.read, context=layer.exact)).cells
        name = again.read.shard.layer
        least_cosine[name] = min(_least_cosine(given, full), least_cosine.get(name, 1.0))


def _most_embedded(shards: "list[Shard]", cube: Cube, count: int) -> "list[tuple[Shard, dict[str, Any]]]":
    """The `count` shards with most embedded chips, of a sample of some 64, with their records."""
    places = cube.provenance.places
    in_cube = [shard for shard in shards if shard.place in places]
    sample = in_cube[:: max(1, len(in_cube) // 64)]
    records = [(shard, cube.provenance.record(places[shard.place])) for shard in sample]
    return sorted(records, key=lambda one: one[1]["counts"]["chips"], reverse=True)[:count]


def _planned_context(
    campaign: Campaign, run: RunDir, name: str, planned: "LayerPlan", weights: "Weights", device: "torch.device"
) -> "LayerContext":
    """The context that the ranks had; loading a program runs it, so its bytes are compared with the plan first."""
    from embedcube.kernel.load import load_context

    program = b""
    if planned.program:
        path = run.program(name, planned.compiled_for, planned.program)
        program = path.read_bytes()
        if (digest := hashlib.sha256(program).hexdigest()) != planned.program:
            raise WorkError(
                f"{path}: its SHA-256 is {digest}, the plan was made with {planned.program}: restore it, or plan again"
            )
    return load_context(campaign, name, list(planned.zones), weights, device, planned.batch, program)


def _exact(campaign: Campaign, name: str, context: "LayerContext", weights: "Weights") -> "LayerContext | None":
    """The context in float32, not compiled, to compare with; None where the layer's own is that already."""
    from embedcube.backbones.base import make_backbone

    compiled = campaign.layers[name].compile
    if context.precision == "float32" and not compiled:
        return None
    module = make_backbone(campaign, name).module(weights).to(context.device) if compiled else context.module
    return replace(context, module=module, encoding="float32", precision="float32")


def _same_bytes(shard: "Shard", objects: Mapping[str, bytes | None], record: dict[str, Any]) -> Iterator[Finding]:
    """The objects made again are the recorded ones."""
    for array, data in objects.items():
        digest = hashlib.sha256(data or b"").hexdigest()
        recorded = next(stored["sha256"] for stored in record["objects"] if stored["array"] == array)
        if digest != recorded:
            yield Finding(check="same bytes", place=f"{shard} {array}", found=digest[:12], expected=recorded[:12])


def _least_cosine(cells: "Cells", others: "Cells") -> float:
    """The least cosine between two vectors of a cell.

    1 where the shard has no vector; -1 where a cell has a finite vector in `others` only.
    """
    x, y = (one.arrays["embedding"].astype(np.float64) for one in (cells, others))
    if (np.isfinite(y).all(axis=-1) & ~np.isfinite(x).all(axis=-1)).any():
        return -1.0
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    kept = np.isfinite(lengths) & (lengths > 0)
    return float((np.einsum("nd,nd->n", x[kept], y[kept]) / lengths[kept]).min(initial=1.0))


def _bound(shard: "Shard", stored: "Cells", exact: "Cells") -> Iterator[Finding]:
    """Numbers are stored where the encoding can hold them, and differ from the backbone's by no more than is stated."""
    x, q = exact.arrays["embedding"], stored.arrays["embedding"]
    encoding = q.dtype.name
    # not a number where there is no vector
    held = np.abs(x).max(axis=-1) <= LARGEST_NUMBER[encoding]
    kept = np.isfinite(stored.arrays["scale"] if encoding == "int8" else q).reshape(*held.shape, -1).all(axis=-1)
    if wrong := int((kept != held).sum()):
        expected = f"a vector exactly where the backbone gives numbers that {encoding} can hold"
        yield Finding(check="encoding", place=str(shard), found=f"{wrong} cells otherwise", expected=expected)
    kept &= held
    if q.dtype == np.int8:
        scale = stored.arrays["scale"][kept]
        off = np.abs(decode(q[kept], scale).astype(np.float64) - x[kept]) - int8_bound(scale)[:, None]
    elif q.dtype == np.float16:
        # below the smallest normal number the step is fixed
        off = np.abs(q[kept].astype(np.float64) - x[kept]) - np.maximum(np.abs(x[kept]), 6.2e-5) * 2.0**-11
    else:
        off = np.abs(q[kept].astype(np.float64) - x[kept])
    if wrong := int((off > 0).sum()):
        yield Finding(
            check="error bound",
            place=str(shard),
            found=f"{wrong} numbers are further off, the worst by {off.max():.3g}",
            expected="within the stated error bound",
        )
