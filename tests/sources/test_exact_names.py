"""Names of bands: a band's own name before one that another band may have too, wherever names are matched."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from tests.sources.rasters import S2, SIDE, scenes_of, write, write_item

from embedcube.sources.catalog.netcdf import products_of
from embedcube.sources.catalog.notes import Notes
from embedcube.sources.catalog.products import Known
from embedcube.sources.catalog.told import Told

ONE = np.full((SIDE, SIDE), 1000, np.uint16)


def named(name: str, common: str | None = None, key: str = "eo:bands") -> dict[str, Any]:
    band = {"name": name} | ({"common_name" if key == "eo:bands" else "eo:common_name": common} if common else {})
    return {key: [band]}


def asset_of(folder: Path, assets: dict[str, dict[str, Any]], band: str, *gone: str, **settings: Any) -> Any:
    """The file that a band is read from, or why there is none; `gone` are files that are not written."""
    offered = {}
    for key, asset in assets.items():
        href = asset.get("href", f"./{key}.tif")
        if href.startswith("./") and href[2:] not in gone:
            write(folder / S2 / href, ONE, nodata=0)
        offered[key] = asset | {"href": href}
    properties = {"datetime": "2021-06-07T10:16:01Z", "s2__processing_baseline": "03.00"}
    write_item(folder / S2, S2, offered, **properties)
    [scene] = scenes_of("sentinel2", folder, band, **settings)
    return scene.verdict or Path(scene.assets[0].path).name


NIR = {"B8A": named("B8A", "nir"), "B08": named("B08", "nir")}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("assets", "band", "expected"),
    [
        (NIR, "B08", "B08.tif"),
        (NIR, "nir", "B08.tif"),
        ({"B8A": named("B8A", "nir", "bands"), "B08": named("B08", "nir", "bands")}, "B08", "B08.tif"),
        ({"x": named("B8A", "nir"), "y": named("B8", "nir")}, "B08", "y.tif"),
        ({"x": named("b", "nir"), "nir": named("c", "nir")}, "B08", "nir.tif"),
        ({"x": named("b", "nir"), "y": named("nir", "nir")}, "B08", "y.tif"),
        # a JPEG 2000 beside a COG, both with the common name as a name
        ({"red": named("red", "red"), "red-jp2": named("red", "red")}, "B04", "red.tif"),
        # all vegetation bands of Sentinel-2 have one common name
        ({band: named(band, "rededge") for band in ("B05", "B06", "B07")}, "B06", "B06.tif"),
        ({"a": named("n", "nir")}, "B08", "a.tif"),
    ],
)  # fmt: skip
def test_the_most_exact_name_of_an_item_decides_whatever_the_order(
    tmp_path: Path, assets: dict[str, Any], band: str, expected: str, order: int
) -> None:
    assert asset_of(tmp_path, dict(list(assets.items())[::order]), band) == expected


def test_between_two_common_names_the_scene_asks(tmp_path: Path) -> None:
    assets = {"one": named("B8A", "nir"), "two": named("x", "nir")}
    words = "B08: one.tif and two.tif have the same common name; options.variables says which is this band"
    assert asset_of(tmp_path / "asked", assets, "B08").startswith(words)
    options = {"variables": {"B08": "x"}}
    assert asset_of(tmp_path / "told", assets, "B08", options=options) == "two.tif"


def test_what_an_inexact_name_leads_to_costs_an_exact_one_nothing(tmp_path: Path) -> None:
    assert asset_of(tmp_path / "gone", NIR, "B08", "B8A.tif") == "B08.tif"
    far = {"B8A": named("B8A", "nir"), "B08": named("B08", "nir") | {"href": "https://host/B08.tif"}}
    assert asset_of(tmp_path / "far", far, "B08") == (
        "B08: the file at https://host/ is not on this machine: put it beside the Item, or name the folder that holds "
        'such files here, as links: {"https://host/": FOLDER}'
    )
    assert "B08.tif does not exist" in asset_of(tmp_path / "lost", NIR, "B08", "B08.tif")


def test_names_of_files_and_of_bands_in_files_are_matched_exactly_first(tmp_path: Path) -> None:
    for stem in ("x_20210607_nir", "x_20210607_B08"):
        write(tmp_path / "files" / f"{stem}.tif", ONE, nodata=0)
    [scene] = scenes_of("sentinel2", tmp_path / "files", "B08", offset=0)
    assert scene.assets[0].path == "x_20210607_B08.tif"
    path = write(tmp_path / "stack_20210607.tif", np.stack([ONE] * 3), nodata=0, descriptions=["nir", "B08", "red"])
    [scene] = scenes_of("sentinel2", path, "B08", offset=0)
    assert scene.assets[0].index == 2
    [scene] = scenes_of("sentinel2", path, "B04", offset=0)
    assert scene.assets[0].index == 3


def test_variables_of_netcdf_are_matched_exactly_first(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "series.nc", "w") as file:
        for name, size in (("time", 1), ("y", SIDE), ("x", SIDE)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "days since 2021-06-07"
        time[:] = 0
        for name in ("nir", "B08", "b8a"):
            file.createVariable(name, "u2", ("time", "y", "x"), fill_value=0)[:] = ONE[None]
    [product] = products_of(tmp_path / "series.nc", "x", {"B08": Known.of(["B08"], ["nir"])}, Told(), Notes())
    assert product.files["B08"].inner == "B08"


def test_the_name_that_the_options_give_comes_before_the_bands_own(tmp_path: Path) -> None:
    for stem in ("VV", "gamma0"):
        write(tmp_path / f"S1A_IW_20210607T051101_{stem}.tif", np.full((SIDE, SIDE), 0.1, "f4"))
    [scene] = scenes_of("sentinel1", tmp_path, "VV", options={"variables": {"VV": "gamma0"}})
    assert scene.assets[0].path.endswith("gamma0.tif")
