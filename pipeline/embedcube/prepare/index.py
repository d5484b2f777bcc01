"""index: archive to inventory, the table of all scenes (STAC-GeoParquet). No later stage lists directories."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from embedcube.campaign.inventory import write_inventory
from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.search_extent import bounded
from embedcube.errors import RequestError, StartAgain
from embedcube.progress import Progress, silent
from embedcube.sources.reader import raster_settings


def index(campaign: Campaign, run: RunDir, progress: Progress = silent, *, full_digests: bool = False) -> list[Scene]:
    """Find the scenes of every archive, write the inventory, and return the scenes in its order.

    Raises:
        RequestError: an archive has no usable scene.
        StartAgain: an archive cannot be read for a reason that may pass.
    """
    scenes: list[Scene] = []
    for name, archive in campaign.archives.items():
        found = []
        try:
            with raster_settings(), _without_garbage_collection():
                source = make_plugin("sources", archive.source, f"archives.{name}", name, bounded(campaign, name))
                for scene in source.scenes(full_digests=full_digests):
                    found.append(scene)
                    progress(len(scenes) + len(found), None)
        except OSError as error:
            raise StartAgain(f"archives.{name}: {error}; start again when {archive.path} can be read") from None
        if not found:
            raise RequestError(f"archives.{name}: no scene found in {archive.path}")
        if all(scene.verdict for scene in found):
            raise RequestError(
                f"archives.{name}: none of {len(found)} scenes in {archive.path} can be used; "
                f"the first one, {found[0].id}: {found[0].verdict}"
            )
        scenes.extend(found)
    write_inventory(campaign, scenes, run)
    return scenes


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Turn off Python's garbage collector, which takes long on the millions of objects of a large archive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
