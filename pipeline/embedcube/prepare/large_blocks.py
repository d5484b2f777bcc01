"""Blocks of files that are too large for a rank: a few bytes may hold a block of many GB.

`index`, `fit` and `plan` use one rule, with all that a rank needs beside blocks: a header that asks for too much costs
its scene, and nothing else.
"""

from collections.abc import Sequence

from embedcube.campaign.how import How
from embedcube.campaign.scene import Asset, Scene
from embedcube.errors import RequestError
from embedcube.kernel.memory import PROCESS_BYTES

_SHARE = 2
"""blocks may take one part in so many of the memory for data; the rest is for the pixels of shards and the backbone"""


def decoded_at_once(asset: Asset, threads: int) -> int:
    """Bytes of a file's blocks that a rank decodes at once: a series is read by one thread, one block at a time."""
    return asset.block_bytes * (threads if asset.steps == 1 else 1)


def block_limit(how: How) -> int:
    """Most bytes that the blocks of a file may take in a rank.

    Where a rank has no memory for data at all, that is what `plan` refuses, and not the scenes.
    """
    for_data = how.mem_bytes_per_rank - PROCESS_BYTES - (how.cache_mb << 20)
    return for_data // _SHARE if for_data > 0 else how.mem_bytes_per_rank


def too_large(scene: Scene, how: How) -> str:
    """Why no rank can read a scene: its blocks need more memory than a rank has for them; empty if they all fit."""
    limit_bytes, threads = block_limit(how), how.threads_per_rank
    # no figure of `how`: the words are in the digest of the scene
    return "; ".join(
        f"{asset.band}: {asset.path} has blocks of {asset.block_rows} x {asset.block_cols} pixels, "
        f"{asset.block_bytes / 1e9:.2f} GB as decoded, more than a rank has for all blocks that it decodes at once "
        "(how.mem_gb, how.threads)"
        for asset in scene.assets
        if decoded_at_once(asset, threads) > limit_bytes
    )


def refuse_too_large(scenes: Sequence[Scene], how: How) -> None:
    """Raise a RequestError if the inventory has a usable scene that a rank cannot read."""
    for scene in scenes:
        if not scene.verdict and (reason := too_large(scene, how)):
            raise RequestError(
                f"{scene.archive}: {scene.id}: {reason}. Raise how.mem_gb, or run `embedcube index` again to go on "
                "without this scene"
            )
