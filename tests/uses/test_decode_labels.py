"""Labels of points, polygons and rasters land on the right cells; folds hold whole places out; refusals have names."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from tests.cube.two_zones import CLOUDS, cloudy, vectors_at

from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import to_degrees
from embedcube.uses.decode.commands import fit
from embedcube.uses.decode.examples import Examples
from embedcube.uses.decode.file import read_decoder
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.folds import Folds, Size, blocks_of, default_size, folds_of, random_folds, size_in
from embedcube.uses.decode.labels import read_examples
from embedcube.uses.decode.request import Request


@pytest.fixture(scope="module")
def cube(two_zones: Path) -> Cube:
    return Cube(two_zones)


def write_csv(path: Path, columns: Mapping[str, Iterable[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def places(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return rng.uniform(11.9, 12.1, count), rng.uniform(49.96, 50.04, count)


def points(tmp_path: Path, **more: Iterable[Any]) -> Path:
    lon, lat = places(120)
    columns: dict[str, Iterable[Any]] = {
        "lon": lon,
        "lat": lat,
        "crop": ["maize" if x < 12 else "rye" for x in lon],
        **more,
    }
    return write_csv(tmp_path / "points.csv", columns)


def refused(cube: Cube, path: Path, said: str, request: Request, layers: tuple[str, ...] = ()) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read_examples(cube, layers, [path], request)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 288, "the command line shows that much"


CROP = Request(task="classification", column="crop", time="2023-06")
VALUE = Request(task="regression", column="value", time="2023-06")


# --- points ---------------------------------------------------------------------------------------


def test_points_get_the_vector_of_the_cell_that_holds_them(cube: Cube, tmp_path: Path) -> None:
    examples = read_examples(cube, [], [points(tmp_path)], CROP)
    lon, lat = places(120)
    assert examples.classes == ("maize", "rye")
    np.testing.assert_array_equal(examples.target, lon[examples.part] > 12)
    # smooth vectors: those of the true place, but for half a cell and int8
    np.testing.assert_allclose(examples.features, vectors_at(examples.lon, examples.lat, 0), atol=0.02)
    metres = np.hypot((examples.lon - lon[examples.part]) * 71_500, (examples.lat - lat[examples.part]) * 111_200)
    assert metres.max() < 160 / 2**0.5 * 1.01
    assert len(examples) + sum(examples.left_out.values()) == 120
    assert examples.left_out["no vector"] >= cloudy(lon, lat, 0).sum() > 0
    # each cell as the cube's own reader finds it
    assert examples.cells is not None
    for row in range(0, len(examples), 10):
        own = cube.cell_at(lon[examples.part[row]], lat[examples.part[row]], "2023-06")
        cells = examples.cells.take(np.array([row]))
        assert (cells.zones[cells.zone[0]], cells.t[0], cells.y[0], cells.x[0]) == (own.zone, own.t, own.y, own.x)


def test_a_date_of_each_label_chooses_its_window_and_none_means_all(cube: Cube, tmp_path: Path) -> None:
    dates = np.resize(["2023-06-05", "2023-07-31T23:00:00Z", "2024-01-01"], 120)
    path = points(tmp_path, day=dates, value=np.arange(120.0))
    dated = read_examples(cube, [], [path], Request(task="regression", column="value", date="day"))
    assert dated.cells is not None
    np.testing.assert_array_equal(dated.cells.t, dated.target.astype(int) % 3)
    assert set(dated.cells.t.tolist()) == {0, 1}
    assert dated.left_out["outside of the cube"] == 40
    every = read_examples(cube, [], [path], Request(task="regression", column="value"))
    counts = np.bincount(every.part)
    assert counts.max() == 3
    lon, lat = (axis[5] for axis in places(120))
    expected = [vectors_at(lon, lat, t)[0] for t in range(3)]
    np.testing.assert_allclose(every.features[every.part == 5][:, 0], expected, atol=0.03)


@pytest.mark.parametrize("suffix", [".parquet", ".geojson", ".csv"])
def test_each_form_of_a_table_says_the_same(cube: Cube, tmp_path: Path, suffix: str) -> None:
    lon, lat = places(120)
    frame = geopandas.GeoDataFrame(
        {"value": np.arange(120.0), "who": np.resize(["a", "b"], 120)}, geometry=shapely.points(lon, lat), crs=4326
    )
    path = tmp_path / f"labels{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".geojson":
        path.write_text(frame.to_json())
    else:
        write_csv(path, {"value": frame.value, "who": frame.who, "Longitude": lon, "Latitude": lat})
    examples = read_examples(cube, [], [path], VALUE.model_copy(update={"groups": "who"}))
    np.testing.assert_array_equal(examples.target, examples.part)
    assert examples.group is not None
    np.testing.assert_array_equal(examples.group, np.resize(["a", "b"], 120)[examples.part])


def test_positions_in_metres_are_read_where_their_crs_is_said(cube: Cube, tmp_path: Path) -> None:
    lon, lat = places(50)
    x, y = to_degrees("EPSG:32633").transform(lon, lat, direction="INVERSE")
    path = write_csv(tmp_path / "utm.csv", {"x": x, "y": y, "value": lon})
    examples = read_examples(cube, [], [path], VALUE.model_copy(update={"crs": "EPSG:32633"}))
    assert np.abs(examples.lon - examples.target).max() < 0.0016
    refused(cube, path, r"50 of 50 labels are no places in EPSG:4326, the first in row 1: x 2.*--crs EPSG:n", VALUE)
    frame = geopandas.GeoDataFrame({"value": lon}, geometry=shapely.points(x, y), crs=32633)
    frame.to_parquet(tmp_path / "utm.parquet")
    refused(cube, tmp_path / "utm.parquet", "says that its CRS is EPSG:32633, the request says EPSG:4326", VALUE)


def test_labels_that_cannot_be_used_are_refused_by_name(cube: Cube, tmp_path: Path) -> None:
    lon, lat = places(30)
    column = {"lon": lon, "lat": lat}

    def written(name: str, **more: Iterable[Any]) -> Path:
        return write_csv(tmp_path / name, {**column, **more})

    refused(cube, written("one.csv", crop=["rye"] * 30), r"column crop: one class \(rye\)", CROP)
    refused(cube, written("same.csv", value=[2.5] * 30), "column value: every label is 2.5", VALUE)
    nan = written("nan.csv", value=[1.0, np.nan, *range(28)])
    refused(cube, nan, "no value .* in 1 of 30 rows, the first is row 2", VALUE)
    refused(cube, written("none.csv", crop=["rye", "", *["oats"] * 28]), "no value .* in 1 of 30 rows", CROP)
    refused(cube, written("text.csv", value=["x"] * 30), "holds 'x', which is no number", VALUE)
    refused(cube, written("column.csv", crop=["rye"] * 30), "no column value; it has lon, lat, crop", VALUE)
    far = write_csv(tmp_path / "far.csv", {"lon": lon - 90, "lat": lat, "value": lon})
    refused(cube, far, "all 30 labels lie outside of the cube", VALUE)
    under = np.hypot((places(3000)[0] - CLOUDS[0][0]) * 0.64, places(3000)[1] - CLOUDS[0][1]) < 0.01
    cloud = {"lon": places(3000)[0][under], "lat": places(3000)[1][under], "value": places(3000)[0][under]}
    middle = {name: values[:5] for name, values in cloud.items()}
    refused(cube, write_csv(tmp_path / "cloud.csv", middle), "none of the 5 labelled cells has a vector in s2", VALUE)
    with pytest.raises(RequestError, match="no layer s1; it has s2"):
        read_examples(cube, ["s1"], [far], VALUE)
    (tmp_path / "broken.geojson").write_text("{")
    refused(cube, tmp_path / "broken.geojson", "cannot be read as .geojson", VALUE)
    (tmp_path / "labels.gpkg").write_text("")
    refused(cube, tmp_path / "labels.gpkg", "labels are a table", VALUE)


# --- polygons -------------------------------------------------------------------------------------


def test_polygons_label_the_cells_whose_centre_they_hold(cube: Cube, tmp_path: Path) -> None:
    boxes = [shapely.box(11.93, 49.97, 11.96, 49.99), shapely.box(11.99, 50.0, 12.01, 50.02),
             shapely.box(12.0, 50.01, 12.03, 50.03)]  # fmt: skip
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(box), "properties": {"crop": name}}
        for box, name in zip(boxes, ("rye", "oats", "rye"), strict=True)
    ]
    path = tmp_path / "fields.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    examples = read_examples(cube, [], [path], CROP)
    names = np.array(examples.classes)[examples.target.astype(int)]
    for number, box in enumerate(boxes):
        own = examples.part == number
        assert shapely.contains_xy(box, examples.lon[own], examples.lat[own]).all()
        assert set(names[own]) == {("rye", "oats", "rye")[number]}
    # cells of both labels have none
    both = shapely.contains_xy(boxes[1] & boxes[2], examples.lon, examples.lat)
    assert not both.any()
    assert examples.left_out["in polygons of several labels"] > 10
    cells = 160**2 / (71_500 * 111_200)
    assert (examples.part == 0).sum() == pytest.approx(boxes[0].area / cells, rel=0.1)


# --- rasters --------------------------------------------------------------------------------------

PX = 40
"""metres of a pixel: 4 x 4 on a cell"""


def write_raster(path: Path, cube: Cube, values: NDArray[Any], nodata: float | None = 0, shift: int = 0) -> Path:
    """A raster on the cells of utm33, 4 x 4 pixels each; `shift` pixels off."""
    a, _, c, _, e, f = cube.group("s2/utm33").attrs["spatial:transform"]
    transform = Affine(a / 4, 0, c, 0, e / 4, f) @ Affine.translation(shift, shift)
    with rasterio.open(path, "w", driver="GTiff", width=values.shape[1], height=values.shape[0], count=1,
                       dtype=values.dtype, crs="EPSG:32633", transform=transform, nodata=nodata) as file:  # fmt: skip
        file.write(values, 1)
    return path


def pixels(seed: int = 0) -> NDArray[np.uint8]:
    """Classes 1 to 3 on 320 x 320 pixels, with a part that has no label."""
    values = np.random.default_rng(seed).integers(1, 4, (320, 320)).astype(np.uint8)
    values[:160] = np.maximum(values[:160], 2)
    values[:, :43] = 0
    return values


def on_cells(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(80, 4, 80, 4).transpose(0, 2, 1, 3).reshape(80, 80, 16)


def test_shares_of_a_raster_are_those_counted_by_hand(cube: Cube, tmp_path: Path) -> None:
    path, own = write_raster(tmp_path / "map.tif", cube, pixels()), on_cells(pixels())
    labelled = (own > 0).mean(axis=-1)
    known = (own > 0).sum(-1).clip(1)
    for request, expected in (
        (Request(task="regression", share=(1, 3), time="2023-06"), np.isin(own, (1, 3)).sum(-1) / known),
        (Request(task="regression", time="2023-06"), own.sum(-1) / known),
    ):  # fmt: skip
        examples = read_examples(cube, [], [path], request)
        cells = examples.cells
        assert cells is not None
        here = cells.zone == cells.zones.index("s2/utm33")
        np.testing.assert_allclose(examples.target[here], expected[cells.y[here], cells.x[here]], atol=1e-6)
        assert (labelled[cells.y[here], cells.x[here]] >= 0.5).all()
        valid = cube.valid("s2/utm33", 0, slice(None), slice(None))
        assert here.sum() == (valid & (labelled >= 0.5)).sum() > 1000


def test_a_decoder_of_shares_knows_their_limits(cube: Cube, tmp_path: Path) -> None:
    path, file = write_raster(tmp_path / "map.tif", cube, pixels()), tmp_path / "d.safetensors"
    for share, bounds in (((1, 3), (0, 1)), ((), None)):
        request = Request(task="regression", share=share, time="2023-06")
        fit(cube.path, [path], file, request, Settings(kind="ridge", most=200))
        read = read_decoder(file)
        assert read.about.settings.bounds == bounds
        assert ("bounds" in read.head.arrays) == (bounds is not None)


def test_majority_and_dense_shares_are_those_counted_by_hand(cube: Cube, tmp_path: Path) -> None:
    path, own = write_raster(tmp_path / "map.tif", cube, pixels()), on_cells(pixels())
    counts = np.stack([(own == 3).sum(-1), np.isin(own, (1, 2)).sum(-1)], axis=-1)
    classes = {"third": (3,), "rest": (1, 2)}
    for task in ("classification", "dense"):
        examples = read_examples(cube, [], [path], Request(task=task, classes=classes, time="2023-06"))
        cells = examples.cells
        assert cells is not None
        assert examples.classes == ("third", "rest")
        here = cells.zone == cells.zones.index("s2/utm33")
        mine = counts[cells.y[here], cells.x[here]]
        if task == "dense":
            np.testing.assert_allclose(examples.target[here], mine / mine.sum(-1, keepdims=True), atol=1e-6)
        else:
            np.testing.assert_array_equal(examples.target[here], mine.argmax(axis=-1))
    every = read_examples(cube, [], [path], Request(task="dense", time="2023-06"))
    assert every.classes == ("1", "2", "3")


def test_the_date_in_a_rasters_name_chooses_the_window(cube: Cube, tmp_path: Path) -> None:
    july = write_raster(tmp_path / "map_2023-07-14.tif", cube, pixels())
    other = write_raster(tmp_path / "map_2022-07-14.tif", cube, pixels())
    examples = read_examples(cube, [], [july, other], Request(task="dense"))
    assert examples.cells is not None
    assert set(examples.cells.t.tolist()) == {1}
    assert examples.left_out["outside of the cube"] == 1


def test_rasters_that_cannot_be_used_are_refused_by_name(cube: Cube, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.tif", cube, pixels())
    dense = Request(task="dense", time="2023-06")
    refused(
        cube, path, "its CRS is EPSG:32633, the request says EPSG:4326", dense.model_copy(update={"crs": "EPSG:4326"})
    )
    one = write_raster(tmp_path / "one.tif", cube, np.full((320, 320), 7, np.uint8))
    refused(cube, one, r"one class \(7\)", dense)
    away = write_raster(tmp_path / "away.tif", cube, pixels(), shift=100_000)
    refused(cube, away, "lie outside of the cube", dense)
    floats = write_raster(tmp_path / "floats.tif", cube, pixels().astype("f4"))
    refused(cube, floats, "holds float32, which are no classes", dense)
    (tmp_path / "no.tif").write_text("no raster")
    refused(cube, tmp_path / "no.tif", "cannot be read as a raster", dense)


# --- folds ----------------------------------------------------------------------------------------


def of_places(count: int = 500, years: int = 1) -> Examples:
    lon, lat = places(count)
    seconds = np.arange(count) % years * 31_557_600 + 10_000_000
    return Examples(
        features=np.zeros((count, 1), np.float32), target=np.zeros(count), classes=(), lon=lon, lat=lat,
        seconds=seconds, part=np.arange(count), group=np.resize(np.array(list("abcdefg")), count),
    )  # fmt: skip


def whole(folds: Folds, names: NDArray[Any]) -> bool:
    return all(len(set(folds.fold[names == name])) == 1 for name in np.unique(names))


def test_no_block_lies_on_both_sides() -> None:
    examples = of_places()
    for size in (Size(number=0.02, unit="degrees"), Size(number=1500, unit="m")):
        blocks = blocks_of(examples, size)
        folds = folds_of(examples, blocks=size, groups=False, years=False)
        assert whole(folds, blocks)
        assert folds.count == 5
        assert folds.groups == len(np.unique(blocks)) > 20
        sizes = np.bincount(folds.fold)
        assert sizes.max() - sizes.min() < 30
        metres = 1500 if size.unit == "m" else 0.02 * 111_200
        for block in np.unique(blocks):
            own = blocks == block
            assert np.ptp(examples.lat[own]) * 111_200 <= metres * 1.001
            assert np.ptp(examples.lon[own]) * 71_500 <= metres * 1.01
    again, other = (folds_of(examples, blocks=size, groups=False, years=False, seed=seed) for seed in (0, 1))
    assert (again.fold == folds.fold).all()
    assert (other.fold != folds.fold).any()


def test_groups_and_years_are_whole_and_random_folds_are_not() -> None:
    examples = of_places(years=4)
    assert examples.group is not None
    groups = folds_of(examples, blocks=None, groups=True, years=False)
    assert whole(groups, examples.group)
    assert groups.groups == 7
    years = folds_of(examples, blocks=None, groups=False, years=True)
    assert years.count == years.groups == 4
    assert whole(years, examples.seconds)
    mixed = random_folds(examples)
    assert not whole(mixed, examples.group)
    assert np.ptp(np.bincount(mixed.fold)) <= 1


def test_the_cells_of_one_polygon_are_held_out_together() -> None:
    examples = of_places()
    parts = Examples(**{**vars(examples), "part": np.arange(500) % 40})
    assert whole(folds_of(parts, blocks=Size(number=0.01, unit="degrees"), groups=False, years=False), parts.part)


def test_too_few_blocks_are_refused_and_the_default_has_enough() -> None:
    examples = of_places()
    with pytest.raises(RequestError, match=r"the labels lie in 1 blocks of 20 degrees, .* at least 3; choose smaller"):
        folds_of(examples, blocks=Size(number=20, unit="degrees"), groups=False, years=False)
    size = default_size(examples)
    assert len(np.unique(blocks_of(examples, size))) >= 10
    with pytest.raises(RequestError, match="1 years"):
        folds_of(examples, blocks=None, groups=False, years=True)


def test_blocks_are_no_narrower_than_four_cells_by_default() -> None:
    close = of_places()
    # 500 labels within half a kilometre
    close = replace(close, lon=12 + (close.lon - close.lon.min()) * 1e-3, lat=50 + (close.lat - close.lat.min()) * 1e-3,
                    cell_m=160.0)  # fmt: skip
    size = default_size(close)
    metres = size.number * (1 if size.unit == "m" else 111_195 * np.cos(np.radians(50)))
    assert metres >= 640
    with pytest.raises(RequestError, match="choose smaller blocks with --blocks, or label a larger area"):
        folds_of(close, blocks=None, groups=False, years=False)
    assert default_size(replace(close, cell_m=50_000.0)) == Size(number=200_000, unit="m")


def test_labels_of_several_groups_in_one_cell_are_left_out(cube: Cube, tmp_path: Path) -> None:
    lon, lat = (np.append(axis, axis[0]) for axis in places(60))
    grouped = VALUE.model_copy(update={"groups": "who"})

    def read(last: str) -> Examples:
        who = [f"g{i % 4}" for i in range(60)] + [last]
        path = write_csv(tmp_path / f"{last}.csv", {"lon": lon, "lat": lat, "value": np.arange(61.0), "who": who})
        return read_examples(cube, [], [path], grouped)

    same, mixed = read("g0"), read("g3")
    assert {0, 60} <= set(same.part.tolist())
    assert not {0, 60} & set(mixed.part.tolist())
    assert mixed.left_out["in cells of several groups"] == 2 + same.left_out.get("in cells of several groups", 0)
    assert same.cell_m == 160


def test_a_size_is_degrees_or_metres() -> None:
    assert size_in("0.1") == size_in("0.1deg") == Size(number=0.1, unit="degrees")
    assert size_in("2km") == size_in("2000m") == Size(number=2000, unit="m")
    for wrong in ("", "0", "2 miles", "-1km", "km"):
        with pytest.raises(RequestError, match="write degrees or metres"):
            size_in(wrong)
