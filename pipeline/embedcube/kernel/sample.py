"""The scenes of a shard -> its sample: each read once on the shard and its halo, and the frames composited."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, NOT_PROCESSED, VALID, VALID_INCOMPLETE
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.kernel.device import host_empty
from embedcube.kernel.layer import LayerContext
from embedcube.sources.base import Observation, Source
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.windows import Window

_STRIP_BYTES = 1 << 19
"""of one band of all scenes, which a composite compares: no more than a core has cache for"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What reading a shard yields."""

    x_tcyx: NDArray[np.float32]
    """the composites on the shard's pixels and their halo; NaN where masked"""
    clear_tsyx: NDArray[np.bool_]
    """where each archive of the layer shows each frame"""
    status_yx: NDArray[np.uint8]
    """per cell"""
    n_obs_yx: NDArray[np.uint16]
    """per cell"""
    contributions: bytes
    """per planned scene, packed: the cells in whose own footprint it gave a pixel"""
    quarantined: tuple[tuple[int, str], ...]
    """(row of the inventory, reason)"""

    @property
    def valid_yx(self) -> NDArray[np.bool_]:
        """The cells that get a vector."""
        return np.asarray((self.status_yx == VALID) | (self.status_yx == VALID_INCOMPLETE))


def read_sample(
    shard: Shard,
    scenes: Sequence[Scene],
    context: LayerContext,
    reader: RasterReader,
    refused: str = "",
    timings: Timings | None = None,
) -> Sample:
    """Read each scene once on the shard and its halo, composite the frames, and say what each cell rests on.

    With a reason why the shard's scenes are `refused`, none is read, and all are quarantined for it.
    `timings` are told the seconds of `read` and `composite`.

    Raises:
        OSError: a scene could not be read for a reason that may pass; the shard stays undone.
    """
    layout, grid, timings = context.layout, context.grids[shard.zone], timings or Timings()
    area = layout.shard_area(shard.row, shard.col)
    sample_area = area.grown(layout.halo_px)
    frames, shape = context.frames[shard.t], (sample_area.rows, sample_area.cols)
    x_tcyx = host_empty((len(frames), context.mean.size, *shape), np.float32, context.device)
    clear_tsyx = host_empty((len(frames), len(context.inputs), *shape), np.bool_, context.device)
    masked_yx = np.zeros(shape, dtype=bool)
    contributions = np.zeros((len(scenes), layout.shard_cells, layout.shard_cells), dtype=bool)
    reasons = dict.fromkeys(range(len(scenes)), refused) if refused else {}
    for t, frame in enumerate(frames):
        for s, one in enumerate(context.inputs):
            wanted = [
                i
                for i, scene in enumerate(scenes)
                if scene.archive == one.archive and i not in reasons and scene.meets(frame)
            ]
            with timings.step("read"):
                observe = partial(_observe, one.source, frame=frame, grid=grid, area=sample_area, reader=reader)
                found = reader.together([partial(observe, scenes[i]) for i in wanted])
            reasons |= {i: str(seen) for i, seen in zip(wanted, found, strict=True) if isinstance(seen, CorruptInput)}
            observed = {i: seen for i, seen in zip(wanted, found, strict=True) if isinstance(seen, Observation)}
            with timings.step("composite"):
                taken = [(scenes[i].acquisition, seen) for i, seen in observed.items()]
                picture = x_tcyx[t, one.channels], clear_tsyx[t, s], masked_yx
                for i, used_yx in zip(observed, _composite(one.source, taken, *picture, reader), strict=True):
                    contributions[i] |= _per_cell(used_yx, layout) > 0
    unreadable = np.zeros(contributions.shape[1:], dtype=bool)
    for position in reasons:
        unreadable |= _cells_covered(scenes[position], grid, area, layout.cell_px)
    clear_yx = np.asarray(clear_tsyx[:, context.counted].any(axis=(0, 1)))
    valid = _per_cell(clear_yx, layout) / np.float64(layout.cell_px**2) >= context.min_valid
    empty = np.where(unreadable, FAILED, np.where(_per_cell(masked_yx, layout) > 0, MASKED, NO_DATA))
    status = np.where(valid, np.where(unreadable, VALID_INCOMPLETE, VALID), empty)
    acquisitions = {context.inputs[s].archive for s in context.counted}
    return Sample(
        x_tcyx=x_tcyx,
        clear_tsyx=clear_tsyx,
        status_yx=np.where(grid.owns(area, layout.cell_px), status, NOT_PROCESSED).astype(np.uint8),
        n_obs_yx=_acquisitions(contributions, [scene if scene.archive in acquisitions else None for scene in scenes]),
        contributions=np.packbits(contributions.reshape(len(scenes), layout.shard_cells**2), axis=1).tobytes(),
        quarantined=tuple((shard.scenes[position], reason) for position, reason in sorted(reasons.items())),
    )


def _observe(
    source: Source, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader
) -> Observation | CorruptInput:
    """What a scene shows, or why it is to be quarantined."""
    try:
        return source.observe(scene, frame, grid, area, reader)
    except CorruptInput as error:
        return error


def _composite(
    source: Source,
    observed: Sequence[tuple[str, Observation]],
    x_cyx: NDArray[np.float32],
    clear_yx: NDArray[np.bool_],
    masked_yx: NDArray[np.bool_],
    reader: RasterReader,
) -> NDArray[np.bool_]:
    """Write the picture of one frame, and where it is clear; add where it is masked.

    It is made in strips, several at once. Returns (observations, rows, columns): the pixels that each of them gave.
    """
    used_oyx = np.zeros((len(observed), *clear_yx.shape), dtype=bool)
    if not observed:
        x_cyx[:], clear_yx[:] = np.nan, False
        return used_oyx

    def make(rows: slice) -> None:
        strip = [
            (
                acquisition,
                replace(
                    one, values_cyx=one.values_cyx[:, rows], seen_yx=one.seen_yx[rows], clear_yx=one.clear_yx[rows]
                ),
            )
            for acquisition, one in observed
        ]
        picture = source.composite(strip)
        x_cyx[:, rows], clear_yx[rows], used_oyx[:, rows] = picture.x_cyx, picture.clear_yx, picture.used_yx
        masked_yx[rows] |= picture.masked_yx

    height = max(1, _STRIP_BYTES // sum(one.values_cyx[0, :1].nbytes for _, one in observed))
    reader.together([partial(make, slice(row, row + height)) for row in range(0, len(clear_yx), height)])
    return used_oyx


def _per_cell(pixels_yx: NDArray[np.bool_], layout: ShardLayout) -> NDArray[np.int64]:
    """How many pixels of each cell are true; the halo is left out."""
    halo, cell, cells = layout.halo_px, layout.cell_px, layout.shard_cells
    kept = pixels_yx[halo : halo + layout.shard_px, halo : halo + layout.shard_px]
    rows = kept.reshape(cells, cell, layout.shard_px).sum(axis=1, dtype=np.min_scalar_type(cell))
    return np.asarray(rows.reshape(cells, cells, cell).sum(axis=2, dtype=np.int64))


def _acquisitions(contributions: NDArray[np.bool_], scenes: Sequence[Scene | None]) -> NDArray[np.uint16]:
    """Distinct acquisitions that gave a pixel to each cell; those that are None do not count."""
    count = np.zeros(contributions.shape[1:], dtype=np.uint16)
    for acquisition in dict.fromkeys(scene.acquisition for scene in scenes if scene):
        members = [i for i, scene in enumerate(scenes) if scene and scene.acquisition == acquisition]
        count += contributions[members].any(axis=0)
    return count


def _cells_covered(scene: Scene, grid: Grid, area: PixelArea, cell_px: int) -> NDArray[np.bool_]:
    """The cells of `area` that a scene's footprint touches, known from its headers alone."""
    covered = np.zeros((area.rows // cell_px, area.cols // cell_px), dtype=bool)
    rows, cols = np.arange(covered.shape[0]), np.arange(covered.shape[1])
    left, _, _, top = grid.bounds(area)
    step = grid.pixel * cell_px
    for xmin, ymin, xmax, ymax in scene.boxes_in(grid):
        across = (left + cols * step < xmax) & (left + (cols + 1) * step > xmin)
        down = (top - rows * step > ymin) & (top - (rows + 1) * step < ymax)
        covered |= np.outer(down, across)
    return covered
