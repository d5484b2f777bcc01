"""Making the objects of a cube from packs, against `cp` of the same bytes. `python -m benchmarks.consolidate`.

One worker, one process: what one core does of `consolidate`. Both sides end with their bytes on the disk (fsync), and
read from the page cache; they take turns, and each turn is printed.
"""

import argparse
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.parts import PartWriter, Stored
from embedcube.consolidate.assemble import Kind, Member, Planned, assemble
from embedcube.cube.arrays import ArraySpec, ShardEncoder, layer_specs, object_shape
from embedcube.grid import ShardLayout
from embedcube.zones import ObjectShape

BLOCKS = 4
"""objects of each array"""


def main() -> None:
    """Print a table of turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=48, help="along a side of a shard")
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    layout = ShardLayout(chip_px=asked.cells, halo_px=0, cell_px=1, chips=1)
    specs = layer_specs(layout, dimensions=asked.features, encoding="int8")
    shape = object_shape(layout, dimensions=asked.features, encoding="int8", windows=1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        objects = _packed(root, specs, shape, asked.cells)
        size = (root / "part" / "shards.pack").stat().st_size / 1e6
        print(f"{len(objects)} objects of {size:,.0f} MB in all, {shape}; memory before: {_peak_mb()} MB")
        print(f"{'':12}{'wall s':>8}{'user s':>8}{'system s':>10}{'MB/s':>8}{'peak MB':>9}")
        for _ in range(asked.turns):
            for one in objects:
                one.target.unlink(missing_ok=True)
            _turn("objects", lambda: [assemble(one) for one in objects], resource.RUSAGE_SELF, size)
            _turn("cp", lambda: _copied(root), resource.RUSAGE_CHILDREN, size)


def _packed(root: Path, specs: tuple[ArraySpec, ...], shape: ObjectShape, cells: int) -> list[Planned]:
    """A pack with the shards of all blocks, in an order that is not that of the objects; and the objects to be made."""
    rng = np.random.default_rng(0)
    shapes = {spec.name: spec.shard for spec in specs}
    values: list[dict[str, NDArray[Any]]] = [
        {
            "embedding": rng.integers(-127, 128, shapes["embedding"]).astype(np.int8),
            "scale": rng.random(shapes["scale"]).astype(np.float32),
            "status": np.ones(shapes["status"], np.uint8),
            "n_obs": np.full(shapes["n_obs"], 3, np.uint16),
        }
        for _ in range(8)
    ]
    writer, encoder = PartWriter(root / "part"), ShardEncoder(specs)
    places = list(np.ndindex(BLOCKS, shape.windows, shape.rows, shape.cols))
    placed: dict[str, dict[tuple[int, ...], Stored]] = {spec.name: {} for spec in specs}
    for number, place in enumerate(rng.permutation(len(places)).tolist()):
        arrays, _ = writer.write_shard(encoder.encode(values[number % len(values)]), bytes(2000))
        for stored in arrays:
            placed[stored.array][places[place]] = stored
    writer.close()
    objects = []
    for spec in specs:
        (root / "cube" / spec.name).mkdir(parents=True)
        kind = Kind(part=spec, member=spec, cube=spec.in_objects(shape), cells=cells)
        for block in range(BLOCKS):
            members = [
                Member(at=(t, y, x), windows=((0, root / "part", placed[spec.name][block, t, y, x]),))
                for t, y, x in np.ndindex(shape.windows, shape.rows, shape.cols)
            ]
            place = (0, 0, block)
            target = root / "cube" / spec.name / kind.cube.key(*place)
            objects.append(Planned(target=target, place=place, kind=kind, members=tuple(members)))
    return objects


def _copied(root: Path) -> None:
    shutil.rmtree(root / "copy", ignore_errors=True)
    subprocess.run(["cp", "-r", "--reflink=never", root / "cube", root / "copy"], check=True)
    for path in (root / "copy").rglob("c.*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _turn(name: str, work: Callable[[], object], whose: int, size: float) -> None:
    start_s, before = time.perf_counter(), resource.getrusage(whose)
    work()
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(whose)
    user_s, system_s = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    print(f"{name:12}{wall_s:8.2f}{user_s:8.2f}{system_s:10.2f}{size / wall_s:8.0f}{_peak_mb():9d}")


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
