"""Acquisitions of real archives: as their own metadata tell them, and however their tiles are cut and described."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window as Cut
from tests.conftest import REAL_DATA
from tests.sources import reference_sentinel2 as reference
from tests.sources.reference_sentinel2 import Canvas, Shot
from tests.sources.samples import sample_of_layer_x

from embedcube.campaign.schema import Archive
from embedcube.kernel.sample import Sample
from embedcube.sources.base import Source
from embedcube.sources.sentinel1.source import Sentinel1
from embedcube.sources.sentinel2.source import Sentinel2

pytestmark = pytest.mark.realdata

TWL = REAL_DATA / "s2_l2a_33TWL_2023-08"
SSL4EO = REAL_DATA / "s1s2_ssl4eo_43RCP_2020"


def of_items() -> list[str]:
    """The datatake of each Item of 33TWL, without its baseline."""
    items = [json.loads(path.read_text()) for path in TWL.glob("*/S2*.json")]
    return [item["properties"]["s2:datatake_id"].rpartition("_")[0] for item in items]


def of_earth_engine() -> list[str]:
    """The same of the metadata of Earth Engine."""
    texts = [json.loads(path.read_text()) for path in (SSL4EO / "s2a").rglob("metadata.json")]
    return [text["DATATAKE_IDENTIFIER"].rpartition("_")[0] for text in texts]


def of_radar() -> list[str]:
    """Mission, orbit and datatake, as the names of the folders end."""
    return ["_".join([path.name[:3], *path.name.split("_")[-3:-1]]) for path in (SSL4EO / "s1").glob("*/S1*")]


DB = {"values": "db"}
NO_OFFSET = {"bands": ("B02",), "offset": 0}
SOURCES: dict[str, type[Source]] = {"sentinel1": Sentinel1, "sentinel2": Sentinel2}
KINDS: dict[str, tuple[str, str, dict[str, Any], Callable[[], list[str]]]] = {
    "Items": ("sentinel2", TWL.name, {"bands": ("B02",)}, of_items),
    "Earth Engine": ("sentinel2", f"{SSL4EO.name}/s2a", {"bands": ("B02",)}, of_earth_engine),
    "radar of Earth Engine": ("sentinel1", f"{SSL4EO.name}/s1", {"bands": ("VV",), "options": DB}, of_radar),
    "SAFE": (
        "sentinel2", "s2_l1c_safe_56JMM_2018-06-29", {"bands": ("B02",), "options": {"stated": "ignore"}},
        lambda: ["GS2A_20180629T000241_015757"],
    ),
    "Major TOM": (
        "sentinel2", "s2_l2a_majortom_48QUE_2020-02-23", NO_OFFSET, lambda: ["S2B_20200223T032739"]
    ),
    "BigEarthNet": (
        "sentinel2", "s1s2_bigearthnet_33UUP_2017-06-13/BigEarthNet-S2", NO_OFFSET,
        lambda: ["S2A_20170613T101031"],
    ),
    "openEO, days": (
        "sentinel2", "s2_l2a_openeo_31UFS_2023-06", NO_OFFSET,
        lambda: [f"S2 2023-06-0{day}T00:00 + 48 min" for day in (1, 4, 6)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_acquisitions_are_those_of_the_metadata(kind: str) -> None:
    source, path, archive, expected = KINDS[kind]
    wanted = Archive(source=source, path=REAL_DATA / path, **archive)
    found = list(SOURCES[source]("a", wanted).scenes(full_digests=False))
    assert sorted(scene.acquisition for scene in found) == sorted(expected())
    assert not any(scene.verdict or scene.superseded_by for scene in found)


# --- real tiles, cut and described otherwise --------------------------------------------------------------

BANDS, CLEAR = ("B02", "B03", "B04", "B08"), (4, 5, 6, 7, 11)
CELL_PX, SHARD_PX = 16, 960
CANVAS = Canvas(
    west=499_980, north=5_100_000, pixel=120, rows=SHARD_PX, cols=SHARD_PX, cells=(slice(0, 0), slice(0, 0))
)
TILES = {"WL": (0, 0, 500, 470), "XL": (0, 440, 500, 915), "WK": (450, 0, 915, 600), "XK": (440, 580, 915, 915)}
"""Names of neighbouring tiles, and first row, first column, last row, last column of the pixels that they get"""


def words(item: dict[str, Any], tile: str, style: int) -> tuple[str, dict[str, Any]]:
    """Id and properties of a tile of a scene, in the words of one of five catalogues."""
    facts = item["properties"]
    uri = facts["s2:product_uri"].removesuffix(".SAFE").replace("33TWL", f"33T{tile}")
    granule = facts["s2:granule_id"].replace("33TWL", f"33T{tile}")
    id = item["id"].replace("33TWL", f"33T{tile}")
    older = {"sentinel:processing_baseline": facts["s2:processing_baseline"], "sentinel:boa_offset_applied": True}
    newer = {"s2:processing_baseline": facts["s2:processing_baseline"], "earthsearch:boa_offset_applied": True}
    return [
        (id, {"s2:datatake_id": facts["s2:datatake_id"]} | newer),
        (id, {"sentinel:product_id": uri} | older),
        (granule, {"s2:product_title": uri} | newer),
        (granule, newer),
        (id, older),
    ][style]


def cut_scenes(root: Path) -> None:
    """Cut each of the five real scenes into four tiles that overlap, each scene in other words."""
    for style, path in enumerate(sorted(TWL.glob("*/S2*.json"))):
        item = json.loads(path.read_text())
        for number, (tile, (row, col, row1, col1)) in enumerate(TILES.items()):
            id, facts = words(item, tile, style)
            (root / id).mkdir(parents=True)
            for band in (*BANDS, "SCL"):
                with rasterio.open(path.parent / f"{band}.tif") as file:
                    window = Cut(col, row, min(col1, file.width) - col, min(row1, file.height) - row)
                    place = {"transform": file.window_transform(window), "width": window.width, "height": window.height}
                    profile = {"count": 1, "dtype": file.dtypes[0], "crs": file.crs, "nodata": file.nodata} | place
                    with rasterio.open(root / id / f"{band}.tif", "w", driver="GTiff", **profile) as part:
                        part.write(file.read(1, window=window), 1)
            time = datetime.fromisoformat(item["properties"]["datetime"]) + timedelta(seconds=14 * number)
            document = {
                "type": "Feature", "stac_version": "1.0.0", "id": id, "links": [],
                "assets": {band: {"href": f"./{band}.tif"} for band in (*BANDS, "SCL")},
                "properties": {"datetime": time.isoformat()} | facts,
            }  # fmt: skip
            (root / id / f"{id}.json").write_text(json.dumps(document))


def sample_of(folder: Path) -> tuple[int, Sample]:
    """The number of scenes, and the only shard of the archive as a rank reads it."""
    document = {
        "campaign": "cut",
        "archives": {
            "s2": {
                "source": "sentinel2", "path": "archive", "bands": [*BANDS], "mask": {"band": "SCL", "clear": [*CLEAR]},
            }
        },
        "grid": {"crs": "EPSG:32633", "pixel": 120, "origin": [CANVAS.west, CANVAS.north]},
        "windows": [["2023-08-01", "2023-09-01"]],
        "layers": {
            "x": {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 98, "halo_px": 1,
                "cell_px": CELL_PX, "shard_chips": SHARD_PX // 96, "batch": 2,
            }
        },
    }  # fmt: skip
    scenes, sample = sample_of_layer_x(folder, document)
    assert not any(scene.verdict or scene.superseded_by or scene.offset for scene in scenes)
    return len(scenes), sample


@pytest.mark.slow
def test_real_tiles_cut_otherwise_count_and_composite_as_the_whole_ones(tmp_path: Path) -> None:
    """Against the reference, which reads the whole scenes and knows nothing of embedcube."""
    cut_scenes(tmp_path / "archive")
    count, sample = sample_of(tmp_path)
    assert count == 20
    shots: list[Shot] = reference.read_shots(TWL, BANDS, CLEAR, CANVAS)
    assert len({shot.acquisition for shot in shots}) == 5
    n_obs, status = reference.counts_and_status(shots, cell_px=CELL_PX, min_valid=0.5)
    np.testing.assert_array_equal(sample.n_obs_yx, n_obs)
    np.testing.assert_array_equal(sample.status_yx, status)
    expected = reference.composite(shots, "median")
    np.testing.assert_array_equal(sample.x_tcyx[0][:, 1:-1, 1:-1], expected)
    assert n_obs.max() == 5
