"""Files that change after `index`: noticed by what the file system says of them, decided by their bytes."""

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from numpy.typing import NDArray
from tests.edge.scenes import Scene as Written
from tests.edge.scenes import two_bands_of, write_scene

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.prepare.index import index
from embedcube.sources.base import Observation
from embedcube.sources.era5.source import Era5
from embedcube.sources.opening import raster_settings
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

WEST, NORTH, SIDE = 400_000.0, 5_600_000.0, 256
FRAME = Window(datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))


@pytest.fixture
def reader() -> Iterator[RasterReader]:
    made = RasterReader(threads=1, attempts=2, wait_s=0)
    yield made
    made.close()


def pixels(seed: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(500, 3000, (SIDE, SIDE)).astype(np.uint16)


def write(archive: Path, seed: int = 0) -> Path:
    """Write a scene of two bands without compression: files of equal pixels in number have equal sizes."""
    bands = {"B02": pixels(seed), "B03": pixels(seed + 1)}
    written = Written(id="scene", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=bands)
    return write_scene(archive, written, compress="none")


def sentinel2(archive: Path) -> Sentinel2:
    return Sentinel2("s2", Archive(source="sentinel2", path=archive, bands=("B02", "B03")))


def only(source: Any, *, full: bool = False) -> Scene:
    with raster_settings():
        found: list[Scene] = list(source.scenes(full_digests=full))
    assert [scene.verdict for scene in found] == [""]
    return found[0]


def observe(source: Sentinel2, scene: Scene, reader: RasterReader) -> Observation:
    grid = Grid(crs="EPSG:32632", pixel=10, origin_x=WEST, origin_y=NORTH)
    return source.observe(scene, FRAME, grid, PixelArea(row=0, col=0, rows=SIDE, cols=SIDE), reader)


def overwrite(path: Path, data: bytes) -> None:
    """Write other bytes of the same number into a file, as `cp` does."""
    assert len(data) == path.stat().st_size
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("way", ["into", "renamed", "old times"])
def test_a_file_that_another_one_of_its_size_replaces_is_quarantined(
    way: str, full: bool, tmp_path: Path, reader: RasterReader
) -> None:
    folder = write(tmp_path)
    source = sentinel2(tmp_path)
    scene = only(source, full=full)
    path, before = folder / "B02.tif", (folder / "B02.tif").stat()
    other = path.read_bytes()[:40_000] + (folder / "B03.tif").read_bytes()[40_000:]
    if way == "into":
        overwrite(path, other)
    else:
        (tmp_path / "new").write_bytes(other)
        (tmp_path / "new").replace(path)
        if way == "old times":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptInput, match=r"B02: scene/B02.tif has not the bytes that were indexed .*embedcube index"):
        observe(source, scene, reader)


@contextmanager
def never_waited_for(fifo: Path) -> Iterator[None]:
    """Who waits for the FIFO for ten seconds is released, and that fails."""
    released = []

    def release() -> None:
        released.append(fifo)
        os.close(os.open(fifo, os.O_RDWR))

    timer = threading.Timer(10, release)
    timer.start()
    yield
    timer.cancel()
    assert not released


@pytest.mark.parametrize("full", [False, True])
def test_a_fifo_in_place_of_a_file_is_never_opened(full: bool, tmp_path: Path, reader: RasterReader) -> None:
    path = write(tmp_path) / "B02.tif"
    source = sentinel2(tmp_path)
    scene = only(source, full=full)
    path.unlink()
    os.mkfifo(path)
    with never_waited_for(path), pytest.raises(CorruptInput, match=r"B02: scene/B02.tif has 0 bytes"):
        observe(source, scene, reader)


@pytest.mark.parametrize("full", [False, True])
def test_a_copy_of_an_archive_is_the_archive(
    full: bool, tmp_path: Path, reader: RasterReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Times and numbers that the file system keeps are no digest."""
    write(tmp_path / "first")
    scene = only(sentinel2(tmp_path / "first"), full=full)
    shutil.copytree(tmp_path / "first", tmp_path / "second", copy_function=shutil.copyfile)
    source = sentinel2(tmp_path / "second")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(observe(source, scene, reader).values_cyx, [pixels(0), pixels(1)])
    # a weak digest cannot say that all bytes are the same
    assert ("was touched after `embedcube index`" in caplog.text) == (not full)
    again = only(source, full=full)
    assert again.digest == scene.digest
    assert again.assets == scene.assets
    assert [asset.noted.inode for asset in again.assets] != [asset.noted.inode for asset in scene.assets]


def test_a_checksum_of_the_catalogue_is_compared_when_a_file_was_touched(tmp_path: Path, reader: RasterReader) -> None:
    import hashlib
    import json

    folder = write(tmp_path)
    item = json.loads((folder / "scene.json").read_text())
    for band in ("B02", "B03"):
        digest = hashlib.sha256((folder / f"{band}.tif").read_bytes()).hexdigest()
        item["assets"][band]["file:checksum"] = f"1220{digest}"
    (folder / "scene.json").write_text(json.dumps(item))
    source = sentinel2(tmp_path)
    declared, computed = only(source), only(source, full=True)
    assert declared.digest == computed.digest
    assert declared.declared
    assert not computed.declared
    os.utime(folder / "B02.tif")
    observe(source, declared, reader)
    data = bytearray((folder / "B03.tif").read_bytes())
    data[70_000] ^= 1
    overwrite(folder / "B03.tif", bytes(data))
    fresh = RasterReader(threads=1, attempts=2, wait_s=0)
    try:
        with pytest.raises(CorruptInput, match=r"B03: scene/B03\.tif has not the bytes that were indexed"):
            observe(source, declared, fresh)
    finally:
        fresh.close()


@pytest.mark.parametrize("form", ["NETCDF3_64BIT", "NETCDF4"])
def test_a_fifo_in_place_of_a_series_is_never_opened(form: Any, tmp_path: Path, reader: RasterReader) -> None:
    lat, lon = np.arange(52, 47, -0.25), np.arange(5, 10, 0.25)
    coords: dict[str, Any] = {
        "time": ("time", [np.datetime64("2022-08-31T00", "ns")], {"standard_name": "time"}),
        "latitude": ("latitude", lat, {"units": "degrees_north"}),
        "longitude": ("longitude", lon, {"units": "degrees_east"}),
    }
    values = np.full((1, 20, 20), 99000.0)
    path = tmp_path / "sp.nc"
    series = xarray.Dataset({"sp": (("time", "latitude", "longitude"), values)}, coords=coords)
    series.to_netcdf(path, engine="netcdf4", format=form)
    source = Era5("w", Archive(source="era5", path=tmp_path, bands=("sp",)))
    (scene,) = source.scenes(full_digests=False)
    assert not scene.verdict
    path.unlink()
    os.mkfifo(path)
    grid = Grid(crs="EPSG:4326", pixel=0.25, origin_x=4.875, origin_y=52.125)
    with never_waited_for(path), pytest.raises(CorruptInput, match=r"sp\.nc has 0 bytes"):
        source.observe(scene, FRAME, grid, PixelArea(row=0, col=0, rows=20, cols=20), reader)


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_a_series_that_was_replaced_is_quarantined(kind: str, tmp_path: Path, reader: RasterReader) -> None:
    def series(seed: int) -> xarray.Dataset:
        lat, lon = np.arange(52, 47, -0.25), np.arange(5, 10, 0.25)
        times = np.datetime64("2022-08-31T00", "ns") + np.arange(24) * np.timedelta64(1, "h")
        values = np.random.default_rng(seed).normal(99000, 1500, (24, len(lat), len(lon)))
        coords: dict[str, Any] = {
            "time": ("time", times, {"standard_name": "time"}),
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        }
        return xarray.Dataset({"sp": (("time", "latitude", "longitude"), values)}, coords=coords)

    def store(seed: int, path: Path) -> None:
        if kind == "zarr":
            series(seed).to_zarr(path, zarr_format=2, consolidated=True, mode="w")
        else:
            series(seed).to_netcdf(path, engine="netcdf4", format="NETCDF3_64BIT")

    path = tmp_path / "archive" / ("sp.zarr" if kind == "zarr" else "sp.nc")
    path.parent.mkdir()
    store(0, path)
    source = Era5("w", Archive(source="era5", path=path.parent, bands=("sp",)))
    (scene,) = source.scenes(full_digests=kind == "zarr")
    grid = Grid(crs="EPSG:4326", pixel=0.25, origin_x=4.875, origin_y=52.125)
    area = PixelArea(row=0, col=0, rows=20, cols=20)
    source.observe(scene, FRAME, grid, area, reader)
    store(1, tmp_path / "other")
    if kind == "zarr":
        shutil.rmtree(path)
        (tmp_path / "other").rename(path)
    else:
        overwrite(path, (tmp_path / "other").read_bytes())
    fresh = RasterReader(threads=1, attempts=2, wait_s=0)
    try:
        with pytest.raises(CorruptInput, match="has not the bytes that were indexed"):
            source.observe(scene, FRAME, grid, area, fresh)
    finally:
        fresh.close()


def test_index_refuses_a_change_that_its_digests_do_not_show(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "archive")
    campaign = two_bands_of(tmp_path, (WEST, NORTH))
    resolved = load_campaign(campaign.file)
    index(resolved, campaign.run)
    inventory = campaign.run.inventory.read_bytes()
    # nothing has happened: the inventory is the same, so that the plan stays valid
    index(resolved, campaign.run)
    assert campaign.run.inventory.read_bytes() == inventory
    # touched: a warning
    os.utime(folder / "B02.tif")
    with caplog.at_level(logging.WARNING):
        index(resolved, campaign.run)
    assert "1 scenes were touched since the last `embedcube index`" in caplog.text
    inventory = campaign.run.inventory.read_bytes()
    data = (folder / "B02.tif").read_bytes()[:40_000] + (folder / "B03.tif").read_bytes()[40_000:]
    overwrite(folder / "B02.tif", data)
    with pytest.raises(RequestError, match=r"1 scenes have other bytes than at the last .*index --digest full"):
        index(resolved, campaign.run)
    assert campaign.run.inventory.read_bytes() == inventory
    (scene,) = index(resolved, campaign.run, full_digests=True)
    assert scene.digest != read_first_digest(inventory, tmp_path)


def read_first_digest(inventory: bytes, folder: Path) -> str:
    import pyarrow.parquet

    path = folder / "before.parquet"
    path.write_bytes(inventory)
    return str(pyarrow.parquet.read_table(path)["embedcube:digest"][0].as_py())


def test_what_was_noted_is_in_the_inventory_and_in_no_digest(tmp_path: Path) -> None:
    write(tmp_path / "archive")
    campaign = two_bands_of(tmp_path, (WEST, NORTH))
    resolved = load_campaign(campaign.file)
    (indexed,) = index(resolved, campaign.run)
    (scene,) = read_inventory(resolved, campaign.run)
    status = (tmp_path / "archive" / scene.assets[0].path).stat()
    noted = scene.assets[0].noted
    assert (noted.modified_ns, noted.changed_ns, noted.inode) == (
        status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
    )  # fmt: skip
    assert [asset.noted for asset in scene.assets] == [asset.noted for asset in indexed.assets]
    assert str(status.st_ino) not in scene.to_json()
