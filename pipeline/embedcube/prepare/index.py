"""index: archive to inventory, the table of all scenes (STAC-GeoParquet). No later stage lists directories."""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import pyproj
import rasterio

from embedcube.campaign.inventory import asked_of, write_inventory
from embedcube.campaign.inventory_rows import Earlier, Pieces, Text
from embedcube.campaign.plugins import distribution, make_plugin
from embedcube.campaign.remembered import memories, remembering
from embedcube.campaign.remembered_scene import RememberedScene
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene, unforeseen
from embedcube.campaign.schema import Archive, Campaign, digest_of
from embedcube.campaign.search_extent import bounded
from embedcube.errors import EmbedcubeError, RequestError, StartAgain, WorkError
from embedcube.prepare.refusals import no_scene_in, with_next_move
from embedcube.printable import printable
from embedcube.progress import Progress, silent
from embedcube.sources.catalog.files import lasting, not_utf_8
from embedcube.sources.catalog.pool import keeping_processes, spread
from embedcube.sources.catalog.scenes import storable
from embedcube.sources.huge_blocks import without_huge_blocks
from embedcube.sources.opening import raster_settings

R = TypeVar("R")

log = logging.getLogger(__name__)


def index(
    campaign: Campaign, run: RunDir, progress: Progress = silent, *, full_digests: bool = False, again: bool = False
) -> list[Scene]:
    """Find the scenes of every archive, write the inventory, and return the scenes in its order.

    What the last `index` found out of files that have not changed since is taken from what it remembered, unless with
    `again` or `full_digests`. The inventory is the same, byte for byte.

    Raises:
        RequestError: an archive has no usable scene, a part of it may not be read, or scenes have changed in a way that
            their digests do not show.
        WorkError: no scene of an archive can be used because of one error that was not meant to happen.
        StartAgain: an archive cannot be read for a reason that may pass.
    """
    earlier, scenes = Earlier.read(run), list[Scene]()
    asked = {} if full_digests else _remembered_by(campaign)
    before = earlier is not None and not again
    with _without_garbage_collection(), keeping_processes():
        with memories(run, _versions(), asked, before=before) as remembered:
            for name, archive in campaign.archives.items():
                memory = remembered.of.get(name)
                if memory and earlier:
                    memory.inventory = partial(earlier.scene, name)
                with remembering(memory):
                    found = _scenes_of(campaign, name, archive, partial(_behind, progress, len(scenes)), full_digests)
                _refuse_without_scenes(name, archive, found)
                scenes.extend(found)
            if earlier:
                earlier.compare(scenes)
                _refuse_unseen_changes(earlier, scenes)
        write_inventory(campaign, scenes, run, earlier=earlier, spread=_on_all_cores, remembered=remembered.told)
    return scenes


def _remembered_by(campaign: Campaign) -> dict[str, str]:
    """For each archive of which something is remembered, the digest of all that the campaign says of it.

    Nothing is remembered of sources of other packages, whose code may change with nothing that tells it.
    """
    asked = asked_of(campaign)
    return {
        name: digest_of({"asked": asked[name], "root": str(archive.root), "block": archive.model_dump(mode="json")})
        for name, archive in campaign.archives.items()
        if not distribution("sources", archive.source)
    }


def _versions() -> dict[str, str]:
    """Versions of the libraries that read headers and pixels."""
    return {
        "gdal": rasterio.__gdal_version__,
        "rasterio": rasterio.__version__,
        "proj": f"{rasterio.__proj_version__} {pyproj.proj_version_str}",
        "numpy": np.__version__,
    }


def _scenes_of(campaign: Campaign, name: str, archive: Archive, progress: Progress, full_digests: bool) -> list[Scene]:
    """The scenes of one archive; the errors are those of `index`."""
    found: list[Scene] = []
    if words := not_utf_8(str(archive.path)):
        raise RequestError(f"archives.{name}: {printable(archive.path)} {words}")
    try:
        with raster_settings(), keeping_processes(progress):
            source = make_plugin("sources", archive.source, f"archives.{name}", name, bounded(campaign, name))
            for one in source.scenes(full_digests=full_digests):
                # what is remembered of a scene is of one that has passed
                found.append(one if isinstance(one, RememberedScene) else without_huge_blocks(storable(one)))
                progress(len(found), None)
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
    return found


def _on_all_cores(rows: Callable[[Pieces], list[R]], pieces: Pieces) -> Iterator[R]:
    """What `rows` makes of each piece, in order."""

    def name(piece: Sequence[Text]) -> str:
        return f"the rows of the inventory that begin with {piece[0][0][:100]}"

    def lost(piece: Sequence[Text], words: str) -> R:
        raise WorkError(f"{name(piece)}: {words}")

    return spread(rows, pieces, at_once=1, lost=lost, name=name)


def _behind(progress: Progress, before: int, done: int, total: int | None) -> None:
    """Show progress of an archive behind so many scenes of others."""
    progress(before + done, None if total is None else before + total)


def _refuse_without_scenes(name: str, archive: Archive, found: Sequence[Scene]) -> None:
    """Refuse an archive none of whose scenes can be used; warn of errors that were not meant to happen."""
    if not found:
        raise RequestError(f"archives.{name}: no scene found in {no_scene_in(archive)}")
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
            f"archives.{name}: none of {len(found)} scenes can be used; the first, {printable(found[0].id, 70)}: "
            f"{with_next_move(found[0].verdict)}"
        )
    for error, count in bugs.items():
        words = "archives.%s: %d of %d scenes ended with an unforeseen %s; %s"
        log.warning(words, name, count, len(found), error, _perhaps_a_bug(archive))


def _perhaps_a_bug(archive: Archive) -> str:
    package = distribution("sources", archive.source) or "embedcube"
    return f"this may be a bug of the source {archive.source} (package {package}): --debug shows where"


def _refuse_unseen_changes(earlier: Earlier, scenes: Sequence[Scene]) -> None:
    """Refuse scenes with other bytes than in the inventory before this one, if their digests are the same.

    Their shards would count as done. Scenes that were touched, and may have changed, are counted in a warning.
    """
    changed: list[Scene] = []
    touched: list[Scene] = []
    for scene in scenes:
        if (scene.archive, scene.id) in earlier.same:
            continue
        digest, notes = earlier.digest_and_notes(scene)
        noted = scene.notes
        # the digest last: to make it takes longest
        if notes == noted or not (scene.weak or scene.declared) or digest != scene.digest:
            continue
        # equal digests are of equally many files
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
