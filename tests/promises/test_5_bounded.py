"""Memory is priced before anything runs: the forward pass, a GPU, and the rank that feeds it."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.edge.contexts import bare_context
from tests.plugins.tiny_vit import TinyVit

from embedcube.backbones.base import Backbone, Chips, FitSample, Inputs, Weights
from embedcube.backbones.eof import Eof
from embedcube.backbones.mosaiks import Mosaiks
from embedcube.backbones.presto import GROUPS, Encoder, Presto
from embedcube.campaign.how import How
from embedcube.campaign.price import Price, describe
from embedcube.campaign.schema import Precision
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.kernel.embed import blank_chips, forward
from embedcube.kernel.layer import LayerContext, LayerInput
from embedcube.prepare.price import (
    Activations,
    _data_bytes,
    _device_bytes,
    batch_bytes,
    measure_activations,
    refuse_over_limit,
    total_price,
)

CELL_BYTES = 10 + 4 + 1 + 2

A_MEGABYTE = Activations(pass_bytes=0, chip_bytes=1_000_000)


def kernel_on(device: str) -> LayerContext:
    """Shards of 2 x 2 chips of 96 px without a halo, of three bands, in batches of 4; nothing is computed with it."""
    source: LayerInput = LayerInput(archive="s2", source=None, channels=slice(0, 3), counts=True)  # type: ignore[arg-type]
    layout = ShardLayout(chip_px=96, halo_px=0, cell_px=96, chips=2)
    identity = torch.nn.Identity()
    return bare_context(identity, layout, bands=3, batch=4, dimensions=10, inputs=(source,), device=device)


def test_a_gpu_holds_the_batch_and_the_pixels_on_their_way_and_a_rank_pinned_memory() -> None:
    pixels = 192 * 192
    # pixels, their masks, the vectors of one cell a chip, and the forward pass
    batch = 4 * (3 * 3 * 4 + 1) * 96**2 + 4 * 3 * 4 * 10 + 4 * 1_000_000
    cells = 4 * CELL_BYTES
    assert _device_bytes(kernel_on("cpu"), A_MEGABYTE, CELL_BYTES) == 0
    on_gpu = _device_bytes(kernel_on("cuda"), A_MEGABYTE, CELL_BYTES)
    assert on_gpu == 3 * (pixels * (12 + 1) + 4 * 8) + batch + 2 * cells

    on_cpu, beside_gpu = (
        _data_bytes(kernel_on(device), A_MEGABYTE, scenes=2, threads=1, itemsize=2, cell_bytes=CELL_BYTES)
        for device in ("cpu", "cuda")
    )
    # 442,368 bytes of pixels take 524,288 of pinned memory, 36,864 of masks 65,536, 32 of places as many
    assert on_cpu - beside_gpu == batch - 3 * (524_288 - 442_368 + 65_536 - 36_864)


def test_a_layer_that_does_not_fit_into_a_gpu_is_refused() -> None:
    one = Price(
        shards=1, cells=4, chips=4, scenes=2, decoded_bytes=1, needed_bytes=1, cube_bytes=1, files=4, folders=4,
        rank_bytes=1e6, worst_shard="window 0", device_s=1, longest_s=1, device_bytes=3e9,
    )  # fmt: skip
    # one layer's data at a time, and the weights of all
    fits = total_price([one, replace(one, device_bytes=1e9)], [500_000_000, 250_000_000], How(mem_gb=8), 4e9)
    assert fits.device_bytes == 3.75e9
    refuse_over_limit(fits)
    assert "device memory 3.8 GB of 4.0 GB" in describe(fits)
    with pytest.raises(RequestError, match=r"the device would need 3\.75 GB, it has 3\.50 GB; lower batch"):
        refuse_over_limit(replace(fits, device_limit_bytes=3.5e9))
    on_cpu = total_price([one], [1], How(mem_gb=8), 0.0)
    assert on_cpu.device_bytes == 0
    refuse_over_limit(on_cpu)
    assert not any(line.startswith("device memory") for line in describe(on_cpu))


HALO_1 = ShardLayout(chip_px=130, halo_px=1, cell_px=16, chips=2)
TOKENS = ShardLayout(chip_px=128, halo_px=16, cell_px=16, chips=2)
FIELDS = ShardLayout(chip_px=48, halo_px=0, cell_px=48, chips=2)
PIXELS = ShardLayout(chip_px=9, halo_px=0, cell_px=1, chips=2)


def presto_weights(backbone: Presto) -> Weights:
    """A checkpoint of random numbers."""
    file = io.BytesIO()
    torch.save({f"encoder.{name}": tensor for name, tensor in Encoder(tuple(GROUPS)).state_dict().items()}, file)
    return backbone.load(file.getvalue())


def measured_context(
    kind: Callable[..., Backbone], options: dict[str, Any], layout: ShardLayout, bands: tuple[str, ...]
) -> LayerContext:
    """A layer with the backbone's module, in batches of 16."""
    backbone = kind(options, layout, Inputs(bands=(bands,)))
    if isinstance(backbone, Presto):
        weights = presto_weights(backbone)
    else:
        shape = (20, 1, len(bands), layout.chip_px, layout.chip_px)
        pixels = np.random.default_rng(0).uniform(100, 4000, shape).astype(np.float32)
        latitudes = np.linspace(40, 41, 20 * layout.chip_px).reshape(20, -1)
        weights = backbone.fit(FitSample(x_ntcyx=pixels, lat_ny=latitudes))
    source: LayerInput = LayerInput(archive="a", source=None, channels=slice(0, len(bands)), counts=True)  # type: ignore[arg-type]
    return bare_context(
        backbone.module(weights),
        layout,
        bands=len(bands),
        batch=16,
        dimensions=backbone.dimensions(weights),
        inputs=(source,),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "options", "layout", "bands"),
    [
        (Mosaiks, {"filters": 64}, HALO_1, ("B02", "B03", "B04")),
        (Eof, {}, FIELDS, ("t2m", "tp")),
        (Presto, {}, PIXELS, ("VV", "VH")),
        (TinyVit, {"depth": 3}, TOKENS, ("B02", "B03", "B04")),
        (TinyVit, {"stem": 32}, TOKENS, ("B02", "B03", "B04")),
    ],
)
def test_a_forward_pass_takes_no_more_memory_than_its_price_and_not_much_less(
    kind: Callable[..., Backbone],
    options: dict[str, Any],
    layout: ShardLayout,
    bands: tuple[str, ...],
    precision: Precision,
) -> None:
    """The price is a line through two small batches; torch's profiler says what larger ones allocate."""
    context = replace(measured_context(kind, options, layout, bands), precision=precision)
    activations = measure_activations(context)
    assert activations == measure_activations(context)
    for batch in (8, 32):
        larger = replace(context, batch=batch)
        chips = blank_chips(larger)
        with torch.profiler.profile(profile_memory=True) as profile:
            forward(larger, chips)
        assert profile.profiler is not None
        assert profile.profiler.kineto_results is not None
        events = profile.profiler.kineto_results.events()
        allocated = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
        taken = allocated.max() + sum(tensor.nbytes for tensor in vars(chips).values())
        assert 0.3 * activations.of_batch(batch) < allocated.max()
        assert taken <= batch_bytes(larger, activations)


def test_a_batch_that_is_measured_is_never_larger_than_the_layers() -> None:
    sizes: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, chips: Chips) -> torch.Tensor:
            sizes.append(len(chips.x_btcyx))
            return chips.x_btcyx.new_zeros((len(chips.x_btcyx), 1, 1, 3)) + 1

    layout = ShardLayout(chip_px=4, halo_px=0, cell_px=4, chips=2)
    for batch, expected in ((512, [2, 4]), (2, [2])):
        sizes.clear()
        measure_activations(bare_context(Counting(), layout, bands=1, batch=batch, dimensions=3))
        assert sizes == expected
