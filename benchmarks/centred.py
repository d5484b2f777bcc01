"""What `centre` is worth: recall and bytes of int8 with and without. `python -m benchmarks.centred [--tile|--vit]`.

The campaign configs/campaigns/presto_worldcereal_31UFS_2020-2021.yaml (10,000 pixels, published weights, twelve months)
with its layer three times: float32, int8, int8 with `centre`. With --tile vectors of Presto of 256 x 256 pixels of a
real Sentinel-2 tile in two months, one month each; with --vit tokens of a ViT-tiny with random weights.

Recall@10: of the ten nearest cells of a cell by the cosine of float32 vectors, how many are among its ten nearest by
the vectors as they are stored. The offset is that of `fit`; with --tile and --vit the mean of 2,048 vectors.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.presto_vectors import vectors_of_tile
from embedcube.cube.arrays import ShardEncoder, array_specs
from embedcube.cube.encoding import decode
from embedcube.cube.reader import Cube
from embedcube.cube.similar import Query
from embedcube.kernel.quantise import quantise

CAMPAIGN = Path(__file__).parents[1] / "configs" / "campaigns" / "presto_worldcereal_31UFS_2020-2021.yaml"

SIDE, SHARD, QUERIES, HITS, SAMPLE = 256, 128, 400, 10, 2048


def nearest(vectors: NDArray[np.float32], queries: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The HITS cells with the largest cosine with each query, in float64, itself left out."""
    units = vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for query in queries.tolist():
        cosines = units @ units[query]
        cosines[query] = -2
        yield np.argpartition(-cosines, HITS)[:HITS]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vit", action="store_true")
    parser.add_argument("--tile", action="store_true")
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    if not (arguments.vit or arguments.tile):
        of_campaign()
        return
    if arguments.vit:
        from benchmarks.vit_vectors import vectors_of_tile as tokens

        windows = tokens()[:, :SIDE, :SIDE]
    else:
        windows = vectors_of_tile(SIDE)
    features = windows.shape[-1]
    vectors = np.ascontiguousarray(windows.reshape(-1, features))
    rng = np.random.default_rng(0)
    queries = rng.choice(len(vectors), QUERIES, replace=False)
    truth = list(nearest(vectors, queries))
    mean = vectors[rng.choice(len(vectors), SAMPLE, replace=False)].mean(axis=0, dtype=np.float64).astype(np.float32)
    print(f"{len(vectors):,} vectors of {features} features; {QUERIES} queries")
    for name, offset in (("int8", None), ("int8 with centre", mean)):
        quantised = quantise(torch.from_numpy(vectors), "int8", None if offset is None else torch.from_numpy(offset))
        assert quantised.scale is not None
        stored, scale = quantised.stored.numpy(), quantised.scale.numpy()
        read = decode(stored, scale, offset)
        found = nearest(read, queries)
        recall = np.mean([len(np.intersect1d(a, b)) / HITS for a, b in zip(truth, found, strict=True)])
        error = np.linalg.norm(read - vectors, axis=1) / np.linalg.norm(vectors, axis=1)
        query, begun = Query.of(read[0]), time.process_time()
        query.cosines(stored, scale, offset)
        spent_s = time.process_time() - begun
        size = compressed_bytes(stored.reshape(windows.shape), scale.reshape(windows.shape[:-1]))
        print(
            f"{name:17s} recall@10 {recall:.3f}; error {error.mean():.5f} of the length; {features + 4} bytes each, "
            f"compressed {size / len(vectors):.1f}; a search {1e9 * spent_s / len(vectors):.0f} CPU ms for 1e6"
        )


def of_campaign() -> None:
    """Print the figures of the shipped campaign, whose cube is made in a temporary folder."""
    document = yaml.safe_load(CAMPAIGN.read_text())
    (layer,) = document["layers"].values()
    encodings: dict[str, dict[str, Any]] = {
        "exact": {"encoding": "float32"}, "plain": {"encoding": "int8"},
        "centred": {"encoding": "int8", "centre": True},
    }  # fmt: skip
    document |= {"layers": {name: layer | own for name, own in encodings.items()}, "how": {"runs": "runs", "ranks": 1}}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "campaign.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        subprocess.run([sys.executable, "-m", "embedcube", "run", file], check=True, stdout=subprocess.DEVNULL)
        cube = Cube(Path(folder) / "runs" / document["campaign"] / "cube.zarr")
        vectors = {name: cube.vectors(cube.zones_of(name)[0], 0, slice(None), slice(None)) for name in encodings}
        seen = np.isfinite(vectors["exact"]).all(axis=-1)
        queries = np.arange(int(seen.sum()))[::10]
        truth = list(nearest(vectors["exact"][seen], queries))
        for name, own in vectors.items():
            found = nearest(own[seen], queries)
            recall = np.mean([len(np.intersect1d(a, b)) / HITS for a, b in zip(truth, found, strict=True)])
            arrays = (cube.path / cube.zones_of(name)[0] / array for array in ("embedding", "scale"))
            size = sum(file.stat().st_size for array in arrays for file in array.glob("c.*"))
            print(f"{name:8s} recall@10 {recall:.3f} ({len(queries)} of {seen.sum()} pixels), "
                  f"{size / seen.sum():.1f} bytes a vector, compressed")  # fmt: skip


def compressed_bytes(stored: NDArray[np.int8], scale: NDArray[np.float32]) -> int:
    """Bytes of vectors and scales as a cube holds them."""
    encoder = ShardEncoder(
        tuple(spec for spec in array_specs(cells=SHARD, dimensions=stored.shape[-1], encoding="int8")
              if spec.name in ("embedding", "scale"))
    )  # fmt: skip
    total = 0
    for t, y, x in np.ndindex(len(stored), SIDE // SHARD, SIDE // SHARD):
        cells = (t, slice(y * SHARD, (y + 1) * SHARD), slice(x * SHARD, (x + 1) * SHARD))
        encoded = encoder.encode({"embedding": stored[cells], "scale": scale[cells]})
        total += sum(len(data or b"") for data in encoded.values())
    return total


if __name__ == "__main__":
    main()
