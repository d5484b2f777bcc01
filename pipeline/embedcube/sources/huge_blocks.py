"""Blocks of files that nobody is to decode: a few bytes may hold a block of many GB. The bound is one for all."""

from embedcube.campaign.scene import Scene

LARGEST_BLOCK = 1 << 32
"""bytes of a block as decoded, at most: that much a chunk of HDF5 may have"""


def too_large(scene: Scene) -> str:
    """Why nobody is to read a scene: a block of it has more than LARGEST_BLOCK bytes; empty if none has."""
    return "; ".join(
        f"{asset.band}: {asset.path} has blocks of {asset.block_rows} x {asset.block_cols} pixels, "
        f"{asset.block_bytes / 1e9:.2f} GB as decoded; a block may have {LARGEST_BLOCK / 1e9:.2f} GB: write the file "
        "with smaller blocks"
        for asset in scene.assets
        if asset.block_bytes > LARGEST_BLOCK
    )
