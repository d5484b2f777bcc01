"""Several layers side by side: each has the vectors of its own cell and window, and says where it has none."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import zarr
from tests.cube.synthetic import write_zone

import embedcube
from embedcube.cube.encoding import MASKED, OUTSIDE, VALID
from embedcube.errors import RequestError

POINTS = [(7.63, 50.5), (7.60, 50.54), (9.0, 50.0)]


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Land in windows of ten days in June 2023, weather of whole months of May and June, in another cube."""
    folder = tmp_path_factory.mktemp("together")
    rng = np.random.default_rng(0)
    status = np.full((4, 48, 48), VALID, np.uint8)
    status[1, 30:] = MASKED
    write_zone(folder / "land.zarr", "s2/utm32", rng.normal(size=(4, 48, 48, 12)).astype(np.float32), status, shard=24)
    weather = rng.normal(size=(2, 4, 4, 5)).astype(np.float32)
    write_zone(folder / "weather.zarr", "era5/latlon", weather, crs="EPSG:4326", side=1.0, corner=(6.0, 53.0), shard=4)
    group: Any = zarr.open_group(folder / "weather.zarr", mode="a")["era5/latlon"]
    bounds = [[int(datetime(2023, m, 1, tzinfo=UTC).timestamp()) for m in (month, month + 1)] for month in (5, 6)]
    group["time_bnds"][...], group["time"][...] = np.array(bounds), np.array(bounds)[:, 0]
    return tuple(embedcube.open_cube(folder / f"{name}.zarr") for name in ("land", "weather"))


def test_vectors_are_those_of_each_layer_in_the_window_that_holds_the_middle(cubes: Any) -> None:
    land, weather = (cube.layer for cube in cubes)
    found = embedcube.side_by_side(land, weather).sample(POINTS)
    own, other = land.sample(POINTS), weather.sample(POINTS)
    assert dict(found.sizes) == {"point": 3, "time": 4, "feature": 17, "layer_name": 2}
    np.testing.assert_array_equal(found["vector"].sel(feature=found["layer"] == "s2"), own["vector"])
    beside = found["vector"].sel(feature=found["layer"] == "era5").values
    # the windows begin on 1, 11, 21 June and 1 July; June has the first three
    for t in range(3):
        np.testing.assert_array_equal(beside[:, t], other["vector"].values[:, 1])
    assert np.isnan(beside[:, 3]).all()
    assert (found["status"].values[:, 3, 1] == OUTSIDE).all()
    assert found["status"].values[:, :, 0].tolist() == own["status"].values.tolist()
    assert (found["time"].values == own["time"].values).all()
    valid = (own["status"].values == VALID)[:, :3]
    assert found["complete"].values[:, :3].tolist() == valid.tolist()
    assert {*found["status"].values[0, :3, 0]} == {VALID, MASKED}
    assert not found["complete"].values[:, 3].any()
    assert found["number"].values.tolist() == [*range(12), *range(5)]


def test_the_first_layer_says_which_times(cubes: Any) -> None:
    land, weather = (cube.layer for cube in cubes)
    both = embedcube.side_by_side(weather, land)
    found = both.sample(POINTS[:1], "2023-06")
    assert found.sizes["time"] == 1
    # 16 June is in the second window of the land
    np.testing.assert_array_equal(found["vector"].values[0, 0, 5:], land.sample(POINTS[:1])["vector"].values[0, 1])
    early = both.sample(POINTS[:1], "2023-05")
    assert (early["status"].values[0, 0] == [VALID, OUTSIDE]).all()
    assert np.isnan(early["vector"].values[0, 0, 5:]).all()
    assert repr(both).count("Layer") == 2


def test_layers_of_one_name_are_told_apart_by_version(cubes: Any) -> None:
    land, _ = (cube.layer for cube in cubes)
    with pytest.raises(RequestError, match="s2 of land is there twice"):
        embedcube.side_by_side(land, land)
    with pytest.raises(RequestError, match="at least two"):
        embedcube.side_by_side(land)
