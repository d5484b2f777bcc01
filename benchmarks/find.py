"""Similarity and search of a million real vectors: `python -m benchmarks.find [--presto|--vit] [--folder DIR]`.

Vectors are 128 convolution features (patches of the image as filters, as MOSAIKS has them) of each of 1008 x 1008
pixels of a real Sentinel-2 tile, in two windows, of which the second has another season's gains; a tenth is cloudy.
With --presto they are those of Presto with its published weights, of 352 x 352 pixels; with --vit tokens of a ViT-tiny
with random weights, one every two pixels of 896 x 896. All times are of computing
(user and system), best of some, on one thread.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from embedcube.cube import products
from embedcube.cube.encoding import MASKED, VALID
from embedcube.cube.find import Search, find
from embedcube.cube.reader import Cube
from embedcube.cube.segments import VectorIndex, find_folder, read_index, segment_file, write_index
from embedcube.cube.similar import Query
from embedcube.progress import silent
from embedcube.uses.index import here, index_vectors
from embedcube.uses.recall import check

FEATURES = 128

WITHIN_QUERIES = 20

SEGMENTS = 20
"""segments of a million vectors that one search reads lists of, for its memory"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presto", action="store_true")
    parser.add_argument("--vit", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_of_searches(arguments.memory_of))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    path = folder / "cube.zarr"
    if not path.exists():
        write_cube(path, vit() if arguments.vit else presto() if arguments.presto else convolution_features())
    cube = Cube(path)
    similarity(cube)
    index = indexing(cube)
    for one in check(cube, index, queries=100).measured:
        print(f"lists {one.lists:4d}: recall@10 {one.recall_at_10:.3f}, of places {one.recall_of_places:.3f}, "
              f"{one.share_read:.2%} read, {one.cpu_ms:.2f} CPU ms a query")  # fmt: skip
    within(cube, index)
    memory(folder / "many.zarr", cube, index)
    if arguments.folder is None:
        shutil.rmtree(folder)


def cpu_s(call: Callable[[], Any], times: int = 5) -> float:
    """CPU seconds of a call, the best of some."""
    best = float("inf")
    for _ in range(times):
        begun = time.process_time()
        call()
        best = min(best, time.process_time() - begun)
    return best


# --- vectors --------------------------------------------------------------------------------------


def tile(bands: tuple[str, ...]) -> NDArray[np.float32]:
    """Reflectance (band, y, x) of a real tile at 10 m; bands of 20 m are repeated."""
    data = Path(os.environ.get("EMBEDCUBE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    (scene,) = (data / "s2_l2a_majortom_48QUE_2020-02-23").glob("S2*")
    read = []
    for band in bands:
        with rasterio.open(scene / f"{band}.tif") as file:
            pixels = file.read(1)
        repeats = 1068 // pixels.shape[0]
        read.append(pixels.repeat(repeats, axis=0).repeat(repeats, axis=1))
    return np.stack(read).astype(np.float32)


def convolution_features() -> NDArray[np.float32]:
    """(window, y, x, feature): each a rectified product with a patch of the image, averaged over 5 x 5 pixels."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    pixels = tile(("B02", "B03", "B04", "B08"))
    rng, windows = np.random.default_rng(0), []
    mean, deviation = pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))
    normal = (pixels - mean[:, None, None]) / deviation[:, None, None]
    corners = rng.integers(0, 1060, (FEATURES // 2, 2))
    patches = np.stack([normal[:, y : y + 3, x : x + 3] for y, x in corners])
    patches -= patches.mean(axis=(1, 2, 3), keepdims=True)
    patches /= np.linalg.norm(patches.reshape(len(patches), -1), axis=1)[:, None, None, None] + 1e-6
    filters = torch.from_numpy(np.concatenate([patches, -patches]))
    for gains, offset in (((1, 1, 1, 1), 0), ((1.05, 0.95, 1.2, 0.7), 0.1)):
        season = (normal * np.array(gains, np.float32)[:, None, None] + offset).astype(np.float32)
        convolved = functional.relu(functional.conv2d(torch.from_numpy(season)[None], filters))
        pooled = functional.avg_pool2d(convolved, 5, stride=1)[0, :, :1008, :1008]
        windows.append(pooled.permute(1, 2, 0).numpy())
    return np.stack(windows)


def presto() -> NDArray[np.float32]:
    """(window, y, x, feature) of Presto with its published weights."""
    from benchmarks.presto_vectors import vectors_of_tile

    return vectors_of_tile()


def vit() -> NDArray[np.float32]:
    """(window, y, x, feature) of a ViT-tiny with random weights."""
    from benchmarks.vit_vectors import vectors_of_tile

    return vectors_of_tile()


def write_cube(path: Path, vectors: NDArray[np.float32]) -> None:
    """A cube of these vectors, with clouds."""
    from tests.cube.synthetic import write_provenance, write_zone

    windows, rows, columns, _ = vectors.shape
    status = np.full((windows, rows, columns), VALID, np.uint8)
    rng = np.random.default_rng(1)
    y, x = np.ogrid[:rows, :columns]
    for t in range(windows):
        while (status[t] == MASKED).mean() < 0.1:
            top, left, radius = rng.integers(rows), rng.integers(columns), rng.integers(10, rows // 8)
            status[t][(y - top) ** 2 + (x - left) ** 2 < radius**2] = MASKED
    vectors = np.where(np.abs(vectors).max(axis=-1, keepdims=True) > 0, vectors, np.float32(1e-6))
    write_zone(path, "s2/grid", vectors, status, crs="EPSG:32648", side=10.0, corner=(362_880.0, 1_985_760.0),
               shard=rows // 2)  # fmt: skip
    write_provenance(path)


# --- figures --------------------------------------------------------------------------------------


def similarity(cube: Cube) -> None:
    """Cosines of all cells of a window, by numkong and by NumPy."""
    stored = np.asarray(cube.array("s2/grid", "embedding")[0]).reshape(-1, FEATURES)
    some = stored[stored.any(axis=1)]
    some = some[:: len(some) // 3]
    one, mean = Query.of(some[0]), Query.by_examples(list(some[:2]), [some[2]])
    installed = products._numkong
    per_million = 1e6 / len(stored)
    for name, query in (("one cell", one), ("3 examples", mean)):
        times, answers = {}, {}
        for library in ("numkong", "numpy"):
            products._numkong = installed if library == "numkong" else None
            answers[library] = query.cosines(stored)
            times[library] = cpu_s(partial(query.cosines, stored)) * 1e3 * per_million
        products._numkong = installed
        rows = stored[::7].astype(np.float64)
        exact = rows @ query.vector / np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
        error = np.nanmax(np.abs(answers["numpy"][::7] - exact))
        unequal = np.nanmax(np.abs(answers["numpy"] - answers["numkong"]))
        print(f"similar, {name}: numkong {times['numkong']:.0f}, NumPy {times['numpy']:.0f} CPU ms for 1e6, "
              f"error {error:.1e}, between them {unequal:.1e}")  # fmt: skip


def indexing(cube: Cube) -> VectorIndex:
    """Build the index, alone and again."""
    shutil.rmtree(find_folder(cube.path), ignore_errors=True)
    begun = time.process_time()
    made = index_vectors(cube, cube.layers, here, silent)
    spent_s = time.process_time() - begun
    print(f"index: {spent_s / made.cells * 1e6:.1f} CPU s for 1e6 vectors, {made.bytes / made.vector_bytes:.3f} x "
          f"their bytes, {made.built} segments of {made.cells:,} vectors")  # fmt: skip
    index = VectorIndex.beside(cube.path, cube.layers[0])
    assert index is not None
    return index


def within(cube: Cube, index: VectorIndex) -> None:
    """Searches in a box of 1 % of the cells."""
    from embedcube.grid import to_degrees

    a, _, c, _, e, f = cube.group("s2/grid").attrs["spatial:transform"]
    rows, columns = cube.array("s2/grid", "status").shape[1:]
    to = to_degrees(cube.group("s2/grid").attrs["proj:wkt2"])
    rng, spent, right = np.random.default_rng(2), [], 0
    for _ in range(WITHIN_QUERIES):
        top, left = rng.integers(rows * 9 // 10), rng.integers(columns * 9 // 10)
        west, south = to.transform(c + left * a, f + (top + rows // 10) * e)
        east, north = to.transform(c + (left + columns // 10) * a, f + top * e)
        box = (west, south, east, north)
        vector = np.asarray(cube.array("s2/grid", "embedding")[0, rng.integers(rows), rng.integers(columns)])
        if not vector.any():
            continue
        search = Search(k=10, time="2023-06-05", within=box)
        begun = time.process_time()
        hits = find(cube, "s2", vector, None, search, index).hits
        spent.append(time.process_time() - begun)
        right += hits == find(cube, "s2", vector, None, replace(search, exact=True), None).hits
    print(f"within 1 %: {np.median(spent) * 1e3:.1f} CPU ms a query, {right} of {len(spent)} as without an index")


def memory(path: Path, cube: Cube, index: VectorIndex) -> None:
    """Memory of a process that searches 20 segments, which are one under 20 names: each is mapped by itself."""
    from tests.cube.synthetic import create_zone

    shutil.rmtree(path, ignore_errors=True)
    rows, columns = cube.array("s2/grid", "status").shape[1:]
    create_zone(path, "s2/grid", (SEGMENTS, rows, columns, FEATURES), side=10.0, crs="EPSG:32648", shard=rows // 2)
    folder = find_folder(path)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(index.folder, folder)
    listed = read_index(folder)["s2"]
    first = listed.segments[0]
    copies = tuple(replace(first, t=t, name=f"{t:064x}") for t in range(SEGMENTS))
    for one in copies:
        os.link(segment_file(folder, "s2", first.name), segment_file(folder, "s2", one.name))
    (folder / "index.json").write_bytes(write_index({"s2": replace(listed, segments=copies)}))
    command = [sys.executable, "-m", "benchmarks.find", "--memory-of", str(path)]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def most_memory_mb() -> float:
    """Largest resident memory of this process, mapped files included; `getrusage` would count that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def memory_of_searches(path: Path) -> str:
    """Memory after some searches in lists, and after a search of all."""
    cube = Cube(path)
    index = VectorIndex.beside(path, "s2")
    assert index is not None
    vectors = np.array(index.segment(index.listed.segments[0]).vectors[::40_000])
    begun, cells = time.process_time(), 0
    for vector in vectors:
        cells = find(cube, "s2", vector, None, Search(exact=False), index).cells
    spent_ms = (time.process_time() - begun) / len(vectors) * 1e3
    lists_mb = most_memory_mb()
    begun = time.process_time()
    find(cube, "s2", vectors[0], None, Search(exact=True), index)
    exact_s = time.process_time() - begun
    all_mb = most_memory_mb()
    return (
        f"{cells:,} cells: {spent_ms:.1f} CPU ms a query by lists, memory {lists_mb:.0f} MB; all of them {exact_s:.2f} "
        f"CPU s, {all_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
