"""Copied and resampled scenes of one acquisition: which comes first, and what `plan` says of them."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import Campaign

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.scene import Asset, Scene
from embedcube.grid import Grid
from embedcube.prepare.resampled import Resampled

WEST, NORTH, SIDE_PX = 600_000.0, 5_100_000.0, 64


def write_tile(root: Path, name: str, day: str, pixels: NDArray[Any], shift_m: float, col: int = 0) -> None:
    """A tile of the pass of a day, whose origin is off the grid by `shift_m`."""
    id = f"S2A_{name}_202306{day}_0_L2A"
    (root / id).mkdir(parents=True)
    with rasterio.open(
        root / id / "B04.tif", "w", driver="GTiff", width=pixels.shape[1], height=pixels.shape[0], count=1,
        dtype="uint16", crs="EPSG:32633", nodata=0,
        transform=from_origin(WEST + 10 * col + shift_m, NORTH - shift_m, 10, 10),
    ) as dataset:  # fmt: skip
        dataset.write(pixels, 1)
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": id, "links": [],
        "assets": {"red": {"href": "./B04.tif"}},
        "properties": {"datetime": f"2023-06-{day}T10:00:00Z", "s2:datatake_id": f"GS2A_202306{day}T095031_0414{day}"},
    }  # fmt: skip
    (root / id / f"{id}.json").write_text(json.dumps(item))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four passes of two tiles that overlap; in three of them one tile lies half a pixel off the grid."""
    root = tmp_path_factory.mktemp("resampled") / "archive"
    texture = np.random.default_rng(3).integers(1000, 9000, (SIDE_PX, SIDE_PX)).astype(np.uint16)
    for number, day in enumerate(("02", "05", "12", "15")):
        # the one that is off comes first by its id, or last
        for tile, shift in (("33TWL", 5.0 * (number in (0, 1))), ("33TWM", 5.0 * (number == 2))):
            write_tile(root, tile, day, texture[:, : SIDE_PX * 3 // 4], shift)
    return root


def campaign_on(folder: Path, archive: Path, **grid: Any) -> Campaign:
    document = {
        "campaign": "resampled",
        "archives": {"s2": {"source": "sentinel2", "path": str(archive), "bands": ["B04"], "offset": 0}},
        "grid": {"crs": "EPSG:32633", "pixel": 10} | grid,
        "windows": [["2023-06-01", "2023-06-04"], ["2023-06-04", "2023-07-01"]],
        "layers": {
            "x": {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 34, "halo_px": 1,
                "cell_px": 16, "shard_chips": 2, "batch": 2,
            }
        },
        "how": {"ranks": 1},
    }  # fmt: skip
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(yaml.safe_dump(document))
    return campaign


def test_plan_counts_them_and_warns_where_they_meet(archive: Path, tmp_path: Path) -> None:
    campaign = campaign_on(tmp_path, archive)
    for verb in ("index", "fit"):
        campaign.cli(verb)
    said = campaign.cli("plan")
    assert "layers.x: 3 of 8 scenes are resampled (bilinear), 5 copied" in said
    (warning,) = [line.strip() for line in said.splitlines() if "warning" in line]
    assert "S2A_33TWL" in warning
    assert "S2A_33TWM" in warning
    assert len(warning) < 300
    resolved = load_campaign(campaign.file)
    scenes = read_inventory(resolved, campaign.run)
    seen = set()
    for shard in (shard for group in read_shards(campaign.run, read_plan(resolved, campaign.run)) for shard in group):
        of_pass: dict[str, list[str]] = {}
        for i in shard.scenes:
            of_pass.setdefault(scenes[i].acquisition, []).append(scenes[i].id)
        for ids in of_pass.values():
            seen |= {ids[0]} if len(ids) == 2 else set()
    assert seen == {
        f"S2A_{tile}_202306{day}_0_L2A"
        for tile, day in (("33TWM", "02"), ("33TWM", "05"), ("33TWL", "12"), ("33TWL", "15"))
    }


def test_plan_is_silent_where_all_are_copied(tmp_path: Path) -> None:
    texture = np.full((SIDE_PX, SIDE_PX), 1500, np.uint16)
    write_tile(tmp_path / "archive", "33TWL", "02", texture + np.arange(SIDE_PX, dtype=np.uint16), 0)
    campaign = campaign_on(tmp_path, tmp_path / "archive")
    for verb in ("index", "fit"):
        campaign.cli(verb)
    assert "resampled (" not in campaign.cli("plan")


def test_the_first_pair_that_meets_is_found_in_time(tmp_path: Path, archive: Path) -> None:
    """Of a pass of thousands of tiles, of which the last ones meet."""
    campaign = load_campaign(campaign_on(tmp_path, archive).file)
    ways = Resampled(campaign, "x", Grid(crs="EPSG:32633", pixel=10))

    def tile(id: str, west_m: float) -> Scene:
        asset = Asset(
            band="B04", path="a.tif", crs="EPSG:32633", transform=(10, 0, west_m, 0, -10, 5_000_000), rows=8, cols=8,
            block_rows=8, block_cols=8, dtype="u2", nodata=0.0, size=1, digest="weak:0",
        )  # fmt: skip
        return Scene(
            id=id, archive="s2", time=datetime(2023, 6, 1, tzinfo=UTC), acquisition="A", bbox=(15, 45, 16, 46),
            assets=(asset,),
        )  # fmt: skip

    copied = [tile(f"copied {i}", 400_000 + 100.0 * i) for i in range(4000)]
    others = [tile(f"resampled {i}", 2_000_000 + 100.0 * i) for i in range(4000)]
    started = time.process_time()
    assert ways._first_that_meet(copied, others) is None
    # a pixel apart still meets
    others += [tile("next", 400_000 + 100.0 * 3999 + 80 + 9.9), tile("same", 400_000 + 100.0 * 3999)]
    found = ways._first_that_meet(copied, others)
    assert found is not None
    assert [scene.id for scene in found] == ["copied 3999", "next"]
    assert time.process_time() - started < 8, "16 million pairs one by one take a minute"
