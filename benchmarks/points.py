"""What a point costs over all arrays of a cube, and a map. `python -m benchmarks.points CUBE.zarr [LAYER]`.

The fullest shard of the layer is written again with chunks of several sizes. Points with a vector are read from it, one
by one; their bytes are those that the process reads, indexes of the Zarr shards among them. A map is the whole shard.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.chunks import read_bytes
from embedcube.cube import arrays
from embedcube.cube.reader import open_cube

POINTS = 50

MAPS = 7
"""number of times that a map is read"""

SIZES_KIB = ((512, 512), (512, 64), (512, 32), (320, 64), (320, 32))
"""KiB before compression of a chunk of vectors, and of one of the other arrays"""


def main() -> None:
    """Print a row for each pair of sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", type=Path)
    parser.add_argument("layer", nargs="?")
    arguments = parser.parse_args()
    cube = open_cube(arguments.cube)
    values = fullest(cube, arguments.layer or cube.layers[0])
    names = [name for name in ("embedding", "scale", "status", "n_obs") if name in values]
    side, _, dimensions = values["embedding"].shape
    print(f"{side} x {side} cells of {dimensions} x {values['embedding'].dtype}; kB of one point:")
    print("KiB a chunk  cells a chunk  " + "".join(f"{name:>10}" for name in names) + "       all    map CPU ms")
    for vector_kib, flat_kib in SIZES_KIB:
        arrays.CHUNK_BYTES, arrays.FLAT_CHUNK_BYTES = vector_kib << 10, flat_kib << 10
        encoding: Any = str(values["embedding"].dtype)
        specs = arrays.array_specs(cells=side, dimensions=dimensions, encoding=encoding)
        cost, map_s = point_bytes(specs, values)
        sides = "/".join(str(spec.chunk[1]) for spec in specs)
        row = "".join(f"{cost[name] / 1e3:10.1f}" for name in names)
        print(f"{vector_kib:4d} {flat_kib:5d}   {sides:<15}{row}{sum(cost.values()) / 1e3:10.1f}{map_s * 1e3:10.0f}")


def cpu_seconds(array: Any) -> float:
    """CPU seconds of reading a whole array, the best of some: other work on the machine is not in them."""
    best = float("inf")
    for _ in range(MAPS):
        start = time.process_time()
        array[...]
        best = min(best, time.process_time() - start)
    return best


def fullest(cube: Any, layer: str) -> dict[str, NDArray[Any]]:
    """Values of each array in the shard of a layer that has most vectors."""
    places = [place for place in cube.provenance.places if place[0] in cube.zones_of(layer)]
    side = cube.array(places[0][0], "embedding").shards[1]

    def of(name: str, place: tuple[str, int, int, int]) -> NDArray[Any]:
        zone, t, iy, ix = place
        y, x = (slice(i * side, (i + 1) * side) for i in (iy, ix))
        return np.asarray(cube.array(zone, name)[t, y, x])

    most = max(places, key=lambda place: int((of("status", place) == 1).sum()))
    return {
        name: of(name, most)
        for name, _ in cube.group(most[0]).arrays()
        if name in {"embedding", "scale", "status", "n_obs"}
    }


def point_bytes(specs: tuple[arrays.ArraySpec, ...], values: dict[str, NDArray[Any]]) -> tuple[dict[str, float], float]:
    """Bytes read for one point of each array, the mean over POINTS cells with a vector; CPU seconds of a map of all."""
    cells = np.random.default_rng(0).permutation(np.argwhere(values["status"] == 1))[:POINTS].tolist()
    objects = arrays.ShardEncoder(specs).encode({spec.name: values[spec.name] for spec in specs})
    cost, map_s = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for spec in specs:
            path = Path(folder) / spec.name
            spec.create(zarr.storage.LocalStore(path), "", spec.shard)
            (path / spec.key(0, 0, 0)).write_bytes(objects[spec.name] or b"")
            array: Any = zarr.open_array(path, mode="r")
            before = read_bytes()
            for y, x in cells:
                array[0, y, x]
            cost[spec.name] = (read_bytes() - before) / len(cells)
            map_s += cpu_seconds(array)
    return cost, map_s


if __name__ == "__main__":
    main()
