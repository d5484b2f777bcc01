"""`find` against a search by hand in float64, and what it promises of places, windows, regions and statuses."""

import json
import re
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from tests.conftest import REAL_DATA, Campaign, call_cli
from tests.cube.synthetic import write_zone

from embedcube.cube import drawing
from embedcube.cube.encoding import MASKED, VALID, VALID_INCOMPLETE
from embedcube.cube.find import Search, default_apart_m, find
from embedcube.cube.reader import Cube
from embedcube.cube.store import Cell
from embedcube.errors import RequestError
from embedcube.testing.demo import SEED
from embedcube.testing.demo_world import CROPS, KINDS, ground

ZONE = "one/utm32"

DEGREES = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    """Smooth vectors, so that neighbours are alike; two windows; some cells masked, some incomplete."""
    path = tmp_path_factory.mktemp("find") / "cube.zarr"
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :96]
    waves = rng.uniform(0.05, 0.6, (20, 2)) * rng.choice([-1, 1], (20, 2))
    phase = rng.uniform(0, 6.28, (2, 20)) * [[1], [1.02]]
    vectors = np.cos(np.multiply.outer(y, waves[:, 0]) + np.multiply.outer(x, waves[:, 1]) + phase[:, None, None])
    status = np.full((2, 64, 96), VALID, np.uint8)
    status[0, 30:40, 10:60] = MASKED
    status[:, 50:] = VALID_INCOMPLETE
    write_zone(path, ZONE, vectors.astype(np.float32), status, side=10.0, shard=32)
    import zarr

    zarr.open_group(path, mode="a")[f"{ZONE}/status"][...] = status  # type: ignore[index]
    # write_zone writes vectors of valid cells only; here also cells without one have numbers, which nobody may use
    group = zarr.open_group(path, mode="a")[ZONE]
    scale = np.abs(vectors).max(axis=-1) / 127
    group["embedding"][...] = np.rint(vectors / scale[..., None])  # type: ignore[index]
    group["scale"][...] = scale  # type: ignore[index]
    return Cube(path)


def by_hand(
    cube: Cube,
    vector: NDArray[np.generic],
    k: int,
    apart: float,
    windows: tuple[int, ...] = (0, 1),
    own: tuple[int, int] | None = None,
) -> list[tuple[int, int, int]]:
    """Best first, each too near to a better one left out: (t, y, x) of the hits."""
    stored, status = np.asarray(cube.array(ZONE, "embedding")[...]).astype(np.float64), cube.array(ZONE, "status")[...]
    cosine = stored @ vector.astype(np.float64) / np.maximum(np.linalg.norm(stored, axis=-1), 1e-9)
    cosine[(status != VALID) & (status != VALID_INCOMPLETE)] = -np.inf
    hits: list[tuple[int, int, int]] = []
    for flat in np.argsort(-cosine, axis=None, kind="stable"):
        t, y, x = (int(i) for i in np.unravel_index(flat, cosine.shape))
        taken = [hit[1:] for hit in hits] + ([own] if own else [])
        far = all(10 * np.hypot(y - v, x - u) >= apart for v, u in taken)
        if t in windows and np.isfinite(cosine[t, y, x]) and far:
            hits.append((t, y, x))
            if len(hits) == k:
                break
    return hits


def places(table: pd.DataFrame) -> list[tuple[int, int, int]]:
    return list(zip(table["t"], table["y"], table["x"], strict=True))


@pytest.mark.parametrize(("apart", "k"), [(35.0, 25), (100.0, 12), (250.0, 6)])
def test_hits_are_those_of_a_search_by_hand(cube: Cube, apart: float, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(zone=ZONE, t=0, y=20, x=33)
    vector = np.asarray(cube.array(ZONE, "embedding")[0, 20, 33])
    wanted = by_hand(cube, vector, k, apart, own=(20, 33))
    found = cube["one"].find(cell, k=k, apart_m=apart)
    assert places(found) == wanted
    assert list(found["rank"]) == list(range(1, len(wanted) + 1))
    assert found.attrs["exact"]
    # a pass that keeps few candidates is repeated
    monkeypatch.setattr(drawing, "_FEWEST", 1)
    monkeypatch.setattr(drawing, "_FOR_EACH_HIT", 1)
    monkeypatch.setattr(drawing, "_DRAWN_AT_ONCE", 5)
    assert places(cube["one"].find(cell, k=k, apart_m=apart)) == wanted


def test_a_hit_has_its_place_its_window_its_status_and_its_cell(cube: Cube) -> None:
    hit = cube["one"].find(Cell(zone=ZONE, t=0, y=20, x=33), k=1, time="2023-06-12").iloc[0]
    assert hit["window"] == "2023-06-11/2023-06-21"
    assert hit["zone"] == ZONE
    x, y = DEGREES.transform(hit["lon"], hit["lat"], direction="INVERSE")
    assert (x, y) == pytest.approx((400_000 + 10 * hit["x"] + 5, 5_600_000 - 10 * hit["y"] - 5), abs=0.02)
    assert (hit.geometry.x, hit.geometry.y) == (hit["lon"], hit["lat"])
    statuses = {cube["one"].find(Cell(zone=ZONE, t=0, y=55, x=33), k=20)["status"].iloc[i] for i in range(20)}
    assert statuses == {"valid", "valid_incomplete"}


def test_windows_regions_and_statuses_are_kept_to(cube: Cube) -> None:
    cell = Cell(zone=ZONE, t=0, y=20, x=33)
    layer = cube["one"]
    assert set(layer.find(cell, k=30, time="2023-06-12")["t"]) == {1}
    west, north = DEGREES.transform(400_100, 5_599_900)
    east, south = DEGREES.transform(400_300, 5_599_700)
    found = layer.find(cell, k=900, within=(west, south, east, north), apart_m=0)
    assert set(found["y"]) == set(range(10, 30))
    assert set(found["x"]) == set(range(10, 30))
    assert len(found) == 2 * 400
    triangle = shapely.Polygon([(west, south), (east, south), (west, north)])
    inside = layer.find(cell, k=1000, within=triangle, apart_m=0)
    assert inside.within(triangle).all()
    assert 300 < len(inside) < 500
    assert set(layer.find(cell, k=50, status=("valid",))["status"]) == {"valid"}
    assert set(layer.find(cell, k=50, status=("valid_incomplete",))["y"]) <= set(range(50, 64))


def test_the_cells_that_were_compared_are_those_of_the_region(cube: Cube) -> None:
    west, south, east, north = 7.59, 50.539, 7.596, 50.542
    like = Cell(zone=ZONE, t=0, y=5, x=5)
    for time, windows in ((None, 2), ("2023-06-01/2023-06-11", 1)):
        found = find(cube, "one", like, None, Search(k=1, time=time, within=(west, south, east, north)), None)
        rows, columns = np.mgrid[:64, :96]
        lon, lat = DEGREES.transform(400_000 + (columns + 0.5) * 10, 5_600_000 - (rows + 0.5) * 10)
        inside = (lon > west) & (lon < east) & (lat > south) & (lat < north)
        assert 0 < found.cells == windows * int(inside.sum())


def test_masked_cells_are_no_hits(cube: Cube) -> None:
    found = cube["one"].find(Cell(zone=ZONE, t=1, y=35, x=30), k=20_000, time="2023-06-02", apart_m=0)
    status = cube.array(ZONE, "status")[0]
    assert len(found) == int((status != MASKED).sum())
    assert (status[found["y"], found["x"]] != MASKED).all()


def test_the_examples_own_place_is_no_hit_in_any_window(cube: Cube) -> None:
    lon, lat = DEGREES.transform(400_335, 5_599_795)
    for like in (Cell(zone=ZONE, t=0, y=20, x=33), (lon, lat), shapely.Point(lon, lat)):
        found = cube["one"].find(like, k=50, apart_m=0)
        assert (20, 33) not in set(zip(found["y"], found["x"], strict=True))
    box = shapely.box(lon, lat - 0.001, lon + 0.002, lat)
    found = cube["one"].find(box, k=20, time="2023-06-02")
    assert not found.within(box).any()


def test_a_polygon_stands_for_the_mean_direction_of_its_vectors(cube: Cube) -> None:
    west, north = DEGREES.transform(400_200, 5_599_900)
    east, south = DEGREES.transform(400_230, 5_599_880)
    stored = np.asarray(cube.array(ZONE, "embedding")[0, 10:12, 20:23]).reshape(-1, 20).astype(np.float64)
    mean = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).mean(axis=0)
    found = cube["one"].find(shapely.box(west, south, east, north), k=5, time="2023-06-02", apart_m=200)
    best = [
        hit for hit in by_hand(cube, mean, 40, 0, windows=(0,)) if not (hit[1] in (10, 11) and hit[2] in (20, 21, 22))
    ]
    assert places(found)[0] == best[0]


def test_cells_that_are_all_alike_are_drawn_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More cells of one cosine than a pass keeps; each hit keeps its neighbours out."""
    write_zone(tmp_path / "cube.zarr", ZONE, np.ones((1, 32, 32, 4), np.float32), side=10.0)
    monkeypatch.setattr(drawing, "_FEWEST", 1)
    monkeypatch.setattr(drawing, "_FOR_EACH_HIT", 1)
    found = Cube(tmp_path / "cube.zarr")["one"].find(np.ones(4), k=6, apart_m=100)
    assert len(found) == 6
    at = found[["y", "x"]].to_numpy()
    gaps = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) * 10
    assert gaps[~np.eye(6, dtype=bool)].min() >= 100
    few = Cube(tmp_path / "cube.zarr")["one"].find(np.ones(4), k=50, apart_m=200)
    assert 3 <= len(few) <= 9


def test_hits_of_two_zones_are_apart_on_the_earth(two_zones: Path) -> None:
    layer = Cube(two_zones).layer
    found = layer.find((11.99, 50.02), k=60, apart_m=900, time="2023-07")
    assert set(found["zone"]) == {"s2/utm32", "s2/utm33"}
    lon, lat = found["lon"].to_numpy(), found["lat"].to_numpy()
    i, j = np.triu_indices(len(found), 1)
    apart = Geod(ellps="WGS84").inv(lon[i], lat[i], lon[j], lat[j])[2]
    assert apart.min() > 895  # metres in UTM are up to 0.04 % and a cell's rounding off
    assert (np.diff(found["cosine"]) <= 0).all()


def test_hits_are_at_least_two_large_cells_apart_by_default(cube: Cube, two_zones: Path) -> None:
    assert default_apart_m(cube, "one") == 100
    assert default_apart_m(Cube(two_zones), "s2") == 320


def test_wrong_requests_are_refused(cube: Cube) -> None:
    layer, cell = cube["one"], Cell(zone=ZONE, t=0, y=20, x=33)
    for wrong, words in (
        ({"k": 0}, "k is 0"),
        ({"apart_m": -1}, "a distance in metres"),
        ({"apart_m": float("nan")}, "a distance in metres"),
        ({"status": ("masked",)}, "valid or valid_incomplete"),
        ({"time": "2031"}, "no window holds 2031"),
        ({"exact": False}, "embedcube index-vectors"),
        ({"within": (8, 50, 7, 49)}, "no box"),
    ):
        with pytest.raises(RequestError, match=re.escape(words)):
            layer.find(cell, **wrong)


# --- the verb -------------------------------------------------------------------------------------


def test_the_verb_prints_and_writes_hits(finished_demo: Campaign, tmp_path: Path) -> None:
    cube = finished_demo.run.newest_cube
    words = ("find", cube, "--like", "7.596,50.870", "--time", "2023-06", "--k", "4")
    answer = json.loads(call_cli(*words, "--json").stdout)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4]
    assert answer["exact"]
    for suffix, read in (
        (".geojson", geopandas.read_file),
        (".csv", pd.read_csv),
        (".parquet", geopandas.read_parquet),
    ):
        done = call_cli(*words, "-o", tmp_path / f"hits{suffix}")
        assert (done.returncode, done.stderr) == (0, "")
        table = read(tmp_path / f"hits{suffix}")
        assert list(table["cosine"]) == [hit["cosine"] for hit in answer["hits"]]
    assert done.stdout.count("s2_mosaiks/grid t 0") == 4
    hit = Cube(cube).explain(Cell(**{key: answer["hits"][0][key] for key in ("zone", "t", "y", "x")}))
    assert hit["status"] == answer["hits"][0]["status"]


def test_the_verb_takes_polygons_and_counter_examples(finished_demo: Campaign, tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps(shapely.geometry.mapping(shapely.box(7.5, 50.8, 7.65, 50.9))))
    cube = finished_demo.run.newest_cube
    words = ("find", cube, "--like", "7.596,50.870", "--unlike", "7.52,50.82", "--time", "2023-06", "--within", area)
    hits = json.loads(call_cli(*words, "--json").stdout)["hits"]
    assert all(7.5 <= hit["lon"] <= 7.65 and 50.8 <= hit["lat"] <= 50.9 for hit in hits)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--like LON,LAT"),
        (("--like", "7.6"), "neither LON,LAT"),
        (("--like", "7.596,50.870", "--within", "1,2,3"), "neither W,S,E,N"),
        (("--like", "7.596,50.870", "-o", "hits.xlsx"), "a table is written as .csv, .parquet, .geojson"),
        (("--check",), "embedcube index-vectors"),
        (("--like", "9.6,50.87"), "lies outside of layer s2_mosaiks"),
    ],
)
def test_wrong_options_are_refused_in_words(finished_demo: Campaign, options: tuple[str, ...], words: str) -> None:
    done = call_cli("find", finished_demo.run.newest_cube, *options)
    assert done.returncode == 2
    assert words in done.stderr


# --- does it find the same land cover? ------------------------------------------------------------


def test_hits_on_the_demo_have_the_land_cover_of_the_example(finished_demo: Campaign) -> None:
    """Precision of class of the first five hits, for cells that are mostly of one kind, beside the kind's own share."""
    cube = Cube(finished_demo.run.newest_cube)
    zone = cube.zones[0]
    rows, columns = cube.array(zone, "status").shape[1:]
    left, top = (cube.group(zone).attrs["spatial:transform"][i] for i in (2, 5))
    xs, ys = left + 10 * np.arange(columns * 16) + 5, top - 10 * np.arange(rows * 16) - 5
    label = (
        ground(xs, ys, seed=SEED).label.reshape(rows, 16, columns, 16).transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    )
    shares = np.stack([(label == kind).mean(axis=-1) for kind in range(len(KINDS + CROPS))], axis=-1)
    kinds, pure = shares.argmax(axis=-1), shares.max(axis=-1) >= 0.8
    status = cube.array(zone, "status")[0]
    chosen = np.argwhere(pure & (status == VALID))[::60]
    precision, chance = [], []
    for y, x in chosen.tolist():
        hits = find(cube, cube.layers[0], Cell(zone=zone, t=0, y=y, x=x), None, Search(k=5, time="2023-06"), None).hits
        precision.append(np.mean([kinds[hit.y, hit.x] == kinds[y, x] for hit in hits]))
        chance.append((kinds == kinds[y, x])[status == VALID].mean())
    print(f"{len(chosen)} examples: precision at 5 {np.mean(precision):.3f}, by chance {np.mean(chance):.3f}")
    assert len(chosen) >= 10
    assert np.mean(precision) > 0.6
    assert np.mean(precision) > 2.5 * np.mean(chance)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not (REAL_DATA / "weights_presto").is_dir(), reason="no real data beside the checkout")
def test_neighbours_of_labelled_points_agree_more_often_than_with_random_weights() -> None:
    """Crops of points in Africa, Presto, squares of 0.1 degrees left out; the mean over classes."""
    from benchmarks.presto_vectors import embedded, encoder, labelled, score

    values, lonlat, months, labels = labelled()
    published = score(embedded(encoder(), values, lonlat, months), lonlat, labels)
    random = [score(embedded(encoder(seed), values, lonlat, months), lonlat, labels) for seed in (1, 2, 3)]
    assert published[1] > max(by_class for _, by_class in random) + 0.03
    assert published[0] > np.mean([share for share, _ in random])
