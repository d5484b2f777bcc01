"""Write a small synthetic archive of Sentinel-2 Level-2A, with the faults that real archives have.

`SCENES` lists the items and the fault of each; `demo_world` computes the pixels.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_geom

from embedcube.testing.demo_world import BANDS, Axis, Blob, Bytes, Datatake, Ground, classes, ground, reflectance, sky

COLLECTION_ID = "embedcube-demo"

EDITION = 1
"""Edition of the archive. Raise it when items or pixels change: archives of earlier editions are then replaced."""

CRS = "EPSG:32632"
TILE_PX = 1024
SCRATCH_PREFIX = ".embedcube-demo-"

CAMPAIGN = """\
# A campaign says WHAT is asked. `how` says how it is computed and never changes a byte of the cube.
# `embedcube schema` describes every key.
campaign: demo
archives:
  s2:
    source: sentinel2
    path: archive                                     # a folder of STAC items, relative to this file
    bands: [B02, B03, B04, B08]
    mask: {band: SCL, clear: [4, 5, 6, 7, 11]}        # classes of the scene classification that are kept
grid: {crs: EPSG:32632, pixel: 10}
windows: {start: 2023-06-01, end: 2023-08-01, step: 1 month}
layers:
  s2_mosaiks:
    archives: [s2]
    backbone: {name: mosaiks, filters: 32}
    chip_px: 130                                      # what the backbone sees at once ...
    halo_px: 1                                        # ... of which 128 px are kept, in
    cell_px: 16                                       # cells of 160 m
    shard_chips: 3
    batch: 4
how: {ranks: 2}
"""


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


def _write_cog(path: Path, pixels: NDArray[Any], tile: Tile, pixel_m: int) -> None:
    height, width = pixels.shape
    place = from_origin(tile.west_m, tile.north_m, pixel_m, pixel_m)
    with rasterio.open(
        path, "w", driver="COG", width=width, height=height, count=1, dtype=pixels.dtype.name, crs=CRS,
        transform=place, nodata=0, compress="deflate", predictor="yes", blocksize=256, overviews="none",
    ) as target:  # fmt: skip
        target.write(pixels, 1)


def _tear(path: Path) -> None:
    """Truncate a COG within the first block of its lower half: it still opens, but its lower half is lost."""
    with rasterio.open(path) as source:
        row = TILE_PX // 2 // source.block_shapes[0][0]
        start = int(source.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1))
        size = int(source.get_tag_item(f"BLOCK_SIZE_0_{row}", "TIFF", bidx=1))
    os.truncate(path, start + size // 2)


def _asset(scene: Scene, path: Path, band: str, pixel_m: int) -> dict[str, Any]:
    side = TILE_PX * 10 // pixel_m
    raster: dict[str, Any] = {"nodata": 0, "data_type": "uint8", "spatial_resolution": pixel_m}
    asset: dict[str, Any] = {
        "href": f"./{path.name}",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": "Scene classification map (SCL)",
        "gsd": pixel_m,
        "proj:shape": [side, side],
        "proj:transform": [pixel_m, 0, scene.tile.west_m, 0, -pixel_m, scene.tile.north_m],
        "roles": ["data", "reflectance"],
        "file:size": path.stat().st_size,
        "file:checksum": "1220" + sha256(path.read_bytes()).hexdigest(),
    }
    if band != "SCL":
        name, centre, width = SPECTRUM[band]
        asset["title"] = f"{name.capitalize()} ({band}) - 10m"
        asset["eo:bands"] = [
            {"name": band, "common_name": name, "center_wavelength": centre, "full_width_half_max": width}
        ]
        # as Earth Search does: the offset stays in the metadata even where it has been applied already
        offset = -0.1 if scene.baseline >= "04.00" else 0
        raster |= {"data_type": "uint16", "bits_per_sample": 15, "scale": 0.0001, "offset": offset}
    return asset | {"raster:bands": [raster]}


def _footprint(scene: Scene) -> dict[str, Any]:
    """GeoJSON polygon, in degrees, of the part of the tile that the swath covers."""
    west, north = scene.tile.west_m, scene.tile.north_m
    south, east = north - TILE_PX * 10.0, west + TILE_PX * 10.0
    top, bottom = np.minimum(scene.take.east_end_m(np.array([north, south])), east).tolist()
    ring = [(west, north), (west, south), (bottom, south), (top, north), (west, north)]
    polygon: dict[str, Any] = transform_geom(CRS, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]}, precision=7)
    return {"type": "Polygon", "coordinates": [[list(corner) for corner in polygon["coordinates"][0]]]}


def _stamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _properties(scene: Scene, scl: Bytes) -> dict[str, Any]:
    take, tile = scene.take, scene.tile
    stamp = f"{take.start:%Y%m%dT%H%M%S}"
    product = f"N{scene.baseline.replace('.', '')}_R{take.relative_orbit:03d}_T{tile.name}"
    made = take.start + timedelta(days=0 if scene.offset_applied else 200, hours=5)  # reprocessed 200 days later
    cloudy, seen = np.isin(scl, (8, 9, 10)).sum(), (scl > 0).sum()
    return {
        "datetime": _stamp(take.start + timedelta(seconds=tile.delay_s)),
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
        "s2:product_uri": f"{take.platform}_MSIL2A_{stamp}_{product}_{made:%Y%m%dT%H%M%S}.SAFE",
        "s2:generation_time": _stamp(made),
        "s2:datatake_id": f"G{take.platform}_{stamp}_{take.absolute_orbit:06d}_N{scene.baseline}",
        "s2:sequence": "0",
        "earthsearch:boa_offset_applied": scene.offset_applied,
    }


_EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}.0/schema.json"
    for name in ("eo/v1.1", "file/v2.1", "grid/v1.0", "mgrs/v1.0", "projection/v2.0", "raster/v1.1")
]


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


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
        _write_cog(path, pixels, scene.tile, 10)
        if band == scene.torn_band:
            _tear(path)
        assets[SPECTRUM[band][0]] = _asset(scene, path, band, 10)
    _write_cog(folder / "SCL.tif", scl, scene.tile, 20)
    assets["scl"] = _asset(scene, folder / "SCL.tif", "SCL", 20)
    shape = _footprint(scene)
    lon, lat = zip(*shape["coordinates"][0], strict=True)
    up = {"href": "../collection.json", "type": "application/json"}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": scene.id, "stac_extensions": _EXTENSIONS,
        "collection": COLLECTION_ID, "geometry": shape, "bbox": [min(lon), min(lat), max(lon), max(lat)],
        "properties": _properties(scene, scl), "assets": assets,
        "links": [{"rel": rel} | up for rel in ("root", "parent", "collection")],
    }  # fmt: skip
    _dump(folder / f"{scene.id}.json", item)
    return item


def _collection(items: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    corners = np.array([item["bbox"] for item in items])
    box = [*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist()]
    times = sorted(item["properties"]["datetime"] for item in items)
    links = [{"rel": "root", "href": "./collection.json", "type": "application/json"}]
    links += [{"rel": "item", "href": f"./{i['id']}/{i['id']}.json", "type": "application/geo+json"} for i in items]
    return {
        "type": "Collection", "stac_version": "1.0.0", "id": COLLECTION_ID, "license": "CC0-1.0",
        "description": f"Synthetic Sentinel-2 L2A scenes made by embedcube (seed {seed}).",
        "extent": {"spatial": {"bbox": [box]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "embedcube:demo": [EDITION, seed], "links": links,
    }  # fmt: skip


def _write_archive(archive: Path, seed: int) -> None:
    archive.mkdir()
    with ThreadPoolExecutor(max_workers=2) as pool:
        west, east = pool.map(lambda tile: ground(*tile.axes(), seed=seed), (WEST, EAST))
        lands = [west if scene.tile is WEST else east for scene in SCENES]
        items = list(pool.map(lambda scene, land: _write_scene(archive, scene, land, seed), SCENES, lands))
    _dump(archive / "collection.json", _collection(items, seed))


def _marker(archive: Path) -> dict[str, Any]:
    """The collection.json of an archive that this module wrote; an empty dict for any other folder."""
    try:
        found = json.loads((archive / "collection.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("id") == COLLECTION_ID else {}


def _complete(archive: Path, seed: int) -> bool:
    """Whether the archive is of this edition and seed, and every file exists with its size."""
    if _marker(archive).get("embedcube:demo") != [EDITION, seed]:
        return False
    try:
        for scene in SCENES:
            item = json.loads((archive / scene.id / f"{scene.id}.json").read_text(encoding="utf-8"))
            for asset in item["assets"].values():
                if (archive / scene.id / asset["href"]).stat().st_size != asset["file:size"]:
                    return False
    except (OSError, ValueError):
        return False
    return True


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a new or empty folder for the demo")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    interrupted = any(name.startswith(SCRATCH_PREFIX) for name in held)
    if held and not interrupted and not _marker(folder / "archive"):
        some = ", ".join(held[:3])
        raise ValueError(f"{folder} holds other things ({some}) and no demo; name a new or empty folder")


def write_demo(folder: Path, *, seed: int = 20230801) -> Path:
    """Write the demo archive and its campaign into a new, empty or earlier demo folder.

    A complete archive of the same edition and seed is kept; any other demo archive is replaced as a whole, by rename.
    An existing campaign file, which may have been edited, is not changed.

    Returns:
        The path of the campaign file.

    Raises:
        ValueError: the folder holds other files than a demo.
    """
    _refuse_foreign(folder)
    archive, campaign = folder / "archive", folder / "campaign.yaml"
    if _complete(archive, seed) and campaign.exists():
        return campaign
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=folder) as name:
        scratch = Path(name)
        if not _complete(archive, seed):
            _write_archive(scratch / "new", seed)
            if archive.exists():
                archive.rename(scratch / "old")
            (scratch / "new").rename(archive)
        if not campaign.exists():
            (scratch / "campaign.yaml").write_text(CAMPAIGN, encoding="utf-8")
            (scratch / "campaign.yaml").rename(campaign)
    return campaign
