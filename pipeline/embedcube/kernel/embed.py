"""The kernel: one shard, from its scenes to its encoded cells. Laptop, Slurm task and test call these.

    read_sample    scenes of the shard      -> Sample     (sample.py; a reading thread)
    copied         pixels of the sample     -> OnDevice   (begun by the reading thread)
    embed_sample   chips of the pixels      -> Cells      (the device)
    embed_shard    all, one after the other

Nothing here knows of processes, queues, records or the other shards: what a shard's bytes are depends only on
its recipe.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import Chips
from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.cube.encoding import FAILED, fill_value
from embedcube.grid import ShardLayout
from embedcube.kernel.device import DeviceTimings, OnDevice, exact_products
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.quantise import quantise
from embedcube.kernel.sample import Sample, read_sample
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.windows import dates_of

KERNEL_VERSION = 3
"""Raised by every change of this package that changes a byte of any shard."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The encoded cells of a shard: what is written."""

    arrays: dict[str, NDArray[Any]]
    """embedding (y, x, feature), scale (y, x), status (y, x), n_obs (y, x)"""
    chips: int
    """embedded; chips without any valid cell are not"""


def embed_shard(shard: Shard, scenes: Sequence[Scene], context: LayerContext, reader: RasterReader) -> Cells:
    """Read and embed one shard. `scenes` are the shard's, in its order."""
    sample = read_sample(shard, scenes, context, reader)
    return embed_sample(shard, sample, copied(shard, sample, context), context)


def copied(shard: Shard, sample: Sample, context: LayerContext) -> OnDevice:
    """The pixels and the cells of a sample, on their way to the layer's device."""
    layout = context.layout
    area = layout.shard_area(shard.row, shard.col)
    lonlat_yxn = np.stack(context.grids[shard.zone].degrees(area, layout.cell_px), axis=-1).astype(np.float32)
    arrays = {"x_tcyx": sample.x_tcyx, "clear_tsyx": sample.clear_tsyx, "lonlat_yxn": lonlat_yxn}
    arrays |= {"dates_tmd": dates_of(context.frames[shard.t]), "valid_yx": sample.valid_yx}
    return OnDevice(arrays | {"mean_c": context.mean, "std_c": context.std}, context.device)


def embed_sample(
    shard: Shard, sample: Sample, pixels: OnDevice, context: LayerContext, timings: Timings | None = None
) -> Cells:
    """Cut the `pixels` of the sample into chips, embed them in batches of one fixed shape, and quantise the vectors.

    A batch holds chips of this shard only; the last one is padded. So nothing but the shard's own pixels can
    reach its bytes. `timings` are told the seconds of `copy`, `forward` and `quantise`, which a GPU has all in its
    queue before the host waits for the first of them.
    """
    start_s, layout = time.perf_counter(), context.layout
    spent = DeviceTimings(timings or Timings(), context.device)
    cells, chip_cells = layout.shard_cells, layout.chip_cells
    valid = sample.valid_yx
    wanted = [
        (i, j)
        for i in range(layout.chips)
        for j in range(layout.chips)
        if valid[i * chip_cells : (i + 1) * chip_cells, j * chip_cells : (j + 1) * chip_cells].any()
    ]
    with spent.step("copy"):
        on = pixels.tensors()
        valid_yx = on["valid_yx"]
        made = {
            "embedding": torch.full(
                (cells, cells, context.dimensions),
                fill_value(context.encoding),
                dtype=getattr(torch, context.encoding),
                device=context.device,
            ),
            "scale": torch.full((cells, cells), torch.nan, device=context.device),
            "finite": torch.ones((cells, cells), dtype=torch.bool, device=context.device),
        }
    for first in range(0, len(wanted), context.batch):
        places = wanted[first : first + context.batch]
        with spent.step("copy"):
            chips = cut_chips(on, places, context)
        with spent.step("forward"):
            vectors = forward(context, chips)[: len(places)]
        with spent.step("quantise"):
            _keep(made, valid_yx, places, vectors, context)
    with spent.step("quantise"):
        arrays = {name: tensor.cpu().numpy() for name, tensor in made.items()}
    spent.done(time.perf_counter() - start_s)
    finite = arrays.pop("finite")
    arrays["status"] = np.where(valid & ~finite, np.uint8(FAILED), sample.status_yx)
    arrays["n_obs"] = sample.n_obs_yx
    if context.encoding != "int8":
        del arrays["scale"]
    return Cells(arrays=arrays, chips=len(wanted))


def cut_chips(on: Mapping[str, torch.Tensor], places: Sequence[tuple[int, int]], context: LayerContext) -> Chips:
    """A full batch: the chips at `places` (row, column of the shard's chips), normalised, and zeros behind them.

    They are cut where the pixels are: `on` is what `copied` has brought to the device.
    """
    layout, side, cells, device = context.layout, context.layout.keep_px, context.layout.chip_cells, context.device
    x_tcyx, clear_tsyx, lonlat_yxn = on["x_tcyx"], on["clear_tsyx"], on["lonlat_yxn"]
    mean, std = (on[name][:, None, None] for name in ("mean_c", "std_c"))
    shape = (layout.chip_px, layout.chip_px)
    x_btcyx = torch.empty((context.batch, *x_tcyx.shape[:2], *shape), device=device)
    x_btcyx[len(places) :] = 0
    clear_btsyx = torch.zeros((context.batch, *clear_tsyx.shape[:2], *shape), dtype=torch.bool, device=device)
    lonlat_byxn = torch.zeros((context.batch, cells, cells, 2), device=device)
    for n, (i, j) in enumerate(places):
        pixels = np.s_[..., i * side : i * side + layout.chip_px, j * side : j * side + layout.chip_px]
        torch.sub(x_tcyx[pixels], mean, out=x_btcyx[n]).div_(std).nan_to_num_(nan=0.0)
        clear_btsyx[n] = clear_tsyx[pixels]
        lonlat_byxn[n] = lonlat_yxn[_cells_of(i, j, layout)]
    return Chips(x_btcyx=x_btcyx, clear_btsyx=clear_btsyx, lonlat_byxn=lonlat_byxn, dates_tmd=on["dates_tmd"])


def blank_chips(context: LayerContext) -> Chips:
    """A full batch of zeros that are seen everywhere: for who only wants to know how a module does."""
    layout, frames, device = context.layout, context.frames[0], context.device
    shape, side, cells = (context.batch, len(frames)), (layout.chip_px, layout.chip_px), layout.chip_cells
    return Chips(
        x_btcyx=torch.zeros((*shape, context.mean.size, *side), device=device),
        clear_btsyx=torch.ones((*shape, len(context.inputs), *side), dtype=torch.bool, device=device),
        lonlat_byxn=torch.zeros((context.batch, cells, cells, 2), device=device),
        dates_tmd=torch.from_numpy(dates_of(frames)).to(device),
    )


def forward(context: LayerContext, chips: Chips) -> torch.Tensor:
    """One forward pass of a full batch: (B, chip_cells, chip_cells, dimensions), float32 whatever the precision."""
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
    made: Mapping[str, torch.Tensor],
    valid_yx: torch.Tensor,
    places: Sequence[tuple[int, int]],
    vectors: torch.Tensor,
    context: LayerContext,
) -> None:
    """Put the stored numbers of valid cells into their places; cells whose vectors are not finite stay empty."""
    quantised = quantise(vectors, context.encoding)
    for n, (i, j) in enumerate(places):
        block = _cells_of(i, j, context.layout)
        kept = valid_yx[block] & quantised.finite[n]
        made["finite"][block] = quantised.finite[n]
        made["embedding"][block] = torch.where(kept[..., None], quantised.stored[n], made["embedding"][block])
        if quantised.scale is not None:
            made["scale"][block] = torch.where(kept, quantised.scale[n], torch.nan)


def _cells_of(i: int, j: int, layout: ShardLayout) -> tuple[slice, slice]:
    """The cells of a chip, by its row and column in the shard."""
    cells = layout.chip_cells
    return slice(i * cells, (i + 1) * cells), slice(j * cells, (j + 1) * cells)
