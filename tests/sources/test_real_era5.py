"""Real ERA5 from campaign file to verified cube, compared with xarray, cfgrib and NumPy; and combined with imagery."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import xarray
from numpy.typing import NDArray
from tests.conftest import REAL_DATA, ROOT, Campaign, in_shards, real_campaign

from embedcube.backbones.base import make_backbone
from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Shard, read_plan, read_shards
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import Sample, read_sample
from embedcube.sources.reader import RasterReader

CAMPAIGNS = ROOT / "configs" / "campaigns"

Floats = NDArray[np.floating[Any]]


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """A campaign of `configs/campaigns` as a user runs it, to a verified cube."""
    campaign = real_campaign(CAMPAIGNS / f"{name}.yaml", folder, monkeypatch)
    said = campaign.cli("run")
    assert "1 scenes" in said
    assert "0 unusable" in said
    assert "nothing found wrong" in said
    return campaign


def samples(file: Path, campaign: Campaign, layer: str) -> list[tuple[Shard, LayerContext, Sample]]:
    """The pixels that the package reads for every shard of a layer."""
    loaded, run = load_campaign(file), campaign.run
    weights = read_weights(loaded, run, layer)[0]
    plan, scenes = read_plan(loaded, run), read_inventory(loaded, run)
    module = make_backbone(loaded, layer).module(weights)
    context = make_context(
        loaded, layer, list(plan.layers[layer].zones), weights, module, torch.device("cpu"), plan.layers[layer].batch
    )
    reader = RasterReader(2)
    try:
        return [
            (shard, context, read_sample(shard, [scenes[i] for i in shard.scenes], context, reader))
            for group in read_shards(run, plan)
            for shard in group
            if shard.layer == layer
        ]
    finally:
        reader.close()


def check_composites(campaign: Campaign, layer: str, expected: Callable[[pandas.Timestamp], Any]) -> int:
    """Compare every pixel of every shard with `expected`, a DataArray (band, latitude, longitude) for a window's start.

    Pixels lie on the points, so the lookup is by label; a pixel without a label is not clear. Returns the clear ones.
    """
    count = 0
    for shard, context, sample in samples(campaign.file, campaign, layer):
        grid, area = context.grids[shard.zone], context.layout.shard_area(shard.row, shard.col)
        x, y = grid.centres(area.grown(context.layout.halo_px), 1)
        (frame,) = context.frames[shard.t]
        field = expected(pandas.Timestamp(frame.start).tz_localize(None))
        values = field.reindex(latitude=y, longitude=x, method="nearest", tolerance=1e-4).values
        np.testing.assert_allclose(sample.x_tcyx[0], values, rtol=2e-7, equal_nan=True)
        np.testing.assert_array_equal(sample.clear_tsyx[0, 0], np.isfinite(values).all(axis=0))
        count += int(sample.clear_tsyx.sum())
    return count


def within(array: Any, start: pandas.Timestamp, hours: int) -> Any:
    times = pandas.DatetimeIndex(np.atleast_1d(array.time.values))
    return array.isel(time=(times >= start) & (times < start + timedelta(hours=hours)))


def summed(array: Any, start: pandas.Timestamp, hours: int) -> Any:
    """The sum of whole hours, each stamped with its end; NaN where one is missing."""
    times = pandas.DatetimeIndex(array.time.values)
    inside = (times > start) & (times <= start + timedelta(hours=hours))
    return array.isel(time=inside).sum("time") if inside.sum() == hours else array[0] * np.nan


@pytest.mark.realdata
@pytest.mark.slow
def test_rhine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = run("era5_rhine_2022-08-31", tmp_path, monkeypatch)
    folder = REAL_DATA / "era5_rhine_2022-08-31"
    opened = {
        n: xarray.open_dataset(folder / f"ERA5_2022-08-31_{n}.nc", engine="netcdf4") for n in ("e", "sp", "tp", "ml_q")
    }
    bands = {n: opened[n][n].load() for n in ("e", "sp", "tp")} | {"q": opened["ml_q"]["q"].sel(level=137).load()}

    def three_hours(start: pandas.Timestamp) -> Any:
        parts = [
            summed(array, start, 3) if n in ("e", "tp") else within(array, start, 3).mean("time")
            for n, array in bands.items()
        ]
        both = xarray.concat(parts, "band", coords="minimal", compat="override")
        return both.where(both.notnull().all("band"))

    assert check_composites(campaign, "era5_eof", three_hours) == 7 * 41 * 41
    check_composites(campaign, "era5_mosaiks", three_hours)

    fields = np.stack([three_hours(start).values for start in pandas.date_range("2022-08-31", periods=7, freq="3h")])
    fitted = fields[:6]
    anomaly = (fields - fitted.mean(axis=0)) / fitted.std(axis=(0, 2, 3))[:, None, None]
    weighted = (anomaly * np.sqrt(np.cos(np.deg2rad(bands["sp"].latitude.values)))[:, None]).reshape(7, -1)
    basis = np.linalg.svd(weighted[:6], full_matrices=False)[2][:4]
    expected = weighted @ basis.T
    found = in_shards(campaign.run.newest_cube, "era5_eof/latlon")["embedding"].values[:7, 0, 0]
    valid = in_shards(campaign.run.newest_cube, "era5_mosaiks/latlon")["status"].values == VALID
    assert valid[:7, :5, :5].all()
    assert valid.sum() == 7 * 25, "the last window lacks an hour, the sixth cells hold a single row or column of points"
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.realdata
@pytest.mark.slow
def test_british_isles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = run("era5_uk_t2m_2019-03", tmp_path, monkeypatch)
    path = REAL_DATA / "era5_uk_t2m_2019-03" / "era5-2mt-2019-03-uk.grib"
    with xarray.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as data:
        hourly = data["t2m"].astype(np.float64).load()
    assert not list(path.parent.glob("*.idx"))
    seen = check_composites(
        campaign, "era5_eof", lambda start: within(hourly, start, 24).mean("time").expand_dims("band")
    )
    assert seen == 31 * 33 * 48
    cube = in_shards(campaign.run.newest_cube, "era5_eof/latlon")
    assert cube.sizes["time"] == 31
    assert (cube["status"][:, :2] == 1).all()
    assert (cube["n_obs"][:, :2] == 1).all()


@pytest.mark.realdata
@pytest.mark.slow
def test_europe_at_one_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = run("era5_europe_t2m_2017-01-01", tmp_path, monkeypatch)
    path = REAL_DATA / "era5_europe_t2m_2017-01-01" / "era5-single-level-scalar-time.grib"
    with xarray.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""}) as data:
        field = data["t2m"].astype(np.float64).load().expand_dims("band")
    assert check_composites(campaign, "era5_mosaiks", lambda start: field) >= 121 * 201


@pytest.mark.slow
def test_weather_beside_imagery(demo: Campaign, tmp_path: Path) -> None:
    """On a UTM grid: bilinear, frame by frame; and only imagery makes a cell valid."""
    rng = np.random.default_rng(0)
    times = pandas.date_range("2023-05-30", "2023-08-02", freq="6h")
    lat, lon = np.arange(90, -90.1, -1.0), np.arange(0, 360, 1.0)
    coords = {"time": times, "latitude": lat, "longitude": lon}
    arrays = {
        name: xarray.DataArray(
            rng.normal(280, 20, (len(times), len(lat), len(lon))).astype(np.float32), coords, list(coords), name=name
        )
        for name in ("t2m", "tp")
    }
    for array in arrays.values():
        array.longitude.attrs["units"], array.latitude.attrs["units"] = "degrees_east", "degrees_north"
    xarray.Dataset(arrays).to_netcdf(tmp_path / "globe.nc", engine="netcdf4")

    def with_weather(document: dict[str, Any]) -> None:
        document["archives"]["weather"] = {"source": "era5", "path": str(tmp_path / "globe.nc"), "bands": ["tp", "2t"]}
        document["layers"] = {"both": document["layers"]["s2_mosaiks"] | {"archives": ["s2", "weather"]}}
        document["layers"]["both"]["backbone"]["filters"] = 8

    demo.change(with_weather)
    assert "nothing found wrong" in demo.cli("run")
    looked_at = unseen = 0
    for shard, context, sample in samples(demo.file, demo, "both"):
        area = context.layout.shard_area(shard.row, shard.col).grown(context.layout.halo_px)
        lons, lats = context.grids[shard.zone].degrees(area, 1)
        (frame,) = context.frames[shard.t]
        start, end = (pandas.Timestamp(t).tz_localize(None) for t in (frame.start, frame.end))
        inside = {"tp": (times > start) & (times <= end), "t2m": (times >= start) & (times < end)}
        tp, t2m = (arrays[n].values[inside[n]].astype(np.float64) for n in ("tp", "t2m"))
        wanted = [tp.sum(axis=0), t2m.mean(axis=0)]
        for row, col in rng.integers(0, area.rows, (40, 2)):
            y, x = 90 - lats[row, col], lons[row, col] % 360
            j, i = int(y), int(x)
            for band, field in enumerate(wanted):
                value = sum(
                    field[j + b, (i + a) % 360] * (1 - abs(y - j - b)) * (1 - abs(x - i - a))
                    for a in (0, 1)
                    for b in (0, 1)
                )
                assert sample.x_tcyx[0, 4 + band, row, col] == pytest.approx(value, rel=2e-7)
                looked_at += 1
        assert sample.clear_tsyx[:, 1].all()
        blind = _cells(np.asarray(~sample.clear_tsyx[:, 0].any(axis=0)), context)
        assert not np.isin(sample.status_yx[blind], (VALID, VALID_INCOMPLETE)).any()
        unseen += int(blind.sum())
    assert looked_at
    assert unseen, "some cells have weather alone"


def _cells(blind_yx: NDArray[np.bool_], context: LayerContext) -> NDArray[np.bool_]:
    """The cells without any imagery."""
    layout, halo = context.layout, context.layout.halo_px
    kept = blind_yx[halo : halo + layout.shard_px, halo : halo + layout.shard_px]
    cells = kept.reshape(layout.shard_cells, layout.cell_px, layout.shard_cells, layout.cell_px)
    return np.asarray(cells.all(axis=(1, 3)))
