"""Synthetic land and sky of the demo archive: what a satellite would measure at a place and a time.

All functions depend on UTM coordinates, the datatake and a seed only, so that two tiles of one datatake have equal
pixels where they overlap. Pixels are computed with +, -, *, /, square roots and integer hashes alone, so that every
machine gets the same ones. Coordinates are two axes of pixel centres in metres, 10 m apart: `xs` eastward, `ys`
southward.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Axis = NDArray[np.float64]
BANDS = ("B02", "B03", "B04", "B08")

STEP_DN = (10, 10, 10, 40)
"""Step to which the numbers (DN) of each band are rounded, so that the files compress well."""

EDGE_Y_M = 5_635_000.0

EDGE_SLOPE = 0.25
"""Slope of the edge of a descending swath: metres eastward for each metre northward. Of an ascending one it is
negative."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A round place that is cloudy, or clear; within a third of its radius this holds for every seed."""

    x_m: float
    y_m: float
    radius_m: float
    cloudy: bool


@dataclass(frozen=True, kw_only=True)
class Datatake:
    """One pass of one satellite."""

    platform: str
    start: datetime
    relative_orbit: int
    absolute_orbit: int
    cover: float
    """bias of the cloud field: with 0 about half of the sky is cloudy, with -9 nothing"""
    cirrus: float = -9.0
    """bias of the field of cirrus (thin, high clouds), as `cover`"""
    blobs: tuple[Blob, ...] = ()
    edge_x_m: float | None = None
    """easting (m) at which the swath's eastern edge crosses the northing `EDGE_Y_M`; None where the swath covers all"""

    def east_end_m(self, y_m: Axis) -> Axis:
        """Easting (m) of the swath's eastern edge at each northing; infinite where the swath covers all."""
        at_reference = np.inf if self.edge_x_m is None else self.edge_x_m
        return at_reference + EDGE_SLOPE * (y_m - EDGE_Y_M)


KINDS = ("lake", "river", "broadleaf", "conifer", "bright_roof", "red_roof", "asphalt", "garden")
CROPS = ("wheat", "barley", "rape", "maize", "beet", "grass")

JITTERS = 8
"""number of growing calendars of each crop, JITTER_D days apart; each parcel has one of them"""

JITTER_D = 3
_CROP_SHARE = (0.27, 0.12, 0.09, 0.22, 0.10, 0.20)

_FIXED = np.array(
    [
        [310, 390, 240, 130],
        [470, 610, 510, 260],
        [210, 420, 250, 3450],
        [170, 290, 190, 2150],
        [1900, 2000, 2050, 2300],
        [950, 1050, 1450, 1900],
        [820, 860, 880, 1050],
        [420, 680, 520, 2900],
    ],
    np.float32,
)

_SOIL, _GREEN, _DRY = np.array([[780, 1010, 1330, 2050], [270, 580, 310, 4350], [760, 1130, 1480, 2750]], np.float32)
_DAYS = (150, 165, 180, 195, 212)

_COVER = (  # of each crop, the green share and the dry share on _DAYS; the rest is soil
    ((0.95, 0.88, 0.60, 0.12, 0.04), (0.02, 0.10, 0.38, 0.80, 0.50)),
    ((0.85, 0.50, 0.15, 0.05, 0.08), (0.10, 0.45, 0.75, 0.50, 0.30)),
    ((0.75, 0.70, 0.50, 0.20, 0.05), (0.20, 0.20, 0.35, 0.65, 0.40)),
    ((0.06, 0.22, 0.58, 0.88, 0.95), (0.00, 0.00, 0.00, 0.00, 0.00)),
    ((0.20, 0.55, 0.85, 0.97, 0.97), (0.00, 0.00, 0.00, 0.00, 0.00)),
    ((0.86, 0.70, 0.80, 0.66, 0.74), (0.05, 0.16, 0.08, 0.20, 0.14)),
)


def palette(day_of_year: int) -> Floats:
    """Reflectance x 10000 (kind, band) of each kind of land on a day: fixed kinds, then crops with each calendar."""
    return with_crops(_FIXED, (_SOIL, _GREEN, _DRY), day_of_year)


def with_crops(fixed: Floats, soil_green_dry: tuple[Floats, Floats, Floats], day_of_year: int) -> Floats:
    """Values (kind, channel): those of the fixed kinds, then crops, mixed as they stand on that day."""
    soil, leaf, straw = soil_green_dry
    rows = list(fixed)
    for green_curve, dry_curve in _COVER:
        for step in range(JITTERS):
            day = day_of_year + (step - JITTERS // 2) * JITTER_D
            green, dry = np.interp(day, _DAYS, green_curve), np.interp(day, _DAYS, dry_curve)
            rows.append((leaf * green + straw * dry + soil * (1.0 - green - dry)).astype(np.float32))
    return np.stack(rows)


def key_of(seed: int, purpose: str) -> int:
    """A key for `hash_of` and `noise`, another one for each purpose."""
    return zlib.crc32(f"{seed}:{purpose}".encode())


def hash_of(col: NDArray[Any], row: NDArray[Any], key: int | NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash (32 bits) of two integers, which are broadcast against each other, and a key."""
    bits = col.astype(np.uint32) * np.uint32(0x9E3779B1) ^ row.astype(np.uint32) * np.uint32(0x85EBCA77)
    bits = bits ^ key if isinstance(key, np.ndarray) else bits ^ np.uint32(key)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return np.asarray(bits ^ (bits >> np.uint32(16)), dtype=np.uint32)


def _unit(bits: NDArray[np.uint32]) -> Floats:
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _taps(axis: Axis, cell_m: float) -> tuple[NDArray[np.int64], tuple[Floats, Floats, Floats]]:
    """Index of the lattice point before each coordinate, and its three weights of a quadratic B-spline."""
    scaled = axis / cell_m
    index = np.floor(scaled)
    part = (scaled - index).astype(np.float32)
    left, right = (1 - part) * (1 - part) * np.float32(0.5), part * part * np.float32(0.5)
    return index.astype(np.int64) - 1, (left, 1 - left - right, right)


def noise(xs: Axis, ys: Axis, cell_m: float, key: int) -> Floats:
    """Smooth noise on the grid ys x xs: mean 0, standard deviation 0.3, features of about `cell_m`."""
    col, col_weights = _taps(xs, cell_m)
    row, row_weights = _taps(ys, cell_m)
    lattice_col = np.arange(col.min(), col.max() + 3)
    lattice_row = np.arange(row.min(), row.max() + 3)
    lattice = _unit(hash_of(lattice_col[None, :], lattice_row[:, None], key)) - np.float32(0.5)
    rows = sum(lattice[row - lattice_row[0] + k] * row_weights[k][:, None] for k in range(3))
    field = sum(np.asarray(rows)[:, col - lattice_col[0] + k] * col_weights[k] for k in range(3))
    return np.asarray(field, dtype=np.float32) * np.float32(2.0)


def fractal(xs: Axis, ys: Axis, cells_m: Sequence[float], key: int) -> Floats:
    """Sum of `noise` at several sizes, each half as strong as the one before."""
    total = np.zeros((ys.size, xs.size), np.float32)
    for octave, cell_m in enumerate(cells_m):
        total += noise(xs, ys, cell_m, key + octave) * np.float32(0.5**octave)
    return total


def _ramp(values: Floats, low: float, high: float) -> Floats:
    part = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(part * part * (3 - 2 * part), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Land cover of an area, which does not depend on the date."""

    kind: Bytes
    """row of `palette` for each pixel"""
    tone: Floats
    """factor of brightness of each pixel; it varies between parcels and within them"""

    @property
    def label(self) -> Bytes:
        """Land cover of each pixel as an index into KINDS + CROPS, without the calendar of the crop."""
        crop = len(KINDS) + (self.kind.astype(np.int16) - len(KINDS)) // JITTERS
        return np.where(self.kind < len(KINDS), self.kind, crop).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Voronoi cell of each pixel: offset (m) from its centre, distance to its border (m), its hash."""

    dx: Floats
    dy: Floats
    border_m: Floats
    hash: NDArray[np.uint32]


def _blocks(xs: Axis, ys: Axis, size_m: float, key: int) -> _Blocks:
    col, row = np.floor(xs / size_m).astype(np.int64), np.floor(ys / size_m).astype(np.int64)
    shape = (ys.size, xs.size)
    nearest, second = np.full(shape, np.inf, np.float32), np.full(shape, np.inf, np.float32)
    dx, dy = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    chosen = np.zeros(shape, np.uint32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            bits = hash_of((col + right)[None, :], (row + down)[:, None], key)
            part_x = (bits & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65536)
            part_y = (bits >> np.uint32(16)).astype(np.float32) / np.float32(65536)
            to_x = (xs - (col + right) * size_m).astype(np.float32)[None, :] - part_x * np.float32(size_m)
            to_y = (ys - (row + down) * size_m).astype(np.float32)[:, None] - part_y * np.float32(size_m)
            distance = to_x * to_x + to_y * to_y
            closer = distance < nearest
            second = np.minimum(second, np.where(closer, nearest, distance))
            nearest = np.where(closer, distance, nearest)
            dx, dy = np.where(closer, to_x, dx), np.where(closer, to_y, dy)
            chosen = np.where(closer, bits, chosen)
    return _Blocks(dx=dx, dy=dy, border_m=(np.sqrt(second) - np.sqrt(nearest)) * np.float32(0.5), hash=chosen)


def _fields(blocks: _Blocks) -> tuple[Bytes, Floats]:
    """Kind and brightness of the fields: each block is divided into strips with a direction and a width of its own."""
    own = hash_of(blocks.hash, blocks.hash >> np.uint32(7), 17)
    slant = (own & np.uint32(0xFF)).astype(np.float32) / np.float32(127.5) - 1
    cos, sin = (1 - slant * slant) / (1 + slant * slant), 2 * slant / (1 + slant * slant)
    width_m = np.float32(70) + (own >> np.uint32(8) & np.uint32(0xFF)).astype(np.float32) * np.float32(0.7)
    length_m = np.float32(260) + (own >> np.uint32(16) & np.uint32(0xFF)).astype(np.float32) * np.float32(1.6)
    strip = np.floor((blocks.dx * cos + blocks.dy * sin) / width_m).astype(np.int32)
    piece = np.floor((blocks.dy * cos - blocks.dx * sin) / length_m).astype(np.int32)
    bits = hash_of(strip, piece, own)
    limits = np.cumsum(np.array(_CROP_SHARE[:-1]) * 1024).astype(np.uint32)
    crop = np.searchsorted(limits, bits & np.uint32(0x3FF), side="right").astype(np.uint8)
    calendar = (bits >> np.uint32(10) & np.uint32(JITTERS - 1)).astype(np.uint8)
    tone = np.float32(0.9) + (bits >> np.uint32(16) & np.uint32(0xFF)).astype(np.float32) * np.float32(0.2 / 255)
    return (len(KINDS) + crop * JITTERS + calendar).astype(np.uint8), tone


def _town(xs: Axis, ys: Axis, key: int) -> Bytes:
    """Kind of each pixel in a town: houses of 30 m, and streets. The caller cuts out where the town is."""
    house = hash_of(np.floor(xs / 30.0)[None, :].astype(np.int64), np.floor(ys / 30.0)[:, None].astype(np.int64), key)
    kind = np.array([4, 5, 5, 5, 6, 7, 7, 7], np.uint8)[house & np.uint32(7)]
    street = (np.mod(xs, 150.0) < 20)[None, :] | (np.mod(ys, 120.0) < 20)[:, None]
    return np.where(street, np.uint8(6), kind)


def _round_m(xs: Axis, ys: Axis, x_m: float, y_m: float) -> Floats:
    dx, dy = (xs - x_m).astype(np.float32), (ys - y_m).astype(np.float32)
    return np.sqrt(dx * dx + (dy * dy)[:, None])


def ground(xs: Axis, ys: Axis, *, seed: int) -> Ground:
    """The land at pixel centres ys x xs: fields, woods, villages and a town, a lake and a river."""
    blocks = _blocks(xs, ys, 850.0, key_of(seed, "blocks"))
    kind, tone = _fields(blocks)
    kind = np.where(blocks.border_m < 7, np.uint8(6), kind)
    rough = fractal(xs, ys, (420.0, 170.0, 80.0), key_of(seed, "rough"))
    wood = fractal(xs, ys, (2600.0, 1100.0), key_of(seed, "wood")) + rough * np.float32(0.16) > 0.24
    conifer = noise(xs, ys, 1300.0, key_of(seed, "conifer")) + rough * np.float32(0.1) > 0.02
    kind = np.where(wood, np.where(conifer, np.uint8(3), np.uint8(2)), kind)
    village = (blocks.hash % np.uint32(9) == 0) & (blocks.dx * blocks.dx + blocks.dy * blocks.dy < 36_000 * (1 + rough))
    town = _round_m(xs, ys, 397_300.0, 5_634_300.0) + rough * 700 < 1250
    kind = np.where(town | village & ~wood, _town(xs, ys, key_of(seed, "town")), kind)
    kind = np.where(_round_m(xs, ys, 405_700.0, 5_637_300.0) + rough * 500 < 950, np.uint8(0), kind)
    only = np.zeros(1)
    bend = noise(only, ys, 4200.0, key_of(seed, "bend")) * 3000 + noise(only, ys, 1300.0, key_of(seed, "loop")) * 700
    river = np.abs((xs - 396_300.0).astype(np.float32)[None, :] - bend) < 55 + rough * 25
    kind = np.where(river, np.uint8(1), kind)
    canopy = noise(xs, ys, 32.0, key_of(seed, "canopy"))
    tone = np.where(kind < len(KINDS), np.float32(1), tone) * (1 + rough * np.float32(0.07))
    tone = np.where((kind == 2) | (kind == 3), tone * (1 + canopy * np.float32(0.28)), tone)
    return Ground(kind=kind, tone=np.where(kind < 2, 1 + rough * np.float32(0.04), tone))


_TO_SUN_PX = (30, 64)
"""Offset from a shadow to its cloud, in pixels eastward and southward."""


@dataclass(frozen=True, kw_only=True)
class Sky:
    """Clouds and shadows of a datatake over an area, and where the swath covers it."""

    opacity: Floats
    bright: Floats
    """reflectance x 10000 of the cloud itself in the blue band"""
    shadow: Floats
    seen: NDArray[np.bool_]
    """False outside of the swath"""


def sky(xs: Axis, ys: Axis, *, take: Datatake, seed: int) -> Sky:
    """Clouds, their shadows and the swath of a datatake at pixel centres ys x xs (10 m apart, ys falling)."""
    right, down = _TO_SUN_PX
    wide = np.concatenate([xs, xs[-1] + 10.0 * np.arange(1, right + 1)])
    tall = np.concatenate([ys, ys[-1] - 10.0 * np.arange(1, down + 1)])
    date = f"{take.start:%Y%m%d}"
    cells_m = (2300.0, 1200.0, 600.0, 310.0, 150.0, 70.0)
    field = fractal(wide, tall, cells_m, key_of(seed, f"cloud{date}"))
    density = field + np.float32(take.cover)
    for blob in take.blobs:
        away = _round_m(wide, tall, blob.x_m, blob.y_m) / np.float32(blob.radius_m)
        near = np.clip(1 - away + field * np.float32(0.3), 0, 1)
        density += near * near * np.float32(12 if blob.cloudy else -12)
    thick = _ramp(density, 0.0, 0.3)
    veil = fractal(xs, ys, (5200.0, 1700.0, 600.0), key_of(seed, f"cirrus{date}")) + np.float32(take.cirrus)
    opacity = np.maximum(thick[: ys.size, : xs.size], _ramp(veil, 0.0, 1.2) * np.float32(0.34))
    coarse_x, coarse_y = np.floor(xs / 20.0) * 20 + 10, np.floor(ys / 20.0) * 20 + 10
    seen = coarse_x[None, :] < take.east_end_m(coarse_y)[:, None]
    bright = 5000 + opacity * 2100 + _ramp(density[: ys.size, : xs.size], 0.1, 1.5) * 1500
    return Sky(opacity=opacity, bright=bright, shadow=thick[down:, right:] * (1 - opacity), seen=seen)


def reflectance(land: Ground, above: Sky, xs: Axis, ys: Axis, *, take: Datatake, seed: int) -> NDArray[np.uint16]:
    """Reflectance x 10000 (band, y, x) as the satellite measures it; 0 outside of the swath."""
    colours = palette(take.start.timetuple().tm_yday)
    col, row = (xs // 10).astype(np.int64)[None, :], (ys // 10).astype(np.int64)[:, None]
    grain = hash_of(col, row, key_of(seed, f"grain{take.start:%Y%m%d}"))
    lit = 1 - above.shadow * np.float32(0.55)
    planes = []
    for band in range(len(BANDS)):
        speck = (grain >> np.uint32(8 * band) & np.uint32(0xFF)).astype(np.float32) * np.float32(0.02 / 255)
        surface = colours[land.kind, band] * land.tone * (np.float32(0.99) + speck) * lit
        mixed = surface + (above.bright + 150 * band - surface) * above.opacity
        stepped = np.maximum(np.rint(mixed / STEP_DN[band]), 1) * STEP_DN[band]
        planes.append(np.where(above.seen, stepped, 0).astype(np.uint16))
    return np.stack(planes)


def _pool(field: NDArray[Any]) -> NDArray[Any]:
    """Maximum of each 2 x 2 pixels."""
    height, width = field.shape
    return np.asarray(field.reshape(height // 2, 2, width // 2, 2).max(axis=(1, 3)))


def classes(land: Ground, above: Sky, bands: NDArray[np.uint16]) -> Bytes:
    """Scene classification (SCL) at 20 m for the result of `reflectance`."""
    red, nir = bands[2, ::2, ::2].astype(np.float32), bands[3, ::2, ::2].astype(np.float32)
    scl = np.where(nir - red > 0.4 * (nir + red), np.uint8(4), np.uint8(5))
    scl = np.where(land.kind[::2, ::2] < 2, np.uint8(6), scl)
    scl = np.where(_pool(above.shadow) > 0.06, np.uint8(3), scl)
    opacity = _pool(above.opacity)
    for limit, code in ((0.02, 10), (0.35, 8), (0.75, 9)):
        scl = np.where(opacity > limit, np.uint8(code), scl)
    return np.where(above.seen[::2, ::2], scl, np.uint8(0))
