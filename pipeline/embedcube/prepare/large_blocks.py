"""Blocks of files that are too large for a rank: a few bytes may hold a block of many GB."""

from collections.abc import Sequence

from embedcube.campaign.how import How
from embedcube.campaign.scene import Scene
from embedcube.errors import RequestError


def too_large(scene: Scene, how: How) -> str:
    """Why no rank can read a scene: one block needs more memory than a rank may take; empty if they all fit."""
    limit_bytes = how.mem_bytes_per_rank
    return "; ".join(
        f"{asset.band}: {asset.path} has blocks of {asset.block_rows} x {asset.block_cols} pixels, "
        f"{asset.block_bytes / 1e9:.2f} GB as decoded, and a rank may take {limit_bytes / 1e9:.2f} GB (how.mem_gb)"
        for asset in scene.assets
        if asset.block_bytes > limit_bytes
    )


def refuse_too_large(scenes: Sequence[Scene], how: How) -> None:
    """Raise a RequestError if the inventory has a usable scene that a rank cannot read."""
    for scene in scenes:
        if not scene.verdict and (reason := too_large(scene, how)):
            raise RequestError(
                f"{scene.archive}: {scene.id}: {reason}. Raise how.mem_gb, or run `embedcube index` again to go on "
                "without this scene"
            )
