"""Embed some shards of a cube again, in this process, and compare: part of `verify`."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.findings import Finding
from embedcube.cube.encoding import (
    LARGEST_NUMBER,
    LEAST_COSINE,
    bound_of_numbers,
    decode,
)
from embedcube.cube.provenance import arrays_in
from embedcube.cube.reader import Cube
from embedcube.errors import WorkError

if TYPE_CHECKING:
    import torch

    from embedcube.backbones.base import Weights
    from embedcube.campaign.plan import LayerPlan, Shard
    from embedcube.kernel.embed import Cells, EncodedShard
    from embedcube.kernel.layer import LayerContext


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Which shards are embedded again: some of each layer and zone, drawn at random."""

    count: int
    """of each layer and zone"""
    seed: int
    """of the draw; the same seed draws the same shards"""


def recomputed(
    campaign: Campaign, run: RunDir, cube: Cube, drawn: Drawn, least_cosine: dict[str, float]
) -> Iterator[Finding]:
    """Embed some shards of each layer again, in this process.

    `least_cosine` gets, for each layer that is compiled or of reduced precision, the least cosine between a vector and
    the same vector in float32, not compiled.
    """
    if not drawn.count:
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
    scenes = scenes_as_planned(campaign, run, plan)
    shards = [s for group in read_shards(run, plan) for s in group]
    reader = RasterReader(campaign.how.threads_per_rank, attempts=campaign.how.read_attempts)
    try:
        for name in campaign.layers:
            layer = _layer_again(campaign, run, name, plan.layers[name], device)
            for shard, record in _draw([s for s in shards if s.layer == name], cube, drawn):
                own, out = [scenes[i] for i in shard.scenes], plan.verdicts.reasons(shard.scenes)
                again = run_shard(shard, own, layer.context, reader, out)
                yield from _same_bytes(shard, again.arrays, record)
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
    yield from _bound(again.read.shard, again.cells, given, layer.context.offset)
    if layer.exact is not None:
        full = embed_stage(replace(again.read, context=layer.exact)).cells
        name = again.read.shard.layer
        least_cosine[name] = min(_least_cosine(given, full), least_cosine.get(name, 1.0))


def _draw(shards: "list[Shard]", cube: Cube, drawn: Drawn) -> "Iterator[tuple[Shard, dict[str, Any]]]":
    """Shards of each zone with embedded chips, in a random order, with their records."""
    places, random = cube.provenance.places, np.random.default_rng(drawn.seed)
    for zone in sorted({shard.zone for shard in shards}):
        in_cube = [shard for shard in shards if shard.zone == zone and shard.place in places]
        in_order = (in_cube[i] for i in random.permutation(len(in_cube)).tolist())
        records = ((shard, cube.provenance.record(places[shard.place])) for shard in in_order)
        yield from islice(((shard, record) for shard, record in records if record["counts"]["chips"]), drawn.count)


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
    return load_context(campaign, name, list(planned.zones), weights, device, planned.batch, program, planned.samples)


def _exact(campaign: Campaign, name: str, context: "LayerContext", weights: "Weights") -> "LayerContext | None":
    """The context in float32, not compiled, to compare with; None where the layer's own is that already."""
    from embedcube.backbones.base import make_backbone

    compiled = campaign.layers[name].compile
    if context.precision == "float32" and not compiled:
        return None
    module = make_backbone(campaign, name).module(weights).to(context.device) if compiled else context.module
    return replace(context, module=module, encoding="float32", precision="float32")


def _same_bytes(shard: "Shard", arrays: Mapping[str, bytes | None], record: dict[str, Any]) -> Iterator[Finding]:
    """The arrays made again are the recorded ones."""
    for array, data in arrays.items():
        digest = hashlib.sha256(data or b"").hexdigest()
        recorded = next(stored["sha256"] for stored in arrays_in(record) if stored["array"] == array)
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


def _bound(
    shard: "Shard", stored: "Cells", exact: "Cells", offset: NDArray[np.float32] | None = None
) -> Iterator[Finding]:
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
        off = np.abs(decode(q[kept], scale, offset).astype(np.float64) - x[kept]) - bound_of_numbers(scale, offset)
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
