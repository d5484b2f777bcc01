"""The weather of the demo: it follows season and height, and a frame of the layer is what xarray makes of the file."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray
from numpy.typing import NDArray

from embedcube.campaign.schema import Archive
from embedcube.grid import Grid, PixelArea
from embedcube.sources.era5.source import Era5
from embedcube.sources.reader import RasterReader
from embedcube.testing.demo import SEED
from embedcube.testing.demo_era5 import FIELDS, GRAVITY, HEIGHTS, LATS, LONS, heights_m, weather, write_era5
from embedcube.windows import Window

POINTS = Grid(crs="EPSG:4326", pixel=0.25, origin_x=-180.125, origin_y=90.125)
AREA = PixelArea(row=128, col=736, rows=32, cols=32)
JUNE = Window(datetime(2023, 6, 1, tzinfo=UTC), datetime(2023, 7, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weather") / "era5"
    write_era5(folder, SEED)
    return folder


@pytest.fixture(scope="module")
def fields(archive: Path) -> xarray.Dataset:
    with xarray.open_dataset(archive / FIELDS, engine="netcdf4") as data:
        return data.load()


def test_temperature_follows_season_and_height(fields: xarray.Dataset) -> None:
    monthly = fields["t2m"].groupby("valid_time.month").mean(...).values - 273.15
    assert monthly.argmax() == 6
    assert monthly.argmin() in (0, 11)
    assert 15 < np.ptp(monthly) < 25
    assert -30 < float(fields["t2m"].min()) - 273.15 < float(fields["t2m"].max()) - 273.15 < 40
    heights, of_year = heights_m(SEED), fields["t2m"].mean("valid_time").values
    south = np.broadcast_to(LATS[:, None] < 52, heights.shape)
    slope = np.polyfit(heights[south], of_year[south], 1)[0]
    assert -0.008 < slope < -0.005, "6.5 K for each 1000 m"


def test_there_is_sea_and_there_are_hills() -> None:
    heights = heights_m(SEED)
    assert 0.1 < (heights == 0).mean() < 0.6
    assert 300 < heights.max() < 1500
    assert heights[LATS < 52].mean() > heights[LATS > 55].mean() + 100


def test_rain_is_dry_on_many_days_and_moves(fields: xarray.Dataset) -> None:
    rain = fields["tp"].values
    assert rain.min() == 0
    assert 0.3 < (rain == 0).mean() < 0.8
    assert 0.5 < fields["tp"].sum("valid_time").mean() < 2.5
    # a front is sixteen points further east on the next day
    assert np.corrcoef(rain[:-1, :, :-16].ravel(), rain[1:, :, 16:].ravel())[0, 1] > 0.8
    assert np.corrcoef(rain[:-1].ravel(), rain[1:].ravel())[0, 1] < 0.5


def test_the_bits_are_those_of_other_machines() -> None:
    digests = [
        hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()[:16] for values in (*weather(SEED), heights_m(SEED))
    ]
    assert digests == ["2b5b91ace3848187", "a26172b118292131", "3587b38b44947f69"]


def composite(archive: Archive) -> NDArray[np.float32]:
    """What the source gives for June on the points of the files."""
    source = Era5("weather", archive)
    scenes = list(source.scenes(full_digests=False))
    assert [scene.verdict for scene in scenes] == [""]
    reader = RasterReader(threads=1)
    try:
        observed = [(scene.acquisition, source.observe(scene, JUNE, POINTS, AREA, reader)) for scene in scenes]
    finally:
        reader.close()
    made = source.composite(observed)
    assert made.clear_yx.all()
    assert made.incomplete_yx is not None
    assert not made.incomplete_yx.any()
    return made.x_cyx


def test_a_month_is_the_mean_of_its_days_and_the_sum_of_their_rain(archive: Path, fields: xarray.Dataset) -> None:
    found = composite(Archive(source="era5", path=archive / FIELDS, bands=("t2m", "tp")))
    june = fields.sel(valid_time=slice("2023-06-01", "2023-06-30"))
    assert june.sizes["valid_time"] == 30
    np.testing.assert_allclose(found[0], june["t2m"].astype("f8").mean("valid_time"), rtol=1e-6)
    np.testing.assert_allclose(found[1], june["tp"].astype("f8").sum("valid_time"), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(fields["longitude"], LONS)


def test_heights_hold_at_all_times(archive: Path) -> None:
    found = composite(Archive(source="era5", path=archive / HEIGHTS, bands=("z",), options={"static": True}))
    np.testing.assert_allclose(found[0], heights_m(SEED) * GRAVITY, rtol=1e-6)
