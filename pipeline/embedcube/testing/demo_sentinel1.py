"""Sentinel-1 of the demo: gamma nought of GRD, terrain-corrected, of the same land that `demo_world` shows Sentinel-2.

The numbers are linear power in float32, as in public archives of terrain-corrected images (RTC). Beyond the edge of
the swath they are the declared number for no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.testing.demo_stac import CRS, Frame, asset_of, footprint, stamp, write_cog, write_collection, write_item
from embedcube.testing.demo_world import EDGE_SLOPE, EDGE_Y_M, Axis, Floats, ground, hash_of, key_of, noise, with_crops

COLLECTION_ID = "embedcube-demo-radar"
POLARISATIONS = ("VV", "VH")
PIXEL_M = 20
NO_DATA = -32768.0


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of one satellite, of which the archive has one image."""

    platform: str
    start: datetime
    orbit_state: str
    relative_orbit: int
    absolute_orbit: int
    datatake: str
    west_m: float
    north_m: float
    cols: int
    rows: int
    edge_x_m: float
    """easting (m) at which the edge of the swath crosses the northing `EDGE_Y_M`: its eastern edge on a descending
    pass, its western one on an ascending pass"""
    wetness: float = 1.0
    """factor of the power of the ground; more than 1 after rain"""

    @property
    def id(self) -> str:
        """Id of the item: that of the GRD product, and what was made of it."""
        end = self.start + timedelta(seconds=25)
        times = f"{self.start:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}"
        return f"{self.platform}_IW_GRDH_1SDV_{times}_{self.absolute_orbit:06d}_{self.datatake}_rtc"

    @property
    def frame(self) -> Frame:
        """Where the image lies."""
        return Frame(west_m=self.west_m, north_m=self.north_m, pixel_m=PIXEL_M)

    @property
    def descending(self) -> bool:
        """Whether the satellite flew southward."""
        return self.orbit_state == "descending"

    def axes(self) -> tuple[Axis, Axis]:
        """Coordinates of the pixel centres in metres: x of the columns, eastward, and y of the rows, southward."""
        xs: Axis = np.arange(PIXEL_M / 2, PIXEL_M * self.cols, PIXEL_M, dtype=np.float64)
        ys: Axis = np.arange(PIXEL_M / 2, PIXEL_M * self.rows, PIXEL_M, dtype=np.float64)
        return self.west_m + xs, self.north_m - ys

    def edge_m(self, y_m: Axis) -> Axis:
        """Easting (m) of the edge of the swath at each northing."""
        return self.edge_x_m + (EDGE_SLOPE if self.descending else -EDGE_SLOPE) * (y_m - EDGE_Y_M)

    def seen(self) -> NDArray[np.bool_]:
        """Which pixels the swath covers."""
        xs, ys = self.axes()
        edge = self.edge_m(ys)[:, None]
        return np.asarray(xs < edge if self.descending else xs > edge)


JUN_MORNING = Pass(
    platform="S1A", start=datetime(2023, 6, 9, 5, 42, 5, tzinfo=UTC), orbit_state="descending", relative_orbit=139,
    absolute_orbit=48911, datatake="05E1BC", west_m=392_280.0, north_m=5_640_000.0, cols=720, rows=512,
    edge_x_m=405_400.0,
)  # fmt: skip

JUN_EVENING = Pass(
    platform="S1A", start=datetime(2023, 6, 15, 17, 25, 41, tzinfo=UTC), orbit_state="ascending", relative_orbit=59,
    absolute_orbit=49006, datatake="05E4A1", west_m=398_040.0, north_m=5_636_400.0, cols=608, rows=332,
    edge_x_m=399_000.0,
)  # fmt: skip

JUL_MORNING = Pass(
    platform="S1A", start=datetime(2023, 7, 15, 5, 42, 7, tzinfo=UTC), orbit_state="descending", relative_orbit=139,
    absolute_orbit=49436, datatake="05F1D3", west_m=392_280.0, north_m=5_640_000.0, cols=720, rows=512,
    edge_x_m=405_300.0, wetness=1.2,
)  # fmt: skip

PASSES = (JUN_MORNING, JUN_EVENING, JUL_MORNING)
"""All images. July has no ascending pass: its east has no radar. No pass shows the north-east."""

_FIXED = np.array(
    [
        [0.008, 0.0015],
        [0.013, 0.0022],
        [0.140, 0.0430],
        [0.110, 0.0330],
        [0.950, 0.1300],
        [0.560, 0.0950],
        [0.030, 0.0040],
        [0.130, 0.0320],
    ],
    np.float32,
)
"""Gamma nought (power) of the kinds of land that stay as they are, in VV and VH: water is dark, roofs are bright."""

_SOIL, _LEAF, _STRAW = np.array([[0.055, 0.008], [0.105, 0.030], [0.075, 0.014]], np.float32)

_LEAST = 2.0**-11
"""least power: the noise of the instrument"""


def power(take: Pass, *, seed: int) -> Floats:
    """Gamma nought as linear power (polarisation, y, x), with speckle; `NO_DATA` beyond the edge of the swath."""
    xs, ys = take.axes()
    land = ground(xs, ys, seed=seed)
    levels = with_crops(_FIXED, (_SOIL, _LEAF, _STRAW), take.start.timetuple().tm_yday)
    # slopes that the terrain correction leaves: those that face the satellite are brighter, and it looks from the side
    slope = noise(xs, ys, 900.0, key_of(seed, "slope")) * np.float32(0.25 if take.descending else -0.25)
    slope = np.where(land.kind < 2, np.float32(1), (1 + slope) * np.float32(take.wetness))
    col, row = (xs // PIXEL_M).astype(np.int64)[None, :], (ys // PIXEL_M).astype(np.int64)[:, None]
    seen, planes = take.seen(), []
    for band, polarisation in enumerate(POLARISATIONS):
        bits = hash_of(col, row, key_of(seed, f"speckle{polarisation}{take.start:%Y%m%d}"))
        # the mean of four uniform numbers, times two: mean 1, deviation 0.29, as of about 12 looks
        speckle = sum((bits >> np.uint32(8 * byte) & np.uint32(0xFF)).astype(np.float32) for byte in range(4))
        plane = levels[land.kind, band] * land.tone * slope * (np.asarray(speckle) / np.float32(510))
        planes.append(np.where(seen, _shortened(np.maximum(plane, np.float32(_LEAST))), np.float32(NO_DATA)))
    return np.stack(planes).astype(np.float32)


def _shortened(values: Floats) -> Floats:
    """The same with 5 of 23 bits behind the point (0.1 dB), so that the files compress well."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 17)) & np.uint32(0xFFFFFFFF << 18 & 0xFFFFFFFF)).view(np.float32)


def _footprint(take: Pass) -> dict[str, Any]:
    """GeoJSON polygon, in degrees, of the part of the image that the swath covers."""
    west, north = take.west_m, take.north_m
    east, south = west + PIXEL_M * take.cols, north - PIXEL_M * take.rows
    top, bottom = np.clip(take.edge_m(np.array([north, south])), west, east).tolist()
    if take.descending:
        return footprint([(west, north), (west, south), (bottom, south), (top, north)])
    return footprint([(top, north), (bottom, south), (east, south), (east, north)])


_EXTENSIONS = ("file/v2.1", "projection/v2.0", "raster/v1.1", "sar/v1.0", "sat/v1.0")


def _write_scene(archive: Path, take: Pass, seed: int) -> dict[str, Any]:
    """Write the folder of one item, and return the item."""
    folder = archive / take.id
    folder.mkdir()
    assets = {}
    for polarisation, pixels in zip(POLARISATIONS, power(take, seed=seed), strict=True):
        path = folder / f"{polarisation}.tif"
        write_cog(path, pixels, take.frame, nodata=NO_DATA)
        title = f"{polarisation}: gamma nought, terrain-corrected, linear power"
        raster = {"nodata": NO_DATA, "data_type": "float32"}
        assets[polarisation.lower()] = asset_of(path, pixels.shape, take.frame, title=title, raster=raster)
        assets[polarisation.lower()] |= {"roles": ["data"], "sar:polarizations": [polarisation]}
    properties = {
        "datetime": stamp(take.start + timedelta(seconds=12.5)),
        "start_datetime": stamp(take.start),
        "end_datetime": stamp(take.start + timedelta(seconds=25)),
        "platform": f"sentinel-{take.platform[1:].lower()}",
        "constellation": "sentinel-1",
        "instruments": ["c-sar"],
        "proj:code": CRS,
        "proj:epsg": int(CRS.split(":")[1]),
        "sar:instrument_mode": "IW",
        "sar:frequency_band": "C",
        "sar:product_type": "RTC",
        "sar:polarizations": list(POLARISATIONS),
        "sat:orbit_state": take.orbit_state,
        "sat:relative_orbit": take.relative_orbit,
        "sat:absolute_orbit": take.absolute_orbit,
    }
    return write_item(
        folder, collection=COLLECTION_ID, geometry=_footprint(take), properties=properties, assets=assets,
        extensions=_EXTENSIONS,
    )  # fmt: skip


def write_sentinel1(folder: Path, seed: int) -> None:
    """Write all images and their Collection into a new folder."""
    folder.mkdir(parents=True)
    items = [_write_scene(folder, take, seed) for take in PASSES]
    write_collection(folder, COLLECTION_ID, items, f"Synthetic Sentinel-1 RTC images made by embedcube (seed {seed}).")
