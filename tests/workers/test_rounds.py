"""Rounds of `embed`: what one shard finds broken is out for all, whatever the shards are.

The archive has two scenes of 512 x 512 pixels. One is whole and covers the left half; the other covers all of it, and a
part of its band B02 does not decode. Where the broken part lies, only some shards read it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from numpy.typing import NDArray
from tests.conftest import Campaign
from tests.edge.scenes import Scene, two_bands_of, write_scene

from embedcube.campaign.parts import scan_records
from embedcube.campaign.run_folder import RunDir

CORNER = (400_000.0, 5_600_000.0)
SIDE_PX, TILE_PX, CELL_PX = 512, 256, 16
VALID_INCOMPLETE, FAILED = 5, 4

_Break = Callable[[Path], None]


def cut_in_half(path: Path) -> None:
    """Only the upper two of four tiles are left."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garble_last_block(path: Path) -> None:
    """Other bytes at the beginning of the block at the lower right, which the file's size does not show."""
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)


JPEG_2000 = {"driver": "JP2OpenJPEG", "compress": None, "tiled": None, "quality": 100, "reversible": True}
BROKEN: dict[str, tuple[dict[str, Any], _Break]] = {
    "JPEG 2000 cut in half": (JPEG_2000, cut_in_half),
    "GeoTIFF with one broken block": ({}, garble_last_block),
}


def bands(cols: int, seed: int) -> dict[str, NDArray[np.uint16]]:
    """B02 and B03 of a scene of SIDE_PX rows."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(500, 4000, (SIDE_PX, cols), dtype=np.uint16) for name in ("B02", "B03")}


def write_archive(folder: Path, kind: str) -> None:
    """The two scenes; the band of the broken one is broken before it is indexed."""
    profile, harm = BROKEN[kind]
    layout = {"blockxsize": TILE_PX, "blockysize": TILE_PX} | profile
    for i, (name, cols) in enumerate((("whole", SIDE_PX // 2), ("broken", SIDE_PX))):
        west, north = CORNER
        scene = Scene(id=name, time=f"2023-06-0{i + 5}T10:00:00Z", west=west, north=north, bands=bands(cols, i))
        made = write_scene(folder / "archive", scene, **layout)
    harm(made / "B02.tif")


def campaign_of(folder: Path, archive: Path, shard_chips: int = 1, **how: Any) -> Campaign:
    """A campaign over the archive; a shard has `shard_chips` x `shard_chips` chips of 128 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    campaign = two_bands_of(folder, CORNER, error_budget=0.5, read_attempts=2, **how)

    def larger(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(archive)
        document["layers"]["m"].update(chip_px=130, shard_chips=shard_chips, backbone={"name": "mosaiks", "filters": 2})

    campaign.change(larger)
    return campaign


def statuses(campaign: Campaign) -> NDArray[np.uint8]:
    """Status of the cells of the archive, as any reader of Zarr sees them."""
    cells = SIDE_PX // CELL_PX
    return np.asarray(zarr.open_group(campaign.run.newest_cube, mode="r")["m/grid/status"][0, :cells, :cells])


def records(run: RunDir) -> list[str]:
    """Recipe of each record."""
    return [record.recipe for _, record in scan_records(run)]


def expected_statuses() -> NDArray[np.int64]:
    """No cell is whole without the broken scene, and the left half has the other one."""
    cells = SIDE_PX // CELL_PX
    return np.broadcast_to(np.where(np.arange(cells) < cells // 2, VALID_INCOMPLETE, FAILED), (cells, cells))


@pytest.mark.parametrize(
    ("kind", "sizes"), [("JPEG 2000 cut in half", (1, 4)), ("GeoTIFF with one broken block", (1,))]
)
def test_status_does_not_depend_on_the_shards(tmp_path: Path, kind: str, sizes: tuple[int, ...]) -> None:
    write_archive(tmp_path, kind)
    reasons = []
    for shard_chips in sizes:
        campaign = campaign_of(tmp_path / f"chips{shard_chips}", tmp_path / "archive", shard_chips)
        campaign.cli("run")  # verified, too
        np.testing.assert_array_equal(statuses(campaign), expected_statuses())
        reasons.append(json.loads(campaign.cli("status", "--json"))["quarantined"])
    assert list(reasons[0]) == ["broken"]
    assert reasons[0]["broken"].startswith("B02: broken/B02.tif does not decode")
    assert all(one == reasons[0] for one in reasons), "the reason names no block that only some shards have read"
