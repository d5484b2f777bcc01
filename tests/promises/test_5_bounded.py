"""The memory of a GPU is priced beside that of the rank that feeds it."""

from dataclasses import replace

import pytest
import torch
from tests.edge.contexts import bare_context

from embedcube.campaign.how import How
from embedcube.campaign.price import Price, describe
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.kernel.layer import LayerContext, LayerInput
from embedcube.prepare.price import _data_bytes, _device_bytes, refuse_over_limit, total_price

CELL_BYTES = 10 + 4 + 1 + 2


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
    assert _device_bytes(kernel_on("cpu"), lambda batch: batch * 1_000_000, CELL_BYTES) == 0
    on_gpu = _device_bytes(kernel_on("cuda"), lambda batch: batch * 1_000_000, CELL_BYTES)
    assert on_gpu == 3 * (pixels * (12 + 1) + 4 * 8) + batch + 2 * cells

    on_cpu, beside_gpu = (
        _data_bytes(
            kernel_on(device), lambda batch: batch * 1_000_000, scenes=2, threads=1, itemsize=2, cell_bytes=CELL_BYTES
        )
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
