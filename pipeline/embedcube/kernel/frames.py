"""Scenes -> the composites of an area: each scene is read once, frames are composited, cells get their status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.scene import Scene
from embedcube.campaign.verdicts import Reason
from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, VALID, VALID_INCOMPLETE
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.kernel.device import host_empty
from embedcube.kernel.layer import LayerContext, LayerInput
from embedcube.sources.base import Observation, SampleSource, Source
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.windows import Window
from embedcube.zones import SampleList, kept_pixels

_STRIP_BYTES = 1 << 19
"""bytes of one band, all scenes together, that are composited at once: no more than a core has cache for"""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The scenes that are read, and with what."""

    scenes: Mapping[int, Scene]
    """by their position among the shard's scenes"""
    context: LayerContext
    window: int
    """as an index of the cube"""
    reader: RasterReader
    timings: Timings
    """gets the seconds of `read` and `composite`"""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The composites of an area, and its cells."""

    x_tcyx: NDArray[np.float32]
    """pixels with their halo; NaN where masked"""
    clear_tsyx: NDArray[np.bool_]
    """where each archive of the layer is clear in each frame"""
    shares_tsyx: NDArray[np.uint16]
    """for each frame and archive, and each cell: share of its pixels that are clear; of a series, of its time too;
    65535 is all"""
    contributions: Mapping[int, NDArray[np.bool_]]
    """for each scene that gave a pixel, the cells (y, x) of the zone's own in whose own footprint it did"""
    status_yx: NDArray[np.uint8]
    """per cell, whether it belongs to the zone or not"""
    empty_yx: NDArray[np.uint8]
    """per cell, the status where the backbone finds no pixel that it can use"""


@dataclass(frozen=True, kw_only=True)
class _Filled:
    """Arrays that reading fills in, frame by frame and archive by archive."""

    x_tcyx: NDArray[np.float32]
    clear_tsyx: NDArray[np.bool_]
    masked_yx: NDArray[np.bool_]
    """where some scene of some frame is masked"""
    incomplete_yx: NDArray[np.bool_]
    """where a part of some frame is missing in a series"""
    shares_tsyx: NDArray[np.uint16]
    """as in `Composed`"""
    lacking_yx: NDArray[np.bool_]
    """cells for which an archive shows nothing in some frame, though the layer expects it"""

    @classmethod
    def nothing(cls, context: LayerContext, window: int, area: PixelArea, cells: tuple[int, int]) -> "_Filled":
        """Arrays of the pixels of `area`, before anything is read."""
        shape, frames = (area.rows, area.cols), len(context.frames[window])
        return cls(
            x_tcyx=host_empty((frames, context.mean.size, *shape), np.float32, context.device),
            clear_tsyx=host_empty((frames, len(context.inputs), *shape), np.bool_, context.device),
            masked_yx=np.zeros(shape, dtype=bool),
            incomplete_yx=np.zeros(shape, dtype=bool),
            shares_tsyx=np.zeros((frames, len(context.inputs), *cells), dtype=np.uint16),
            lacking_yx=np.zeros(cells, dtype=bool),
        )


def compose(
    zone: Grid | SampleList,
    area: PixelArea,
    owned_yx: NDArray[np.bool_],
    reading: Reading,
    reasons: dict[int, Reason],
) -> Composed:
    """Read each scene once on `area`, halo included, and composite the frames.

    `owned_yx` are the cells that belong to the zone. Scenes with `reasons`, by their position, are not read; those that
    prove to be unusable get theirs.

    Raises:
        OSError: a scene could not be read for a reason that may pass.
    """
    context, timings, layout = reading.context, reading.timings, reading.context.layout
    filled = _Filled.nothing(context, reading.window, area, (owned_yx.shape[0], owned_yx.shape[1]))
    contributions: dict[int, NDArray[np.bool_]] = {}
    for t, frame in enumerate(context.frames[reading.window]):
        for s, layer_input in enumerate(context.inputs):
            usable = {
                i: scene
                for i, scene in reading.scenes.items()
                if scene.archive == layer_input.archive and i not in reasons and scene.meets(frame)
            }
            with timings.step("read"):
                results = _observe(layer_input.source, usable, frame, zone, area, reading.reader)
            wrong = {i: error for i, error in results.items() if isinstance(error, CorruptInput)}
            reasons.update({i: Reason(words=str(error), asks=error.asks) for i, error in wrong.items()})
            observed = {i: one for i, one in results.items() if isinstance(one, Observation)}
            with timings.step("composite"):
                taken = [(usable[i].acquisition, one) for i, one in observed.items()]
                masked_yx = np.zeros_like(filled.masked_yx)
                used_oyx, share_yx = _composite(
                    layer_input.source,
                    taken,
                    filled.x_tcyx[t, layer_input.channels],
                    filled.clear_tsyx[t, s],
                    masked_yx,
                    filled.incomplete_yx,
                    reading.reader,
                )
                observed_yx = filled.clear_tsyx[t, s] if share_yx is None else share_yx
                filled.shares_tsyx[t, s] = owned_yx * _share_per_cell(observed_yx, layout)
                _note_masked(filled, filled.clear_tsyx[t, s] | masked_yx, masked_yx, layer_input, context)
                for i, used_yx in zip(observed, used_oyx, strict=True):
                    given_yx = owned_yx & (_per_cell(used_yx, layout) > 0)
                    contributions[i] = contributions[i] | given_yx if i in contributions else given_yx
    unreadable = np.zeros(owned_yx.shape, dtype=bool)
    for i in reasons.keys() & reading.scenes.keys():
        unreadable |= _cells_covered(reading.scenes[i], zone, area, layout, context.frames[reading.window])
    empty_yx, status_yx = _status(filled, unreadable, context)
    return Composed(
        x_tcyx=filled.x_tcyx,
        clear_tsyx=filled.clear_tsyx,
        shares_tsyx=filled.shares_tsyx,
        contributions=contributions,
        status_yx=status_yx,
        empty_yx=empty_yx,
    )


def _observe(
    source: Source,
    scenes: Mapping[int, Scene],
    frame: Window,
    zone: Grid | SampleList,
    area: PixelArea,
    reader: RasterReader,
) -> dict[int, Observation | CorruptInput]:
    """For each scene its pixels and masks, or why it must be quarantined; several scenes are read at once."""

    def observe(scene: Scene) -> Observation | CorruptInput:
        try:
            if isinstance(zone, SampleList):
                return cast("SampleSource", source).observe_samples(scene, frame, zone, area.cols, reader)
            return source.observe(scene, frame, zone, area, reader)
        except CorruptInput as error:
            return error

    results = reader.together([partial(observe, scene) for scene in scenes.values()])
    return dict(zip(scenes, results, strict=True))


def _composite(
    source: Source,
    observed: Sequence[tuple[str, Observation]],
    x_cyx: NDArray[np.float32],
    clear_yx: NDArray[np.bool_],
    masked_yx: NDArray[np.bool_],
    incomplete_yx: NDArray[np.bool_],
    reader: RasterReader,
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """Write the composite of one frame and where it is clear; add where it is masked or incomplete to two more arrays.

    Strips are composited in parallel. Returns (observations, rows, columns): the pixels that each observation gave; and
    the share of the frame that was observed at each pixel, of fields only: an image is all of its frame.
    """
    used_oyx = np.zeros((len(observed), *clear_yx.shape), dtype=bool)
    share_yx = None if source.counted else np.zeros(clear_yx.shape, dtype=np.float32)
    if not observed:
        x_cyx[:], clear_yx[:] = np.nan, False
        return used_oyx, share_yx

    def make(rows: slice) -> None:
        strip = [(acquisition, one.strip(rows)) for acquisition, one in observed]
        picture = source.composite(strip)
        x_cyx[:, rows], clear_yx[rows], used_oyx[:, rows] = picture.x_cyx, picture.clear_yx, picture.used_yx
        masked_yx[rows] |= picture.masked_yx
        if share_yx is not None:
            share_yx[rows] = picture.clear_yx if picture.share_yx is None else picture.share_yx
        if picture.incomplete_yx is not None:
            incomplete_yx[rows] |= picture.incomplete_yx

    height = max(1, _STRIP_BYTES // sum(one.values_cyx[0, :1].nbytes for _, one in observed))
    reader.together([partial(make, slice(row, row + height)) for row in range(0, len(clear_yx), height)])
    return used_oyx, share_yx


def _share_per_cell(share_yx: NDArray[np.float32 | np.bool_], layout: ShardLayout) -> NDArray[np.uint16]:
    """Mean of the pixels of each cell, of shares from 0 to 1 or of yes and no; 65535 is 1. The halo is left out."""
    cell, kept = layout.cell_px, kept_pixels(share_yx, layout)
    mean = kept.reshape(kept.shape[0] // cell, cell, -1, cell).mean(axis=(1, 3), dtype=np.float64)
    return np.asarray(np.round(np.clip(mean, 0, 1) * 65535).astype(np.uint16))


def _per_cell(pixels_yx: NDArray[np.bool_], layout: ShardLayout) -> NDArray[np.int64]:
    """Number of true pixels in each cell; the halo is left out."""
    cell, kept = layout.cell_px, kept_pixels(pixels_yx, layout)
    rows = kept.reshape(kept.shape[0] // cell, cell, kept.shape[1]).sum(axis=1, dtype=np.min_scalar_type(cell))
    return np.asarray(rows.reshape(len(rows), -1, cell).sum(axis=2, dtype=np.int64))


def _status(
    filled: _Filled, unreadable_yx: NDArray[np.bool_], context: LayerContext
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The status of each cell, whether it belongs to the zone or not; `unreadable_yx` lack a scene.

    First the status where the cell has no vector, then the one that its pixels decide.
    """
    layout = context.layout
    clear_yx = np.asarray(filled.clear_tsyx[:, context.counted].any(axis=(0, 1)))
    valid = _per_cell(clear_yx, layout) / np.float64(layout.cell_px**2) >= context.min_valid
    empty = np.where(unreadable_yx, FAILED, np.where(_per_cell(filled.masked_yx, layout) > 0, MASKED, NO_DATA))
    empty = empty.astype(np.uint8)
    partly = unreadable_yx | (_per_cell(filled.incomplete_yx, layout) > 0) | filled.lacking_yx
    return empty, np.where(valid, np.where(partly, VALID_INCOMPLETE, VALID), empty).astype(np.uint8)


def _note_masked(
    filled: _Filled,
    there_yx: NDArray[np.bool_],
    masked_yx: NDArray[np.bool_],
    layer_input: LayerInput,
    context: LayerContext,
) -> None:
    """Note where an archive is masked in a frame, and which cells it shows nothing of: `there_yx` is where it does.

    Fields are expected at every place and time; and each archive of a layer of several, whose vectors mean something
    else without it. Where clouds hide all that an archive shows, it is there.
    """
    filled.masked_yx[:] |= masked_yx
    if not layer_input.source.counted or len(context.inputs) > 1:
        share = _per_cell(there_yx, context.layout) / np.float64(context.layout.cell_px**2)
        filled.lacking_yx[:] |= share < context.min_valid


def _cells_covered(
    scene: Scene, zone: Grid | SampleList, area: PixelArea, layout: ShardLayout, frames: Sequence[Window]
) -> NDArray[np.bool_]:
    """Which cells a scene's footprint touches, of an area with its halo; only the inventory is needed for that.

    Of samples, each of which is one of the scene's, those that it shows in some frame.
    """
    if isinstance(zone, SampleList):
        own = {one.id: one for one in scene.samples}
        shown = np.array([any(scene.holds(own[name], frame) for frame in frames) for name in zone.ids], dtype=bool)
        return np.repeat(shown, layout.chip_cells)[:, None] & np.ones(layout.chip_cells, dtype=bool)
    kept, cell_px = area.grown(-layout.halo_px), layout.cell_px
    covered = np.zeros((kept.rows // cell_px, kept.cols // cell_px), dtype=bool)
    rows, cols = np.arange(covered.shape[0]), np.arange(covered.shape[1])
    left, _, _, top = zone.bounds(kept)
    step = zone.pixel * cell_px
    for xmin, ymin, xmax, ymax in scene.boxes_in(zone):
        across = (left + cols * step < xmax) & (left + (cols + 1) * step > xmin)
        down = (top - rows * step > ymin) & (top - (rows + 1) * step < ymax)
        covered |= np.outer(down, across)
    return covered
