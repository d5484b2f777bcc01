"""Statistics of parcels against NumPy in float64 over rasterio's masks; parcels over zones; principal components."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import geometry_mask
from tests.cube.synthetic import write_zone
from tests.cube.two_zones import cloudy, vectors_at

import embedcube
from embedcube.cube.encoding import FAILED, MASKED, VALID, VALID_INCOMPLETE
from embedcube.errors import RequestError


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A layer whose features have means far from zero, with masked and failed cells that hold other numbers."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(2, 96, 96, 8)) + np.arange(8) * 20).astype(np.float32)
    status = rng.choice([VALID, VALID_INCOMPLETE, MASKED, FAILED], size=(2, 96, 96), p=[0.6, 0.1, 0.2, 0.1])
    path = tmp_path_factory.mktemp("parcels") / "cube.zarr"
    write_zone(path, "s2/grid", vectors, np.full(status.shape, VALID, np.uint8), shard=32)
    cube = embedcube.open_cube(path)
    import zarr

    array: Any = zarr.open_array(path / "s2/grid/status", mode="r+")
    array[...] = status
    return cube["s2"]


def fields(rng: np.random.Generator, bounds: list[float], count: int) -> geopandas.GeoDataFrame:
    xmin, ymin, xmax, ymax = bounds
    shapes = []
    for _ in range(count):
        x, y, radius = rng.uniform(xmin, xmax), rng.uniform(ymin, ymax), rng.uniform(50, 3000)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        shapes.append(shapely.Polygon(np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)))
    return geopandas.GeoDataFrame(geometry=shapes, index=[f"field{i}" for i in range(count)], crs=32632)


def test_statistics_equal_those_of_numpy_in_float64(layer: Any) -> None:
    about = layer.cube.group("s2/grid").attrs
    frame = fields(np.random.default_rng(1), about["spatial:bbox"], 40)
    found = layer.parcels(frame)
    assert found["parcel"].values.tolist() == frame.index.tolist()
    status = layer.cube.array("s2/grid", "status")[...]
    for t in range(2):
        vectors = layer.cube.vectors("s2/grid", t, slice(None), slice(None)).astype(np.float64)
        for i, shape in enumerate(frame.geometry):
            inside = geometry_mask([shape], (96, 96), Affine(*about["spatial:transform"]), invert=True)
            own = vectors[inside & np.isin(status[t], (VALID, VALID_INCOMPLETE))]
            assert found["cells"][i] == inside.sum()
            assert found["count"][i, t] == len(own)
            if len(own):
                np.testing.assert_allclose(found["mean"][i, t], own.mean(axis=0), rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(found["std"][i, t], own.std(axis=0), rtol=1e-5, atol=1e-6)
                assert found["valid_share"][i, t] == pytest.approx(len(own) / inside.sum())
            else:
                assert np.isnan(found["mean"][i, t]).all()
    assert (found["count"].values > 0).sum() > 50
    assert (found["count"].values == 0).any()


def test_degrees_and_metres_give_the_same(layer: Any) -> None:
    frame = fields(np.random.default_rng(2), layer.cube.group("s2/grid").attrs["spatial:bbox"], 20)
    metres, degrees = layer.parcels(frame), layer.parcels(frame.to_crs(4326))
    np.testing.assert_array_equal(metres["count"], degrees["count"])
    np.testing.assert_array_equal(metres["mean"], degrees["mean"])


def test_a_parcel_over_two_zones_has_the_sums_of_both(two_zones: Path) -> None:
    """Against the function that the cube was made of, on a fine grid."""
    layer = embedcube.open_cube(two_zones).layer
    box = (11.985, 49.97, 12.03, 50.015)
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(*box)], crs=4326)
    halves = geopandas.GeoDataFrame(
        geometry=[shapely.box(box[0], box[1], 12, box[3]), shapely.box(12, *box[1:])], crs=4326
    )
    found, parts = layer.parcels(frame), layer.parcels(halves)
    lon, lat = np.meshgrid(np.linspace(box[0], box[2], 200), np.linspace(box[1], box[3], 200))
    for t in (0, 2):
        clear = ~cloudy(lon, lat, t)
        vectors = vectors_at(lon, lat, t)[clear]
        np.testing.assert_allclose(found["mean"][0, t], vectors.mean(axis=0), atol=0.03)
        np.testing.assert_allclose(found["std"][0, t], vectors.std(axis=0), atol=0.03)
        assert float(found["valid_share"][0, t]) == pytest.approx(clear.mean(), abs=0.03)
    assert int(found["cells"][0]) == int(parts["cells"].sum())
    weights = parts["count"] / parts["count"].sum("parcel")
    np.testing.assert_allclose(found["mean"][0], (parts["mean"] * weights).sum("parcel"), rtol=1e-5, atol=1e-6)


def test_a_parcel_that_is_empty_or_nowhere_has_no_cells(layer: Any) -> None:
    whole = shapely.box(*layer.cube.group("s2/grid").attrs["spatial:bbox"])
    nowhere = [shapely.Polygon(), shapely.box(1e9, 1e9, 1e9 + 1, 1e9 + 1)]
    for frame in ([*nowhere, whole], nowhere):
        found = layer.parcels(geopandas.GeoDataFrame(geometry=frame, crs=32632))
        assert found["count"].values[:2].tolist() == [[0, 0], [0, 0]]
        assert np.isnan(found["mean"].values[:2]).all()
        assert (found["count"].values[2:] > 0).all()


def test_parcels_may_overlap_and_lie_outside(layer: Any) -> None:
    xmin, ymin, xmax, ymax = layer.cube.group("s2/grid").attrs["spatial:bbox"]
    whole, away = shapely.box(xmin, ymin, xmax, ymax), shapely.box(0, 0, 10, 10)
    found = layer.parcels(geopandas.GeoDataFrame(geometry=[whole, whole, away], crs=32632), stats=["mean"])
    np.testing.assert_array_equal(found["mean"][0], found["mean"][1])
    assert found["cells"].values.tolist() == [96 * 96, 96 * 96, 0]
    assert np.isnan(found["valid_share"][2]).all()
    assert "std" not in found


@pytest.mark.parametrize(
    ("frame", "stats", "words"),
    [
        (geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326), ["max"], "no statistic max; there are"),
        (geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326), "max", "no statistic max; there are"),
        (geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]), ["mean"], "nothing says in which CRS"),
        (
            geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=4326),
            ["mean"],
            r"this has Point; points are for `sam",
        ),
        (geopandas.GeoDataFrame(geometry=[None], crs=4326), ["mean"], "this has missing"),
        ([shapely.box(0, 0, 1, 1)], ["mean"], "parcels are a GeoDataFrame of polygons, not list"),
    ],
)
def test_what_is_no_parcel_is_refused(layer: Any, frame: Any, stats: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        layer.parcels(frame, stats=stats)


def test_components_are_those_of_all_zones_and_windows(two_zones: Path) -> None:
    layer = embedcube.open_cube(two_zones).layer
    basis, again = layer.components(4), layer.components(4)
    assert basis is not None
    assert again is not None
    blocks = [block.vectors[block.valid] for block in layer.blocks()]
    vectors = np.concatenate(blocks).astype(np.float64)
    covariance = np.cov(vectors.T)
    along = np.linalg.eigvalsh(covariance)[::-1][:4] / np.trace(covariance)
    np.testing.assert_allclose(basis.variance, along, rtol=0.12)
    assert basis.along(vectors[:5]).shape == (5, 4)
    np.testing.assert_array_equal(basis.components, again.components)
