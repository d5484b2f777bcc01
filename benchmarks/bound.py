"""The physical bound: CPU seconds of forward, decode-once and encode, alone.

`python -m benchmarks.bound CAMPAIGN PART PARTS` does one part of the work: run at once on all cores, the parts find
the machine as `embed` does, whose cores share their clock and their caches. When it is ready to begin it says so in
a line, and waits for one.
"""

import sys
import time

import numpy as np
import rasterio
import torch

from benchmarks.work import campaign_of, chips_of, kernel_of, report
from embedcube.campaign.plan import read_plan
from embedcube.campaign.run_folder import RunDir
from embedcube.cube.arrays import ShardEncoder, array_specs
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.embed import forward
from embedcube.kernel.quantise import quantise


def main(campaign_file: str, part: int, parts: int) -> None:
    """Report the CPU seconds of each, on one thread, for a part of the campaign."""
    campaign = campaign_of(campaign_file)
    run = RunDir(campaign.run_folder)
    exact_arithmetic(1)
    plan = read_plan(campaign, run)
    price, planned = plan.price, plan.layers["layer"]
    program = b""
    if planned.program:
        program = run.program("layer", planned.compiled_for, planned.program).read_bytes()
    context = kernel_of(campaign, program)
    layout = context.layout

    batch = chips_of(context, torch.rand((context.batch, 1, context.mean.size, layout.chip_px, layout.chip_px)))
    forward(context, batch)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.process_time()
    for _ in range(part, price.chips // context.batch, parts):
        forward(context, batch)
    forward_s = time.process_time() - start

    start = time.process_time()
    for path in sorted(campaign.archives["s2"].path.glob("*.tif"))[part::parts]:
        with rasterio.open(path) as dataset:
            dataset.read(1)
    decode_s = time.process_time() - start

    specs = array_specs(cells=layout.shard_cells, dimensions=context.dimensions, encoding=context.encoding)
    encoder = ShardEncoder(specs)
    shape = (layout.shard_cells, layout.shard_cells)
    vectors = np.random.default_rng(0).standard_normal((*shape, context.dimensions), dtype=np.float32)
    start = time.process_time()
    for _ in range(part, price.shards, parts):
        encoded = quantise(torch.from_numpy(vectors), context.encoding)
        assert encoded.scale is not None
        status, n_obs = np.ones(shape, np.uint8), np.ones(shape, np.uint16)
        encoder.encode(
            {"embedding": encoded.stored.numpy(), "scale": encoded.scale.numpy(), "status": status, "n_obs": n_obs}
        )
    encode_s = time.process_time() - start
    report({"forward_s": forward_s, "decode_s": decode_s, "encode_s": encode_s})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
