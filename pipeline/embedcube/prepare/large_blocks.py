"""Blocks of files that are too large for a rank: a few bytes may hold a block of many GB.

`index` has one bound, whatever machine and whatever `how` (`sources/huge_blocks.py`): a cube does not depend on the
memory of who makes it. `fit` and `plan` compare the blocks below it with the memory of a rank, and refuse where that is
too little: no scene is dropped for it.
"""

from collections.abc import Collection, Sequence
from math import ceil

from embedcube.campaign.how import How
from embedcube.campaign.scene import Asset, Scene
from embedcube.errors import RequestError
from embedcube.kernel.memory import PROCESS_BYTES
from embedcube.printable import printable

_SHARE = 2
"""blocks may take one part in so many of the memory for data; the rest is for the pixels of shards and the backbone"""


def decoded_at_once(asset: Asset, threads: int) -> int:
    """Bytes of a file's blocks that a rank decodes at once: a series is read by one thread, one block at a time."""
    return asset.block_bytes * (threads if asset.steps == 1 else 1)


def is_read(scene: Scene) -> bool:
    """Whether a shard may read the scene: nothing is wrong with it, and no other is used instead."""
    return not scene.verdict and not scene.superseded_by


def refuse_too_large(scenes: Sequence[Scene], archives: Collection[str], how: How) -> None:
    """Raise a RequestError if a rank has too little memory for the blocks of a scene; it says how much it needs.

    Only scenes of these archives count that a shard may read. Where a rank has no memory for data at all, `plan` says
    that of its shards.
    """
    beside = PROCESS_BYTES + (how.cache_mb << 20)
    for_data, threads = how.mem_bytes_per_rank - beside, how.threads_per_rank
    if for_data <= 0:
        return
    usable = [scene for scene in scenes if scene.archive in archives and is_read(scene)]
    of_scene = [max((decoded_at_once(asset, threads) for asset in scene.assets), default=0) for scene in usable]
    largest = max(of_scene, default=0)
    if largest * _SHARE > for_data:
        scene = usable[of_scene.index(largest)]
        needed_gb = ceil((largest * _SHARE + beside) / 1e8) / 10
        # a rank may have them without how.threads
        fewer = f"how.threads to less than {threads}, " if threads > 1 else ""
        raise RequestError(
            f"{scene.archive}: {printable(scene.id, 60)}: a rank of {threads} threads decodes blocks of "
            f"{largest / 1e9:.2f} GB at once, and how.mem_gb ({how.mem_bytes_per_rank / 1e9:.1f}) leaves "
            f"{for_data // _SHARE / 1e9:.2f} for them; set it to {needed_gb:.1f} or more, {fewer}or write the "
            "file with smaller blocks"
        )
