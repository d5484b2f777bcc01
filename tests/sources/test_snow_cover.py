"""A source outside of the package: the one in docs/plugins.md."""

from pathlib import Path

import numpy as np
import rasterio
import yaml
from rasterio.transform import from_origin
from tests.conftest import PLUGINS, ROOT, Campaign, in_shards

from embedcube.campaign.plugins import distribution, plugin
from embedcube.campaign.schema import Archive
from embedcube.cube.reader import Cell, Cube
from embedcube.grid import Grid
from embedcube.testing.contracts import check_source

WEST, NORTH, SIDE = 400_000.0, 5_500_000.0, 96
GUIDE = ROOT / "docs" / "plugins.md"


def write_archive(folder: Path) -> None:
    """Two days of June, the second with a cloud."""
    folder.mkdir()
    for day in (3, 13):
        cover = np.random.default_rng(day).integers(0, 101, (SIDE, SIDE)).astype(np.uint8)
        cover[:40, :40] = 255 if day == 13 else 50
        with rasterio.open(
            folder / f"2023-06-{day:02d}_snow.tif", "w", driver="GTiff", height=SIDE, width=SIDE, count=1,
            dtype="uint8", crs="EPSG:32632", transform=from_origin(WEST, NORTH, 20, 20),
        ) as file:  # fmt: skip
            file.write(cover, 1)


def test_the_guide_shows_the_source_that_is_tested_here() -> None:
    guide = GUIDE.read_text("utf-8")
    assert (PLUGINS / "snow_cover.py").read_text("utf-8") in guide
    assert 'snow_cover = "snow_cover:SnowCover"' in guide


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    write_archive(tmp_path / "snow")
    source = plugin("sources", "snow_cover")(
        "snow", Archive(source="snow_cover", path=tmp_path / "snow", bands=("snow",))
    )
    check_source(source, Grid(crs="EPSG:32632", pixel=20), area_px=48)


def test_a_campaign_of_it_makes_a_verified_cube(tmp_path: Path) -> None:
    write_archive(tmp_path / "snow")
    campaign = Campaign(tmp_path / "campaign.yaml")
    document = {
        "campaign": "snow",
        "archives": {"snow": {"source": "snow_cover", "path": "snow", "bands": ["snow"]}},
        "grid": {"crs": "EPSG:32632", "pixel": 20},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {
            "snow": {
                "archives": "snow", "backbone": {"name": "mosaiks", "filters": 4},
                "chip_px": 34, "halo_px": 1, "cell_px": 16, "shard_chips": 1, "batch": 4,
            }
        },
        "how": {"ranks": 1},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    assert "nothing found wrong" in campaign.cli("run")
    cube, opened = in_shards(campaign.run.newest_cube, "snow/grid"), Cube(campaign.run.newest_cube)
    assert cube["n_obs"].values.max() == 2
    assert set(np.unique(cube["status"].values)) <= {1, 2}
    y, x = np.argwhere(opened.array("snow/grid", "n_obs")[0] == 2)[0].tolist()
    told = opened.explain(Cell(zone="snow/grid", t=0, y=y, x=x))
    assert {scene["processing"] for scene in told["scenes"]} == {"share = per cent / 100"}
    assert [scene["resampling"] for scene in told["scenes"]] == [{"snow": "copied"}] * 2
    assert distribution("sources", "snow_cover") == "snow_cover 1.0"
