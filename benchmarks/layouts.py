"""Reads of objects that hold blocks of shards, against a file for each shard. `python -m benchmarks.layouts`.

The same encoded shards of synthetic int8 vectors lie in both layouts. A point is the vector of one cell with scale,
status and count, in one window; a series is that of all windows; a map is one window whole. Bytes are those that the
reader asks for, indexes of the objects among them: nothing is kept from one read to the next. Times are CPU
milliseconds of this process. All are medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr
from tests.cube.counting import Counting
from tests.cube.layouts import Vectors

from benchmarks.chunks import read_bytes
from embedcube.cube.arrays import object_shape
from embedcube.cube.encoding import VALID
from embedcube.grid import ShardLayout

CASES = {
    "pixels, 128 features": (256, 128, 4),
    "tokens, 768 features": (48, 768, 4),
    "small shards, 64 features": (16, 64, 2),
}
"""Cells along a side of a shard, features, and blocks along time, of which the last one is empty."""

Opened = tuple[dict[str, Any], Callable[[], int]]
"""The arrays of one layout, and the bytes that were read of it so far."""


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=[*CASES], action="append")
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--maps", type=int, default=5)
    asked = parser.parse_args()
    for name in asked.case or CASES:
        cells, features, blocks = CASES[name]
        of_shard = ShardLayout(chip_px=cells, halo_px=0, cell_px=1, chips=1)
        objects = object_shape(of_shard, dimensions=features, encoding="int8", windows=1)
        vectors = Vectors(cells=cells, dimensions=features, objects=objects, blocks=(blocks, 1, 1))
        print(f"\n{name}: shards of {cells} x {cells} cells, {objects}")
        print(f"{'layout':<9}{'files':>6}{'reader':>13}", end="")
        print("".join(f"{f'{what} kB':>12}{'CPU ms':>8}" for what in ("point", "series", "map")))
        with tempfile.TemporaryDirectory() as folder:
            groups = {"shards": Path(folder) / "shards", "objects": Path(folder) / "objects"}
            vectors.write(groups["shards"], groups["objects"])
            for layout, group in groups.items():
                files = sum(1 for _ in group.rglob("c.*"))
                for reader, opened in (("zarr-python", _by_zarr), ("tensorstore", _by_tensorstore)):
                    row = "".join(
                        f"{kb:12,.1f}{ms:8.1f}" for kb, ms in _costs(opened(group), vectors, asked.points, asked.maps)
                    )
                    print(f"{layout:<9}{files:6d}{reader:>13}{row}", flush=True)


def _by_zarr(group: Path) -> Opened:
    # what the process reads would be more: Python's files read ahead
    counting = Counting(group)
    return dict(zarr.open_group(counting, mode="r").arrays()), lambda: counting.bytes


class _Read:
    """An array of tensorstore that is indexed as one of NumPy."""

    def __init__(self, path: Path) -> None:
        place = {"driver": "file", "path": f"{path}/"}
        self._store = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()

    def __getitem__(self, index: Any) -> Any:
        return self._store[index].read().result()


def _by_tensorstore(group: Path) -> Opened:
    return {path.parent.name: _Read(path.parent) for path in sorted(group.glob("*/zarr.json"))}, read_bytes


def _costs(opened: Opened, vectors: Vectors, points: int, maps: int) -> Iterator[tuple[float, float]]:
    """Kilobytes and CPU milliseconds of a point, of a series, of a map."""
    arrays, so_far = opened
    windows = vectors.shards[0] - vectors.objects.windows
    valid = np.argwhere(np.asarray(arrays["status"][0]) == VALID)
    cells = np.random.default_rng(0).permutation(valid)[:points].tolist()
    yield _median(lambda y, x: [array[0, y, x] for array in arrays.values()], cells, so_far)
    yield _median(lambda y, x: [array[:windows, y, x] for array in arrays.values()], cells, so_far)
    yield _median(lambda *_: [array[0] for array in arrays.values()], [(0, 0)] * maps, so_far)


def _median(read: Callable[[int, int], object], cells: list[Any], so_far: Callable[[], int]) -> tuple[float, float]:
    costs = []
    read(*cells[0])  # what is made once: threads, codecs
    for y, x in cells:
        before, began_s = so_far(), time.process_time()
        read(y, x)
        costs.append(((so_far() - before) / 1e3, (time.process_time() - began_s) * 1e3))
    kb, ms = zip(*costs, strict=True)
    return statistics.median(kb), statistics.median(ms)


if __name__ == "__main__":
    main()
