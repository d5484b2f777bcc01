"""A shard's scenes -> its sample: each scene is read once, on the shard and its halo, and frames are composited."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, NOT_PROCESSED, VALID, VALID_INCOMPLETE
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.kernel.device import host_empty
from embedcube.kernel.layer import LayerContext, LayerInput
from embedcube.sources.base import Observation, Source
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.windows import Window

_STRIP_BYTES = 1 << 19
"""bytes of one band, all scenes together, that are composited at once: no more than a core has cache for"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The pixels of a shard, the status of its cells, and which scenes they come from."""

    x_tcyx: NDArray[np.float32]
    """the composites on the shard's pixels and their halo; NaN where masked"""
    clear_tsyx: NDArray[np.bool_]
    """where each archive of the layer is clear in each frame"""
    status_yx: NDArray[np.uint8]
    """per cell"""
    empty_yx: NDArray[np.uint8]
    """per cell, the status where the backbone finds no pixel that it can use"""
    n_obs_yx: NDArray[np.uint16]
    """per cell"""
    contributions: bytes
    """for each planned scene, packed bits: the cells of the grid's own in whose own footprint it gave a pixel"""
    shares: bytes
    """for each frame, archive and cell the share of the frame that was observed: little-endian uint16 from 0 to 65535,
    zlib-compressed"""
    quarantined: tuple[tuple[int, str], ...]
    """(row of the inventory, reason) of each scene that could not be used"""

    @property
    def valid_yx(self) -> NDArray[np.bool_]:
        """Which cells get a vector."""
        return np.asarray((self.status_yx == VALID) | (self.status_yx == VALID_INCOMPLETE))


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
    """for each frame and archive, and each cell: share of its pixels that are clear; of a series, of its time too;
    65535 is all"""
    lacking_yx: NDArray[np.bool_]
    """cells for which an archive shows nothing in some frame, though the layer expects it"""
    contributions_nyx: NDArray[np.bool_]
    """for each scene of the shard, the cells of the grid's own in whose own footprint it gave a pixel"""
    reasons: dict[int, str]
    """why a scene cannot be used, by its position among the shard's scenes"""


def read_sample(
    shard: Shard,
    scenes: Sequence[Scene],
    context: LayerContext,
    reader: RasterReader,
    refused: Mapping[int, str] = MappingProxyType({}),
    timings: Timings | None = None,
) -> Sample:
    """Read each scene once on the shard and its halo, composite the frames, and derive the status of each cell.

    Scenes that are `refused`, by row of the inventory, are not read, and are quarantined for the reason given.
    The seconds of `read` and `composite` are added to `timings`.

    Raises:
        OSError: a scene could not be read for a reason that may pass; the shard stays undone.
    """
    grid, timings = context.grids[shard.zone], timings or Timings()
    area = context.layout.shard_area(shard.row, shard.col)
    sample_area, owned_yx = area.grown(context.layout.halo_px), grid.owns(area, context.layout.cell_px)
    filled = _nothing_filled(context, shard.t, sample_area, len(scenes))
    filled.reasons.update({i: refused[row] for i, row in enumerate(shard.scenes) if row in refused})
    for t, frame in enumerate(context.frames[shard.t]):
        for s, layer_input in enumerate(context.inputs):
            usable = {
                i: scene
                for i, scene in enumerate(scenes)
                if scene.archive == layer_input.archive and i not in filled.reasons and scene.meets(frame)
            }
            with timings.step("read"):
                results = _observe(layer_input.source, usable, frame, grid, sample_area, reader)
            filled.reasons.update({i: str(error) for i, error in results.items() if isinstance(error, CorruptInput)})
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
                    reader,
                )
                observed_yx = filled.clear_tsyx[t, s] if share_yx is None else share_yx
                filled.shares_tsyx[t, s] = owned_yx * _share_per_cell(observed_yx, context.layout)
                _note_masked(filled, filled.clear_tsyx[t, s] | masked_yx, masked_yx, layer_input, context)
                for i, used_yx in zip(observed, used_oyx, strict=True):
                    filled.contributions_nyx[i] |= owned_yx & (_per_cell(used_yx, context.layout) > 0)
    empty_yx, status_yx = _status(filled, scenes, context, grid, area)
    return Sample(
        x_tcyx=filled.x_tcyx,
        clear_tsyx=filled.clear_tsyx,
        status_yx=np.where(owned_yx, status_yx, np.uint8(NOT_PROCESSED)),
        empty_yx=empty_yx,
        n_obs_yx=_acquisitions(filled.contributions_nyx, scenes, context),
        contributions=np.packbits(filled.contributions_nyx.reshape(len(scenes), status_yx.size), axis=1).tobytes(),
        shares=zlib.compress(filled.shares_tsyx.astype("<u2", copy=False).tobytes(), level=1),
        quarantined=tuple((shard.scenes[i], reason) for i, reason in sorted(filled.reasons.items())),
    )


def _nothing_filled(context: LayerContext, window: int, area: PixelArea, scenes: int) -> _Filled:
    """Arrays of a sample of the pixels of `area`, before anything is read."""
    shape, frames, cells = (area.rows, area.cols), len(context.frames[window]), context.layout.shard_cells
    return _Filled(
        x_tcyx=host_empty((frames, context.mean.size, *shape), np.float32, context.device),
        clear_tsyx=host_empty((frames, len(context.inputs), *shape), np.bool_, context.device),
        masked_yx=np.zeros(shape, dtype=bool),
        incomplete_yx=np.zeros(shape, dtype=bool),
        shares_tsyx=np.zeros((frames, len(context.inputs), cells, cells), dtype=np.uint16),
        lacking_yx=np.zeros((cells, cells), dtype=bool),
        contributions_nyx=np.zeros((scenes, cells, cells), dtype=bool),
        reasons={},
    )


def _observe(
    source: Source, scenes: Mapping[int, Scene], frame: Window, grid: Grid, area: PixelArea, reader: RasterReader
) -> dict[int, Observation | CorruptInput]:
    """For each scene its pixels and masks, or why it must be quarantined; several scenes are read at once."""

    def observe(scene: Scene) -> Observation | CorruptInput:
        try:
            return source.observe(scene, frame, grid, area, reader)
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


def _share_per_cell(share_yx: NDArray[np.float32] | NDArray[np.bool_], layout: ShardLayout) -> NDArray[np.uint16]:
    """Mean of the pixels of each cell, of shares from 0 to 1 or of yes and no; 65535 is 1. The halo is left out."""
    halo, cell, cells = layout.halo_px, layout.cell_px, layout.shard_cells
    kept = share_yx[halo : halo + layout.shard_px, halo : halo + layout.shard_px]
    mean = kept.reshape(cells, cell, cells, cell).mean(axis=(1, 3), dtype=np.float64)
    return np.asarray(np.round(np.clip(mean, 0, 1) * 65535).astype(np.uint16))


def _per_cell(pixels_yx: NDArray[np.bool_], layout: ShardLayout) -> NDArray[np.int64]:
    """Number of true pixels in each cell; the halo is left out."""
    halo, cell, cells = layout.halo_px, layout.cell_px, layout.shard_cells
    kept = pixels_yx[halo : halo + layout.shard_px, halo : halo + layout.shard_px]
    rows = kept.reshape(cells, cell, layout.shard_px).sum(axis=1, dtype=np.min_scalar_type(cell))
    return np.asarray(rows.reshape(cells, cells, cell).sum(axis=2, dtype=np.int64))


def _status(
    filled: _Filled, scenes: Sequence[Scene], context: LayerContext, grid: Grid, area: PixelArea
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The status of each cell of the shard's `area`, whether it belongs to the grid or not.

    First the status where the cell has no vector, then the one that its pixels decide.
    """
    layout = context.layout
    unreadable = np.zeros((layout.shard_cells, layout.shard_cells), dtype=bool)
    for i in filled.reasons:
        unreadable |= _cells_covered(scenes[i], grid, area, layout.cell_px)
    clear_yx = np.asarray(filled.clear_tsyx[:, context.counted].any(axis=(0, 1)))
    valid = _per_cell(clear_yx, layout) / np.float64(layout.cell_px**2) >= context.min_valid
    empty = np.where(unreadable, FAILED, np.where(_per_cell(filled.masked_yx, layout) > 0, MASKED, NO_DATA))
    empty = empty.astype(np.uint8)
    partly = unreadable | (_per_cell(filled.incomplete_yx, layout) > 0) | filled.lacking_yx
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


def _acquisitions(
    contributions_nyx: NDArray[np.bool_], scenes: Sequence[Scene], context: LayerContext
) -> NDArray[np.uint16]:
    """Number of distinct acquisitions that gave a pixel to each cell, in archives that make a cell valid."""
    counted = {context.inputs[s].archive for s in context.counted}
    members: dict[str, list[int]] = {}
    for i, scene in enumerate(scenes):
        if scene.archive in counted:
            members.setdefault(scene.acquisition, []).append(i)
    count = np.zeros(contributions_nyx.shape[1:], dtype=np.uint16)
    for places in members.values():
        count += contributions_nyx[places].any(axis=0)
    return count


def _cells_covered(scene: Scene, grid: Grid, area: PixelArea, cell_px: int) -> NDArray[np.bool_]:
    """Which cells of `area` a scene's footprint touches; only the inventory is needed for that."""
    covered = np.zeros((area.rows // cell_px, area.cols // cell_px), dtype=bool)
    rows, cols = np.arange(covered.shape[0]), np.arange(covered.shape[1])
    left, _, _, top = grid.bounds(area)
    step = grid.pixel * cell_px
    for xmin, ymin, xmax, ymax in scene.boxes_in(grid):
        across = (left + cols * step < xmax) & (left + (cols + 1) * step > xmin)
        down = (top - rows * step > ymin) & (top - (rows + 1) * step < ymax)
        covered |= np.outer(down, across)
    return covered
