"""Files of Sentinel-2 that are empty where the others have data: a fact of the scene, whatever a shard sees of it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.edge.scenes import Scene, write_scene

from embedcube.campaign.schema import Archive, Mask
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

WEST, NORTH, SIDE = 400_000.0, 5_600_000.0, 256
GRID = Grid(crs="EPSG:32632", pixel=10, origin_x=WEST, origin_y=NORTH)
ALWAYS = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
CLEAR, CLOUD = 4, 9


def bands(dtype: str) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    images = {name: rng.integers(500, 3000, (SIDE, SIDE)).astype(dtype) for name in ("B02", "B03")}
    return images | {"SCL": np.full((SIDE // 2, SIDE // 2), CLEAR, np.uint8)}


def refusals(folder: Path, images: dict[str, NDArray[Any]], side_px: int) -> set[str]:
    """Why areas of this side cannot be read, of all that lie on the scene."""
    nodata = None if images["B02"].dtype.kind == "f" else 0
    write_scene(
        folder, Scene(id="one", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=images), nodata=nodata
    )
    archive = Archive(
        source="sentinel2", path=folder, bands=("B02", "B03"), mask=Mask(band="SCL", clear=(CLEAR,)), offset=0
    )
    source, reader, found = Sentinel2("s2", archive), RasterReader(1, attempts=1), set()
    (scene,) = source.scenes(full_digests=False)
    assert not scene.verdict
    for row in range(0, SIDE, side_px):
        for col in range(0, SIDE, side_px):
            area = PixelArea(row=row, col=col, rows=side_px, cols=side_px).grown(1)
            try:
                source.observe(scene, ALWAYS, GRID, area, reader)
            except CorruptInput as error:
                found.add(str(error))
    reader.close()
    return found


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_scene_is_empty_or_not_whatever_the_size_of_the_shards(tmp_path: Path, dtype: str) -> None:
    """A quarter without data is a quarter without data; more than half of a file is a file that was not written."""
    nothing = 0 if dtype == "uint16" else np.nan
    part, most, mask = bands(dtype), bands(dtype), bands(dtype)
    part["B02"][: SIDE // 2, : SIDE // 2] = nothing
    most["B02"][: SIDE * 3 // 4] = nothing
    mask["SCL"][: SIDE * 3 // 8] = 0
    expected = {
        "part": (part, set()),
        "most": (most, {"B02: one/B02.tif is empty where SCL has data"}),
        "mask": (mask, {"SCL: one/SCL.tif is empty where all bands have data"}),
    }
    for name, (images, words) in expected.items():
        for side_px in (64, 128, 256):
            assert refusals(tmp_path / f"{name}{side_px}", images, side_px) == words, (name, side_px)


def test_numbers_that_are_left_out_under_clouds_are_no_fault_of_the_file(tmp_path: Path) -> None:
    images = bands("float32")
    images["SCL"][: SIDE * 3 // 8] = CLOUD
    for name in ("B02", "B03"):
        images[name][: SIDE * 3 // 4] = np.nan
    assert refusals(tmp_path, images, 64) == set()
