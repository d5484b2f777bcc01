"""On a GPU: every run gives the same cube, it is close to a cube of a CPU, and steps are timed by the GPU's clock."""

import shutil
import time

import numpy as np
import pytest
import torch
import xarray
from tests.conftest import Campaign, cube_bytes

from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.embed import embed_stage, read_stage
from embedcube.kernel.load import load_context
from embedcube.sources.reader import RasterReader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]


@pytest.fixture
def on_gpu(demo: Campaign) -> Campaign:
    """The demo with a campaign that is embedded on a GPU."""
    demo.change(lambda document: document["how"].update(device="cuda", ranks=1))
    return demo


def test_a_gpu_gives_the_same_cube_each_time_and_nearly_that_of_a_cpu(
    on_gpu: Campaign, finished_demo: Campaign
) -> None:
    found = []
    for _ in range(2):
        on_gpu.cli("run")
        found.append(cube_bytes(on_gpu.run.newest_cube))
        shutil.rmtree(on_gpu.run.parts)
        shutil.rmtree(on_gpu.run.cubes)
    assert found[0] == found[1]
    on_gpu.cli("run")
    cubes = []
    for campaign in (on_gpu, finished_demo):
        with xarray.open_zarr(campaign.run.newest_cube / "s2_mosaiks" / "grid", consolidated=False) as zone:
            cubes.append(zone.load())
    np.testing.assert_array_equal(cubes[0].status, cubes[1].status)
    off = np.abs(cubes[0].embedding.to_numpy().astype(int) - cubes[1].embedding.to_numpy().astype(int))
    # docs/adr/0004
    assert off.max() <= 1
    assert (off == 0).mean() >= 0.995


def test_its_steps_are_timed_by_its_own_clock(on_gpu: Campaign) -> None:
    on_gpu.cli("run", "--until", "plan")
    campaign, run = load_campaign(on_gpu.file), on_gpu.run
    plan, scenes = read_plan(campaign, run), read_inventory(campaign, run)
    exact_arithmetic(1)
    context = load_context(
        campaign, "s2_mosaiks", ["grid"], read_weights(campaign, run, "s2_mosaiks")[0], torch.device("cuda"), batch=2
    )
    shard = read_shards(run, plan)[0][0]
    reader = RasterReader(1)
    try:
        read = read_stage(shard, [scenes[i] for i in shard.scenes], context, reader)
    finally:
        reader.close()
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    embed_stage(read)
    wall_s = time.perf_counter() - start_s
    seconds = read.timings.seconds
    assert seconds["forward"] > 0
    assert sum(seconds[step] for step in ("wait", "copy", "forward", "quantise")) <= wall_s
