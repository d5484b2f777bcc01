"""The price of a campaign before anything runs: memory, bytes, files, time. Memory is an upper bound."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from embedcube.backbones.live_bytes import LiveBytes
from embedcube.campaign.how import How
from embedcube.campaign.price import Price
from embedcube.campaign.resampling import nesting
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Layer
from embedcube.cube.arrays import layer_specs, object_shape
from embedcube.errors import RequestError
from embedcube.kernel.embed import blank_chips, forward
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.memory import PROCESS_BYTES, SAMPLES_IN_FLIGHT
from embedcube.prepare.draw_groups import ReadCost
from embedcube.prepare.large_blocks import decoded_at_once, is_read
from embedcube.prepare.pieces import Linked, Pieces

DECODE_BYTES_PER_S = 100e6
"""decoded bytes of a deflate or zstd GeoTIFF per second and core, as measured; only used to balance tasks and to
estimate times"""

WARP_BYTES = 140
"""bytes per pixel of a sample while a reading thread warps a band to it (132 were measured)"""

TENSORS_TO_MEMORY = 2
"""memory of a forward pass on a CPU, relative to the tensors that it makes: kernels take memory of their own, and
oneDNN's convolutions hold their result in a second layout (1.0 to 2.0 were measured)"""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Memory of one forward pass, without weights and chips; made by `measure_activations`."""

    pass_bytes: float
    """part that does not depend on the batch"""
    chip_bytes: float
    """part of each chip of the batch"""

    def of_batch(self, batch: int) -> float:
        """Bytes of a forward pass of `batch` chips."""
        return self.pass_bytes + batch * self.chip_bytes


def price_layer(
    layer: Layer,
    pieces: Pieces,
    linked: Linked,
    scenes: Sequence[Scene],
    deep: int,
    reading: ReadCost,
    batch_s: float,
    threads: int,
    context: LayerContext,
    activations: Activations,
) -> Price:
    """The price of one layer in one zone; `batch_s` are the seconds of one forward pass.

    `scenes` are those of the layer, of which at most `deep` lie over each other at one place of a shard.
    """
    layout = context.layout
    chips = len(pieces) * layout.chips**2
    cells = len(pieces) * layout.shard_cells**2
    specs = layer_specs(layout, dimensions=context.dimensions, encoding=layer.encoding)
    features = {"embedding": context.dimensions}
    cell_bytes = sum(np.dtype(s.dtype).itemsize * features.get(s.name, 1) for s in specs)
    # a series of fields is checked on disk, never read whole
    largest_file = max((a.size for s in scenes for a in s.assets if a.steps == 1), default=0)
    largest_block = max((decoded_at_once(a, threads) for s in scenes if is_read(s) for a in s.assets), default=0)
    warped = any(nesting(a, grid) is None for grid in context.grids.values() for s in scenes for a in s.assets)
    warping = threads * layout.sample_px**2 * WARP_BYTES if warped else 0
    itemsize = max((np.dtype(a.dtype).itemsize for s in scenes for a in s.assets), default=2)
    return Price(
        shards=len(pieces),
        cells=cells,
        chips=chips,
        scenes=linked.links,
        decoded_bytes=float(reading.decoded.sum()),
        needed_bytes=reading.needed_bytes,
        cube_bytes=float(cells * cell_bytes),
        files=_blocks(layer, pieces, context) * len(specs),
        folders=len(specs),
        rank_bytes=PROCESS_BYTES
        # a file that does not decode is read whole, to find out whether its bytes are wrong
        + largest_file
        + largest_block
        + warping
        + _data_bytes(context, activations, deep, threads, itemsize, cell_bytes),
        worst_shard="window {}, row {}, column {} of the shard lattice, {} scenes".format(*linked.worst, linked.most),
        device_s=batch_s * -(-chips // context.batch),
        longest_s=float(reading.decoded.max()) / DECODE_BYTES_PER_S + batch_s * -(-(layout.chips**2) // context.batch),
        device_bytes=_device_bytes(context, activations, cell_bytes),
    )


def _blocks(layer: Layer, pieces: Pieces, context: LayerContext) -> int:
    """Number of blocks of shards that are one object in each array of the cube."""
    objects = object_shape(
        context.layout, dimensions=context.dimensions, encoding=layer.encoding, windows=layer.chunk_windows
    )
    places = np.stack([pieces.row // objects.rows, pieces.col // objects.cols])
    return int(np.unique(places, axis=1).shape[1]) * -(-pieces.windows // (layer.chunk_windows * objects.windows))


def _data_bytes(
    context: LayerContext, activations: Activations, scenes: int, threads: int, itemsize: int, cell_bytes: int
) -> float:
    """Memory of a rank's data at a shard with so many scenes; on a CPU with the batch."""
    layout, bands = context.layout, context.mean.size
    pixels = layout.sample_px**2
    on_gpu = context.device.type == "cuda"
    # a scene's bands as read and stacked, then compared in pairs by the median; its masks and their counts
    observations = scenes * pixels * (2 * bands * itemsize + 2 * itemsize + 4)
    # scenes that are read at once, while their values are converted
    observations += max(1, min(threads, scenes)) * pixels * bands * (2 * itemsize + 4)
    # torch allocates pinned memory in powers of two (CachingHostAllocator)
    arrays = [1 << (size - 1).bit_length() if on_gpu else size for size in _sample_arrays(context)]
    samples = SAMPLES_IN_FLIGHT * sum(arrays)
    # encoded cells: being filled, waiting, and being compressed
    cells = 4 * layout.shard_cells**2 * cell_bytes
    return observations + samples + cells + (0 if on_gpu else batch_bytes(context, activations))


def _sample_arrays(context: LayerContext) -> tuple[int, int, int]:
    """Bytes of a sample's pixels, of its masks, and of the cells' longitudes and latitudes."""
    pixels = len(context.frames[0]) * context.layout.sample_px**2
    return 4 * context.mean.size * pixels, len(context.inputs) * pixels, 8 * context.layout.shard_cells**2


def _device_bytes(context: LayerContext, activations: Activations, cell_bytes: int) -> float:
    """Memory of a GPU: samples in flight, a batch, and the cells before and after an update; 0 for a CPU."""
    if context.device.type != "cuda":
        return 0.0
    cells = 2 * context.layout.shard_cells**2 * cell_bytes
    return SAMPLES_IN_FLIGHT * sum(_sample_arrays(context)) + batch_bytes(context, activations) + cells


def batch_bytes(context: LayerContext, activations: Activations) -> float:
    """Memory of the chips of one batch, of their forward pass, and of their vectors while they are quantised."""
    chip = len(context.frames[0]) * (3 * context.mean.size * 4 + len(context.inputs)) * context.layout.chip_px**2
    vectors = 3 * 4 * context.layout.chip_cells**2 * context.dimensions
    return context.batch * (chip + vectors) + activations.of_batch(context.batch)


def measure_activations(context: LayerContext) -> Activations:
    """Memory of the layer's forward pass, measured over 2 and over 4 blank chips; other batches lie on that line.

    The context's batch itself is never run: it may not fit. A context with a batch of 2 is measured with 2 chips alone.
    The context's module must not be compiled.
    """
    module, device = context.module, context.device
    base_bytes: int = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    def measure(batch: int) -> float:
        few = replace(context, batch=batch)
        chips = blank_chips(few)
        inputs: tuple[torch.Tensor, ...] = tuple(vars(chips).values())
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            forward(few, chips)
            peak_bytes: int = torch.cuda.max_memory_allocated(device)
            return peak_bytes - base_bytes - sum(tensor.nbytes for tensor in inputs)
        live = LiveBytes((*module.parameters(), *module.buffers(), *inputs))
        with live:
            forward(few, chips)
        return TENSORS_TO_MEMORY * live.peak

    two_bytes = measure(2)
    chip_bytes = max(0, measure(4) - two_bytes) / 2 if context.batch > 2 else two_bytes / 2
    return Activations(pass_bytes=max(0, two_bytes - 2 * chip_bytes), chip_bytes=chip_bytes)


def seconds_per_batch(context: LayerContext, passes: int = 1) -> float:
    """Seconds of one forward pass of a full batch, measured now: the fastest of `passes`, after one to warm up."""
    chips = blank_chips(context)
    forward(context, chips).cpu()
    seconds = []
    for _ in range(passes):
        start_s = time.perf_counter()
        forward(context, chips).cpu()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds)


def total_price(prices: list[Price], weights_bytes: list[int], how: How, device_limit_bytes: float) -> Price:
    """The price of all layers: a rank holds the weights of all, the data of one, and the cache of decoded blocks.

    `device_limit_bytes` is the memory of the GPU, 0 where there is none; it holds all weights and one layer's data too.
    """
    # while weights are broadcast, a layer's exist as bytes, as arrays and as a module
    weights = sum(weights_bytes) + 3 * max(weights_bytes)
    worst = max(prices, key=lambda price: price.rank_bytes)
    return Price(
        shards=sum(p.shards for p in prices),
        cells=sum(p.cells for p in prices),
        chips=sum(p.chips for p in prices),
        scenes=sum(p.scenes for p in prices),
        decoded_bytes=sum(p.decoded_bytes for p in prices),
        needed_bytes=sum(p.needed_bytes for p in prices),
        cube_bytes=sum(p.cube_bytes for p in prices),
        files=sum(p.files for p in prices),
        folders=sum(p.folders for p in prices),
        rank_bytes=worst.rank_bytes + weights + (how.cache_mb << 20),
        worst_shard=worst.worst_shard,
        device_s=sum(p.device_s for p in prices),
        longest_s=max(p.longest_s for p in prices),
        device_bytes=max(p.device_bytes for p in prices) + sum(weights_bytes) if device_limit_bytes else 0.0,
        limit_bytes=how.mem_bytes_per_rank,
        device_limit_bytes=device_limit_bytes,
        reads=sum(p.reads for p in prices),
    )


def input_bytes(scenes: Iterable[Scene]) -> float:
    """Size of the files of these scenes and of the masks beside them, each once."""
    files: dict[tuple[str, str], int] = {}
    for scene in scenes:
        for asset in scene.assets:
            files[scene.archive, asset.path] = asset.size
            if asset.mask_digest:
                files[scene.archive, asset.path + asset.mask] = asset.mask_size
    return float(sum(files.values()))


def fit_bytes(chips: int, numbers: int) -> int:
    """Memory of a fit on `chips` chips of `numbers` values each: of their singular value decomposition.

    It is the sum of the chips in float32, read and stacked (8 bytes a value), several copies of their anomalies in
    float64 (52 bytes were measured, 60 are taken), and LAPACK's square matrices (gesdd: 3.5 measured, 4 taken).
    """
    return PROCESS_BYTES + (8 + 60) * chips * numbers + 4 * 8 * min(chips, numbers) ** 2


def refuse_large_fit(layer: str, chips: int, numbers: int, how: How, *, decomposed: bool = True) -> None:
    """Raise a RequestError if a fit on chips needs more memory than a node's ranks may take together.

    Chips that are not `decomposed` as a whole take 32 bytes a value: read and stacked in float32, and three copies in
    float64 (28 were counted, in the fit of mosaiks).
    """
    needed = fit_bytes(chips, numbers) if decomposed else PROCESS_BYTES + 32 * chips * numbers
    limit, which = how.mem_bytes_per_rank * how.ranks, "all " if decomposed else ""
    if needed > limit:
        raise RequestError(
            f"layers.{layer}: a fit on {which}{chips:,} chips of {numbers:,} numbers would take {needed / 1e9:.2f} GB, "
            f"the ranks together may take {limit / 1e9:.2f} GB. Set a shorter period as `fit`, lower chip_px, raise "
            "how.mem_gb, or name weights that were fitted elsewhere"
        )


def over_limit(price: Price) -> str:
    """Why a rank cannot embed the worst shard: more memory than it may take, or than its GPU has; empty if it can."""
    if price.rank_bytes > price.limit_bytes:
        return (
            f"a rank would need {price.rank_bytes / 1e9:.2f} GB, it may take {price.limit_bytes / 1e9:.2f} GB; "
            f"the worst shard is {price.worst_shard}. Lower shard_chips, batch or how.cache_mb, shorten the windows, "
            "or raise how.mem_gb"
        )
    if price.device_bytes > price.device_limit_bytes:
        return (
            f"the device would need {price.device_bytes / 1e9:.2f} GB, it has {price.device_limit_bytes / 1e9:.2f} GB; "
            "lower batch, chip_px or shard_chips"
        )
    return ""


def refuse_over_limit(price: Price) -> None:
    """Raise a RequestError if the worst shard needs more memory than a rank may take, or than its GPU has."""
    if reason := over_limit(price):
        raise RequestError(reason)
