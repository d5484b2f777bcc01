"""Headers that contradict each other, checksums inside of files, and power that no surface has."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.edge.scenes import Scene as Written
from tests.edge.scenes import write_scene

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.sources.opening import raster_settings
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel1.source import Sentinel1
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

WEST, NORTH, SIDE = 400_000.0, 5_600_000.0, 96


def pixels(side: int = SIDE, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(500, 3000, (side, side)).astype(np.uint16)


def write(archive: Path, *, item: bool = True) -> Path:
    """Write a scene with bands of 10, 20 and 60 m."""
    bands = {"B02": pixels(), "B05": pixels(SIDE // 2), "B01": pixels(SIDE // 6)}
    written = Written(id="X_20230605", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=bands)
    folder = write_scene(archive, written)
    if not item:
        (folder / "X_20230605.json").unlink()
    return folder


def scene_of(archive: Path, bands: tuple[str, ...] = ("B02", "B05", "B01"), *, full: bool = False) -> Scene:
    source = Sentinel2("s2", Archive(source="sentinel2", path=archive, bands=bands, offset=0))
    with raster_settings():
        (scene,) = source.scenes(full_digests=full)
    return scene


def rewrite(path: Path, data: NDArray[Any], west: float, north: float, pixel: float, crs: str = "EPSG:32632") -> None:
    rows, cols = data.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=cols, height=rows, count=1, dtype=data.dtype.name, crs=crs,
        transform=from_origin(west, north, pixel, pixel), nodata=0,
    ) as target:  # fmt: skip
        target.write(data, 1)


@pytest.mark.parametrize(
    ("west", "north", "pixel", "rows", "crs"),
    [
        (WEST + 65_536, NORTH, 20, SIDE // 2, "EPSG:32632"),
        (WEST, NORTH - 40, 20, SIDE // 2, "EPSG:32632"),
        (WEST, NORTH, 40, SIDE // 2, "EPSG:32632"),
        (WEST, NORTH, 20, SIDE // 2 - 16, "EPSG:32632"),
        (WEST, NORTH, 20, SIDE // 2, "EPSG:32633"),
        (WEST, NORTH, 20, SIDE // 2, "EPSG:32732"),
    ],
)
def test_bands_at_different_places_are_a_verdict(
    west: float, north: float, pixel: float, rows: int, crs: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, item=False)
    assert not scene_of(tmp_path).verdict
    rewrite(folder / "B05.tif", pixels(SIDE // 2)[:rows], west, north, pixel, crs)
    verdict = scene_of(tmp_path).verdict
    assert verdict.startswith("its bands lie at different places: B02 (X_20230605/B02.tif) at ")
    assert "B05 (X_20230605/B05.tif) at" in verdict


def test_bands_that_are_cut_to_whole_pixels_are_one_place(tmp_path: Path) -> None:
    """A region that is cut out of bands of 10 m and of 60 m ends at different places, less than a pixel apart."""
    folder = write(tmp_path, item=False)
    rewrite(folder / "B01.tif", pixels(SIDE // 6 + 1), WEST - 50, NORTH + 50, 60)
    rewrite(folder / "B05.tif", pixels(SIDE // 2), WEST - 10, NORTH + 10, 20)
    assert not scene_of(tmp_path).verdict


def test_bands_in_two_systems_of_coordinates_may_be_one_place(tmp_path: Path) -> None:
    folder = write(tmp_path, item=False)
    rewrite(folder / "B05.tif", pixels(50), 7.585, 50.546, 0.0003, "EPSG:4326")
    assert not scene_of(tmp_path).verdict


@pytest.mark.parametrize(
    ("box", "good"),
    [
        ([7.58, 50.53, 7.60, 50.55], True),
        ([7.0, 50.0, 8.5, 51.0], True),
        ([7.590, 50.538, 7.592, 50.540], True),
        ([9.0, 50.0, 10.0, 51.0], False),
        ([50.53, 7.58, 50.55, 7.60], False),
        ([-180.0, -90.0, 180.0, 90.0], True),
        ([170.0, -90.0, 10.0, 90.0], True),
    ],
)
def test_a_file_far_from_its_item_is_a_verdict(box: list[float], good: bool, tmp_path: Path) -> None:
    folder = write(tmp_path)
    path = folder / "X_20230605.json"
    item = json.loads(path.read_text())
    path.write_text(json.dumps(item | {"bbox": box}))
    verdict = scene_of(tmp_path).verdict
    assert not verdict if good else "its catalogue says" in verdict


HERE = {"proj:transform": [10, 0, WEST, 0, -10, NORTH], "proj:shape": [SIDE, SIDE]}


@pytest.mark.parametrize(
    ("stated", "good"),
    [
        (HERE | {"proj:epsg": 32632}, True),
        (HERE | {"proj:code": "EPSG:32632"}, True),
        ({"proj:epsg": 32733, "proj:transform": [60, 0, 0, 0, -60, 0], "proj:shape": [1830, 1830]}, True),
        ({"proj:epsg": 999999, "proj:transform": [60, 0, 0, 0, -60, 0], "proj:shape": [1830, 1830]}, True),
        # the box, and not the file, is where the raster is said to be
        ({"proj:epsg": 4326, "proj:transform": [0.1, 0, 0, 0, -0.1, 1], "proj:shape": [10, 10]}, False),
        ({"proj:epsg": 32632}, False),
        ({"proj:epsg": 32632, "proj:transform": ["a"], "proj:shape": [10, 10]}, False),
    ],
)
def test_an_item_that_contradicts_itself_is_no_witness(stated: dict[str, Any], good: bool, tmp_path: Path) -> None:
    folder = write(tmp_path)
    path = folder / "X_20230605.json"
    item = json.loads(path.read_text())
    for asset in item["assets"].values():
        asset.update({key: value for key, value in stated.items() if key in ("proj:transform", "proj:shape")})
    item["properties"].pop("proj:epsg", None)
    item["properties"].update({key: value for key, value in stated.items() if key in ("proj:epsg", "proj:code")})
    path.write_text(json.dumps(item | {"bbox": [0.0, 0.0, 1.0, 1.0]}))
    verdict = scene_of(tmp_path).verdict
    assert not verdict if good else "its catalogue says" in verdict


def test_a_file_much_larger_than_its_item_is_a_verdict(tmp_path: Path) -> None:
    """A tile may have data in one corner only; no scene is 1,000 km wider than its data."""
    folder = write(tmp_path)
    for pixel, good in ((1_000, True), (10_000, False)):
        for band, side in (("B02", SIDE), ("B05", SIDE // 2), ("B01", SIDE // 6)):
            size = pixel * SIDE / side
            rewrite(folder / f"{band}.tif", pixels(side), WEST, NORTH, size)
        verdict = scene_of(tmp_path).verdict
        assert not verdict if good else "its catalogue says" in verdict


# --- the checksum of deflate ---------------------------------------------------------------------------------


def blocks_of(path: Path, index: int = 1) -> list[tuple[int, int]]:
    """Offset and length of each stored block of a band."""
    found = []
    with rasterio.open(path) as dataset:
        for (row, col), _ in dataset.block_windows(index):
            tags = [f"BLOCK_{what}_{col}_{row}" for what in ("OFFSET", "SIZE")]
            offset, length = (dataset.get_tag_item(tag, "TIFF", bidx=index) for tag in tags)
            if length:
                found.append((int(offset), int(length)))
    return found


@pytest.mark.parametrize("predictor", [1, 2])
def test_full_digests_look_at_the_checksums_of_deflate(predictor: int, tmp_path: Path) -> None:
    folder = write_scene(
        tmp_path,
        Written(id="X_20230605", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands={"B02": pixels()}),
        blockxsize=32, blockysize=32, predictor=predictor,
    )  # fmt: skip
    path = folder / "B02.tif"
    whole = path.read_bytes()
    assert not scene_of(tmp_path, ("B02",), full=True).verdict
    rng, silent, seen = np.random.default_rng(0), 0, 0
    blocks = blocks_of(path)
    flips = 40
    for _ in range(flips):
        offset, length = blocks[rng.integers(len(blocks))]
        data = bytearray(whole)
        data[offset + int(rng.integers(2, length))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        # a flip that GDAL notices by itself is not silent
        with suppress(rasterio.errors.RasterioIOError), rasterio.open(path) as dataset:
            silent += int(not np.array_equal(dataset.read(1), pixels()))
        seen += "does not decode: the block at row" in scene_of(tmp_path, ("B02",), full=True).verdict
    assert seen == flips
    assert silent > 0  # else GDAL looks at the checksums itself, and this check can go


def test_sparse_and_interleaved_files_have_their_checksums_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "X_20230605" / "stack.tif"
    path.parent.mkdir()
    values = np.stack([pixels(seed=seed) for seed in range(2)])
    values[:, :32] = 0
    for interleave in ("pixel", "band"):
        with rasterio.open(
            path, "w", driver="GTiff", width=SIDE, height=SIDE, count=2, dtype="uint16", crs="EPSG:32632", nodata=0,
            transform=from_origin(WEST, NORTH, 10, 10), compress="deflate", tiled=True, blockxsize=32, blockysize=32,
            sparse_ok=True, interleave=interleave,
        ) as target:  # fmt: skip
            target.write(values)
            target.descriptions = ("B02", "B03")
        source = Sentinel2("s2", Archive(source="sentinel2", path=path, bands=("B02", "B03"), offset=0))
        with raster_settings():
            assert [scene.verdict for scene in source.scenes(full_digests=True)] == [""]
        offset, length = blocks_of(path, 2 if interleave == "band" else 1)[-1]
        data = bytearray(path.read_bytes())
        data[offset + length - 1] ^= 1
        path.write_bytes(bytes(data))
        with raster_settings():
            (scene,) = source.scenes(full_digests=True)
        assert "B03: stack.tif does not decode: the block at row 2, column 2" in scene.verdict


# --- power that no surface has ---------------------------------------------------------------------------


def radar(folder: Path, values: str, numbers: NDArray[Any], nodata: float | None = None) -> Any:
    """Observe a product of VV with these numbers."""
    path = folder / "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457" / "VV.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=1, dtype=numbers.dtype.name, crs="EPSG:32632",
        transform=from_origin(WEST, NORTH, 10, 10), nodata=nodata,
    ) as target:  # fmt: skip
        target.write(numbers, 1)
    block = Archive(source="sentinel1", path=folder, bands=("VV",), options={"values": values})
    source = Sentinel1("s1", block)
    (scene,) = source.scenes(full_digests=False)
    from datetime import UTC, datetime

    frame = Window(datetime(2020, 6, 1, tzinfo=UTC), datetime(2020, 7, 1, tzinfo=UTC))
    grid = Grid(crs="EPSG:32632", pixel=10, origin_x=WEST, origin_y=NORTH)
    reader = RasterReader(1, attempts=1)
    try:
        return source.observe(scene, frame, grid, PixelArea(row=0, col=0, rows=8, cols=8), reader)
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ("db", 1.5e14),
        ("db", 70.0),
        ("linear", 1e7),
        ("linear", 3e38),
        ("amplitude", 2e3),
        ("db", float(np.float32(1e30))),
    ],
)
def test_power_that_no_surface_has_is_a_verdict(values: str, number: float, tmp_path: Path) -> None:
    numbers = np.full((8, 8), {"db": -12.0, "linear": 0.05, "amplitude": 0.2}[values], dtype=np.float32)
    assert radar(tmp_path, values, numbers).seen_yx.all()
    numbers[3, 4] = number
    with pytest.raises(CorruptInput, match=rf"VV: .*VV.tif has .*as `values: {values}` is no backscatter"):
        radar(tmp_path, values, numbers)
    # what is declared as no data is none
    assert radar(tmp_path, values, numbers, nodata=float(np.float32(number))).seen_yx.sum() == 63


def test_strong_reflectors_and_weak_water_are_backscatter(tmp_path: Path) -> None:
    numbers = np.linspace(-90, 55, 64, dtype=np.float32).reshape(8, 8)
    assert radar(tmp_path, "db", numbers).seen_yx.all()


def test_swapped_bytes_of_decibels_are_a_verdict(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(-12, 4, (8, 8)).astype(np.float32)
    with pytest.raises(CorruptInput, match="is no backscatter"):
        radar(tmp_path, "db", numbers.byteswap())
