"""The sample of chips for a fit: composited as in `embed`, spread over windows and places, with a fixed seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import FitSample
from embedcube.campaign.plan import Shard, Shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, period_of_fit, windows_of_fit
from embedcube.campaign.zones import listed_in, own_scenes, zones_of
from embedcube.errors import RequestError, StartAgain, WorkError
from embedcube.grid import Grid, ShardLayout
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import read_sample
from embedcube.machine import cores
from embedcube.prepare.price import refuse_large_fit
from embedcube.prepare.shards import cut
from embedcube.progress import Progress, silent
from embedcube.sources.reader import RasterReader
from embedcube.windows import dates_of
from embedcube.zones import SampleList

_WINDOWS = 16
"""windows that a limited sample is spread over, at most"""

_TRIES_PER_CHIP = 8

_PART = 16
"""chips that are read at once where only their vectors are kept"""

_CLEAR_SHARE = 0.5
"""share of a chip's pixels that must be clear for the chip to be in the sample"""


@dataclass(frozen=True, kw_only=True)
class _Gathered:
    """Chips that were read for a sample, in the order in which they were found."""

    chips: list[NDArray[np.float32]] = field(default_factory=list)
    """pixels (t, c, y, x) of each chip; NaN where masked"""
    latitudes: list[NDArray[np.float64]] = field(default_factory=list)
    """latitude in degrees of each row of pixels of each chip"""
    beside: list[tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]] = field(default_factory=list)
    """where each chip is clear (t, archive, y, x), the places of its cells, and the dates of its frames"""
    passed_over: dict[str, str] = field(default_factory=dict)
    """reason for each scene that could not be read, by its id"""
    looked_at: set[str] = field(default_factory=set)
    """ids of the scenes of all chips that were looked at"""


def fit_sample(
    campaign: Campaign, name: str, scenes: Sequence[Scene], limit: int | None, progress: Progress
) -> tuple[FitSample, dict[str, str]]:
    """Up to `limit` chips of a layer, or all chips where it is None; masked pixels are NaN.

    Also the reason for each scene that could not be read and was passed over.

    Raises:
        RequestError: no chip is half clear, or all chips together do not fit into memory.
        WorkError: no chip is half clear, as no scene could be read.
    """
    context, candidates = _drawn(campaign, name, scenes, limit)
    count = len(candidates) if limit is None else min(limit, len(candidates))
    if count:
        refuse_large_fit(name, count, _numbers(context), campaign.how, decomposed=limit is None)
    gathered = _clear_chips(iter(candidates), name, scenes, context, limit, progress)
    if limit != 0 and not gathered.chips:
        raise _no_chip(campaign, name, scenes, context.layout.chip_px, gathered)
    return _sample_of(gathered, context), gathered.passed_over


def fit_parts(
    campaign: Campaign,
    name: str,
    scenes: Sequence[Scene],
    limit: int | None,
    passed_over: dict[str, str],
    progress: Progress,
) -> Iterator[FitSample]:
    """The chips of `fit_sample` in samples of a few, one after the other: all together may be too large for memory.

    The reason for each scene that could not be read is added to `passed_over`.

    Raises:
        RequestError, WorkError: as `fit_sample`.
    """
    context, candidates = _drawn(campaign, name, scenes, limit)
    refuse_large_fit(name, min(_PART, len(candidates)), _numbers(context), campaign.how, decomposed=False)
    shards, found = iter(candidates), 0
    while limit is None or found < limit:
        size = _PART if limit is None else min(_PART, limit - found)
        gathered = _clear_chips(shards, name, scenes, context, size, silent)
        passed_over.update(gathered.passed_over)
        if not found and not gathered.chips:
            raise _no_chip(campaign, name, scenes, context.layout.chip_px, gathered)
        if not gathered.chips:
            return
        found += len(gathered.chips)
        progress(found, limit)
        yield _sample_of(gathered, context)


def _drawn(
    campaign: Campaign, name: str, scenes: Sequence[Scene], limit: int | None
) -> tuple[LayerContext, list[Shard]]:
    """What chips are read with, and the shards of one chip each that are tried in turn."""
    zones = zones_of(campaign, name, scenes)
    context = make_context(
        campaign, name, list(zones), None, torch.nn.Identity(), torch.device("cpu"), 1, listed_in(zones)
    )
    context = replace(context, layout=replace(context.layout, chips=1))
    return context, list(_chips(campaign, name, zones, scenes, limit))


def _numbers(context: LayerContext) -> int:
    """Numbers of a chip."""
    return len(context.frames[0]) * context.mean.size * context.layout.chip_px**2


def _sample_of(gathered: _Gathered, context: LayerContext) -> FitSample:
    """The chips that were read, stacked; their list is emptied, as both together are twice as large."""
    chips, side = gathered.chips, context.layout.chip_px
    empty = np.empty((0, len(context.frames[0]), context.mean.size, side, side), dtype=np.float32)
    lat_ny = np.array(gathered.latitudes).reshape(len(chips), side)
    if not chips:
        return FitSample(x_ntcyx=empty, lat_ny=lat_ny)
    clear, lonlat, dates = (np.stack(some) for some in zip(*gathered.beside, strict=True))
    x_ntcyx = np.stack(chips)
    chips.clear()
    return FitSample(x_ntcyx=x_ntcyx, lat_ny=lat_ny, clear_ntsyx=clear, lonlat_nyxk=lonlat, dates_ntmd=dates)


def _refuse_other_times(campaign: Campaign, name: str, scenes: Sequence[Scene]) -> None:
    """Refuse a layer that has no scene in the windows it is fitted on, and name both times."""
    windows = [campaign.all_windows[t] for t in windows_of_fit(campaign, name)]
    placed = [scene for scene in scenes if scene.placed and not scene.superseded_by]
    if placed and not any(scene.meets(window) for scene in placed for window in windows):
        first, last = min(scene.time for scene in placed), max(scene.end or scene.time for scene in placed)
        raise RequestError(
            f"layers.{name}: none of its {len(placed)} scenes lies in a window: they are of {first:%Y-%m-%d} to "
            f"{last:%Y-%m-%d}, the windows of {period_of_fit(campaign, name)}; write other windows or give other scenes"
        )


def _no_chip(
    campaign: Campaign, name: str, scenes: Sequence[Scene], chip_px: int, gathered: _Gathered
) -> WorkError | RequestError:
    """Why there is no chip to fit on."""
    _refuse_other_times(campaign, name, own_scenes(campaign.layers[name], scenes))
    broken = [f"{scene}: {reason}" for scene, reason in gathered.passed_over.items()]
    count = len(gathered.looked_at)
    if broken and len(broken) == count:
        most = f"{broken[0]}" + (f"; and {count - 1} more" if count > 1 else "")
        return WorkError(f"layers.{name}: {count} scene{'s'[: count > 1]}, none could be read: {most}")
    masked = any(campaign.archives[archive].mask for archive in campaign.layers[name].archives)
    question = (
        "is the mask's list of clear classes right?" if masked else "do they show the region, and have data there?"
    )
    besides = f" (of which {len(broken)} could not be read, the first is {broken[0]})" if broken else ""
    return RequestError(f"layers.{name}: no chip of {chip_px} px is half clear in {count} scenes{besides}; {question}")


def _clear_chips(
    shards: Iterator[Shard],
    name: str,
    scenes: Sequence[Scene],
    context: LayerContext,
    limit: int | None,
    progress: Progress,
) -> _Gathered:
    """Read shards of one chip each, and keep the chips that are clear enough, until there are `limit` of them."""
    gathered = _Gathered()
    if limit == 0:
        return gathered
    reader = RasterReader(threads=cores())
    try:
        for shard in shards:
            try:
                sample = read_sample(shard, [scenes[i] for i in shard.scenes], context, reader)
            except OSError as error:
                raise StartAgain(f"layers.{name}: {error}; start again when its archives can be read") from None
            gathered.looked_at.update(scenes[i].id for i in shard.scenes)
            for i, reason in sample.quarantined:
                gathered.passed_over.setdefault(scenes[i].id, reason.words)
            if sample.clear_tsyx[:, context.counted].any(axis=(0, 1)).mean() >= _CLEAR_SHARE:
                gathered.chips.append(sample.x_tcyx)
                degrees = context.zones[shard.zone].cell_degrees(context.layout, shard.row, shard.col)
                lonlat = np.stack(degrees, axis=-1).astype(np.float32)
                gathered.beside.append((sample.clear_tsyx, lonlat, dates_of(context.frames[shard.t])))
                gathered.latitudes.append(_latitudes(context.zones[shard.zone], context.layout, shard))
                progress(len(gathered.chips), limit)
            if len(gathered.chips) == limit:
                break
    finally:
        reader.close()
    return gathered


def _latitudes(zone: Grid | SampleList, layout: ShardLayout, shard: Shard) -> NDArray[np.float64]:
    """Latitude of each row of pixels of a shard of one chip, halo included."""
    if isinstance(zone, SampleList):
        return zone.row_latitudes(shard.row, layout.chip_px)
    area = layout.shard_area(shard.row, shard.col).grown(layout.halo_px)
    return zone.degrees(replace(area, cols=1), 1)[1][:, 0]


def _chips(
    campaign: Campaign, name: str, zones: Mapping[str, Grid | SampleList], scenes: Sequence[Scene], limit: int | None
) -> Iterator[Shard]:
    """Shards of one chip each, in the windows that the layer is fitted on; each shard once."""
    layer, windows = campaign.layers[name], windows_of_fit(campaign, name)
    rng = np.random.default_rng(0)
    if limit is not None:
        windows = [
            windows[i] for i in np.linspace(0, len(windows) - 1, min(len(windows), _WINDOWS)).round().astype(int)
        ]
    one_chip = campaign.model_copy(
        update={
            "layers": {name: layer.model_copy(update={"shard_chips": 1})},
            "windows": tuple((w.start, w.end) for w in (campaign.all_windows[t] for t in windows)),
        }
    )
    cuts = [
        (zone, found[0])
        for zone, geometry in zones.items()
        if (found := cut(one_chip, name, geometry, scenes)) is not None
    ]
    chips = [
        [chip for zone, shards in cuts for chip in _seen(shards, place, name, zone, t, limit, rng)]
        for place, t in enumerate(windows)
    ]
    # in turn, so that a limited sample is spread over all windows
    for in_turn in zip_longest(*chips):
        yield from (chip for chip in in_turn if chip is not None)


def _seen(
    shards: Shards, place: int, name: str, zone: str, t: int, limit: int | None, rng: np.random.Generator
) -> list[Shard]:
    """The chips of one zone and window that have scenes; with `limit` a random choice of them."""
    seen = np.nonzero((shards.t == place) & (np.diff(shards.first) > 0))[0]
    if limit is not None:
        seen = rng.permutation(seen)[: limit * _TRIES_PER_CHIP]
    return [
        Shard(
            layer=name,
            zone=zone,
            t=t,
            row=int(shards.row[i]),
            col=int(shards.col[i]),
            iy=0,
            ix=0,
            recipe="",
            scenes=tuple(shards.scenes[shards.first[i] : shards.first[i + 1]].tolist()),
        )
        for i in seen.tolist()
    ]
