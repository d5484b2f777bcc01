"""index: archive to inventory, the table of all scenes (STAC-GeoParquet). No later stage lists directories."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from embedcube.campaign.inventory import noted_before, write_table
from embedcube.campaign.plugins import make_plugin
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.search_extent import bounded
from embedcube.errors import RequestError, StartAgain
from embedcube.prepare.blocks import too_large
from embedcube.progress import Progress, silent
from embedcube.sources.reader import raster_settings

log = logging.getLogger(__name__)


def index(campaign: Campaign, run: RunDir, progress: Progress = silent, *, full_digests: bool = False) -> list[Scene]:
    """Find the scenes of every archive, write the inventory, and return the scenes in its order.

    Raises:
        RequestError: an archive has no usable scene, or scenes have changed in a way that their digests do not show.
        StartAgain: an archive cannot be read for a reason that may pass.
    """
    scenes: list[Scene] = []
    for name, archive in campaign.archives.items():
        found = []
        try:
            with raster_settings(), _without_garbage_collection():
                source = make_plugin("sources", archive.source, f"archives.{name}", name, bounded(campaign, name))
                for scene in source.scenes(full_digests=full_digests):
                    large = "" if scene.verdict else too_large(scene, campaign.how)
                    found.append(replace(scene, verdict=large) if large else scene)
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
    _refuse_unseen_changes(run, scenes)
    with replacing(run.inventory) as temporary:
        write_table(campaign, scenes, temporary)
    return scenes


def _refuse_unseen_changes(run: RunDir, scenes: list[Scene]) -> None:
    """Refuse scenes with other bytes than in the inventory before this one, if their digests are the same.

    Their shards would count as done. Scenes that were touched, and may have changed, are counted in a warning.
    """
    changed: list[Scene] = []
    touched: list[Scene] = []
    before = noted_before(run)
    for scene in scenes:
        digest, notes = before.get((scene.archive, scene.id), ("", []))
        noted = [asset.noted for asset in scene.assets]
        if digest != scene.digest or notes == noted or not (scene.weak or scene.declared):
            continue
        samples = [(one.sample, other.sample) for one, other in zip(notes, noted, strict=True)]
        (changed if any(one and other and one != other for one, other in samples) else touched).append(scene)
    if changed:
        raise RequestError(
            f"{len(changed)} scenes have other bytes than at the last `embedcube index`, and the same digests, which "
            f"do not cover all bytes; the first is {changed[0].id}. Run `embedcube index --digest full`"
        )
    if touched:
        log.warning(
            "%d scenes were touched since the last `embedcube index`, %s is the first one; their digests, which do not "
            "cover all bytes, are the same. `embedcube index --digest full` looks at all bytes",
            len(touched),
            touched[0].id,
        )


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
