"""The radar images of the demo: the land that Sentinel-2 shows, a declared border, the same bits on any machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from numpy.typing import NDArray
from tests.conftest import Campaign

from embedcube.testing.demo import SEED
from embedcube.testing.demo_sentinel1 import (
    JUL_MORNING,
    JUN_EVENING,
    JUN_MORNING,
    NO_DATA,
    PASSES,
    Pass,
    write_sentinel1,
)
from embedcube.testing.demo_world import CROPS, KINDS, ground

VALID, NO_LOOK = 1, 2
CELL_M = 160


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("radar") / "sentinel1"
    write_sentinel1(folder, SEED)
    return folder


def pixels(archive: Path, take: Pass, polarisation: str) -> NDArray[np.float32]:
    with rasterio.open(archive / take.id / f"{polarisation}.tif") as source:
        return np.asarray(source.read(1))


def decibels(power: NDArray[np.float32]) -> float:
    return float(10 * np.log10(power.mean(dtype=np.float64)))


@pytest.mark.parametrize("take", PASSES, ids=lambda take: take.id)
def test_items_are_stac_and_describe_their_files(archive: Path, take: Pass) -> None:
    found = pystac.Item.from_file(str(archive / take.id / f"{take.id}.json"))
    assert (found.id, set(found.assets)) == (take.id, {"vv", "vh"})
    assert found.datetime is not None
    assert found.datetime.date() == take.start.date()
    text = (archive / take.id / f"{take.id}.json").read_text(encoding="utf-8")
    for asset in json.loads(text)["assets"].values():
        path = archive / take.id / asset["href"]
        assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
        with rasterio.open(path) as source:
            assert [source.height, source.width] == asset["proj:shape"]
            assert list(source.transform)[:6] == asset["proj:transform"]
            assert (source.crs.to_epsg(), source.nodata, source.dtypes[0]) == (32632, NO_DATA, "float32")
            assert (asset["raster:bands"][0]["nodata"], source.overviews(1)) == (NO_DATA, [])
            assert source.res == (20, 20)
    left, bottom, right, top = found.bbox or [0.0] * 4
    assert 7.4 < left < right < 7.8
    assert 50.8 < bottom < top < 51.0


@pytest.mark.parametrize("take", [JUN_MORNING, JUL_MORNING], ids=lambda take: take.id)
def test_water_is_dark_and_roofs_are_bright(archive: Path, take: Pass) -> None:
    label = ground(*take.axes(), seed=SEED).label
    for polarisation, water_db, lead_db in (("VV", -18, 5), ("VH", -25, 7)):
        power = pixels(archive, take, polarisation)
        has_data = power != NO_DATA
        of_kind = {kind: decibels(power[has_data & (label == n)]) for n, kind in enumerate(KINDS + CROPS)}
        water = max(of_kind["lake"], of_kind["river"])
        assert water < water_db
        assert all(of_kind[crop] > water + lead_db for crop in CROPS)
        assert of_kind["bright_roof"] > max(of_kind[crop] for crop in CROPS) + 4
    assert np.median(pixels(archive, take, "VH") / pixels(archive, take, "VV")) < 0.5


def test_crops_grow_between_two_passes(archive: Path) -> None:
    label = ground(*JUN_MORNING.axes(), seed=SEED).label
    for crop, rises in (("maize", True), ("wheat", False)):
        here = (label == len(KINDS) + CROPS.index(crop)) & JUN_MORNING.seen() & JUL_MORNING.seen()
        june, july = (decibels(pixels(archive, take, "VH")[here]) for take in (JUN_MORNING, JUL_MORNING))
        assert (july > june + 1) is rises


def test_the_border_is_the_declared_number_and_nothing_else(archive: Path) -> None:
    for take in PASSES:
        lost = [pixels(archive, take, polarisation) == NO_DATA for polarisation in ("VV", "VH")]
        np.testing.assert_array_equal(lost[0], lost[1])
        assert 0.02 < lost[0].mean() < 0.2
        first, last = np.nonzero(lost[0])[1].min(), np.nonzero(lost[0])[1].max()
        assert (last == take.cols - 1) if take.descending else (first == 0)
        power = pixels(archive, take, "VH")[~lost[0]]
        assert power.min() > 0
        assert power.max() < 10


def test_two_passes_show_one_land(archive: Path) -> None:
    """Speckle and slopes differ; means over 100 m agree."""
    first, second = (pixels(archive, take, "VV") for take in (JUN_MORNING, JUN_EVENING))
    right = int((JUN_EVENING.west_m - JUN_MORNING.west_m) / 20)
    down = int((JUN_MORNING.north_m - JUN_EVENING.north_m) / 20)
    shared = first[down : down + JUN_EVENING.rows, right:], second[:, : JUN_MORNING.cols - right]
    rows, cols = (size // 5 * 5 for size in shared[0].shape)
    blocks = [half[:rows, :cols].reshape(rows // 5, 5, -1, 5) for half in shared]
    both = np.all([(block != NO_DATA).all(axis=(1, 3)) for block in blocks], axis=0)
    means = [np.log(block.mean(axis=(1, 3))[both]) for block in blocks]
    assert np.corrcoef(means)[0, 1] > 0.75
    assert (shared[0] != shared[1]).mean() > 0.9


DIGESTS = [
    "b3be1d43cdf1dfc6",
    "9c7e7f4b2e3f6ab4",
    "5d6062e9f7501903",
    "aa7ff57149163292",
    "89fcf3f17b63f720",
    "873409592e9b750f",
]
"""SHA-256, its beginning, of VV and VH of each pass"""


def test_the_bits_are_those_of_other_machines(archive: Path) -> None:
    """Of the numbers in the files, and not of the files: those also depend on the version of GDAL."""
    digests = [
        hashlib.sha256(pixels(archive, take, polarisation).astype("<f4").tobytes()).hexdigest()[:16]
        for take in PASSES
        for polarisation in ("VV", "VH")
    ]
    assert digests == DIGESTS


def test_cells_have_radar_where_the_files_have(whole_demo: Campaign) -> None:
    """Status and n_obs of the layer, from the files alone: clear in half of a cell, or no look at all."""
    zarr: Any = pytest.importorskip("zarr")
    zone = zarr.open_group(whole_demo.run.newest_cube, mode="r")["s1_mosaiks/grid"]
    left, top = zone["x"][0] - CELL_M / 2, zone["y"][0] + CELL_M / 2
    side = CELL_M // 20
    rows, cols = zone["status"].shape[1:]
    folder = whole_demo.file.parent / "archive" / "sentinel1"
    for t, passes in enumerate(((JUN_MORNING, JUN_EVENING), (JUL_MORNING,))):
        looks = np.zeros((len(passes), rows * side, cols * side), dtype=bool)
        for look, take in zip(looks, passes, strict=True):
            row, col = int((top - take.north_m) / 20), int((take.west_m - left) / 20)
            look[row : row + take.rows, col : col + take.cols] = pixels(folder, take, "VV") != NO_DATA
        cells = looks.reshape(len(passes), rows, side, cols, side)
        clear = cells.any(axis=0).sum(axis=(1, 3)) >= side * side / 2
        status = zone["status"][t]
        planned = status != 0
        assert not (clear & ~planned).any()
        np.testing.assert_array_equal(np.where(clear, VALID, NO_LOOK)[planned], status[planned])
        np.testing.assert_array_equal(cells.any(axis=(2, 4)).sum(axis=0)[planned], zone["n_obs"][t][planned])
    june, july = zone["status"][0], zone["status"][1]
    assert ((june == VALID) & (july == NO_LOOK)).sum() > 200, "the east has no radar in July"
