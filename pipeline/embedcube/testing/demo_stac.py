"""How the demo writes images and their STAC Items: what the archives of both Sentinels have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_geom

CRS = "EPSG:32632"
"""Coordinate reference system of all images."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where an image lies: its north-western corner (m) and the side of its pixels."""

    west_m: float
    north_m: float
    pixel_m: int


def write_cog(path: Path, pixels: NDArray[Any], frame: Frame, *, nodata: float) -> None:
    """Write one band as a Cloud-Optimised GeoTIFF without overviews."""
    height, width = pixels.shape
    place = from_origin(frame.west_m, frame.north_m, frame.pixel_m, frame.pixel_m)
    with rasterio.open(
        path, "w", driver="COG", width=width, height=height, count=1, dtype=pixels.dtype.name, crs=CRS,
        transform=place, nodata=nodata, compress="deflate", predictor="yes", blocksize=256, overviews="none",
    ) as target:  # fmt: skip
        target.write(pixels, 1)


def asset_of(path: Path, shape: tuple[int, ...], frame: Frame, *, title: str, raster: dict[str, Any]) -> dict[str, Any]:
    """The asset of an image in an Item beside it; `raster` is what the Item says of its numbers."""
    return {
        "href": f"./{path.name}",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": title,
        "gsd": frame.pixel_m,
        "proj:shape": list(shape),
        "proj:transform": [frame.pixel_m, 0, frame.west_m, 0, -frame.pixel_m, frame.north_m],
        "file:size": path.stat().st_size,
        "file:checksum": "1220" + sha256(path.read_bytes()).hexdigest(),
        "raster:bands": [{**raster, "spatial_resolution": frame.pixel_m}],
    }


def footprint(corners_m: list[tuple[float, float]]) -> dict[str, Any]:
    """GeoJSON polygon in degrees from its corners (x, y in metres)."""
    ring = {"type": "Polygon", "coordinates": [[*corners_m, corners_m[0]]]}
    polygon: dict[str, Any] = transform_geom(CRS, "EPSG:4326", ring, precision=7)
    return {"type": "Polygon", "coordinates": [[list(corner) for corner in polygon["coordinates"][0]]]}


def stamp(time: datetime) -> str:
    """A time as Items have it, with milliseconds."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_item(
    folder: Path,
    *,
    collection: str,
    geometry: dict[str, Any],
    properties: dict[str, Any],
    assets: dict[str, dict[str, Any]],
    extensions: tuple[str, ...],
) -> dict[str, Any]:
    """Write the Item of a scene into the scene's folder, whose name is its id; returns the Item."""
    lon, lat = zip(*geometry["coordinates"][0], strict=True)
    up = {"href": "../collection.json", "type": "application/json"}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": folder.name,
        "stac_extensions": [f"https://stac-extensions.github.io/{name}.0/schema.json" for name in extensions],
        "collection": collection, "geometry": geometry, "bbox": [min(lon), min(lat), max(lon), max(lat)],
        "properties": properties, "assets": assets,
        "links": [{"rel": rel} | up for rel in ("root", "parent", "collection")],
    }  # fmt: skip
    dump(folder / f"{folder.name}.json", item)
    return item


def write_collection(folder: Path, collection: str, items: list[dict[str, Any]], description: str) -> None:
    """Write the Collection of the Items in the folders below."""
    corners = np.array([item["bbox"] for item in items])
    box = [*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist()]
    times = sorted(item["properties"]["datetime"] for item in items)
    links = [{"rel": "root", "href": "./collection.json", "type": "application/json"}]
    links += [{"rel": "item", "href": f"./{i['id']}/{i['id']}.json", "type": "application/geo+json"} for i in items]
    document = {
        "type": "Collection", "stac_version": "1.0.0", "id": collection, "license": "CC0-1.0",
        "description": description, "links": links,
        "extent": {"spatial": {"bbox": [box]}, "temporal": {"interval": [[times[0], times[-1]]]}},
    }  # fmt: skip
    dump(folder / "collection.json", document)


def dump(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
