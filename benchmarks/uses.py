"""What it costs to use a cube: points, a window against tensorstore, parcels. `python -m benchmarks.uses [FOLDER]`.

Two synthetic cubes are written to FOLDER (by default a temporary one), of 128 features as int8, with clouds:
`pix` has 1008 x 1008 cells in two windows, shards of 504 and chunks of 63 x 63 cells; `tok` has 504 x 504 cells in
twelve windows, shards and chunks of 56 x 56. They hardly compress, so a point costs more bytes than in a real cube
(`benchmarks.points`). Times are CPU seconds of this process, the best of RUNS.
"""

import argparse
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
import tensorstore
from numpy.typing import NDArray
from tests.cube.counting import Counting
from tests.cube.synthetic import create_zone

from embedcube.cube.encoding import MASKED, VALID
from embedcube.cube.layer import Layer
from embedcube.cube.reader import open_cube

FEATURES, SIDE_M, ZONE = 128, 10.0, "s2/utm32"

RUNS = 5


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    with _folder(parser.parse_args().folder) as folder:
        pix, tok = folder / "pix.zarr", folder / "tok.zarr"
        for path, windows, cells, shard in ((pix, 2, 1008, 504), (tok, 12, 504, 56)):
            if not path.exists():
                write_cube(path, windows, cells, shard)
        points(tok)
        points(pix)
        window(pix)
        parcels(pix)


def write_cube(path: Path, windows: int, cells: int, shard: int) -> None:
    """A cube of vectors that are smooth over eight cells, with one round cloud in each window."""
    unfinished = path.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    arrays = create_zone(unfinished, ZONE, (windows, cells, cells, FEATURES), side=SIDE_M, shard=shard)
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((-(-cells // 8), -(-cells // 8), FEATURES), dtype=np.float32)
    smooth = coarse.repeat(8, axis=0).repeat(8, axis=1)[:cells, :cells]
    y, x = np.mgrid[:cells, :cells]
    for t in range(windows):
        vectors = smooth + 0.3 * rng.standard_normal(smooth.shape, dtype=np.float32) + 0.2 * t
        scale = np.abs(vectors).max(axis=-1) / 127
        stored = np.rint(vectors / scale[..., None]).astype(np.int8)
        status = np.full((cells, cells), VALID, np.uint8)
        row, column = rng.uniform(0, cells, 2)
        status[(y - row) ** 2 + (x - column) ** 2 < (cells / 8) ** 2] = MASKED
        stored[status == MASKED], scale[status == MASKED] = 0, np.nan
        for name, values in (("embedding", stored), ("scale", scale), ("status", status)):
            arrays[name][t] = values
        arrays["n_obs"][t] = 3
    unfinished.rename(path)


def points(path: Path) -> None:
    """A point over all windows, cold, and 200 points: CPU time, chunks and bytes."""
    xmin, ymin, xmax, ymax = open_cube(path).group(ZONE).attrs["spatial:bbox"]
    rng = np.random.default_rng(1)
    for count in (1, 200):
        x, y = rng.uniform(xmin, xmax, count), rng.uniform(ymin, ymax, count)
        counting = Counting(path)
        layer = open_cube(counting)["s2"]
        before = counting.bytes
        layer.sample(x=x, y=y, crs=32632)
        windows = len(layer.cube.windows(ZONE))
        reads = {name: counting.chunks_of(name) for name in ("embedding", "scale", "status", "n_obs")}
        repeated = sum(len(own) - len(set(map(str, own))) for own in reads.values())
        chunks = ", ".join(f"{len(own)} of {name}" for name, own in reads.items())
        kb = (counting.bytes - before) / windows / 1e3
        cpu_ms = cpu_seconds(lambda x=x, y=y: open_cube(path)["s2"].sample(x=x, y=y, crs=32632)) * 1e3  # type: ignore[misc]
        print(f"{path.stem}: {count} points over {windows} windows: {cpu_ms:.0f} CPU ms, chunks: {chunks}")
        print(f"  {repeated} read twice, {kb:.0f} kB a window")


def window(path: Path) -> None:
    """All decoded vectors of one window: against tensorstore and the same arithmetic, in turn; memory beside them."""
    box = (-180.0, -80.0, 180.0, 84.0)
    layer = open_cube(path)["s2"]
    stores = {
        name: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{ZONE}/{name}"}}, read=True
        ).result()
        for name in ("embedding", "scale", "status")
    }

    def ours() -> NDArray[Any]:
        part = next(iter(layer.window(box, "2023-06-05").children.values()))
        part["status"].values  # noqa: B018
        return np.asarray(part["vector"].values)

    def theirs() -> NDArray[Any]:
        stored, scale, _ = (np.asarray(one[0].read().result()) for one in stores.values())
        vectors = stored.astype(np.float32)
        vectors *= scale[..., None]
        return vectors

    np.testing.assert_array_equal(ours()[0], theirs())
    best = {"ours": np.inf, "theirs": np.inf}
    for _ in range(RUNS):
        for name, work in (("ours", ours), ("theirs", theirs)):
            best[name] = min(best[name], once(work))
    tracemalloc.start()
    held = ours().nbytes
    beside = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    chunk = int(np.prod(layer.cube.array(ZONE, "embedding").chunks))
    beside -= held // FEATURES // 4 * (4 + 1)  # the scales, and the status, which is asked for too
    memory = f"{beside / chunk:.1f} chunks of memory beside the answer and the scales"
    print(
        f"window of {held / 4 / FEATURES:,.0f} cells: {best['ours']:.3f} CPU s, tensorstore {best['theirs']:.3f}: "
        f"{best['theirs'] / best['ours']:.2f} x its speed; {memory}"
    )


def parcels(path: Path) -> None:
    """Statistics of 1,000 polygons, against NumPy in float64 for every 40th."""
    layer = open_cube(path)["s2"]
    frame = fields(layer, 1000)
    for crs in (32632, 4326):
        own = frame.to_crs(crs)
        cpu_s = cpu_seconds(lambda own=own: layer.parcels(own, "2023-06-05"))  # type: ignore[misc]
        print(f"parcels: 1,000 polygons in EPSG:{crs}, mean, std and count: {cpu_s:.2f} CPU s")
    found = layer.parcels(frame, "2023-06-05")
    about = layer.cube.group(ZONE).attrs
    a, _, c, _, e, f = about["spatial:transform"]
    x, y = np.meshgrid(*(first + (np.arange(1008) + 0.5) * step for first, step in ((c, a), (f, e))))
    vectors = layer.cube.vectors(ZONE, 0, slice(None), slice(None))
    valid = layer.cube.array(ZONE, "status")[0] == VALID
    worst = 0.0
    for i in range(0, 1000, 40):
        inside = shapely.contains_xy(frame.geometry.iloc[i], x, y) & valid
        own = vectors[inside].astype(np.float64)
        assert int(found["count"][i, 0]) == len(own)
        if len(own):
            for name, expected in (("mean", own.mean(axis=0)), ("std", own.std(axis=0))):
                worst = max(worst, float(np.abs(found[name].values[i, 0] / expected - 1).max()))
    print(f"parcels: {int(found['cells'].sum()):,} cells; largest relative difference from float64 {worst:.1e}")


def fields(layer: Layer, count: int) -> geopandas.GeoDataFrame:
    """Polygons of fourteen corners, together about as large as the zone."""
    xmin, ymin, xmax, ymax = layer.cube.group(ZONE).attrs["spatial:bbox"]
    rng = np.random.default_rng(1)
    shapes = []
    for _ in range(count):
        angles, lengths = np.sort(rng.uniform(0, 2 * np.pi, 14)), 190 * rng.uniform(0.7, 1.2, 14)
        x, y = rng.uniform(xmin, xmax), rng.uniform(ymin, ymax)
        shapes.append(shapely.Polygon(np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], axis=1)))
    return geopandas.GeoDataFrame(geometry=shapes, crs=32632)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, the best of RUNS."""
    return min(once(work) for _ in range(RUNS))


def once(work: Callable[[], Any]) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


if __name__ == "__main__":
    main()
