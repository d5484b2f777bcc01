"""Sentinel-2 in every layout, on archives of a few pixels: the scenes that are found, and the decisions about them."""

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
from rasterio.transform import from_origin

from embedcube.campaign.parts import unreadable
from embedcube.campaign.scene import UNKNOWN_TIME, Scene
from embedcube.campaign.schema import Archive, Campaign, Mask
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.prepare.shards import cut
from embedcube.sources.base import Observation
from embedcube.sources.catalog.find import find_products
from embedcube.sources.catalog.products import Product
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.names import identify
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

GRID = Grid(crs="EPSG:32633", pixel=10.0)
AREA = PixelArea(row=-510_000, col=50_000, rows=12, cols=12)
"""the pixels of the files below"""
ALWAYS = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def write(path: Path, values: Any, pixel: int = 10, **profile: Any) -> Path:
    """A raster of tile 33TWL's corner: an array, or one value everywhere."""
    side = 120 // pixel
    pixels = np.broadcast_to(values, (side, side)) if np.ndim(values) == 0 else np.asarray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {"driver": "JP2OpenJPEG", "reversible": "yes", "quality": 100} if path.suffix == ".jp2" else {}
    settings: dict[str, Any] = {"driver": "GTiff", "crs": "EPSG:32633", "dtype": "uint16"} | driver | profile
    transform = from_origin(500_000, 5_100_000, pixel, pixel)
    with rasterio.open(
        path, "w", count=1, height=pixels.shape[0], width=pixels.shape[1], transform=transform, **settings
    ) as dataset:
        dataset.write(pixels.astype(settings["dtype"]), 1)
    return path


def scenes(path: Path, *bands: str, **settings: Any) -> list[Scene]:
    """The scenes of an archive."""
    archive = Archive(source="sentinel2", path=path, bands=bands, **settings)
    return list(Sentinel2("s2", archive).scenes(full_digests=False))


def observed(path: Path, *bands: str, **settings: Any) -> Observation:
    """The first scene on the files' own pixels."""
    source = Sentinel2("s2", Archive(source="sentinel2", path=path, bands=bands, **settings))
    reader = RasterReader(1)
    try:
        return source.observe(next(source.scenes(full_digests=False)), ALWAYS, GRID, AREA, reader)
    finally:
        reader.close()


# --- SAFE -------------------------------------------------------------------------------------------

NEW_L2A = "S2A_MSIL2A_20230815T100031_N0509_R122_T33TWL_20230815T150000"
OLD_L1C = "S2A_OPER_PRD_MSIL1C_PDMC_20160607T181818_R122_V20160606T100031_20160606T100559"


def metadata(baseline: str, offset: str = "", time: str = "2023-08-15T10:00:31.024Z") -> str:
    """A shortened MTD XML of a product."""
    return f"""<?xml version="1.0"?>
<n1:User_Product xmlns:n1="https://example.org/PSD"><n1:General_Info><Product_Info>
  <PROCESSING_LEVEL>Level-1C</PROCESSING_LEVEL><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
  <Datatake datatakeIdentifier="GS2A_20230815T100031_042555_N{baseline}">
    <DATATAKE_SENSING_START>{time}</DATATAKE_SENSING_START></Datatake>
</Product_Info></n1:General_Info>{offset}</n1:User_Product>"""


def offsets(tag: str) -> str:
    """Of three bands."""
    return "".join(f'<{tag} band_id="{band}">-1000</{tag}>' for band in range(3))


def manifest(safe: Path, algorithm: str = "MD5") -> None:
    """Write a manifest with the size and checksum of all files."""
    objects = []
    for path in sorted(path for path in safe.rglob("*") if path.is_file()):
        digest = hashlib.new({"MD5": "md5", "SHA3-256": "sha3_256"}[algorithm], path.read_bytes()).hexdigest()
        objects.append(
            f'<dataObject><byteStream size="{path.stat().st_size}">'
            f'<fileLocation href="./{path.relative_to(safe)}"/>'
            f'<checksum checksumName="{algorithm}">{digest.upper()}</checksum></byteStream></dataObject>'
        )
    (safe / "manifest.safe").write_text(f"<XFDU><dataObjectSection>{''.join(objects)}</dataObjectSection></XFDU>")


def new_l2a(root: Path) -> Path:
    """A product of Level-2A, B04 in all three resolutions, SCL in two."""
    safe = root / f"{NEW_L2A}.SAFE"
    images = safe / "GRANULE" / "L2A_T33TWL_A042555_20230815T100559" / "IMG_DATA"
    for pixel, band, value in [
        (60, "B04", 6000), (20, "B04", 2000), (10, "B04", 1500), (60, "SCL", 9), (20, "SCL", 4), (60, "B01", 1200),
    ]:  # fmt: skip
        write(images / f"R{pixel}m" / f"T33TWL_20230815T100031_{band}_{pixel}m.jp2", value, pixel)
    (safe / "MTD_MSIL2A.xml").write_text(metadata("05.09", offsets("BOA_ADD_OFFSET")))
    manifest(safe, "SHA3-256")
    return safe


def test_a_safe_of_level_2a_is_read_at_its_finest_resolution(tmp_path: Path) -> None:
    new_l2a(tmp_path)
    (scene,) = scenes(tmp_path, "B01", "B04", mask=Mask(band="SCL", clear=(4,)))
    assert (scene.id, scene.acquisition) == (NEW_L2A, "GS2A_20230815T100031_042555")
    assert scene.time == datetime(2023, 8, 15, 10, 0, 31, 24000, tzinfo=UTC)
    assert [asset.transform[0] for asset in scene.assets] == [60, 10, 20]
    assert all(asset.digest.startswith("sha3-256:") for asset in scene.assets)
    assert not scene.weak
    assert (scene.offset, scene.processing) == (-1000, "offset -1000: the product's metadata")
    seen = observed(tmp_path, "B01", "B04", mask=Mask(band="SCL", clear=(4,)))
    assert (seen.values_cyx == np.array([200, 500])[:, None, None]).all()
    assert seen.clear_yx.all()


def test_a_zip_is_the_folder_that_it_holds(tmp_path: Path) -> None:
    safe = new_l2a(tmp_path / "folder")
    zipped = tmp_path / "zips" / f"{NEW_L2A}.zip"
    zipped.parent.mkdir()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(safe.rglob("*")):
            archive.write(path, path.relative_to(safe.parent))
    (folder,), (one,), (alone,) = (scenes(p, "B01", "B04") for p in (tmp_path / "folder", zipped.parent, zipped))
    assert [asset.digest for asset in one.assets] == [asset.digest for asset in folder.assets]
    assert (one.id, one.time, one.offset) == (folder.id, folder.time, folder.offset)
    assert alone == one
    assert (observed(zipped, "B04").values_cyx == observed(tmp_path / "folder", "B04").values_cyx).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda safe: next(safe.rglob("*B04_10m.jp2")).write_bytes(b"short"), "5 bytes, its catalogue says"),
        (lambda safe: (safe / "MTD_MSIL2A.xml").write_text("<torn"), "is not a SAFE product"),
        (lambda safe: (safe / "MTD_MSIL2A.xml").unlink(), "has no MTD_MSIL1C.xml or MTD_MSIL2A.xml"),
        (lambda safe: [p.unlink() for p in safe.rglob("*B04*")], "B04: the product has no file of this band"),
    ],
    ids=["a file is short", "metadata is torn", "metadata is missing", "a band is missing"],
)
def test_a_safe_that_cannot_be_used_says_why(tmp_path: Path, change: Callable[[Path], Any], reason: str) -> None:
    change(new_l2a(tmp_path))
    (scene,) = scenes(tmp_path, "B04")
    assert reason in scene.verdict
    assert scene.id == NEW_L2A


def test_a_torn_zip_is_a_scene_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / f"{NEW_L2A}.zip").write_bytes(b"PK no more")
    (scene,) = scenes(tmp_path, "B04")
    assert "is not a SAFE product: File is not a zip file" in scene.verdict


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_full_digests_find_a_byte_that_a_manifest_does_not_state(tmp_path: Path, packed: bool) -> None:
    safe = new_l2a(tmp_path / "archive")
    image = next(safe.rglob("*B04_10m.jp2"))
    whole = image.read_bytes()
    for damaged in (False, True):
        image.write_bytes(whole[:-30] + bytes([whole[-30] ^ damaged]) + whole[-29:])
        if packed:
            with zipfile.ZipFile(tmp_path / f"{NEW_L2A}.zip", "w") as archive:
                for file in sorted(safe.rglob("*")):
                    archive.write(file, f"{NEW_L2A}.SAFE/{file.relative_to(safe)}")
        path = tmp_path / f"{NEW_L2A}.zip" if packed else safe
        source = Sentinel2("s2", Archive(source="sentinel2", path=path, bands=("B04",)))
        (scene,) = source.scenes(full_digests=True)
        assert (
            re.search(r"B04_10m\.jp2 is sha3-256:.* its catalogue says sha3-256:", scene.verdict) is None
        ) != damaged
        assert not next(source.scenes(full_digests=False)).verdict


def test_full_digests_are_held_against_the_checksum_of_an_item(tmp_path: Path) -> None:
    for name, text in (("right", "B04"), ("wrong", "B05")):
        folder = item(tmp_path, name, s2__processing_baseline="05.09").parent
        digest = hashlib.sha256((folder / "B04.tif").read_bytes() if text == "B04" else b"another").hexdigest()
        assets = {"B04": {"href": "./B04.tif", "file:checksum": f"1220{digest}"}}
        item(tmp_path, name, assets=assets, s2__processing_baseline="05.09")
    source = Sentinel2("s2", Archive(source="sentinel2", path=tmp_path, bands=("B04",)))
    verdicts = {scene.id: scene.verdict for scene in source.scenes(full_digests=True)}
    assert verdicts["right"] == ""
    assert "its catalogue says sha256:" in verdicts["wrong"]


def test_a_manifest_of_other_files_can_be_ignored(tmp_path: Path) -> None:
    safe = new_l2a(tmp_path)
    write(next(safe.rglob("*B04_10m.jp2")), np.arange(144).reshape(12, 12) + 2000)
    assert "its catalogue says" in scenes(tmp_path, "B04")[0].verdict
    (scene,) = scenes(tmp_path, "B04", options={"stated": "ignore"})
    assert not scene.verdict
    assert scene.weak


def test_the_old_naming_holds_several_tiles(tmp_path: Path) -> None:
    safe = tmp_path / f"{OLD_L1C}.SAFE"
    for tile, value in (("33TWL", 700), ("33TXL", 800)):
        granule = f"S2A_OPER_MSI_L1C_TL_SGS__20160606T153131_A004994_T{tile}_N02.02"
        name = granule.replace("_N02.02", "_B04.jp2")
        write(safe / "GRANULE" / granule / "IMG_DATA" / name, value)
    name = "S2A_OPER_MTD_SAFL1C_PDMC_20160607T181818_R122_V20160606T100031_20160606T100559.xml"
    (safe / name).write_text(metadata("02.02", time="2016-06-06T10:00:31.000Z"))
    found = scenes(tmp_path, "B04")
    assert [scene.id for scene in found] == [f"{OLD_L1C}_T33TWL", f"{OLD_L1C}_T33TXL"]
    assert len({scene.acquisition for scene in found}) == 1
    assert all(scene.weak and not scene.verdict and scene.offset == 0 for scene in found), "no manifest, no offset"
    assert found[0].time == datetime(2016, 6, 6, 10, 0, 31, tzinfo=UTC)
    assert (observed(tmp_path, "B04").values_cyx == 700).all()


OLD_L2A = "S2A_USER_PRD_MSIL2A_PDMC_20160607T181818_R122_V20160606T100031_20160606T100559"


def old_l2a(root: Path) -> Path:
    """Level-2A as sen2cor wrote it before 2017: the classification beside the folders of resolutions."""
    safe = root / f"{OLD_L2A}.SAFE"
    tile = "TL_SGS__20160606T153131_A004994_T33TWL"
    granule = safe / "GRANULE" / f"S2A_USER_MSI_L2A_{tile}_N02.02"
    images = granule / "IMG_DATA"
    for pixel, band, value in ((60, "B04", 6000), (20, "B04", 2000), (10, "B04", 700), (20, "B8A", 800)):
        write(images / f"R{pixel}m" / f"S2A_USER_MSI_L2A_{tile}_{band}_{pixel}m.jp2", value, pixel)
    for pixel, kind, folder, value in (
        (60, "SCL", "", 9), (20, "SCL", "", 4), (20, "AOT", "R20m", 3), (20, "WVP", "R20m", 5),
    ):  # fmt: skip
        write(images / folder / f"S2A_USER_{kind}_L2A_{tile}_{pixel}m.jp2", value, pixel)
    write(granule / "QI_DATA" / f"S2A_USER_CLD_L2A_{tile}_20m.jp2", 77, 20)
    text = metadata("02.02", time="2016-06-06T10:00:31.000Z").replace("Product_Info>", "L2A_Product_Info>")
    uri = f"<PRODUCT_URI_1C>{OLD_L1C}.SAFE</PRODUCT_URI_1C><PRODUCT_URI_2A>{OLD_L2A}.SAFE</PRODUCT_URI_2A>"
    (safe / "S2A_USER_MTD_SAFL2A_PDMC_20160607T181818_R122_V20160606T100031_20160606T100559.xml").write_text(
        text.replace("<Datatake ", f"{uri}<Datatake ").replace("Level-1C", "Level-2Ap")
    )
    return safe


def test_the_old_naming_of_level_2a_is_read_as_the_new_one(tmp_path: Path) -> None:
    old_l2a(tmp_path)
    mask = Mask(band="SCL", clear=(4,))
    (scene,) = scenes(tmp_path, "B04", "B8A", mask=mask)
    assert (scene.id, scene.verdict, scene.offset) == (OLD_L2A, "", 0)
    assert scene.time == datetime(2016, 6, 6, 10, 0, 31, tzinfo=UTC)
    assert [Path(asset.path).name.rpartition("T33TWL_")[2] for asset in scene.assets] == [
        "B04_10m.jp2", "B8A_20m.jp2", "20m.jp2",
    ]  # fmt: skip
    seen = observed(tmp_path, "B04", "B8A", mask=mask)
    assert (seen.values_cyx == np.array([700, 800])[:, None, None]).all()
    assert seen.clear_yx.all()
    options = {"variables": {"AOT": "AOT", "WVP": "WVP"}}
    assert (observed(tmp_path, "AOT", "WVP", options=options).values_cyx == np.array([3, 5])[:, None, None]).all()


def test_the_old_and_the_new_processing_of_one_tile_are_one_acquisition(tmp_path: Path) -> None:
    old_l2a(tmp_path)
    safe = new_l2a(tmp_path)
    again = metadata("05.00", offsets("BOA_ADD_OFFSET"), time="2016-06-06T10:00:31.000Z").replace("1C", "2A")
    (safe / "MTD_MSIL2A.xml").write_text(again)
    (safe / "manifest.safe").unlink()
    older, newer = sorted(scenes(tmp_path, "B04"), key=lambda scene: scene.offset, reverse=True)
    assert older.acquisition == newer.acquisition
    assert (older.id, older.superseded_by, newer.superseded_by) == (OLD_L2A, NEW_L2A, "")


# --- the offset ---------------------------------------------------------------------------------------


def product(id: str = "x", day: str = "2023-08-15", **properties: Any) -> Product:
    """A product with only those facts that decide."""
    moment = datetime.fromisoformat(f"{day}T10:00:00+00:00")
    return Product(id=id, time=moment, files={}, properties={k.replace("__", ":"): v for k, v in properties.items()})


@pytest.mark.parametrize(
    ("found", "baseline"),
    [
        (product(s2__processing_baseline="04.00"), 4.0),
        (product(s2__processing_baseline="4.00"), 4.0),
        (product(s2__processing_baseline=2.14), 2.14),
        (product(s2__processing_baseline=5.1), 5.10),
        (product(s2__processing_baseline=4), 4.0),
        (product(s2__processing_baseline="N0214"), 2.14),
        (product(s2__processing_baseline="99.99", id="S2A_MSIL2A_20230815T100031_N0509_R122_T33TWL_x"), 5.09),
        (product(processing__version="10.00"), 10.0),
        (product(processing__version="sen2cor 2.11"), None),
        (product(PROCESSING_BASELINE="02.14"), 2.14),
        (product("S2A_MSIL2A_20230815T100031_N0400_R122_T33TWL_20230815T150000"), 4.0),
        (product("S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543"), None),
        (product(s2__datatake_id="GS2A_20180629T000241_015757_N02.06"), 2.06),
        (product(s2__processing_baseline=None), None),
        (product("S2A_33TWL_20230815_0_L2A"), None),
    ],
    ids=lambda value: None if isinstance(value, Product) else str(value),
)
def test_a_baseline_is_read_however_it_is_written(found: Product, baseline: float | None) -> None:
    assert identify(found).baseline == (None if baseline is None else pytest.approx(baseline))


def item(root: Path, id: str, day: str = "2023-08-15", assets: dict[str, Any] | None = None, **properties: Any) -> Path:
    """Write a STAC Item with a B04 of value 1500."""
    folder = root / id
    write(folder / "B04.tif", 1500)
    document = {
        "type": "Feature",
        "id": id,
        "properties": {"datetime": f"{day}T10:00:31Z"} | {k.replace("__", ":"): v for k, v in properties.items()},
        "assets": assets or {"red": {"href": "./B04.tif"}},
    }
    (folder / f"{id}.json").write_text(json.dumps(document))
    return folder / f"{id}.json"


@pytest.mark.parametrize(
    ("day", "properties", "value", "says"),
    [
        ("2023-08-15", {"s2__processing_baseline": "05.09"}, 500, "offset -1000: processing baseline 05.09"),
        ("2023-08-15", {"s2__processing_baseline": "10.00"}, 500, "offset -1000: processing baseline 10.00"),
        ("2018-08-15", {"s2__processing_baseline": "05.00"}, 500, "offset -1000: processing baseline 05.00"),
        ("2018-08-15", {"s2__processing_baseline": "2.06"}, 1500, "offset +0: processing baseline 02.06"),
        (
            "2023-08-15",
            {"s2__processing_baseline": "05.09", "earthsearch__boa_offset_applied": True},
            1500,
            "offset +0: the catalogue says it has been applied",
        ),
    ],
)
def test_the_offset_is_decided_for_each_product(
    tmp_path: Path, day: str, properties: dict[str, Any], value: int, says: str
) -> None:
    item(tmp_path, "one", day, **properties)
    assert scenes(tmp_path, "B04")[0].processing == says
    assert (observed(tmp_path, "B04").values_cyx == value).all()


def test_the_packing_of_a_file_does_not_count_beside_the_offset(tmp_path: Path) -> None:
    """As converters write it: reflectance = DN * 0.0001 - 0.1. The baseline already states the same offset."""
    item(tmp_path, "a", assets={"B04": {"href": "./B04.tif"}}, s2__processing_baseline="05.09")
    with rasterio.open(write(tmp_path / "a" / "B04.tif", 1500), "r+") as file:
        file.scales, file.offsets = (0.0001,), (-0.1,)
    (scene,) = scenes(tmp_path, "B04")
    assert scene.processing == (
        "offset -1000: processing baseline 05.09; numbers as they are stored, without DN * 0.0001 + -0.1 as the files "
        "declare"
    )
    assert (observed(tmp_path, "B04").values_cyx == 500).all()


def test_two_items_of_one_product_are_one_acquisition(tmp_path: Path) -> None:
    """The ids of Items are arbitrary; a property names the product."""
    for name in ("S2A_33TWL_20230815_0_L2A", "S2A_33TWL_20230815_1_L2A"):
        item(tmp_path, name, s2__product_uri=f"{NEW_L2A}.SAFE", s2__datatake_id=None)
    assert {scene.acquisition for scene in scenes(tmp_path, "B04")} == {"S2A_20230815T100031"}


@pytest.mark.parametrize("day", ["2018-08-15", "2023-08-15"])
def test_an_offset_that_cannot_be_known_is_not_guessed(tmp_path: Path, day: str) -> None:
    """The date does not help: products from before the offset were reprocessed with it."""
    item(tmp_path, "one", day)
    assert 'write "offset: -1000" or "offset: 0"' in scenes(tmp_path, "B04")[0].verdict
    (scene,) = scenes(tmp_path, "B04", offset=-1000)
    assert (scene.verdict, scene.processing) == ("", "offset -1000: the campaign says so")


@pytest.mark.parametrize("offset", ["none", [1000]])
def test_an_offset_that_is_not_a_number_is_a_verdict(tmp_path: Path, offset: object) -> None:
    item(tmp_path, "one", s2__processing_baseline="05.09", s2__add_offset=offset)
    (scene,) = scenes(tmp_path, "B04")
    assert scene.verdict == f"its metadata has s2:add_offset {offset!r}, which is not a number"


@pytest.mark.parametrize(("band", "variable"), [("red", "B04"), ("B4", "B04"), ("reflectance", "B04")])
def test_a_reflectance_has_its_offset_whatever_it_is_called(tmp_path: Path, band: str, variable: str) -> None:
    item(tmp_path, "one", s2__processing_baseline="05.09", assets={"B04": {"href": "./B04.tif"}})
    assert (observed(tmp_path, band, options={"variables": {band: variable}}).values_cyx == 500).all()


def test_classes_have_no_offset(tmp_path: Path) -> None:
    item(tmp_path, "one", s2__processing_baseline="05.09", assets={"SCL": {"href": "./B04.tif"}})
    assert (observed(tmp_path, "SCL").values_cyx == 1500).all()


def test_two_levels_are_not_one_archive(tmp_path: Path) -> None:
    for level in ("L1C", "L2A"):
        item(tmp_path, f"S2A_MSI{level}_20230815T100031_N0509_R122_T33TWL_20230815T120000")
    with pytest.raises(RequestError, match=r"it holds S2A_MSIL1C_\S+ of Level-1C and S2A_MSIL2A_\S+ of Level-2A"):
        scenes(tmp_path, "B04")


def test_a_band_that_the_file_has_not_is_a_verdict(tmp_path: Path) -> None:
    bands = [{"name": "B02"}, {"name": "B03"}, {"name": "B04"}]
    item(tmp_path, "one", s2__processing_baseline="05.09", assets={"all": {"href": "./B04.tif", "eo:bands": bands}})
    (scene,) = scenes(tmp_path, "B04")
    assert scene.verdict == "B04: one/B04.tif has 1 bands, and band number 3 is asked for"


# --- duplicates -----------------------------------------------------------------------------------------


def test_the_newest_baseline_of_a_tile_is_used(tmp_path: Path) -> None:
    for name, baseline in (("S2A_33TWL_20230815_0_L2A", "02.08"), ("S2A_33TWL_20230815_1_L2A", "05.00")):
        datatake = f"GS2A_20230815T100031_042555_N{baseline}"
        item(tmp_path, name, s2__processing_baseline=baseline, s2__datatake_id=datatake)
    datatake = "GS2A_20230815T100031_042555_N02.08"
    item(tmp_path, "S2A_33TXL_20230815_0_L2A", s2__processing_baseline="02.08", s2__datatake_id=datatake)
    found = {scene.id: scene for scene in scenes(tmp_path, "B04")}
    assert found["S2A_33TWL_20230815_0_L2A"].superseded_by == "S2A_33TWL_20230815_1_L2A"
    assert not found["S2A_33TWL_20230815_1_L2A"].superseded_by
    assert not found["S2A_33TXL_20230815_0_L2A"].superseded_by, "another tile"
    assert len({scene.acquisition for scene in found.values()}) == 1


def test_the_newest_that_is_there_is_used(tmp_path: Path) -> None:
    """A newer version with a missing file does not replace a complete older one."""
    for name, baseline in (("S2A_33TWL_20230815_0_L2A", "02.08"), ("S2A_33TWL_20230815_1_L2A", "05.00")):
        item(tmp_path, name, s2__processing_baseline=baseline, s2__datatake_id="GS2A_20230815T100031_042555")
    (tmp_path / "S2A_33TWL_20230815_1_L2A" / "B04.tif").unlink()
    older, newer = scenes(tmp_path, "B04")
    assert (older.verdict, older.superseded_by) == ("", "")
    assert "does not exist" in newer.verdict
    assert list(unreadable([older, newer], [])) == [(newer.archive, newer.id)]


def test_parts_of_one_tile_at_one_baseline_stay(tmp_path: Path) -> None:
    for part in (0, 1):
        datatake = "GS2A_20230815T100031_042555_N05.09"
        item(tmp_path, f"S2A_33TWL_20230815_{part}_L2A", s2__processing_baseline="05.09", s2__datatake_id=datatake)
    found = scenes(tmp_path, "B04")
    assert [scene.superseded_by for scene in found] == ["", ""]
    assert len({scene.acquisition for scene in found}) == 1


@pytest.mark.parametrize("named", ["02.08", "05.00"])
def test_a_product_that_does_not_name_its_datastrip_may_be_of_any(tmp_path: Path, named: str) -> None:
    """The older one is not used, whichever of the two names it."""
    for number, baseline in enumerate(("02.08", "05.00")):
        strip = f"S2A_OPER_MSI_L2A_DS_VGS2_20230815T150000_S20230815T100559_N{baseline}"
        facts: dict[str, Any] = {
            "s2__processing_baseline": baseline,
            "s2__datatake_id": f"GS2A_20230815T100031_042555_N{baseline}",
        }
        facts |= {"s2__datastrip_id": strip} if baseline == named else {}
        item(tmp_path, f"S2A_33TWL_20230815_{number}_L2A", **facts)
    older, newer = scenes(tmp_path, "B04")
    assert (older.superseded_by, newer.superseded_by) == (newer.id, "")


def test_a_nameless_part_does_not_hide_what_only_an_older_datastrip_shows(tmp_path: Path) -> None:
    """Datastrips at 02.08 and 05.00, and a product at 04.00 that may hold either: the oldest is still used."""
    for number, (baseline, strip) in enumerate((("02.08", "100559"), ("04.00", ""), ("05.00", "100810"))):
        named: dict[str, Any] = (
            {"s2__datastrip_id": f"S2A_OPER_MSI_L2A_DS_VGS2_20230815T150000_S20230815T{strip}"} if strip else {}
        )
        facts: dict[str, Any] = {"s2__processing_baseline": baseline, "s2__datatake_id": "GS2A_20230815T100031_042555"}
        item(tmp_path, f"S2A_33TWL_20230815_{number}_L2A", **facts, **named)
    oldest, nameless, newest = scenes(tmp_path, "B04")
    assert (oldest.superseded_by, nameless.superseded_by, newest.superseded_by) == ("", newest.id, "")


def test_a_product_that_lies_there_twice_is_used_once(tmp_path: Path) -> None:
    new_l2a(tmp_path / "a")
    new_l2a(tmp_path / "b")
    one, other = scenes(tmp_path, "B04")
    assert (one.id, one.superseded_by) == (NEW_L2A, "")
    assert (other.id, other.superseded_by) == (f"{NEW_L2A}#2", NEW_L2A)


def test_what_is_superseded_is_in_no_shard(tmp_path: Path) -> None:
    new_l2a(tmp_path / "archive" / "a")
    new_l2a(tmp_path / "archive" / "b")
    campaign = Campaign.model_validate(
        {
            "campaign": "c",
            "archives": {"s2": {"source": "sentinel2", "path": tmp_path / "archive", "bands": ["B04"]}},
            "grid": {"crs": GRID.crs, "pixel": GRID.pixel},
            "windows": [["2023-08-01", "2023-09-01"]],
            "layers": {"x": {"archives": "s2", "backbone": {"name": "mosaiks"}}},
        }
    )
    found = scenes(tmp_path / "archive", "B04")
    cut_out = cut(campaign, "x", GRID, found)
    assert cut_out is not None
    assert set(cut_out[0].scenes.tolist()) == {0}
    far = Scene(id="far", archive="s2", time=found[0].time, acquisition="far", bbox=(104.0, -1.0, 106.0, 1.0))
    assert far.boxes_in(GRID) == ()
    with pytest.raises(RequestError, match="no scene shows any of it"):
        cut(campaign, "x", GRID, [far])


# --- names, folders, series, values that are none --------------------------------------------------------


def test_images_beside_an_item_are_scenes_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An Item names files, not its folder; other bands and resolutions of its product make no further scene."""
    item(tmp_path, "told", s2__processing_baseline="05.09", assets={"red": {"href": "./X_20230815_B04.tif"}})
    (tmp_path / "told" / "B04.tif").unlink()
    for name in ("X_20230815_B04", "X_20230815_B04_20m", "X_20230815_B01", "X_20230818_B04", "X_20230818_B01"):
        write(tmp_path / "told" / f"{name}.tif", 1500)
    found = scenes(tmp_path, "B04", offset=0)
    assert [scene.assets[0].path for scene in found] == ["told/X_20230815_B04.tif", "told/X_20230818_B04.tif"]
    assert not caplog.records
    for day in (21, 24):
        write(tmp_path / "told" / f"Y_202308{day}.tif", 1500)
    assert len(scenes(tmp_path, "B04", offset=0)) == 2
    (said,) = (record.getMessage() for record in caplog.records)
    assert "2 images are of no scene; the first, told/Y_20230821.tif, does not say its band" in said


def test_an_archive_of_images_that_are_no_scenes_says_what_would_make_them_some(tmp_path: Path) -> None:
    for day in (15, 18):
        write(tmp_path / "a" / f"S2_202308{day}.tif", 1500)
    words = (
        r"no scene found in .*: 2 images are of no scene; the first, a/S2_20230815\.tif, does not say its band: .* B04"
    )
    with pytest.raises(RequestError, match=rf'{words}, .* "\*{{date}}\.tif"'):
        scenes(tmp_path, "B04")
    assert len(scenes(tmp_path, "B04", options={"names": "*{date}.tif"}, offset=0)) == 2


@pytest.mark.parametrize(
    "file", ["B04.tif", "b4.tif", "red.tif", "S2A_x_B04.tif", "T33TWL_20190815T100031_B04_10m.jp2"]
)
def test_a_band_is_known_by_all_its_names(tmp_path: Path, file: str) -> None:
    write(tmp_path / "20190815T100031_T33TWL" / file, 1500)
    for band in ("B04", "red"):
        (scene,) = scenes(tmp_path, band, offset=0)
        assert (scene.verdict, scene.assets[0].band) == ("", band)
        assert scene.time == datetime(2019, 8, 15, 10, 0, 31, tzinfo=UTC)


def test_a_band_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r'no band "rot"; it has B01 \(coastal\), .*B04 \(red\), .*SCL \(scl\)'):
        scenes(tmp_path, "rot")


@pytest.mark.parametrize(
    "asset",
    [
        {"B04": {"href": "./B04.tif"}},
        {"x": {"href": "./B04.tif", "eo:bands": [{"name": "b4"}]}},
        {"x": {"href": "./B04.tif", "bands": [{"name": "r", "eo:common_name": "red"}]}},
        {
            "overview": {"href": "./PVI.tif", "eo:bands": [{"name": "B04"}, {"name": "B03"}]},
            "tci": {"href": "./PVI.tif", "roles": ["visual"], "eo:bands": [{"name": "B04"}, {"name": "B03"}]},
            "B04_60m": {"href": "./B04_60m.tif"},
            "B04_10m": {"href": "./B04.tif"},
        },
    ],
)
def test_an_asset_is_known_by_key_or_band(tmp_path: Path, asset: dict[str, Any]) -> None:
    item(tmp_path, "one", "2019-08-15", asset)
    write(tmp_path / "one" / "PVI.tif", 1)
    write(tmp_path / "one" / "B04_60m.tif", 2, 60)
    assert (observed(tmp_path, "B04", offset=0).values_cyx == 1500).all()


@pytest.mark.parametrize(
    ("kind", "none", "options"),
    [
        ({"dtype": "uint16"}, 0, {}),
        ({"dtype": "uint16"}, 65535, {"nodata": 65535}),
        ({"dtype": "int16", "nodata": -32768}, -32768, {}),
        ({"dtype": "float32"}, np.nan, {}),
    ],
    ids=["untagged 0", "untagged 65535", "int16", "NaN"],
)
def test_what_is_no_data_is_not_seen(
    tmp_path: Path, kind: dict[str, Any], none: float, options: dict[str, Any]
) -> None:
    values = np.full((12, 12), 1500.0)
    values[:3] = none
    write(tmp_path / "20230815T100031_T33TWL" / "B04.tif", values, **kind)
    seen = observed(tmp_path, "B04", offset=-1000, options=options)
    assert not seen.seen_yx[:3].any()
    assert seen.seen_yx[3:].all()
    assert (seen.values_cyx[0, 3:] == 500).all()


def test_a_flag_of_one_or_nan_masks(tmp_path: Path) -> None:
    """A mask that is also a band is a class, not a reflectance: nearest, without offset."""
    folder = tmp_path / "20230815T100031_T33TWL"
    write(folder / "B04.tif", 1500)
    flag = np.full((6, 6), np.nan)
    flag[0] = 1
    write(folder / "CLM.tif", flag, 20, dtype="float32")
    write(folder / "SCL.tif", np.kron([[4, 8]], np.ones((6, 3))), 20, dtype="uint8")
    seen = observed(tmp_path, "B04", offset=-1000, mask=Mask(band="CLM", clear=(0,)))
    assert seen.seen_yx.all()
    assert not seen.clear_yx[:2].any()
    assert seen.clear_yx[2:].all()
    seen = observed(tmp_path, "SCL", "B04", offset=-1000, mask=Mask(band="SCL", clear=(4,)))
    assert set(np.unique(seen.values_cyx[0])) == {4, 8}
    assert (seen.values_cyx[1] == 500).all()
    assert (seen.clear_yx == (seen.values_cyx[0] == 4)).all()


def test_a_series_is_a_scene_for_each_step(tmp_path: Path) -> None:
    x, y = 500_005 + 10 * np.arange(12), 5_099_995 - 10 * np.arange(12)
    values = np.full((2, 12, 12), 1500, np.uint16)
    values[1] = 65535
    crs = rasterio.CRS.from_epsg(32633).to_wkt()

    def axis(name: str) -> dict[str, str]:
        return {"standard_name": f"projection_{name}_coordinate", "units": "m"}

    dataset = xarray.Dataset(
        {
            "S2-red": (("t", "y", "x"), values, {"grid_mapping": "crs"}),
            "crs": ((), 0, {"crs_wkt": crs, "spatial_ref": crs}),
            "B08": (("y", "x"), values[0] + 1, {"grid_mapping": "crs"}),
        },
        {
            "t": np.array(["2019-02-28", "2019-03-01"], "datetime64[ns]"),
            "y": ("y", y, axis("y")),
            "x": ("x", x, axis("x")),
        },
    )
    dataset.to_netcdf(tmp_path / "series.nc", engine="netcdf4", encoding={"S2-red": {"_FillValue": None}})
    options = {"variables": {"B04": "S2-red"}, "nodata": 65535}
    first, second = scenes(tmp_path, "B04", "B08", options=options, offset=0)
    assert (first.time, second.time) == (datetime(2019, 2, 28, tzinfo=UTC), datetime(2019, 3, 1, tzinfo=UTC))
    assert [(a.index, a.nodata) for a in second.assets] == [(2, 65535), (1, 65535)]
    seen = observed(tmp_path, "B04", "B08", options=options, offset=0)
    assert (seen.values_cyx == np.array([1500, 1501])[:, None, None]).all()
    assert seen.seen_yx.all()


def test_a_torn_series_is_a_product_with_a_fault_and_a_dead_disk_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "series.nc").write_bytes(b"\x89HDF\r\n\x1a\n torn")
    names = {"B04": frozenset({"b04"})}
    (product,) = find_products(tmp_path, names)
    assert product.fault.startswith("series.nc is not a usable NetCDF file: ")
    assert product.time == UNKNOWN_TIME

    def fail(path: Path, mode: str) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output"):
        list(find_products(tmp_path, names))


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r'archives.s2.options: no option "nodat", did you mean "nodata"'):
        scenes(tmp_path, "B04", options={"nodat": 0})
    with pytest.raises(RequestError, match=r"archives.s2.options.stated: Input should be 'checked' or 'ignore'"):
        scenes(tmp_path, "B04", options={"stated": "ignored"})
    with pytest.raises(RequestError, match='no band "NDVI"'):
        scenes(tmp_path, "NDVI")


# --- STAC -------------------------------------------------------------------------------------------------


def collection(root: Path, *links: str) -> Path:
    """A static Collection of Items."""
    document = {"type": "Collection", "id": "c", "links": [{"rel": "item", "href": link} for link in links]}
    (root / "collection.json").write_text(json.dumps(document))
    return root / "collection.json"


@pytest.mark.parametrize("as_tree", [True, False], ids=["tree", "collection"])
def test_one_broken_item_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, as_tree: bool
) -> None:
    for name in ("good", "no_time", "no_assets", "torn"):
        item(tmp_path, name, "2019-08-15")
    for name, key in (("no_time", "properties"), ("no_assets", "assets")):
        path = tmp_path / name / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: {"red": None} if key == "assets" else {}}))
    (tmp_path / "torn" / "torn.json").write_text('{"type": "Feature", ')
    names = ("good", "gone", "no_time", "no_assets", "torn")
    root = collection(tmp_path, *(f"./{name}/{name}.json" for name in names))
    with caplog.at_level(logging.WARNING):
        found = {scene.id: scene.verdict for scene in scenes(tmp_path if as_tree else root, "B04", offset=0)}
    assert found == {
        "good": "",
        "no_assets": "B04: its asset red: it is null, not an object",
        "no_time": "no_time.json is not a usable STAC Item: it has no datetime",
        "torn/torn": found["torn/torn"],
    }
    assert "torn.json is not JSON: " in found["torn/torn"]
    assert as_tree or "there is no file at the link ./gone/gone.json; 1 such links are left out" in caplog.text


@pytest.mark.parametrize("suffix", [".json", ".ndjson"])
def test_a_saved_search_is_a_catalogue(tmp_path: Path, suffix: str) -> None:
    features = []
    for name in ("a", "b"):
        document = json.loads(item(tmp_path, name, "2019-08-15").read_text())
        document["assets"]["red"]["href"] = str(tmp_path / name / "B04.tif")
        features.append(document)
    lines = "".join(json.dumps(feature) + "\n" for feature in features)
    whole = json.dumps({"type": "FeatureCollection", "features": features})
    (tmp_path / f"found{suffix}").write_text(whole if suffix == ".json" else lines)
    assert [(s.id, s.verdict) for s in scenes(tmp_path / f"found{suffix}", "B04", offset=0)] == [("a", ""), ("b", "")]


def test_a_catalogue_may_lead_in_circles(tmp_path: Path) -> None:
    item(tmp_path, "a", "2019-08-15")
    links = [{"rel": "item", "href": "./a/a.json"}, {"rel": "child", "href": "./catalog.json"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    assert [scene.id for scene in scenes(tmp_path / "catalog.json", "B04")] == ["a"]


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(RequestError, match="is not a STAC catalogue: its type is None"):
        scenes(tmp_path / "x.json", "B04")


def test_an_item_of_a_catalogue_that_cannot_be_read_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = collection(tmp_path, str(item(tmp_path, "a", "2019-08-15").relative_to(tmp_path)))
    open_ = os.open

    def fail(path: Path, flags: int) -> int:
        if Path(path).name == "a.json":
            raise OSError(5, "Input/output error")
        return open_(path, flags)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="Input/output"):
        scenes(root, "B04")


@pytest.mark.parametrize("crs", ['LOCAL_CS["a field",UNIT["metre",1]]', "EPSG:3857"])
def test_a_crs_that_leads_nowhere_is_a_verdict(tmp_path: Path, crs: str) -> None:
    path = write(tmp_path / "20190815T100031_T33TWL" / "B04.tif", 1500, crs=crs)
    if crs == "EPSG:3857":
        with rasterio.open(path, "r+") as dataset:
            dataset.crs, dataset.transform = "EPSG:32633", from_origin(1e12, 1e12, 10, 10)
    (scene,) = scenes(tmp_path, "B04")
    assert "has bounds that have no place on the Earth" in scene.verdict
