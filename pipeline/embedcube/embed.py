"""The kernel: one shard, from its scenes to its encoded cells. Laptop, Slurm task and test call these functions.

    read_sample    scenes of the shard      -> Sample     (a reading thread)
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
from embedcube.config import Precision
from embedcube.device import DeviceTimings, OnDevice, host_zeros
from embedcube.encode import (
    FAILED,
    MASKED,
    NO_DATA,
    NOT_PROCESSED,
    VALID,
    VALID_INCOMPLETE,
    Encoding,
    fill_value,
)
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.quantise import quantise
from embedcube.raster import RasterReader
from embedcube.scene import Scene
from embedcube.sources.base import Observation, Source
from embedcube.timings import Timings
from embedcube.windows import Window, dates_of

KERNEL_VERSION = 3
"""Raised by every change of this package that changes a byte of any shard."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The unit of work: can be printed, pickled, and run again alone."""

    layer: str
    zone: str
    """name of the grid"""
    t: int
    """window, as an index of the cube"""
    row: int
    col: int
    """on the shard lattice of the grid"""
    iy: int
    ix: int
    """in the cube"""
    recipe: str
    """hex SHA-256 of all that determines the bytes"""
    scenes: tuple[int, ...]
    """rows of the inventory, in the order of compositing"""

    @property
    def place(self) -> tuple[str, int, int, int]:
        """Where it is in the cube: "<layer>/<zone>", t, iy, ix."""
        return f"{self.layer}/{self.zone}", self.t, self.iy, self.ix

    def __str__(self) -> str:
        return f"{self.layer}/{self.zone} t{self.t} y{self.iy} x{self.ix}"


@dataclass(frozen=True, kw_only=True)
class LayerInput:
    """One archive of a layer."""

    archive: str
    source: Source
    channels: slice
    """of the chips"""
    counts: bool
    """its scenes make a cell valid, and are counted: photographs, or fields in a layer that has none"""


@dataclass(frozen=True, kw_only=True)
class LayerKernel:
    """All that embedding a shard of one layer needs, loaded once per process."""

    grids: Mapping[str, Grid]
    """by their names"""
    layout: ShardLayout
    inputs: tuple[LayerInput, ...]
    frames: tuple[tuple[Window, ...], ...]
    """of every window"""
    min_valid: float
    batch: int
    encoding: Encoding
    precision: Precision
    dimensions: int
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    module: torch.nn.Module
    """on the device"""
    device: torch.device

    @property
    def counted(self) -> list[int]:
        """The inputs that make a cell valid."""
        return [s for s, one in enumerate(self.inputs) if one.counts]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What reading a shard yields."""

    x_tcyx: NDArray[np.float32]
    """the composites on the shard's pixels and their halo; NaN where masked"""
    seen_tsyx: NDArray[np.bool_]
    """where each archive of the layer shows each frame"""
    status_yx: NDArray[np.uint8]
    """per cell"""
    n_obs_yx: NDArray[np.uint16]
    """per cell"""
    fed: bytes
    """per planned scene, packed: the cells in whose own footprint it gave a pixel"""
    quarantined: tuple[tuple[int, str], ...]
    """(row of the inventory, reason)"""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The encoded cells of a shard: what is written."""

    arrays: dict[str, NDArray[Any]]
    """embedding (y, x, feature), scale (y, x), status (y, x), n_obs (y, x)"""
    chips: int
    """embedded; chips without any valid cell are not"""


def embed_shard(shard: Shard, scenes: Sequence[Scene], kernel: LayerKernel, reader: RasterReader) -> Cells:
    """Read and embed one shard. `scenes` are the shard's, in its order."""
    sample = read_sample(shard, scenes, kernel, reader)
    return embed_sample(shard, sample, copied(shard, sample, kernel), kernel)


def read_sample(
    shard: Shard,
    scenes: Sequence[Scene],
    kernel: LayerKernel,
    reader: RasterReader,
    refused: str = "",
    timings: Timings | None = None,
) -> Sample:
    """Read each scene once on the shard and its halo, composite the frames, and say what each cell rests on.

    With a reason why the shard's scenes are `refused`, none is read, and all are quarantined for it.
    `timings` are told the seconds of `read` and `composite`.

    Raises:
        OSError: a scene could not be read for a reason that may pass; the shard stays undone.
    """
    layout, grid, timings = kernel.layout, kernel.grids[shard.zone], timings or Timings()
    area = layout.shard_area(shard.row, shard.col)
    sample_area = area.grown(layout.halo_px)
    frames, shape = kernel.frames[shard.t], (sample_area.rows, sample_area.cols)
    x_tcyx = host_zeros((len(frames), kernel.mean.size, *shape), np.float32, kernel.device)
    seen_tsyx = host_zeros((len(frames), len(kernel.inputs), *shape), np.bool_, kernel.device)
    masked_yx = np.zeros(shape, dtype=bool)
    fed = np.zeros((len(scenes), layout.shard_cells, layout.shard_cells), dtype=bool)
    reasons = dict.fromkeys(range(len(scenes)), refused) if refused else {}
    for t, frame in enumerate(frames):
        for s, one in enumerate(kernel.inputs):
            observed: list[tuple[int, Observation]] = []
            for position, scene in enumerate(scenes):
                if scene.archive == one.archive and position not in reasons and scene.meets(frame):
                    try:
                        with timings.step("read"):
                            observed.append((position, one.source.observe(scene, frame, grid, sample_area, reader)))
                    except CorruptInput as error:
                        reasons[position] = str(error)
            if observed:
                with timings.step("composite"):
                    picture = one.source.composite([(scenes[i].photograph, o) for i, o in observed])
                    x_tcyx[t, one.channels], seen_tsyx[t, s] = picture.x_cyx, picture.clear_yx
                    masked_yx |= picture.masked_yx
                    for (position, _), used in zip(observed, picture.used_yx, strict=True):
                        fed[position] |= _per_cell(used, layout) > 0
            else:
                x_tcyx[t, one.channels] = np.nan
    unreadable = np.zeros(fed.shape[1:], dtype=bool)
    for position in reasons:
        unreadable |= _cells_covered(scenes[position], grid, area, layout.cell_px)
    clear_yx = np.asarray(seen_tsyx[:, kernel.counted].any(axis=(0, 1)))
    valid = _per_cell(clear_yx, layout) / np.float64(layout.cell_px**2) >= kernel.min_valid
    empty = np.where(unreadable, FAILED, np.where(_per_cell(masked_yx, layout) > 0, MASKED, NO_DATA))
    status = np.where(valid, np.where(unreadable, VALID_INCOMPLETE, VALID), empty)
    photographs = {kernel.inputs[s].archive for s in kernel.counted}
    return Sample(
        x_tcyx=x_tcyx,
        seen_tsyx=seen_tsyx,
        status_yx=np.where(grid.owns(area, layout.cell_px), status, NOT_PROCESSED).astype(np.uint8),
        n_obs_yx=_photographs(fed, [scene if scene.archive in photographs else None for scene in scenes]),
        fed=np.packbits(fed.reshape(len(scenes), layout.shard_cells**2), axis=1).tobytes(),
        quarantined=tuple((shard.scenes[position], reason) for position, reason in sorted(reasons.items())),
    )


def copied(shard: Shard, sample: Sample, kernel: LayerKernel) -> OnDevice:
    """The pixels and the cells of a sample, on their way to the layer's device."""
    layout = kernel.layout
    area = layout.shard_area(shard.row, shard.col)
    lonlat_yxn = np.stack(kernel.grids[shard.zone].degrees(area, layout.cell_px), axis=-1).astype(np.float32)
    arrays = {"x_tcyx": sample.x_tcyx, "seen_tsyx": sample.seen_tsyx, "lonlat_yxn": lonlat_yxn}
    arrays |= {"dates_tmd": dates_of(kernel.frames[shard.t]), "valid_yx": _valid(sample)}
    return OnDevice(arrays | {"mean_c": kernel.mean, "std_c": kernel.std}, kernel.device)


def embed_sample(
    shard: Shard, sample: Sample, pixels: OnDevice, kernel: LayerKernel, timings: Timings | None = None
) -> Cells:
    """Cut the `pixels` of the sample into chips, embed them in batches of one fixed shape, and quantise the vectors.

    A batch holds chips of this shard only; the last one is padded. So nothing but the shard's own pixels can
    reach its bytes. `timings` are told the seconds of `copy`, `forward` and `quantise`, which a GPU has all in its
    queue before the host waits for the first of them.
    """
    start_s, layout = time.perf_counter(), kernel.layout
    spent = DeviceTimings(timings or Timings(), kernel.device)
    cells, chip_cells = layout.shard_cells, layout.chip_cells
    valid = _valid(sample)
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
                (cells, cells, kernel.dimensions),
                fill_value(kernel.encoding),
                dtype=getattr(torch, kernel.encoding),
                device=kernel.device,
            ),
            "scale": torch.full((cells, cells), torch.nan, device=kernel.device),
            "finite": torch.ones((cells, cells), dtype=torch.bool, device=kernel.device),
        }
    for first in range(0, len(wanted), kernel.batch):
        places = wanted[first : first + kernel.batch]
        with spent.step("copy"):
            chips = cut_chips(on, places, kernel)
        with spent.step("forward"):
            vectors = forward(kernel, chips)[: len(places)]
        with spent.step("quantise"):
            _keep(made, valid_yx, places, vectors, kernel)
    with spent.step("quantise"):
        arrays = {name: tensor.cpu().numpy() for name, tensor in made.items()}
    spent.done(time.perf_counter() - start_s)
    finite = arrays.pop("finite")
    arrays["status"] = np.where(valid & ~finite, np.uint8(FAILED), sample.status_yx)
    arrays["n_obs"] = sample.n_obs_yx
    if kernel.encoding != "int8":
        del arrays["scale"]
    return Cells(arrays=arrays, chips=len(wanted))


def cut_chips(on: Mapping[str, torch.Tensor], places: Sequence[tuple[int, int]], kernel: LayerKernel) -> Chips:
    """A full batch: the chips at `places` (row, column of the shard's chips), normalised, and zeros behind them.

    They are cut where the pixels are: `on` is what `copied` has brought to the device.
    """
    layout, side, cells, device = kernel.layout, kernel.layout.keep_px, kernel.layout.chip_cells, kernel.device
    x_tcyx, seen_tsyx, lonlat_yxn = on["x_tcyx"], on["seen_tsyx"], on["lonlat_yxn"]
    mean, std = (on[name][:, None, None] for name in ("mean_c", "std_c"))
    shape = (layout.chip_px, layout.chip_px)
    x_btcyx = torch.empty((kernel.batch, *x_tcyx.shape[:2], *shape), device=device)
    x_btcyx[len(places) :] = 0
    seen_btsyx = torch.zeros((kernel.batch, *seen_tsyx.shape[:2], *shape), dtype=torch.bool, device=device)
    lonlat_byxn = torch.zeros((kernel.batch, cells, cells, 2), device=device)
    for n, (i, j) in enumerate(places):
        pixels = np.s_[..., i * side : i * side + layout.chip_px, j * side : j * side + layout.chip_px]
        torch.sub(x_tcyx[pixels], mean, out=x_btcyx[n]).div_(std).nan_to_num_(nan=0.0)
        seen_btsyx[n] = seen_tsyx[pixels]
        lonlat_byxn[n] = lonlat_yxn[_cells_of(i, j, layout)]
    return Chips(x_btcyx=x_btcyx, seen_btsyx=seen_btsyx, lonlat_byxn=lonlat_byxn, dates_tmd=on["dates_tmd"])


def blank_chips(kernel: LayerKernel) -> Chips:
    """A full batch of zeros that are seen everywhere: for who only wants to know how a module does."""
    layout, frames, device = kernel.layout, kernel.frames[0], kernel.device
    shape, side, cells = (kernel.batch, len(frames)), (layout.chip_px, layout.chip_px), layout.chip_cells
    return Chips(
        x_btcyx=torch.zeros((*shape, kernel.mean.size, *side), device=device),
        seen_btsyx=torch.ones((*shape, len(kernel.inputs), *side), dtype=torch.bool, device=device),
        lonlat_byxn=torch.zeros((kernel.batch, cells, cells, 2), device=device),
        dates_tmd=torch.from_numpy(dates_of(frames)).to(device),
    )


def forward(kernel: LayerKernel, chips: Chips) -> torch.Tensor:
    """One forward pass of a full batch: (B, chip_cells, chip_cells, dimensions), float32 whatever the precision."""
    with torch.inference_mode(), in_precision(kernel):
        vectors: torch.Tensor = kernel.module(chips).float()
    return vectors


def in_precision(kernel: LayerKernel) -> torch.autocast:
    """The context in which a module computes in the layer's precision."""
    return torch.autocast(kernel.device.type, getattr(torch, kernel.precision), enabled=kernel.precision != "float32")


def _keep(
    made: Mapping[str, torch.Tensor],
    valid_yx: torch.Tensor,
    places: Sequence[tuple[int, int]],
    vectors: torch.Tensor,
    kernel: LayerKernel,
) -> None:
    """Put the stored numbers of valid cells into their places; cells whose vectors are not finite stay empty."""
    finite = vectors.isfinite().all(dim=-1)
    quantised = quantise(vectors, kernel.encoding)
    for n, (i, j) in enumerate(places):
        block = _cells_of(i, j, kernel.layout)
        kept = valid_yx[block] & finite[n]
        made["finite"][block] = finite[n]
        made["embedding"][block] = torch.where(kept[..., None], quantised.stored[n], made["embedding"][block])
        if quantised.scale is not None:
            made["scale"][block] = torch.where(kept, quantised.scale[n], torch.nan)


def _cells_of(i: int, j: int, layout: ShardLayout) -> tuple[slice, slice]:
    """The cells of a chip, by its row and column in the shard."""
    cells = layout.chip_cells
    return slice(i * cells, (i + 1) * cells), slice(j * cells, (j + 1) * cells)


def _valid(sample: Sample) -> NDArray[np.bool_]:
    return np.asarray((sample.status_yx == VALID) | (sample.status_yx == VALID_INCOMPLETE))


def _per_cell(pixels_yx: NDArray[np.bool_], layout: ShardLayout) -> NDArray[np.int64]:
    """How many pixels of each cell are true; the halo is left out."""
    halo, cell, cells = layout.halo_px, layout.cell_px, layout.shard_cells
    kept = pixels_yx[halo : halo + layout.shard_px, halo : halo + layout.shard_px]
    rows = kept.reshape(cells, cell, layout.shard_px).sum(axis=1, dtype=np.int64)
    return np.asarray(rows.reshape(cells, cells, cell).sum(axis=2))


def _photographs(fed: NDArray[np.bool_], scenes: Sequence[Scene | None]) -> NDArray[np.uint16]:
    """Distinct photographs that gave a pixel to each cell; those that are None do not count."""
    count = np.zeros(fed.shape[1:], dtype=np.uint16)
    for photograph in dict.fromkeys(scene.photograph for scene in scenes if scene):
        members = [i for i, scene in enumerate(scenes) if scene and scene.photograph == photograph]
        count += fed[members].any(axis=0)
    return count


def _cells_covered(scene: Scene, grid: Grid, area: PixelArea, cell_px: int) -> NDArray[np.bool_]:
    """The cells of `area` that a scene's footprint touches, known from its headers alone."""
    covered = np.zeros((area.rows // cell_px, area.cols // cell_px), dtype=bool)
    rows, cols = np.arange(covered.shape[0]), np.arange(covered.shape[1])
    left, _, _, top = grid.bounds(area)
    step = grid.pixel * cell_px
    for xmin, ymin, xmax, ymax in scene.boxes_in(grid):
        across = (left + cols * step < xmax) & (left + (cols + 1) * step > xmin)
        down = (top - rows * step > ymin) & (top - (rows + 1) * step < ymax)
        covered |= np.outer(down, across)
    return covered
