"""Points over time: which cell, which status, and how much is read for them."""

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import geopandas
import google_crc32c
import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from tests.cube.counting import Counting
from tests.cube.synthetic import create_zone, write_zone
from tests.cube.two_zones import vectors_at

import embedcube
from embedcube.cube.chunks import read_box, read_cells
from embedcube.cube.encoding import MASKED, OUTSIDE, VALID
from embedcube.errors import RequestError, WorkError

pread = os.pread

INSIDE, CLOUDY, AWAY = (11.99, 50.0), (11.97, 50.01), (8.0, 50.0)


@pytest.fixture(scope="module")
def layer(two_zones: Path) -> Any:
    return embedcube.open_cube(two_zones).layer


def test_points_have_the_vectors_of_their_places_in_all_windows(layer: Any) -> None:
    sampled = layer.sample([INSIDE, (12.01, 50.0)])
    assert sampled["vector"].dims == ("point", "time", "feature")
    assert sampled["zone"].values.tolist() == ["s2/utm32", "s2/utm33"]
    for t in range(3):
        # half a cell is 80 m; the waves are some kilometres long
        there = vectors_at(np.array([11.99, 12.01]), np.array([50.0, 50.0]), t)
        np.testing.assert_allclose(sampled["vector"].values[:, t], there, atol=0.12)
    assert sampled["time"].values.astype("datetime64[D]").astype(str).tolist() == [
        "2023-06-01", "2023-07-01", "2023-08-01",
    ]  # fmt: skip


def test_each_status_is_told_apart(layer: Any) -> None:
    sampled = layer.sample([INSIDE, CLOUDY, AWAY, (11.99, 80.0), (float("nan"), 50.0)], "2023-06")
    assert sampled["status"].values[:, 0].tolist() == [VALID, MASKED, OUTSIDE, OUTSIDE, OUTSIDE]
    finite = np.isfinite(sampled["vector"].values).all(axis=(1, 2))
    assert finite.tolist() == [True, False, False, False, False]
    assert np.isnan(sampled["vector"].values[1:]).all()
    assert sampled["n_obs"].values[:, 0].tolist() == [3, 0, 0, 0, 0]
    assert sampled["zone"].values.tolist()[2:] == ["", "", ""]
    assert (sampled["x"].values[2:] == -1).all()
    named = dict(zip(sampled["status"].flag_values.tolist(), sampled["status"].flag_meanings.split(), strict=True))
    assert (named[VALID], named[MASKED], named[OUTSIDE]) == ("valid", "masked", "outside")


def test_a_point_just_outside_is_no_edge_cell(tmp_path: Path) -> None:
    write_zone(tmp_path / "cube.zarr", "s2/grid", np.ones((1, 16, 16, 2), np.float32), corner=(400_000.0, 5_600_000.0))
    layer = embedcube.open_cube(tmp_path / "cube.zarr").layer
    edge = 400_000.0 + 16 * 160.0
    sampled = layer.sample(x=[edge - 1, edge + 1, 399_999.0, 400_001.0], y=[5_599_999.0] * 4, crs=32632)
    assert sampled["status"].values[:, 0].tolist() == [VALID, OUTSIDE, OUTSIDE, VALID]


near_the_border = st.floats(11.9985, 12.0015)
anywhere = st.floats(11.9, 12.1)


@settings(deadline=None, max_examples=60)
@given(lon=near_the_border | anywhere, lat=st.floats(49.95, 50.05), month=st.sampled_from([6, 7, 8]))
def test_the_cell_is_that_of_cell_at(two_zones: Path, lon: float, lat: float, month: int) -> None:
    cube = embedcube.open_cube(two_zones)
    sampled = cube.layer.sample([(lon, lat)], f"2023-0{month}")
    try:
        cell = cube.cell_at(lon, lat, f"2023-0{month}")
    except RequestError:
        assert sampled["status"].values.tolist() == [[OUTSIDE]]
        return
    found = [str(sampled["zone"][0].values), *(int(sampled[name][0]) for name in ("t", "y", "x"))]
    assert found == [cell.zone, cell.t, cell.y, cell.x]
    own = cube.vectors(cell.zone, cell.t, slice(cell.y, cell.y + 1), slice(cell.x, cell.x + 1))[0, 0]
    np.testing.assert_array_equal(sampled["vector"][0, 0], own)


def test_near_the_border_the_zone_with_more_vectors_answers(two_zones: Path, tmp_path: Path) -> None:
    """All of utm32 is masked in one window: its places at the border have a vector of utm33, the others none."""
    shutil.copytree(two_zones, tmp_path / "cube.zarr")
    array: Any = zarr.open_array(tmp_path / "cube.zarr" / "s2" / "utm32" / "status", mode="r+")
    array[1] = MASKED
    cube = embedcube.open_cube(tmp_path / "cube.zarr")
    sampled = cube.layer.sample([(11.9999, 50.0), (11.99, 50.0)])
    assert sampled["zone"].values.tolist() == ["s2/utm33", "s2/utm32"]
    assert sampled["status"].values.tolist() == [[VALID] * 3, [VALID, MASKED, VALID]]
    assert cube.cell_at(11.9999, 50.0, "2023-07").zone == "s2/utm33"
    there = vectors_at(np.array(11.9999), np.array(50.0), 1)
    np.testing.assert_allclose(sampled["vector"].values[0, 1], there, atol=0.12)


def test_points_come_in_many_forms(layer: Any) -> None:
    frame = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy(*zip(INSIDE, CLOUDY, strict=True)), crs=4326)
    named = frame.set_axis(["a", "b"]).to_crs(32633)
    answers = [
        layer.sample([INSIDE, CLOUDY]),
        layer.sample(np.array([INSIDE, CLOUDY])),
        layer.sample(frame),
        layer.sample(named),
        layer.sample(x=named.geometry.x, y=named.geometry.y, crs=named.crs),
    ]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer["vector"], answers[0]["vector"])
    assert answers[3]["status"].sel(point="b").values.tolist() == [MASKED, VALID, VALID]
    assert layer.sample(INSIDE)["zone"].values.tolist() == ["s2/utm32"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "points are a GeoDataFrame, pairs"),
        ({"points": [(1.0, 2.0, 3.0)]}, r"pairs \(longitude, latitude\), for example \[\(7\.6, 50\.9\)\]"),
        ({"points": "7.6,50.9"}, "pairs"),
        ({"points": []}, "pairs"),
        ({"points": geopandas.GeoSeries.from_xy([7], [50])}, "nothing says in which CRS"),
        ({"points": geopandas.GeoSeries([shapely.box(7, 50, 8, 51)], crs=4326)}, "not Polygon; for areas: parcels"),
        ({"x": [1.0], "y": [2.0], "crs": "nowhere"}, "'nowhere' is no CRS"),
        ({"x": [1.0], "y": [2.0, 3.0]}, "1 values of x, 2 of y"),
    ],
)
def test_what_is_no_point_is_refused(layer: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        layer.sample(**arguments)


def cube_of(path: Path, *, chunk_windows: int, windows: int = 12) -> Counting:
    """A store of one zone of 4 x 4 shards with random numbers in all arrays."""
    arrays = create_zone(path, "s2/grid", (windows, 64, 64, 8), shard=16, chunk_windows=chunk_windows)
    rng = np.random.default_rng(3)
    arrays["embedding"][...] = rng.integers(-127, 128, (windows, 64, 64, 8), np.int8)
    arrays["scale"][...] = rng.uniform(0.1, 1, (windows, 64, 64)).astype(np.float32)
    arrays["status"][...] = VALID
    arrays["n_obs"][...] = rng.integers(0, 5, (windows, 64, 64))
    return Counting(path)


@pytest.mark.parametrize(("chunk_windows", "chunks"), [(1, 12), (12, 1)])
def test_a_point_over_twelve_windows_reads_one_chunk_of_each(tmp_path: Path, chunk_windows: int, chunks: int) -> None:
    counting = cube_of(tmp_path / "cube.zarr", chunk_windows=chunk_windows)
    layer = embedcube.open_cube(counting).layer
    layer.sample(x=[401_000.0], y=[5_599_000.0], crs=32632)
    for array in ("embedding", "scale", "status", "n_obs"):
        assert len(counting.chunks_of(array)) == chunks


def test_two_hundred_points_read_each_chunk_once(tmp_path: Path) -> None:
    counting = cube_of(tmp_path / "cube.zarr", chunk_windows=1, windows=2)
    layer = embedcube.open_cube(counting).layer
    rng = np.random.default_rng(0)
    x, y = 400_000 + rng.uniform(0, 64 * 160, 200), 5_600_000 - rng.uniform(0, 64 * 160, 200)
    layer.sample(x=x, y=y, crs=32632)
    for array in ("embedding", "scale", "status", "n_obs"):
        reads = counting.chunks_of(array)
        assert len(reads) == len(set(map(str, reads))) <= 2 * 16


@pytest.mark.parametrize("chunk_windows", [1, 3])
@pytest.mark.parametrize("array", ["embedding", "scale", "status", "n_obs"])
def test_cells_and_boxes_equal_those_of_zarr(tmp_path: Path, array: str, chunk_windows: int) -> None:
    cube = embedcube.open_cube(cube_of(tmp_path / "cube.zarr", chunk_windows=chunk_windows, windows=6))
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(0, 64, (2, 50))
    whole = cube.array("s2/grid", array)[...]
    windows = [5, 0, 3]
    cells = read_cells(cube, "s2/grid", array, windows, rows, columns)
    np.testing.assert_array_equal(cells, whole[np.array(windows)[:, None], rows, columns])
    box = read_box(cube, "s2/grid", array, slice(1, 5), slice(3, 41), slice(17, 64))
    np.testing.assert_array_equal(box, whole[1:5, 3:41, 17:64])


def test_what_was_never_written_is_the_fill_value(tmp_path: Path) -> None:
    create_zone(tmp_path / "cube.zarr", "s2/grid", (1, 32, 32, 4))
    layer = embedcube.open_cube(tmp_path / "cube.zarr").layer
    sampled = layer.sample(x=[400_100.0], y=[5_599_900.0], crs=32632)
    assert sampled["status"].values.tolist() == [[0]]
    assert np.isnan(sampled["vector"]).all()


@pytest.mark.parametrize("place", [-2, 0])
def test_a_damaged_object_is_named(tmp_path: Path, place: int) -> None:
    """Flipped bits in the index, or in the header of a chunk."""
    cube_of(tmp_path / "cube.zarr", chunk_windows=1, windows=1)
    file = tmp_path / "cube.zarr" / "s2" / "grid" / "embedding" / "c.0.0.0.0"
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    data[place + 1] ^= 255
    file.write_bytes(data)
    layer = embedcube.open_cube(tmp_path / "cube.zarr").layer
    with pytest.raises(WorkError, match=r"embedding/c\.0\.0\.0\.0 is damaged; `embedcube verify`"):
        layer.sample(x=[400_100.0], y=[5_599_900.0], crs=32632)


def object_of(chunk: bytes, chunks: int, offset: int = 0, size: int | None = None) -> bytes:
    """An object whose chunks are all the same bytes, with an index that is whole."""
    index = np.array([[offset, len(chunk) if size is None else size]] * chunks, "<u8").tobytes()
    checksum: int = google_crc32c.value(index)
    return chunk + index + checksum.to_bytes(4, "little")


@pytest.mark.parametrize("lie", ["short", "long", "no size", "much", "far", "no frame"])
def test_a_chunk_that_is_none_is_refused_before_memory_is_taken(
    tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube_of(tmp_path / "cube.zarr", chunk_windows=1, windows=1)
    chunks = embedcube.open_cube(tmp_path / "cube.zarr").chunks("s2/grid", "embedding")
    count, whole = int(np.prod(chunks._inner)), int(np.prod(chunks.chunks))
    plain = Zstd().encode(np.arange(whole).astype(np.uint8))
    streamed = bytes([0x28, 0xB5, 0x2F, 0xFD, 0, 0x58, 1, 0, 0])  # an empty frame that does not say its size
    objects = {
        "short": object_of(Zstd().encode(np.ones(whole - 1, np.uint8)), count),
        "long": object_of(Zstd().encode(np.ones(whole + 1, np.uint8)), count),
        "no size": object_of(streamed, count),
        "much": object_of(plain, count, size=1 << 40),
        "far": object_of(plain, count, offset=2**64 - 2),
        "no frame": object_of(b"x" * 40, count),
    }
    asked: list[int] = []

    def counted(file: int, size: int, at: int) -> bytes:
        asked.append(size)
        return pread(file, min(size, 1 << 20), at)

    monkeypatch.setattr(os, "pread", counted)
    file = tmp_path / "cube.zarr" / "s2" / "grid" / "embedding" / "c.0.0.0.0"
    file.write_bytes(object_of(plain, count))
    assert np.array_equal(chunks._read((0, 0, 0)).ravel().view(np.uint8), np.arange(whole).astype(np.uint8))  # type: ignore[union-attr]
    chunks = embedcube.open_cube(tmp_path / "cube.zarr").chunks("s2/grid", "embedding")
    file.write_bytes(objects[lie])
    with pytest.raises(WorkError, match=r"embedding/c\.0\.0\.0\.0 is damaged; `embedcube verify`"):
        chunks.read((0, 0, 0))
    assert max(asked) < 1 << 20


def test_an_object_that_vanishes_is_named_and_indexes_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube_of(tmp_path / "cube.zarr", chunk_windows=1, windows=1)
    chunks = embedcube.open_cube(tmp_path / "cube.zarr").chunks("s2/grid", "embedding")
    chunks.read((0, 0, 0))
    (tmp_path / "cube.zarr" / "s2" / "grid" / "embedding" / "c.0.0.0.0").unlink()
    with pytest.raises(WorkError, match=r"embedding/c\.0\.0\.0\.0 is damaged"):
        chunks.read((0, 0, 0))
    monkeypatch.setattr("embedcube.cube.objects._INDEX_BYTES", 3 * 16 * int(np.prod(chunks._inner)))
    chunks = embedcube.open_cube(tmp_path / "cube.zarr").chunks("s2/grid", "embedding")
    for i in range(9):
        chunks.index(f"c.0.0.{i}.0")
        assert len(chunks._indexes) <= 3


class Cleared(dict[str, Any]):
    """Indexes that another thread clears as soon as one is kept."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.clear()


def test_many_threads_may_read_one_array(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 32, 32, 4)).astype(np.float32)
    write_zone(tmp_path / "cube.zarr", "s2/grid", vectors, shard=16)
    cube = embedcube.open_cube(tmp_path / "cube.zarr")
    expected = np.asarray(cube.array("s2/grid", "embedding")[...])
    chunks = cube.chunks("s2/grid", "embedding")
    chunks._indexes = Cleared()
    places = [(t, y, x) for t in range(3) for y in range(2) for x in range(2)] * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(chunks.read, places))
    for (t, y, x), own in zip(places, found, strict=True):
        assert own is not None
        np.testing.assert_array_equal(own, expected[t : t + 1, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16])
    # what goes to another process has its own lock
    assert pickle.loads(pickle.dumps(chunks)).read((2, 1, 1)).tolist() == expected[2:3, 16:, 16:].tolist()
