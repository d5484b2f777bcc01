"""When a product was sensed, told from when it was made: by its name, and by metadata beside its images."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.sources.catalog import beside as beside_module
from embedcube.sources.catalog.beside import Beside, beside
from embedcube.sources.catalog.dates import last_moment, time_in
from embedcube.sources.sentinel2.source import Sentinel2

GRANULE = "S2A_OPER_MSI_L1C_TL_SGS__20230401T120000_A003253_T33TWL_N05.00"
SENSED = datetime(2015, 12, 30, 10, 5, 7, 463000, tzinfo=UTC)
PRODUCT = "S2A_MSIL1C_20151230T100402_N0500_R122_T33TWL_20230401T120000"


@pytest.mark.parametrize(
    ("name", "time"),
    [
        (GRANULE, None),
        (GRANULE.lower(), None),
        ("S2A_USER_MSI_L2A_TL_SGS__20160607T181818_A005000_T33TWL_20m", None),
        ("S2B_OPER_MTD_L1C_TL_EPA__20160607T181818_A005000_T33TWL", None),
        ("S2A_OPER_PRD_MSIL1C_PDMC_20160607T181818_R122_V20160606T100031_20160606T100559", "2016-06-06T10:00:31"),
        ("S2A_OPER_MTD_SAFL1C_PDMC_20160607T181818_R122_V20160606T100031_20160606T100559", "2016-06-06T10:00:31"),
        ("S2A_OPER_MSI_L2A_DS_2APS_20230815T155057_S20230815T095630_N05.09", "2023-08-15T09:56:30"),
        (PRODUCT, "2015-12-30T10:04:02"),
        (f"reprocessed_20240101_{PRODUCT}", "2015-12-30T10:04:02"),
        ("20240101T000000_S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA", "2020-06-07T01:08:00"),
        ("L1C_T33TWL_A003253_20151230T100507", "2015-12-30T10:05:07"),
        ("T33TWL_20151230T100402", "2015-12-30T10:04:02"),
        ("20151230T100402_20151230T100507_T33TWL", "2015-12-30T10:04:02"),
        ("S2A_33TWL_20151230_0_L1C", "2015-12-30T00:00:00"),
    ],
)
def test_a_stamp_of_making_is_no_time_of_sensing(name: str, time: str | None) -> None:
    assert time_in(name) == (None if time is None else datetime.fromisoformat(f"{time}+00:00"))


def band(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint16", crs="EPSG:32633",
        transform=from_origin(500_000, 5_100_000, 10, 10),
    ) as dataset:  # fmt: skip
        dataset.write(np.full((8, 8), 500, np.uint16), 1)


def only_scene(path: Path) -> Scene:
    archive = Archive(source="sentinel2", path=path, bands=("B04",), offset=0)
    (scene,) = Sentinel2("s2", archive).scenes(full_digests=False)
    return scene


XML = f"""<?xml version="1.0"?><n1:Level-1C_Tile_ID xmlns:n1="https://example.org/PSD"><n1:General_Info>
<TILE_ID metadataLevel="Brief">{GRANULE}</TILE_ID>
<SENSING_TIME metadataLevel="Standard">2015-12-30T10:05:07.463Z</SENSING_TIME>
<Archiving_Info><ARCHIVING_TIME>2023-04-01T12:34:56Z</ARCHIVING_TIME></Archiving_Info></n1:General_Info></n1:Level-1C_Tile_ID>"""
BESIDE = {
    "metadata.xml": XML,
    "MTD_TL.xml": XML,
    "granule_metadata.xml": XML,
    "S2A_OPER_MTD_L1C_TL_SGS__20230401T120000_A003253_T33TWL.xml": XML,
    "tileInfo.json": json.dumps(
        {"timestamp": "2015-12-30T10:05:07.463Z", "utmZone": 33, "latitudeBand": "T", "gridSquare": "WL"}
    ),
    "productInfo.json": json.dumps({"name": PRODUCT, "timestamp": "2015-12-30T10:05:07.463Z"}),
}


@pytest.mark.parametrize("inside", ["", "IMG_DATA", "IMG_DATA/R10m"])
@pytest.mark.parametrize("name", BESIDE)
def test_metadata_beside_the_images_say_when_they_were_sensed(tmp_path: Path, name: str, inside: str) -> None:
    folder = tmp_path / "archive" / GRANULE
    file = f"{GRANULE}_B04.tif" if inside else "B04.tif"
    band(folder / inside / file)
    (folder / name).write_text(BESIDE[name])
    scene = only_scene(tmp_path / "archive")
    assert (scene.id, scene.time, scene.verdict) == (GRANULE, SENSED, "")
    assert scene.acquisition == ("GS2A_20151230T100402_003253" if name == "productInfo.json" else "S2A_A003253")


def test_metadata_of_a_folder_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images without a date lie beside them."""
    folders: list[Path] = []

    def counted(folder: Path) -> Beside:
        folders.append(folder)
        return beside(folder)

    monkeypatch.setattr(beside_module, "beside", counted)
    for number in range(20):
        band(tmp_path / "images" / f"tile{number}_B04.tif")
    (tmp_path / "images" / "MTD_TL.xml").write_text(XML)
    archive = Archive(source="sentinel2", path=tmp_path, bands=("B04",), offset=0)
    scenes = list(Sentinel2("s2", archive).scenes(full_digests=False))
    assert {scene.time for scene in scenes} == {SENSED}
    assert folders == [tmp_path / "images"]


def test_without_metadata_a_granule_is_refused_in_words(tmp_path: Path) -> None:
    band(tmp_path / "archive" / GRANULE / "B04.tif")
    scene = only_scene(tmp_path / "archive")
    assert "the date in its name is that of its making" in scene.verdict
    assert "metadata.xml" in scene.verdict
    assert len(scene.verdict) < 300
    (tmp_path / "archive" / GRANULE / "metadata.xml").write_text(XML[:200])
    assert only_scene(tmp_path / "archive").verdict == scene.verdict, "a torn file tells nothing"


def test_a_single_image_of_a_granule_is_refused_too(tmp_path: Path) -> None:
    band(tmp_path / f"{GRANULE}_B04.tif")
    assert "that of its making" in only_scene(tmp_path / f"{GRANULE}_B04.tif").verdict


def test_a_tile_of_the_bucket_is_known_by_its_own_metadata(tmp_path: Path) -> None:
    """As tiles/33/T/WL/2015/12/30/0 on AWS: no name tells anything."""
    folder = tmp_path / "archive" / "0"
    band(folder / "B04.tif")
    info = {"timestamp": "2015-12-30T10:05:07.463Z", "productName": PRODUCT, "path": "tiles/33/T/WL/2015/12/30/0"}
    (folder / "tileInfo.json").write_text(json.dumps(info))
    scene = only_scene(tmp_path / "archive")
    assert (scene.id, scene.time, scene.acquisition) == (PRODUCT, SENSED, "S2A_20151230T100402")


@pytest.mark.parametrize(
    ("end", "last"),
    [("2023-06-01T06:00:00", "2023-06-01T05:59:59"), ("2023-06-02T00:00:00", "2023-06-01T23:59:59"),
     ("2023-06-01T23:59:59", "2023-06-01T23:59:59"), ("2023-06-01T00:00:00", "")],
)  # fmt: skip
def test_an_interval_ends_before_the_next_one_begins(end: str, last: str) -> None:
    """Bounds of six hours are no part of the window that begins at 06:00."""
    found = last_moment(*(datetime.fromisoformat(text) for text in ("2023-06-01T00:00:00", end)))
    assert (found.isoformat() if found else "") == last
