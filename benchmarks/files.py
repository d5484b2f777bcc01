"""Files of a campaign: while ranks embed, and of its cube. `python -m benchmarks.files [--shards 10000]`.

Shards of 32 x 32 cells of 128 features by a cheap model, in ten windows, embedded by four ranks. What is below the
run folder is counted once a second while they do. The cube's objects are counted for each 64 MB of them.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
import zarr
from tests.fuzz.images import BANDS, CRS, NORTH, TIFF, WEST, texture, write_band

from embedcube.campaign.parts import scan_documents
from embedcube.campaign.run_folder import RunDir
from embedcube.cube.arrays import is_object

EMBEDCUBE = Path(sys.executable).parent / "embedcube"
WINDOWS, RANKS, SHARD_PX = 10, 4, 64


def main() -> None:
    """Print what is counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    asked = parser.parse_args()
    side = math.ceil(math.sqrt(asked.shards / WINDOWS))
    with tempfile.TemporaryDirectory() as folder:
        campaign = _campaign(Path(folder), side * SHARD_PX)
        run = RunDir(Path(folder) / "runs" / "files")
        for stage in ("index", "fit", "plan"):
            subprocess.run([EMBEDCUBE, stage, campaign], check=True, stdout=subprocess.DEVNULL)
        most = _embed(campaign, run)
        shards = sum(1 for _ in scan_documents(run))
        print(f"{shards} shards, {RANKS} ranks; most files at once while they embed:")
        for name, count in sorted(most.items()):
            print(f"  {name:<32}{count:6d}")
        subprocess.run([EMBEDCUBE, "consolidate", campaign], check=True, stdout=subprocess.DEVNULL)
        _count_cube(run.newest_cube.resolve())


def _campaign(folder: Path, side_px: int) -> Path:
    windows = [[f"2023-{month:02d}-01", f"2023-{month + 1:02d}-01"] for month in range(1, WINDOWS + 1)]
    for month in range(1, WINDOWS + 1):
        for place, band in enumerate(BANDS):
            name = f"T32ULB_2023{month:02d}15T103629"
            write_band(folder / "archive" / name / f"{name}_{band}.tif", texture(2 * month + place, side_px), **TIFF)
    layer = {
        "archives": "s2", "backbone": {"name": "mosaiks", "filters": 64}, "chip_px": SHARD_PX // 2 + 2, "halo_px": 1,
        "cell_px": 2, "shard_chips": 2, "batch": 4,
    }  # fmt: skip
    document = {
        "campaign": "files",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": list(BANDS), "offset": 0}},
        "grid": {"crs": CRS, "pixel": 10, "origin": [WEST, NORTH]},
        "region": {"bbox": [WEST, NORTH - side_px * 10, WEST + side_px * 10, NORTH], "crs": CRS},
        "windows": windows,
        "layers": {"s2": layer},
        "how": {"ranks": RANKS, "threads": 1},
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _embed(campaign: Path, run: RunDir) -> Counter[str]:
    """Embed; returns for each kind of file below the run folder the most that were there at once."""
    most: Counter[str] = Counter()
    with subprocess.Popen([EMBEDCUBE, "embed", campaign], stdout=subprocess.DEVNULL) as embedding:
        while embedding.poll() is None:
            most |= _kinds(run.root)
            time.sleep(1)
    if embedding.returncode:
        raise SystemExit(f"embed: exit {embedding.returncode}")
    return most | _kinds(run.root)


def _kinds(root: Path) -> Counter[str]:
    """Number of files in parts, by their names, and in the other folders."""
    counts: Counter[str] = Counter()
    for folder, _, names in os.walk(root):
        top = Path(folder).relative_to(root).parts[:1]
        for name in names:
            counts[f"parts: {name}" if top == ("parts",) else f"{top[0] if top else 'run folder'}"] += 1
    counts["parts: all"] = sum(count for name, count in counts.items() if name.startswith("parts"))
    return counts


def _count_cube(cube: Path) -> None:
    files = [path for path in cube.rglob("*") if path.is_file()]
    objects = [path for path in files if is_object(str(path.relative_to(cube)))]
    arrays: list[Any] = [zarr.open_array(path, mode="r") for path in sorted({path.parent for path in objects})]
    stored_mb = sum(path.stat().st_size for path in objects) / 1e6
    whole_mb = sum(array.nbytes for array in arrays) / 1e6
    print(f"cube: {len(objects)} objects, and {len(files) - len(objects)} files besides")
    for size_mb, what in ((stored_mb, "as stored"), (whole_mb, "before compression")):
        print(f"  {size_mb:,.0f} MB {what}: {len(objects) / size_mb * 64:.1f} objects a 64 MB")


if __name__ == "__main__":
    main()
