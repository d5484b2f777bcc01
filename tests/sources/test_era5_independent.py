"""Twelve windows of real ERA5, each compared with xarray and cfgrib, which share no code with embedcube."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
from numpy.typing import NDArray
from tests.conftest import REAL_DATA

from embedcube.campaign.schema import Archive
from embedcube.grid import Grid, PixelArea
from embedcube.sources.era5.source import Era5
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window

RHINE = REAL_DATA / "era5_rhine_2022-08-31"
ISLES = REAL_DATA / "era5_uk_t2m_2019-03" / "era5-2mt-2019-03-uk.grib"


@pytest.fixture(scope="module")
def reader() -> Iterator[RasterReader]:
    made = RasterReader(threads=1, attempts=1, wait_s=0)
    yield made
    made.close()


def opened(path: Path, name: str) -> Any:
    options: dict[str, Any] = {"engine": "netcdf4"}
    if path.suffix == ".grib":
        options = {"engine": "cfgrib", "backend_kwargs": {"indexpath": ""}}
    with xarray.open_dataset(path, **options) as data:
        return data[name].astype(np.float64).load()


def composite(source: Era5, array: Any, frame: Window, reader: RasterReader) -> NDArray[Any]:
    north, west = float(array.latitude.max()), float(array.longitude.min())
    grid = Grid(crs="EPSG:4326", pixel=0.25, origin_x=west - 0.125, origin_y=north + 0.125)
    area = PixelArea(row=0, col=0, rows=array.sizes["latitude"], cols=array.sizes["longitude"])
    scenes = [scene for scene in source.scenes(full_digests=False) if scene.meets(frame)]
    found = [(s.acquisition, source.observe(s, frame, grid, area, reader)) for s in scenes]
    return np.asarray(source.composite(found).x_cyx[0])


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("path", "band", "method", "start", "hours"),
    [
        (RHINE / "ERA5_2022-08-31_tp.nc", "tp", "sum", "2022-08-31T00:00", 3),
        (RHINE / "ERA5_2022-08-31_tp.nc", "tp", "sum", "2022-08-31T06:00", 12),
        (RHINE / "ERA5_2022-08-31_tp.nc", "tp", "maximum", "2022-08-31T06:00", 6),
        (RHINE / "ERA5_2022-08-31_e.nc", "e", "sum", "2022-08-31T00:00", 23),
        (RHINE / "ERA5_2022-08-31_e.nc", "e", "minimum", "2022-08-31T09:00", 6),
        (RHINE / "ERA5_2022-08-31_e.nc", "e", "sum", "2022-08-31T12:00", 1),
        (RHINE / "ERA5_2022-08-31_sp.nc", "sp", "mean", "2022-08-31T00:00", 24),
        (RHINE / "ERA5_2022-08-31_sp.nc", "sp", "mean", "2022-08-31T05:00", 7),
        (ISLES, "t2m", "mean", "2019-03-01T00:00", 24),
        (ISLES, "t2m", "mean", "2019-03-01T00:00", 744),
        (ISLES, "t2m", "mean", "2019-03-10T12:00", 168),
        (ISLES, "t2m", "maximum", "2019-03-30T23:00", 24),
    ],
    ids=str,
)
def test_twelve_windows_are_those_of_an_independent_reader(
    path: Path, band: str, method: str, start: str, hours: int, reader: RasterReader
) -> None:
    array, first = opened(path, band), pandas.Timestamp(start)
    times, last = pandas.DatetimeIndex(array.time.values), pandas.Timestamp(start) + timedelta(hours=hours)
    instants = method == "mean"
    inside = (times >= first) & (times < last) if instants else (times > first) & (times <= last)
    part = array.isel(time=inside)
    assert part.sizes["time"] == hours
    name = {"sum": "sum", "mean": "mean", "maximum": "max", "minimum": "min"}[method]
    expected = getattr(part, name)("time")
    says = {} if method in ("sum", "mean") else {"methods": {band: method}}
    resampling: Any = "nearest"
    archive = Archive(source="era5", path=path, bands=(band,), resampling=resampling, options=says)
    frame = Window(*(moment.to_pydatetime().replace(tzinfo=UTC) for moment in (first, last)))
    found = composite(Era5("weather", archive), array, frame, reader)
    scale = np.abs(expected.values).max()
    np.testing.assert_allclose(found, expected.values, rtol=1e-6, atol=1e-7 * scale)
