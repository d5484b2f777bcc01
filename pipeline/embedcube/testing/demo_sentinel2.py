"""Sentinel-2 Level-2A of the demo, with the clouds and the faults that real archives have.

`SCENES` lists the items and the fault of each; `demo_world` computes the pixels.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from embedcube.testing.demo_stac import CRS, Frame, asset_of, footprint, stamp, write_cog, write_collection, write_item
from embedcube.testing.demo_world import BANDS, Axis, Blob, Bytes, Datatake, Ground, classes, ground, reflectance, sky

COLLECTION_ID = "embedcube-demo"
TILE_PX = 1024


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A square of `TILE_PX` x `TILE_PX` pixels of 10 m, named like a tile of MGRS."""

    name: str
    west_m: float
    north_m: float
    delay_s: float
    """seconds from the start of the datatake to the sensing of this tile"""

    def axes(self) -> tuple[Axis, Axis]:
        """Coordinates of the pixel centres in metres: x of the columns, eastward, and y of the rows, southward."""
        steps = np.arange(5.0, TILE_PX * 10.0, 10.0)
        return self.west_m + steps, self.north_m - steps

    def frame(self, pixel_m: int) -> Frame:
        """Where an image of the tile lies."""
        return Frame(west_m=self.west_m, north_m=self.north_m, pixel_m=pixel_m)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One item of the archive: the part of a datatake in one tile, and how it was processed."""

    take: Datatake
    tile: Tile
    baseline: str = "05.09"
    offset_applied: bool = True
    torn_band: str | None = None
    """band whose file is cut short; None for an item without a fault"""

    @property
    def adds_offset(self) -> bool:
        """Whether the stored numbers are reflectance x 10000 + 1000."""
        return self.baseline >= "04.00" and not self.offset_applied

    @property
    def id(self) -> str:
        """Id of the item, formed as Earth Search does."""
        return f"{self.take.platform}_{self.tile.name}_{self.take.start:%Y%m%d}_0_L2A"


WEST = Tile(name="32ULB", west_m=392_280.0, north_m=5_640_000.0, delay_s=411.590)
EAST = Tile(name="32UMB", west_m=399_960.0, north_m=5_640_000.0, delay_s=408.122)

LOOKED_TWICE = (401_240.0, 5_636_300.0)
"""Place (x, y in metres) that both tiles show: clear in JUN_CLEAR and JUL_WEST, cloudy in JUN_OVERCAST and JUL_EAST."""

TORN_AND_CLOUDY = (407_000.0, 5_632_000.0)
"""Place (x, y in metres) in the lost part of the truncated band where the other acquisition of July is cloudy."""

TORN_AND_CLEAR = (404_600.0, 5_631_600.0)
"""Place (x, y in metres) in the lost part of the truncated band where the other acquisition of July is clear."""


def _utc(year: int, month: int, day: int, hour: int, minute: int, second: int) -> datetime:
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _at(place: tuple[float, float], radius_m: float, cloudy: bool) -> Blob:
    return Blob(x_m=place[0], y_m=place[1], radius_m=radius_m, cloudy=cloudy)


JUN_CLEAR = Datatake(
    platform="S2B", relative_orbit=8, absolute_orbit=32638, start=_utc(2023, 6, 6, 10, 36, 29),
    cover=-9.0,
)  # fmt: skip

JUN_EDGE = Datatake(
    platform="S2A", relative_orbit=51, absolute_orbit=41661, start=_utc(2023, 6, 14, 10, 46, 21),
    cover=-0.34, cirrus=-0.25, edge_x_m=408_000.0,
)  # fmt: skip

JUN_OVERCAST = Datatake(
    platform="S2B", relative_orbit=8, absolute_orbit=32924, start=_utc(2023, 6, 26, 10, 36, 29),
    cover=0.42, blobs=(_at(LOOKED_TWICE, 2000.0, True),),
)  # fmt: skip

JUL_BROKEN = Datatake(
    platform="S2B", relative_orbit=8, absolute_orbit=33067, start=_utc(2023, 7, 6, 10, 36, 29),
    cover=-0.30, blobs=(_at(TORN_AND_CLOUDY, 3600.0, False), _at(TORN_AND_CLEAR, 2500.0, False)),
)  # fmt: skip

JUL_WEST = Datatake(
    platform="S2A", relative_orbit=51, absolute_orbit=42090, start=_utc(2023, 7, 14, 10, 46, 21),
    cover=-0.35, blobs=(_at(LOOKED_TWICE, 3200.0, False),),
)  # fmt: skip

JUL_EAST = Datatake(
    platform="S2A", relative_orbit=108, absolute_orbit=42147, start=_utc(2023, 7, 18, 10, 26, 1),
    cover=-0.48,
    blobs=(
        _at(LOOKED_TWICE, 2000, True), _at(TORN_AND_CLOUDY, 2000, True), _at(TORN_AND_CLEAR, 1800, False),
    ),
)  # fmt: skip

SCENES: tuple[Scene, ...] = (
    Scene(take=JUN_CLEAR, tile=WEST, offset_applied=False),
    Scene(take=JUN_CLEAR, tile=EAST),
    Scene(take=JUN_EDGE, tile=WEST),
    Scene(take=JUN_EDGE, tile=EAST),
    Scene(take=JUN_OVERCAST, tile=WEST),
    Scene(take=JUN_OVERCAST, tile=EAST),
    Scene(take=JUL_BROKEN, tile=WEST),
    Scene(take=JUL_BROKEN, tile=EAST, torn_band="B03"),
    Scene(take=JUL_WEST, tile=WEST, baseline="02.14", offset_applied=False),
    Scene(take=JUL_EAST, tile=EAST),
)
"""All items. JUL_WEST and JUL_EAST are two acquisitions, four days apart, of the area that both tiles show."""

SPECTRUM = {
    "B02": ("blue", 0.49, 0.098),
    "B03": ("green", 0.56, 0.045),
    "B04": ("red", 0.665, 0.038),
    "B08": ("nir", 0.842, 0.145),
}
"""Common name, centre wavelength and width (both in micrometres) of each band."""


def _tear(path: Path) -> None:
    """Truncate a COG within the first block of its lower half: it still opens, but its lower half is lost."""
    with rasterio.open(path) as source:
        row = TILE_PX // 2 // source.block_shapes[0][0]
        start = int(source.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1))
        size = int(source.get_tag_item(f"BLOCK_SIZE_0_{row}", "TIFF", bidx=1))
    os.truncate(path, start + size // 2)


def _asset(scene: Scene, path: Path, band: str, pixels: NDArray[Any]) -> dict[str, Any]:
    frame = scene.tile.frame(TILE_PX * 10 // len(pixels))
    if band == "SCL":
        raster: dict[str, Any] = {"nodata": 0, "data_type": "uint8"}
        asset = asset_of(path, pixels.shape, frame, title="Scene classification map (SCL)", raster=raster)
        return asset | {"roles": ["data", "reflectance"]}
    name, centre, width = SPECTRUM[band]
    # as Earth Search does: the offset stays in the metadata even where it has been applied already
    offset = -0.1 if scene.baseline >= "04.00" else 0
    raster = {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "scale": 0.0001, "offset": offset}
    asset = asset_of(path, pixels.shape, frame, title=f"{name.capitalize()} ({band}) - 10m", raster=raster)
    bands = [{"name": band, "common_name": name, "center_wavelength": centre, "full_width_half_max": width}]
    return asset | {"roles": ["data", "reflectance"], "eo:bands": bands}


def _footprint(scene: Scene) -> dict[str, Any]:
    """GeoJSON polygon, in degrees, of the part of the tile that the swath covers."""
    west, north = scene.tile.west_m, scene.tile.north_m
    south, east = north - TILE_PX * 10.0, west + TILE_PX * 10.0
    top, bottom = np.minimum(scene.take.east_end_m(np.array([north, south])), east).tolist()
    return footprint([(west, north), (west, south), (bottom, south), (top, north)])


def _properties(scene: Scene, scl: Bytes) -> dict[str, Any]:
    take, tile = scene.take, scene.tile
    start = f"{take.start:%Y%m%dT%H%M%S}"
    product = f"N{scene.baseline.replace('.', '')}_R{take.relative_orbit:03d}_T{tile.name}"
    made = take.start + timedelta(days=0 if scene.offset_applied else 200, hours=5)  # reprocessed 200 days later
    cloudy, seen = np.isin(scl, (8, 9, 10)).sum(), (scl > 0).sum()
    return {
        "datetime": stamp(take.start + timedelta(seconds=tile.delay_s)),
        "platform": f"sentinel-{take.platform[1:].lower()}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": round(100 * float(cloudy / seen), 4),
        "proj:code": CRS,
        "proj:epsg": int(CRS.split(":")[1]),
        "mgrs:utm_zone": int(tile.name[:2]),
        "mgrs:latitude_band": tile.name[2],
        "mgrs:grid_square": tile.name[3:],
        "grid:code": f"MGRS-{tile.name}",
        "s2:nodata_pixel_percentage": round(100 * float((scl == 0).mean()), 4),
        "s2:processing_baseline": scene.baseline,
        "s2:product_type": "S2MSI2A",
        "s2:product_uri": f"{take.platform}_MSIL2A_{start}_{product}_{made:%Y%m%dT%H%M%S}.SAFE",
        "s2:generation_time": stamp(made),
        "s2:datatake_id": f"G{take.platform}_{start}_{take.absolute_orbit:06d}_N{scene.baseline}",
        "s2:sequence": "0",
        "earthsearch:boa_offset_applied": scene.offset_applied,
    }


_EXTENSIONS = ("eo/v1.1", "file/v2.1", "grid/v1.0", "mgrs/v1.0", "projection/v2.0", "raster/v1.1")


def _write_scene(archive: Path, scene: Scene, land: Ground, seed: int) -> dict[str, Any]:
    """Write the folder of one item, and return the item."""
    folder = archive / scene.id
    folder.mkdir()
    xs, ys = scene.tile.axes()
    above = sky(xs, ys, take=scene.take, seed=seed)
    bands = reflectance(land, above, xs, ys, take=scene.take, seed=seed)
    scl = classes(land, above, bands)
    stored = np.where((bands > 0) & scene.adds_offset, bands + np.uint16(1000), bands)
    assets = {}
    for band, pixels in zip(BANDS, stored, strict=True):
        path = folder / f"{band}.tif"
        write_cog(path, pixels, scene.tile.frame(10), nodata=0)
        if band == scene.torn_band:
            _tear(path)
        assets[SPECTRUM[band][0]] = _asset(scene, path, band, pixels)
    write_cog(folder / "SCL.tif", scl, scene.tile.frame(20), nodata=0)
    assets["scl"] = _asset(scene, folder / "SCL.tif", "SCL", scl)
    return write_item(
        folder, collection=COLLECTION_ID, geometry=_footprint(scene), properties=_properties(scene, scl),
        assets=assets, extensions=_EXTENSIONS,
    )  # fmt: skip


def write_sentinel2(folder: Path, seed: int) -> None:
    """Write all scenes and their Collection into a new folder."""
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        west, east = pool.map(lambda tile: ground(*tile.axes(), seed=seed), (WEST, EAST))
        lands = [west if scene.tile is WEST else east for scene in SCENES]
        items = list(pool.map(lambda scene, land: _write_scene(folder, scene, land, seed), SCENES, lands))
    write_collection(folder, COLLECTION_ID, items, f"Synthetic Sentinel-2 L2A scenes made by embedcube (seed {seed}).")
