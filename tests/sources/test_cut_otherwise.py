"""One archive, cut otherwise into files, folders, Items and lists: nothing that a shard reads may change.

How a pass is cut into tiles is in `test_passes.py`.
"""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.sources.test_passes import SENTINEL2, Read, optics, read, write

from embedcube.campaign.schema import Archive
from embedcube.grid import Grid, PixelArea
from embedcube.sources.composite import Composite
from embedcube.sources.era5.source import Era5
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window

few = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)

BANDS = ("B04", "B08", "SCL")
DAYS = (2, 12, 22)


# --- Sentinel-2 -------------------------------------------------------------------------------------------


def item_of(day: int, assets: dict[str, Any], shuffled: list[int]) -> dict[str, Any]:
    """An Item of one day; its keys and assets stand in some order."""
    keys = list(assets)
    document = {
        "assets": {keys[i]: assets[keys[i]] for i in shuffled if i < len(keys)},
        "id": f"S2A_33TWL_202306{day:02d}_0_L2A",
        "type": "Feature",
        "properties": {"datetime": f"2023-06-{day:02d}T09:50:31Z"},
        "stac_version": "1.0.0",
        "links": [],
    }
    return dict(sorted(document.items(), key=lambda pair: hash((pair[0], *shuffled))))


def lay_out(folder: Path, way: str, order: list[int], bands: list[int], depth: int) -> dict[str, Any]:
    """Write the three days in one of the ways; returns the archive's block."""
    root, block = folder / "archive", dict(SENTINEL2)
    items = []
    for place, number in enumerate(order):
        day, pixels = DAYS[number], optics(number)
        # names of folders say nothing, and decide in which order files are found
        home = root.joinpath(*(f"{place}{level}" for level in range(depth)))
        stacked = pixels[bands]
        if way == "images":
            write(home / f"scene_202306{day:02d}T095031.tif", stacked)
            continue
        if way in ("a file for each band", "a saved search"):
            for band, values in zip(BANDS, pixels, strict=True):
                write(home / f"{day}_{band}.tif", values)
            assets: dict[str, Any] = {band: {"href": f"./{day}_{band}.tif"} for band in BANDS}
        else:
            write(home / f"{day}.tif", stacked)
            described = {"bands": [{"name": BANDS[i]} for i in bands]} if way == "a file with names" else {}
            assets = {"data": {"href": f"./{day}.tif"} | described}
        if way == "a saved search":
            assets = {band: {"href": f"{(home / f'{day}_{band}.tif').relative_to(root)}"} for band in BANDS}
        else:
            (home / f"{day}.json").write_text(json.dumps(item_of(day, assets, bands)))
        items.append(item_of(day, assets, bands))
    if way == "a saved search":
        (root / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        block["path"] = "archive/search.json"
    if way in ("images", "a file with numbers"):
        block["options"] = {"variables": {BANDS[i]: place for place, i in enumerate(bands, start=1)}}
    return block


WAYS = ("a file for each band", "a saved search", "a file with names", "a file with numbers", "images")


@given(data=st.data())
@few
def test_an_archive_of_sentinel_2_is_the_same_in_any_layout(data: st.DataObject, tmp_path: Path) -> None:
    """Bands in one file or several, described or numbered; Items in any order, in files of their own or in a list."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    plain = lay_out(tmp_path / "plain", WAYS[0], [0, 1, 2], [0, 1, 2], 1)
    way = data.draw(st.sampled_from(WAYS))
    orders = st.permutations([0, 1, 2])
    other = lay_out(tmp_path / "other", way, data.draw(orders), data.draw(orders), data.draw(st.integers(1, 3)))
    one, same = (read(tmp_path / name, block) for name, block in (("plain", plain), ("other", other)))
    assert_equal(one, same)


def assert_equal(one: Read, other: Read) -> None:
    assert [scene.time for scene in one.scenes] == [scene.time for scene in other.scenes]
    assert one.sample.n_obs_yx.max() == len(DAYS)
    for found, expected in zip(other.facts, one.facts, strict=True):
        np.testing.assert_array_equal(found, expected)


# --- weather ----------------------------------------------------------------------------------------------

LAT, LON, HOURS = np.arange(-30.0, -33.0, -1.0), np.arange(178.0, 182.0), 72
START = datetime(2024, 2, 28, tzinfo=UTC)
GRID = Grid(crs="EPSG:4326", pixel=1.0, origin_x=177.5, origin_y=-29.5)
AREA = PixelArea(row=0, col=0, rows=len(LAT), cols=len(LON))


def weather(seed: int = 0) -> xarray.Dataset:
    """Hours over a leap day: t2m at the stamps, tp over the hour before each."""
    rng = np.random.default_rng(seed)
    shape = (HOURS, len(LAT), len(LON))
    coordinates = {
        "time": pandas.date_range(START.replace(tzinfo=None), periods=HOURS, freq="h"),
        "latitude": LAT,
        "longitude": LON,
    }
    values = {"t2m": (rng.normal(285, 5, shape), "K"), "tp": (rng.gamma(0.3, 1e-3, shape), "m")}
    return xarray.Dataset(
        {name: (tuple(coordinates), array, {"units": units}) for name, (array, units) in values.items()}, coordinates
    )


def write_weather(folder: Path, data: st.DataObject) -> None:
    """Cut the hours, and perhaps the parameters and the place, into files whose names tell no order."""
    folder.mkdir(parents=True)
    whole = weather()
    cuts = sorted({0, HOURS, *data.draw(st.lists(st.integers(2, HOURS - 2), max_size=3))})
    # an hour alone does not say how long it is
    starts = [cut for cut, following in zip(cuts, [*cuts[1:], HOURS + 2], strict=True) if following - cut > 1]
    spans = [slice(a, b) for a, b in zip(starts, [*starts[1:-1], HOURS], strict=False) if a < b]
    together, south_up = data.draw(st.booleans()), data.draw(st.booleans())
    west, new = data.draw(st.sampled_from([0, 1, 2])), data.draw(st.booleans())
    names = data.draw(st.permutations(range(4 * len(spans))))
    parts = []
    for span in spans:
        hours = whole.isel(time=span)
        hours = hours.isel(latitude=slice(None, None, -1)) if south_up else hours
        halves = [hours.isel(longitude=slice(0, west)), hours.isel(longitude=slice(west, None))] if west else [hours]
        for half in halves:
            parts += [half] if together else [half[["t2m"]], half[["tp"]]]
    for name, part in zip(names, parts, strict=False):
        part.to_netcdf(folder / f"{name}.nc", format="NETCDF4" if new else "NETCDF3_CLASSIC", engine="netcdf4")


@given(
    data=st.data(),
    first=st.integers(0, HOURS - 2),
    hours=st.integers(1, HOURS),
)
@few
def test_weather_of_any_window_is_the_same_however_its_files_are_cut(
    data: st.DataObject, first: int, hours: int, tmp_path: Path
) -> None:
    """Against numpy: a mean of the instants within the window, a sum of the hours that lie in it."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    write_weather(tmp_path, data)
    last = min(first + hours, HOURS - 1)
    frame = Window(START + timedelta(hours=first), START + timedelta(hours=last))
    found, whole = composite_of(tmp_path, frame), weather()
    expected: list[NDArray[np.float64]] = [
        whole.t2m.values[first:last].mean(axis=0),
        whole.tp.values[first + 1 : last + 1].sum(axis=0),
    ]
    assert found.clear_yx.all()
    np.testing.assert_allclose(found.x_cyx, np.stack(expected), rtol=1e-6)


# --- Zarr -------------------------------------------------------------------------------------------------

TIMES = ("hours since 1900-01-01", "seconds since 1970-01-01", "minutes since 2024-02-28")

PACKED: dict[str, dict[str, Any]] = {
    "t2m": {"dtype": "int16", "scale_factor": 0.25, "add_offset": 280.0, "_FillValue": -32768},
    "tp": {"dtype": "int32", "scale_factor": 2.0**-20, "add_offset": 0.0, "_FillValue": -1},
}


def packable(hole: int) -> xarray.Dataset:
    """The weather in numbers that packing keeps as they are; an hour of it is missing, none if that is negative."""
    whole = weather()
    for name, kind in PACKED.items():
        scale, add = kind["scale_factor"], kind["add_offset"]
        whole[name].values[:] = np.round((whole[name].values - add) / scale) * scale + add
        if hole >= 0:
            whole[name].values[hole] = np.nan
    return whole


def write_stores(folder: Path, whole: xarray.Dataset, data: st.DataObject) -> None:
    """The weather as one or two stores of Zarr 2 or 3.

    Drawn are the chunks, the shards, the order of the dimensions, whether numbers are packed, what times count from,
    and whether the metadata of all arrays lie together.
    """
    cut, packed = data.draw(st.sampled_from([0, 2, 24, HOURS - 2])), data.draw(st.booleans())
    order = data.draw(st.sampled_from([("time", "latitude", "longitude"), ("longitude", "latitude", "time")]))
    whole = whole.isel(latitude=slice(None, None, data.draw(st.sampled_from([1, -1])))).transpose(*order)
    for number, hours in enumerate([slice(cut), slice(cut, None)] if cut else [slice(None)]):
        part, version = whole.isel(time=hours), data.draw(st.sampled_from([2, 3]))
        encoding: dict[str, Any] = {"time": {"units": data.draw(st.sampled_from(TIMES))}}
        for name, kind in PACKED.items():
            sides = [part.sizes[dimension] for dimension in order]
            chunks = tuple(data.draw(st.integers(-(-side // 4), side)) for side in sides)
            encoding[name] = {"chunks": chunks} | (kind if packed else {})
            if version == 3 and data.draw(st.booleans()):
                encoding[name]["shards"] = tuple(side * data.draw(st.integers(1, 3)) for side in chunks)
        name = data.draw(st.sampled_from(["{}.zarr", "full_{}.zarr-v3", "store {}"])).format(number)
        part.to_zarr(folder / name, zarr_format=version, consolidated=data.draw(st.booleans()), encoding=encoding)


def composite_of(path: Path, frame: Window) -> Composite:
    source, reader = Era5("w", Archive(source="era5", path=path, bands=("2t", "tp"))), RasterReader(1)
    try:
        scenes = [scene for scene in source.scenes(full_digests=False) if not scene.superseded_by]
        assert not [scene.verdict for scene in scenes if scene.verdict]
        seen = [(s.acquisition, source.observe(s, frame, GRID, AREA, reader)) for s in scenes if s.meets(frame)]
    finally:
        reader.close()
    return source.composite(seen)


@given(
    data=st.data(), first=st.integers(0, HOURS - 2), hours=st.integers(1, HOURS), hole=st.sampled_from([-1, -1, 20, 50])
)
@settings(few, max_examples=4)
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_weather_of_a_store_is_the_same_in_any_chunks_and_format(
    data: st.DataObject, first: int, hours: int, hole: int, tmp_path: Path
) -> None:
    """Against one NetCDF file, also where an hour is missing; and against numpy."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    (tmp_path / "stores").mkdir(parents=True)
    whole = packable(hole)
    write_stores(tmp_path / "stores", whole, data)
    whole.to_netcdf(tmp_path / "one.nc", engine="netcdf4")
    last = min(first + hours, HOURS - 1)
    frame = Window(START + timedelta(hours=first), START + timedelta(hours=last))
    found, one = composite_of(tmp_path / "stores", frame), composite_of(tmp_path / "one.nc", frame)
    for name in ("x_cyx", "clear_yx", "masked_yx", "share_yx", "incomplete_yx"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name), err_msg=name)
    if hole < 0:
        assert found.clear_yx.all()
        mean, total = whole.t2m.values[first:last].mean(axis=0), whole.tp.values[first + 1 : last + 1].sum(axis=0)
        np.testing.assert_allclose(found.x_cyx, np.stack([mean, total]), rtol=1e-6)
