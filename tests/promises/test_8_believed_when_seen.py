"""Believed when seen: what the pixels show counts, whatever the metadata say of them.

Shown here: the sky as the pixels have it against an Item's cloud cover, and one hole told in three ways. Elsewhere:
the file's header against its catalogue, the offset of a product, zeros under a mask that says data, names that
attributes deny (tests/sources), and status that does not depend on the size of shards (test_1_same_bytes.py).
Not yet shown: verdicts on pixels that are valid by all that is said of them and cannot be true.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from tests.edge.scenes import write_scene
from tests.sources.reference_sentinel2 import MASKED, NO_DATA, VALID
from tests.sources.test_bad_input import (
    CELL_PX,
    CLEAR,
    SIDE_PX,
    Read,
    bands,
    campaign_in,
    edit_item,
    pixels,
    read_shard,
    scene,
)

CLOUD = 9


@pytest.mark.parametrize(("claimed_percent", "scl", "status"), [(0.0, CLOUD, MASKED), (100.0, CLEAR, VALID)])
def test_the_sky_is_what_the_pixels_show(tmp_path: Path, claimed_percent: float, scl: int, status: int) -> None:
    folder = write_scene(tmp_path / "archive", scene(bands=bands(pixels(), scl)))
    edit_item(folder, lambda item: item["properties"].update({"eo:cloud_cover": claimed_percent}))
    assert (read_shard(campaign_in(tmp_path)).sample.status_yx == status).all()


def with_hole(folder: Path, told_by: str) -> Read:
    """The shard of one scene whose upper left cell shows nothing."""
    hole = np.s_[:CELL_PX, :CELL_PX]
    half = np.s_[: CELL_PX // 2, : CELL_PX // 2]
    values: dict[str, NDArray[Any]] = bands(pixels())
    if told_by == "number":
        values["B02"][hole] = 0
    if told_by != "sidecar":
        values["SCL"][half] = 0
    scene_folder = write_scene(folder / "archive", scene(bands=values))
    if told_by == "sidecar":
        for name, part in (("B02", hole), ("SCL", half)):
            with rasterio.open(scene_folder / f"{name}.tif", "r+") as file:
                valid = np.full(file.shape, 255, dtype=np.uint8)
                valid[part] = 0
                file.write_mask(valid)
    return read_shard(campaign_in(folder))


@pytest.mark.parametrize("told_by", ["number", "classification"])
def test_missing_is_missing_however_it_is_told(tmp_path: Path, told_by: str) -> None:
    sample = with_hole(tmp_path, told_by).sample
    assert sample.status_yx[0, 0] == NO_DATA
    assert (np.delete(sample.status_yx.ravel(), 0) == VALID).all()
    assert SIDE_PX // CELL_PX > 1
