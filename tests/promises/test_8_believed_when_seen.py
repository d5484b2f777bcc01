"""Believed when seen: what the pixels show counts, whatever the metadata say of them.

Shown here: the sky as the pixels have it against an Item's cloud cover, and one hole told in two ways. Elsewhere:
the file's header against its catalogue, the offset of a product, zeros under a mask that says data, names that
attributes deny (tests/sources), and status that does not depend on the size of shards (test_1_same_bytes.py).
Not yet shown: verdicts on pixels that are valid by all that is said of them and cannot be true.
"""

from pathlib import Path

import pytest
from tests.edge.scenes import write_scene
from tests.sources.reference_sentinel2 import MASKED, NO_DATA, VALID
from tests.sources.test_bad_input import (
    CELL_PX,
    CLEAR,
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


@pytest.mark.parametrize("number_too", [True, False], ids=["number and classification", "classification"])
def test_missing_is_missing_however_it_is_told(tmp_path: Path, *, number_too: bool) -> None:
    values = bands(pixels())
    values["SCL"][: CELL_PX // 2, : CELL_PX // 2] = 0  # at 20 m: the first cell
    if number_too:
        values["B02"][:CELL_PX, :CELL_PX] = 0
    write_scene(tmp_path / "archive", scene(bands=values))
    status_yx = read_shard(campaign_in(tmp_path)).sample.status_yx
    assert status_yx[0, 0] == NO_DATA
    assert (status_yx.ravel()[1:] == VALID).all()
