"""The commonest wrong archives, and what is said of each: docs/bad-input.md has the same table, word for word."""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
import yaml
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from tests.conftest import ROOT, Campaign, call_cli

PAGE = ROOT / "docs" / "bad-input.md"

ID = "S2A_32UNA_20230607_0_L2A"
SAFE = "S2A_MSIL1C_20230607T101601_N0509_R065_T32UNA_20230607T122102.SAFE"
GRD = "S1A_IW_GRDH_1SDV_20230607T053500_20230607T053525_048900_05E180_AB12.SAFE"

MOST = 300
"""a message is shorter than this (characters)"""


def image(path: Path, *, count: int = 1, crs: str | None = "EPSG:32632", names: tuple[str, ...] = ()) -> None:
    """A GeoTIFF of 32 x 32 pixels of 10 m."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": crs, "transform": from_origin(600_000, 5_600_000, 10, 10)} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", width=32, height=32, count=count, dtype="uint16", nodata=0, **place
    ) as file:
        file.write(np.random.default_rng(1).integers(500, 3000, (count, 32, 32), "uint16"))
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)


def good(folder: Path, id: str = ID) -> None:
    image(folder / id / "B04.tif")
    item(folder / id, "./B04.tif", id)


def item(folder: Path, href: str, id: str = ID) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    box = [10.4, 50.5, 10.45, 50.6]
    document = {
        "type": "Feature", "stac_version": "1.0.0", "id": id, "links": [], "bbox": box, "geometry": None,
        "properties": {"datetime": "2023-06-07T10:16:01Z", "s2:processing_baseline": "05.09"},
        "assets": {"red": {"href": href}},
    }  # fmt: skip
    (folder / f"{id}.json").write_text(json.dumps(document))


def safe_of_level_1c(folder: Path) -> None:
    inside = folder / SAFE / "GRANULE" / "L1C_T32UNA_A041483_20230607T101601" / "IMG_DATA"
    image(inside / "T32UNA_20230607T101601_B04.tif")
    (inside / "T32UNA_20230607T101601_B04.tif").rename(inside / "T32UNA_20230607T101601_B04.jp2")
    (folder / SAFE / "MTD_MSIL1C.xml").write_text(
        "<L1C><PRODUCT_START_TIME>2023-06-07T10:16:01.024Z</PRODUCT_START_TIME>"
        "<PROCESSING_BASELINE>05.09</PROCESSING_BASELINE></L1C>"
    )


def grd(folder: Path) -> None:
    (folder / GRD / "measurement").mkdir(parents=True)
    (folder / GRD / "manifest.safe").write_text("<xfdu/>")


def with_control_points(folder: Path) -> None:
    path = folder / "S1A_20230607_VV.tif"
    image(path, crs=None)
    with rasterio.open(path, "r+") as file:
        file.gcps = (
            [GroundControlPoint(r, c, 10 + c / 1000, 50 - r / 1000) for r in (0, 32) for c in (0, 32)],
            "EPSG:4326",
        )


def cut(folder: Path) -> None:
    good(folder)
    path = folder / ID / "B04.tif"
    path.write_bytes(path.read_bytes()[:100])


def weather(path: Path, *, points: bool = False, calendar: str = "standard") -> None:
    hours = xarray.date_range("2023-06-07", periods=24, freq="h", calendar=calendar, use_cftime=True)
    values = np.full((24, 3, 4), 280.0, "float32")
    coordinates = {"time": hours, "latitude": [51.0, 50.5, 50.0], "longitude": [10.0, 10.5, 11.0, 11.5]}
    attributes = {"units": "K", "standard_name": "air_temperature"}
    if points:
        data = xarray.Dataset(
            {"t2m": (("time", "station"), values[:, 0], attributes)},
            {"time": hours, "lat": ("station", [50.0] * 4), "lon": ("station", [10.0] * 4)},
        )
    else:
        data = xarray.Dataset({"t2m": (("time", "latitude", "longitude"), values, attributes)}, coordinates)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_netcdf(path)


def zipped(path: Path, inside: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(inside, b"x" * 100)


def hdf5(path: Path) -> None:
    xarray.Dataset({"B04": (("y", "x"), np.ones((32, 32), "uint16"))}).to_netcdf(path, engine="netcdf4")


def eopf(folder: Path) -> None:
    store = folder / SAFE.replace("L1C", "L2A").replace(".SAFE", ".zarr")
    xarray.Dataset({"b04": (("y", "x"), np.ones((8, 8), "uint16"))}).to_zarr(
        store, group="measurements/reflectance/r10m"
    )


def words(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "search.json").write_text(text)

    return write


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """One archive, made in an empty folder, and how the campaign asks for it."""

    what: str
    """as the table on the page has it"""
    make: Callable[[Path], Any]
    source: str = "sentinel2"
    bands: tuple[str, ...] = ("B04",)
    archive: dict[str, Any] = field(default_factory=dict)
    """further keys of the archive"""
    campaign: dict[str, Any] = field(default_factory=dict)
    verb: tuple[str, ...] = ("index",)
    code: int = 2


def radar(what: str, make: Callable[[Path], Any], **options: str) -> Wrong:
    return Wrong(what=what, make=make, source="sentinel1", bands=("VV",), archive={"options": options})


def fields(what: str, make: Callable[[Path], Any]) -> Wrong:
    return Wrong(what=what, make=make, source="era5", bands=("t2m",))


PLAN = ("run", "--until", "plan")

ROWS = [
    Wrong(what="an empty folder", make=lambda folder: None),
    Wrong(what="a path that is wrong", make=lambda folder: folder.rmdir()),
    Wrong(what="thumbnails only", make=lambda folder: (folder / f"{ID}_thumbnail.jpg").write_bytes(b"\xff\xd8\xff")),
    Wrong(what="RGB previews only (`TCI.tif`)", make=lambda folder: image(folder / ID / "TCI.tif", count=3)),
    Wrong(
        what="Level-1C where the mask SCL of Level-2A is asked for",
        make=safe_of_level_1c,
        archive={"mask": {"band": "SCL", "clear": [4]}},
    ),
    Wrong(what="images without a date in their names", make=lambda folder: image(folder / "tile" / "B04.tif")),
    Wrong(
        what="Items whose links lead to another machine",
        make=lambda folder: item(folder, "https://cogs.example.org/32/U/B4.tif"),
    ),
    Wrong(what="Items whose links lead nowhere", make=lambda folder: item(folder, "./B4.tif")),
    Wrong(what="files that are cut short", make=cut),
    Wrong(
        what="images without a CRS", make=lambda folder: image(folder / ID / "B04.tif", crs=None), archive={"offset": 0}
    ),
    radar("images of Sentinel-1 that are not geocoded", with_control_points, values="linear"),
    Wrong(what="images named otherwise than the bands", make=lambda folder: image(folder / "S2A_20230607_band4.tif")),
    Wrong(what="a band that Sentinel-2 does not have", make=lambda folder: None, bands=("B4a",)),
    Wrong(what="no processing baseline anywhere", make=lambda folder: image(folder / "S2A_20230607" / "B04.tif")),
    Wrong(what="HDF5 (`.h5`)", make=lambda folder: hdf5(folder / "S2A_20230607_B04.h5")),
    Wrong(
        what="a VRT under the name of an image",
        make=lambda folder: (folder / "S2A_20230607_B04.tif").write_text("<VRTDataset/>"),
        archive={"offset": 0},
    ),
    Wrong(
        what="a zip of the bucket's layout under the name of a SAFE",
        make=lambda folder: zipped(folder / f"{SAFE}.zip", "tiles/32/U/NA/2023/6/7/0/B04.jp2"),
    ),
    Wrong(what="Zarr of Sentinel-2 (EOPF)", make=eopf),
    Wrong(
        what="a saved search that found nothing",
        make=words('{"type": "FeatureCollection", "features": []}'),
        archive={"path": "archive/search.json"},
    ),
    Wrong(
        what="a JSON file that is no STAC", make=words('{"type": "Topology"}'), archive={"path": "archive/search.json"}
    ),
    radar(
        "pyroSAR's names",
        lambda folder: image(folder / "S1A__IW___D_20230607T053500_VV_grd_mli_geo_norm_db.tif"),
        values="linear",
    ),
    radar("Sentinel-1 GRD of the ground segment", grd, values="linear"),
    Wrong(
        what="radar without `values`",
        make=lambda folder: image(folder / "S1A_20230607_VV.tif"),
        source="sentinel1",
        bands=("VV",),
    ),
    fields("weather at points", lambda folder: weather(folder / "t2m.nc", points=True)),
    fields("weather without leap days", lambda folder: weather(folder / "t2m.nc", calendar="noleap")),
    fields("GRIB of 0 bytes", lambda folder: (folder / "t2m.grib").touch()),
    fields("a zip of the Climate Data Store named `.nc`", lambda folder: zipped(folder / "t2m.nc", "data.nc")),
    Wrong(what="weather for the source `sentinel2`", make=lambda folder: weather(folder / "t2m_20230607.nc")),
    Wrong(
        what="no scene in the region",
        make=good,
        archive={"offset": 0},
        campaign={"region": {"bbox": [20, 40, 20.1, 40.1]}},
        verb=PLAN,
    ),
    Wrong(
        what="no scene in the windows",
        make=good,
        archive={"offset": 0},
        campaign={"windows": [["2019-06-01", "2019-07-01"]]},
        verb=PLAN,
    ),
]


def said(folder: Path, row: Wrong) -> str:
    """What the command says last, with the archive's path as ARCHIVE."""
    (folder / "archive").mkdir()
    row.make(folder / "archive")
    campaign = Campaign(folder / "campaign.yaml")
    document = {
        "campaign": "wrong",
        "archives": {"a": {"source": row.source, "path": "archive", "bands": list(row.bands), **row.archive}},
        "grid": {"crs": "EPSG:32632", "pixel": 10},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {"l": {"archives": "a", "backbone": {"name": "mosaiks", "filters": 2}, "chip_px": 18, "halo_px": 1}},
        **row.campaign,
    }
    campaign.file.write_text(yaml.safe_dump(document))
    done = call_cli(row.verb[0], campaign.file, *row.verb[1:])
    assert done.returncode == row.code, done
    line = done.stderr.splitlines()[-1]
    assert len(line) < MOST, (len(line), line)
    return (
        line.removeprefix("embedcube: ")
        .replace(str(folder / "archive"), "ARCHIVE")
        .replace(str(folder / "campaign.yaml"), "FILE")
    )


def table() -> dict[str, str]:
    """What the page says of each archive."""
    text = PAGE.read_text("utf-8").partition("## The commonest wrong archives")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| `` (.+) `` \|$", text, re.MULTILINE))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_the_page_has_what_is_said(tmp_path: Path, row: Wrong) -> None:
    assert said(tmp_path, row) == table()[row.what].replace("\\|", "|")


def test_the_page_has_no_other_rows() -> None:
    assert list(table()) == [row.what for row in ROWS]
    assert len(ROWS) > 20
