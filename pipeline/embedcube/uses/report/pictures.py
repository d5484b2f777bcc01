"""Pictures of a report: small maps of the windows of each zone, from the preview store, as PNG inside of the page."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from PIL import Image

from embedcube.cube.picture import EMPTY, enlargement, paint, pattern, thinning
from embedcube.cube.preview_store import preview_store_of, write_preview_store
from embedcube.cube.reader import Cube

_SIDE = 480
"""pixels of the longer side of a map, at most"""

_WINDOWS = 12
"""number of windows of a zone that are drawn, at most"""

_ZONES = 12
"""number of zones of a layer that are drawn, at most"""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A map of one window."""

    layer: str
    zone: str
    days: str
    png: str
    """base64"""
    width: int
    height: int
    caption: str
    """which windows of how many are drawn, where some are not"""

    @property
    def words(self) -> str:
        """What a reader who cannot see the picture is told."""
        return f"Map of layer {self.layer}, zone {self.zone}, {self.days}"


def pictures(path: Path) -> list[Picture]:
    """Maps of all layers of a cube, zone by zone; its preview store is written if there is none.

    Lists of samples have none.

    Raises:
        RequestError: no layer has vectors to draw.
    """
    cube = Cube(path)
    if not cube.maps:
        return []
    store = preview_store_of(cube.path)
    if not store.exists():
        write_preview_store(cube, store)
    opened: Any = zarr.open_group(store, mode="r", zarr_format=3)
    drawn = (layer for layer in cube.layers if layer in opened)
    return [one for layer in drawn for zone in cube.zones_of(layer)[:_ZONES] for one in _of_zone(cube, zone, opened)]


def _of_zone(cube: Cube, zone: str, opened: Any) -> Iterator[Picture]:
    layer, name = zone.split("/")
    windows, levels = cube.windows(zone), sorted(opened[zone].group_keys(), key=int)
    # the coarsest level in which the cells of shards still fill the map; each has half the rows of the one before
    large = [level for level in levels if max(_sizes(cube, zone, level)) >= _SIDE]
    chosen = large[-1] if large else levels[0]
    level, sizes = opened[zone][chosen], _sizes(cube, zone, chosen)
    step = thinning(sizes, _SIDE)
    factor = enlargement(tuple(-(-side // step) for side in sizes), _SIDE)
    y, x = (slice(along.start, along.stop, step) for along in _within(cube, zone, chosen))
    shown = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _WINDOWS)).astype(int)).tolist()
    for t in shown:
        rgb, status = level["rgb"][t, :, y, x], level["status"][t, y, x]
        pixels = paint(np.moveaxis(rgb, 0, -1), status, factor)
        yield Picture(
            layer=layer,
            zone=name,
            days=windows[t].days,
            png=_png(pixels),
            width=pixels.shape[1],
            height=pixels.shape[0],
            caption=f"{len(shown)} of {len(windows)} windows" if len(shown) < len(windows) else "",
        )


def _within(cube: Cube, zone: str, level: str) -> tuple[slice, slice]:
    """Rows and columns of a level in which the cells of shards lie."""
    half = 1 << int(level)
    rows, columns = (slice(along.start // half, -(-along.stop // half)) for along in cube.cells_of_shards(zone))
    return rows, columns


def _sizes(cube: Cube, zone: str, level: str) -> tuple[int, int]:
    rows, columns = (along.stop - along.start for along in _within(cube, zone, level))
    return rows, columns


def legend() -> list[tuple[str, str]]:
    """Pattern of each status without a vector, as base64 of a PNG, and what it means."""
    return [(_png(pattern(status, 16, 28)), words) for status, words in EMPTY.items()]


def _png(pixels: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
