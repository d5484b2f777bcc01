"""What a large archive and a large plan cost. `python -m benchmarks.scale`.

`index` of 100,000 STAC Items, `index` again when there are 1,000 more, and `plan` of 1,000,000 shards over them:
seconds of wall and CPU, and peak memory; then, where each shard has a record, what `benchmarks/restart.py` lists.
Each Item has a folder and files of its own, as in a real archive; they are hard links of two thousand small ones, so
that what is measured is the work for each Item, not a disk.
"""

import argparse
import json
import os
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

from benchmarks.restart import ATTEMPTS, RESTART, write_records
from embedcube.sources.catalog.unchanged import SETTLED_S

WEST, NORTH, SIDE_PX, TILE_M = 300_000.0, 5_900_000.0, 256, 12_800.0
MONTHS = 12
TASKS = 1000
TILES = 32
"""along one side: a thousand places, each seen about eight times a month"""


def main() -> None:
    """Print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--more", type=int, default=1_000)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--records", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        campaign = write_campaign(Path(name), arguments.items, arguments.shards)
        time.sleep(SETTLED_S)
        for verb in ("index", "extend", "fit", "plan"):
            if verb == "extend":  # with files of their own: one more link changes an old file, which is looked at again
                more = range(arguments.items, arguments.items + arguments.more)
                write_items(Path(name), "more", more, TILES, 365 * 86400 / arguments.items)
            command = verb.replace("extend", "index")
            print_cost(verb, [str(Path(sys.executable).parent / "embedcube"), command, str(campaign)])
        write_records(campaign, arguments.records, ATTEMPTS)
        for name, step in RESTART:
            command = f"from benchmarks.restart import {step.__name__} as run; run({str(campaign)!r})"
            print_cost(name, [sys.executable, "-c", command])


def write_campaign(folder: Path, items: int, shards: int) -> Path:
    """Items spread over a year and over tiles; a layer with `shards` shards in twelve windows."""
    write_items(folder, "tiles", range(items), TILES**2, 365 * 86400 / items)
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
        "how": {"mem_gb": 1000, "tasks": TASKS},
    }  # fmt: skip
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def write_items(folder: Path, files: str, numbers: range, tiles: int, apart_s: float) -> None:
    """Items of so many tiles, one every `apart_s` seconds from 2023 on; `files` is the folder of what they link to."""
    boxes = [write_tile(folder / files / f"{i:04d}", i // TILES, i % TILES) for i in range(tiles)]
    start = np.datetime64("2023-01-01T00:00:00")
    for i in numbers:
        tile, identifier = i % tiles, f"item{i:06d}"
        moment = start + np.timedelta64(int(i * apart_s), "s")
        place = folder / "archive" / identifier
        place.mkdir(parents=True)
        (place / "item.json").write_text(item(identifier, f"{moment}Z", boxes[tile]))
        for file in (folder / files / f"{tile:04d}").iterdir():
            (place / file.name).hardlink_to(file)


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


def print_cost(name: str, command: list[str]) -> None:
    """Run a command in a process of its own."""
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise SystemExit(f"{name}: exit {process.returncode}\n{text}")
    cpu, peak_gb = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6
    print(f"{name:<34}{wall:8.1f} s wall {cpu:8.1f} s CPU {peak_gb:6.2f} GB   {text.splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
