"""A one-scene archive for measurements: tiled uint16 GeoTIFFs of textured ground, with a STAC item."""

import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B8A": "nir08", "B11": "swir16", "B12": "swir22"}
WEST, NORTH, PIXEL = 400_960.0, 5_698_560.0, 10.0
"""a corner of the lattice of 224-pixel chips that is counted from (0, 0)"""


def write_archive(folder: Path, *, side_px: int, block_px: int = 256, compress: str = "deflate") -> None:
    """One scene of `side_px` x `side_px` pixels and six bands below `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    transform = Affine(PIXEL, 0, WEST, 0, -PIXEL, NORTH)
    coarse = rng.integers(300, 4000, (side_px // 32 + 1, side_px // 32 + 1), dtype=np.uint16)
    fields = coarse.repeat(32, axis=0).repeat(32, axis=1)[:side_px, :side_px]
    for i, band in enumerate(BANDS):
        pixels = fields + rng.integers(0, 200, fields.shape, dtype=np.uint16) + np.uint16(100 * i)
        with rasterio.open(
            folder / f"{band}.tif", "w", driver="GTiff", width=side_px, height=side_px, count=1, dtype="uint16",
            nodata=0, crs="EPSG:32632", transform=transform, tiled=True, blockxsize=block_px, blockysize=block_px,
            compress=compress,
        ) as out:  # fmt: skip
            out.write(pixels, 1)
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "bench",
        "geometry": None,
        "bbox": [7.0, 51.0, 8.0, 52.0],
        "properties": {"datetime": "2023-06-15T10:00:00Z", "s2:processing_baseline": "05.09",
                       "earthsearch:boa_offset_applied": True},
        "links": [],
        "assets": {name: {"href": f"{band}.tif"} for band, name in BANDS.items()},
    }  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
