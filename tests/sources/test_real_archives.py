"""Real archives of Sentinel-2 in every layout, run as a user runs them.

The pixels of a shard are computed a second time, with rasterio, xarray and NumPy alone, from the archives' READMEs.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
import xarray
from numpy.typing import NDArray
from tests.conftest import REAL_DATA, ROOT, Campaign, real_campaign

from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.schema import grid_names
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import read_sample
from embedcube.sources.reader import RasterReader

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CAMPAIGNS = ROOT / "configs" / "campaigns"
L2A_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

Floats = NDArray[Any]
Reference = Callable[[Any, Floats, Floats], Floats]
"""(a window's start, x, y of pixels) -> (acquisition, band, y, x); NaN in all bands where a pixel is not clear"""


# --- the same a second time -------------------------------------------------------------------------


def nearest(pixels: NDArray[Any], transform: Any, x: Floats, y: Floats) -> Floats:
    """The file's pixel that holds each point; NaN outside."""
    col, row = np.floor((x - transform.c) / transform.a), np.floor((y - transform.f) / transform.e)
    inside = (row >= 0) & (row < pixels.shape[0]) & (col >= 0) & (col < pixels.shape[1])
    row, col = (np.where(inside, at, 0).astype(int) for at in (row, col))
    return np.asarray(np.where(inside, pixels[row, col].astype(float), np.nan))


def bilinear(pixels: NDArray[Any], transform: Any, x: Floats, y: Floats) -> Floats:
    """Bilinear between the centres of four pixels, rounded; 0 means no data; NaN where no pixel has data."""
    framed = np.pad(pixels.astype(float), 1)
    col, row = (x - transform.c) / transform.a + 0.5, (y - transform.f) / transform.e + 0.5
    near = (row > 0) & (col > 0) & (row < framed.shape[0] - 1) & (col < framed.shape[1] - 1)
    row, col = np.where(near, row, 0), np.where(near, col, 0)
    top, left = np.floor(row).astype(int), np.floor(col).astype(int)
    down, right = row - top, col - left

    def between(values: Floats) -> Floats:
        above = values[top, left] * (1 - right) + values[top, left + 1] * right
        below = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
        return np.asarray(above * (1 - down) + below * down)

    weight = between((framed > 0).astype(float))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(near & (weight > 1e-5), np.rint(between(framed) / weight), np.nan))


def clear_only(acquisitions: list[Floats]) -> Floats:
    """The bands stacked; all are NaN where one is."""
    stack = np.stack(acquisitions)
    stack[np.broadcast_to(np.isnan(stack).any(axis=1, keepdims=True), stack.shape)] = np.nan
    return stack


def l1c_safe(start: Any, x: Floats, y: Floats) -> Floats:
    folder = next((REAL_DATA / "s2_l1c_safe_56JMM_2018-06-29").glob("*.zip"))
    images = f"{folder.stem}.SAFE/GRANULE/L1C_T56JMM_A015757_20180629T000241/IMG_DATA/T56JMM_20180629T000241"
    layers = []
    for band in ("B02", "B03", "B04", "B08", "B05", "B10"):
        with rasterio.open(f"/vsizip/{folder}/{images}_{band}.jp2") as dataset:
            layers.append(bilinear(dataset.read(1), dataset.transform, x, y))
    return clear_only([np.stack(layers)])


def majortom(start: Any, x: Floats, y: Floats) -> Floats:
    folder = next((REAL_DATA / "s2_l2a_majortom_48QUE_2020-02-23").glob("S2B*"))
    layers = []
    for band in L2A_BANDS:
        with rasterio.open(folder / f"{band}.tif") as dataset:
            # centres of pixels, so that rounding cannot put a point on the other side of a border
            layers.append(nearest(dataset.read(1), dataset.transform, x, y))
    values = np.stack(layers)
    return clear_only([np.where(values == 0, np.nan, values)])


def openeo(start: Any, x: Floats, y: Floats) -> Floats:
    dates = []
    for day in ("01", "04", "06"):
        with rasterio.open(REAL_DATA / "s2_l2a_openeo_31UFS_2023-06" / f"openEO_2023-06-{day}Z.tif") as dataset:
            red_green_blue = [nearest(dataset.read(i), dataset.transform, x, y) for i in (1, 2, 3)]
        dates.append(np.stack(red_green_blue[::-1]))
    return clear_only(dates)


def series(start: Any, x: Floats, y: Floats, *, masked: bool = True) -> Floats:
    file = REAL_DATA / "s2_series_30T_2019" / "raw_s2_ndvi_field.nc"
    with xarray.open_dataset(file, engine="netcdf4") as dataset:
        month = dataset.isel(t=dataset.t.dt.month == start.month)
        dates = [
            month[["B04", "B08"]]
            .isel(t=t)
            .where(month.CLM.isel(t=t).isnull() | (not masked))
            .to_array()
            .reindex(x=x[0], y=y[:, 0])
            .values.astype(float)
            for t in range(month.sizes["t"])
        ]
    return clear_only([*dates, np.full((2, *x.shape), np.nan)])


def series_under_clouds(start: Any, x: Floats, y: Floats) -> Floats:
    """The same with what the mask rejects."""
    return series(start, x, y, masked=False)


def ssl4eo(start: Any, x: Floats, y: Floats) -> Floats:
    folder = next((REAL_DATA / "s1s2_ssl4eo_43RCP_2020/s2a/0000200").glob(f"{start:%Y%m}*"))
    lon, lat = rasterio.warp.transform("EPSG:32643", "EPSG:4326", x.ravel(), y.ravel())
    layers = []
    for band in L2A_BANDS:
        with rasterio.open(folder / f"{band.replace('B0', 'B')}.tif") as dataset:
            at = np.reshape(lon, x.shape), np.reshape(lat, x.shape)
            layers.append(bilinear(dataset.read(1), dataset.transform, *at))
    return clear_only([np.stack(layers)])


# --- and how it is compared -------------------------------------------------------------------------


@dataclass(frozen=True)
class Show:
    """A campaign of `configs/campaigns` and its expected result."""

    campaign: str
    reference: Reference
    scenes: int
    processing: str
    n_obs: int
    """largest n_obs of any cell"""
    acquisitions: tuple[str, ...] = ()
    """some of them, as names and metadata of the archive tell; there are as many as scenes"""
    warped: bool = False
    seen: Reference | None = None
    """as the reference, with what the mask rejects; None where the mask rejects nothing"""


SSL4EO_DATATAKES = ("GS2B_20200604T054639_016948", "GS2B_20200813T054639_017949")

SHOWS = [
    Show(
        "s2_l1c_safe_56JMM",
        l1c_safe,
        1,
        "offset +0: the product's metadata",
        1,
        ("GS2A_20180629T000241_015757",),
        warped=True,
    ),
    Show("s2_l2a_majortom_48QUE", majortom, 1, "offset +0: the campaign says so", 1, ("S2B_20200223T032739",)),
    Show("s2_l2a_openeo_31UFS", openeo, 3, "offset +0: the campaign says so", 3),
    Show("s2_series_30T_2019", series, 33, "offset +0: the campaign says so", 5, seen=series_under_clouds),
    Show("s2_ssl4eo_43RCP", ssl4eo, 2, "offset +0: processing baseline 02.14", 1, SSL4EO_DATATAKES, warped=True),
]


@pytest.fixture(scope="module", params=SHOWS, ids=lambda show: show.campaign)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Show, Campaign]]:
    """A campaign as a user runs it, in a folder of its own."""
    show: Show = request.param
    with pytest.MonkeyPatch.context() as patch:
        campaign = real_campaign(CAMPAIGNS / f"{show.campaign}.yaml", tmp_path_factory.mktemp(show.campaign), patch)
        said = campaign.cli("run")
        assert f"{show.scenes} scenes" in said
        assert "0 unusable" in said
        assert "nothing found wrong" in said
        yield show, campaign


def test_every_shard_is_what_the_files_hold(finished: tuple[Show, Campaign]) -> None:
    show, file = finished
    campaign, run = load_campaign(file.file), file.run
    scenes = read_inventory(campaign, run)
    weights = read_weights(campaign, run, "s2_mosaiks")[0]
    context = make_context(
        campaign,
        "s2_mosaiks",
        grid_names(campaign, "s2_mosaiks", scenes),
        weights,
        torch.nn.Identity(),
        torch.device("cpu"),
        batch=2,
    )
    layout, reader = context.layout, RasterReader(2)
    with xarray.open_datatree(run.newest_cube, engine="zarr") as tree:
        cube = tree["s2_mosaiks/grid"].to_dataset()[["n_obs", "status"]].load()
    seen, most = 0.0, 0
    for shard in (shard for group in read_shards(run, read_plan(campaign, run)) for shard in group):
        area = layout.shard_area(shard.row, shard.col)
        x, y = np.meshgrid(*context.grids["grid"].centres(area.grown(layout.halo_px), 1))
        acquisitions = show.reference(campaign.all_windows[shard.t].start, x, y)
        sample = read_sample(shard, [scenes[i] for i in shard.scenes], context, reader)
        expected = median_of(acquisitions)
        np.testing.assert_array_equal(np.isnan(sample.x_tcyx[0]), np.isnan(expected))
        off = np.abs(np.nan_to_num(sample.x_tcyx[0]) - np.nan_to_num(expected))
        # a value half way between two integers may be rounded either way
        assert off.max() <= (1 if show.warped else 0)
        assert (off > 0).mean() < 1e-4
        at = np.s_[
            shard.t,
            shard.iy * layout.shard_cells : (shard.iy + 1) * layout.shard_cells,
            shard.ix * layout.shard_cells : (shard.ix + 1) * layout.shard_cells,
        ]
        clear = ~np.isnan(acquisitions[:, 0, layout.halo_px : -layout.halo_px, layout.halo_px : -layout.halo_px])
        cells = clear.reshape(len(clear), layout.shard_cells, layout.cell_px, layout.shard_cells, layout.cell_px)
        np.testing.assert_array_equal(cube["n_obs"][at], cells.any(axis=(2, 4)).sum(axis=0))
        valid = clear.any(axis=0).reshape(cells.shape[1:]).mean(axis=(1, 3)) >= 0.5
        everything = show.seen(campaign.all_windows[shard.t].start, x, y) if show.seen else acquisitions
        seen_yx = ~np.isnan(everything[:, 0, layout.halo_px : -layout.halo_px, layout.halo_px : -layout.halo_px])
        masked = np.asarray(seen_yx & ~clear).reshape(cells.shape).any(axis=(0, 2, 4))
        np.testing.assert_array_equal(cube["status"][at], np.where(valid, 1, np.where(masked, 3, 2)))
        seen, most = seen + clear.sum(), max(most, int(cube["n_obs"][at].max()))
    reader.close()
    assert seen > 1000, "the reference has seen data"
    assert most == show.n_obs


def median_of(acquisitions: Floats) -> NDArray[np.float32]:
    """The composite of clear values; NaN where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that nothing is clear somewhere
        return np.asarray(np.nanmedian(acquisitions, axis=0), dtype=np.float32)


def test_the_inventory_says_what_was_done(finished: tuple[Show, Campaign]) -> None:
    show, file = finished
    scenes = read_inventory(load_campaign(file.file), file.run)
    assert len(scenes) == show.scenes
    assert all(scene.processing.startswith(show.processing) and scene.offset == 0 for scene in scenes)
    assert not any(scene.verdict or scene.superseded_by for scene in scenes)
    named = {scene.acquisition for scene in scenes}
    assert len(named) == show.scenes
    assert named >= set(show.acquisitions)
