"""The demo archive: equal pixels where tiles overlap, correct cloud masks and checksums, and its intended faults."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from embedcube.testing.demo import SEED
from embedcube.testing.demo_sentinel2 import (
    EAST,
    JUL_BROKEN,
    JUL_EAST,
    JUL_WEST,
    JUN_CLEAR,
    JUN_EDGE,
    JUN_OVERCAST,
    LOOKED_TWICE,
    SCENES,
    TILE_PX,
    TORN_AND_CLEAR,
    TORN_AND_CLOUDY,
    WEST,
    Scene,
    Tile,
)
from embedcube.testing.demo_world import BANDS, CROPS, KINDS, Datatake, Ground, Sky, ground, reflectance, sky

OVERLAP_PX = 256
CLOUDS, CLEAR = (8, 9, 10), (4, 5, 6)
CLOUDY = 0.02
"""opacity (0 to 1) above which the scene classification says cloud or cirrus"""
TORN = next(scene for scene in SCENES if scene.torn_band)


@pytest.fixture(scope="session")
def archive(demo_archive: Path) -> Path:
    """The scenes of Sentinel-2, as the generator wrote them."""
    return demo_archive / "archive" / "sentinel2"


def item(archive: Path, scene: Scene) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((archive / scene.id / f"{scene.id}.json").read_text(encoding="utf-8"))
    return found


def pixels(archive: Path, scene: Scene, band: str) -> NDArray[Any]:
    """A band as reflectance x 10000, without the offset; only the upper half of the truncated band."""
    with rasterio.open(archive / scene.id / f"{band}.tif") as source:
        rows = TILE_PX // 2 if band == scene.torn_band else source.height
        stored: NDArray[Any] = source.read(1, window=Window(0, 0, source.width, rows)).astype(np.int32)
    if band == "SCL" or not scene.adds_offset:
        return stored
    return np.where(stored > 0, stored - 1000, 0)


def scene_of(take: Datatake, tile: object) -> Scene:
    return next(scene for scene in SCENES if scene.take is take and scene.tile is tile)


def scl_at(archive: Path, scene: Scene, place: tuple[float, float], radius_px: int = 8) -> NDArray[Any]:
    col = int((place[0] - scene.tile.west_m) // 20)
    row = int((scene.tile.north_m - place[1]) // 20)
    scl = pixels(archive, scene, "SCL")
    return scl[row - radius_px : row + radius_px, col - radius_px : col + radius_px]


def test_the_collection_lists_every_scene(archive: Path) -> None:
    files = [path for path in archive.rglob("*") if path.is_file()]
    assert len(files) == 1 + len(SCENES) * (1 + len(BANDS) + 1)
    collection = pystac.Collection.from_file(str(archive / "collection.json"))
    assert sorted(found.id for found in collection.get_items()) == sorted(scene.id for scene in SCENES)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.id)
def test_items_are_stac_and_describe_their_files(archive: Path, scene: Scene) -> None:
    found = pystac.Item.from_file(str(archive / scene.id / f"{scene.id}.json"))
    assert found.id == scene.id
    assert set(found.assets) == {"blue", "green", "red", "nir", "scl"}
    left, bottom, right, top = found.bbox or [0.0] * 4
    assert 7.4 < left < right < 7.8
    assert 50.8 < bottom < top < 51.0
    for asset in item(archive, scene)["assets"].values():
        path = archive / scene.id / asset["href"]
        assert asset["file:size"] == path.stat().st_size
        assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
        with rasterio.open(path) as source:
            assert [source.height, source.width] == asset["proj:shape"]
            assert list(source.transform)[:6] == asset["proj:transform"]
            assert (source.crs.to_epsg(), source.nodata, source.overviews(1)) == (32632, 0, [])
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert source.dtypes[0] == asset["raster:bands"][0]["data_type"]


@pytest.mark.parametrize("take", [JUN_CLEAR, JUN_EDGE, JUN_OVERCAST, JUL_BROKEN])
def test_two_items_of_one_acquisition_agree_where_they_overlap(archive: Path, take: Datatake) -> None:
    west, east = scene_of(take, WEST), scene_of(take, EAST)
    ids = [item(archive, scene)["properties"]["s2:datatake_id"] for scene in (west, east)]
    times = [item(archive, scene)["properties"]["datetime"] for scene in (west, east)]
    assert ids[0] == ids[1]
    assert times[0] != times[1], "the time does not tell acquisitions apart; the datatake does"
    for band in (*BANDS, "SCL"):
        left, right = pixels(archive, west, band), pixels(archive, east, band)
        rows, share = min(len(left), len(right)), OVERLAP_PX // (2 if band == "SCL" else 1)
        assert left[:, -share:].any()
        np.testing.assert_array_equal(left[:rows, -share:], right[:rows, :share])


@functools.cache
def land_of(tile: Tile) -> Ground:
    return ground(*tile.axes(), seed=SEED)


@functools.cache
def clear_sky_of(tile: Tile) -> Sky:
    return sky(*tile.axes(), take=JUN_CLEAR, seed=SEED)


def test_the_classification_matches_clouds_and_land(archive: Path) -> None:
    for scene in SCENES:
        axes = scene.tile.axes()
        scl = pixels(archive, scene, "SCL").repeat(2, axis=0).repeat(2, axis=1)
        cover = item(archive, scene)["properties"]["eo:cloud_cover"]
        assert cover == pytest.approx(100 * np.isin(scl[scl > 0], CLOUDS).mean(), abs=1e-3)
        cloudy = sky(*axes, take=scene.take, seed=SEED).opacity > CLOUDY
        assert not (cloudy & np.isin(scl, CLEAR)).any()
        blue, land = pixels(archive, scene, "B02"), land_of(scene.tile)
        brightest = blue.reshape(TILE_PX // 2, 2, -1, 2).max(axis=(1, 3))
        assert (brightest[scl[::2, ::2] == 9] > 4500).all()
        if (scl == 6).any():
            assert np.isin(land.kind[scl == 6], (0, 1)).mean() > 0.9
        # the same land under a clear sky
        clear = reflectance(land, clear_sky_of(scene.tile), *axes, take=scene.take, seed=SEED)[0].astype(int)
        assert np.abs(blue - clear)[np.isin(scl, CLEAR)].max() < 150
    covers = [item(archive, scene)["properties"]["eo:cloud_cover"] for scene in SCENES]
    assert max(covers) > 80
    assert covers[0] == covers[1] == 0


def test_every_land_cover_occurs_and_crops_change() -> None:
    east, west = land_of(EAST), land_of(WEST)
    assert set(np.unique(np.stack([east.label, west.label]))) == set(range(len(KINDS) + len(CROPS)))
    axes = WEST.axes()
    bare = clear_sky_of(WEST)
    for crop, greener in (("maize", True), ("wheat", False)):
        here = west.label == len(KINDS) + CROPS.index(crop)
        june, july = (
            reflectance(west, bare, *axes, take=take, seed=SEED)[3][here].mean() for take in (JUN_CLEAR, JUL_EAST)
        )
        assert (july > june) is np.bool_(greener)


@pytest.mark.parametrize("seed", [SEED, 1, 7])
def test_the_places_of_the_traps_hold_for_any_seed(seed: int) -> None:
    def share(take: Datatake, place: tuple[float, float]) -> float:
        near = np.arange(-395.0, 400.0, 10.0)
        return float((sky(place[0] + near, place[1] - near, take=take, seed=seed).opacity > CLOUDY).mean())

    assert share(JUN_CLEAR, LOOKED_TWICE) == share(JUL_WEST, LOOKED_TWICE) == 0
    assert share(JUN_OVERCAST, LOOKED_TWICE) == share(JUL_EAST, LOOKED_TWICE) == 1
    assert share(JUL_BROKEN, TORN_AND_CLOUDY) == share(JUL_BROKEN, TORN_AND_CLEAR) == 0
    assert share(JUL_EAST, TORN_AND_CLOUDY) == 1
    assert share(JUL_EAST, TORN_AND_CLEAR) == 0


def test_two_datatakes_see_the_overlap_differently(archive: Path) -> None:
    west, east = scene_of(JUL_WEST, WEST), scene_of(JUL_EAST, EAST)
    ids = [item(archive, scene)["properties"]["s2:datatake_id"] for scene in (west, east)]
    assert ids[0] != ids[1]
    assert np.isin(scl_at(archive, west, LOOKED_TWICE), CLEAR).all()
    assert np.isin(scl_at(archive, east, LOOKED_TWICE), CLOUDS).all()


def test_the_torn_band_opens_and_its_lower_half_does_not_decode(archive: Path) -> None:
    with rasterio.open(archive / TORN.id / f"{TORN.torn_band}.tif") as source:
        assert source.read(1, window=Window(0, 0, TILE_PX, TILE_PX // 2)).all()
        for row in range(TILE_PX // 2, TILE_PX, 256):
            for col in range(0, TILE_PX, 256):
                with pytest.raises(RasterioIOError):
                    source.read(1, window=Window(col, row, 256, 256))
        with pytest.raises(RasterioIOError):
            source.read(1)
    for x_m, y_m in (TORN_AND_CLEAR, TORN_AND_CLOUDY):
        assert TORN.tile.north_m - y_m > TILE_PX * 5
        assert x_m > WEST.west_m + TILE_PX * 10, "the other tile does not see it"
    other = scene_of(JUL_EAST, EAST)
    assert np.isin(scl_at(archive, other, TORN_AND_CLEAR), CLEAR).all()
    assert np.isin(scl_at(archive, other, TORN_AND_CLOUDY), CLOUDS).all()


def test_the_swath_edge_is_no_data_in_every_band(archive: Path) -> None:
    scene = scene_of(JUN_EDGE, EAST)
    outside = pixels(archive, scene, "SCL").repeat(2, axis=0).repeat(2, axis=1) == 0
    assert 0.1 < outside.mean() < 0.4
    assert outside[-1].sum() > outside[0].sum() + 200, "the edge is slanted"
    for band in BANDS:
        np.testing.assert_array_equal(pixels(archive, scene, band) == 0, outside)
    for other in SCENES:
        if other is not scene:
            assert pixels(archive, other, "SCL").all()
            assert pixels(archive, other, "B04").all()


def test_radiometry_is_as_the_items_say(archive: Path) -> None:
    told: dict[tuple[str, bool], int] = {}
    for scene in SCENES:
        found = item(archive, scene)
        baseline = found["properties"]["s2:processing_baseline"]
        applied = found["properties"]["earthsearch:boa_offset_applied"]
        told[baseline, applied] = told.get((baseline, applied), 0) + 1
        with rasterio.open(archive / scene.id / "B02.tif") as source:
            darkest = int(np.percentile(source.read(1, masked=True).compressed(), 1))
        raw = baseline == "05.09" and not applied
        assert (darkest > 1000) is raw or scene.take is JUN_OVERCAST, scene.id
        assert found["assets"]["blue"]["raster:bands"][0]["offset"] == (0 if baseline == "02.14" else -0.1)
    assert told == {("05.09", True): 8, ("05.09", False): 1, ("02.14", False): 1}
