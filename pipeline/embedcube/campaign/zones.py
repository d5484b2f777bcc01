"""The zones of a layer: its lattices, or the list of the samples that its scenes hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import cos, hypot, radians
from typing import Any

import numpy as np

from embedcube.campaign.scene import Listed, Scene
from embedcube.campaign.schema import Campaign, grid_names, make_grid, make_layout
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout, is_geographic, to_degrees
from embedcube.zones import SAMPLES, UNDATED, SampleList

_AS_LIST = "write grid: {crs: samples, pixel: 10} for a list of samples"


def layout_of(campaign: Campaign, layer: str) -> ShardLayout:
    """The layout of a layer's chips, cells and shards; chips of samples are apart."""
    return replace(make_layout(campaign.layers[layer]), apart=campaign.grid_of(layer).crs == SAMPLES)


def zones_of(campaign: Campaign, layer: str, scenes: Sequence[Scene]) -> dict[str, Grid | SampleList]:
    """The zones of a layer that its `scenes` touch, by name: one, or one for each UTM zone.

    Raises:
        RequestError: the grid is `samples` and a scene is of no list, or the other way round; or two samples of an
            archive have one id, or one sample lies at two places; or no chip of an archive is as large as chip_px.
    """
    own = [scene for scene in scenes if scene.archive in campaign.layers[layer].archives]
    asked = campaign.grid_of(layer).crs == SAMPLES
    for scene in own:
        if bool(scene.samples) != asked and not (scene.verdict and not scene.samples):
            source = campaign.archives[scene.archive].source
            what = "no list of samples, as grid.crs says" if asked else f"a list of samples; {_AS_LIST}"
            raise RequestError(f"layers.{layer}: archive {scene.archive} ({source}) is {what}")
    if not asked:
        return {name: make_grid(campaign, layer, name) for name in grid_names(campaign, layer, own)}
    _refuse_small_chips(campaign, layer, own)
    return {SAMPLES: sample_list(campaign, layer, own)}


def listed_in(zones: Mapping[str, Grid | SampleList]) -> SampleList | None:
    """The list of samples among zones; None where they are grids."""
    return next((zone for zone in zones.values() if isinstance(zone, SampleList)), None)


def sample_list(campaign: Campaign, layer: str, scenes: Sequence[Scene]) -> SampleList:
    """The samples of a layer's scenes, in the order in which the archives show them first.

    So samples that lie in one file are neighbours in the cube, and a file that is added at the end moves no sample.
    """
    scenes = [scene for scene in scenes if scene.archive in campaign.layers[layer].archives]
    first: dict[str, Listed] = {}
    held: dict[tuple[str, str, str], tuple[Scene, Listed]] = {}
    for archive in campaign.layers[layer].archives:
        for scene in scenes:
            if scene.archive != archive:
                continue
            for one in scene.samples:
                known, place = held.setdefault((archive, one.id, scene.acquisition), (scene, one))
                if known is not scene or place is not one:
                    raise RequestError(
                        f"archives.{archive}: two samples have the id {one.id}, in {known.id} and in {scene.id}; an id "
                        "is of one sample: rename one of them, or leave its file out"
                    )
                before = first.setdefault(one.id, one)
                _refuse_other_place(archive, before, one, campaign.grid_of(layer).pixel)
                if not before.crs and one.crs:
                    first[one.id] = one
    if not first:
        raise RequestError(f"layers.{layer}: its archives hold no sample that can be used")
    listed = list(first.values())
    return SampleList(
        pixel=campaign.grid_of(layer).pixel,
        acquired=_acquired(campaign, [one.id for one in listed], scenes),
        **columns_of(listed),
    )


def _refuse_small_chips(campaign: Campaign, layer: str, scenes: Sequence[Scene]) -> None:
    """Refuse a `chip_px` that no chip of an archive has; where some have it, the others are at fault."""
    wanted = campaign.layers[layer].chip_px
    for archive in campaign.layers[layer].archives:
        sides = [asset.cols for scene in scenes if scene.archive == archive for asset in scene.assets]
        if sides and max(sides) < wanted:
            raise RequestError(
                f"layers.{layer}.chip_px: it is {wanted}, and the samples of archive {archive} have {max(sides)} "
                f"pixel{'s'[: max(sides) > 1]} along a side; lower chip_px, and halo_px and cell_px with it"
            )


def columns_of(listed: Sequence[Listed]) -> Mapping[str, Any]:
    """The columns of a list of these samples."""
    names = {"ids": "id", "crs": "crs", "x": "x", "y": "y", "dx": "dx", "dy": "dy"}
    return {column: tuple(getattr(one, name) for one in listed) for column, name in names.items()}


def _refuse_other_place(archive: str, one: Listed, other: Listed, pixel: float) -> None:
    """Refuse two places of one sample that are further apart than a few pixels, which have `pixel` metres or more."""
    if not one.crs or not other.crs or (one.crs, one.x, one.y) == (other.crs, other.x, other.y):
        return
    (lon, lat), (other_lon, other_lat) = (to_degrees(place.crs).transform(place.x, place.y) for place in (one, other))
    east = (other_lon - lon + 180) % 360 - 180
    off = _METRES * hypot(east * cos(radians(lat)), other_lat - lat)
    pixel = max(pixel, *(abs(place.dx) * _metres_of_a_unit(place.crs) for place in (one, other)))
    # a place that its projection does not have is infinite, and is nobody's
    if not off <= _FEW_PIXELS * pixel:
        raise RequestError(
            f"archives.{archive}: sample {one.id} lies at two places, {lon:.6g} {lat:.6g} and {other_lon:.6g} "
            f"{other_lat:.6g} degrees, {off:,.0f} m apart; are these two samples of one id?"
        )


def _metres_of_a_unit(crs: str) -> float:
    return _METRES if is_geographic(crs) else 1.0


_METRES = 111_195.0
"""metres of a degree along a meridian"""


_FEW_PIXELS = 8
"""pixels by which chips of one sample, of several sensors, may be off each other"""


def _acquired(campaign: Campaign, ids: Sequence[str], scenes: Sequence[Scene]) -> tuple[tuple[int, ...], ...]:
    """For each window, the first date of each sample in it; UNDATED where nobody tells."""
    number = {name: i for i, name in enumerate(ids)}
    seconds = np.full((len(campaign.all_windows), len(ids)), np.iinfo(np.int64).max)
    for t, window in enumerate(campaign.all_windows):
        for scene in scenes:
            if scene.meets(window):
                for one in scene.samples:
                    if one.seconds != UNDATED and scene.holds(one, window):
                        at = t, number[one.id]
                        seconds[at] = min(seconds[at], one.seconds)
    seconds[seconds == np.iinfo(np.int64).max] = UNDATED
    return tuple(map(tuple, seconds.tolist()))
