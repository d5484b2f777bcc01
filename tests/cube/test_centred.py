"""A centred layer (int8 with an offset of each feature) in all that reads a cube, against NumPy in float64."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
import zarr
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask
from tests.cube.synthetic import write_zone
from tests.cube.test_change import ZONE, write_series

from embedcube.cube import products
from embedcube.cube.basis import Basis, fit_basis
from embedcube.cube.encoding import VALID
from embedcube.cube.reader import Cube
from embedcube.cube.similar import Query
from embedcube.cube.store import Cell
from embedcube.errors import RequestError
from embedcube.grid import to_degrees

OFFSET = (np.random.default_rng(1).normal(size=32) * 4 + 1).astype(np.float32)
"""larger than what varies, as it is where one feature is large everywhere"""


@dataclass(frozen=True)
class Pair:
    """A centred cube, and what it holds in float64."""

    cube: Cube
    values: NDArray[np.float64]
    """(time, y, x, feature): stored * scale + offset; NaN where there is no vector"""
    floats: Cube
    """the same vectors as float32"""

    @property
    def valid(self) -> NDArray[np.bool_]:
        return np.asarray(self.cube.array(ZONE, "status")[...] == VALID)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("centred")
    path = write_series(folder / "cube.zarr", offset=OFFSET)
    group: Any = zarr.open_group(path, mode="r")[ZONE]
    values = group["embedding"][...].astype(np.float64) * group["scale"][...].astype(np.float64)[..., None]
    values += OFFSET.astype(np.float64)
    floats = write_series(folder / "floats.zarr", encoding="float32")
    status = group["status"][...]
    written: Any = zarr.open_group(floats, mode="a")[ZONE]
    written["embedding"][...] = np.where((status == VALID)[..., None], values, np.nan)
    return Pair(Cube(path), values, Cube(floats))


def test_vectors_are_decoded_wherever_they_are_read(pair: Pair) -> None:
    layer, expected = pair.cube.layer, pair.values
    assert np.isnan(expected[~pair.valid]).all()
    np.testing.assert_array_equal(pair.cube.offset(ZONE), OFFSET)
    close: Any = {"rtol": 0, "atol": 2e-6}
    np.testing.assert_allclose(pair.cube.vectors(ZONE, 3, slice(2, 40), slice(3, 60)), expected[3, 2:40, 3:60], **close)
    opened = xr.open_dataset(pair.cube.path, engine="embedcube", group=ZONE)["vector"]
    np.testing.assert_allclose(opened.values, expected, **close)
    np.testing.assert_allclose(
        opened[1:9:3, 5, 30:2:-7, [4, 0, 9]].values, expected[1:9:3, 5, 30:2:-7][..., [4, 0, 9]], **close
    )
    rows, columns, features = (xr.DataArray(one, dims="p") for one in ([3, 40, 3], [2, 11, 50], [7, 30, 0]))
    points = opened.isel(y=rows, x=columns).values
    np.testing.assert_allclose(points, expected[:, [3, 40, 3], [2, 11, 50]], **close)
    each = opened.isel(time=2, y=rows, x=columns, feature=features).values
    np.testing.assert_allclose(each, expected[2, [3, 40, 3], [2, 11, 50], [7, 30, 0]], **close)
    # places in degrees: the centres of three cells
    tree = layer.window((-180, -90, 180, 90))
    np.testing.assert_allclose(next(iter(tree.children.values())).to_dataset()["vector"].values, expected, **close)
    about = pair.cube.group(ZONE).attrs
    a, _, c, _, e, f = about["spatial:transform"]
    x, y = c + (np.array([2, 11, 50]) + 0.5) * a, f + (np.array([3, 40, 3]) + 0.5) * e
    sampled = layer.sample(x=x, y=y, crs=about["proj:code"])
    np.testing.assert_allclose(
        sampled["vector"].values, np.moveaxis(expected[:, [3, 40, 3], [2, 11, 50]], 0, 1), **close
    )


def test_parcels_are_those_of_float64(pair: Pair) -> None:
    about = pair.cube.group(ZONE).attrs
    xmin, _, _, ymax = about["spatial:bbox"]
    shapes = [shapely.Point(xmin + x, ymax - y).buffer(r) for x, y, r in ((100, 60, 90), (400, 300, 150))]
    found = pair.cube.layer.parcels(geopandas.GeoDataFrame(geometry=shapes, crs=about["proj:code"]))
    for i, shape in enumerate(shapes):
        inside = geometry_mask([shape], pair.valid.shape[1:], Affine(*about["spatial:transform"]), invert=True)
        for t in (0, 5):
            own = pair.values[t][inside & pair.valid[t]]
            assert found["count"][i, t] == len(own) > 0
            np.testing.assert_allclose(found["mean"][i, t], own.mean(axis=0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found["std"][i, t], own.std(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_numkong", [True, False])
def test_cosines_are_those_of_float64(pair: Pair, with_numkong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_numkong:
        monkeypatch.setattr(products, "_numkong", None)
    query = pair.values[4, 30, 20]
    here = shapely.Point(*centre_of(pair.cube, 30, 20)).buffer(1e-5)
    for like in (Cell(zone=ZONE, t=4, y=30, x=20), here):
        by_place = pair.cube.layer.similar(like, time="2021-06")
        assert isinstance(by_place, xr.DataArray)
        np.testing.assert_allclose(by_place.values[0], cosine(pair.values[4], query), rtol=0, atol=1e-6)
    exact = cosine(pair.values, query)
    found = pair.cube.layer.similar(query)
    assert isinstance(found, xr.DataArray)
    np.testing.assert_array_equal(np.isfinite(found.values), pair.valid)
    np.testing.assert_allclose(found.values, exact, rtol=0, atol=1e-6)
    # without the offset it is another order: the test would not pass by chance
    stored = cosine(pair.cube.array(ZONE, "embedding")[...].astype(np.float64), query)
    assert np.nanmax(np.abs(stored - exact)) > 0.1


def centre_of(cube: Cube, y: int, x: int) -> tuple[float, float]:
    about = cube.group(ZONE).attrs
    a, _, c, _, e, f = about["spatial:transform"]
    lon, lat = to_degrees(about["proj:wkt2"]).transform(c + (x + 0.5) * a, f + (y + 0.5) * e)
    return float(lon), float(lat)


def cosine(vectors: NDArray[np.float64], query: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(vectors @ query / np.linalg.norm(vectors, axis=-1) / np.linalg.norm(query))


def test_both_ways_give_the_same_bits_and_short_vectors_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors a thousandth as long as what is stored and the offset, which nearly cancel, and one of zeros."""
    rng = np.random.default_rng(3)
    stored = rng.integers(-127, 128, (500, 300)).astype(np.int8)
    scale = rng.uniform(0.9, 1.1, 500).astype(np.float32)
    offset = -(stored[0].astype(np.float32) * np.float32(1))
    stored[:250], scale[:250] = stored[0], 1 + rng.uniform(-1e-3, 1e-3, 250).astype(np.float32)
    stored[:250, :9] += rng.integers(-1, 2, (250, 9)).astype(np.int8)
    stored[1], scale[1] = -offset, 1
    values = stored.astype(np.float64) * scale[:, None].astype(np.float64) + offset
    query = Query.of(rng.normal(size=300))
    fast = query.cosines(stored, scale, offset)
    expected = cosine(values, query.vector)
    assert np.isnan(fast[1])
    assert np.isnan(expected[1])
    np.testing.assert_allclose(fast, expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(products, "_numkong", None)
    np.testing.assert_array_equal(query.cosines(stored, scale, offset), fast)


def test_find_gives_the_nearest_of_float64(pair: Pair) -> None:
    like = Cell(zone=ZONE, t=4, y=30, x=20)
    found = pair.cube.layer.find(like, k=8, apart_m=0, time="2022-06")
    t = pair.cube.windows_of(ZONE, "2022-06")[0]
    expected = cosine(pair.values[t], pair.values[4, 30, 20])
    expected[30, 20] = np.nan if t == 4 else expected[30, 20]
    best = np.sort(expected[np.isfinite(expected)])[::-1]
    own = expected[found["y"], found["x"]]
    np.testing.assert_allclose(found["cosine"], own, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["cosine"], best[: len(found)], rtol=0, atol=1e-6)


def test_change_and_colours_are_those_of_the_same_vectors_as_floats(pair: Pair) -> None:
    own, other = (cube.layer.change("2019/2023", "2023-06") for cube in (pair.cube, pair.floats))
    assert isinstance(own, xr.Dataset)
    assert isinstance(other, xr.Dataset)
    for name in ("distance", "usual"):
        np.testing.assert_allclose(own[name].values, other[name].values, rtol=0, atol=2e-6)
    assert float(own["distance"].max()) > 1e-3
    one, two = fit_basis(pair.cube, "one"), fit_basis(pair.floats, "one")
    assert isinstance(one, Basis)
    assert isinstance(two, Basis)
    np.testing.assert_allclose(one.mean, two.mean, rtol=0, atol=1e-5)
    region = (0, slice(0, 40), slice(0, 40))
    stored, scale = pair.cube.stored(ZONE, "embedding", *region), pair.cube.stored(ZONE, "scale", *region)
    drawn = one.colours(stored, scale, pair.valid[0, :40, :40], pair.cube.offset(ZONE))
    expected = one.colours(pair.values[0, :40, :40].astype(np.float32), None, pair.valid[0, :40, :40])
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert len(np.unique(drawn)) > 20


def test_an_offset_that_is_none_is_refused(tmp_path: Path) -> None:
    for name, offset in (("short", OFFSET[:7]), ("nan", OFFSET * np.float32(np.nan)), ("double", OFFSET.astype(float))):
        path = tmp_path / name / "cube.zarr"
        path.parent.mkdir()
        write_zone(path, ZONE, np.ones((1, 16, 16, 32), np.float32))
        zarr.open_group(path / ZONE, mode="a").create_array("offset", data=offset)
        with pytest.raises(RequestError, match="expected one finite number of float32 for each of 32 features"):
            Cube(path).offset(ZONE)
