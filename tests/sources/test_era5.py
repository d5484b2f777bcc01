"""ERA5 through three formats, on any grid, against xarray, cfgrib and a scalar implementation."""

import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.era5 import apart
from embedcube.sources.era5.parameters import PARAMETERS, parameter
from embedcube.sources.era5.source import Era5
from embedcube.sources.reader import RasterReader
from embedcube.testing.contracts import check_source
from embedcube.windows import Duration, Window

# not at the top: it crashes the process at its exit unless pyproj was imported before it
eccodes = pytest.importorskip("eccodes")

Floats = NDArray[np.floating[Any]]

START = datetime(2022, 8, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def reader() -> Iterator[RasterReader]:
    made = RasterReader(threads=2, attempts=2, wait_s=0)
    yield made
    made.close()


def hours(count: int, start: str = "2022-08-31T00:00") -> Any:
    return pandas.date_range(start, periods=count, freq="1h")


def a_field(lat: Any, lon: Any, times: Any, *, seed: int = 0, name: str = "sp") -> Any:
    """A DataArray whose only attributes are those that CF requires for coordinates."""
    values = np.random.default_rng(seed).normal(99000, 1500, (len(times), len(lat), len(lon)))
    return xarray.DataArray(
        values,
        dims=("time", "latitude", "longitude"),
        coords={
            "time": ("time", times, {"standard_name": "time"}),
            "latitude": ("latitude", np.asarray(lat, dtype=np.float32), {"units": "degrees_north"}),
            "longitude": ("longitude", np.asarray(lon, dtype=np.float32), {"units": "degrees_east"}),
        },
        name=name,
    )


NORTH_UP = a_field(np.arange(52, 49.9, -0.25), np.arange(5, 8.1, 0.25), hours(6))
"""9 x 13 points, 6 hours"""


def write_netcdf(path: Path, *arrays: Any, packed: bool = False, **attributes: str) -> Path:
    data = xarray.merge(arrays, compat="override")
    data.attrs.update(attributes)
    packing = {"dtype": "int16", "scale_factor": 0.25, "add_offset": 99000.0, "_FillValue": -32767}
    data.to_netcdf(path, engine="netcdf4", encoding={a.name: packing for a in arrays} if packed else None)
    return path


def write_grib(path: Path, array: Any, *, edition: int = 2, bits: int = 16, scanning: int = 0, **keys: Any) -> Path:
    """Write GRIB with eccodes, from its own sample; `scanning` is the flag of GRIB's code table 3.4."""
    lat, lon = array.latitude.values.astype(float), array.longitude.values.astype(float)
    west_first, north_first = not scanning & 128, not scanning & 64
    array = array.sortby("latitude", ascending=not north_first).sortby("longitude", ascending=west_first)
    with path.open("wb") as file:
        for time, field in zip(pandas.DatetimeIndex(array.time.values), array.values, strict=True):
            handle = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
            wanted: dict[str, Any] = {
                "Ni": len(lon), "Nj": len(lat), "iScansNegatively": int(not west_first),
                "jScansPositively": int(not north_first), "jPointsAreConsecutive": int(bool(scanning & 32)),
                "iDirectionIncrementInDegrees": 0.25, "jDirectionIncrementInDegrees": 0.25,
                "latitudeOfFirstGridPointInDegrees": lat.max() if north_first else lat.min(),
                "latitudeOfLastGridPointInDegrees": lat.min() if north_first else lat.max(),
                "longitudeOfFirstGridPointInDegrees": lon.min() if west_first else lon.max(),
                "longitudeOfLastGridPointInDegrees": lon.max() if west_first else lon.min(),
                "dataDate": int(f"{time:%Y%m%d}"), "dataTime": int(f"{time:%H%M}"), "paramId": 134,
                "bitsPerValue": bits, **keys,
            }  # fmt: skip
            for key, value in wanted.items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set(handle, "bitmapPresent", int(np.isnan(field).any()))
            eccodes.codes_set(handle, "missingValue", 1e20)
            ordered = field.T if scanning & 32 else field
            eccodes.codes_set_values(handle, np.nan_to_num(ordered, nan=1e20).ravel())
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    return path


def era5(path: Path, *bands: str, resampling: Any = "bilinear", **options: Any) -> Era5:
    return Era5("weather", Archive(source="era5", path=path, bands=bands, resampling=resampling, options=options))


def only(source: Era5) -> Scene:
    (scene,) = source.scenes(full_digests=False)
    return scene


def day(start: datetime = START, hours: int = 24) -> Window:
    return Window(start, start + timedelta(hours=hours))


def grid_on(array: Any, pixel: float = 0.25) -> tuple[Grid, PixelArea]:
    """The grid whose pixel centres are an array's points, and the area of all of them."""
    north, west = float(array.latitude.max()), float(array.longitude.min())
    grid = Grid(crs="EPSG:4326", pixel=pixel, origin_x=west - pixel / 2, origin_y=north + pixel / 2)
    return grid, PixelArea(row=0, col=0, rows=array.sizes["latitude"], cols=array.sizes["longitude"])


# --- one field through three formats --------------------------------------------------------------

FORMATS = ["netcdf4", "netcdf3", "zarr2", "zarr3", "grib1", "grib2"]


def write(folder: Path, kind: str, array: Any) -> Path:
    """Read GRIB with cfgrib, the usual tool."""
    if kind.startswith("grib"):
        return write_grib(folder / "field.grib", array, edition=int(kind[-1]))
    if kind.startswith("zarr"):
        array.to_dataset().to_zarr(folder / "field.zarr", zarr_format=int(kind[-1]), consolidated=kind == "zarr2")
        return folder / "field.zarr"
    array.to_netcdf(folder / "field.nc", format="NETCDF4" if kind == "netcdf4" else "NETCDF3_64BIT")
    return folder / "field.nc"


@pytest.mark.parametrize("rows_rise", [False, True], ids=["north first", "south first"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_field_is_the_same_through_every_format(
    kind: str, rows_rise: bool, tmp_path: Path, reader: RasterReader
) -> None:
    array = NORTH_UP.sortby("latitude", ascending=rows_rise)
    source = era5(write(tmp_path, kind, array), "134")
    scene = only(source)
    assert (scene.time, scene.end) == (START, START + timedelta(hours=5))
    assert scene.assets[0].transform == (0.25, 0.0, 4.875, 0.0, -0.25, 52.125)
    grid, area = grid_on(NORTH_UP)
    found = source.observe(scene, day(START + timedelta(hours=1), 3), grid, area, reader)
    packing = (float(array.max() - array.min()) / (2**16 - 1)) if kind.startswith("grib") else 0
    assert found.share_c == (1.0,)
    assert found.seen_yx.all()
    expected = NORTH_UP[1:4].mean("time").values
    np.testing.assert_allclose(found.values_cyx[0], expected, rtol=1e-14, atol=packing)


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize("scanning", range(0, 256, 32))
def test_every_scanning_order_of_grib(edition: int, scanning: int, tmp_path: Path, reader: RasterReader) -> None:
    one = NORTH_UP[:1]
    source = era5(write_grib(tmp_path / "a.grib", one, edition=edition, scanning=scanning, bits=24), "sp")
    grid, area = grid_on(one)
    found = source.observe(only(source), day(), grid, area, reader)
    np.testing.assert_allclose(found.values_cyx[0], one[0].values, rtol=1e-6)


def test_packed_numbers_are_unpacked_in_float64(tmp_path: Path, reader: RasterReader) -> None:
    array = NORTH_UP.where(NORTH_UP.longitude < 7.9).round()
    source = era5(write_netcdf(tmp_path / "a.nc", array, packed=True), "sp", resampling="nearest")
    grid, area = grid_on(array)
    found = source.observe(only(source), day(hours=1), grid, area, reader)
    np.testing.assert_array_equal(found.seen_yx, np.isfinite(array[0].values))
    np.testing.assert_array_equal(found.values_cyx[0], array[0].values)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", PARAMETERS, ids=lambda p: p.short)
def test_the_table_of_parameters_is_that_of_eccodes(known: Any) -> None:
    """GRIB 2 has parameters that GRIB 1 lacks; eccodes and the table agree on the method of their steps."""
    only_2 = known.short in ("evabs", "evaow", "evatc", "evavt", "ptype")
    handle = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{1 + only_2}")
    try:
        eccodes.codes_set(handle, "paramId", known.id)
        assert eccodes.codes_get(handle, "shortName") == known.short
        # eccodes has renamed mean rates; files from the Climate Data Store have their names of before
        assert eccodes.codes_get(handle, "cfVarName") == (known.short if known.method == "mean" else known.netcdf)
        assert parameter(f"{known.id:06d}") == parameter(known.long) == known
        if not only_2 and (step := eccodes.codes_get(handle, "stepTypeForConversion")) != "unknown":
            assert {"accum": "sum", "max": "maximum", "min": "minimum"}[step] == known.method
        assert (known.method == "mean") == known.short.startswith("avg_")
    finally:
        eccodes.codes_release(handle)


def test_no_name_is_that_of_two_parameters() -> None:
    names = [name for known in PARAMETERS for name in known.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("band", ["2t", "t2m", "167", "2m_temperature"])
@pytest.mark.parametrize("attributes", [{}, {"GRIB_paramId": 167}, {"short_name": "t2m", "standard_name": "unknown"}])
def test_a_variable_is_found_by_any_of_its_names(band: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    name = "temperature" if "GRIB_paramId" in attributes else "2m_temperature" if attributes else "t2m"
    array = NORTH_UP.rename(name).assign_attrs(attributes)
    assert only(era5(write_netcdf(tmp_path / "a.nc", array), band)).assets[0].inner == name


def test_a_name_that_the_attributes_deny_is_not_believed(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP.rename("t2m").assign_attrs(GRIB_paramId=168))
    with pytest.raises(RequestError, match=r"no file holds any of t2m; a\.nc has 168"):
        only(era5(path, "t2m"))
    assert only(era5(path, "2d")).assets[0].inner == "t2m"


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("2t", {"param": "0.0.0"}),
        ("t2m", {"param": "167.128", "code": 11}),
        ("T2M", {}),
        ("t2m", {"short_name": "T2M"}),
    ],
)
def test_attributes_that_name_nothing_known_leave_a_variable_its_name(
    name: str, attributes: dict[str, Any], tmp_path: Path
) -> None:
    """Names as CDO writes them, and names in capitals, as some models write them."""
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP.rename(name).assign_attrs(attributes))
    assert only(era5(path, "2m_temperature" if name == "2t" else "t2m")).assets[0].inner == name


def test_capitals_count_where_a_file_has_a_name_in_both_ways(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP.rename("T2M"), NORTH_UP.rename("t2m"), NORTH_UP.rename("2T"))
    assert only(era5(path, "t2m")).assets[0].inner == "t2m"
    assert "could be any of" in only(era5(path, "t2M", methods={"t2M": "point"})).verdict


@pytest.mark.parametrize("name", ["full_37-1h.zarr-v3", "store", "field.zarr"])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_store_is_known_by_what_is_in_it(name: str, zarr_format: Any, tmp_path: Path) -> None:
    """Files inside a store are not listed, and stores beside it are found."""
    store = tmp_path / "archive" / "deep" / name
    NORTH_UP.to_dataset().to_zarr(store, zarr_format=zarr_format, consolidated=zarr_format == 2)
    write_netcdf(store / "sp" / "no_scene.nc", NORTH_UP)
    write_netcdf(tmp_path / "archive" / "other.nc", NORTH_UP.assign_coords(time=hours(6, "2022-09-01T00:00")))
    found = list(era5(tmp_path / "archive", "sp").scenes(full_digests=False))
    assert [scene.assets[0].path for scene in found] == [f"deep/{name}", "other.nc"]
    assert only(era5(store, "sp")).assets[0].path == name
    assert found[0].software == ("cf-xarray", "cftime", "xarray")


def test_a_standard_name_names_one_variable_or_none(tmp_path: Path) -> None:
    arrays = [NORTH_UP.rename(name).assign_attrs(standard_name="air_temperature") for name in ("t2m", "t")]
    scene = only(era5(write_netcdf(tmp_path / "one.nc", arrays[0]), "air_temperature"))
    assert scene.assets[0].inner == "t2m"
    both = only(era5(write_netcdf(tmp_path / "both.nc", *arrays), "air_temperature"))
    assert "could be any of t2m (air_temperature), t (air_temperature)" in both.verdict


def test_a_further_dimension_is_selected_or_refused(tmp_path: Path, reader: RasterReader) -> None:
    levels = xarray.concat([NORTH_UP, NORTH_UP + 1000], "level").assign_coords(level=[500, 850]).rename("t")
    path = write_netcdf(tmp_path / "a.nc", levels)
    assert "dimension level ([500, 850]); pick one: select: {level: ...}" in only(era5(path, "t")).verdict
    assert "no level 700; it has [500, 850]" in only(era5(path, "t", select={"level": 700})).verdict
    source = era5(path, "t", select={"level": 850})
    found = source.observe(only(source), day(), *grid_on(NORTH_UP), reader)
    np.testing.assert_allclose(found.values_cyx[0], NORTH_UP.mean("time").values + 1000, rtol=1e-14)


def test_levels_of_grib_are_selected_or_refused(tmp_path: Path, reader: RasterReader) -> None:
    files = [
        write_grib(tmp_path / f"{level}.part", NORTH_UP + level, typeOfLevel="isobaricInhPa", level=level, paramId=130)
        for level in (500, 850)
    ]
    path = tmp_path / "a.grib"
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    assert "several values of level ([500, 850])" in only(era5(path, "t")).verdict
    source = era5(path, "t", select={"level": 850})
    found = source.observe(only(source), day(), *grid_on(NORTH_UP), reader)
    np.testing.assert_allclose(found.values_cyx[0], NORTH_UP.mean("time").values + 850, atol=0.2)


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"options": {"selct": {}}}, 'options: no option "selct", did you mean "select"'),
        ({"options": {"select": 137}}, "select: Input should be a valid dictionary .found 137."),
        ({"options": {"methods": {"tp": "sum"}}}, 'methods: band "tp" is not one of'),
        ({"options": {"methods": {"sp": "median"}}}, "methods.sp: Input should be 'point', 'mean', 'sum'"),
        ({"options": {"pattern": "{param}.nc"}}, "has no {param} or no {date}"),
        ({"options": {"reduced_gaussian": "bilinear"}}, "Input should be 'nearest' .found 'bilinear'."),
        ({"composite": "median"}, "composite: median means nothing to the source era5; write options.methods"),
        ({"offset": 3}, "offset: 3.0 means nothing to the source era5; numbers are unpacked"),
        ({"resampling": "average"}, "resampling: sp has average; weather is nearest or bilinear"),
    ],
)
def test_wrong_options_are_refused(block: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=complaint):
        Era5("weather", Archive(source="era5", path=tmp_path, bands=("sp",), **block))


# --- frames: see also sources/test_era5_frames.py ----------------------------------------------------------


def test_the_same_times_twice_count_once_and_overlapping_times_are_refused(
    tmp_path: Path, reader: RasterReader
) -> None:
    write_netcdf(tmp_path / "a.nc", NORTH_UP[:, :6].rename("tp"))
    write_netcdf(tmp_path / "b.nc", NORTH_UP[:, 5:].rename("tp"))
    write_netcdf(tmp_path / "late.nc", NORTH_UP[4:, :6].rename("tp") + 1)
    source = era5(tmp_path, "tp")
    scenes = list(source.scenes(full_digests=False))
    assert [bool(scene.verdict) for scene in scenes] == [False, True]
    assert "its times are also in" in scenes[1].verdict
    assert [asset.path for asset in scenes[0].assets] == ["a.nc", "b.nc"]
    grid, area = grid_on(NORTH_UP)
    frame = day(START - timedelta(hours=1), 6)
    picture = source.composite([("", source.observe(scenes[0], frame, grid, area, reader))])
    np.testing.assert_allclose(picture.x_cyx[0], NORTH_UP.sum("time").values, rtol=1e-7)


@pytest.mark.parametrize("late", [False, True], ids=["a step too early", "a step too late"])
def test_a_step_at_a_wrong_time_costs_its_own_file_only(tmp_path: Path, late: bool) -> None:
    """Its times then span those of other files, which lack no step."""
    for number in range(3):
        array = a_field([50.25, 50], [5, 5.25], hours(24, f"2022-08-{28 + number}T00:00"), seed=number)
        if number == (0 if late else 2):
            times = array.time.values.copy()
            times[-1 if late else 0] = np.datetime64("2022-08-31" if late else "2022-07-28", "ns")
            array = array.assign_coords(time=("time", times, {"standard_name": "time"}))
        write_netcdf(tmp_path / f"{number}.nc", array)
    verdicts = {scene.id.split()[-1]: scene.verdict for scene in era5(tmp_path, "sp").scenes(full_digests=False)}
    wrong = "0.nc" if late else "2.nc"
    assert "its times are also in" in verdicts.pop(wrong)
    assert list(verdicts.values()) == ["", ""]


def test_points_without_a_grid_and_files_of_other_variables_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_netcdf(tmp_path / "good.nc", NORTH_UP)
    write_netcdf(tmp_path / "other.nc", NORTH_UP.rename("t2m"))
    write_netcdf(tmp_path / "points.nc", NORTH_UP.isel(latitude=0, drop=True).rename(longitude="location"))
    found = {scene.id.split()[-1]: scene.verdict for scene in era5(tmp_path, "sp").scenes(full_digests=False)}
    assert found.keys() == {"good.nc", "points.nc"}
    assert "sp: it lies on (time, location): no grid, as none of them is its latitude" in found["points.nc"]
    assert "1 files hold none of sp and are left out; the first, other.nc, has t2m" in caplog.text


def test_a_pixel_is_seen_where_every_step_has_a_value(tmp_path: Path, reader: RasterReader) -> None:
    array = NORTH_UP.copy()
    array[2, 3, 4] = np.nan
    source = era5(write_netcdf(tmp_path / "a.nc", array), "sp")
    scene, (grid, area) = only(source), grid_on(array)
    seen_yx = source.observe(scene, day(), grid, area, reader).seen_yx
    assert np.argwhere(~seen_yx).tolist() == [[3, 4]]
    assert source.observe(scene, day(hours=2), grid, area, reader).seen_yx.all()


def test_running_sums_of_grib_are_differenced_from_midnight_and_refused_otherwise(
    tmp_path: Path, reader: RasterReader
) -> None:
    """ERA5-Land's count from midnight; those of a forecast from another hour overlap."""
    total = NORTH_UP.cumsum("time")
    for name, start in (("land", 0), ("forecast", 600)):
        parts = [
            write_grib(
                tmp_path / f"{i}.part", total[i - 1 : i] * 0 + total[i - 1].values, edition=1, paramId=228, bits=24,
                stepType="accum", stepRange=f"0-{i}", dataTime=start, dataDate=20220831,
            )
            for i in (1, 2, 3)
        ]  # fmt: skip
        (tmp_path / f"{name}.grib").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert (
        "accumulates over 3 h at steps of 1 h: its sums overlap" in only(era5(tmp_path / "forecast.grib", "tp")).verdict
    )
    source = era5(tmp_path / "land.grib", "tp")
    scene = only(source)
    assert "differenced, as they count from midnight" in scene.processing
    for first, last in ((0, 3), (1, 2), (1, 3)):
        found = source.observe(scene, day(START + timedelta(hours=first), last - first), *grid_on(NORTH_UP), reader)
        np.testing.assert_allclose(found.values_cyx[0], NORTH_UP[first:last].sum("time").values, rtol=1e-6)
        assert found.share_c == (1.0,)


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2"])
@pytest.mark.parametrize("what", ["rain", "sun", "front"])
def test_running_sums_of_three_days_are_refused(what: str, kind: str, tmp_path: Path, reader: RasterReader) -> None:
    """Headers of NetCDF or Zarr do not mark running sums; sums of single hours are accepted."""
    rng, stamps = np.random.default_rng(1), hours(96, "2022-08-31T01:00")
    clock = np.arange(96) % 24
    hourly = {
        "rain": rng.exponential(1e-3, 96) * (rng.random(96) < 0.3),
        "sun": np.maximum(0, np.sin((clock - 5) / 12 * np.pi)) * 1e6,
        "front": np.where(clock > 12, clock - 12, 0) * (np.arange(96) < 48) + (np.arange(96) >= 48.0),
    }[what]
    each = a_field(NORTH_UP.latitude, NORTH_UP.longitude, stamps, name="tp")
    each[:] = hourly[:, None, None]
    running = each.copy(data=each.values.reshape(4, 24, 9, 13).cumsum(axis=1).reshape(96, 9, 13))
    (grid, area), frame = grid_on(NORTH_UP), day(hours=97)
    for name, array in {"each": each, "running": running}.items():
        (tmp_path / name).mkdir()
        source = era5(write(tmp_path / name, kind, array), "tp")
        scene = only(source)
        if name == "each":
            found = source.observe(scene, frame, grid, area, reader)
            np.testing.assert_allclose(found.values_cyx[0], hourly.sum(), rtol=1e-12)
            mornings = era5(write_netcdf(tmp_path / "mornings.nc", array[(clock > 4) & (clock < 12)]), "tp")
            assert mornings.observe(only(mornings), frame, grid, area, reader).seen_yx.all()
        else:
            assert "grows through each day and begins anew: its sums overlap" in scene.verdict
            source = era5(tmp_path / name, "tp", accumulated="since_midnight")
            scene = only(source)
            for first, last in ((0, 96), (0, 24), (24, 72), (5, 30), (7, 9)):
                part = day(START + timedelta(hours=first), last - first)
                found = source.observe(scene, part, grid, area, reader)
                np.testing.assert_allclose(found.values_cyx[0], hourly[first:last].sum(), rtol=1e-12, atol=1e-12)
                assert found.share_c == pytest.approx((1.0,))


@pytest.mark.parametrize("kind", ["dimension", "coordinate", "grib"])
def test_preliminary_data_fill_what_final_data_lack(kind: str, tmp_path: Path, reader: RasterReader) -> None:
    final, prelim = NORTH_UP[:4], NORTH_UP[4:]
    if kind == "dimension":
        both = [part.reindex(time=NORTH_UP.time) for part in (prelim, final)]
        path = write_netcdf(tmp_path / "a.nc", xarray.concat(both, "expver").assign_coords(expver=[5, 1]))
        said = "expver 1, then 5 where that is missing"
    elif kind == "coordinate":
        versions = ("time", ["0001"] * 4 + ["0005"] * 2)
        path = write_netcdf(tmp_path / "a.nc", NORTH_UP.assign_coords(expver=versions))
        said = "expver 0001, 0005"
    else:
        path, said = tmp_path / "a.grib", "expver 0001, 0005"
        parts = [
            write_grib(tmp_path / "1.part", final, edition=1, expver="0001"),
            write_grib(
                tmp_path / "5.part", NORTH_UP + 5e3 * (NORTH_UP.time < prelim.time[0]), edition=1, expver="0005"
            ),
        ]
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = era5(path, "sp")
    scene = only(source)
    assert scene.processing.startswith("sp: mean over the frame's steps, one every 1 h, nothing where more than half")
    assert scene.processing.endswith(f"; sp: {said}")
    found = source.observe(scene, day(), *grid_on(NORTH_UP), reader)
    np.testing.assert_allclose(found.values_cyx[0], NORTH_UP.mean("time").values, atol=0.2)


# --- places ---------------------------------------------------------------------------------------


def naive(field: Any, lon: float, lat: float, method: str, dx: float, dy: float) -> float:
    """The value at a location by scalar code: nearest or bilinear, around the globe and over the poles."""
    if abs(lat) > 90:
        lat, lon = math.copysign(180, lat) - lat, lon + 180
    points: dict[tuple[int, int], float] = {}
    for j, point_lat in enumerate(field.latitude.values.astype(float)):
        for i, point_lon in enumerate(field.longitude.values.astype(float)):
            down = round((90 - point_lat) / dy * 2)  # in half steps from the north pole and from Greenwich
            right = round(point_lon / dx * 2) % round(720 / dx)
            points[down, right] = float(field.values[j, i])
    around, low = round(720 / dx), min(down for down, _ in points)
    meridians = {right for _, right in points}
    first = min((right for right in meridians if (right - 2) % around not in meridians), default=min(meridians))

    def at(down: int, right: int) -> float:
        if down < 0:
            down, right = -down, right + around // 2
        if down > round(360 / dy):
            down, right = 2 * round(360 / dy) - down, right + around // 2
        return points.get((down, right % around), math.nan)

    y, x = ((90 - lat) / dy * 2 - low) / 2, ((lon % 360) / dx * 2 - first) / 2
    whole = len(meridians) * 2 == around
    x %= around / 2
    rows, cols = field.sizes["latitude"], field.sizes["longitude"]
    if not whole and x >= around / 2 - 0.5:
        x -= around / 2
    if not (-0.5 <= y <= rows - 0.5) or not (whole or -0.5 <= x <= cols - 0.5):
        return math.nan
    if method == "nearest":
        return at(low + 2 * math.floor(y + 0.5), first + 2 * math.floor(x + 0.5))
    total = weight = 0.0
    for j in (math.floor(y), math.floor(y) + 1):
        for i in (math.floor(x), math.floor(x) + 1):
            value, share = at(low + 2 * j, first + 2 * i), (1 - abs(y - j)) * (1 - abs(x - i))
            if share > 1e-9 and not math.isnan(value):
                total, weight = total + value * share, weight + share
    return total / weight if weight > 1e-5 else math.nan


@st.composite
def fields(draw: st.DrawFn) -> Any:
    """Global or regional lattices, with points on or around the poles, from any meridian, rising or falling."""
    step = draw(st.sampled_from([15.0, 30.0]))
    half = draw(st.sampled_from([0.0, step / 2]))
    lat = np.arange(90 - half, -90 + half - 1, -step)
    west = draw(st.integers(-12, 12)) * step / 2
    lon = west + step * np.arange(round(360 / step))
    if draw(st.booleans()):
        lat = lat[draw(st.integers(0, 2)) : len(lat) - draw(st.integers(0, 2))]
        lon = lon[: draw(st.integers(2, len(lon) - 1))]
    field = a_field(lat, lon, hours(1), seed=draw(st.integers(0, 5)))
    if draw(st.booleans()):
        field = field.where(field > np.quantile(field, 0.2))
    field = field.assign_coords(longitude=("longitude", _meridians(lon, draw), field.longitude.attrs))
    return field.sortby("latitude", ascending=draw(st.booleans())), step


def _meridians(lon: Floats, draw: st.DrawFn) -> Floats:
    """The same longitudes unchanged, from 0 to 360, or from -180 to 180; the last two may jump."""
    kind = draw(st.sampled_from(["as is", "0..360", "-180..180"]))
    return lon if kind == "as is" else lon % 360 if kind == "0..360" else (lon + 180) % 360 - 180


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=fields(),
    method=st.sampled_from(["nearest", "bilinear"]),
    pixel=st.sampled_from([15.0, 10.0, 7.0]),
    origin=st.sampled_from([-180.0, -7.5, 0.0, 3.0]),
    corner=st.tuples(st.integers(-4, 16), st.integers(-30, 60)),
)
def test_any_field_on_any_lattice_is_what_a_scalar_loop_finds(
    case: Any, method: str, pixel: float, origin: float, corner: tuple[int, int], tmp_path: Path, reader: RasterReader
) -> None:
    field, step = case
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.nc"
    source = era5(write_netcdf(path, field), "sp", resampling=method)
    grid = Grid(crs="EPSG:4326", pixel=pixel, origin_x=origin, origin_y=90)
    area = PixelArea(row=corner[0], col=corner[1], rows=6, cols=9)
    found = source.observe(only(source), day(), grid, area, reader)
    for row, lat in enumerate(90 - (corner[0] + np.arange(6) + 0.5) * pixel):
        for col, lon in enumerate(origin + (corner[1] + np.arange(9) + 0.5) * pixel):
            if lat < -270 or lat > 270:
                continue
            expected = naive(field[0], float(lon), float(lat), method, step, step)
            assert found.seen_yx[row, col] == (not math.isnan(expected)), (lon, lat)
            if found.seen_yx[row, col]:
                assert found.values_cyx[0, row, col] == pytest.approx(expected, rel=1e-12), (lon, lat)


def test_the_halo_sees_beyond_the_date_line_and_the_pole(tmp_path: Path, reader: RasterReader) -> None:
    globe = a_field(np.arange(90, -90.1, -10), np.arange(0, 360, 10), hours(1))
    source = era5(write_netcdf(tmp_path / "a.nc", globe), "sp")
    grid = Grid(crs="EPSG:4326", pixel=10, origin_x=-185, origin_y=95)
    area = PixelArea(row=-2, col=-2, rows=23, cols=40)
    found = source.observe(only(source), day(), grid, area, reader)
    assert found.seen_yx.all()
    values = found.values_cyx[0]
    np.testing.assert_array_equal(values[:, :2], values[:, 36:38])
    np.testing.assert_array_equal(values[0, :18], values[4, 18:36])
    np.testing.assert_array_equal(values[2:21, 2:38], np.roll(globe[0].values, 18, axis=1))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "grid",
    [
        Grid(crs="EPSG:4326", pixel=0.25, origin_x=-0.125, origin_y=0.125),
        Grid(crs="EPSG:4326", pixel=0.04),
        Grid.of_zone(32, 9000, (0, 0)),
        Grid(crs="EPSG:3035", pixel=4000),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_it_keeps_the_contract(kind: str, grid: Grid, tmp_path: Path) -> None:
    check_source(era5(write(tmp_path, kind, NORTH_UP), "sp"), grid, area_px=48)


def test_a_field_of_the_globe_is_near_a_projections_grid(tmp_path: Path, reader: RasterReader) -> None:
    globe = a_field(np.arange(90, -90.1, -2), np.arange(0, 360, 2), hours(1))
    source = era5(write_netcdf(tmp_path / "a.nc", globe), "sp")
    scene = only(source)
    for zone, lon in ((1, 183.0), (31, 3.0), (60, 177.0)):
        grid = Grid.of_zone(zone, 100, (0, 0))
        boxes = scene.boxes_in(grid)
        xmin, ymin = np.min(boxes, axis=0)[:2]
        xmax, ymax = np.max(boxes, axis=0)[2:]
        assert xmin < 166_000 < 834_000 < xmax, "a zone is 668 km wide at the equator"
        assert ymin < -9_300_000 < 9_300_000 < ymax
        for lat in (-75.0, 0.0, 50.0):
            x, y = _utm(zone, lon, lat)
            row, col = grid.rows_cols(np.array([x]), np.array([y]))
            area = PixelArea(row=int(row[0]), col=int(col[0]), rows=1, cols=1)
            (lons,), (lats,) = grid.degrees(area, 1)
            found = source.observe(scene, day(), grid, area, reader).values_cyx[0, 0, 0]
            assert found == pytest.approx(naive(globe[0], float(lons[0]), float(lats[0]), "bilinear", 2, 2), rel=1e-7)


def _utm(zone: int, lon: float, lat: float) -> tuple[float, float]:
    from pyproj import Transformer

    x, y = Transformer.from_crs("EPSG:4326", f"EPSG:{32600 + zone}", always_xy=True).transform(lon, lat)
    return float(x), float(y)


def test_a_reduced_gaussian_grid_is_read_by_the_nearest_point(tmp_path: Path, reader: RasterReader) -> None:
    handle = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib2")
    count = eccodes.codes_get_size(handle, "values")
    eccodes.codes_set(handle, "paramId", 130)
    eccodes.codes_set(handle, "dataDate", 20220831)
    eccodes.codes_set(handle, "dataTime", 0)
    eccodes.codes_set(handle, "bitsPerValue", 24)
    eccodes.codes_set_values(handle, np.arange(count, dtype=float))
    lat, lon = (eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes"))
    with (tmp_path / "a.grb").open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    assert "say reduced_gaussian: nearest" in only(era5(tmp_path, "t")).verdict
    source = era5(tmp_path, "t", reduced_gaussian="nearest")
    grid = Grid(crs="EPSG:4326", pixel=3.7, origin_x=-180, origin_y=90)
    area = PixelArea(row=-2, col=-3, rows=54, cols=104)
    found = source.observe(only(source), day(), grid, area, reader)
    assert found.seen_yx.all()

    def directions(lon: Floats, lat: Floats) -> Floats:
        lon, lat = np.radians(lon), np.radians(lat)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)

    here = directions(*(degrees.ravel() for degrees in grid.degrees(area, 1)))
    cosines = here @ directions(lon, lat).T
    chosen = np.rint(found.values_cyx[0].ravel()).astype(int)
    np.testing.assert_allclose(cosines[np.arange(len(here)), chosen], cosines.max(axis=1), atol=1e-12)


def test_bands_that_are_cut_otherwise_are_told_to_take_archives_of_their_own(tmp_path: Path) -> None:
    for d in (0, 1):
        write_netcdf(tmp_path / f"t2m_{d}.nc", NORTH_UP[3 * d : 3 * d + 3].rename("t2m"))
    write_netcdf(tmp_path / "tp.nc", NORTH_UP.rename("tp"))
    verdicts = [scene.verdict for scene in era5(tmp_path, "t2m", "tp").scenes(full_digests=False)]
    assert len(verdicts) == 3
    assert all("bands that are cut otherwise need archives of their own" in verdict for verdict in verdicts)
    for band, count in (("t2m", 2), ("tp", 1)):
        assert [s.verdict for s in era5(tmp_path, band).scenes(full_digests=False)] == [""] * count


# --- patterns -------------------------------------------------------------------------------------


def test_a_pattern_is_expanded_without_opening_every_file(
    tmp_path: Path, reader: RasterReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of DKRZ's pool: hourly data in files of a day, parameters in folders."""
    for i, folder in enumerate(("134", "228")):
        (tmp_path / folder).mkdir()
        for d in range(28, 32):
            array = a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(24, f"2022-08-{d}"), seed=100 * i + d)
            write_grib(tmp_path / folder / f"E5sf00_1H_2022-08-{d}_{folder}.grb", array, paramId=int(folder))
    (tmp_path / "134" / "E5sf00_1H_2022-08-28_228.grb").write_bytes(b"not of this folder")
    # files are opened in this process, where that is seen
    monkeypatch.setattr(apart, "apart", lambda work, size, *args: work(*args))
    opened: list[Path] = []
    watched = [True]
    # sees every open() of this process; an audit hook cannot be removed, so it does nothing after this test
    sys.addaudithook(lambda event, facts: opened.append(facts[0]) if watched and event == "open" else None)
    pattern = "{param}/E5sf00_1H_{date}_{param}.grb"
    source = era5(tmp_path, "sp", "total_precipitation", pattern=pattern, methods={"total_precipitation": "sum"})
    scenes = list(source.scenes(full_digests=False))
    watched.clear()
    names = [str(path) for path in opened if str(path).startswith(str(tmp_path))]
    assert names == [str(tmp_path / param / f"E5sf00_1H_2022-08-28_{param}.grb") for param in ("134", "228")]
    assert all(scene.weak for scene in scenes)
    assert len({asset.digest for scene in scenes for asset in scene.assets}) == 8
    assert not any(scene.weak for scene in source.scenes(full_digests=True))
    without = list(era5(tmp_path, "sp", "tp", methods={"tp": "sum"}).scenes(full_digests=False))
    assert [(s.time, s.end) for s in scenes] == [(s.time, s.end) for s in without if not s.end or s.end.year < 2100]
    last = scenes[-1]
    assert [a.path for a in last.assets] == [f"{p}/E5sf00_1H_2022-08-31_{p}.grb" for p in (134, 228)]
    found = source.observe(last, day(hours=2), *grid_on(NORTH_UP), reader)
    for i, band in enumerate(found.values_cyx):
        expected = a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(24), seed=100 * i + 31)[i : 2 + i]
        np.testing.assert_allclose(band, expected.sum("time") if i else expected.mean("time"), atol=0.5)


@pytest.mark.parametrize(
    ("pattern", "names", "times", "spans"),
    [
        ("sp_{date}_{param}.nc", ("202202", "202303", "202404"), "D", (28, 31, 30)),
        ("*_{param}_{date}.nc", ("2023", "2024", "2025"), "MS", (12, 12, 12)),
        ("{date}-{param}.nc", ("20220831", "20240229", "20250101"), "6h", (4, 4, 4)),
    ],
)
def test_times_follow_from_names(
    pattern: str, names: tuple[str, ...], times: str, spans: tuple[int, ...], tmp_path: Path, reader: RasterReader
) -> None:
    for name, count in zip(names, spans, strict=True):
        start = f"{name[:4]}-{name[4:6] or '01'}-{name[6:8] or '01'}T00:00"
        array = a_field(NORTH_UP.latitude, NORTH_UP.longitude, pandas.date_range(start, periods=count, freq=times))
        write_netcdf(tmp_path / pattern.format(date=name, param="sp").replace("*", "any"), array)
    source = era5(tmp_path, "134", pattern=pattern)
    scenes = list(source.scenes(full_digests=False))
    assert [scene.assets[0].steps for scene in scenes] == list(spans)
    for scene in scenes:
        length = {"D": "1 month", "MS": "1 year", "6h": "1 day"}[times]
        frame = Window(scene.time, Duration.parse(length).after(scene.time))
        assert source.observe(scene, frame, *grid_on(NORTH_UP), reader).share_c == (1.0,)


def test_a_name_with_a_date_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for date in ("2022-08-30", "2022-08-32"):
        write_netcdf(tmp_path / f"sp_{date}.nc", a_field([51, 50], [5, 6], hours(24, "2022-08-30")))
    with pytest.raises(RequestError, match=r"sp_2022-08-32\.nc has the date 2022-08-32 in its name: day is out"):
        list(era5(tmp_path, "sp", pattern="{param}_{date}.nc").scenes(full_digests=False))


def test_a_file_with_fewer_steps_than_its_name_says_is_corrupt(tmp_path: Path, reader: RasterReader) -> None:
    for d, count in ((30, 24), (31, 23)):
        write_netcdf(tmp_path / f"sp_2022-08-{d}.nc", a_field([51, 50], [5, 6], hours(count, f"2022-08-{d}")))
    source = era5(tmp_path, "sp", pattern="{param}_{date}.nc")
    _, short = source.scenes(full_digests=False)
    with pytest.raises(CorruptInput, match=r"to 2022-08-31T22:00 in 23 steps, expected .* in 24 steps"):
        source.observe(short, day(), Grid(crs="EPSG:4326", pixel=1), PixelArea(row=-51, col=5, rows=1, cols=1), reader)


def test_preliminary_data_do_not_pass_for_final_ones_behind_a_pattern(tmp_path: Path, reader: RasterReader) -> None:
    for d, version in ((30, "0001"), (31, "0005")):
        array = a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(24, f"2022-08-{d}"))
        write_grib(tmp_path / f"sp_2022-08-{d}.grb", array, edition=1, expver=version)
    source, (grid, area) = era5(tmp_path, "sp", pattern="{param}_{date}.grb"), grid_on(NORTH_UP)
    final, preliminary = source.scenes(full_digests=False)
    assert source.observe(final, day(final.time), grid, area, reader).seen_yx.all()
    with pytest.raises(CorruptInput, match="sp is of expver 0005, by its inventory it is not"):
        source.observe(preliminary, day(), grid, area, reader)
    opened = era5(tmp_path, "sp")
    _, preliminary = opened.scenes(full_digests=False)
    assert preliminary.processing.endswith("; sp: expver 0005")
    assert opened.observe(preliminary, day(), grid, area, reader).seen_yx.all()


# --- what reads them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "packages"),
    [
        ("netcdf4", ("cf-xarray", "cftime", "netCDF4", "xarray")),
        ("zarr2", ("cf-xarray", "cftime", "xarray")),
        ("grib2", ("eccodes", "eccodeslib")),
    ],
)
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_scene_names_the_packages_that_decode_it(kind: str, packages: tuple[str, ...], tmp_path: Path) -> None:
    scene = only(era5(write(tmp_path, kind, NORTH_UP), "sp"))
    assert scene.software == packages
    assert all(metadata.version(package) for package in packages), "distributions, not modules"


# --- wrong bytes ----------------------------------------------------------------------------------


def observed(source: Era5, scene: Scene, reader: RasterReader) -> Observation:
    return source.observe(scene, day(), *grid_on(NORTH_UP), reader)


@pytest.mark.parametrize("edition", [1, 2])
def test_a_torn_grib_is_seen(edition: int, tmp_path: Path, reader: RasterReader) -> None:
    path = write_grib(tmp_path / "a.grib", NORTH_UP, edition=edition)
    whole = path.read_bytes()
    source = era5(tmp_path, "sp")
    good = only(source)
    length = len(whole) // 6
    for torn, complaint in (
        (whole[:-40], f"has {len(whole) - 40} bytes, {len(whole)} when it was indexed"),
        (whole[: 5 * length], f"has {5 * length} bytes, {len(whole)} when it was indexed"),
        (whole[:-40] + bytes(40), "does not decode"),
    ):
        path.write_bytes(torn)
        with pytest.raises(CorruptInput, match=complaint):
            observed(source, good, reader)
    path.write_bytes(whole[:-40])
    scene = only(source)
    assert "a.grib does not decode" in scene.verdict
    assert scene.meets(day())
    holed = whole[: 2 * length] + bytes(length) + whole[3 * length :]
    path.write_bytes(holed)
    assert f"bytes {2 * length} to {3 * length} hold no message" in only(source).verdict


def test_zeroed_bytes_of_packed_netcdf_are_seen(tmp_path: Path, reader: RasterReader) -> None:
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP, packed=True)
    data = bytearray(path.read_bytes())
    raw = xarray.open_dataset(path, engine="netcdf4", mask_and_scale=False)["sp"].values
    at = data.find(raw[2].tobytes())
    assert at > 0
    data[at : at + raw[2].nbytes] = bytes(raw[2].nbytes)
    path.write_bytes(bytes(data))
    source = era5(path, "sp")
    scene, (grid, area) = only(source), grid_on(NORTH_UP)
    with pytest.raises(CorruptInput, match="sp has nothing but zero bytes at 2022-08-31T02:00:00"):
        source.observe(scene, day(), grid, area, reader)
    corner = PixelArea(row=0, col=0, rows=2, cols=2)
    with pytest.raises(CorruptInput, match="nothing but zero bytes"):
        source.observe(scene, day(), grid, corner, reader)
    assert source.observe(scene, day(hours=2), grid, area, reader).seen_yx.all()


@pytest.mark.parametrize("offset", [{}, {"add_offset": 0.0}], ids=["no offset", "zero"])
def test_a_dry_hour_is_no_hole(offset: dict[str, float], tmp_path: Path, reader: RasterReader) -> None:
    rain = (NORTH_UP * 0).rename("tp")
    rain[2] = 1e-3
    packing = {"dtype": "int16", "scale_factor": 1e-5, "_FillValue": -32767, **offset}
    rain.to_netcdf(tmp_path / "a.nc", engine="netcdf4", encoding={"tp": packing})
    source = era5(tmp_path / "a.nc", "tp")
    found = source.observe(only(source), day(), *grid_on(rain), reader)
    np.testing.assert_allclose(found.values_cyx[0], 1e-3, rtol=1e-12)


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2", "grib2"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_field_without_any_value_is_a_missing_step_and_one_without_here_is_not_seen(
    kind: str, tmp_path: Path, reader: RasterReader
) -> None:
    array = NORTH_UP.copy()
    array[:, :, :4] = np.nan  # land, say
    array[3] = np.nan
    source = era5(write(tmp_path, kind, array), "sp")
    scene, (grid, area) = only(source), grid_on(NORTH_UP)
    found = source.observe(scene, day(hours=6), grid, area, reader)
    picture = source.composite([("", found)])
    packing = 0.1 if kind == "grib2" else 1e-9
    np.testing.assert_allclose(picture.x_cyx[0], array.mean("time", skipna=True).values, rtol=1e-7, atol=packing)
    assert picture.incomplete_yx is not None
    np.testing.assert_array_equal(picture.incomplete_yx, np.isfinite(array[0].values))
    land = PixelArea(row=0, col=0, rows=9, cols=3)
    assert not source.observe(scene, day(hours=3), grid, land, reader).seen_yx.any()


def test_a_lost_chunk_of_a_store_is_a_missing_step_and_a_torn_one_is_seen(tmp_path: Path, reader: RasterReader) -> None:
    path = tmp_path / "a.zarr"
    NORTH_UP.to_dataset().to_zarr(path, zarr_format=2, encoding={"sp": {"chunks": (1, 9, 13)}})
    (path / "sp" / "4.0.0").unlink()
    source = era5(path, "sp")
    picture = source.composite([("", source.observe(only(source), day(hours=6), *grid_on(NORTH_UP), reader))])
    assert picture.incomplete_yx is not None
    assert picture.incomplete_yx.all()
    (path / "sp" / "2.0.0").write_bytes(b"torn")
    with pytest.raises(CorruptInput, match="does not decode"):
        source.observe(only(source), day(hours=3), *grid_on(NORTH_UP), reader)


def test_decades_that_a_store_reserves_hold_no_data(tmp_path: Path) -> None:
    """As in ARCO-ERA5: the time axis goes on after the data; attributes say where they end."""
    array = a_field([51, 50], [5, 6], hours(72))
    path = write_netcdf(tmp_path / "a.nc", array, valid_time_start="2022-09-01", valid_time_stop="2022-09-01")
    scene = only(era5(path, "sp"))
    assert (scene.time.day, scene.assets[0].steps) == (1, 24)


def test_an_unreadable_file_is_a_scene_that_says_so(tmp_path: Path) -> None:
    write_netcdf(tmp_path / "a.nc", NORTH_UP)
    (tmp_path / "b.nc").write_bytes(b"torn")
    bad, good = era5(tmp_path, "sp").scenes(full_digests=False)
    assert not good.verdict
    assert "b.nc does not decode" in bad.verdict
    assert bad.bbox == good.bbox


@pytest.mark.parametrize("empty", [NORTH_UP[:, :0], NORTH_UP[:, :, :0]], ids=["latitude", "longitude"])
def test_a_file_without_points_is_a_scene_that_says_so(empty: Any, tmp_path: Path) -> None:
    write_netcdf(tmp_path / "a.nc", NORTH_UP)
    write_netcdf(tmp_path / "b.nc", empty)
    bad, good = era5(tmp_path, "sp").scenes(full_digests=False)
    assert not good.verdict
    assert bad.verdict == "sp: sp: it has no points"


def test_a_deleted_file_is_corrupt_and_a_changed_one_too(tmp_path: Path, reader: RasterReader) -> None:
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP)
    write_netcdf(tmp_path / "other.nc", NORTH_UP[:, :, :5] + 0, packed=True)
    source = era5(path, "sp")
    scene = only(source)
    path.write_bytes((tmp_path / "other.nc").read_bytes())
    with pytest.raises(CorruptInput, match=r"bytes, .* when it was indexed"):
        observed(source, scene, reader)
    path.unlink()
    with pytest.raises(CorruptInput, match=r"a\.nc is gone since it was indexed"):
        observed(source, scene, reader)
