"""Ways in: how images are cut into files and named does not matter, and what cannot be read says what to do."""

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import REAL_DATA

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive, Mask
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Source
from embedcube.sources.catalog.dates import when_in, when_of
from embedcube.sources.catalog.naming import Template, template_for
from embedcube.sources.fields import Fields
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel1.source import Sentinel1
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

SIDE = 16
GRID = Grid(crs="EPSG:32632", pixel=10)
AREA = PixelArea(row=-560_000, col=60_000, rows=SIDE, cols=SIDE)
SOURCES: dict[str, Callable[[str, Archive], Source]] = {
    "fields": Fields,
    "sentinel1": Sentinel1,
    "sentinel2": Sentinel2,
}


def write(path: Path, values_cyx: NDArray[Any] | int, names: tuple[str, ...] = (), **profile: Any) -> Path:
    """A GeoTIFF with these bands; a number stands for one band of it."""
    values = np.full((1, SIDE, SIDE), values_cyx) if np.ndim(values_cyx) == 0 else np.asarray(values_cyx)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind: dict[str, Any] = {"dtype": "uint16", "nodata": 65535, "crs": GRID.crs} | profile
    place = from_origin(600_000, 5_600_000, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=SIDE, width=SIDE, transform=place, **kind
    ) as file:
        file.write(values.astype(kind["dtype"]))
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


def constants(*values: int) -> NDArray[np.uint16]:
    return np.array(values, np.uint16)[:, None, None] * np.ones((SIDE, SIDE), np.uint16)


def source(path: Path, *bands: str, kind: str = "sentinel2", mask: Any = None, **options: Any) -> Source:
    keys: dict[str, Any] = {"offset": 0, "mask": mask} if kind == "sentinel2" else {}
    if kind == "sentinel1":
        options = {"values": "linear"} | options
    return SOURCES[kind]("a", Archive(source=kind, path=path, bands=bands, options=options, **keys))


def scenes(path: Path, *bands: str, **options: Any) -> list[Scene]:
    return list(source(path, *bands, **options).scenes(full_digests=False))


def seen(path: Path, *bands: str, **options: Any) -> dict[datetime, list[float]]:
    """By time, the value of each band at the first pixel that has one."""
    one = source(path, *bands, **options)
    reader = RasterReader(1)
    try:
        found = {}
        for scene in one.scenes(full_digests=False):
            assert not scene.verdict
            pixels = one.observe(scene, Window(scene.time, scene.time), GRID, AREA, reader)
            found[scene.time] = [float(values[pixels.seen_yx].flat[0]) for values in pixels.values_cyx]
        return found
    finally:
        reader.close()


def refusal(path: Path, *bands: str, **options: Any) -> str:
    """The words of a refusal, or of the only scene's verdict."""
    try:
        (scene,) = scenes(path, *bands, **options)
    except RequestError as error:
        words = str(error)
    else:
        words = scene.verdict
        assert words
    assert len(words.replace(str(path), "")) < 300
    return words


def day(number: int, month: int = 6) -> datetime:
    return datetime(2022, month, number, tzinfo=UTC)


# --- a folder of images with several bands ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fields", "sentinel2"])
def test_a_folder_of_images_is_a_scene_for_each(tmp_path: Path, kind: str) -> None:
    """As one such file is: bands by their descriptions, in any order, whatever other bands there are."""
    write(tmp_path / "S2_SR_20220607.tif", constants(1, 2, 3), ("QA60", "B8", "B4"))
    write(tmp_path / "sub" / "openEO_2022-06-17Z.tif", constants(5, 6), ("B4", "B8"))
    bands = ("B04", "B08") if kind == "sentinel2" else ("B4", "B8")
    assert seen(tmp_path, *bands, kind=kind) == {day(7): [3, 2], day(17): [5, 6]}


def test_bands_without_descriptions_are_known_by_numbers(tmp_path: Path) -> None:
    for date, value in (("20220607", 1), ("20220617", 4)):
        write(tmp_path / f"S2A2A_{date}_022_roi_BOA_10.tif", constants(value, value + 1, value + 2))
    assert seen(tmp_path, "B04", "B02", variables={"B04": 3, "B02": "1"}) == {day(7): [3, 1], day(17): [6, 4]}
    words = refusal(tmp_path, "B04", "B02")
    assert "2 images are of no scene; the first, S2A2A_20220607_022_roi_BOA_10.tif, it has no band B04, B02" in words
    assert "options.variables takes a name in the file, or a number" in words


def test_radar_of_both_polarisations_in_one_file(tmp_path: Path) -> None:
    write(tmp_path / "S1A_20220607T051512.tif", constants(2, 7), ("VV", "VH"))
    (scene,) = scenes(tmp_path, "VH", "VV", kind="sentinel1")
    assert [(asset.band, asset.index) for asset in scene.assets] == [("VH", 2), ("VV", 1)]
    assert scene.time == datetime(2022, 6, 7, 5, 15, 12, tzinfo=UTC)


def test_a_mask_in_the_same_file_is_a_class(tmp_path: Path) -> None:
    write(tmp_path / "S2_20220607.tif", constants(1500, 4))
    one = source(tmp_path, "B04", variables={"B04": 1, "SCL": 2}, mask=Mask(band="SCL", clear=(4,)))
    (scene,) = one.scenes(full_digests=False)
    reader = RasterReader(1)
    pixels = one.observe(scene, Window(scene.time, scene.time), GRID, AREA, reader)
    reader.close()
    assert pixels.clear_yx.all()
    assert (pixels.values_cyx == 1500).all()


def test_classes_known_by_a_number_have_no_offset(tmp_path: Path) -> None:
    write(tmp_path / "S2_20220607.tif", constants(3000, 4))
    archive = Archive(
        source="sentinel2",
        path=tmp_path,
        bands=("B04", "SCL"),
        offset=-1000,
        options={"variables": {"B04": 1, "SCL": 2}},
    )
    one = Sentinel2("a", archive)
    (scene,) = one.scenes(full_digests=False)
    reader = RasterReader(1)
    pixels = one.observe(scene, Window(scene.time, scene.time), GRID, AREA, reader)
    reader.close()
    assert pixels.values_cyx[:, 0, 0].tolist() == [2000, 4]


def test_files_of_one_band_in_the_same_folder_stay_what_they_are(tmp_path: Path) -> None:
    """Neither are other bands opened, nor does a number name a band of a file that has none but one."""
    for band in ("B02", "B03", "B04"):
        write(tmp_path / f"X_20220607_{band}.tif", 7)
    write(tmp_path / "X_20220617_2.tif", 9)
    assert seen(tmp_path, "B04") == {day(7): [7]}
    assert seen(tmp_path, "red", kind="fields", variables={"red": "2"}) == {day(17): [9]}


def test_an_image_of_several_bands_whose_name_ends_in_a_number(tmp_path: Path) -> None:
    write(tmp_path / "S2_20220607_2.tif", constants(5, 6, 7))
    assert seen(tmp_path, "a", "b", kind="fields", variables={"a": 1, "b": 3}) == {day(7): [5, 7]}


def test_unused_bands_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for date in ("20220607", "20220617"):
        write(tmp_path / f"S2_{date}.tif", constants(*range(1, 13)), tuple(f"B{i}" for i in range(1, 13)))
    with caplog.at_level(logging.WARNING):
        assert len(scenes(tmp_path, "B04", "B08")) == 2
    assert "S2_20220607.tif: 10 of 12 bands are not used, and 1 more files have such bands" in caplog.text


# --- which band is which --------------------------------------------------------------------------------


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_description_that_occurs_twice_names_nothing(tmp_path: Path, as_folder: bool) -> None:
    path = write(tmp_path / "stack_20220615.tif", constants(1, 2, 3), ("stack-abc",) * 3)
    where = tmp_path if as_folder else path
    words = refusal(where, "B02", "B03")
    assert '"stack-abc" is the name of 3, so it names none' in words
    assert "B02:" not in words, "no example that could be wrong"
    assert "may each be B02" in refusal(where, "B02", "B03", variables={"B02": "stack-abc", "B03": 2})
    assert seen(where, "B02", "B03", variables={"B02": 3, "B03": "1"}) == {day(15): [3, 1]}


def test_two_bands_never_come_from_one(tmp_path: Path) -> None:
    write(tmp_path / "stack_20220615.tif", constants(1, 2), ("red", "x"))
    for variables in ({"B02": "x", "B03": "X"}, {"B02": 1, "B03": "1"}):
        assert "B02 and B03 would both be" in refusal(tmp_path, "B02", "B03", variables=variables)
    assert "B04 and red would both be" in refusal(tmp_path, "B04", "red")
    assert "B02 and B03 would both be band 2" in refusal(tmp_path, "B02", "B03", variables={"B02": "x", "B03": 2})


def test_exchanged_names_are_exchanged(tmp_path: Path) -> None:
    """A name that the campaign gives is the only one."""
    write(tmp_path / "s_20220615.tif", constants(1, 2), ("u", "v"))
    write(tmp_path / "t_20220616_u.tif", 3)
    write(tmp_path / "t_20220616_v.tif", 4)
    found = seen(tmp_path, "u", "v", kind="fields", variables={"u": "v", "v": "u"})
    assert found == {day(15): [2, 1], day(16): [4, 3]}


def test_a_bands_own_name_goes_before_its_other_names(tmp_path: Path) -> None:
    write(tmp_path / "s_20220615.tif", constants(1, 2, 3), ("nir", "B8A", "B08"))
    assert seen(tmp_path, "B08") == {day(15): [3]}
    write(tmp_path / "s_20220615.tif", constants(1, 2), ("nir", "B8"))
    assert seen(tmp_path, "B08") == {day(15): [2]}


def test_a_number_and_a_name_that_disagree_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "s_20220615.tif", constants(1, 2), ("2", "1"))
    assert "may each be a" in refusal(tmp_path, "a", "b", kind="fields", variables={"a": 1, "b": 2})


# --- series that are stacked as bands -------------------------------------------------------------------


def test_a_series_stacked_as_bands_is_no_single_moment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """24 months of 17 bands, as Earth Engine stacks them: B2, B2_1 ... B2_23; and two more."""
    steps = [[f"B{i}" if step == 0 else f"B{i}_{step}" for i in range(1, 18)] for step in range(24)]
    names = (*(name for step in steps for name in step), "lon", "lat")
    path = write(tmp_path / "S2_20180101_20191231.tif", constants(*range(1, 411)), names)
    asked = ("B02", "B03", "B04", "B08")
    words = refusal(path, *asked)
    assert "its bands are a series of 24 steps (B2, B2_1, B2_2, B2_3 and 20 more)" in words
    assert "would leave 406 of 410 bands unused: options.steps takes their times" in words
    assert words in refusal(tmp_path, *asked)
    months = [f"{year}-{month:02d}" for year in (2018, 2019) for month in range(1, 13)]
    found = seen(tmp_path, *asked, steps=months)
    assert [f"{time:%Y-%m}" for time in found] == months
    assert [values[0] for values in found.values()] == [2 + 17 * step for step in range(24)]
    assert "314 of 410 bands are not used" in caplog.text
    assert "24 steps, and options.steps has 2 times" in refusal(path, *asked, steps=months[:2])


def test_counted_and_dated_names_of_bands_are_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", constants(1, 2, 3, 4), ("0_B4", "0_B8", "1_B4", "1_B8"))
    assert "a series of 2 steps (0_B4, 1_B4)" in refusal(path, "B04", "B08")
    assert seen(path, "B04", "B08", steps=["2022-06-05", "2022-06-10"]) == {day(5): [1, 2], day(10): [3, 4]}
    names = ("20220610T101031_20220610T101559_T32TWL_B4", "20220605T101031_20220605T101559_T32TWL_B4")
    found = seen(write(tmp_path / "b.tif", constants(1, 2), names), "B04")
    assert {f"{time:%m-%d %H:%M:%S}": value for time, value in found.items()} == {
        "06-05 10:10:31": [2],
        "06-10 10:10:31": [1],
    }


def test_names_with_other_words_are_no_steps(tmp_path: Path) -> None:
    write(tmp_path / "s_20220615.tif", constants(1, 2, 3), ("B4", "B4_quality", "mean_B4"))
    assert seen(tmp_path, "B04") == {day(15): [1]}
    assert "its bands are no steps" in refusal(tmp_path, "B04", steps=["2022-06-01"])


# --- names by a template --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("20220615", "2022-06-15T00:00:00", None),
        ("2022-06-15", "2022-06-15T00:00:00", None),
        ("2022_06_15", "2022-06-15T00:00:00", None),
        ("2022.06.15", "2022-06-15T00:00:00", None),
        ("20220615T101031", "2022-06-15T10:10:31", None),
        ("20220615T101031Z", "2022-06-15T10:10:31", None),
        ("2022-06-15T10-10-31", "2022-06-15T10:10:31", None),
        ("20220615T1010", "2022-06-15T10:10:00", None),
        ("20220615_101031", "2022-06-15T10:10:31", None),
        ("2022166", "2022-06-15T00:00:00", None),
        ("2020366", "2020-12-31T00:00:00", None),
        ("2022-166", "2022-06-15T00:00:00", None),
        ("2022166T101031", "2022-06-15T10:10:31", None),
        ("202206", "2022-06-01T00:00:00", "2022-06-30T23:59:59"),
        ("2022-02", "2022-02-01T00:00:00", "2022-02-28T23:59:59"),
        ("2022_12", "2022-12-01T00:00:00", "2022-12-31T23:59:59"),
        ("2022", "2022-01-01T00:00:00", "2022-12-31T23:59:59"),
    ],
)
def test_dates_in_names(tmp_path: Path, text: str, first: str, last: str | None) -> None:
    when = when_of(text)
    assert (when.time.isoformat()[:19], when.end and when.end.isoformat()[:19]) == (first, last)
    write(tmp_path / f"S2_{text}_B04.tif", 5)
    (scene,) = scenes(tmp_path, "B04", names="{sat}_{date}_{band}.tif")
    assert (scene.time, scene.end, scene.verdict) == (when.time, when.end, "")


@pytest.mark.parametrize("text", ["20221345", "2021366", "2022000", "20220230", "202213", "0000", "99"])
def test_what_is_no_date_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        when_of(text)
    write(tmp_path / f"S2_{text}_B04.tif", 5)
    write(tmp_path / "S2_20220615_B04.tif", 6)
    wrong, right = sorted(scenes(tmp_path, "B04", names="S2_{date}_{band}.tif"), key=lambda scene: not scene.verdict)
    assert "options.names has a date where its name has none" in wrong.verdict
    assert (right.time, right.verdict) == (day(15), "")


LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "{date}/{band}.tif": ("{day}/{band}.tif", {}),
    "{band}/X_{date}.tif": ("{band}/X_{day}.tif", {}),
    "{sat}_{date}_{band}.tif": ("S2A_{day}_{band}.tif", {}),
    "{band}_{tile}_{date}_*.tif": ("{band}_T32UNA_{day}_v1.tif", {}),
    "*_{band}_{id}_{date}": ("MY_{band}_a_b_{day}.tif", {}),
    "scene-{date}.tif": ("deep/er/scene-{day}.tif", {}),
    "": ("S2_{day}.tif", {}),
    " ": ("{day}/{band}.tif", {}),
}
"""Templates (none where empty), and the names of files that they fit"""


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(LAYOUTS)), st.lists(st.integers(1, 28), min_size=1, max_size=3, unique=True))
def test_how_images_are_cut_into_files_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, template: str, days: list[int]
) -> None:
    root = tmp_path_factory.mktemp("layout")
    name, _ = LAYOUTS[template]
    expected = {}
    for number in days:
        values = {"B04": 100 + number, "B08": 200 + number}
        expected[day(number)] = [*map(float, values.values())]
        date = f"202206{number:02d}"
        if "{band}" in name:
            for band, value in values.items():
                write(root / name.format(day=date, band=band), value)
            write(root / name.format(day=date, band="B05"), 9)
        else:
            write(root / name.format(day=date), constants(9, *values.values()), ("B05", *values))
    options = {"names": template} if template.strip() else {}
    assert seen(root, "B04", "B08", **options) == expected


def test_an_interval_in_a_name_lasts_to_its_last_day(tmp_path: Path) -> None:
    for name in ("m_20220601_20220630", "m_2022-07_2022-08", "m_2023_2024"):
        write(tmp_path / f"{name}.tif", 5)
    found = scenes(tmp_path, "ndvi", kind="fields", names="m_{start}_{end}.tif")
    assert [(f"{one.time:%Y-%m-%d}", f"{one.end:%Y-%m-%dT%H:%M:%S}") for one in found] == [
        ("2022-06-01", "2022-06-30T23:59:59"),
        ("2022-07-01", "2022-08-31T23:59:59"),
        ("2023-01-01", "2024-12-31T23:59:59"),
    ]
    (june, *_) = scenes(tmp_path, "ndvi", kind="fields", names="m_{start}_{until}.tif")
    assert f"{june.end:%Y-%m-%dT%H:%M:%S}" == "2022-06-29T23:59:59"
    write(tmp_path / "m_20220630_20220601.tif", 5)
    (wrong,) = (one for one in scenes(tmp_path, "ndvi", kind="fields", names="m_{start}_{end}.tif") if one.verdict)
    assert "is not after" in wrong.verdict


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": "S2_{dat}_{band}.tif"}, 'has no field "dat", did you mean "date"'),
        ({"names": "S2_{band}.tif"}, "has no {date}, nor {start} and {end}; or say `time`"),
        (
            {"names": "S2_{start}_{band}.tif"},
            "it has one of {date}, {year} with {month} and {day}, or {start} with {end} or {until}",
        ),
        ({"names": "S2_{date}_{band.tif"}, "a brace without its other one"),
        ({"names": "{date}_{band}.tif", "time": "2022"}, "has a date, and time says another"),
        ({"names": "{date}.jp2"}, '"{date}.jp2" fits none of 1 images, the first is S2_20220615_B04.tif'),
        ({"time": "soon"}, "write for example 2022-06-15, 2022-06 or [2022-06-01, 2022-07-01]"),
        ({"time": ["2022-07-01", "2022-06-01"]}, "is not after"),
    ],
)
def test_a_template_or_time_that_cannot_be_one_is_refused(tmp_path: Path, options: Any, words: str) -> None:
    write(tmp_path / "S2_20220615_B04.tif", 5)
    assert words in refusal(tmp_path, "B04", **options)


def test_what_does_not_fit_is_told_and_two_files_of_one_band_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a_20220615_B04", "b_20220615_B04", "a_20220616_B04_20m", "a_20220616_B04_10m", "heights"):
        write(tmp_path / f"{name}.tif", 20 if name.endswith("_20m") else 10)
    twice, once = scenes(tmp_path, "B04", names="{any}_{date}_{band}.tif")
    assert re.search(r"a_20220615_B04\.tif and b_20220615_B04\.tif are this band of one scene; \{id\}", twice.verdict)
    assert (once.assets[0].path, once.verdict) == ("a_20220616_B04_10m.tif", "")
    assert "1 images are of no scene; the first, heights.tif, does not fit options.names" in caplog.text
    assert len(scenes(tmp_path, "B04", names="{id}_{date}_{band}.tif")) == 3


def test_a_template_says_the_satellite(tmp_path: Path) -> None:
    write(tmp_path / "S1A_20220615T051512_VV_grd.tif", 5)
    (scene,) = scenes(tmp_path, "VV", kind="sentinel1", names="{sat}_{date}_{band}_grd.tif")
    assert (scene.id, scene.acquisition) == ("S1A_20220615T051512", "S1A 2022-06-15T04:48 + 48 min")


# --- when they are ---------------------------------------------------------------------------------------


def test_files_without_a_date_are_when_the_campaign_says(tmp_path: Path) -> None:
    write(tmp_path / "VV_mean" / "lc.tif", 5)
    write(tmp_path / "lc_20220615_x" / "lc.tif", 6)
    for time, first, last in (
        ("2022", datetime(2022, 1, 1, tzinfo=UTC), datetime(2022, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (2022, datetime(2022, 1, 1, tzinfo=UTC), datetime(2022, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (["2022-06-01", "2022-07-01"], day(1), datetime(2022, 6, 30, 23, 59, 59, tzinfo=UTC)),
        (day(3).date(), day(3), None),
        ("2022-06-03T10:00:00Z", datetime(2022, 6, 3, 10, tzinfo=UTC), None),
    ):
        undated, dated = sorted(scenes(tmp_path, "lc", kind="fields", time=time), key=lambda one: one.id != "VV_mean")
        assert (undated.time, undated.end, undated.verdict) == (first, last, "")
        assert (dated.time, dated.end) == (day(15), None), "a date in a name stays"


def test_an_undated_file_says_what_to_do_and_does_it(tmp_path: Path) -> None:
    path = write(tmp_path / "response.tiff", constants(1, 2), ("B04", "B08"))
    words = refusal(path, "B04", "B08")
    assert "response.tiff, has no date in its name: options.time says when it is" in words
    assert seen(path, "B04", "B08", time="2022-06-15") == {day(15): [1, 2]}
    assert seen(tmp_path, "B04", "B08", names="*.tiff", time="2022-06-15") == {day(15): [1, 2]}


def test_a_netcdf_file_without_an_axis_of_time_has_its_date_in_its_name(tmp_path: Path) -> None:
    x, y = 600_005 + 10 * np.arange(SIDE), 5_599_995 - 10 * np.arange(SIDE)
    grid = ((), 0, {"spatial_ref": rasterio.crs.CRS.from_string(GRID.crs).to_wkt()})
    rain = (("y", "x"), np.full((SIDE, SIDE), 7, np.float32), {"grid_mapping": "crs"})
    axes = {
        name: (name, values, {"standard_name": f"projection_{name}_coordinate", "units": "m"})
        for name, values in (("x", x), ("y", y))
    }
    path = tmp_path / "a" / "rain.nc"
    path.parent.mkdir()
    xarray.Dataset({"rain": rain, "crs": grid}, axes).to_netcdf(path, engine="netcdf4")
    assert "it has no axis of time, and no date in its name: options.time" in refusal(path, "rain", kind="fields")
    assert seen(path, "rain", kind="fields", time="2022-06-15") == {day(15): [7]}
    path.rename(path.with_name("rain.2022.06.nc"))
    (scene,) = scenes(tmp_path, "rain", kind="fields", names="rain.{date}.nc")
    assert (scene.time, scene.end) == (day(1), datetime(2022, 6, 30, 23, 59, 59, tzinfo=UTC))
    words = refusal(tmp_path, "snow", kind="fields")
    assert "has none of the bands: its variables are rain. Where one of them is a band, options.variables" in words


@pytest.mark.parametrize(
    "name",
    [
        "S2A_MSIL2A_20220615T101031_N0510_R022_T33TWL_20240101T140000",
        "S1A_IW_GRDH_1SDV_20220615T235958_20220616T000023_043673_0536A4_1234",
        "20220615T101031_20220801T101559_T33TWL",
        "LC08_L2SP_192027_20220615_20220622_02_T1_SR",
        "SENTINEL2A_20220615-104611-462_L2A_T31TFJ_C_V3-0_FRE",
    ],
)
def test_names_of_products_have_their_time_first(name: str) -> None:
    when = when_in(name)
    assert when is not None
    assert when.time.date() == day(15).date()


@pytest.mark.parametrize("between", ["_", "-", "_to_"])
@pytest.mark.parametrize("form", ["%Y%m%d", "%Y-%m-%d"])
def test_two_dates_in_a_name_are_no_moment(tmp_path: Path, between: str, form: str) -> None:
    name = f"mosaic_{day(1):{form}}{between}{day(30):{form}}"
    for path in (write(tmp_path / f"{name}_B04.tif", 5), write(tmp_path / "b" / f"{name}.tif", constants(1), ("B04",))):
        for where in (path, path.parent):
            words = refusal(where, "B04") if where != tmp_path else scenes(where, "B04")[0].verdict
            assert "its name has two dates, 2022-06-01 and 2022-06-30: options.names says which one counts" in words
    (lasting,) = scenes(tmp_path / "b", "B04", names=f"mosaic_{{start}}{between}{{end}}.tif")
    (moment,) = scenes(tmp_path / "b", "B04", names=f"mosaic_{{date}}{between}*.tif")
    (told,) = scenes(tmp_path / "b", "B04", time=["2022-06-01", "2022-07-01"])
    assert (
        (lasting.time, lasting.end) == (told.time, told.end) == (day(1), datetime(2022, 6, 30, 23, 59, 59, tzinfo=UTC))
    )
    assert (moment.time, moment.end) == (day(1), None)


# --- what is not read ------------------------------------------------------------------------------------


def zipped(path: Path, *members: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "x.h5": (
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)),
        "is HDF5, .*: write its bands as GeoTIFF",
    ),
    "MOD13.hdf": (lambda path: path.write_bytes(b"\x0e\x03\x13\x01" + bytes(64)), r"is HDF, .* GeoTIFF first"),
    "data.zip": (lambda path: zipped(path, "tiles/33/T/WL/2022/6/15/0/B04.jp2"), "is a zip, .*: unpack it"),
    "torn.zip": (lambda path: path.write_bytes(b"PK\x03\x04torn"), "is a damaged zip: get it again"),
    "S2.zarr.zip": (lambda path: zipped(path, "S2.zarr/.zgroup"), "is a zip of a Zarr store"),
    "tiles.tar": (lambda path: path.write_bytes(b"ustar"), "is packed: unpack it"),
    "S2A_MSIL2A_20220615T101031_N0510_R022_T33TWL_20220615T140000.zarr": (
        lambda path: (path / "measurements").mkdir(parents=True),
        r"is a Zarr store, .* GeoTIFF, named as X_20220615_B04",
    ),
    "mosaic.vrt": (lambda path: path.write_text("<VRTDataset/>"), "is a list of other files, .* as one GeoTIFF"),
    "t2m.grib": (lambda path: path.write_bytes(b"GRIB"), "is GRIB, which the source era5 reads"),
    "S2.img": (lambda path: path.write_bytes(b"x"), "is no GeoTIFF or JPEG 2000: convert it"),
}


@pytest.mark.parametrize("kind", ["fields", "sentinel1", "sentinel2"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_read_says_what_it_is_and_what_to_do(tmp_path: Path, name: str, kind: str) -> None:
    make, words = FOREIGN[name]
    folder = tmp_path / "archive"
    folder.mkdir()
    make(folder / name)
    bands = ("VV",) if kind == "sentinel1" else ("B04",)
    for path in (folder / name, folder):
        assert re.search(words, refusal(path, *bands, kind=kind))


def test_what_is_not_read_is_told_beside_good_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "X_20220615_B04.tif", 5)
    FOREIGN["x.h5"][0](tmp_path / "x.h5")
    assert len(scenes(tmp_path, "B04")) == 1
    assert "1 files are not read; the first, x.h5, is HDF5" in caplog.text


def test_a_file_of_hdf5_with_another_name_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    FOREIGN["x.h5"][0](tmp_path / "x.dat")
    assert "is HDF5" in refusal(tmp_path / "x.dat", "B04")


def test_a_zip_in_the_layout_of_a_bucket_is_to_be_unpacked(tmp_path: Path) -> None:
    zipped(tmp_path / "S2A_20220615.zip", "tiles/33/T/WL/2022/6/15/0/B04.jp2")
    assert "if it holds images, unpack it" in refusal(tmp_path, "B04")


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("S1A__IW___A_20220615T165043_{}_grd_mli_geo_norm_db.tif", "*{date}_{band}_grd_mli_geo_norm_db.tif"),
        ("20220615/{}_grd_mli_geo_norm_db.tif", "{date}/{band}_grd_mli_geo_norm_db.tif"),
        ("{}_20220615.tif", "{band}_{date}.tif"),
        ("HLS.2022166T101031.{}.v2.0.tif", "*{date}.{band}.v2.0.tif"),
        ("ndvi-{}-2022_06.tif", "*{band}-{date}.tif"),
    ],
)
def test_the_template_of_a_message_is_right(tmp_path: Path, name: str, template: str) -> None:
    """What a message advises is done, and makes the right scene."""
    for value, band in enumerate(("VV", "VH"), start=1):
        write(tmp_path / name.format(band), value, nodata=None)
    words = refusal(tmp_path, "VH", "VV", kind="sentinel1")
    assert f'"{template}" fits this one' in words
    (values,) = seen(tmp_path, "VH", "VV", kind="sentinel1", names=template).values()
    assert values == [2, 1]


def test_radar_without_a_date_says_what_tells_both(tmp_path: Path) -> None:
    for value, band in enumerate(("VV", "VH"), start=1):
        write(tmp_path / f"{band}_grd_mli_geo_norm_db.tif", value, nodata=None)
    template = "{band}_grd_mli_geo_norm_db.tif"
    words = refusal(tmp_path, "VV", "VH", kind="sentinel1")
    assert f'options.names and options.time say both, "{template}" fits' in words
    assert seen(tmp_path, "VV", "VH", kind="sentinel1", names=template, time="2022-06-15") == {day(15): [1, 2]}


def test_a_message_advises_nothing_that_it_cannot_know(tmp_path: Path) -> None:
    """A file that names another band is not offered as this one."""
    write(tmp_path / "S2_B03_20220615.tif", 5)
    words = refusal(tmp_path, "B04")
    assert 'if each such file is B04, say so by options.names, "*{date}.tif"' in words
    assert "{date}" not in refusal(tmp_path, "B04", "B08")
    assert template_for("S2_20220601_20220630_20220701_B04.tif", ["b04"]) == ""
    assert Template("*{date}.tif").fit("S2_B03_20220615.tif", frozenset(("b04",))) is not None


def test_tiles_of_one_name_in_several_folders_are_all_used(tmp_path: Path) -> None:
    """Their names say no tile, so that two of them need not show the same."""
    for folder in ("north", "south"):
        write(tmp_path / "whole" / folder / "20220615.tif", constants(1, 2), ("B4", "B8"))
        write(tmp_path / "bands" / folder / "20220615_B04.tif", 3)
    for where, options in (("whole", {}), ("whole", {"names": "{date}.tif"}), ("bands", {})):
        found = scenes(tmp_path / where, "B04", **options)
        assert [(scene.id, scene.superseded_by) for scene in found] == [("20220615", ""), ("south/20220615", "")]
    copies = "S2A_MSIL2A_20220615T101031_N0400_R022_T32UNA_20220615T140000_B04.tif"
    for folder in ("a", "b"):
        write(tmp_path / "copies" / folder / copies, 3)
    assert [bool(scene.superseded_by) for scene in scenes(tmp_path / "copies", "B04")] == [False, True]


def test_bands_that_are_dates_are_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "ndvi.tif", constants(1, 2), ("2022-06-01", "2022-06-11"))
    assert seen(path, "ndvi", kind="fields") == {day(1): [1], day(11): [2]}
    path = write(tmp_path / "b" / "ndvi.tif", constants(3, 4))
    assert seen(path, "ndvi", kind="fields", steps=["2022-06-02", "2022-06-12"]) == {day(2): [3], day(12): [4]}


def test_folders_that_are_dates(tmp_path: Path) -> None:
    """As buckets have them: the message has a template that fits, and it makes the right scene."""
    write(tmp_path / "tiles/33/T/WL/2022/6/15/0/B04.tif", 5)
    words = refusal(tmp_path, "B04")
    template = "{year}/{month}/{day}/*/{band}.tif"
    assert f'if its date is its time, options.names says so, "{template}"' in words
    assert seen(tmp_path, "B04", names=template) == {day(15): [5]}
    words = refusal(write(tmp_path / "cube_2022-06.tif", constants(1, 2), ("B4", "B8")), "B04")
    assert '"*{date}.tif"' in words


def test_years_in_a_name_are_an_interval_if_they_are_said_to_be(tmp_path: Path) -> None:
    write(tmp_path / "B04_2018_2022.tif", 5)
    assert 'if they are its first and last, options.names says so, "{band}_{start}_{end}.tif"' in refusal(
        tmp_path, "B04"
    )
    (scene,) = scenes(tmp_path, "B04", names="{band}_{start}_{end}.tif")
    assert (scene.time.year, scene.end and scene.end.year) == (2018, 2022)


def test_two_assets_of_an_item_that_are_one_band_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "stack.tif", constants(1, 2))
    assets = {key: {"href": "./stack.tif"} for key in ("red", "nir")}
    item = {"type": "Feature", "id": "x", "properties": {"datetime": "2022-06-15T00:00:00Z"}, "assets": assets}
    (tmp_path / "x.json").write_text(json.dumps(item))
    assert "B04 and B08 would both be band 1 of stack.tif" in refusal(tmp_path, "B04", "B08")


def test_a_torn_image_of_all_bands_is_a_scene_that_says_so(tmp_path: Path) -> None:
    for date in ("20220607", "20220617", "20220627"):
        write(tmp_path / f"S2_{date}.tif", constants(1, 2), ("B4", "B8"))
    (tmp_path / "S2_20220617.tif").write_bytes(b"II*\0 torn")
    for options in ({}, {"names": "S2_{date}.tif"}):
        verdicts = [scene.verdict for scene in scenes(tmp_path, "B04", "B08", **options)]
        assert [bool(verdict) for verdict in verdicts] == [False, True, False]
        assert "S2_20220617.tif does not decode" in verdicts[1]
    assert "S2_20220617.tif does not decode" in refusal(tmp_path / "S2_20220617.tif", "B04", "B08")


def test_a_template_whose_bands_are_others_says_which(tmp_path: Path) -> None:
    write(tmp_path / "S2_20220607_band4.tif", 5)
    words = refusal(tmp_path, "B04", names="S2_{date}_{band}.tif")
    assert "fits 1 images, and none is of a band of the archive: {band} is band4; options.variables" in words
    assert seen(tmp_path, "B04", names="S2_{date}_{band}.tif", variables={"B04": "band4"}) == {day(7): [5]}


@pytest.mark.realdata
def test_exports_of_openeo_are_what_rasterio_reads(tmp_path: Path) -> None:
    """The real files without their Items, as a folder; their bands have no names, the README of the data tells them."""
    files = sorted((REAL_DATA / "s2_l2a_openeo_31UFS_2023-06").glob("*.tif"))
    for file in files:
        shutil.copy(file, tmp_path)
    grid = Grid(crs="EPSG:32631", pixel=10)
    area = PixelArea(row=-567_635, col=64_455, rows=58, cols=73)
    archive = Archive(
        source="sentinel2",
        path=tmp_path,
        bands=("B02", "B03", "B04"),
        offset=0,
        options={"variables": {"B04": 1, "B03": 2, "B02": 3}},
    )
    one = Sentinel2("s2", archive)
    found = list(one.scenes(full_digests=False))
    assert [f"{scene.time:%Y-%m-%d}" for scene in found] == ["2023-06-01", "2023-06-04", "2023-06-06"]
    reader = RasterReader(1)
    try:
        for scene, file in zip(found, files, strict=True):
            with rasterio.open(file) as image:
                expected = image.read([3, 2, 1])
            pixels = one.observe(scene, Window(scene.time, scene.time), grid, area, reader)
            np.testing.assert_array_equal(pixels.values_cyx, expected)
    finally:
        reader.close()
