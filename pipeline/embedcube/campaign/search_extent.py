"""How much of a STAC API a campaign asks for: the region and as far as its shards reach beyond it, and the windows."""

import math
from collections.abc import Iterator
from datetime import datetime

from shapely.geometry import shape

from embedcube.campaign.boxes import GLOBE, Box, around, overlaps
from embedcube.campaign.schema import UTM, Archive, Campaign, Region, make_layout
from embedcube.grid import is_geographic, to_degrees

_METRES_PER_DEGREE = 110_000.0
"""of latitude, at least; and of longitude at the equator"""


def bounded(campaign: Campaign, name: str) -> Archive:
    """An archive whose search, where it has one, has the boxes and times that it does not say itself."""
    archive = campaign.archives[name]
    if archive.search is None:
        return archive
    boxes = archive.search.boxes or tuple(_boxes(campaign, name))
    # what holds at all times is not of a window
    times = archive.search.times or (() if archive.options.get("static") else _times(campaign))
    return archive.model_copy(update={"search": archive.search.model_copy(update={"boxes": boxes, "times": times})})


def _times(campaign: Campaign) -> tuple[tuple[datetime, datetime], ...]:
    """The windows; those that meet or overlap as one."""
    merged: list[tuple[datetime, datetime]] = []
    for window in campaign.all_windows:
        if merged and window.start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], window.end)
        else:
            merged.append((window.start, window.end))
    return tuple(merged)


def _boxes(campaign: Campaign, name: str) -> Iterator[Box]:
    """Boxes that hold the region and the shards that touch it with their halo; none where there is no region."""
    if campaign.region is None:
        return
    layers = [layer for layer, block in campaign.layers.items() if name in block.archives]
    reach = max((_reach_degrees(campaign, layer) for layer in layers), default=0.0)
    for west, south, east, north in _region_boxes(campaign.region):
        east += 360 if east < west else 0
        lower, upper = max(-90.0, south - reach), min(90.0, north + reach)
        across = reach / math.cos(math.radians(min(max(abs(lower), abs(upper)), 89.0)))
        if east - west + 2 * across < 360:
            yield from overlaps((west - across, lower, east + across, upper), GLOBE)
        else:
            yield -180.0, lower, 180.0, upper


def _reach_degrees(campaign: Campaign, layer: str) -> float:
    """Degrees of latitude by which a shard that touches the region, and its halo, may lie outside of it."""
    block, layout = campaign.grid_of(layer), make_layout(campaign.layers[layer])
    reach = (layout.shard_px + layout.halo_px) * block.pixel
    geographic = block.crs != UTM and is_geographic(block.crs)
    return reach if geographic else reach / _METRES_PER_DEGREE


def _region_boxes(region: Region) -> tuple[Box, ...]:
    """Boxes around the region in degrees; two where its parts lie on both sides of the antimeridian."""
    if region.bbox is not None:
        return (to_degrees(region.crs).transform_bounds(*region.bbox, densify_pts=21),)
    assert region.geometry is not None
    return around(shape(region.geometry))
