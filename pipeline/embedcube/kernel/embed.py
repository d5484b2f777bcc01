"""The kernel: one shard, from its scenes to the bytes of its arrays. Start reading here.

    read_stage     the shard's scenes  -> ReadShard       its sample (sample.py), on the way to the device
    embed_stage    its sample          -> EmbeddedShard   chips, forward passes, vectors as stored numbers
    encode_stage   its cells           -> EncodedShard    the compressed bytes of each array
    run_shard      all three, one after the other

Whatever makes the bytes of a shard calls these: a rank gives each stage a thread of its own (workers/pipeline.py),
`verify` and the tests call `run_shard`. A stage takes what the stage before it returns: no other order is possible.

This module does not know of processes, queues, records or other shards: the bytes of a shard depend on its recipe
alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import Chips
from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.campaign.verdicts import Reason
from embedcube.cube.encoding import FAILED, OFFSET, fill_value
from embedcube.grid import ShardLayout
from embedcube.kernel.device import DeviceTimings, OnDevice, exact_products
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.quantise import quantise
from embedcube.kernel.sample import Sample, read_sample
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.windows import dates_of
from embedcube.zones import apart

KERNEL_VERSION = 5
"""Raised by every change of this package that changes a byte of any shard."""


@dataclass(kw_only=True)
class ReadShard:
    """A shard whose scenes were read; its pixels are on their way to the device."""

    shard: Shard
    scenes: Sequence[Scene]
    """the shard's, in its order"""
    context: LayerContext
    sample: Sample
    pixels: OnDevice
    """the sample's pixels and cells"""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    """when the reading began"""
    timings: Timings = field(default_factory=Timings)
    """each stage adds the seconds of its steps"""

    def drop_pixels(self) -> None:
        """Free the memory of the pixels; the shard cannot be embedded again after that."""
        nothing = np.empty((0, 0, 0, 0), dtype=np.float32)
        self.sample = replace(self.sample, x_tcyx=nothing, clear_tsyx=nothing.astype(bool))
        self.pixels.free()


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a shard, as stored numbers."""

    arrays: dict[str, NDArray[Any]]
    """embedding (y, x, feature), scale (y, x), status (y, x), n_obs (y, x)"""
    chips: int
    """chips that were embedded; those without any valid cell are not"""
    not_held: dict[str, int] = field(default_factory=dict)
    """failed cells whose vector cannot be stored, by the reasons of `encoding.why_not_held`; reasons that occur"""


@dataclass(frozen=True, kw_only=True)
class EmbeddedShard:
    """A shard whose vectors were computed."""

    read: ReadShard
    cells: Cells


@dataclass(frozen=True, kw_only=True)
class EncodedShard:
    """A shard as it is written."""

    read: ReadShard
    cells: Cells
    arrays: dict[str, bytes | None]
    """each array as a small Zarr shard; None where every value is the fill value: nothing is stored then"""


def run_shard(
    shard: Shard,
    scenes: Sequence[Scene],
    context: LayerContext,
    reader: RasterReader,
    refused: Mapping[int, Reason] = MappingProxyType({}),
) -> EncodedShard:
    """All stages of one shard, one after the other; arguments and errors are those of `read_stage`."""
    return encode_stage(embed_stage(read_stage(shard, scenes, context, reader, refused)))


def read_stage(
    shard: Shard,
    scenes: Sequence[Scene],
    context: LayerContext,
    reader: RasterReader,
    refused: Mapping[int, Reason] = MappingProxyType({}),
) -> ReadShard:
    """Read the shard's `scenes` and begin to copy the pixels to the device.

    Scenes that are `refused`, by row of the inventory, are not read, and are quarantined for the reason given.

    Raises:
        OSError: a scene could not be read for a reason that may pass; the shard stays undone.
    """
    started, timings = datetime.now(UTC), Timings()
    try:
        sample = read_sample(shard, scenes, context, reader, refused, timings)
    finally:
        timings.seconds.update(reader.spent())
    return ReadShard(
        shard=shard,
        scenes=scenes,
        context=context,
        sample=sample,
        pixels=to_device(shard, sample, context),
        started=started,
        timings=timings,
    )


def to_device(shard: Shard, sample: Sample, context: LayerContext) -> OnDevice:
    """Begin to copy the pixels and the cells of a sample to the layer's device."""
    layout = context.layout
    degrees = context.zones[shard.zone].cell_degrees(layout, shard.row, shard.col)
    lonlat_yxn = np.stack(degrees, axis=-1).astype(np.float32)
    arrays = {"x_tcyx": sample.x_tcyx, "clear_tsyx": sample.clear_tsyx, "lonlat_yxn": lonlat_yxn}
    arrays |= {"dates_tmd": dates_of(context.frames[shard.t]), "valid_yx": sample.valid_yx}
    arrays |= {"mean_c": context.mean, "std_c": context.std}
    return OnDevice(arrays | ({} if context.offset is None else {OFFSET: context.offset}), context.device)


def embed_stage(read: ReadShard) -> EmbeddedShard:
    """Cut the pixels into chips, embed these in batches of one fixed shape, and quantise the vectors.

    A batch holds chips of this shard only; the last one is padded. So nothing but the shard's own pixels can
    reach its bytes. The seconds of `copy`, `forward` and `quantise` are added to the shard's timings; a GPU has all of
    them in its queue before the host waits for the first.
    """
    start_s, sample, context = time.perf_counter(), read.sample, read.context
    steps = DeviceTimings(read.timings, context.device)
    chips = _valid_chips(sample.valid_yx, context.layout)
    with steps.step("copy"):
        pixels = read.pixels.tensors()
        stored = _empty_cells(context)
    for first in range(0, len(chips), context.batch):
        places = chips[first : first + context.batch]
        with steps.step("copy"):
            batch = cut_chips(pixels, places, context)
        with steps.step("forward"):
            vectors = forward(context, batch)[: len(places)]
        with steps.step("quantise"):
            _keep(stored, pixels, places, vectors, context)
    with steps.step("quantise"):
        arrays = {name: tensor.cpu().numpy() for name, tensor in stored.items()}
    steps.done(time.perf_counter() - start_s)
    finite, held, unusable = arrays.pop("finite"), arrays.pop("held"), arrays.pop("unusable")
    counts = {
        "not_finite": np.sum(sample.valid_yx & ~finite & ~unusable),
        "too_large": np.sum(sample.valid_yx & finite & ~held),
    }
    without = np.where(unusable, sample.empty_yx, np.uint8(FAILED))
    arrays["status"] = np.where(sample.valid_yx & ~held, without, sample.status_yx)
    arrays["n_obs"] = sample.n_obs_yx
    if context.encoding != "int8":
        del arrays["scale"]
    not_held = {reason: int(count) for reason, count in counts.items() if count}
    return EmbeddedShard(read=read, cells=Cells(arrays=arrays, chips=len(chips), not_held=not_held))


def encode_stage(embedded: EmbeddedShard) -> EncodedShard:
    """Compress the arrays of the cells; the seconds of `encode` are added to the shard's timings.

    One thread at a time for the shards of one context, whose encoder it uses.
    """
    read, cells = embedded.read, embedded.cells
    with read.timings.step("encode"):
        arrays = cells.arrays
        if read.context.layout.apart:
            arrays = {name: apart(values, read.context.layout) for name, values in arrays.items()}
        encoded = read.context.encoder.encode(arrays)
    return EncodedShard(read=read, cells=cells, arrays=encoded)


def _valid_chips(valid_yx: NDArray[np.bool_], layout: ShardLayout) -> list[tuple[int, int]]:
    """Row and column of each chip of the shard that has a valid cell."""
    chips = [(i, j) for i in range(layout.chips) for j in range(layout.chips)]
    return [(i, j) for i, j in chips if valid_yx[_cells_of(i, j, layout)].any()]


def _empty_cells(context: LayerContext) -> dict[str, torch.Tensor]:
    """Arrays of a shard on the device, without any vector yet."""
    shape, device = (context.layout.shard_cells, context.layout.shard_cells), context.device
    dtype = getattr(torch, context.encoding)
    return {
        "embedding": torch.full((*shape, context.dimensions), fill_value(context.encoding), dtype=dtype, device=device),
        "scale": torch.full(shape, torch.nan, device=device),
        "finite": torch.ones(shape, dtype=torch.bool, device=device),
        "held": torch.ones(shape, dtype=torch.bool, device=device),
        "unusable": torch.zeros(shape, dtype=torch.bool, device=device),
    }


def cut_chips(pixels: Mapping[str, torch.Tensor], places: Sequence[tuple[int, int]], context: LayerContext) -> Chips:
    """A full batch: the normalised chips at `places` (row, column within the shard), then chips of zeros.

    They are cut on the device: `pixels` are the tensors of `to_device`.
    """
    layout, side, cells, device = context.layout, context.layout.stride_px, context.layout.chip_cells, context.device
    x_tcyx, clear_tsyx, lonlat_yxn = pixels["x_tcyx"], pixels["clear_tsyx"], pixels["lonlat_yxn"]
    mean, std = (pixels[name][:, None, None] for name in ("mean_c", "std_c"))
    shape = (layout.chip_px, layout.chip_px)
    x_btcyx = torch.empty((context.batch, *x_tcyx.shape[:2], *shape), device=device)
    x_btcyx[len(places) :] = 0
    clear_btsyx = torch.zeros((context.batch, *clear_tsyx.shape[:2], *shape), dtype=torch.bool, device=device)
    lonlat_byxn = torch.zeros((context.batch, cells, cells, 2), device=device)
    for n, (i, j) in enumerate(places):
        chip = np.s_[..., i * side : i * side + layout.chip_px, j * side : j * side + layout.chip_px]
        torch.sub(x_tcyx[chip], mean, out=x_btcyx[n]).div_(std).nan_to_num_(nan=0.0)
        clear_btsyx[n] = clear_tsyx[chip]
        lonlat_byxn[n] = lonlat_yxn[_cells_of(i, j, layout)]
    return Chips(x_btcyx=x_btcyx, clear_btsyx=clear_btsyx, lonlat_byxn=lonlat_byxn, dates_tmd=pixels["dates_tmd"])


def blank_chips(context: LayerContext) -> Chips:
    """A full batch of zeros, clear everywhere, with which a module is tried or measured without data."""
    layout, frames, device = context.layout, context.frames[0], context.device
    shape, side, cells = (context.batch, len(frames)), (layout.chip_px, layout.chip_px), layout.chip_cells
    return Chips(
        x_btcyx=torch.zeros((*shape, context.mean.size, *side), device=device),
        clear_btsyx=torch.ones((*shape, len(context.inputs), *side), dtype=torch.bool, device=device),
        lonlat_byxn=torch.zeros((context.batch, cells, cells, 2), device=device),
        dates_tmd=torch.from_numpy(dates_of(frames)).to(device),
    )


def forward(context: LayerContext, chips: Chips) -> torch.Tensor:
    """The vectors of a full batch, (B, chip_cells, chip_cells, dimensions); float32, whatever the precision."""
    exact_products()
    with torch.inference_mode(), in_precision(context):
        vectors: torch.Tensor = context.module(chips).float()
    return vectors


def in_precision(context: LayerContext) -> torch.autocast:
    """The context in which a module computes in the layer's precision."""
    return torch.autocast(
        context.device.type, getattr(torch, context.precision), enabled=context.precision != "float32"
    )


def _keep(
    stored: Mapping[str, torch.Tensor],
    pixels: Mapping[str, torch.Tensor],
    places: Sequence[tuple[int, int]],
    vectors: torch.Tensor,
    context: LayerContext,
) -> None:
    """Put the stored numbers of valid cells into their places; cells whose vectors cannot be stored stay empty."""
    quantised, valid_yx = quantise(vectors, context.encoding, pixels.get(OFFSET)), pixels["valid_yx"]
    for n, (i, j) in enumerate(places):
        block = _cells_of(i, j, context.layout)
        kept = valid_yx[block] & quantised.held[n]
        stored["finite"][block], stored["held"][block] = quantised.finite[n], quantised.held[n]
        if context.normalisation.masks:
            stored["unusable"][block] = vectors[n].isnan().all(dim=-1)
        stored["embedding"][block] = torch.where(kept[..., None], quantised.stored[n], stored["embedding"][block])
        if quantised.scale is not None:
            stored["scale"][block] = torch.where(kept, quantised.scale[n], torch.nan)


def _cells_of(i: int, j: int, layout: ShardLayout) -> tuple[slice, slice]:
    """The cells of a chip, given its row and column in the shard."""
    cells = layout.chip_cells
    return slice(i * cells, (i + 1) * cells), slice(j * cells, (j + 1) * cells)
