"""A shard's scenes -> its sample: its pixels, the status of its cells, and what each scene gave to it."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.campaign.verdicts import Reason
from embedcube.cube.encoding import NO_DATA, NOT_PROCESSED, VALID, VALID_INCOMPLETE
from embedcube.grid import PixelArea
from embedcube.kernel.device import host_empty
from embedcube.kernel.frames import Composed, Reading, compose
from embedcube.kernel.layer import LayerContext
from embedcube.sources.reader import RasterReader
from embedcube.timings import Timings
from embedcube.zones import SampleList


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
    quarantined: tuple[tuple[int, Reason], ...]
    """(row of the inventory, reason) of each scene that could not be used"""

    @property
    def valid_yx(self) -> NDArray[np.bool_]:
        """Which cells get a vector."""
        return np.asarray((self.status_yx == VALID) | (self.status_yx == VALID_INCOMPLETE))


def read_sample(
    shard: Shard,
    scenes: Sequence[Scene],
    context: LayerContext,
    reader: RasterReader,
    refused: Mapping[int, Reason] = MappingProxyType({}),
    timings: Timings | None = None,
) -> Sample:
    """Read each scene once on the shard and its halo, composite the frames, and derive the status of each cell.

    Scenes that are `refused`, by row of the inventory, are not read, and are quarantined for the reason given.
    The seconds of `read` and `composite` are added to `timings`.

    Raises:
        OSError: a scene could not be read for a reason that may pass; the shard stays undone.
    """
    layout, zone = context.layout, context.zones[shard.zone]
    owned_yx = zone.own_cells(layout, shard.row, shard.col)
    reasons = {i: refused[row] for i, row in enumerate(shard.scenes) if row in refused}
    reading = Reading(
        scenes=dict(enumerate(scenes)), context=context, window=shard.t, reader=reader, timings=timings or Timings()
    )
    if isinstance(zone, SampleList):
        read = _listed(zone.part(zone.members(layout, shard.row)), owned_yx, reading, reasons)
    else:
        area = layout.shard_area(shard.row, shard.col).grown(layout.halo_px)
        read = compose(zone, area, owned_yx, reading, reasons)
    contributions_nyx = np.zeros((len(scenes), *owned_yx.shape), dtype=bool)
    for i, given_yx in read.contributions.items():
        contributions_nyx[i] = given_yx
    return Sample(
        x_tcyx=read.x_tcyx,
        clear_tsyx=read.clear_tsyx,
        status_yx=np.where(owned_yx, read.status_yx, np.uint8(NOT_PROCESSED)),
        empty_yx=read.empty_yx,
        n_obs_yx=_acquisitions(contributions_nyx, scenes, context),
        contributions=np.packbits(contributions_nyx.reshape(len(scenes), owned_yx.size), axis=1).tobytes(),
        shares=zlib.compress(read.shares_tsyx.astype("<u2", copy=False).tobytes(), level=1),
        quarantined=tuple((shard.scenes[i], reason) for i, reason in sorted(reasons.items())),
    )


def _listed(own: SampleList, owned_yx: NDArray[np.bool_], reading: Reading, reasons: dict[int, Reason]) -> Composed:
    """The samples of a shard side by side; those that the same scenes hold are read together.

    Each scene is asked only for its own samples, so the memory for reading grows with these and not with the shard.
    """
    context, layout = reading.context, reading.context.layout
    shape, frames = (layout.sample_px, layout.sample_px), len(context.frames[reading.window])
    whole = Composed(
        x_tcyx=host_empty((frames, context.mean.size, *shape), np.float32, context.device),
        clear_tsyx=host_empty((frames, len(context.inputs), *shape), np.bool_, context.device),
        shares_tsyx=np.zeros((frames, len(context.inputs), *owned_yx.shape), dtype=np.uint16),
        contributions={i: np.zeros(owned_yx.shape, dtype=bool) for i in reading.scenes},
        status_yx=np.full(owned_yx.shape, NO_DATA, dtype=np.uint8),
        empty_yx=np.full(owned_yx.shape, NO_DATA, dtype=np.uint8),
    )
    whole.x_tcyx[:], whole.clear_tsyx[:] = np.nan, False
    number = {name: slot for slot, name in enumerate(own.ids)}
    holders: dict[int, list[int]] = {}
    for i, scene in reading.scenes.items():
        for one in scene.samples:
            if one.id in number:
                holders.setdefault(number[one.id], []).append(i)
    together: dict[tuple[int, ...], list[int]] = {}
    for slot, positions in sorted(holders.items()):
        together.setdefault(tuple(positions), []).append(slot)
    for holding, members in together.items():
        area = PixelArea(row=0, col=0, rows=len(members) * layout.chip_px, cols=layout.chip_px)
        scenes = {i: reading.scenes[i] for i in holding}
        cells_yx = np.ones((len(members) * layout.chip_cells, layout.chip_cells), dtype=bool)
        part = compose(own.part(members), area, cells_yx, replace(reading, scenes=scenes), reasons)
        for name in ("x_tcyx", "clear_tsyx"):
            _put(getattr(whole, name), getattr(part, name), members, layout.chips, layout.chip_px)
        for name in ("shares_tsyx", "status_yx", "empty_yx"):
            _put(getattr(whole, name), getattr(part, name), members, layout.chips, layout.chip_cells)
        for i, given_yx in part.contributions.items():
            _put(whole.contributions[i], given_yx, members, layout.chips, layout.chip_cells)
    return whole


def _put(square: NDArray[Any], column: NDArray[Any], slots: Sequence[int], chips: int, side: int) -> None:
    """Put blocks that stand in a column (..., y, x) into their slots of a square of `chips` x `chips` blocks."""
    blocks = square.reshape(*square.shape[:-2], chips, side, chips, side)
    rows, cols = np.divmod(np.array(slots), chips)
    # an index in two places puts the axis of the slots in front
    blocks[..., rows, :, cols, :] = np.moveaxis(column.reshape(*column.shape[:-2], len(slots), side, side), -3, 0)


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
