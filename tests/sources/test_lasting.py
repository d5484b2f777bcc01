"""What lasts fills its whole interval, and an archive that has nothing in a window is told and costs validity."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml
from tests.conftest import Campaign, call_cli
from tests.sources.rasters import LEFT, SIDE, TOP, scenes_of, write, write_item
from tests.sources.test_missing import write_netcdf

from embedcube.grid import to_degrees
from embedcube.windows import Duration, windows_every

MONTHS = windows_every(datetime(2020, 12, 1, tzinfo=UTC), datetime(2022, 3, 1, tzinfo=UTC), Duration.parse("1 month"))
YEAR = {"start_datetime": "2021-01-01T00:00:00Z", "end_datetime": "2021-12-31T23:59:59Z"}
ALL_OF_2021 = [f"2021-{month:02d}" for month in range(1, 13)]


def field(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype("f4")


@pytest.mark.parametrize(
    ("properties", "months"),
    [
        ({"datetime": None} | YEAR, ALL_OF_2021),
        (YEAR, ALL_OF_2021),
        ({"datetime": "2021-07-01T00:00:00Z"} | YEAR, ALL_OF_2021),
        # the end of an interval is often written as the first moment after it
        ({"datetime": None} | YEAR | {"end_datetime": "2022-01-01T00:00:00Z"}, ALL_OF_2021),
        ({"datetime": None} | YEAR | {"end_datetime": "2021-02-01T00:00:01Z"}, ["2021-01", "2021-02"]),
        ({"datetime": None, "start_datetime": "2021-03-31T22:00:00Z", "end_datetime": "2021-04-01T02:00:00Z"},
         ["2021-03", "2021-04"]),
        # a pass of seconds that has a moment too
        ({"datetime": "2021-03-31T23:59:55Z", "start_datetime": "2021-03-31T23:59:40Z",
          "end_datetime": "2021-04-01T00:00:10Z"}, ["2021-03"]),
        ({"datetime": "2021-03-07T00:00:00Z", "end_datetime": "not a time"}, ["2021-03"]),
        ({"datetime": None, "start_datetime": "2021-03-07T00:00:00Z"}, ["2021-03"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["fields", "sentinel2", "sentinel1"])
def test_an_item_holds_in_every_window_that_it_lasts_in(
    tmp_path: Path, kind: str, properties: dict[str, Any], months: list[str]
) -> None:
    band = {"fields": "cover", "sentinel2": "B04", "sentinel1": "VV"}[kind]
    write(tmp_path / "x" / f"{band}.tif", np.abs(field()) / 10, nodata=-1)
    write_item(tmp_path / "x", "x", {band: {"href": f"./{band}.tif"}}, s2__processing_baseline="03.00", **properties)
    [scene] = scenes_of(kind, tmp_path, band)
    assert not scene.verdict
    assert [f"{window.start:%Y-%m}" for window in MONTHS if scene.meets(window)] == months


def test_an_item_that_ends_before_it_begins_is_a_verdict(tmp_path: Path) -> None:
    write(tmp_path / "x" / "cover.tif", field(), nodata=-1)
    properties = {"datetime": None, "start_datetime": "2021-03-07T00:00:00Z", "end_datetime": "2021-03-06T00:00:00Z"}
    write_item(tmp_path / "x", "x", {"cover": {"href": "./cover.tif"}}, **properties)
    [scene] = scenes_of("fields", tmp_path, "cover")
    assert "it ends at 2021-03-06T00:00:00Z, before it begins" in scene.verdict


def test_the_bounds_of_netcdf_say_how_long_a_step_lasts(tmp_path: Path) -> None:
    """Steps of January and of all of 2022, in days since 2021-06-07, stamped in their middle."""
    start = datetime(2021, 6, 7, tzinfo=UTC)
    days = [[(datetime(*edge, tzinfo=UTC) - start).days for edge in edges] for edges in (
        ((2021, 1, 1), (2021, 2, 1)), ((2021, 11, 1), (2022, 2, 1)))]  # fmt: skip
    write_netcdf(tmp_path / "bounds.nc", np.stack([field(0), field(1)]), bounds=days, _FillValue=-99.0)
    january, winter = scenes_of("fields", tmp_path, "cover")
    with xarray.open_dataset(tmp_path / "bounds.nc", engine="netcdf4") as dataset:
        assert [str(edge)[:10] for edge in dataset["time_bnds"].values[1]] == ["2021-11-01", "2022-02-01"]
    assert [f"{one.start:%Y-%m}" for one in MONTHS if january.meets(one)] == ["2021-01"]
    assert [f"{one.start:%Y-%m}" for one in MONTHS if winter.meets(one)] == ["2021-11", "2021-12", "2022-01"]


def test_an_archive_without_a_scene_in_a_window_is_named_and_its_cells_are_incomplete(tmp_path: Path) -> None:
    """Optical images of each month; radar in the first and third, on the western half in the third; a map of a year."""
    rng = np.random.default_rng(0)
    for month in ("01", "02", "03"):
        folder = tmp_path / "s2" / f"S2A_MSIL2A_2021{month}07T101601_N0300_R065_T32UNA_2021{month}07T162459"
        write(folder / "B04.tif", rng.integers(500, 3000, (SIDE, SIDE)).astype("u2"), nodata=0)
    for month, side in (("01", SIDE), ("03", SIDE // 2)):
        folder = tmp_path / "s1" / f"S1A_IW_GRDH_1SDV_2021{month}08T051101_2021{month}08T051126_036031_0438F7_1234"
        write(folder / "VV.tif", rng.gamma(3, 0.03, (SIDE, side)).astype("f4"))
    write(tmp_path / "map" / "map" / "cover.tif", field(), nodata=-99)
    write_item(tmp_path / "map" / "map", "map", {"cover": {"href": "./cover.tif"}}, datetime=None, **YEAR)
    campaign = Campaign(tmp_path / "campaign.yaml")
    document = {
        "campaign": "gaps",
        "archives": {
            "s2": {"source": "sentinel2", "path": "s2", "bands": ["B04"]},
            "s1": {"source": "sentinel1", "path": "s1", "bands": ["VV"], "options": {"values": "linear"}},
            "map": {"source": "fields", "path": "map", "bands": ["cover"]},
        },
        "grid": {"crs": "EPSG:32632", "pixel": 10},
        "region": {"bbox": [LEFT, TOP - 10 * SIDE, LEFT + 10 * SIDE, TOP], "crs": "EPSG:32632"},
        "windows": {"start": "2021-01-01", "end": "2021-04-01", "step": "1 month"},
        "layers": {
            "all": {
                "archives": ["s2", "s1", "map"], "backbone": {"name": "mosaiks", "filters": 2},
                "chip_px": 18, "halo_px": 1, "cell_px": 16, "shard_chips": 2, "batch": 2,
            }
        },
        "how": {"ranks": 1, "threads": 1},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    said = campaign.cli("run")
    assert "layers.all: window 1: archive s1 has no scene" in said
    assert "archive map" not in said
    group = xarray.open_datatree(campaign.run.root / "cube.zarr", engine="zarr")["all/grid"]
    inside = {"y": slice(TOP, TOP - 10 * SIDE), "x": slice(LEFT, LEFT + 10 * SIDE)}
    status = np.asarray(group["status"].sel(inside))
    valid, incomplete = 1, 5
    assert np.unique(status[0]).tolist() == [valid]
    assert np.unique(status[1]).tolist() == [incomplete]
    np.testing.assert_array_equal(status[2], [[valid, incomplete]] * 2)
    lon, lat = to_degrees("EPSG:32632").transform(LEFT + 5, TOP - 5)
    place = ("--lon", f"{lon}", "--lat", f"{lat}", "--time", "2021-02", "--json")
    told = json.loads(call_cli("explain", campaign.run.newest_cube, *place).stdout)
    assert (told["status"], told["missing_steps"]) == ("valid_incomplete", ["archive s1 has no scene"])
