"""What a large archive and a large plan cost. `python -m benchmarks.scale`.

`index` of 100,000 STAC Items, and `plan` of 1,000,000 shards over them: seconds of wall and CPU, and peak memory.
Each Item has a folder and files of its own, as in a real archive; they are hard links of two thousand small ones, so
that what is measured is the work for each Item, not a disk.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

WEST, NORTH, SIDE_PX, TILE_M = 300_000.0, 5_900_000.0, 256, 12_800.0
MONTHS = 12
TILES = 32
"""along one side: a thousand places, each seen about eight times a month"""


def main() -> None:
    """Print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        campaign = write_campaign(Path(name), arguments.items, arguments.shards)
        for verb in ("index", "fit", "plan"):
            print_cost(verb, campaign)


def write_campaign(folder: Path, items: int, shards: int) -> Path:
    """Items spread over a year and over tiles; a layer with `shards` shards in twelve windows."""
    archive = folder / "archive"
    boxes = [write_tile(folder / "tiles" / f"{i:04d}", i // TILES, i % TILES) for i in range(TILES**2)]
    start = np.datetime64("2023-01-01T00:00:00")
    for i in range(items):
        tile, identifier = i % TILES**2, f"item{i:06d}"
        moment = start + np.timedelta64(int(i * 365 * 86400 / items), "s")
        (archive / identifier).mkdir(parents=True)
        (archive / identifier / "item.json").write_text(item(identifier, f"{moment}Z", boxes[tile]))
        for file in (folder / "tiles" / f"{tile:04d}").iterdir():
            (archive / identifier / file.name).hardlink_to(file)
    side = round((shards / MONTHS) ** 0.5)
    document = {
        "campaign": "scale",
        "archives": {
            "s2": {"source": "sentinel2", "path": "archive", "bands": ["B02"], "mask": {"band": "SCL", "clear": [4]}}
        },
        "grid": {"crs": "EPSG:32632", "pixel": TILES * TILE_M / side / 32, "origin": [WEST, NORTH]},
        "windows": {"start": "2023-01-01", "end": "2024-01-01", "step": "1 month"},
        "layers": {
            "layer": {
                "archives": ["s2"], "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 34, "halo_px": 1,
                "cell_px": 16, "shard_chips": 1,
            }
        },
        "how": {"mem_gb": 1000},
    }  # fmt: skip
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def write_tile(folder: Path, row: int, col: int) -> tuple[float, float, float, float]:
    """The two files that all items of a tile link to; returns west, south, east, north in degrees."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    transform = from_origin(WEST + col * TILE_M, NORTH - row * TILE_M, TILE_M / SIDE_PX, TILE_M / SIDE_PX)
    profile = {"driver": "GTiff", "height": SIDE_PX, "width": SIDE_PX, "count": 1, "nodata": 0, "crs": "EPSG:32632"}
    bands: dict[str, NDArray[Any]] = {
        "B02": rng.integers(1, 4000, (SIDE_PX, SIDE_PX)).astype(np.uint16),
        "SCL": np.full((SIDE_PX, SIDE_PX), 4, dtype=np.uint8),
    }
    for band, pixels in bands.items():
        with rasterio.open(folder / f"{band}.tif", "w", **profile, dtype=pixels.dtype, transform=transform) as target:
            target.write(pixels, 1)
            west, south, east, north = transform_bounds("EPSG:32632", "EPSG:4326", *target.bounds)
    return west, south, east, north


def item(identifier: str, moment: str, box: tuple[float, float, float, float]) -> str:
    """A STAC Item, as text."""
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return json.dumps(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": identifier, "stac_extensions": [], "links": [],
            "bbox": box, "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": moment, "s2:processing_baseline": "05.09"},
            "assets": {band: {"href": f"{band}.tif", "eo:bands": [{"name": band}]} for band in ("B02", "SCL")},
        }
    )  # fmt: skip


def print_cost(verb: str, campaign: Path) -> None:
    """Run a verb in a process of its own."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [Path(sys.executable).parent / "embedcube", verb, campaign], capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{verb}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # the largest child so far: stages are run in the order of their appetite
    print(
        f"{verb:<6}{wall:8.1f} s wall {cpu:8.1f} s CPU {after.ru_maxrss / 1e6:6.2f} GB   {done.stdout.splitlines()[0]}"
    )


if __name__ == "__main__":
    main()
