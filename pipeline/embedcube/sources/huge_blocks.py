"""Blocks of files that nobody is to decode: a few bytes may hold a block of many GB. The bounds are for all."""

from dataclasses import replace
from typing import Any

import numpy as np
from rasterio.enums import Interleaving

from embedcube.campaign.scene import Asset, Scene

LARGEST_BLOCK = 1 << 32
"""bytes of a block as decoded, at most: that much a chunk of HDF5 may have"""

_LARGE = 1 << 27
"""bytes of a block from which on it is compared with its image"""

_BEYOND = 4
"""times the pixels of its image that a large block may have, as the last tile reaches beyond the image's edge"""


def without_huge_blocks(scene: Scene) -> Scene:
    """The scene; if one of its files has blocks that are too large, that is the verdict, and nobody reads it."""
    words = "" if scene.verdict else "; ".join(words for asset in scene.assets if (words := _words(asset)))
    return replace(scene, verdict=words) if words else scene


def _words(asset: Asset) -> str:
    shape = f"{asset.band}: {asset.path} has blocks of {asset.block_rows} x {asset.block_cols} pixels"
    size = f"{asset.block_bytes / 1e9:.2f} GB as decoded"
    if asset.block_bytes > LARGEST_BLOCK:
        most = f"a block may have {LARGEST_BLOCK / 1e9:.2f} GB"
        return f"{shape}, {size}; {most}: write the file with smaller blocks"
    pixels = asset.rows * asset.cols
    if asset.steps == 1 and asset.block_bytes > _LARGE and asset.block_rows * asset.block_cols > _BEYOND * pixels:
        return f"{shape}, {size}, for an image of {asset.rows} x {asset.cols}: its header is damaged; copy it again"
    return ""


def block_bytes_of(dataset: Any, index: int) -> int:
    """Memory of one block of a band as decoded, with the other bands where they are stored together."""
    rows, cols = dataset.block_shapes[index - 1]
    together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
    # a decoder of JPEG 2000 computes in 32 bits
    itemsize = max(np.dtype(dataset.dtypes[index - 1]).itemsize, 4 if dataset.driver.startswith("JP2") else 1)
    return int(rows * cols * itemsize * together)
