"""Chunk size, codec and key layout of a layer: what reads and writes cost. `python -m benchmarks.chunks`.

The vectors are synthetic: 768 numbers as of a ViT-base, and 64 as of a small `mosaiks`.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

CELLS = 48
"""along one side of a shard"""

SHARDS = 2
"""along one side of the array"""

RUNS = 2
"""of each measurement; the better one counts"""


def main() -> None:
    """Print a table: one row for each layout."""
    print("dims chunk codec    object MB  write MB/s  map read MB/s  point read ms  point read kB")
    for dimensions in (768, 64):
        values = vectors(dimensions)
        for chunk in (4, 8, 16, 24, 48):
            for level in (None, 1, 3):
                row(values, chunk, level)
    keys()


def vectors(dimensions: int) -> NDArray[np.int8]:
    """Quantised vectors that vary smoothly from cell to cell, as embeddings of ground do."""
    rng = np.random.default_rng(0)
    side = CELLS * SHARDS
    coarse = rng.standard_normal((side // 4, side // 4, dimensions)).repeat(4, axis=0).repeat(4, axis=1)
    x = coarse + 0.5 * rng.standard_normal((side, side, dimensions))
    quantised: NDArray[np.int8] = np.rint(x / np.abs(x).max(axis=-1, keepdims=True) * 127).astype(np.int8)
    return quantised


def row(values: NDArray[np.int8], chunk: int, level: int | None) -> None:
    """Write and read one layout."""
    with tempfile.TemporaryDirectory() as folder:
        array = create(Path(folder) / "a.zarr", values.shape, chunk, level, ".")
        write_s = seconds(lambda: array.__setitem__(slice(None), values))
        map_s = seconds(lambda: array[:])
        places = np.random.default_rng(1).integers(0, values.shape[0], (50, 2))
        before = read_bytes()
        point_s = seconds(lambda: [array[y, x] for y, x in places.tolist()]) / len(places)
        point_bytes = (read_bytes() - before) / len(places) / RUNS
        objects = list(Path(folder).rglob("c.*"))
        size = sum(path.stat().st_size for path in objects) / len(objects)
    mb = values.nbytes / 1e6
    codec = "none" if level is None else f"zstd-{level}"
    print(
        f"{values.shape[-1]:4d} {chunk:5d} {codec:7s} {size / 1e6:10.2f} {mb / write_s:11.0f} {mb / map_s:14.0f} "
        f"{point_s * 1e3:14.2f} {point_bytes / 1e3:14.0f}"
    )


def create(path: Path, shape: tuple[int, ...], chunk: int, level: int | None, separator: str) -> Any:
    """An array of shards of CELLS x CELLS cells."""
    return zarr.create_array(
        path,
        shape=shape,
        dtype="int8",
        shards=(CELLS, CELLS, shape[-1]),
        chunks=(chunk, chunk, shape[-1]),
        compressors=None if level is None else [ZstdCodec(level=level)],
        chunk_key_encoding={"name": "default", "separator": separator},
    )


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds, the best of RUNS."""
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def read_bytes() -> int:
    """Bytes that this process has read so far, counted by the kernel."""
    return int(Path("/proc/self/io").read_text().split()[1])


def keys() -> None:
    """Files and folders of 1,000 shards of one window, for both separators."""
    print("\nkeys       files  folders  unlinking ms")
    for separator in ("/", "."):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "array"
            for i in range(1000):
                path = root / separator.join(["c", "0", str(i // 40), str(i % 40), "0"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
            made = sorted(root.rglob("*"), reverse=True)
            files = sum(path.is_file() for path in made)
            start = time.perf_counter()
            for path in made:
                path.unlink() if path.is_file() else path.rmdir()
            spent = (time.perf_counter() - start) * 1e3
        print(f"c{separator}0{separator}... {files:8d} {len(made) - files + 1:8d} {spent:13.1f}")


if __name__ == "__main__":
    main()
