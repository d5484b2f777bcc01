"""index: archive to inventory, the table of all scenes (STAC-GeoParquet). No later stage lists directories."""

import gc
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from embedcube.campaign.inventory import write_table
from embedcube.campaign.plugins import distribution, make_plugin
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.scene import Scene, unforeseen
from embedcube.campaign.schema import Archive, Campaign
from embedcube.campaign.search_extent import bounded
from embedcube.errors import EmbedcubeError, RequestError, StartAgain, WorkError
from embedcube.printable import printable
from embedcube.progress import Progress, silent
from embedcube.sources.catalog.files import lasting, not_utf_8, unusable_name
from embedcube.sources.catalog.products import product_id
from embedcube.sources.reader import raster_settings

_VERDICT = 2000
"""most characters of a verdict"""

log = logging.getLogger(__name__)


def index(campaign: Campaign, run: RunDir, progress: Progress = silent, *, full_digests: bool = False) -> list[Scene]:
    """Find the scenes of every archive, write the inventory, and return the scenes in its order.

    Raises:
        RequestError: an archive has no usable scene, or a part of it may not be read.
        WorkError: no scene of an archive can be used because of one error that was not meant to happen.
        StartAgain: an archive cannot be read for a reason that may pass.
    """
    scenes: list[Scene] = []
    for name, archive in campaign.archives.items():
        found: list[Scene] = []
        if words := not_utf_8(str(archive.path)):
            raise RequestError(f"archives.{name}: {printable(archive.path)} {words}")
        try:
            with raster_settings(), _without_garbage_collection():
                source = make_plugin("sources", archive.source, f"archives.{name}", name, bounded(campaign, name))
                for scene in source.scenes(full_digests=full_digests):
                    found.append(_storable(scene))
                    progress(len(scenes) + len(found), None)
        except OSError as error:
            if words := lasting(error):
                place = printable(error.filename or archive.path)
                raise RequestError(f"archives.{name}: {place} {words}; this will not pass") from None
            raise StartAgain(f"archives.{name}: {error}; start again when {archive.path} can be read") from None
        except EmbedcubeError:
            raise
        except Exception as error:
            after = f"after {len(found)} scenes {unforeseen(error)}"
            raise WorkError(f"archives.{name}: {after}; {_perhaps_a_bug(archive)}") from error
        _refuse_without_scenes(name, archive, found)
        scenes.extend(found)
    with replacing(run.inventory) as temporary:
        write_table(campaign, scenes, temporary)
    return scenes


def _storable(scene: Scene) -> Scene:
    """The scene with texts that can be printed and stored.

    Whatever the source: no credentials, no control characters, no text without end; and no file that has them in its
    name, as its path must stay what it is.
    """
    wrong = [f"{asset.path} {words}" for asset in scene.assets if (words := unusable_name(asset.path + asset.inner))]
    verdict = printable("; ".join(filter(None, (scene.verdict, *wrong))), _VERDICT)
    ids = product_id(scene.id), product_id(scene.acquisition), product_id(scene.superseded_by)
    processing = printable(scene.processing, _VERDICT)
    if (*ids, verdict, processing) == (
        scene.id, scene.acquisition, scene.superseded_by, scene.verdict, scene.processing,
    ):  # fmt: skip
        return scene  # as nearly all are
    changed = replace(scene, id=ids[0], acquisition=ids[1], superseded_by=ids[2], verdict=verdict)
    return replace(changed, processing=processing, assets=() if wrong else scene.assets)


def _refuse_without_scenes(name: str, archive: Archive, found: Sequence[Scene]) -> None:
    """Refuse an archive none of whose scenes can be used; warn of errors that were not meant to happen."""
    if not found:
        raise RequestError(f"archives.{name}: no scene found in {archive.path}")
    first = next((scene for scene in found if scene.unforeseen), found[0])
    bugs = Counter(scene.unforeseen for scene in found if scene.unforeseen)
    unusable = all(scene.verdict for scene in found)
    if unusable and bugs.total() == len(found) and len(bugs) == 1:
        raise WorkError(
            f"archives.{name}: all {len(found)} scenes ended with an unforeseen {first.unforeseen}, the first one, "
            f"{first.id}: {first.verdict}; {_perhaps_a_bug(archive)}"
        )
    if unusable:
        raise RequestError(
            f"archives.{name}: none of {len(found)} scenes in {archive.path} can be used; "
            f"the first one, {found[0].id}: {found[0].verdict}"
        )
    for error, count in bugs.items():
        words = "archives.%s: %d of %d scenes ended with an unforeseen %s; %s"
        log.warning(words, name, count, len(found), error, _perhaps_a_bug(archive))


def _perhaps_a_bug(archive: Archive) -> str:
    package = distribution("sources", archive.source) or "embedcube"
    return f"this may be a bug of the source {archive.source} (package {package}): --debug shows where"


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
