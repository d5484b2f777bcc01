"""Zones: where the cells of a layer lie. A lattice of pixels (`grid.py`), or a list of samples, on no common grid.

A sample list is cut into shards as a lattice is, so that all else need not know which of the two it is: a shard holds
`chips` x `chips` samples, each of which is one chip, row by row in the order of the list. Chips of samples do not touch
each other on the Earth, so each has its own halo.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedcube.grid import Floats, ShardLayout, ShardRange, to_degrees

SAMPLES = "samples"
"""Name of the zone of a sample list, and the value of `grid.crs` that asks for one."""

UNDATED = -(2**63)
"""Seconds that stand for an unknown date: numpy's NaT."""

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class ObjectShape:
    """How many shards one object of the cube holds; where a chunk holds several windows, these are one shard here."""

    windows: int
    """shards along time"""
    rows: int
    cols: int

    def from_border(self, place: ShardRange) -> ShardRange:
        """A rectangle of shards, made larger so that it begins at the border of an object, counted from the origin.

        One that lies within one object stays as it is: a small cube has no cells beside its region.
        """
        above, left = place.row % self.rows, place.col % self.cols
        if above + place.rows <= self.rows and left + place.cols <= self.cols:
            return place
        return ShardRange(row=place.row - above, col=place.col - left, rows=place.rows + above, cols=place.cols + left)


class Zone(Protocol):
    """Where the cells of a layer's shards lie."""

    @property
    def name(self) -> str:
        """Name of the group of the cube that holds its arrays."""
        ...

    @property
    def pixel(self) -> float:
        """Side of a pixel in units of the CRS."""
        ...

    def cell_degrees(self, layout: ShardLayout, row: int, col: int) -> tuple[Floats, Floats]:
        """Longitudes and latitudes (y, x) of the centres of a shard's cells; NaN where nobody knows them."""
        ...

    def own_cells(self, layout: ShardLayout, row: int, col: int) -> NDArray[np.bool_]:
        """Which cells (y, x) of a shard belong to this zone; the others are not processed."""
        ...


@dataclass(frozen=True, kw_only=True)
class SampleList:
    """Samples in the order of the cube: their ids, places and dates, one entry for each sample in every column."""

    pixel: float
    """side of a pixel as the campaign says"""
    ids: tuple[str, ...]
    crs: tuple[str, ...]
    """authority code or WKT; empty for a sample whose place is unknown"""
    x: tuple[float, ...]
    """centre of the sample in its CRS"""
    y: tuple[float, ...]
    """centre of the sample in its CRS"""
    dx: tuple[float, ...]
    """step of x from one column of pixels to the next"""
    dy: tuple[float, ...]
    """step of y from one row of pixels to the next: negative where north is up"""
    acquired: tuple[tuple[int, ...], ...] = ()
    """for each window, Unix seconds of the first acquisition of each sample; UNDATED where that is unknown"""

    @property
    def name(self) -> str:
        """`samples`: a layer has one list."""
        return SAMPLES

    def __len__(self) -> int:
        return len(self.ids)

    def shards(self, layout: ShardLayout) -> int:
        """Number of shards of the list."""
        return -(-len(self) // layout.slots)

    def members(self, layout: ShardLayout, row: int) -> range:
        """Numbers of the samples of a shard."""
        return range(row * layout.slots, min((row + 1) * layout.slots, len(self)))

    def part(self, numbers: Sequence[int]) -> "SampleList":
        """Some of the samples, without their dates."""
        names = ("ids", "crs", "x", "y", "dx", "dy")
        columns: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in numbers) for name in names}
        return SampleList(pixel=self.pixel, **columns)

    def digest_of(self, layout: ShardLayout, row: int) -> bytes:
        """SHA-256 of the ids and places of the samples of a shard."""
        own = self.part(self.members(layout, row))
        facts = [own.ids, own.crs, own.x, own.y, own.dx, own.dy]
        return hashlib.sha256(json.dumps(facts).encode()).digest()

    def own_cells(self, layout: ShardLayout, row: int, col: int) -> NDArray[np.bool_]:
        """The cells of samples; behind the last one of the list there are none."""
        slots = np.arange(layout.slots) < len(self.members(layout, row))
        return together(np.broadcast_to(slots[:, None, None], (layout.slots, *[layout.chip_cells] * 2)), layout)

    def cell_degrees(self, layout: ShardLayout, row: int, col: int) -> tuple[Floats, Floats]:
        """Longitudes and latitudes (y, x) of the centres of a shard's cells; NaN where a place is unknown."""
        steps = (np.arange(layout.chip_cells) + 0.5) * layout.cell_px - layout.keep_px / 2
        lonlat = np.full((2, layout.slots, len(steps), len(steps)), np.nan)
        own = self.members(layout, row)
        lonlat[:, : len(own)] = self.part(own).degrees(steps, steps)
        lon, lat = (together(one, layout) for one in lonlat)
        return lon, lat

    def row_latitudes(self, sample: int, rows: int) -> Floats:
        """Latitude of each row of pixels of a sample of so many rows, in the middle of the row."""
        steps = np.arange(rows) + 0.5 - rows / 2
        return np.asarray(self.part([sample]).degrees(np.zeros(1), steps)[1][0, :, 0])

    def degrees(self, across: NDArray[Any], down: NDArray[Any]) -> tuple[Floats, Floats]:
        """Longitudes and latitudes (sample, row, column) at offsets from the centres, in pixels."""
        shape = (len(self), len(down), len(across))
        lon, lat = np.full(shape, np.nan), np.full(shape, np.nan)
        x, y, dx, dy = (np.array(column, dtype=np.float64)[:, None] for column in (self.x, self.y, self.dx, self.dy))
        for crs in sorted(set(self.crs) - {""}):
            own = np.array([one == crs for one in self.crs])
            east, north = np.broadcast_arrays((x + dx * across)[own][:, None, :], (y + dy * down)[own][:, :, None])
            lon[own], lat[own] = to_degrees(crs).transform(east, north)
        return lon, lat

    @cached_property
    def lonlat(self) -> tuple[Floats, Floats]:
        """Longitude and latitude of the centre of each sample; NaN where its place is unknown."""
        lon, lat = self.degrees(np.zeros(1), np.zeros(1))
        return lon.ravel(), lat.ravel()

    def chosen(self, mask: Sequence[bool]) -> tuple[str, ...]:
        """Ids of some samples."""
        return tuple(compress(self.ids, mask))


def samples_from(document: dict[str, Any]) -> SampleList:
    """The list that `dataclasses.asdict` has made a JSON document of."""
    acquired = tuple(map(tuple, document.pop("acquired")))
    columns: dict[str, Any] = {
        name: tuple(column) if isinstance(column, list) else column for name, column in document.items()
    }
    return SampleList(acquired=acquired, **columns)


def together(listed: NDArray[Number], layout: ShardLayout) -> NDArray[Number]:
    """Blocks of samples (sample, y, x, ...) as one square (y, x, ...), row by row."""
    chips, (rows, cols) = layout.chips, listed.shape[1:3]
    square = listed.reshape(chips, chips, *listed.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(square.reshape(chips * rows, chips * cols, *listed.shape[3:]))


def apart(square: NDArray[Number], layout: ShardLayout) -> NDArray[Number]:
    """The blocks (sample, y, x, ...) of a square (y, x, ...): the inverse of `together`."""
    chips = layout.chips
    rows, cols = square.shape[0] // chips, square.shape[1] // chips
    blocks = square.reshape(chips, rows, chips, cols, *square.shape[2:]).swapaxes(1, 2)
    return np.ascontiguousarray(blocks.reshape(layout.slots, rows, cols, *square.shape[2:]))


def kept_pixels(pixels_yx: NDArray[Number], layout: ShardLayout) -> NDArray[Number]:
    """Pixels (y, x) of the kept centres: without the halo around a lattice, or around each chip of a list."""
    halo, side = layout.halo_px, layout.chip_px
    if not layout.apart:
        rows, cols = pixels_yx.shape
        return pixels_yx[halo : rows - halo, halo : cols - halo]
    chips = pixels_yx.reshape(pixels_yx.shape[0] // side, side, pixels_yx.shape[1] // side, side)
    inner = chips[:, halo : side - halo, :, halo : side - halo]
    return inner.reshape(chips.shape[0] * layout.keep_px, chips.shape[2] * layout.keep_px)
