"""The labelled cells once more as raw pixels, and through random weights: read from the archive of the run folder.

Raw pixels are the mean and the standard deviation of each band in each frame over the clear pixels of a cell, of the
same composites that the backbone saw. Random weights are the frozen weights with the numbers of each tensor shuffled:
the same architecture and the same sizes of numbers, and nothing that was learned.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Plan, Shard, read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.cube.reader import Cube
from embedcube.errors import EmbedcubeError, RequestError
from embedcube.progress import Progress, silent
from embedcube.uses.decode.examples import Cells
from embedcube.zones import kept_pixels

if TYPE_CHECKING:
    from embedcube.backbones.base import Weights
    from embedcube.kernel.embed import ReadShard
    from embedcube.kernel.layer import LayerContext

RAW = "raw pixels, mean and std"
RANDOM = "random weights"
PIXELS = "raw pixels"
"""all pixels of a cell (row, column, number of frame and band) in one row, for scores on pixels"""

_MOST_PIXEL_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Again:
    """Labelled cells read again from the archive."""

    features: dict[str, NDArray[np.float32]]
    """(cell, feature) by name: `RAW`, and `RANDOM` where the backbone has weights that can be shuffled"""
    encoder_parameters: int
    raw_bytes: int
    """of the pixels of one cell, uncompressed, as 2 bytes a number"""
    read_cpu_s: float
    """CPU seconds to read and composite one cell"""
    encoder_cpu_s: float
    """CPU seconds of the encoder for one cell; NaN where it was not run"""
    missing: str = ""
    """why there is nothing, or no `RANDOM`"""


def read_again(
    cube: Cube, layer: str, cells: Cells, seed: int = 0, progress: Progress = silent, *, pixels: bool = False
) -> Again:
    """The cells of a layer as raw pixels and through random weights; `missing` says why there is nothing.

    All shards that hold one of the cells are read from the archive that the campaign names, and embedded once. With
    `pixels` all pixels of the cells are kept too, as `PIXELS`, unless they are more than 1 GB.
    """
    try:
        return _read_again(cube, layer, cells, seed, progress, pixels)
    except (EmbedcubeError, OSError) as error:
        return Again(
            features={}, encoder_parameters=0, raw_bytes=0, read_cpu_s=np.nan, encoder_cpu_s=np.nan,
            missing=" ".join(str(error).split())[:300],
        )  # fmt: skip


def _read_again(cube: Cube, layer: str, cells: Cells, seed: int, progress: Progress, pixels: bool) -> Again:
    import torch

    from embedcube.backbones.weights import read_weights
    from embedcube.kernel.device import exact_arithmetic
    from embedcube.sources.reader import RasterReader

    campaign, run = _campaign_of(cube)
    plan, weights = read_plan(campaign, run), read_weights(campaign, run, layer)[0]
    contexts = _contexts(campaign, plan, layer, weights, seed)
    exact_arithmetic(campaign.how.threads_per_rank)
    reader = RasterReader(campaign.how.threads_per_rank, attempts=campaign.how.read_attempts)
    collected = _Collected(len(cells), contexts, pixels)
    try:
        by_shard = _cells_of_shards(cube, layer, cells)
        shards = _shards(campaign, run, plan, layer, by_shard)
        for number, (shard, scenes, out) in enumerate(shards, start=1):
            with torch.inference_mode():
                collected.add(shard, scenes, out, reader, cells, by_shard[shard.place])
            progress(number, len(by_shard))
    finally:
        reader.close()
    parameters = sum(tensor.size for tensor in weights.tensors.values() if tensor.dtype.kind == "f")
    return collected.finished(parameters)


def _campaign_of(cube: Cube) -> tuple[Campaign, RunDir]:
    """The campaign of the run folder that a cube lies in; a RequestError says that it lies in none."""
    run = RunDir(cube.path.parents[1])
    if not run.campaign.is_file():
        raise RequestError(f"{cube.address} lies in no run folder, so nothing says where its archive is")
    campaign = load_campaign(run.campaign)
    if campaign.digest != cube.provenance.attributes["campaign_digest"]:
        raise RequestError(f"{run.root} was changed since {cube.address} was made; run it again")
    return campaign, run


def _contexts(
    campaign: Campaign, plan: Plan, layer: str, weights: "Weights", seed: int
) -> "tuple[LayerContext, LayerContext | None]":
    """What shards are read with, and what they are embedded with by random weights."""
    import torch

    from embedcube.kernel.load import load_context, make_context

    planned, device = plan.layers[layer], torch.device("cpu")
    zones, samples = list(planned.zones), planned.samples
    reads = make_context(campaign, layer, zones, weights, torch.nn.Identity(), device, 1, samples)
    shuffled = _shuffled(weights, seed)
    if shuffled is None:
        return reads, None
    layout = reads.layout
    batch = min(64, (layout.shard_cells // layout.chip_cells) ** 2)
    context = load_context(campaign, layer, zones, shuffled, device, batch, samples=samples)
    return reads, replace(context, encoding="float32", precision="float32")


def _shuffled(weights: "Weights", seed: int) -> "Weights | None":
    """Weights with the numbers of each tensor in random order; None where there is no tensor of numbers.

    The tables of `reduce` and `centre` stay: they are no weights of the model, and shuffled they would keep no
    components. So do the means and standard deviations of the parts of `concat`.
    """
    from embedcube.backbones.concat import is_normalisation
    from embedcube.backbones.reduced import TABLES
    from embedcube.campaign.vectors import CENTRE

    rng = np.random.default_rng(seed)
    learned = {
        name: one
        for name, one in weights.tensors.items()
        if one.dtype.kind == "f" and name not in (*TABLES, CENTRE) and not is_normalisation(name)
    }
    if not learned:
        return None
    shuffled = {name: rng.permutation(tensor.ravel()).reshape(tensor.shape) for name, tensor in learned.items()}
    return replace(weights, tensors={**weights.tensors, **shuffled})


def _cells_of_shards(cube: Cube, layer: str, cells: Cells) -> dict[tuple[str, int, int, int], NDArray[np.int64]]:
    """Rows of the cells in each shard, by its place."""
    found: dict[tuple[str, int, int, int], NDArray[np.int64]] = {}
    for zone, rows in cells.each_zone():
        side = cube.shard_cells(zone)
        keys = np.stack([cells.t[rows], cells.y[rows] // side, cells.x[rows] // side], axis=1)
        places, inverse = np.unique(keys, axis=0, return_inverse=True)
        for number, (t, iy, ix) in enumerate(places.tolist()):
            found[zone, t, iy, ix] = rows[inverse.ravel() == number]
    return found


def _shards(
    campaign: Campaign, run: RunDir, plan: Plan, layer: str, wanted: dict[tuple[str, int, int, int], Any]
) -> Any:
    """Shards that hold labelled cells, with their scenes and what is refused of them."""
    scenes = scenes_as_planned(campaign, run, plan)
    for group in read_shards(run, plan):
        for shard in group:
            if shard.layer == layer and shard.place in wanted:
                yield shard, [scenes[i] for i in shard.scenes], plan.verdicts.reasons(shard.scenes)


class _Collected:
    """Features of cells, filled shard by shard, and what they cost."""

    def __init__(self, cells: int, contexts: "tuple[LayerContext, LayerContext | None]", pixels: bool) -> None:
        self._reads, self._random = contexts
        self._cells, self._seen = cells, 0
        self._cpu_s = {"read": 0.0, "embed": 0.0}
        self._features: dict[str, NDArray[np.float32]] = {}
        layout = self._reads.layout
        frames, channels = len(self._reads.frames[0]), self._reads.mean.size
        self._raw_bytes = 2 * frames * channels * layout.cell_px**2
        self._pixels = pixels and cells * self._raw_bytes * 2 <= _MOST_PIXEL_BYTES

    def add(
        self, shard: Shard, scenes: Sequence[Any], out: Any, reader: Any, cells: Cells, rows: NDArray[np.int64]
    ) -> None:
        """Read one shard, and keep its labelled cells."""
        from embedcube.kernel.embed import embed_stage, read_stage

        start_s = time.process_time()
        read = read_stage(shard, scenes, self._reads, reader, out)
        self._cpu_s["read"] += time.process_time() - start_s
        side = self._reads.layout.shard_cells
        y, x = cells.y[rows] % side, cells.x[rows] % side
        self._keep(RAW, rows, pixel_statistics(read)[y, x])
        if self._pixels:
            self._keep(PIXELS, rows, pixels_of(read)[y, x].reshape(len(rows), -1))
        self._seen += side * side
        if self._random is not None:
            start_s = time.process_time()
            embedded = embed_stage(replace(read, context=self._random))
            self._cpu_s["embed"] += time.process_time() - start_s
            self._keep(RANDOM, rows, embedded.cells.arrays["embedding"][y, x])

    def _keep(self, name: str, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        if name not in self._features:
            self._features[name] = np.full((self._cells, values.shape[1]), np.nan, np.float32)
        self._features[name][rows] = values

    def finished(self, parameters: int) -> Again:
        """Everything; raw numbers of frames without a clear pixel are NaN."""
        seen = max(self._seen, 1)
        return Again(
            features=self._features, encoder_parameters=parameters, raw_bytes=self._raw_bytes,
            read_cpu_s=self._cpu_s["read"] / seen,
            encoder_cpu_s=self._cpu_s["embed"] / seen if self._random is not None else float("nan"),
            missing="" if self._random is not None else "the backbone has no weights that can be shuffled",
        )  # fmt: skip


def pixel_statistics(read: "ReadShard") -> NDArray[np.float32]:
    """Mean and standard deviation (y, x, 2 frames channels) of the clear pixels of each cell; NaN where none is.

    Of cells of one pixel there is no standard deviation, and the last axis is half as long.
    """
    cell = read.context.layout.cell_px
    pixels = np.moveaxis(pixels_of(read).astype(np.float64), -1, 2)
    pixels = pixels.reshape(*pixels.shape[:3], cell * cell)
    there = np.isfinite(pixels)
    count = there.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, pixels, 0).sum(axis=-1) / count
        spread = np.sqrt(np.where(there, (pixels - mean[..., None]) ** 2, 0).sum(axis=-1) / count)
    both = mean if cell == 1 else np.concatenate([mean, spread], axis=-1)
    return both.astype(np.float32)


def pixels_of(read: "ReadShard") -> NDArray[np.float32]:
    """The numbers (y, x, row, column, frames and channels) of the pixels of each cell; NaN where masked."""
    layout, x_tcyx = read.context.layout, read.sample.x_tcyx
    cell, cells = layout.cell_px, layout.shard_cells
    kept = np.stack([kept_pixels(pixels, layout) for pixels in x_tcyx.reshape(-1, *x_tcyx.shape[2:])])
    return kept.reshape(-1, cells, cell, cells, cell).transpose(1, 3, 2, 4, 0)


def filled(features: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Features with the mean of a column where a row lacks it; rows without any number stay without.

    With `known` the mean is that over these rows, the ones that are learned from; 0 where none of them has a number.
    Columns without any number are left out.
    """
    there = np.isfinite(features)
    some = there.any(axis=0)
    own = there if known is None else there & known[:, None]
    mean = np.where(own, features, 0).sum(axis=0, dtype=np.float64) / np.maximum(own.sum(axis=0), 1)
    complete = np.where(there, features, mean.astype(np.float32))[:, some]
    complete[~there.any(axis=1)] = np.nan
    return complete
