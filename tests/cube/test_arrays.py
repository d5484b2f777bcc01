"""The bytes of a shard's objects are those that zarr-python writes, and every reader finds them under their keys."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedcube.cube.arrays import CHUNK_BYTES, FLAT_CHUNK_BYTES, ArraySpec, ShardEncoder, array_specs, chunk_cells
from embedcube.cube.encoding import NOT_PROCESSED, VALID, Encoding

CELLS, DIMENSIONS = 6, 5
GRID = (2, 3, 2)
"""number of windows, of rows and of columns of shards in the larger array"""

Values = dict[str, NDArray[Any]]
Place = tuple[int, int, int]

PLACES: list[Place] = [(0, 0, 0), (1, 2, 1), (0, 2, 0)]

each_encoding = pytest.mark.parametrize("encoding", ["int8", "float16", "float32"])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks so small that a shard of 6 x 6 cells has several."""
    for name in ("CHUNK_BYTES", "FLAT_CHUNK_BYTES"):
        monkeypatch.setattr(f"embedcube.cube.arrays.{name}", 30)


def specs_of(encoding: Encoding) -> tuple[ArraySpec, ...]:
    specs = array_specs(cells=CELLS, dimensions=DIMENSIONS, encoding=encoding)
    assert all(spec.chunk[1] < spec.shard[1] for spec in specs), "a shard has several chunks"
    return specs


def a_shard(encoding: Encoding, seed: int = 0) -> Values:
    """Values of a shard; a corner of it has no vectors, so that whole chunks are empty."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((CELLS, CELLS, DIMENSIONS)).astype(np.float32)
    values: Values = {"embedding": vectors.astype(encoding)}
    if encoding == "int8":
        values["scale"] = np.abs(vectors).max(axis=-1) / np.float32(127)
        values["embedding"] = np.rint(vectors / values["scale"][..., None]).astype(np.int8)
    values["status"] = np.full((CELLS, CELLS), VALID, dtype=np.uint8)
    values["n_obs"] = rng.integers(1, 9, (CELLS, CELLS)).astype(np.uint16)
    for spec in specs_of(encoding):
        values[spec.name][seed % 3 :, 3:] = spec.fill
    return values


def nothing(encoding: Encoding) -> Values:
    """Values of a shard without any vector."""
    return {spec.name: np.full(spec.shard[1:], spec.fill, dtype=spec.dtype) for spec in specs_of(encoding)}


def larger_array(spec: ArraySpec, folder: Path) -> Any:
    """Create an empty array of several shards on disk."""
    shape = tuple(n * side for n, side in zip(GRID, spec.shard, strict=False)) + spec.shard[3:]
    return spec.create(zarr.storage.LocalStore(folder), "", shape)


def region(spec: ArraySpec, place: Place) -> tuple[slice, ...]:
    """Index of a shard in the larger array."""
    starts = [n * side for n, side in zip(place, spec.shard, strict=False)] + [0] * len(spec.shard[3:])
    return tuple(slice(start, start + side) for start, side in zip(starts, spec.shard, strict=True))


def put(spec: ArraySpec, folder: Path, shards: dict[Place, dict[str, bytes | None]]) -> Any:
    """Create the larger array, write the given objects into its folder as files, and open it."""
    larger_array(spec, folder)
    for place, objects in shards.items():
        data = objects[spec.name]
        if data is not None:
            (folder / spec.key(*place)).write_bytes(data)
    return zarr.open_array(folder, mode="r")


def objects_in(folder: Path) -> dict[str, bytes]:
    """Bytes of every object of an array, by key."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "zarr.json"
    }


# --- bytes ----------------------------------------------------------------------------------------


@each_encoding
@pytest.mark.parametrize("place", PLACES)
def test_bytes_and_keys_are_those_that_zarr_writes(encoding: Encoding, place: Place, tmp_path: Path) -> None:
    values = a_shard(encoding)
    objects = ShardEncoder(specs_of(encoding)).encode(values)
    assert set(objects) == set(values)
    for spec in specs_of(encoding):
        folder = tmp_path / spec.name
        larger_array(spec, folder)[region(spec, place)] = values[spec.name].reshape(spec.shard)
        assert objects_in(folder) == {spec.key(*place): objects[spec.name]}


def test_keys_are_flat() -> None:
    keys = {spec.name: spec.key(1, 22, 3) for spec in specs_of("int8")}
    assert keys == {"embedding": "c.1.22.3.0", "scale": "c.1.22.3", "status": "c.1.22.3", "n_obs": "c.1.22.3"}


@each_encoding
def test_bytes_do_not_depend_on_how_zarr_spreads_its_work(encoding: Encoding) -> None:
    found = []
    for concurrency in (1, 8):
        with zarr.config.set({"async.concurrency": concurrency}):
            found.append(ShardEncoder(specs_of(encoding)).encode(a_shard(encoding)))
    assert found[0] == found[1]


@each_encoding
def test_a_shard_without_vectors_has_no_objects(encoding: Encoding, tmp_path: Path) -> None:
    objects = ShardEncoder(specs_of(encoding)).encode(nothing(encoding))
    assert objects == {spec.name: None for spec in specs_of(encoding)}
    for spec in specs_of(encoding):
        array = larger_array(spec, tmp_path / spec.name)
        array[region(spec, PLACES[1])] = np.full(spec.shard, spec.fill, dtype=spec.dtype)
        assert objects_in(tmp_path / spec.name) == {}


@each_encoding
def test_vectors_of_zeros_are_not_missing(encoding: Encoding, tmp_path: Path) -> None:
    import torch

    from embedcube.kernel.quantise import quantise

    encoded = quantise(torch.zeros((CELLS, CELLS, DIMENSIONS)), encoding)
    values = nothing(encoding) | {"embedding": encoded.stored.numpy()}
    if encoded.scale is not None:
        values["scale"] = encoded.scale.numpy()
    objects = ShardEncoder(specs_of(encoding)).encode(values)
    assert objects["scale" if encoding == "int8" else "embedding"] is not None
    for spec in specs_of(encoding)[:2]:
        array = put(spec, tmp_path / spec.name, {PLACES[1]: objects})
        assert np.asarray(array[region(spec, PLACES[1])]).tobytes() == values[spec.name].tobytes()


@each_encoding
def test_an_encoder_keeps_nothing_of_the_shard_before(encoding: Encoding) -> None:
    used = ShardEncoder(specs_of(encoding))
    full = {name: np.ones_like(array) for name, array in nothing(encoding).items()}
    shards = [full, a_shard(encoding, 1), nothing(encoding), a_shard(encoding, 2), full, nothing(encoding)]
    kept = [used.encode(shard) for shard in shards]
    fresh = [ShardEncoder(specs_of(encoding)).encode(shard) for shard in shards]
    assert kept == fresh
    assert [objects["status"] is None for objects in kept] == [False, False, True, False, False, True]


# --- readers --------------------------------------------------------------------------------------


@each_encoding
def test_objects_put_by_hand_read_back_in_zarr_and_tensorstore(encoding: Encoding, tmp_path: Path) -> None:
    encoder = ShardEncoder(specs_of(encoding))
    written = {place: a_shard(encoding, seed) for seed, place in enumerate(PLACES)}
    written[1, 1, 0] = nothing(encoding)
    objects = {place: encoder.encode(values) for place, values in written.items()}
    for spec in specs_of(encoding):
        array = put(spec, tmp_path / spec.name, objects)
        expected = np.full(array.shape, spec.fill, dtype=spec.dtype)
        for place, values in written.items():
            expected[region(spec, place)] = values[spec.name]
        np.testing.assert_array_equal(array[...], expected)
        store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path / spec.name}/"}}
        other = tensorstore.open(store, read=True).result().read().result()
        assert other.dtype == expected.dtype
        np.testing.assert_array_equal(other, expected)


# --- shapes ---------------------------------------------------------------------------------------


@each_encoding
@given(cells=st.integers(1, 60), dimensions=st.integers(1, 2000))
@example(cells=3, dimensions=10**6)
def test_chunks_divide_shards(encoding: Encoding, cells: int, dimensions: int) -> None:
    specs = array_specs(cells=cells, dimensions=dimensions, encoding=encoding)
    names = [spec.name for spec in specs]
    assert names == ["embedding", *(["scale"] if encoding == "int8" else []), "status", "n_obs"]
    for spec in specs:
        assert spec.shard == (1, cells, cells, *((dimensions,) if spec.name == "embedding" else ()))
        assert all(side % part == 0 for side, part in zip(spec.shard, spec.chunk, strict=True))
        assert spec.chunk[1] == spec.chunk[2]
        assert len(spec.dimensions) == len(spec.shard)
    embedding = specs[0]
    assert embedding.dtype == encoding
    assert embedding.chunk[3] == dimensions, "one read yields a whole vector"


@given(cells=st.integers(1, 400), cell_bytes=st.integers(1, 4 * CHUNK_BYTES))
@example(cells=7, cell_bytes=CHUNK_BYTES)
@example(cells=128, cell_bytes=CHUNK_BYTES // 64**2)
@example(cells=128, cell_bytes=CHUNK_BYTES // 64**2 + 1)
def test_a_chunk_is_the_largest_that_costs_little_to_read(cells: int, cell_bytes: int) -> None:
    side = chunk_cells(cells, cell_bytes, CHUNK_BYTES)
    assert cells % side == 0
    assert side == 1 or side**2 * cell_bytes <= CHUNK_BYTES
    for larger in range(side + 1, cells + 1):
        assert cells % larger or larger**2 * cell_bytes > CHUNK_BYTES


@pytest.fixture
def large_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo `small_chunks`."""
    for name, size in (("CHUNK_BYTES", CHUNK_BYTES), ("FLAT_CHUNK_BYTES", FLAT_CHUNK_BYTES)):
        monkeypatch.setattr(f"embedcube.cube.arrays.{name}", size)


@pytest.mark.usefixtures("large_chunks")
@each_encoding
@pytest.mark.parametrize("windows", [1, 12])
@pytest.mark.parametrize("cells", [48, 256, 1000, 509])
def test_what_is_small_beside_a_vector_has_small_chunks(encoding: Encoding, windows: int, cells: int) -> None:
    for spec in array_specs(cells=cells, dimensions=128, encoding=encoding, windows=windows):
        size = math.prod(spec.chunk) * np.dtype(spec.dtype).itemsize
        assert size <= (1 << 18 if spec.name == "embedding" else 1 << 16)


@pytest.mark.usefixtures("large_chunks")
def test_a_point_of_a_pixel_cube_costs_about_a_tenth_of_a_megabyte(tmp_path: Path) -> None:
    """128 features that compress to about 0.6 of their size, as those of `mosaiks` do."""
    cells, dimensions = 256, 128
    rng = np.random.default_rng(0)
    values: Values = {
        "embedding": np.clip(rng.standard_normal((cells, cells, dimensions)) * 6, -127, 127).astype(np.int8),
        "scale": rng.uniform(0.01, 0.02, (cells, cells)).astype(np.float32),
        "status": np.ones((cells, cells), dtype=np.uint8),
        "n_obs": rng.integers(1, 9, (cells, cells)).astype(np.uint16),
    }
    specs = array_specs(cells=cells, dimensions=dimensions, encoding="int8")
    objects = ShardEncoder(specs).encode(values)
    assert 0.53 < len(objects["embedding"] or b"") / values["embedding"].size < 0.6
    arrays = [put(spec, tmp_path / spec.name, {(0, 0, 0): objects}) for spec in specs]
    places = rng.integers(0, cells, (20, 2)).tolist()
    before = bytes_read()
    for y, x in places:
        for array in arrays:
            array[0, y, x]
    assert 0.08e6 < (bytes_read() - before) / len(places) < 0.15e6


def bytes_read() -> int:
    """Bytes that this process has read so far, counted by the system."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_metadata_says_how_to_read_it(tmp_path: Path) -> None:
    for spec in specs_of("int8"):
        larger_array(spec, tmp_path / spec.name)
        document = json.loads((tmp_path / spec.name / "zarr.json").read_text())
        (sharding,) = document["codecs"]
        assert sharding["name"] == "sharding_indexed"
        assert tuple(sharding["configuration"]["chunk_shape"]) == spec.chunk
        assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == ["bytes", "zstd"]
        assert tuple(document["chunk_grid"]["configuration"]["chunk_shape"]) == spec.shard
        assert document["dimension_names"] == list(spec.dimensions)
        fill = document["fill_value"]
        assert fill == ("NaN" if math.isnan(spec.fill) else spec.fill)
    assert NOT_PROCESSED == 0, "where there is no object, status reads as not processed"
