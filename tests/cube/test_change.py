"""`change`: a planted change comes first, the season does not; too few references are refused; a new input is told."""

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (the accessor .rio)
import xarray as xr
import zarr
from numpy.typing import NDArray
from tests.conftest import call_cli
from tests.cube.synthetic import write_provenance, write_zone

from embedcube.cube.change import same_season
from embedcube.cube.changed import most_changed
from embedcube.cube.encoding import MASKED, VALID
from embedcube.cube.objects import Chunks
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.windows import Window

ZONE = "one/utm32"

YEARS, ROWS, COLUMNS, FEATURES = (2019, 2020, 2021, 2022, 2023), 48, 64, 32

PLANTED = (slice(20, 23), slice(40, 44))
"""rows and columns of what is felled in the last June"""


def reflectance(year: int, month: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(y, x, band): fields that are green in June and brown in September, a lake, a wood; weather and noise."""
    kind = (np.add.outer(np.arange(ROWS) // 6, np.arange(COLUMNS) // 8) * 7) % 5
    summer = [[300, 500, 300, 4200], [400, 700, 500, 3600], [250, 400, 250, 3300], [500, 500, 400, 300]]
    autumn = [[900, 1200, 1500, 2100], [800, 1100, 1300, 2500], [250, 400, 250, 3200], [500, 500, 400, 300]]
    reflected = np.array([*summer, [600, 800, 900, 2900]] if month == 6 else [*autumn, [900, 1100, 1300, 1900]])
    pixels = reflected[kind].astype(np.float64)
    pixels *= 1 + 0.03 * np.random.default_rng(year * 12 + month).normal(size=4)
    pixels *= 1 + 0.03 * rng.normal(size=pixels.shape)
    if (year, month) == (2023, 6):
        pixels[PLANTED] = np.array([900, 1300, 1700, 2300]) * (1 + 0.03 * rng.normal(size=(3, 4, 4)))
    return np.asarray(pixels)


def features(pixels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rectified random products, as convolution features are."""
    weights = np.random.default_rng(4).normal(size=(4, FEATURES)) * [[1 / 600], [1 / 800], [1 / 900], [1 / 2500]]
    return np.maximum(pixels @ weights + 0.2, 0).astype(np.float32) + np.float32(1e-3)


def write_series(
    path: Path, years: tuple[int, ...] = YEARS, *, added: float = 0, months: tuple[int, ...] = (6, 9), **how: Any
) -> Path:
    """A cube with a window in each June and each September; `added` is added to all pixels of the last June."""
    windows = [(year, month) for year in years for month in months]
    rng = np.random.default_rng(2)
    pixels = [reflectance(*window, rng) + (added if window == (2023, 6) else 0) for window in windows]
    status = np.full((len(windows), ROWS, COLUMNS), VALID, np.uint8)
    status[0, :5, :5] = status[-1, 40:, 60:] = MASKED
    write_zone(path, ZONE, features(np.stack(pixels)), status, side=10.0, **how)
    group: Any = zarr.open_group(path, mode="a")[ZONE]
    bounds = [[datetime(year, m, 1, tzinfo=UTC).timestamp() for m in (month, month + 1)] for year, month in windows]
    group["time_bnds"][...] = np.array(bounds, np.int64)
    group["time"][...] = np.array(bounds, np.int64)[:, 0]
    write_provenance(path)
    return path


def scored(path: Path, before: str, after: str, history: Path | None = None) -> xr.Dataset:
    """The map of change of a cube of one zone."""
    found = Cube(path).layer.change(before, after, None if history is None else Cube(history).layer)
    assert isinstance(found, xr.Dataset)
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("change") / "cube.zarr")


def test_the_planted_change_is_first_and_the_season_is_not(series: Path) -> None:
    cube = Cube(series)
    found = scored(series, "2019/2023", "2023-06")
    first = most_changed(cube, "one", found, "2023-06", 3)
    assert PLANTED[0].start <= first[0].y < PLANTED[0].stop
    assert PLANTED[1].start <= first[0].x < PLANTED[1].stop
    score = found["score"].values[0]
    inside = np.zeros((ROWS, COLUMNS), bool)
    inside[PLANTED] = True
    assert score[inside].min() > np.nanmax(score[~inside])
    assert np.nanmedian(score[~inside]) == pytest.approx(1, abs=0.4)
    assert found.attrs["remarks"] == []
    # in September nothing was planted, though it differs much from June
    autumn = scored(series, "2019/2023", "2023-09")
    assert np.nanmax(autumn["score"]) < 0.5 * score[inside].min()


def test_the_score_is_the_distance_over_the_usual_one(series: Path) -> None:
    """All of it again for one cell, in float64."""
    cube = Cube(series)
    found = scored(series, "2019/2022-12", "2023-06")
    stored = np.asarray(cube.array(ZONE, "embedding")[...]).astype(np.float64)
    units = stored / np.maximum(np.linalg.norm(stored, axis=-1, keepdims=True), 1e-9)
    past, now = units[[0, 2, 4, 6]], units[8]

    def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1 - (one * other).sum(axis=-1) / np.linalg.norm(other, axis=-1))

    usual = np.mean([distance(past[i], past.sum(axis=0) - past[i]) for i in range(4)], axis=0)
    usual[:5, :5] = np.mean([distance(past[i], past[1:].sum(axis=0) - past[i]) for i in (1, 2, 3)], axis=0)[:5, :5]
    n = np.full((ROWS, COLUMNS), 4)
    n[:5, :5] = 3
    score = distance(now, past.sum(axis=0)) * (n + 3) / (n * usual + 3 * np.median(usual))
    assert np.abs(found["usual"].values[0] / usual - 1).max() < 1e-2
    assert np.abs(found["score"].values[0] / score - 1).max() < 1e-2
    assert (found["references"].values[0] == n).all()
    assert found["score"].rio.crs.to_epsg() == 32632


def of_junes(path: Path, zone: str, vectors: NDArray[np.float32], **how: Any) -> Path:
    """Write a zone whose windows are Junes, the last of 2023."""
    write_zone(path, zone, vectors, **how)
    group: Any = zarr.open_group(path, mode="a")[zone]
    years = range(2024 - len(vectors), 2024)
    bounds = [[int(datetime(year, month, 1, tzinfo=UTC).timestamp()) for month in (6, 7)] for year in years]
    group["time_bnds"][...], group["time"][...] = np.array(bounds), np.array(bounds)[:, 0]
    return path


def test_a_rectangle_is_held_at_a_time_and_its_chunks_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    years, cells = 6, 128
    rng = np.random.default_rng(0)
    land = rng.normal(size=(1, cells, cells, 16)).astype(np.float32)
    series = land + rng.normal(size=(years, cells, cells, 16)).astype(np.float32) * np.float32(0.1)
    path = tmp_path / "cube.zarr"
    for zone in ("one/utm32", "one/utm33"):
        of_junes(path, zone, series, crs=f"EPSG:326{zone[-2:]}", shard=64)
    expected: Any = Cube(path).layer.change("2018/2023", "2023-06")
    side = Cube(path).array("one/utm32", "embedding").chunks[1]
    read: list[tuple[str, Any]] = []
    plain = Chunks.read

    def counted(chunks: Chunks, place: tuple[int, int, int]) -> Any:
        read.append((chunks._array.path, place))
        return plain(chunks, place)

    monkeypatch.setattr(Chunks, "read", counted)
    monkeypatch.setattr("embedcube.cube.change._NUMBERS", 1 << 16)
    tracemalloc.start()
    found: Any = Cube(path).layer.change("2018/2023", "2023-06")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.equals(expected)
    # each chunk of vectors of all windows and both zones, once
    vectors = [one for one in read if one[0].endswith("embedding")]
    assert len(vectors) == len(set(vectors)) == 2 * years * (cells // side) ** 2
    # the maps have 14 bytes a cell, in both zones; the references in float32 would be 5 MB more
    assert most < 2 * cells**2 * 14 + 3e6, most


def test_equal_windows_are_at_no_negative_distance(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(1, 32, 32, 48)).astype(np.float32)
    found = scored(of_junes(tmp_path / "cube.zarr", ZONE, np.repeat(vectors, 5, axis=0)), "2019/2023", "2023-06")
    for name in ("distance", "usual", "score"):
        assert found[name].min() >= 0, name


def test_two_references_are_refused(series: Path) -> None:
    layer = Cube(series).layer
    with pytest.raises(RequestError, match=r"2023-06-01/2023-07-01 has 2 references .*2021") as refused:
        layer.change("2021/2023", "2023-06")
    assert "at least 3" in str(refused.value)
    with pytest.raises(RequestError, match="has 0 references"):
        layer.change("2019-08/2019-10", "2023-06")


def test_a_cell_with_two_references_has_no_score(tmp_path: Path) -> None:
    path = write_series(tmp_path / "cube.zarr", YEARS[1:])
    found = scored(path, "2020/2023", "2023-06")
    assert (found["references"].values[0, :5, :5] == 2).all()
    assert np.isnan(found["score"].values[0, :5, :5]).all()
    assert np.isfinite(found["score"].values[0, 10:, :60]).all()
    assert np.isnan(scored(path, "2020/2023-01", "2023-09")["score"].values[0, 40:, 60:]).all()


def test_a_window_whose_pixels_are_all_1000_too_high_is_remarked(tmp_path: Path) -> None:
    cube = Cube(write_series(tmp_path / "cube.zarr", added=1000))
    (remark,) = scored(cube.path, "2019/2023", "2023-06").attrs["remarks"]
    assert remark.startswith("window 2023-06-01/2023-07-01: ")
    assert "baseline" in remark


def test_the_past_may_be_in_another_cube_of_the_same_weights(series: Path, tmp_path: Path) -> None:
    past, now = (
        write_series(tmp_path / "past.zarr", YEARS[:4]),
        write_series(tmp_path / "now.zarr", YEARS[4:], months=(6,)),
    )
    whole = scored(series, "2019/2022-12", "2023-06")["score"]
    split = scored(now, "2019/2022-12", "2023-06", past)["score"]
    assert split.shape == whole.shape
    assert np.nanmax(split[0, PLANTED[0], PLANTED[1]]) > 5


def test_cubes_of_two_encoders_or_two_lattices_are_refused(series: Path, tmp_path: Path) -> None:
    other = write_series(tmp_path / "other.zarr", YEARS[:4])
    write_provenance(other, weights="cd" * 32)
    with pytest.raises(RequestError, match="vectors of two encoders cannot be compared"):
        scored(series, "2019/2022-12", "2023-06", other)
    shifted = write_series(tmp_path / "shifted.zarr", YEARS[:4], corner=(400_005.0, 5_600_000.0))
    with pytest.raises(RequestError, match=r"the cells of .* are not those"):
        scored(series, "2019/2022-12", "2023-06", shifted)


def test_a_wider_cube_of_the_past_is_shifted_into_place(series: Path, tmp_path: Path) -> None:
    """Its arrays begin 16 cells above and to the left; what was there is not compared with anything."""
    path = tmp_path / "wide.zarr"
    rng = np.random.default_rng(2)
    pixels = np.stack(
        [np.pad(reflectance(year, 6, rng), ((16, 0), (16, 0), (0, 0)), mode="reflect") for year in YEARS[:4]]
    )
    write_zone(path, ZONE, features(pixels), side=10.0, corner=(399_840.0, 5_600_160.0))
    group: Any = zarr.open_group(path, mode="a")[ZONE]
    bounds = [[datetime(year, m, 1, tzinfo=UTC).timestamp() for m in (6, 7)] for year in YEARS[:4]]
    group["time_bnds"][...] = np.array(bounds, np.int64)
    write_provenance(path)
    score = scored(series, "2019/2022-12", "2023-06", path)["score"].values[0]
    inside = np.zeros((ROWS, COLUMNS), bool)
    inside[PLANTED] = True
    assert score[inside].min() > np.nanmax(score[~inside])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("2023-06-01", "2023-07-01"), ("2019-06-01", "2019-07-01"), True),
        (("2023-06-01", "2023-07-01"), ("2019-05-01", "2019-06-01"), False),
        (("2023-12-25", "2024-01-01"), ("2021-01-01", "2021-01-08"), True),
        (("2023-12-25", "2024-01-01"), ("2021-01-15", "2021-01-22"), False),
        (("2023-01-01", "2024-01-01"), ("2020-01-01", "2021-01-01"), True),
        (("2023-01-01", "2024-01-01"), ("2020-06-01", "2020-07-01"), False),
        (("2024-02-01", "2024-03-01"), ("2023-02-01", "2023-03-01"), True),
    ],
)
def test_windows_of_one_season(one: tuple[str, str], other: tuple[str, str], same: bool) -> None:
    windows = [Window(*(datetime.fromisoformat(day).replace(tzinfo=UTC) for day in pair)) for pair in (one, other)]
    assert same_season(windows[0], windows[1]) is same
    assert same_season(windows[1], windows[0]) is same


def test_the_verb_writes_a_map_that_lies_where_the_cube_does(series: Path, tmp_path: Path) -> None:
    words = ("change", series, "--from", "2019/2023", "--to", "2023-06")
    done = call_cli(*words, "-o", tmp_path / "change.tif", "--json")
    answer = json.loads(done.stdout)
    place = answer["places"][0]
    with rasterio.open(tmp_path / "change.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.descriptions[0] == "score 2023-06-01"
        assert file.read(1)[place["y"], place["x"]] == pytest.approx(place["score"], abs=1e-3)
        x, y = (v[0] for v in rasterio.warp.transform("EPSG:4326", file.crs, [place["lon"]], [place["lat"]]))
        assert file.index(x, y) == (place["y"], place["x"])
    for name in ("change.zarr", "change.nc"):
        assert call_cli(*words, "-o", tmp_path / name).returncode == 0
        opened = xr.open_dataset(tmp_path / name, decode_coords="all")
        assert float(opened["score"][0, place["y"], place["x"]]) == pytest.approx(place["score"], abs=1e-3)
        assert opened["score"].rio.crs.to_epsg() == 32632
    again = call_cli(*words, "-o", tmp_path / "change.zarr")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    refused = call_cli("change", series, "--from", "2021/2023", "--to", "2023-06")
    assert (refused.returncode, "2 references" in refused.stderr) == (2, True)
