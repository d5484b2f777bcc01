"""The verbs info, sample and parcels: what they print, what they write, what they refuse."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import shapely
from tests.conftest import call_cli
from tests.cube.range_server import serving

import embedcube

INSIDE, CLOUDY, AWAY = "11.99,50.0", "11.97,50.01", "8,50"


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a field over the border of the zones, and one far away."""
    file = tmp_path_factory.mktemp("fields") / "fields.geojson"
    shapes = [shapely.box(11.985, 49.97, 12.03, 50.015), shapely.box(7, 50, 7.1, 50.1)]
    geopandas.GeoDataFrame({"crop": ["oat", "rye"]}, geometry=shapes, crs=4326).to_file(file)
    return file


def test_info_says_what_a_cube_holds(two_zones: Path) -> None:
    done = call_cli("info", two_zones)
    assert done.stdout.rstrip() == repr(embedcube.open_cube(two_zones))
    told = json.loads(call_cli("info", two_zones, "--json").stdout)
    assert (told["campaign"], told["version"]) == ("two_zones", "cube")
    layer = told["layers"]["s2"]
    assert layer["zones"] == ["s2/utm32", "s2/utm33"]
    assert (layer["features"], layer["encoding"], layer["cell"]) == (16, "int8", 160.0)
    assert layer["windows"] == ["2023-06-01/2023-07-01", "2023-07-01/2023-08-01", "2023-08-01/2023-09-01"]
    assert sum(layer["status"].values()) == pytest.approx(1, abs=1e-4)


def test_info_of_a_link_prints_no_credential(two_zones: Path) -> None:
    with serving(two_zones.parent) as server:
        done = call_cli("info", f"{server.link.replace('://', '://me:geheim@')}/cube.zarr")
        assert done.returncode == 0, done.stderr
        assert "***@127.0.0.1" in done.stdout
        gone = call_cli("info", f"{server.link.replace('://', '://me:geheim@')}/gone.zarr?token=abcdef")
    assert gone.returncode == 2
    assert "not a cube" in gone.stderr
    assert not {"geheim", "abcdef"} & set((done.stdout + gone.stderr).replace(":", "@").replace("=", "@").split("@"))


def test_sample_tells_statuses_apart_and_writes_all_numbers(two_zones: Path, tmp_path: Path) -> None:
    at = ("--at", INSIDE, "--at", CLOUDY, "--at", AWAY)
    done = call_cli("sample", two_zones, *at, "--time", "2023-06", "-o", tmp_path / "v.parquet")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["valid", "masked", "outside"]
    assert lines[4:] == ["1 valid, 1 masked, 1 outside", f"wrote {tmp_path / 'v.parquet'}"]
    table = geopandas.read_parquet(tmp_path / "v.parquet")
    assert table["status"].tolist() == ["valid", "masked", "outside"]
    sampled = embedcube.open_cube(two_zones).layer.sample([(11.99, 50.0), (11.97, 50.01), (8, 50)], "2023-06")
    numbers = table[[f"f{i}" for i in range(16)]].to_numpy()
    np.testing.assert_array_equal(numbers, sampled["vector"].values[:, 0])
    told = json.loads(call_cli("sample", two_zones, *at, "--json").stdout)
    assert told["points"][1]["status"] == ["masked", "valid", "valid"]
    assert told["points"][0]["zone"] == "s2/utm32"
    assert told["status"] == {"valid": 5, "masked": 1, "outside": 3}


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".parquet"])
def test_points_are_read_from_files_and_written_to_files(two_zones: Path, tmp_path: Path, suffix: str) -> None:
    points = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy([11.99, 8.0], [50.0, 50.0]), crs=4326)
    source, out = tmp_path / f"points{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".csv":
        pandas.DataFrame({"lon": [11.99, 8.0], "lat": [50.0, 50.0]}).to_csv(source)
    elif suffix == ".parquet":
        points.to_parquet(source)
    else:
        points.to_file(source)
    done = call_cli("sample", two_zones, source, "-o", out)
    assert done.returncode == 0, done.stderr
    read = {".csv": pandas.read_csv, ".geojson": geopandas.read_file, ".parquet": geopandas.read_parquet}[suffix](out)
    assert read["status"].tolist() == ["valid"] * 3 + ["outside"] * 3
    assert read["window"].tolist()[:2] == ["2023-06-01/2023-07-01", "2023-07-01/2023-08-01"]
    assert len([name for name in read.columns if name.startswith("f")]) == 16


def test_parcels_are_counted_and_written(two_zones: Path, fields: Path, tmp_path: Path) -> None:
    done = call_cli("parcels", two_zones, fields, "-o", tmp_path / "t.csv", "--time", "2023-06")
    assert done.returncode == 0, done.stderr
    found = embedcube.open_cube(two_zones).layer.parcels(geopandas.read_file(fields), "2023-06")
    count = int(found["count"][0, 0])
    assert f"2023-06-01/2023-07-01   {count} cells with a vector in 2 parcels, 1 without any" in done.stdout
    table = pandas.read_csv(tmp_path / "t.csv")
    assert table["count"].tolist() == [count, 0]
    np.testing.assert_allclose(
        table.loc[0, [f"mean{i}" for i in range(16)]].astype(float), found["mean"][0, 0], rtol=1e-5
    )
    told = json.loads(call_cli("parcels", two_zones, fields, "--time", "2023-06", "--stats", "mean", "--json").stdout)
    assert told["parcels"][0]["count"] == [count]
    assert told["parcels"][1]["valid_share"] == [None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample",), "name a file of points, or points with --at, for example --at 7.6,50.87"),
        (("sample", "--at", "7.6"), "--at 7.6: a point is LON,LAT in degrees, for example 7.6,50.87"),
        (("sample", "--at", "7.6,50", "-o", "x.xlsx"), "x.xlsx: a table is written as .csv, .parquet, .geojson"),
        (("sample", "--at", "7.6,50", "--layer", "s1"), "no layer s1; it has s2"),
        (("sample", "--at", "7.6,50", "--time", "2021"), "no window holds 2021"),
        (("sample", "none.geojson"), "none.geojson: "),
        (("parcels", "none.parquet"), "none.parquet: there is no such file"),
        (("parcels", "FIELDS", "--stats", "max"), "no statistic max; there are mean, std, count"),
    ],
)
def test_wrong_requests_are_explained(two_zones: Path, fields: Path, arguments: tuple[str, ...], words: str) -> None:
    verb, *rest = arguments
    done = call_cli(verb, two_zones, *(str(fields) if one == "FIELDS" else one for one in rest))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_csv_without_places_is_refused(two_zones: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a,b\n1,2\n")
    done = call_cli("sample", two_zones, tmp_path / "p.csv")
    assert (done.returncode, "needs the columns lon and lat" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the columns lon and lat, in degrees; it is empty"),
        ("east,north\n1,2\n", "it has east, north"),
        ("lon,lat\n", "no line below that of the names"),
        ("lon,lat\n7.5,50.8\nseven,50\n", 'line 3 has "seven" as lon, not a number'),
        ("lon,lat\n7.5\n", 'line 2 has "None" as lat, not a number'),
    ],
)
def test_a_csv_that_is_wrong_is_explained(two_zones: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    done = call_cli("sample", two_zones, tmp_path / "points.csv")
    assert done.returncode == 2
    assert words in done.stderr, done.stderr


def test_who_asks_elsewhere_is_told_where_the_layer_is(two_zones: Path, tmp_path: Path) -> None:
    where = "layer s2 is in 11.8439,49.9479,12.1338,50.068 degrees"
    assert where in call_cli("sample", two_zones, "--at", AWAY).stdout
    assert where not in call_cli("sample", two_zones, "--at", AWAY, "--at", INSIDE).stdout
    geopandas.GeoSeries([shapely.box(7, 50, 7.1, 50.1)], crs=4326).to_file(tmp_path / "away.geojson")
    assert where in call_cli("parcels", two_zones, tmp_path / "away.geojson").stdout
    for arguments in (("--like", AWAY), ("--like", INSIDE, "--within", "7,50,7.1,50.1")):
        refused = call_cli("find", two_zones, *arguments)
        assert (refused.returncode, "11.8439,49.9479,12.1338,50.068 degrees" in refused.stderr) == (2, True)


@pytest.mark.parametrize("at", ["nan,50", "7,inf", "7,91", "400,50", "7"])
def test_points_that_are_no_degrees_are_refused(two_zones: Path, at: str) -> None:
    done = call_cli("sample", two_zones, "--at", at, "--json")
    assert (done.returncode, "a point is LON,LAT in degrees" in done.stderr) == (2, True)
