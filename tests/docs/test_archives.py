"""Each campaign of the page on archives is indexed as it stands there, on a small archive; all together make a cube."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
import yaml
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import ROOT, call_cli
from tests.docs.pages import blocks

PAGE = ROOT / "docs" / "archives.md"
CAMPAIGNS = {block["campaign"]: block for text in blocks(PAGE, "yaml") if "campaign" in (block := yaml.safe_load(text))}
TEXTS = {yaml.safe_load(text).get("campaign"): text for text in blocks(PAGE, "yaml")}

SIDE = 32
DAYS = ("20220607", "20220617")
SAFE = "S2A_MSIL2A_{day}T101031_N0400_R022_T32UNA_{day}T140000"
XML = """<a><PRODUCT_START_TIME>{day}T10:10:31.024Z</PRODUCT_START_TIME><PROCESSING_BASELINE>04.00</PROCESSING_BASELINE>
<DATATAKE_IDENTIFIER>GS2A_{day}T101031_036340_N04.00</DATATAKE_IDENTIFIER>
<BOA_ADD_OFFSET band_id="3">-1000</BOA_ADD_OFFSET></a>"""


def values(day: str, band: str) -> NDArray[Any]:
    return np.random.default_rng(int(day) + len(band) + ord(band[-1])).integers(1200, 4000, (SIDE, SIDE))


def write(path: Path, *bands: NDArray[Any], names: tuple[str, ...] = (), dtype: str = "uint16", **profile: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"driver": "JP2OpenJPEG", "reversible": "yes", "quality": 100} if path.suffix == ".jp2" else {}
    settings: dict[str, Any] = {"driver": "GTiff", "crs": "EPSG:32632", "dtype": dtype} | kind | profile
    place = from_origin(600_320, 5_600_000, 10, 10)
    with rasterio.open(path, "w", count=len(bands), height=SIDE, width=SIDE, transform=place, **settings) as file:
        file.write(np.stack(bands).astype(dtype))
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)


def safe(root: Path) -> None:
    for day in DAYS:
        folder = root / "safe" / f"{SAFE.format(day=day)}.SAFE"
        images = folder / f"GRANULE/L2A_T32UNA_A036340_{day}T101031/IMG_DATA/R10m"
        for band in ("B04", "B08"):
            write(images / f"T32UNA_{day}T101031_{band}_10m.jp2", values(day, band))
        write(images.with_name("R20m") / f"T32UNA_{day}T101031_SCL_20m.jp2", np.full((SIDE, SIDE), 4), dtype="uint8")
        date = f"{day[:4]}-{day[4:6]}-{day[6:]}"
        (folder / "MTD_MSIL2A.xml").write_text(XML.format(day=date))


def items(root: Path) -> None:
    for day in DAYS:
        name = SAFE.format(day=day)
        assets = {}
        for band, key in (("B04", "red"), ("B08", "nir")):
            write(root / "items" / name / f"{band}.tif", values(day, band))
            assets[key] = {"href": f"./{band}.tif"}
        time = f"{day[:4]}-{day[4:6]}-{day[6:]}T10:10:31Z"
        item: dict[str, Any] = {"type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None, "links": []}
        item |= {"assets": assets, "properties": {"datetime": time, "s2:processing_baseline": "04.00"}}
        (root / "items" / name / f"{name}.json").write_text(json.dumps(item))


def of_bands(pattern: str, *bands: str, dtype: str = "uint16", factor: float = 1) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for day in DAYS:
            for band in bands:
                write(root / pattern.format(day=day, band=band), factor * values(day, band), dtype=dtype)

    return make


def dates(root: Path) -> None:
    names = tuple(f"B{number}" for number in range(1, 13))
    for day in DAYS:
        write(root / f"dates/S2_SR_{day}.tif", *(values(day, name) for name in names), names=names)


def undated(root: Path) -> None:
    write(root / "undated/ndvi.tif", values(DAYS[0], "ndvi") / 4000, dtype="float32", nodata=-1)


def terrain(root: Path) -> None:
    write(root / "terrain/N50_elevation.tif", values(DAYS[0], "elevation"), dtype="int16")


def stacked(root: Path) -> None:
    bands = [values(day, band) for day in DAYS for band in ("B04", "B08")]
    write(root / "stacked/S2_2022.tif", *bands, names=("B4", "B8", "B4_1", "B8_1"))


def series(root: Path) -> None:
    crs = rasterio.CRS.from_epsg(32632).to_wkt()
    places = {"x": 600_325 + 10 * np.arange(SIDE), "y": 5_599_995 - 10 * np.arange(SIDE)}
    axes = {
        name: (name, place, {"standard_name": f"projection_{name}_coordinate", "units": "m"})
        for name, place in places.items()
    }
    times = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in DAYS], "datetime64[ns]")
    bands = {
        name: (("t", "y", "x"), np.stack([values(day, band) for day in DAYS]).astype("u2"), {"grid_mapping": "crs"})
        for name, band in (("red", "B04"), ("nir", "B08"))
    }
    dataset = xarray.Dataset(bands | {"crs": ((), 0, {"crs_wkt": crs, "spatial_ref": crs})}, {"t": times, **axes})
    dataset.to_netcdf(root / "series.nc", engine="netcdf4")


ARCHIVES: dict[str, Callable[[Path], None]] = {
    "safe": safe,
    "items": items,
    "bands": of_bands("bands/X_{day}_{band}.tif", "B04", "B08"),
    "dates": dates,
    "template": of_bands("template/T32UNA_S2A_{band}_{day}_v1.tif", "B04", "B08"),
    "radar": of_bands(
        "radar/S1A__IW___A_{day}T165043_{band}_grd_mli_geo_norm_db.tif", "VV", "VH", dtype="float32", factor=-0.005
    ),
    "undated": undated,
    "terrain": terrain,
    "stacked": stacked,
    "series": series,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archives")
    for make in ARCHIVES.values():
        make(root)
    return root


def small(campaign: dict[str, Any]) -> dict[str, Any]:
    """The same with small chips and few filters."""
    layers = {
        name: layer | {"backbone": {"name": "mosaiks", "filters": 8}, "chip_px": 32, "halo_px": 8}
        for name, layer in campaign["layers"].items()
    }
    return campaign | {"layers": layers}


def test_there_is_an_archive_for_each_campaign() -> None:
    assert set(ARCHIVES) == set(CAMPAIGNS)


@pytest.mark.parametrize("name", ARCHIVES)
def test_each_campaign_is_indexed_as_it_stands_on_the_page(folder: Path, name: str) -> None:
    file = folder / f"{name}.yaml"
    file.write_text(TEXTS[name])
    done = call_cli("index", file)
    assert done.returncode == 0, done.stderr
    scenes = 1 if name in ("undated", "terrain") else 2
    assert f"{scenes} scenes in" in done.stdout
    assert "0 unusable" in done.stdout


@pytest.mark.slow
def test_all_campaigns_together_make_a_cube(folder: Path) -> None:
    """In one run, as most of its time is that of starting a rank."""
    archives, layers = {}, {}
    for name, campaign in CAMPAIGNS.items():
        ((_, archive),) = campaign["archives"].items()
        archives[name] = archive
        layers[name] = small(campaign)["layers"][name] | {"archives": name}
    together = CAMPAIGNS["bands"] | {"campaign": "all", "archives": archives, "layers": layers, "how": {"ranks": 1}}
    (folder / "all.yaml").write_text(yaml.safe_dump(together))
    done = call_cli("run", folder / "all.yaml")
    assert done.returncode == 0, done.stderr
    assert "nothing found wrong" in done.stdout
    cube = xarray.open_datatree(folder / "runs/all/cube.zarr", engine="zarr")
    for name in CAMPAIGNS:
        group = cube[f"{name}/grid"]
        assert np.count_nonzero(np.asarray(group["status"]) == 1) == (SIDE // 16) ** 2, name
        assert np.nanmax(np.asarray(group["scale"])) > 0, name
    # the same pixels in other files
    same = ("safe", "items"), ("bands", "template"), ("bands", "stacked"), ("bands", "series")
    for one, other in same:
        first, second = (np.asarray(cube[f"{name}/grid"]["embedding"]) for name in (one, other))
        np.testing.assert_array_equal(first, second)
