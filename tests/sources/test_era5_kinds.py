"""Weather that is valid and was once wrong: lengths of steps, rates, running sums, repeated steps, units, odd files."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
import yaml
from tests.sources.test_era5 import (
    NORTH_UP,
    START,
    a_field,
    day,
    era5,
    grid_on,
    hours,
    only,
    write_grib,
    write_netcdf,
)

from embedcube.campaign.scene import Scene
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.composite import Composite
from embedcube.sources.era5.source import Era5
from embedcube.sources.era5.timeline import Timeline, read_timeline
from embedcube.sources.era5.units import conversion, daily
from embedcube.sources.era5.unpacking import unpacked
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window

LAT, LON = NORTH_UP.latitude, NORTH_UP.longitude


@pytest.fixture(scope="module")
def reader() -> Iterator[RasterReader]:
    made = RasterReader(threads=2, attempts=2, wait_s=0)
    yield made
    made.close()


def used(source: Era5) -> list[Scene]:
    return [scene for scene in source.scenes(full_digests=False) if not scene.superseded_by]


def picture(source: Era5, frame: Window, reader: RasterReader) -> Composite | None:
    """The composite of a frame; None where no scene meets it."""
    scenes = [scene for scene in used(source) if scene.meets(frame)]
    assert not [scene.verdict for scene in scenes if scene.verdict]
    grid, area = grid_on(NORTH_UP)
    found = [(s.acquisition, source.observe(s, frame, grid, area, reader)) for s in scenes]
    return source.composite(found) if found else None


def between(first: str, last: str) -> Window:
    return Window(*(datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in (first, last)))


def months(count: int, name: str, **attributes: str) -> Any:
    stamps = pandas.date_range("2022-01-01", periods=count, freq="MS")
    return a_field(LAT, LON, stamps, name=name).assign_attrs(attributes)


# --- how long a step is -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [range(0, 24, 3), [12]], ids=["every third hour", "noon"])
@pytest.mark.parametrize("edition", [1, 2])
def test_sums_of_grib_fill_no_more_than_the_range_that_they_state(
    edition: int, kept: Any, tmp_path: Path, reader: RasterReader
) -> None:
    array = a_field(LAT, LON, hours(24), seed=3)
    keys: dict[str, Any] = {"paramId": 228, "stepType": "accum", "stepRange": "0-1", "bits": 24}
    source = era5(write_grib(tmp_path / "a.grib", array[list(kept)], edition=edition, **keys), "tp")
    found = picture(source, day(), reader)
    assert found is None or not found.clear_yx.any()
    hour = int(next(iter(kept)))
    # the message of this reference time is valid an hour later
    alone = picture(source, day(START + timedelta(hours=hour), 1), reader)
    assert alone is not None
    np.testing.assert_allclose(alone.x_cyx[0], array[hour].values, rtol=1e-5)


def test_a_sum_of_a_day_is_none_of_a_part_or_of_a_week(tmp_path: Path, reader: RasterReader) -> None:
    keys: dict[str, Any] = {"paramId": 228, "stepType": "accum", "stepRange": "0-24", "bits": 24}
    source = era5(write_grib(tmp_path / "a.grib", NORTH_UP[:1], **keys), "tp")
    for frame in (day(hours=6), day(START + timedelta(hours=18), 6), day(hours=168)):
        found = picture(source, frame, reader)
        assert found is None or not found.clear_yx.any()
    whole = picture(source, day(), reader)
    assert whole is not None
    np.testing.assert_allclose(whole.x_cyx[0], NORTH_UP[0].values, rtol=1e-5)


@pytest.mark.parametrize("band", ["tp", "mx2t", "mtpr"])
def test_a_single_step_of_unknown_length_fills_nothing(band: str, tmp_path: Path, reader: RasterReader) -> None:
    source = era5(write_netcdf(tmp_path / "a.nc", NORTH_UP[:1].rename(band)), band)
    assert "a single step of unknown length, which fills nothing" in only(source).processing
    for frame in (day(START - timedelta(hours=1), 1), day(), day(START - timedelta(hours=24), 25)):
        found = picture(source, frame, reader)
        assert found is None or not found.clear_yx.any()


def test_a_single_instant_is_a_value_and_never_all_of_a_frame(tmp_path: Path, reader: RasterReader) -> None:
    source = era5(write_netcdf(tmp_path / "a.nc", NORTH_UP[:1].rename("t2m")), "2t")
    found = picture(source, day(), reader)
    assert found is not None
    assert found.incomplete_yx is not None
    assert found.incomplete_yx.all()
    np.testing.assert_allclose(found.x_cyx[0], NORTH_UP[0].values, rtol=1e-7)


@pytest.mark.parametrize("files", [1, 4, 12])
@pytest.mark.parametrize(("band", "attributes"), [("t2m", {}), ("mtpr", {}), ("t2m", {"GRIB_stepType": "avgua"})])
def test_months_are_weighted_by_their_days_however_they_are_cut(
    files: int, band: str, attributes: dict[str, str], tmp_path: Path, reader: RasterReader
) -> None:
    array = months(12, band, **attributes)
    for i, part in enumerate(np.split(np.arange(12), files)):
        write_netcdf(tmp_path / f"{i}.nc", array[part])
    source = era5(tmp_path, band)
    days = array.time.dt.days_in_month.values.astype(float)
    year = picture(source, between("2022-01-01", "2023-01-01"), reader)
    assert year is not None
    np.testing.assert_allclose(year.x_cyx[0], np.average(array.values, axis=0, weights=days), rtol=1e-7)
    across = picture(source, between("2022-01-15", "2022-02-15"), reader)
    assert across is not None
    expected = np.average(array[:2].values, axis=0, weights=[17, 14])
    np.testing.assert_allclose(across.x_cyx[0], expected, rtol=1e-7)
    assert across.incomplete_yx is not None
    assert not across.incomplete_yx.any()


# --- what a sum counts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ({"GRIB_stepType": "avgad", "units": "m"}, {}),
        ({"units": "m day-1"}, {}),
        ({"units": "m"}, {"accumulated": "per_day"}),
    ],
)
def test_monthly_means_of_sums_are_per_day(
    attributes: dict[str, str], options: dict[str, Any], tmp_path: Path, reader: RasterReader
) -> None:
    array = months(12, "tp", **attributes)
    source = era5(write_netcdf(tmp_path / "a.nc", array), "tp", **options)
    assert "each times its days, as values are per day" in only(source).processing
    year = picture(source, between("2022-01-01", "2023-01-01"), reader)
    assert year is not None
    days = array.time.dt.days_in_month.values.astype(float)
    np.testing.assert_allclose(year.x_cyx[0], np.einsum("t,tyx->yx", days, array.values), rtol=1e-7)


def test_months_of_grib_are_known_by_their_step_type(tmp_path: Path, reader: RasterReader) -> None:
    stamps = pandas.date_range("2022-01-01", periods=2, freq="MS")
    array = a_field(LAT, LON, stamps)
    keys: dict[str, Any] = {"edition": 1, "paramId": 228, "timeRangeIndicator": 130, "bits": 24}
    source = era5(write_grib(tmp_path / "a.grib", array, **keys), "tp")
    found = picture(source, between("2022-01-01", "2022-03-01"), reader)
    assert found is not None
    np.testing.assert_allclose(found.x_cyx[0], 31 * array[0].values + 28 * array[1].values, rtol=1e-5)


def test_running_sums_are_seen_in_a_day_and_are_not_guessed(tmp_path: Path, reader: RasterReader) -> None:
    """A file of each day, stamped from 00:00 to 23:00; falling and rising flux."""
    rng = np.random.default_rng(2)
    hourly = rng.normal(50, 60, (72, 9, 13)) + 40 * np.sin(np.arange(72) / 24 * 2 * np.pi)[:, None, None]
    running = hourly.reshape(3, 24, 9, 13).cumsum(axis=1).reshape(72, 9, 13)
    array = a_field(LAT, LON, hours(72, "2022-08-31T01:00"), name="sshf").copy(data=running)
    for i in range(4):
        of_day = array.time.dt.day == (START + timedelta(days=i)).day
        write_netcdf(tmp_path / f"{i}.nc", array[of_day.values])
    assert all("say accumulated" in scene.verdict for scene in used(era5(tmp_path, "sshf")))
    source = era5(tmp_path, "sshf", accumulated={"sshf": "since_midnight"})
    for first, last in ((0, 24), (24, 72), (3, 30), (47, 49)):
        found = picture(source, day(START + timedelta(hours=first), last - first), reader)
        assert found is not None
        np.testing.assert_allclose(found.x_cyx[0], hourly[first:last].sum(axis=0), rtol=1e-4, atol=1e-3)


# --- what is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "NaN", "NaN here"])
def test_a_mean_of_a_part_of_the_hours_says_so(how: str, tmp_path: Path, reader: RasterReader) -> None:
    array = a_field(LAT, LON, hours(24), name="t2m")
    nights = array.time.dt.hour.isin([*range(6), *range(18, 24)]).values
    kept = array[nights] if how == "missing" else array.where(xarray.DataArray(nights, dims="time"))
    if how == "NaN here":
        kept = array.copy()
        kept[~nights, 2:4] = np.nan
    source = era5(write_netcdf(tmp_path / "a.nc", kept), "t2m")
    found = picture(source, day(), reader)
    assert found is not None
    assert found.clear_yx.all()
    assert found.incomplete_yx is not None
    rows = slice(2, 4) if how == "NaN here" else slice(None)
    assert found.incomplete_yx[rows].all()
    assert found.incomplete_yx.sum() == found.incomplete_yx[rows].size
    np.testing.assert_allclose(found.x_cyx[0, rows], array[nights].mean("time").values[rows], rtol=1e-7)


def test_a_grib_file_that_is_cut_between_messages_is_no_full_cube(tmp_path: Path) -> None:
    parts = [
        write_grib(
            tmp_path / f"{number}.part", NORTH_UP, edition=1, localDefinitionNumber=1, type=11, stream=1035,
            number=number, paramId=167,
        )
        for number in (0, 1)
    ]  # fmt: skip
    whole = b"".join(part.read_bytes() for part in parts)
    for part in parts:
        part.unlink()
    length = len(whole) // 12
    for name, data in (("whole", whole), ("cut", whole[: 10 * length])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.grib").write_bytes(data)
        verdict = only(era5(folder, "2t", select={"number": 1})).verdict
        assert ("it has no message of 2022-08-31T04:00:00" in verdict) == (name == "cut")
        assert not (verdict and name == "whole")
    assert "it has no number 99; it has [0, 1]" in only(era5(tmp_path / "whole", "2t", select={"number": 99})).verdict


@pytest.mark.parametrize("data", [b"", b"anything " * 8], ids=["empty", "70 bytes"])
def test_a_grib_file_without_a_message_is_a_scene_that_says_so(data: bytes, tmp_path: Path) -> None:
    write_grib(tmp_path / "a.grib", NORTH_UP)
    (tmp_path / "b.grib").write_bytes(data)
    (bad,) = [scene for scene in used(era5(tmp_path, "sp")) if scene.verdict]
    assert bad.verdict == f"b.grib does not decode: its {len(data)} bytes hold no GRIB message"


# --- what it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "unit", "words"),
    [(0, 255, "0 of the unit 255, which is no unit of time"), (10**9, 3, "1000000000 of the unit 3, longer than any")],
)
def test_a_forecast_of_grib_at_whose_end_eccodes_never_arrives_is_a_verdict(
    length: int, unit: int, words: str, tmp_path: Path
) -> None:
    """It counts the days of a forecast one by one, and those of an unknown unit for ever."""
    keys = {"forecastTime": length, "indicatorOfUnitOfTimeRange": unit}
    write_grib(tmp_path / "a.grib", NORTH_UP[:2], edition=2, **keys)
    began_s = time.process_time()
    assert f"its forecast time is {words}" in only(era5(tmp_path, "sp")).verdict
    assert time.process_time() - began_s < 10


def test_a_minimum_of_grib_1_is_one_though_its_range_is_called_a_maximum(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"paramId": 202, "timeRangeIndicator": 2, "P1": 0, "P2": 1}
    scene = only(era5(write_grib(tmp_path / "a.grib", NORTH_UP, edition=1, **keys), "mn2t"))
    assert not scene.verdict
    assert scene.processing.startswith("mn2t: minimum")


@pytest.mark.parametrize(
    ("band", "units", "factor", "term"),
    [
        ("t2m", "degC", 1, 273.15),
        ("sp", "hPa", 100, 0),
        ("tp", "mm", 1e-3, 0),
        ("t2m", "K", 1, 0),
        ("z", "m2 s-2", 1, 0),
    ],
)
def test_units_are_read_and_converted(
    band: str, units: str, factor: float, term: float, tmp_path: Path, reader: RasterReader
) -> None:
    field = NORTH_UP / factor if band == "sp" else NORTH_UP
    source = era5(write_netcdf(tmp_path / "a.nc", field.rename(band).assign_attrs(units=units)), band)
    frame = day(START - timedelta(hours=1), 6) if band == "tp" else day(hours=6)
    found = picture(source, frame, reader)
    assert found is not None
    expected = field.sum("time") if band == "tp" else field.mean("time")
    np.testing.assert_allclose(found.x_cyx[0], expected.values * factor + term, rtol=1e-6)
    assert ((units + " ") in only(source).processing) == ((factor, term) != (1, 0))


@pytest.mark.parametrize(
    ("band", "units", "middle", "spread", "option"),
    [
        ("t2m", "", 20, 2, "degC"),
        ("t2m", "K", 20, 2, "degC"),
        ("t2m", "", 20, 0, "degC"),
        ("sp", "Pa", 1013, 5, "hPa"),
        ("msl", "Pa", 101.3, 0.5, "kPa"),
        ("tp", "m", 4, 3, "mm"),
        ("tcc", "(0 - 1)", 50, 20, "percent"),
    ],
)
def test_numbers_that_are_not_what_their_unit_says_are_refused_with_the_option(
    band: str, units: str, middle: float, spread: float, option: str, tmp_path: Path, reader: RasterReader
) -> None:
    rng = np.random.default_rng(4)
    field = NORTH_UP.copy(data=np.abs(rng.normal(middle, spread, NORTH_UP.shape))).rename(band)
    path = write_netcdf(tmp_path / "a.nc", field.assign_attrs(units=units) if units else field)
    with pytest.raises(RequestError, match=f"archives.weather: {band}: a.nc holds ") as refused:
        only(era5(path, band))
    stated = str(refused.value).partition("Write options.units: ")[2]
    assert yaml.safe_load(stated.partition(", or ")[0]) == {band: option}
    assert yaml.safe_load(stated.partition(", or ")[2].partition(" if it is so")[0]) == {band: units or "K"}
    assert len(str(refused.value)) < 400
    # what the message says is right, and so is that the numbers are what they are
    for said in (option, units or "K"):
        told = era5(path, band, units={band: said})
        assert not only(told).verdict
    # whoever reads a file that `index` has not looked at does so first
    unseen = replace(only(told), seen=False)
    with pytest.raises(RequestError, match=re.escape(str(refused.value))):
        era5(path, band).observe(unseen, day(hours=6), *grid_on(NORTH_UP), reader)


@pytest.mark.parametrize(
    ("band", "units", "usual", "telling"), [("t2m", "K", -2.0, 20.0), ("tp", "m", 0.1, 40.0), ("sp", "Pa", 5e4, 700.0)]
)
def test_wrong_units_are_refused_for_the_archive_where_one_file_shows_them(
    band: str, units: str, usual: float, telling: float, tmp_path: Path
) -> None:
    """A day of frost in degrees Celsius is a valid temperature in K: as verdicts of files, a cube would mix both."""
    for number, middle in enumerate((usual, telling)):
        field = a_field(LAT, LON, hours(24, f"2022-08-{30 + number}T00:00"), name=band).assign_attrs(units=units)
        field.values[:] = middle * np.random.default_rng(4).uniform(0 if band == "tp" else 0.99, 1.01, field.shape)
        write_netcdf(tmp_path / f"{number}.nc", field)
    with pytest.raises(RequestError, match=f"{band}: 1.nc holds .* in {units}: .*Write options.units: {{"):
        used(era5(tmp_path, band))
    assert [scene.verdict for scene in used(era5(tmp_path, band, units={band: units}))] == ["", ""]


@pytest.mark.parametrize(
    ("band", "units", "middle", "spread"),
    [
        ("t2m", "K", 0, 1),
        ("t2m", "K", 285, 10),
        ("t2m", "K", 200, 3),
        ("sp", "Pa", 52_000, 500),
        ("tp", "m", 1e-3, 1e-2),
        ("tcc", "(0 - 1)", 0.5, 0.2),
        ("r", "%", 5, 2),
        # in the stratosphere, and over a small dry region
        ("r", "%", 0.5, 0.1),
        ("u10", "m s-1", 10, 30),
    ],
)
def test_numbers_that_may_be_what_their_unit_says_are_believed(
    band: str, units: str, middle: float, spread: float, tmp_path: Path
) -> None:
    field = NORTH_UP.copy(data=np.random.default_rng(4).normal(middle, spread, NORTH_UP.shape)).rename(band)
    scene = only(era5(write_netcdf(tmp_path / "a.nc", field.assign_attrs(units=units)), band))
    assert not scene.verdict
    assert scene.seen


def test_geopotential_height_becomes_geopotential(tmp_path: Path, reader: RasterReader) -> None:
    field = NORTH_UP.copy(data=np.full(NORTH_UP.shape, 5500.0)).rename("z").assign_attrs(units="gpm")
    found = picture(era5(write_netcdf(tmp_path / "a.nc", field), "z"), day(hours=6), reader)
    assert found is not None
    np.testing.assert_allclose(found.x_cyx, 5500 * 9.80665, rtol=1e-6)


@pytest.mark.parametrize(
    ("number", "attributes"),
    [
        (9.969209968386869e36, {}),
        (1e20, {"missing_value": 1e20}),
        (-9999.0, {"_FillValue": -9999.0}),
        (999.0, {"valid_min": 150.0, "valid_max": 350.0}),
        (999.0, {"valid_range": [150.0, 350.0]}),
    ],
)
def test_missing_is_missing_however_netcdf_says_it(
    number: float, attributes: dict[str, Any], tmp_path: Path, reader: RasterReader
) -> None:
    field = (NORTH_UP.copy(data=np.full(NORTH_UP.shape, 280.0))).rename("t2m").assign_attrs(units="K")
    field[:, :3] = number
    path = tmp_path / "a.nc"
    encoding = {"_FillValue": attributes.pop("_FillValue", None)}
    field.assign_attrs(**attributes).to_dataset().to_netcdf(path, encoding={"t2m": encoding})
    found = picture(era5(path, "t2m"), day(hours=6), reader)
    assert found is not None
    assert not found.clear_yx[:3].any()
    assert (found.x_cyx[0, 3:] == 280).all()


@pytest.mark.parametrize("kind", ["i1", "i2"])
@pytest.mark.parametrize(
    "stated",
    [
        {"_FillValue": -1},
        {"missing_value": [-1]},
        {"valid_range": [0, -2]},
        {"valid_min": 0, "valid_max": -2},
        {"valid_range": [0.0, 300.0]},
    ],
)
def test_attributes_of_unsigned_integers_are_unsigned_as_the_numbers_are(kind: str, stated: dict[str, Any]) -> None:
    """Signed as they are stored, they are read as unsigned: the last number of the type is missing, and no other."""
    most = np.iinfo(kind.replace("i", "u")).max
    raw = np.array([0, 1, most // 2 + 1, most - 1, most], dtype=kind.replace("i", "u"))
    # NetCDF gives them in the type of the numbers, Zarr as Python's integers
    typed = {
        key: np.asarray(one, dtype=kind if isinstance(np.ravel(one)[0], np.integer) else "f8")
        for key, one in stated.items()
    }
    packed = {"_Unsigned": "true", "scale_factor": 300.0 / (most - 1)}
    for attributes in (stated, typed):
        found = unpacked(raw.view(kind), packed | attributes)
        np.testing.assert_allclose(found, [*(raw[:-1] * packed["scale_factor"]), np.nan])


def test_a_number_for_missing_that_nobody_declares_is_a_verdict(tmp_path: Path) -> None:
    field = NORTH_UP.copy(data=np.full(NORTH_UP.shape, 280.0)).rename("t2m").assign_attrs(units="K")
    field[:, :3] = -9999
    path = tmp_path / "a.nc"
    field.to_dataset().to_netcdf(path, encoding={"t2m": {"_FillValue": None}})
    verdict = only(era5(path, "t2m")).verdict
    assert "holds -9999 in 33% of what was looked at, and does not declare it as missing" in verdict
    assert "ncatted -a _FillValue,t2m,o,f,-9999" in verdict


def test_units_that_are_not_known_are_refused_and_may_be_said(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP.rename("t2m").assign_attrs(units="furlong"))
    verdict = only(era5(path, "t2m")).verdict
    assert 'its units are "furlong", not K' in verdict
    # no unit is named that would make the numbers wrong
    assert "options.units says which they are, as {t2m: ...}" in verdict
    assert len(verdict) < 300
    assert not only(era5(path, "t2m", units={"t2m": "degC"})).verdict


def test_units_in_all_their_spellings() -> None:
    for unit in ("m/day", "m day**-1", "m d-1", "mm/day", "m per day", "J m**-2 day**-1"):
        assert daily(unit), unit
    for unit in ("m", "m s-1", "rad", "K", "J m**-2", "m**3 m**-3"):
        assert not daily(unit), unit
    assert conversion("J m**-2 day**-1", "J m-2") == (1.0, 0.0)
    assert conversion("mm/day", "m") == (1e-3, 0.0)
    assert conversion("Kelvin", "K") == (1.0, 0.0)
    assert conversion("Pa", "K") is None
    factor, term = conversion("degF", "K") or (0, 0)
    assert 50 * factor + term == pytest.approx(283.15)
    assert conversion("inches", "m") == (0.0254, 0.0)


def test_points_and_curved_grids_are_named(tmp_path: Path) -> None:
    series = xarray.DataArray(
        np.zeros((3, 4)), dims=("location", "time"), name="tas",
        coords={
            "time": hours(4),
            "lat": ("location", [50.0, 51, 52], {"standard_name": "latitude"}),
            "lon": ("location", [5.0, 6, 7], {"standard_name": "longitude"}),
        },
    )  # fmt: skip
    series.to_netcdf(tmp_path / "a.nc")
    assert "it lies on (location, time): points, not a grid" in only(era5(tmp_path, "tas")).verdict


def test_a_calendar_without_leap_days_is_named(tmp_path: Path) -> None:
    times = xarray.date_range("2022-08-31", periods=6, freq="D", calendar="noleap", use_cftime=True)
    NORTH_UP.assign_coords(time=("time", times, {"standard_name": "time"})).to_netcdf(tmp_path / "a.nc")
    assert "in the calendar noleap" in only(era5(tmp_path, "sp")).verdict


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.nc", b"PK\x03\x04" + bytes(60), "it is a zip: unpack it"),
        ("a.grib", b"CDF\x01" + bytes(60), "it is NetCDF, though its name says GRIB: rename it"),
        ("a.nc", b"GRIB" + bytes(60), "it is GRIB, though its name says NetCDF: rename it"),
        ("a.nc", b"<html>sorry</html>", "it is text, perhaps the error of a server: download it again"),
    ],
)
def test_what_a_file_is_is_told_by_its_first_bytes_the_same_everywhere(
    name: str, data: bytes, said: str, tmp_path: Path
) -> None:
    verdicts = set()
    for folder in (tmp_path / "one", tmp_path / "other" / "deeper"):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(data)
        write_netcdf(folder / "good.nc", NORTH_UP)
        verdicts |= {scene.verdict for scene in used(era5(folder, "sp")) if scene.verdict}
    assert verdicts == {f"{name} does not decode: {said}"}


def test_a_name_that_only_looks_like_a_date_does_not_match(tmp_path: Path) -> None:
    write_netcdf(tmp_path / "x_tp_1979-2018.nc", NORTH_UP.rename("tp"))
    with pytest.raises(RequestError, match="no file matches"):
        list(era5(tmp_path, "tp", pattern="x_{param}_{date}.nc").scenes(full_digests=False))


@pytest.mark.parametrize("timed", [True, False])
def test_static_fields_hold_at_all_times(timed: bool, tmp_path: Path, reader: RasterReader) -> None:
    height = NORTH_UP[:1].rename("z").assign_coords(time=hours(1, "1979-01-01"))
    write_netcdf(tmp_path / "z.nc", height if timed else height[0].drop_vars("time"))
    if not timed:
        assert "with static: true" in only(era5(tmp_path, "z")).verdict
    source = era5(tmp_path, "z", static=True)
    for frame in (day(), between("1950-01-01", "1951-01-01")):
        found = picture(source, frame, reader)
        assert found is not None
        np.testing.assert_allclose(found.x_cyx[0], height[0].values, rtol=1e-7)
        assert found.incomplete_yx is not None
        assert not found.incomplete_yx.any()


# --- steps that several files have ------------------------------------------------------------------


def test_an_hour_that_two_files_share_counts_once(tmp_path: Path, reader: RasterReader) -> None:
    array = a_field(LAT, LON, hours(73), name="tp")
    for i in range(3):
        write_netcdf(tmp_path / f"{i}.nc", array[24 * i : 24 * i + 25])
    write_netcdf(tmp_path / "1 (1).nc", array[24:49])
    source = era5(tmp_path, "tp")
    for i in range(3):
        found = picture(source, day(START + timedelta(days=i)), reader)
        assert found is not None
        np.testing.assert_allclose(found.x_cyx[0], array[24 * i + 1 : 24 * i + 25].sum("time").values, rtol=1e-7)
    write_netcdf(tmp_path / "9.nc", array[50:] + 1)
    assert [scene.assets[0].path for scene in used(era5(tmp_path, "tp")) if scene.verdict] == ["9.nc"]


def test_final_data_count_before_preliminary_ones(tmp_path: Path, reader: RasterReader) -> None:
    array = a_field(LAT, LON, hours(24))
    write_grib(tmp_path / "a_preliminary.grib", array + 500, edition=1, expver="0005")
    write_grib(tmp_path / "b_final.grib", array[6:12], edition=1, expver="0001")
    source = era5(tmp_path, "sp")
    found = picture(source, day(), reader)
    expected = np.concatenate([array[:6] + 500, array[6:12], array[12:] + 500]).mean(axis=0)
    assert found is not None
    np.testing.assert_allclose(found.x_cyx[0], expected, atol=0.3)
    assert found.incomplete_yx is not None
    assert not found.incomplete_yx.any()


# --- tiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [((0, 9), (9, 13)), ((0, 5), (5, 9), (9, 13)), ((0, 8), (6, 13))])
@pytest.mark.parametrize("kind", ["netcdf", "grib"])
def test_tiles_are_joined_before_they_are_interpolated(
    cuts: tuple[tuple[int, int], ...], kind: str, tmp_path: Path, reader: RasterReader
) -> None:
    for folder in ("one", "tiles"):
        (tmp_path / folder).mkdir()
    write: Any = write_netcdf if kind == "netcdf" else write_grib
    suffix, keys = ("nc", {}) if kind == "netcdf" else ("grib", {"bits": 24})
    array = NORTH_UP.rename("sp")
    write(tmp_path / "one" / f"a.{suffix}", array, **keys)
    for i, (west, east) in enumerate(cuts):
        write(tmp_path / "tiles" / f"{i}a.{suffix}", array[:, :4, west:east], **keys)
        write(tmp_path / "tiles" / f"{i}b.{suffix}", array[:, 4:, west:east], **keys)
    grid = Grid(crs="EPSG:4326", pixel=0.07, origin_x=4.8, origin_y=52.2)
    area = PixelArea(row=0, col=0, rows=36, cols=50)
    found = []
    for folder in ("one", "tiles"):
        source = era5(tmp_path / folder, "sp")
        scene = only(source)
        assert not scene.verdict
        assert scene.assets[0].bounds == pytest.approx((4.875, 49.875, 8.125, 52.125))
        found.append(source.observe(scene, day(hours=6), grid, area, reader))
    np.testing.assert_array_equal(found[0].seen_yx, found[1].seen_yx)
    assert 0 < found[0].seen_yx.sum() < found[0].seen_yx.size
    atol = 0.2 if kind == "grib" else 0
    one, joined = (np.where(one.seen_yx, one.values_cyx[0], 0) for one in found)
    np.testing.assert_allclose(joined, one, rtol=1e-12, atol=atol)


# --- timelines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["instants", "running", "intervals", "months", "mixed"])
def test_a_timeline_is_the_same_after_writing_and_reading(kind: str) -> None:
    stamps = hours(30).values.astype("datetime64[s]")[np.r_[0:5, 9, 12:30]]
    begins = stamps - np.timedelta64(3600, "s")
    if kind == "months":
        stamps = pandas.date_range("2022-01-01", periods=5, freq="MS").values.astype("datetime64[s]")
        begins, stamps = stamps[:-1], stamps[1:]
    if kind == "mixed":
        begins = begins - np.timedelta64(1, "h") * (np.arange(len(begins)) % 3 == 0)
    begins = stamps if kind == "instants" else begins
    made = Timeline(begins=begins, ends=stamps, instants=kind == "instants", running=kind == "running", step_s=3600)
    read = read_timeline(made.text, 3600)
    assert (read.instants, read.running) == (made.instants, made.running)
    np.testing.assert_array_equal(read.begins, made.begins)
    np.testing.assert_array_equal(read.ends, made.ends)
