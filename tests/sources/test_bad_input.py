"""Wrong input: what is quarantined, with which message, and what the cells hold. docs/bad-input.md lists all cases.

Each test has one faulty scene over a shard of 4 x 4 cells, and a good scene over its upper half.
"""

import ast
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray
import yaml
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import ROOT, Campaign, call_cli, cube_bytes
from tests.edge.scenes import Scene, write_scene
from tests.sources.reference_sentinel2 import FAILED, MASKED, NO_DATA, VALID, VALID_INCOMPLETE

from embedcube.backbones.base import Weights, make_inputs
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene as Found
from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.kernel.embed import ReadShard, embed_stage, to_device
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import Sample, read_sample
from embedcube.prepare.index import index
from embedcube.prepare.shards import cut
from embedcube.sources.era5.source import Era5
from embedcube.sources.opening import open_raster, raster_settings
from embedcube.sources.reader import RasterReader, judge

PAGE = ROOT / "docs" / "bad-input.md"

LAYER = "s2"
SIDE_PX, CELL_PX = 64, 16
WEST, NORTH = 400_000.0, 5_600_000.0
CLEAR, CLOUD = 4, 9
UPPER = np.arange(4)[:, None] < np.array([2] * 4)
"""cells (y, x) covered by the good scene"""


def campaign_in(folder: Path, *, mask: bool = True, **layer: Any) -> Campaign:
    """A campaign over `folder/archive` of one shard, which is one chip."""
    campaign = Campaign(folder / "campaign.yaml")
    s2: dict[str, Any] = {"source": "sentinel2", "path": "archive", "bands": ["B02"]}
    document = {
        "campaign": "bad",
        "archives": {"s2": s2 | ({"mask": {"band": "SCL", "clear": [CLEAR]}} if mask else {})},
        "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [WEST, NORTH]},
        "region": {"bbox": [WEST, NORTH - SIDE_PX * 10, WEST + SIDE_PX * 10, NORTH], "crs": "EPSG:32632"},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {
            LAYER: {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 2}, "chip_px": SIDE_PX + 2, "halo_px": 1,
                "cell_px": CELL_PX, "shard_chips": 1, "batch": 2, **layer,
            }
        },
        "how": {"ranks": 1, "threads": 1},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    return campaign


@dataclass(frozen=True)
class Read:
    """The only shard of a campaign, as a rank reads it."""

    scenes: dict[str, Found]
    sample: Sample
    said: dict[str, str]
    """for each quarantined scene, the reason"""


def read_shard(campaign: Campaign) -> Read:
    """Index, and read the shard with the kernel of the package."""
    resolved = load_campaign(campaign.file)
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    scenes = index(resolved, campaign.run)
    ones = np.ones(make_inputs(resolved, LAYER).channels, dtype=np.float32)
    context = make_context(
        resolved,
        LAYER,
        ["grid"],
        Weights(mean=0 * ones, std=ones, tensors={}),
        torch.nn.Identity(),
        torch.device("cpu"),
        batch=2,
    )
    found = cut(resolved, LAYER, context.grids["grid"], scenes)
    assert found is not None
    linked = tuple(found[0].scenes.tolist())
    shard = Shard(layer=LAYER, zone="grid", t=0, row=0, col=0, iy=0, ix=0, recipe="", scenes=linked)
    reader = RasterReader(threads=1, attempts=2, wait_s=0)
    try:
        sample = read_sample(shard, [scenes[i] for i in linked], context, reader)
    finally:
        reader.close()
    said = {scenes[i].id: reason.words for i, reason in sample.quarantined}
    return Read({scene.id: scene for scene in scenes}, sample, said)


def pixels(rows: int = SIDE_PX, cols: int = SIDE_PX, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(500, 3000, (rows, cols)).astype(np.uint16)


def bands(b02: NDArray[Any], scl: int = CLEAR) -> dict[str, NDArray[Any]]:
    """Write a scene, with the classification at 20 m."""
    return {"B02": b02, "SCL": np.full((b02.shape[0] // 2, b02.shape[1] // 2), scl, dtype=np.uint8)}


def write_good(archive: Path) -> None:
    """Write the good scene, over the upper half."""
    upper = bands(pixels(SIDE_PX // 2, SIDE_PX, seed=1))
    write_scene(archive, Scene(id="good", time="2023-06-15T10:00:00Z", west=WEST, north=NORTH, bands=upper))


def scene(id: str = "bad", **facts: Any) -> Scene:
    """Write a scene over the whole shard."""
    place: dict[str, Any] = {"time": "2023-06-05T10:00:00Z", "west": WEST, "north": NORTH, "bands": bands(pixels())}
    return Scene(**({"id": id} | place | facts))


def edit_item(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a scene's Item after `change` has edited it."""
    path = folder / f"{folder.name}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# --- files that are wrong from the beginning ------------------------------------------------------------


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero_the_middle(path: Path) -> None:
    """Overwrite bytes of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    path.write_bytes(data)


def other_bytes(path: Path) -> None:
    path.write_text("503 Service Unavailable")


def without_crs(path: Path) -> None:
    place = from_origin(WEST, NORTH, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint16", transform=place
    ) as file:
        file.write(pixels(), 1)


def without_place(path: Path) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint16", crs="EPSG:32632"
    ) as file:
        file.write(pixels(), 1)


TIFF: dict[str, Any] = {"blockxsize": 16, "blockysize": 16}
JP2: dict[str, Any] = {
    "driver": "JP2OpenJPEG", "compress": None, "tiled": None, "quality": 100, "reversible": True, "blockxsize": 32,
    "blockysize": 32,
}  # fmt: skip
WRONG_FROM_THE_BEGINNING: dict[str, tuple[dict[str, Any], Callable[[Path], None], str]] = {
    "a TIFF that is cut short": (TIFF, cut_in_half, "B02.tif does not decode"),
    "a TIFF with a hole": (TIFF, zero_the_middle, "B02.tif does not decode"),
    "a JPEG 2000 that is cut short": (JP2, cut_in_half, "B02.tif does not decode"),
    "a JPEG 2000 with a hole": (JP2, zero_the_middle, "B02.tif does not decode"),
    "no image at all": (TIFF, other_bytes, "does not decode"),
    "an empty file": (TIFF, lambda path: os.truncate(path, 0), "B02.tif does not decode"),
    "no CRS": (TIFF, without_crs, "B02: bad/B02.tif has no coordinate reference system"),
    "no transform": (TIFF, without_place, "B02: bad/B02.tif does not say where its pixels lie"),
}


@pytest.mark.parametrize("mask", [True, False], ids=["with a mask", "without"])
@pytest.mark.parametrize("name", WRONG_FROM_THE_BEGINNING)
def test_a_file_that_is_wrong_from_the_beginning_is_quarantined(tmp_path: Path, name: str, mask: bool) -> None:
    """No catalogue states its size, and without a mask nothing says where data should be."""
    layout, harm, words = WRONG_FROM_THE_BEGINNING[name]
    write_good(tmp_path / "archive")
    harm(write_scene(tmp_path / "archive", scene(), **layout) / "B02.tif")
    read = read_shard(campaign_in(tmp_path, mask=mask))
    assert list(read.said) == ["bad"]
    assert words in read.said["bad"]
    np.testing.assert_array_equal(read.sample.status_yx, np.where(UPPER, VALID_INCOMPLETE, FAILED))
    np.testing.assert_array_equal(read.sample.n_obs_yx, UPPER)
    upper = np.s_[0, 0, 1 : 1 + SIDE_PX // 2, 1:-1]
    np.testing.assert_array_equal(read.sample.x_tcyx[upper], pixels(SIDE_PX // 2, SIDE_PX, seed=1))


def test_a_hole_in_a_large_tile_of_jpeg2000_is_seen_by_its_checksum_and_by_nothing_else(tmp_path: Path) -> None:
    """Zeroed bytes inside a code block are valid wavelets for a decoder; only a file that is cut short is an error."""
    layout = JP2 | {"blockxsize": 1024, "blockysize": 1024}
    image = pixels(1024, 1024)
    folder = write_scene(tmp_path / "archive", scene(bands=bands(image)), **layout)
    path = folder / "B02.tif"
    whole = path.read_bytes()
    checksum = {"file:checksum": f"1220{hashlib.sha256(whole).hexdigest()}"}
    edit_item(folder, lambda document: document["assets"]["B02"].update(checksum))
    campaign = campaign_in(tmp_path, mask=False)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    with raster_settings(), open_raster(path, "") as opened:
        assert 0 < (opened.read(1) != image).mean() < 0.1
    assert read_shard(campaign).said == {}
    write_good(tmp_path / "archive")
    found = {one.id: one for one in index(load_campaign(campaign.file), campaign.run, full_digests=True)}
    assert re.search(r"B02: bad/B02\.tif is sha256:\w+, its catalogue says sha256:", found["bad"].verdict)
    cut_in_half(path)
    assert "B02.tif does not decode" in read_shard(campaign).said["bad"]


def test_a_weight_is_not_fitted_on_a_torn_scene_and_it_is_said(tmp_path: Path) -> None:
    """The campaign with the torn scene has the weights of the one without it."""
    weights = []
    for name, torn in (("with", True), ("without", False)):
        write_scene(tmp_path / name / "archive", scene("good", bands=bands(pixels(seed=1))))
        if torn:
            cut_in_half(write_scene(tmp_path / name / "archive", scene(), **JP2) / "B02.tif")
        campaign = campaign_in(tmp_path / name)
        campaign.cli("index")
        said = campaign.cli("fit")
        weights.append(campaign.run.weights(LAYER).read_bytes())
        line = r"\n {12}s2: fitted without 1 scene that could not be read\n {12}bad: B02: bad/B02\.tif does not decode"
        assert bool(re.search(line, said)) == torn
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("mask", "asks"), [(True, "list of clear classes right"), (False, "and have data there")])
def test_a_fit_on_nothing_asks_for_the_mask_only_where_there_is_one(tmp_path: Path, mask: bool, asks: str) -> None:
    # without a mask that has data elsewhere, a band without any is one that shows nothing
    shown = bands(pixels(), CLOUD) if mask else bands(pixels() * 0)
    write_scene(tmp_path / "archive", scene(bands=shown))
    campaign = campaign_in(tmp_path, mask=mask)
    campaign.cli("index")
    with pytest.raises(RequestError, match=asks):
        campaign.cli("fit")


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_64BIT", "NETCDF3_CLASSIC"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("grows", [True, False], ids=["unlimited", "fixed"])
def test_a_netcdf_file_that_is_cut_short_says_so(tmp_path: Path, kind: str, share: float, grows: bool) -> None:
    """The NetCDF library reads the missing end of a classic file as zeros."""
    hours = np.arange("2022-08-31T00", "2022-08-31T06", dtype="datetime64[h]").astype("datetime64[ns]")
    coordinates = {"time": hours, "latitude": 50 - np.arange(20) * 0.25, "longitude": np.arange(30) * 0.25}
    field = np.random.default_rng(0).normal(9e4, 1e3, (6, 20, 30)).astype(np.float32)
    data = xarray.Dataset({"sp": (tuple(coordinates), field), "tcc": (tuple(coordinates), field)}, coordinates)
    for name in ("good", "whole", "bad"):
        time = {"good": "2022-09-01", "whole": "2022-09-02", "bad": "2022-08-31"}[name]
        data["time"] = hours + (np.datetime64(time) - np.datetime64("2022-08-31"))
        data.to_netcdf(tmp_path / f"{name}.nc", format=kind, unlimited_dims=["time"] if grows else None)  # type: ignore[call-overload]
    path = tmp_path / "bad.nc"
    os.truncate(path, int(path.stat().st_size * share))
    source = Era5("weather", Archive(source="era5", path=tmp_path, bands=("sp",)))
    verdicts = {one.id.split()[-1]: one.verdict for one in source.scenes(full_digests=False)}
    assert (verdicts["good.nc"], verdicts["whole.nc"]) == ("", "")
    assert "bad.nc does not decode" in verdicts["bad.nc"]


# --- catalogues that are wrong --------------------------------------------------------------------------


def test_the_files_header_is_right_where_a_catalogue_disagrees(tmp_path: Path) -> None:
    """A catalogue that states another zone, transform, scale or a box that is not quite right is ignored.

    Its no-data number is not: see test_missing.py.
    """
    write_good(tmp_path / "archive")
    folder = write_scene(tmp_path / "archive", scene())
    plain = read_shard(campaign_in(tmp_path))

    def lie(item: dict[str, Any]) -> None:
        west, south, east, north = item["bbox"]
        item["bbox"] = [west - 0.002, south + 0.002, east - 0.002, north + 0.002]
        item["geometry"] = {"type": "Point", "coordinates": [100.0, 1.0]}
        wrong = {"proj:epsg": 32633, "proj:transform": [20, 0, 0, 0, -20, 0], "proj:shape": [3, 3]}
        item["properties"] |= wrong
        for asset in item["assets"].values():
            asset |= wrong | {"raster:bands": [{"scale": 2, "offset": 5}]}

    edit_item(folder, lie)
    lied = read_shard(campaign_in(tmp_path))
    assert not lied.said
    np.testing.assert_array_equal(lied.sample.x_tcyx, plain.sample.x_tcyx)
    assert (lied.sample.status_yx == VALID).all()
    assert lied.scenes["bad"].digest == plain.scenes["bad"].digest


@pytest.mark.parametrize(
    ("href", "words"),
    [
        ("./B2.tif", "./B2.tif does not exist"),
        ("/nowhere/B02.tif", "/nowhere/B02.tif does not exist"),
        (
            "https://example.org/2023/B2.tif?sig=secret",
            "the file at https://example.org/ is not on this machine: put it beside the Item, or name the folder that "
            'holds such files here, as links: {"https://example.org/": FOLDER}',
        ),
    ],
)
def test_a_link_that_leads_nowhere_makes_a_scene_that_says_so(tmp_path: Path, href: str, words: str) -> None:
    write_good(tmp_path / "archive")
    folder = write_scene(tmp_path / "archive", scene())
    edit_item(folder, lambda item: item["assets"]["B02"].update(href=href))
    read = read_shard(campaign_in(tmp_path))
    assert read.scenes["bad"].verdict == read.said["bad"] == f"B02: {words}"
    np.testing.assert_array_equal(read.sample.status_yx, np.where(UPPER, VALID_INCOMPLETE, FAILED))


# --- scenes that are right, and show little ---------------------------------------------------------------


def test_a_scene_of_nothing_leaves_no_data_and_one_of_clouds_says_so(tmp_path: Path) -> None:
    for name, b02, scl, expected in (
        ("nothing", pixels() * 0, 0, NO_DATA),
        ("clouds", pixels(), CLOUD, MASKED),
        ("a class that no legend has", pixels(), 77, MASKED),
    ):
        folder = tmp_path / name
        write_good(folder / "archive")
        write_scene(folder / "archive", scene(bands=bands(b02, scl)))
        read = read_shard(campaign_in(folder))
        assert not read.said
        np.testing.assert_array_equal(read.sample.status_yx, np.where(UPPER, VALID, expected), err_msg=name)
        np.testing.assert_array_equal(read.sample.n_obs_yx, UPPER, err_msg=name)


def test_nan_and_infinity_are_no_data(tmp_path: Path) -> None:
    values = pixels().astype(np.float32)
    values[: SIDE_PX // 2, :16], values[: SIDE_PX // 2, 16:32], values[: SIDE_PX // 2, 32:48] = np.nan, np.inf, -np.inf
    write_scene(tmp_path / "archive", scene(bands=bands(values)), nodata=None)
    read = read_shard(campaign_in(tmp_path))
    assert not read.said
    np.testing.assert_array_equal(read.sample.status_yx[:2], [[NO_DATA] * 3 + [VALID]] * 2)
    assert (read.sample.status_yx[2:] == VALID).all()
    assert not np.isinf(read.sample.x_tcyx).any()


class Overflowing(torch.nn.Module):
    """A backbone whose vectors are not finite in the first cells of a chip."""

    def forward(self, chips: Any) -> torch.Tensor:
        vectors = torch.ones((len(chips.x_btcyx), 4, 4, 3))
        vectors[:, 0, 0, 1], vectors[:, 0, 1, 2] = torch.inf, torch.nan
        return vectors


def test_a_vector_that_is_not_finite_is_a_failed_cell(tmp_path: Path) -> None:
    write_scene(tmp_path / "archive", scene())
    campaign = campaign_in(tmp_path)
    sample = read_shard(campaign).sample
    ones = np.ones(1, dtype=np.float32)
    weights = Weights(mean=0 * ones, std=ones, tensors={})
    context = make_context(
        load_campaign(campaign.file), LAYER, ["grid"], weights, Overflowing(), torch.device("cpu"), batch=2
    )
    shard = Shard(layer=LAYER, zone="grid", t=0, row=0, col=0, iy=0, ix=0, recipe="", scenes=(0,))
    context = replace(context, dimensions=3)
    pixels = to_device(shard, sample, context)
    cells = embed_stage(ReadShard(shard=shard, scenes=(), context=context, sample=sample, pixels=pixels)).cells.arrays
    assert cells["status"][0].tolist() == [FAILED, FAILED, VALID, VALID]
    np.testing.assert_array_equal(np.isnan(cells["scale"]), cells["status"] == FAILED)
    assert (cells["embedding"][cells["status"] == FAILED] == 0).all()


def test_a_scene_partly_outside_gives_what_it_has_and_one_wholly_outside_nothing(tmp_path: Path) -> None:
    write_scene(tmp_path / "archive", scene("partly", west=WEST + 320, north=NORTH + 160))
    write_scene(tmp_path / "archive", scene("outside", west=WEST + 640 + 10))
    write_scene(tmp_path / "archive", scene("far", west=WEST + 60_000, north=NORTH - 60_000))
    write_scene(tmp_path / "archive", scene("elsewhere", crs="EPSG:32655"))
    read = read_shard(campaign_in(tmp_path))
    assert not read.said
    shown = np.zeros((4, 4), dtype=bool)
    shown[:3, 2:] = True
    np.testing.assert_array_equal(read.sample.status_yx, np.where(shown, VALID, NO_DATA))
    assert len(read.sample.contributions) == len(np.packbits(shown)), "the other three are not of this shard"


def test_a_scene_of_another_zone_is_warped_onto_the_grid(tmp_path: Path) -> None:
    """A plane stays the same plane, whatever its pixels are."""
    to_33 = rasterio.warp.transform("EPSG:32632", "EPSG:32633", [WEST + 320], [NORTH - 320])
    west, north = round(to_33[0][0], -1) - 1000, round(to_33[1][0], -1) + 1000
    x, y = west + 5 + 10 * np.arange(200), north - 5 - 10 * np.arange(200)
    plane = 1500 + (x - x[100])[None] / 2 - (y - y[100])[:, None] / 4
    write_scene(
        tmp_path / "archive",
        scene(crs="EPSG:32633", west=west, north=north, bands=bands(plane.astype(np.float32))),
        nodata=None,
    )
    read = read_shard(campaign_in(tmp_path))
    assert (read.sample.status_yx == VALID).all()
    here_x, here_y = np.meshgrid(WEST + 5 + 10 * np.arange(-1, 65), NORTH - 5 - 10 * np.arange(-1, 65))
    there = rasterio.warp.transform("EPSG:32632", "EPSG:32633", here_x.ravel(), here_y.ravel())
    expected = 1500 + (np.array(there[0]) - x[100]) / 2 - (np.array(there[1]) - y[100]) / 4
    np.testing.assert_allclose(read.sample.x_tcyx[0, 0].ravel(), expected, rtol=1e-6)


# --- values -----------------------------------------------------------------------------------------------


def test_zero_stays_no_data_and_what_the_offset_makes_less_than_one_is_one(tmp_path: Path) -> None:
    row = np.array([0, 1, 999, 1000, 1001, 1002, 3000, 65535], dtype=np.uint16)
    raw = {"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": False}
    facts = scene(bands={"B02": np.tile(row, (64, 8))}, properties=raw)
    write_scene(tmp_path / "archive", facts)
    read = read_shard(campaign_in(tmp_path, mask=False))
    assert read.scenes["bad"].processing == "offset -1000: processing baseline 04.00"
    found = read.sample.x_tcyx[0, 0, 1, 1:9]
    np.testing.assert_array_equal(found, [np.nan, 1, 1, 1, 1, 2, 2000, 64535])


def test_the_newest_of_two_versions_is_used_and_the_other_says_so(tmp_path: Path) -> None:
    take = "GS2A_20230605T100031_041500_N"
    for baseline, value in (("02.08", 700), ("05.09", 900)):
        facts = {"s2:processing_baseline": baseline, "s2:mgrs_tile": "32ULB", "s2:datatake_id": f"{take}{baseline}"}
        name, values = f"S2A_32ULB_20230605_{baseline[:2]}_L2A", np.full((64, 64), value, np.uint16)
        write_scene(tmp_path / "archive", scene(name, bands=bands(values), properties=facts))
    read = read_shard(campaign_in(tmp_path))
    assert read.scenes["S2A_32ULB_20230605_02_L2A"].superseded_by == "S2A_32ULB_20230605_05_L2A"
    assert set(np.unique(read.sample.x_tcyx[0, 0, 1:-1, 1:-1])) == {900}
    assert (read.sample.n_obs_yx == 1).all()


@pytest.mark.parametrize(
    ("time", "within"),
    [
        ("2023-06-01T00:30:00+02:00", False),
        ("2023-05-31T22:30:00-02:00", True),
        ("2023-06-30T23:59:59.999Z", True),
        ("2023-07-01T01:00:00+02:00", True),
        ("2023-07-01T00:00:00Z", False),
        ("2023-06-15T00:00:00", True),
    ],
)
def test_a_moment_is_of_the_window_that_holds_it_in_utc(tmp_path: Path, time: str, within: bool) -> None:
    write_good(tmp_path / "archive")
    write_scene(tmp_path / "archive", scene(time=time))
    sample = read_shard(campaign_in(tmp_path)).sample
    np.testing.assert_array_equal(sample.n_obs_yx, UPPER.astype(int) + within)


def test_a_leap_day_is_a_day(tmp_path: Path) -> None:
    write_scene(tmp_path / "archive", scene(time="2024-02-29T10:00:00Z"))
    campaign = campaign_in(tmp_path)
    for windows, expected in (
        ({"start": "2024-02-01", "end": "2024-03-01", "step": "1 month"}, VALID),
        ({"start": "2024-02-29", "end": "2024-03-01", "step": "1 day"}, VALID),
        ({"start": "2024-03-01", "end": "2024-04-01", "step": "1 month"}, NO_DATA),
        ({"start": "2023-03-01", "end": "2024-03-01", "step": "1 year"}, VALID),
    ):
        campaign.change(lambda document, windows=windows: document.update(windows=windows))  # type: ignore[misc]
        assert (read_shard(campaign).sample.status_yx == expected).all(), windows


# --- the disk, and others at work -------------------------------------------------------------------------


def planned(folder: Path, shards: int) -> Campaign:
    """A campaign of a row of shards, prepared up to its plan."""
    for i in range(2):
        wide = bands(pixels(SIDE_PX, SIDE_PX * shards, seed=i))
        write_scene(folder / "archive", scene(f"scene{i}", time=f"2023-06-0{i + 5}T10:00:00Z", bands=wide))
    campaign = campaign_in(folder)
    campaign.change(lambda document: document.pop("region"))
    for verb in ("index", "fit", "plan"):
        campaign.cli(verb)
    return campaign


@pytest.mark.chaos
@pytest.mark.slow
def test_a_full_disk_stops_the_work_and_costs_the_shards_in_hand(tmp_path: Path) -> None:
    """The folder of the parts is a file system of 96 KiB; what was recorded on it is taken over, and the rest done."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    campaign = planned(tmp_path / "full", 12)
    parts, saved = campaign.run.parts, tmp_path / "saved"
    parts.mkdir()
    script = f"""
        mount -t tmpfs -o size=96k full {parts} || exit 99
        {Path(sys.executable).parent}/embedcube embed {campaign.file}
        code=$?; cp -a {parts} {saved}; exit $code
    """
    done = subprocess.run([*own, "sh", "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"shards are undone; a rank failed: .*\[Errno 28\] No space left on device", done.stderr)
    parts.rmdir()
    saved.rename(parts)
    before = len([line for path in parts.glob("*/*/*/records.jsonl") for line in path.read_bytes().split(b"\n")[:-1]])
    assert 0 < before < 12
    campaign.cli("embed")
    campaign.cli("consolidate")
    campaign.cli("verify")
    whole = planned(tmp_path / "whole", 12)
    for verb in ("embed", "consolidate"):
        whole.cli(verb)
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(whole.run.newest_cube)


@pytest.mark.slow
def test_two_runs_at_once_on_one_folder_make_the_cube_of_one(tmp_path: Path) -> None:
    """Both runs embed without knowing of each other, into their own parts."""
    campaign = planned(tmp_path / "both", 6)
    command: list[str | Path] = [Path(sys.executable).parent / "embedcube", "embed", campaign.file]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert len(list(campaign.run.task(0).iterdir())) == 2
    campaign.cli("consolidate")
    alone = planned(tmp_path / "alone", 6)
    for verb in ("embed", "consolidate"):
        alone.cli(verb)
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(alone.run.newest_cube)


def test_a_plan_of_another_version_of_the_campaign_is_not_embedded(tmp_path: Path) -> None:
    campaign = planned(tmp_path, 1)
    campaign.change(lambda document: document["archives"]["s2"]["mask"].update(clear=[CLEAR, 5]))
    done = call_cli("embed", campaign.file)
    assert done.returncode == 2
    assert "was made for another version of the campaign" in done.stderr
    assert not campaign.run.parts.exists()


# --- the page ---------------------------------------------------------------------------------------------


@functools.cache
def functions_of(file: str) -> set[str]:
    """Names of the functions that a file of tests defines."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_is_there() -> None:
    """Every row of the table names a test."""
    table = PAGE.read_text().partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(\w+/test_\w+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert name in functions_of(file), f"{file}::{name}"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: os.truncate(path, path.stat().st_size // 2), r"IReadBlock failed at X offset \d.*"),
        (lambda path: os.truncate(path, 0), "not recognized as being in a supported file format."),
        (lambda path: path.write_bytes(b"x" * 500), "not recognized as being in a supported file format."),
    ],
    ids=["cut", "empty", "no image"],
)
def test_a_reason_names_file_and_band_once_and_no_folder(
    tmp_path: Path, harm: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "scene" / "B02.tif"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 4000, (128, 128), np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", width=128, height=128, count=1, dtype="uint16", crs="EPSG:32632", tiled=True,
        blockxsize=64, blockysize=64, transform=from_origin(0, 0, 10, 10),
    ) as file:  # fmt: skip
        file.write(pixels, 1)
    harm(path)
    found = str(judge(path, "", "B02", "scene/B02.tif", lambda dataset: dataset.read(1)))
    assert re.fullmatch(rf"B02: scene/B02\.tif does not decode: {reason}", found), found
    assert found.count("B02.tif") == 1
    assert str(tmp_path) not in found
