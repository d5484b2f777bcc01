"""Small archives for tests that need a scene of their own making: GeoTIFF bands and a STAC Item beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
import yaml
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from tests.conftest import Campaign


def two_bands_of(folder: Path, corner: tuple[float, float], **how: Any) -> Campaign:
    """A campaign that embeds B02 and B03 of the scenes in `folder`/archive by four filters; `corner` is west, north."""
    campaign = Campaign(folder / "campaign.yaml")
    document = {
        "campaign": "two-bands",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": ["B02", "B03"], "offset": 0}},
        "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": list(corner)},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {
            "m": {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 18, "halo_px": 1,
                "cell_px": 16, "shard_chips": 1, "batch": 2,
            }
        },
        "how": {"ranks": 1, "threads": 1, **how},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    return campaign


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One item."""

    id: str
    time: str
    """ISO 8601 with a zone"""
    west: float
    north: float
    bands: Mapping[str, NDArray[Any]]
    """per band, its pixels; SCL among them is the classification"""
    datatake: str = ""
    """by default the id's"""
    pixel: float = 10.0
    """of the first band; others are as many times coarser as they have fewer columns"""
    crs: str = "EPSG:32632"
    properties: Mapping[str, Any] | None = None


def write_scene(archive: Path, scene: Scene, *, nodata: float | None = 0, **profile: Any) -> Path:
    """Write an item's folder below `archive`, return it. `profile` says how the files are laid out."""
    folder = archive / scene.id
    folder.mkdir(parents=True)
    columns = next(iter(scene.bands.values())).shape[1]
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"} | profile
    for band, pixels in scene.bands.items():
        size = scene.pixel * columns / pixels.shape[1]
        with rasterio.open(
            folder / f"{band}.tif", "w", height=pixels.shape[0], width=pixels.shape[1], count=1, nodata=nodata,
            dtype=pixels.dtype.name, crs=scene.crs, transform=from_origin(scene.west, scene.north, size, size),
            **layout,
        ) as target:  # fmt: skip
            target.write(pixels, 1)
            box = transform_bounds(scene.crs, "EPSG:4326", *target.bounds)
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": scene.id, "stac_extensions": [], "links": [],
        "bbox": list(box), "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": scene.time, "s2:datatake_id": scene.datatake or scene.id, "s2:processing_baseline": "05.09",
            "earthsearch:boa_offset_applied": True, **(scene.properties or {}),
        },
        "assets": {band: {"href": f"./{band}.tif", "eo:bands": [{"name": band}]} for band in scene.bands},
    }  # fmt: skip
    (folder / f"{scene.id}.json").write_text(json.dumps(item))
    return folder
