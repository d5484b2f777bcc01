"""Cosines with stored vectors: exact, equal with and without numkong, and decided by `status`, never by a value."""

from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401  (the accessor .rio)
import xarray as xr
from numpy.typing import NDArray
from tests.cube.synthetic import write_zone

from embedcube.cube import products
from embedcube.cube.encoding import MASKED, NO_DATA, VALID, VALID_INCOMPLETE
from embedcube.cube.reader import Cube
from embedcube.cube.similar import Query, nearest
from embedcube.cube.store import Cell
from embedcube.errors import RequestError

RNG = np.random.default_rng(3)


@pytest.fixture(params=["numkong", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with both ways to multiply."""
    if request.param == "numkong":
        pytest.importorskip("numkong")
    else:
        monkeypatch.setattr(products, "_numkong", None)


def exact(stored: NDArray[np.generic], vector: NDArray[np.generic]) -> NDArray[np.float64]:
    """Cosines in float64, by the textbook."""
    rows, one = stored.astype(np.float64), vector.astype(np.float64)
    return np.asarray(rows @ one / np.linalg.norm(rows, axis=1) / np.linalg.norm(one))


def int8_rows(count: int, features: int) -> NDArray[np.int8]:
    rows = RNG.integers(-127, 128, (count, features)).astype(np.int8)
    rows[:, 0] = 127
    return rows


@pytest.mark.parametrize("features", [1, 7, 64, 1500])
@pytest.mark.usefixtures("library")
def test_cosines_of_int8_are_those_of_float64(features: int) -> None:
    rows = int8_rows(3000, features)
    for vector in (
        rows[5],
        rows[5].astype(np.float32) * np.float32(0.0123),
        rows[:9].mean(axis=0),
        RNG.normal(size=features),
    ):
        assert np.abs(Query.of(vector).cosines(rows) - exact(rows, vector)).max() <= 1e-6


@pytest.mark.usefixtures("library")
def test_the_largest_int8_numbers_do_not_overflow() -> None:
    rows = np.full((40, 4096), np.int8(-128))
    rows[::2] = 127
    assert Query.of(rows[0]).cosines(rows).tolist() == [1.0, -1.0] * 20


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.usefixtures("library")
def test_cosines_of_floats_are_those_of_float64(dtype: type) -> None:
    rows: NDArray[np.generic] = (RNG.normal(size=(3000, 100)) * 300).astype(dtype)
    assert np.abs(Query.of(rows[8]).cosines(rows) - exact(rows, rows[8])).max() <= 1e-6


def test_numkong_and_numpy_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numkong")
    rows, centroids = int8_rows(40_000, 130), int8_rows(64, 130)
    queries = [Query.of(rows[0]), Query.by_examples([rows[1], rows[2]], [rows[3]])]
    fast = [query.cosines(rows) for query in queries]
    lists = nearest(rows, centroids)
    monkeypatch.setattr(products, "_numkong", None)
    for query, cosines in zip(queries, fast, strict=True):
        assert query.cosines(rows).tobytes() == cosines.tobytes()
    assert (nearest(rows, centroids) == lists).all()
    best = np.argmax((rows[:500].astype(float) @ centroids.T) / np.linalg.norm(centroids.astype(float), axis=1), axis=1)
    assert (lists[:500] == best).all()


@pytest.mark.usefixtures("library")
def test_rows_of_an_odd_layout_and_none_at_all() -> None:
    rows = int8_rows(1000, 48)
    query = Query.of(rows[0, ::2])
    assert np.abs(query.cosines(rows[::3, ::2]) - exact(rows[::3, ::2], rows[0, ::2])).max() <= 1e-6
    assert query.cosines(rows[:0, ::2]).shape == (0,)
    assert query.cosines(rows[:1, ::2]) == pytest.approx([1.0])


@pytest.mark.usefixtures("library")
def test_a_vector_of_length_zero_has_no_cosine() -> None:
    """numkong's own cosine of zero with zero is 1: every masked cell would be like every other."""
    rows = int8_rows(4, 16)
    rows[2] = 0
    assert np.isnan(Query.of(rows[0]).cosines(rows)).tolist() == [False, False, True, False]
    with pytest.raises(RequestError, match="zero everywhere"):
        Query.of(rows[2])


def test_wrong_vectors_are_refused() -> None:
    with pytest.raises(RequestError, match="1 numbers that are not finite"):
        Query.of(np.array([1.0, np.nan]))
    with pytest.raises(RequestError, match="has 3 numbers, those of the layer have 16"):
        Query.of(np.ones(3)).cosines(int8_rows(4, 16))
    with pytest.raises(RequestError, match="cancel out"):
        Query.by_examples([np.array([1.0, 0]), np.array([-1.0, 0])])
    with pytest.raises(RequestError, match="at least one example"):
        Query.by_examples([])


def test_examples_become_twice_their_mean_less_the_counter_examples() -> None:
    like, unlike = RNG.normal(size=(3, 20)) * [[1], [50], [0.1]], RNG.normal(size=(2, 20))
    directions, against = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (like, unlike))
    wanted = 2 * directions.mean(axis=0) - against.mean(axis=0)
    found = Query.by_examples(list(like), list(unlike)).vector
    assert np.allclose(found, wanted / np.linalg.norm(wanted), atol=1e-12)


# --- maps -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    """Two windows, some cells masked. In those stand the numbers of a valid cell, which nobody may look at."""
    path = tmp_path_factory.mktemp("similar") / "cube.zarr"
    vectors = np.random.default_rng(1).normal(size=(2, 32, 48, 12)).astype(np.float32)
    write_zone(path, "one/utm32", vectors)
    opened = Cube(path)
    status = np.full((2, 32, 48), VALID, np.uint8)
    status[0, 4:9, 5:30], status[1, 0], status[:, 31, 47] = MASKED, NO_DATA, VALID_INCOMPLETE
    import zarr

    zarr.open_group(path, mode="a")["one/utm32/status"][...] = status  # type: ignore[index]
    return opened


@pytest.mark.usefixtures("library")
def test_similar_is_the_cosine_of_every_cell_with_its_crs(cube: Cube) -> None:
    place = Cell(zone="one/utm32", t=0, y=20, x=20)
    found = cube["one"].similar(place)
    assert isinstance(found, xr.DataArray)
    vectors, status = cube.vectors("one/utm32", 0, slice(0, 32), slice(0, 48)), cube.array("one/utm32", "status")[0]
    valid = (status == VALID) | (status == VALID_INCOMPLETE)
    assert (np.isfinite(found[0]) == valid).all()
    assert np.abs(found.values[0][valid] - exact(vectors[valid], vectors[20, 20])).max() <= 1e-6
    assert found.dims == ("time", "y", "x")
    assert found.values[0, 20, 20] == pytest.approx(1)
    assert (found * 2).rio.crs.to_epsg() == 32632
    assert (float(found.x[0]), float(found.y[0])) == (400_080, 5_599_920)
    assert np.isfinite(found.values[1]).sum() == 31 * 48


def test_similar_in_one_window_and_to_several_examples(cube: Cube) -> None:
    cells = [Cell(zone="one/utm32", t=0, y=20, x=x) for x in (1, 2, 3)]
    both = cube["one"].similar(cells[:2], cells[2], time="2023-06-12")
    assert isinstance(both, xr.DataArray)
    vectors = [cube.vectors(c.zone, c.t, slice(c.y, c.y + 1), slice(c.x, c.x + 1))[0, 0] for c in cells]
    query = Query.by_examples(vectors[:2], vectors[2:])
    stored = np.asarray(cube.array("one/utm32", "embedding")[1])
    assert both.shape == (1, 32, 48)
    assert np.nanmax(np.abs(both.values[0] - exact(stored.reshape(-1, 12), query.vector).reshape(32, 48))) <= 1e-6


def test_an_example_without_a_vector_is_refused_by_its_status(cube: Cube) -> None:
    with pytest.raises(RequestError, match="no vector there, its status is masked"):
        cube["one"].similar(Cell(zone="one/utm32", t=0, y=5, x=10))
    with pytest.raises(RequestError, match="lies outside of layer one"):
        cube["one"].similar((0.0, 0.0))
    with pytest.raises(RequestError, match=r"a cell of other/utm32 is no example"):
        cube["one"].similar(Cell(zone="other/utm32", t=0, y=5, x=10))
    with pytest.raises(RequestError, match="an example is a cell"):
        cube["one"].similar("here")


def test_several_zones_give_a_tree(two_zones: Path) -> None:
    found = Cube(two_zones).layer.similar((11.95, 50.0), time="2023-06")
    assert isinstance(found, xr.DataTree)
    assert sorted(found.children) == ["utm32", "utm33"]
    assert found["utm33"]["cosine"].rio.crs.to_epsg() == 32633
