"""The peer: what a scientist writes with xarray and Dask. `python -m benchmarks.plain_dask CAMPAIGN OUT BLOCK_CHIPS`.

Bands are opened lazily, cut into blocks, mapped through the same module, quantised the same way and written to Zarr
with the same codec. With BLOCK_CHIPS 1 a block is a chip, the plain way; with 4 it is a whole shard, the tuned way.
"""

import sys
import time
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import rioxarray
import torch
import xarray
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from benchmarks.work import campaign_of, chips_of, kernel_of, report
from embedcube.kernel.embed import forward
from embedcube.kernel.quantise import quantise


def main(campaign_file: str, out: str, block_chips: int) -> None:
    """Embed the archive and report the seconds from opening the first file to the last written block."""
    campaign = campaign_of(campaign_file)
    cores = campaign.how.ranks
    torch.set_num_threads(1)
    context = kernel_of(campaign)
    layout, archive = context.layout, campaign.archives["s2"]
    mean, std = context.mean[:, None, None], context.std[:, None, None]

    def embed_block(x_cyx: NDArray[np.uint16]) -> NDArray[np.float32]:
        x = (x_cyx.astype(np.float32) - mean) / std
        x = np.pad(x, ((0, 0), (layout.halo_px,) * 2, (layout.halo_px,) * 2))
        chips = [
            x[:, i * layout.keep_px :, j * layout.keep_px :][:, : layout.chip_px, : layout.chip_px]
            for i in range(block_chips)
            for j in range(block_chips)
        ]
        batches = [
            torch.from_numpy(np.stack(chips[k : k + context.batch]))[:, None]
            for k in range(0, len(chips), context.batch)
        ]
        vectors = np.concatenate([forward(context, chips_of(context, batch)).numpy() for batch in batches])
        n, cells = block_chips, layout.chip_cells
        vectors = vectors.reshape(n, n, cells, cells, -1).transpose(0, 2, 1, 3, 4).reshape(n * cells, n * cells, -1)
        encoded = quantise(torch.from_numpy(np.ascontiguousarray(vectors)), "int8")
        assert encoded.scale is not None
        # one output array for map_blocks: the scale's four bytes ride behind the vector
        return np.concatenate([encoded.stored.numpy(), encoded.scale.numpy()[..., None].view(np.int8)], axis=-1)

    start = time.perf_counter()
    block = block_chips * layout.keep_px
    bands: list[Any] = [
        rioxarray.open_rasterio(archive.path / f"{band}.tif", chunks={"y": block, "x": block}) for band in archive.bands
    ]
    stack = xarray.concat(bands, dim="band").data.rechunk({0: -1})
    side = block_chips * layout.chip_cells
    mapped = dask.array.map_blocks(
        embed_block, stack, dtype=np.int8, drop_axis=0, new_axis=2,
        chunks=((side,) * stack.numblocks[1], (side,) * stack.numblocks[2], (context.dimensions + 4,)),
    )  # fmt: skip
    target: Any = zarr.create_array(
        Path(out), shape=mapped.shape, dtype="int8", chunks=(side, side, mapped.shape[2]),
        compressors=[ZstdCodec(level=1)],
    )  # fmt: skip
    with dask.config.set(scheduler="threads", num_workers=cores):
        dask.array.store(mapped, target, lock=False)
    report({"wall_s": time.perf_counter() - start})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
