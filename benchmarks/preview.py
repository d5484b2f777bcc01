"""What pictures of a cube cost: CPU seconds for each million cells, of a cube of random vectors.

    python -m benchmarks.preview --cells 4 --features 128

Writes a cube of so many million cells in two windows to a temporary folder, draws it in a process of its own, and
prints its CPU seconds (all threads), of which the preview store, and its peak memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from embedcube.cube import basis, preview
from embedcube.cube.preview_store import write_preview_store
from embedcube.cube.reader import Cube

def spent():
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

path, folder = Path(sys.argv[1]), Path(sys.argv[2])
cube, start = Cube(path), spent()
(layer,) = cube.layers
fitted = basis.fit_basis(cube, layer)
fit = spent() - start
start = spent()
write_preview_store(cube, folder / "first.preview.zarr")
store = spent() - start
start = spent()
preview.preview(path, folder)
all_of_it = spent() - start
# not ru_maxrss, which begins at that of the parent process
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
cells = sum(cube.array(zone, "status").size for zone in cube.zones)
print(json.dumps({"fit": fit, "store": store, "all": all_of_it, "peak_mb": int(peak.split()[1]) / 1e3,
                  "cells": cells}))
"""


def write(path: Path, cells: int, features: int) -> None:
    """Smooth fields with noise, so that chunks compress about as vectors do."""
    from tests.cube.synthetic import create_zone

    side = 256
    rows = side * max(1, round((cells / 2) ** 0.5 / side))
    columns = side * max(1, round(cells / 2 / rows / side))
    arrays = create_zone(path, "random/grid", (2, rows, columns, features), shard=side)
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(4, features))
    for t in range(2):
        for y in range(0, rows, side):
            place = np.linspace(0, 6, side)[:, None] + np.linspace(0, 20, columns)[None] + y / side + t
            bases = np.stack([np.sin(place * (i + 1)) for i in range(4)], axis=-1)
            vectors = bases @ waves + rng.normal(0, 0.3, size=(side, columns, features))
            scale = np.abs(vectors).max(axis=-1) / 127
            arrays["embedding"][t, y : y + side] = np.rint(vectors / scale[..., None])
            arrays["scale"][t, y : y + side] = scale
            arrays["status"][t, y : y + side] = 1
    print(f"{2 * rows * columns / 1e6:.2f} million cells x {features} features in 2 windows of {rows} x {columns}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=float, default=4, help="millions, in all windows")
    parser.add_argument("--features", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cube = Path(folder) / "cube.zarr"
        write(cube, int(options.cells * 1e6), options.features)
        command = [sys.executable, "-c", PROGRAM, str(cube), str(Path(folder) / "pictures")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        spent = json.loads(done.stdout)
        pictures = sum(file.stat().st_size for file in (Path(folder) / "pictures").iterdir() if file.is_file())
    million = spent["cells"] / 1e6
    fit = f"with the basis ({spent['fit']:.2f} s once)"
    print(f"preview store      {spent['store'] / million:.2f} CPU s per million cells, {fit}")
    print(f"all                {spent['all'] / million:.2f} CPU s per million cells, with GeoTIFFs and PNGs")
    print(f"memory             {spent['peak_mb']:.0f} MB at most; pictures of {pictures / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
