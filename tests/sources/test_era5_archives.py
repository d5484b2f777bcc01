"""The ways in which weather is really kept, each written by a kept library: DKRZ's pool, ERA5-Land, ARCO-ERA5."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
from tests.sources.test_era5 import NORTH_UP, START, a_field, day, eccodes, era5, hours, only, write_grib
from tests.sources.test_era5_kinds import picture

from embedcube.grid import Grid, PixelArea
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window


@pytest.fixture(scope="module")
def reader() -> Iterator[RasterReader]:
    made = RasterReader(threads=2, attempts=2, wait_s=0)
    yield made
    made.close()


def write_reduced(path: Path, stamps: Any, seed: int, **keys: Any) -> np.ndarray[Any, Any]:
    """Write fields on eccodes' reduced Gaussian grid N32; returns them (step, point)."""
    values = []
    with path.open("wb") as file:
        for i, stamp in enumerate(stamps):
            handle = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib1")
            count = eccodes.codes_get_size(handle, "values")
            wanted = {"dataDate": int(f"{stamp:%Y%m%d}"), "dataTime": int(f"{stamp:%H%M}"), "bitsPerValue": 24, **keys}
            for key, value in wanted.items():
                eccodes.codes_set(handle, key, value)
            field = np.random.default_rng(seed + i).normal(100, 5, count)
            eccodes.codes_set_values(handle, field)
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
            values.append(field)
    return np.stack(values)


@pytest.mark.parametrize("often", ["1H", "1M"])
def test_the_pool_of_dkrz(often: str, tmp_path: Path, reader: RasterReader) -> None:
    """Hourly files of a day, and monthly files of a year, of instants and sums, on the reduced Gaussian grid."""
    fields = {}
    for code, seed in ((167, 1), (228, 50)):
        (tmp_path / f"{code:03d}").mkdir()
        for date in ("2022-08-31", "2022-09-01") if often == "1H" else ("2022", "2023"):
            name = tmp_path / f"{code:03d}" / f"E5sf00_{often}_{date}_{code:03d}.grb"
            stamps = pandas.date_range(date, periods=24 if often == "1H" else 12, freq="1h" if often == "1H" else "MS")
            keys: dict[str, Any] = {"paramId": code}
            if often == "1M":
                keys["timeRangeIndicator"] = 130 if code == 228 else 123
            elif code == 228:
                # sums of the hour before the stamp, of a forecast
                stamps, keys = stamps - timedelta(hours=1), keys | {"timeRangeIndicator": 4, "P1": 0, "P2": 1}
            fields[code, date] = write_reduced(name, stamps, seed, **keys)
    pattern = f"{{param}}/E5sf00_{often}_{{date}}_{{param}}.grb"
    source = era5(tmp_path, "2t", "tp", pattern=pattern, reduced_gaussian="nearest")
    frame = day() if often == "1H" else Window(datetime(2022, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC))
    scenes = [scene for scene in source.scenes(full_digests=False) if scene.meets(frame)]
    assert not [scene.verdict for scene in scenes if scene.verdict]
    grid, area = Grid(crs="EPSG:4326", pixel=5, origin_x=0, origin_y=90), PixelArea(row=0, col=0, rows=36, cols=72)
    made = source.composite([(s.acquisition, source.observe(s, frame, grid, area, reader)) for s in scenes])
    assert made.clear_yx.all()
    first, second = ("2022-08-31", "2022-09-01") if often == "1H" else ("2022", "2023")
    if often == "1H":
        expected = [fields[167, first].mean(axis=0), fields[228, first][1:].sum(axis=0) + fields[228, second][0]]
    else:
        days = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
        expected = [np.average(fields[167, first], axis=0, weights=days), days @ fields[228, first]]
    lon, lat = grid.degrees(area, 1)
    for band, field in enumerate(expected):
        for row, col in ((3, 5), (17, 40), (35, 71)):
            value = _nearest(field, float(lon[row, col]), float(lat[row, col]))
            assert made.x_cyx[band, row, col] == pytest.approx(value, rel=1e-5)


def _nearest(field: Any, lon: float, lat: float) -> float:
    handle = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib1")
    eccodes.codes_set_values(handle, field)
    (found,) = eccodes.codes_grib_find_nearest(handle, lat, lon % 360)
    eccodes.codes_release(handle)
    return float(found.value)


@pytest.mark.parametrize("kind", ["grib", "netcdf"])
def test_era5_land_hourly(kind: str, tmp_path: Path, reader: RasterReader) -> None:
    """Sums since midnight in files of a month: GRIB of the store, and what its converter writes."""
    rng = np.random.default_rng(4)
    hourly = np.maximum(rng.normal(0, 1e-3, (48, 9, 13)), 0)
    running = hourly.reshape(2, 24, 9, 13).cumsum(axis=1).reshape(48, 9, 13)
    array = a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(48, "2022-08-31T01:00"), name="tp").copy(data=running)
    if kind == "grib":
        parts = []
        for i in range(48):
            base = array[i : i + 1].assign_coords(time=hours(1, f"{START + timedelta(days=i // 24):%Y-%m-%d}"))
            keys: dict[str, Any] = {"paramId": 228, "stepType": "accum", "stepRange": f"0-{i % 24 + 1}", "bits": 24}
            parts.append(write_grib(tmp_path / f"{i}.part", base, edition=1, **keys))
        (tmp_path / "a.grib").write_bytes(b"".join(part.read_bytes() for part in parts))
        source = era5(tmp_path / "a.grib", "tp")
    else:
        data = array.assign_attrs(GRIB_paramId=228, GRIB_stepType="accum", units="m").rename(time="valid_time")
        data.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
        assert "say accumulated: {tp: since_midnight}" in only(era5(tmp_path / "a.nc", "tp")).verdict
        source = era5(tmp_path / "a.nc", "tp", accumulated="since_midnight")
    for first, last in ((0, 24), (24, 48), (0, 48), (6, 30)):
        found = picture(source, day(START + timedelta(hours=first), last - first), reader)
        assert found is not None
        np.testing.assert_allclose(found.x_cyx[0], hourly[first:last].sum(axis=0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["two dimensions of a store", "chunks of a day"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_arco_era5(kind: str, tmp_path: Path, reader: RasterReader) -> None:
    """Long names, one step a chunk, and a time axis that goes on for decades after the data."""
    steps = 1 if kind.startswith("two") else 24
    stamps = hours(96, "2022-08-30")
    fields = [
        a_field(NORTH_UP.latitude, NORTH_UP.longitude, stamps, seed=seed, name=name).drop_attrs()
        for seed, name in ((1, "2m_temperature"), (2, "total_precipitation"))
    ]
    for field in fields:
        field[72:] = np.nan
        field.attrs["units"] = "K" if field.name.startswith("2m") else "m"
    data = xarray.merge(fields).assign_attrs(valid_time_start="2022-08-30", valid_time_stop="2022-09-01")
    encoding = {field.name: {"chunks": (steps, 9, 13)} for field in fields}
    data.to_zarr(tmp_path / "full_37-1h-0p25deg-chunk-1.zarr-v3", zarr_format=2, encoding=encoding)
    source = era5(tmp_path, "2t", "tp")
    found = picture(source, day(), reader)
    assert found is not None
    np.testing.assert_allclose(found.x_cyx[0], fields[0][24:48].mean("time").values, rtol=1e-6)
    np.testing.assert_allclose(found.x_cyx[1], fields[1][25:49].sum("time").values, rtol=1e-6)
    assert only(source).end == datetime(2022, 9, 1, 23, tzinfo=UTC)
