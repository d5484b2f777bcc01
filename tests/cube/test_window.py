"""Regions as xarray: lazy decoding by every kind of index, CRS kept, zones merged; the engine and its accessor."""

import tomllib
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from tests.conftest import ROOT
from tests.cube.counting import Counting
from tests.cube.synthetic import write_zone
from tests.cube.two_zones import CLOUD_DEGREES, CLOUDS, vectors_at

import embedcube
from embedcube.cube.encoding import MASKED, VALID, VALID_INCOMPLETE
from embedcube.cube.engine import EmbedcubeBackend
from embedcube.errors import RequestError

BOX = (11.95, 49.97, 12.05, 50.02)
ZONE = "s2/utm32"


@pytest.fixture(scope="module")
def decoded(two_zones: Path) -> NDArray[np.float32]:
    """All vectors (time, y, x, feature) of utm32, by zarr-python."""
    cube = embedcube.open_cube(two_zones)
    return np.stack([cube.vectors(ZONE, t, slice(None), slice(None)) for t in range(3)])


@pytest.fixture(scope="module")
def zone(two_zones: Path) -> xarray.Dataset:
    return xarray.open_dataset(two_zones, engine=EmbedcubeBackend, group=ZONE)


def along(*numbers: int) -> xarray.DataArray:
    return xarray.DataArray(list(numbers), dims="p")


INDEXES: dict[str, dict[str, Any]] = {
    "numbers": {"time": 1, "y": -3, "x": 5, "feature": 2},
    "slices": {"time": slice(1, None), "y": slice(10, 30, 3), "x": slice(None, None, -2), "feature": slice(3, 9)},
    "rows": {"y": [5, 70, 6], "x": [1, 60]},
    "rows and features": {"time": [2, 0], "y": [5, 70], "x": slice(3, 5), "feature": [15, 0]},
    "points": {"y": along(3, 70, -1), "x": along(9, 3, 64)},
    "points of one window": {"time": 2, "y": along(3, 70, 5), "x": along(9, 3, 64)},
    "points and times": {"time": along(2, 0, 1), "y": along(3, 70, 5), "x": along(9, 3, 64)},
    "points and features": {"time": 0, "y": along(3, 70), "x": along(9, 3), "feature": along(7, 0)},
    "points of a slice": {"time": slice(0, 2), "y": along(3, 70), "x": along(9, 3), "feature": slice(0, 9, 4)},
    "rows as points": {"y": along(3, 70), "x": slice(4, 7)},
    "a table of points": {
        "y": xarray.DataArray([[1, 2], [3, 4]], dims=("a", "b")),
        "x": xarray.DataArray([[5, 6], [7, 8]], dims=("a", "b")),
    },
    "nothing": {"y": slice(5, 5)},
}


@pytest.mark.parametrize("name", INDEXES)
def test_every_kind_of_index_gives_what_numpy_has(zone: xarray.Dataset, decoded: Any, name: str) -> None:
    whole = xarray.DataArray(decoded, dims=("time", "y", "x", "feature"))
    expected = whole.isel(INDEXES[name])
    found = zone["vector"].isel(INDEXES[name])
    assert found.dims == expected.dims
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(
        zone["status"].isel({k: v for k, v in INDEXES[name].items() if k != "feature"}).values,
        xarray.DataArray(zone["status"].values, dims=("time", "y", "x"))
        .isel({k: v for k, v in INDEXES[name].items() if k != "feature"})
        .values,
    )


@st.composite
def selections(draw: st.DrawFn, sizes: dict[str, int]) -> dict[str, Any]:
    """Numbers, slices with any step, lists in any order with repeats, and points, along some of the dimensions."""
    points = draw(st.integers(0, 4))

    def along_one(name: str) -> Any:
        size = sizes[name]
        numbers = st.integers(-size, size - 1)
        # beyond the first one xarray itself takes a slice backwards for another, of any lazy array
        edges = st.none() | st.integers(-size, size + 2)
        return draw(
            numbers
            | st.builds(slice, edges, edges, st.sampled_from([None, 1, 2, 3, -1, -2, 7]))
            | st.lists(numbers, max_size=6).map(lambda held: np.array(held, np.int64))
            | st.lists(numbers, min_size=points, max_size=points).map(
                lambda held: xarray.DataArray(np.array(held, np.int64), dims="p")
            )
        )

    chosen = draw(st.sets(st.sampled_from(sorted(sizes)), min_size=1))
    return {name: along_one(name) for name in sorted(chosen)}


SIZES = {"time": 5, "y": 23, "x": 19, "feature": 6}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[xarray.Dataset, NDArray[np.float32]]:
    """A zone whose chunks hold several windows and do not divide it, and all of it by zarr-python."""
    path = tmp_path_factory.mktemp("odd") / "cube.zarr"
    rng = np.random.default_rng(3)
    status = rng.choice(np.array([VALID, MASKED], np.uint8), size=(5, 23, 19))
    vectors = rng.normal(size=tuple(SIZES.values())).astype(np.float32)
    write_zone(path, "s2/grid", vectors, status, shard=8, chunk_windows=2)
    cube = embedcube.open_cube(path)
    whole = np.stack([cube.vectors("s2/grid", t, slice(None), slice(None)) for t in range(5)])
    return xarray.open_dataset(path, engine=EmbedcubeBackend), whole


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(selection=selections(SIZES))
def test_any_selection_gives_what_numpy_has(odd: Any, selection: dict[str, Any]) -> None:
    opened, whole = odd
    expected = xarray.DataArray(whole, dims=tuple(SIZES)).isel(selection)
    found = opened["vector"].isel(selection)
    assert found.dims == expected.dims
    np.testing.assert_array_equal(found.values, expected.values)
    flat = {name: one for name, one in selection.items() if name != "feature"}
    status = xarray.DataArray(opened["status"].values, dims=tuple(SIZES)[:3]).isel(flat)
    np.testing.assert_array_equal(opened["status"].isel(flat).values, status.values)


def test_selections_of_selections_and_by_coordinate(zone: xarray.Dataset, decoded: Any) -> None:
    again = [0] * zone.sizes["feature"]
    repeated = zone["vector"].isel(time=0, y=slice(30, 32), x=slice(30, 32), feature=again)
    first = zone["vector"].isel(time=0, y=slice(30, 32), x=slice(30, 32)).values[..., :1]
    np.testing.assert_array_equal(repeated, np.repeat(first, len(again), axis=-1))
    part = zone["vector"].isel(y=slice(10, 50)).isel(y=slice(None, None, -3), x=[7, 3])
    np.testing.assert_array_equal(part.values, decoded[:, 10:50][:, ::-3][:, :, [7, 3]])
    one = (
        zone["vector"]
        .sel(x=float(zone.x[9]) + 70, y=float(zone.y[4]), method="nearest", tolerance=80)
        .sel(time="2023-07")
    )
    np.testing.assert_array_equal(one.values, decoded[1:2, 4, 9])
    with pytest.raises(KeyError):
        zone["vector"].sel(x=1e6, y=float(zone.y[4]), method="nearest", tolerance=80)


def test_only_what_is_used_is_read(two_zones: Path) -> None:
    counting = Counting(two_zones)
    opened = EmbedcubeBackend().open_dataset(counting, group=ZONE)
    repr(opened)
    assert counting.chunks_of("embedding") == []
    opened["vector"].isel(time=0, y=along(1, 2, 3), x=along(1, 2, 3)).load()
    assert len(counting.chunks_of("embedding")) == len(counting.chunks_of("scale")) == 1
    (opened["vector"].isel(time=[1], y=slice(0, 20), x=slice(0, 16)) * 2).load()
    assert len(counting.chunks_of("embedding")) == 3


def test_the_crs_is_kept_and_flags_are_named(zone: xarray.Dataset, tmp_path: Path) -> None:
    picture = (zone["vector"].isel(time=0) * 2).transpose("feature", "y", "x")
    assert picture.rio.crs == CRS.from_epsg(32632)
    picture.isel(feature=slice(0, 2), x=slice(5, 15)).rio.to_raster(tmp_path / "x.tif")
    import rasterio

    with rasterio.open(tmp_path / "x.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.bounds.left == float(zone.x[5]) - 80
    assert zone["status"].attrs["flag_meanings"].split()[3] == "masked"
    assert zone["status"].attrs["flag_values"].tolist() == list(range(6))


def test_a_region_is_a_dataset_for_each_zone(two_zones: Path, decoded: Any) -> None:
    tree = embedcube.open_cube(two_zones).layer.window(BOX, "2023-07")
    assert list(tree.children) == ["utm32", "utm33"]
    part = tree["utm32"].to_dataset()
    rows, columns = part["row"].values, part["column"].values
    np.testing.assert_array_equal(part["vector"].values[0], decoded[1][np.ix_(rows, columns)])
    assert part["t"].values.tolist() == [1]
    assert CRS.from_cf(part["spatial_ref"].attrs) == CRS.from_epsg(32632)
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(*np.meshgrid(part.x, part.y))
    inside = (lon > BOX[0]) & (lon < 12) & (lat > BOX[1]) & (lat < BOX[3])
    np.testing.assert_array_equal(part["inside"].values, inside)
    with pytest.raises(RequestError, match="no cell of s2 has its centre in the region"):
        embedcube.open_cube(two_zones).layer.window((8, 50, 9, 51))


@pytest.mark.parametrize("crs", [None, "EPSG:32633", "EPSG:3035", "EPSG:4326"])
def test_merged_zones_hold_whole_vectors_in_their_places(two_zones: Path, crs: str | None) -> None:
    cube = embedcube.open_cube(two_zones)
    merged = cube.layer.window(BOX, "2023-07").merged(crs)
    target = CRS.from_cf(merged["spatial_ref"].attrs)
    assert target == CRS.from_user_input(crs or "EPSG:32632")
    has_vector = np.isin(merged["status"].values[0], (VALID, VALID_INCOMPLETE))
    assert 0.7 < has_vector.mean() < 0.9
    vectors, zones = merged["vector"].values[0], merged["zone"].values[0]
    # not mixed: each is a vector of the cube, bit for bit
    for number, name in enumerate(merged["zone"].attrs["zones"]):
        own = cube.vectors(name, 1, slice(None), slice(None))
        of = zones == number
        assert of.sum() > 300
        at = merged["row"].values[0][of], merged["column"].values[0][of]
        np.testing.assert_array_equal(vectors[of], own[at])
    lon, lat = Transformer.from_crs(target, 4326, always_xy=True).transform(*np.meshgrid(merged.x, merged.y))
    assert np.abs(vectors - vectors_at(lon, lat, 1))[has_vector].max() < 0.2
    # no seam without vectors along the border
    east, north = CLOUDS[1]
    clear = ((lon - east) * 0.64) ** 2 + (lat - north) ** 2 > (CLOUD_DEGREES + 0.004) ** 2
    near = clear & (np.abs(lon - 12) < 0.01) & (lat > BOX[1] + 0.003) & (lat < BOX[3] - 0.003)
    assert near.sum() > 100
    assert has_vector[near].all()
    assert np.isnan(vectors[~has_vector]).all()


def test_a_merged_zone_in_its_own_crs_is_unchanged(two_zones: Path, decoded: Any) -> None:
    tree = embedcube.open_cube(two_zones).layer.window((11.93, 49.97, 11.96, 50.0), "2023-06")
    merged, own = tree.merged(), tree["utm32"].to_dataset()
    np.testing.assert_array_equal(merged["x"], own["x"])
    np.testing.assert_array_equal(merged["y"], own["y"])
    np.testing.assert_array_equal(merged["vector"], own["vector"])
    with pytest.raises(RequestError, match="'nowhere' is no CRS"):
        tree.merged("nowhere")


def test_the_engine_opens_trees_and_names_its_groups(two_zones: Path) -> None:
    with xarray.open_datatree(two_zones, engine=EmbedcubeBackend) as tree:
        assert tree.groups == ("/", "/s2", "/s2/utm32", "/s2/utm33")
        assert tree["s2/utm33"].to_dataset()["vector"].dtype == np.float32
    with pytest.raises(RequestError, match=r"which group\? It has s2/utm32, s2/utm33"):
        xarray.open_dataset(two_zones, engine=EmbedcubeBackend)
    with pytest.raises(RequestError, match=r"group=s1 is no zone\. It has s2/utm32, s2/utm33"):
        xarray.open_dataset(two_zones, engine=EmbedcubeBackend, group="s1")
    part = xarray.open_dataset(two_zones, engine=EmbedcubeBackend, group=ZONE, drop_variables="n_obs")
    assert list(part) == ["vector", "status"]
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["xarray.backends"]
    module, name = entry["embedcube"].split(":")
    assert getattr(import_module(module), name) is EmbedcubeBackend


def test_the_accessor_asks_the_layer(two_zones: Path, zone: xarray.Dataset) -> None:
    layer = embedcube.open_cube(two_zones).layer
    asked = zone.isel(time=[0], x=slice(0, 3)).embedcube
    np.testing.assert_array_equal(asked.sample([(12.01, 50.0)])["vector"], layer.sample([(12.01, 50.0)])["vector"])
    assert asked.find((11.99, 50.0), k=2)["zone"].tolist() == layer.find((11.99, 50.0), k=2)["zone"].tolist()
    with pytest.raises(RequestError, match="not of a cube"):
        _ = xarray.Dataset().embedcube


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("large") / "cube.zarr"
    write_zone(path, "s2/grid", rng.normal(size=(2, 192, 192, 128)).astype(np.float32), shard=192)
    return path


SELECTED: dict[str, dict[str, Any]] = {
    "all": {},
    "windows the other way": {"time": [1, 0]},
    "rows in any order": {"y": np.random.default_rng(0).permutation(192)},
    "columns twice": {"time": 0, "x": np.repeat(np.arange(192), 2)},
    "backwards": {"y": slice(None, None, -1), "x": slice(None, None, -1)},
    "every second": {"y": slice(None, None, 2)},
    "half of the features": {"feature": slice(0, 64)},
    "one feature": {"feature": 5},
    "points over time": {"y": along(*range(192)), "x": along(*range(191, -1, -1))},
    "a table of points": {
        "y": xarray.DataArray(np.mgrid[:40, :40][0], dims=("a", "b")),
        "x": xarray.DataArray(np.mgrid[:40, :40][1], dims=("a", "b")),
    },
    "points of their own times": {
        "time": along(*(np.arange(3000) % 2).tolist()),
        "y": along(*(np.arange(3000) % 192).tolist()),
        "x": along(*(np.arange(3000) * 7 % 192).tolist()),
    },
}


@pytest.mark.parametrize("name", SELECTED)
def test_decoding_holds_little_more_than_the_answer(large: Path, name: str) -> None:
    """Beside the answer: the scales, and three decoded chunks; for points also the index arrays that xarray makes.

    These have a number of eight bytes for each of the four dimensions and each number of each vector.
    """
    opened = xarray.open_dataset(large, engine=EmbedcubeBackend)
    chunk = int(np.prod(embedcube.open_cube(large).array("s2/grid", "embedding").chunks))
    opened["vector"].isel(x=slice(0, 2), y=slice(0, 2)).load()
    chosen = opened["vector"].isel(SELECTED[name])
    tracemalloc.start()
    loaded = chosen.values
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    cells = loaded.size // {"one feature": 1, "half of the features": 64}.get(name, 128)
    indexes = 8 * 4 * loaded.size + 6 * loaded.size if "point" in name else 0
    assert peak < loaded.nbytes + 8 * cells + indexes + 3 * chunk + (1 << 19), peak / loaded.nbytes
