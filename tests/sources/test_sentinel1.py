"""Sentinel-1: power, decibels, orbit states and products, on synthetic and on real files."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import torch
import xarray
from numpy.typing import NDArray
from pyproj import Transformer
from tests.conftest import REAL_DATA, ROOT, Campaign, real_campaign

from embedcube.backbones.base import Weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive, Mask
from embedcube.cube.reader import Cube
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import read_sample
from embedcube.sources.base import Observation
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.find import find_products
from embedcube.sources.catalog.products import Product
from embedcube.sources.composite import Composite
from embedcube.sources.passes import acquisitions
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel1.names import clues_of
from embedcube.sources.sentinel1.source import Sentinel1, _orbit
from embedcube.testing.contracts import check_source
from embedcube.windows import Window

SSL4EO = REAL_DATA / "s1s2_ssl4eo_43RCP_2020" / "s1"
BIGEARTHNET = REAL_DATA / "s1s2_bigearthnet_33UUP_2017-06-13" / "BigEarthNet-S1"
WORLDCEREAL = REAL_DATA / "s1s2_agera5_worldcereal_31UFS_2020-2021" / "worldcereal_preprocessed_inputs.nc"
CAMPAIGN = ROOT / "configs" / "campaigns" / "s1_ssl4eo_43RCP_2020.yaml"

GRID = Grid(crs="EPSG:32632", pixel=10)
SIDE = 48
LEFT, TOP = 600_000.0, 5_500_000.0
ON_GRID = PixelArea(row=-int(TOP) // 10, col=int(LEFT) // 10, rows=SIDE, cols=SIDE)
ALL_TIME = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))

DESCENDING = "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457"
NEXT_SLICE = "S1A_IW_GRDH_1SDV_20200607T010825_20200607T010850_032904_03CFBA_9A01"
ASCENDING = "S1A_IW_GRDH_1SDV_20200609T131212_20200609T131237_032941_03D0D1_AC1C"

POWER_OF: dict[str, Any] = {
    "linear": lambda power: power,
    "amplitude": np.sqrt,
    "db": lambda power: 10 * np.log10(power),
    "worldcereal": lambda power: np.rint(10 ** ((10 * np.log10(power) + 83) / 20)).astype(np.uint16),
}
"""Linear power -> what a file of each kind holds."""


def archive(path: Path, bands: tuple[str, ...] = ("VV", "VH"), composite: Any = None, **options: Any) -> Archive:
    return Archive(source="sentinel1", path=path, bands=bands, composite=composite, options=options)


def write(path: Path, values: NDArray[Any], *, left: float = LEFT, top: float = TOP, nodata: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, cols = values.shape
    raster: dict[str, Any] = {"driver": "GTiff", "width": cols, "height": rows, "count": 1, "dtype": values.dtype}
    place = rasterio.transform.from_origin(left, top, 10, 10)
    with rasterio.open(path, "w", crs=GRID.crs, transform=place, nodata=nodata, **raster) as file:
        file.write(values, 1)


def write_product(root: Path, product: str, power: NDArray[Any], values: str = "linear", **place: Any) -> None:
    """Write VV with the given power and VH with a quarter of it; float32, except for integer formats."""
    for band, factor in (("VV", 1.0), ("VH", 0.25)):
        numbers = POWER_OF[values](power * factor)
        write(root / product / f"{band}.tif", numbers if values == "worldcereal" else numbers.astype("f4"), **place)


def speckled(seed: int, side: int = SIDE) -> NDArray[np.float64]:
    """Fully developed speckle of one look around a mean of 0.1 to 0.2: exponential."""
    mean = np.linspace(0.1, 0.2, side * side).reshape(side, side)
    return np.random.default_rng(seed).exponential(mean)


def observed(
    source: Sentinel1, grid: Grid = GRID, area: PixelArea = ON_GRID
) -> tuple[list[Scene], list[Observation], Composite]:
    scenes = list(source.scenes(full_digests=False))
    reader = RasterReader(2)
    try:
        found = [source.observe(scene, ALL_TIME, grid, area, reader) for scene in scenes]
    finally:
        reader.close()
    return (
        scenes,
        found,
        source.composite([(scene.acquisition, one) for scene, one in zip(scenes, found, strict=True)]),
    )


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"options": {}}, r"archives\.radar\.options\.values: is needed: .* linear, amplitude, db .* or worldcereal"),
        ({"options": {"values": "dB"}}, r"options\.values: .*'linear', 'amplitude', 'db' or 'worldcereal'.*'dB'"),
        (
            {"options": {"values": "db", "orbits": "both"}},
            r'archives\.radar\.options: no option "orbits", did you mean "orbit"',
        ),
        ({"options": {"values": "db", "orbit": "up"}}, r"options\.orbit: .*'up'"),
        ({"options": {"values": "db", "variables": {"HH": "x"}}}, r'variables: band "HH" is not one of'),
        ({"bands": ("VV", "B02")}, r'no band "B02"; it has VV, VH, HH, HV'),
        ({"mask": Mask(band="SCL", clear=(4,))}, r"archives\.radar\.mask means nothing"),
        ({"offset": -1000.0}, r"archives\.radar\.offset: -1000\.0 means nothing .*options\.values"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    right = archive(tmp_path, values="db")
    Sentinel1("radar", right)
    with pytest.raises(RequestError, match=complaint):
        Sentinel1("radar", right.model_copy(update=change))


# --- power and decibels ---------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 3.7], ids=["on the lattice", "warped"])
@pytest.mark.parametrize("values", ["linear", "amplitude", "db", "worldcereal"])
def test_whatever_the_files_hold_the_composite_is_the_same(tmp_path: Path, values: str, shift: float) -> None:
    shots = [speckled(seed) for seed in range(3)]
    for day, power in enumerate(shots, start=1):
        product = f"S1A_IW_GRDH_1SDV_202006{day:02d}T010800_202006{day:02d}T010825_03290{day}_03CFBA_D457"
        write_product(tmp_path / values, product, power, values, left=LEFT + shift, top=TOP - shift)
        write_product(tmp_path / "float", product, power, "linear", left=LEFT + shift, top=TOP - shift)
    _, _, picture = observed(Sentinel1("a", archive(tmp_path / values, values=values)))
    _, _, linear = observed(Sentinel1("a", archive(tmp_path / "float", values="linear")))
    assert picture.clear_yx.mean() > 0.9
    np.testing.assert_array_equal(picture.clear_yx, linear.clear_yx)
    # an integer of WorldCereal is a step of 20 log10(1 + 1 / DN) dB
    tolerance = 0.05 if values == "worldcereal" else 1e-4
    np.testing.assert_allclose(picture.x_cyx, linear.x_cyx, atol=tolerance)
    if not shift:
        expected = 10 * np.log10(np.mean(shots, axis=0))
        np.testing.assert_allclose(picture.x_cyx[0], expected, atol=tolerance)
        np.testing.assert_allclose(picture.x_cyx[1], expected - 10 * np.log10(4), atol=tolerance)


@pytest.mark.parametrize("told", ["by the file", "by the campaign"])
def test_integers_of_decibels_are_what_their_scale_says(tmp_path: Path, told: str) -> None:
    """dB = 0.01 x DN - 60 in 16 bits: within half a step of 0.01 dB."""
    decibels = 10 * np.log10(speckled(0).clip(1e-5, 50))
    numbers = np.rint((decibels + 60) * 100).astype(np.uint16)
    options: dict[str, Any] = {"values": "db", "nodata": 65535}
    for band in ("VV", "VH"):
        write(tmp_path / DESCENDING / f"{band}.tif", numbers)
        if told == "by the file":
            with rasterio.open(tmp_path / DESCENDING / f"{band}.tif", "r+") as file:
                file.scales, file.offsets = (0.01,), (-60.0,)
    if told == "by the campaign":
        options |= {"scale": {"VV": 0.01, "VH": 0.01}, "add": {"VV": -60.0, "VH": -60.0}}
    [scene], _, picture = observed(Sentinel1("a", archive(tmp_path, **options)))
    np.testing.assert_allclose(picture.x_cyx[0], decibels, atol=0.0051)
    assert "VV = DN * 0.01 + -60.0" in scene.processing


@pytest.mark.parametrize("method", ["mean", "median"])
def test_speckle_is_averaged_as_power_not_as_decibels(tmp_path: Path, method: str) -> None:
    shots = [speckled(seed, side=24) for seed in range(40)]
    for n, power in enumerate(shots):
        write_product(tmp_path, f"S1A_IW_GRDH_1SDV_20200601T0108{n:02d}_x_0329{n:02d}_03CFBA_D457", power, "db")
    area = replace(ON_GRID, rows=24, cols=24)
    _, _, picture = observed(Sentinel1("a", archive(tmp_path, composite=method, values="db")), area=area)
    as_power = 10 * np.log10(getattr(np, method)(shots, axis=0))
    as_decibels = np.mean(10 * np.log10(shots), axis=0)
    np.testing.assert_allclose(picture.x_cyx[0], as_power, atol=1e-4)
    if method == "mean":
        # the logarithm of an exponential variable lies Euler's gamma below that of its mean: 2.507 dB
        bias = float((picture.x_cyx[0] - as_decibels).mean())
        assert bias == pytest.approx(10 / np.log(10) * np.euler_gamma, abs=0.15)


def test_a_warped_pixel_between_two_is_the_mean_of_their_powers(tmp_path: Path) -> None:
    power = np.where(np.arange(SIDE) % 2, 1.0, 0.01) * np.ones((SIDE, 1))
    write_product(tmp_path, DESCENDING, power, "db", left=LEFT + 5)
    _, _, picture = observed(Sentinel1("a", archive(tmp_path, values="db")))
    inner = picture.x_cyx[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 10 * np.log10(0.505), atol=1e-4)  # not -10 dB, the mean of 0 and -20


@pytest.mark.parametrize(
    ("values", "holes", "nodata_tag", "option"),
    [
        ("linear", [0.0, -1e-4, np.nan, np.inf, -np.inf], None, None),
        ("linear", [-9999.0], -9999, None),
        ("linear", [7.0], None, 7),
        ("linear", [7.0], -1, 7),
        ("amplitude", [0.0, -3.0, np.nan], None, None),
        ("db", [np.nan, -np.inf, np.inf, -9999.0, 9999.0], None, None),
        ("db", [0.0], None, 0),
        ("worldcereal", [0, 65535], None, None),
    ],
)
def test_what_is_no_power_is_not_seen_and_leaks_nowhere(
    tmp_path: Path, values: str, holes: list[float], nodata_tag: float | None, option: float | None
) -> None:
    """Border zeros, NaN and no data do not count, and resampling does not mix them into their neighbours."""
    for shift in (0.0, 5.0):
        root = tmp_path / str(shift)
        write_product(root, DESCENDING, np.full((SIDE, SIDE), 0.1), values, left=LEFT + shift)
        with rasterio.open(root / DESCENDING / "VH.tif") as file:
            pixels = file.read(1)
        for n, hole in enumerate(holes):
            pixels[10, 10 + 4 * n] = hole
        write(root / DESCENDING / "VH.tif", pixels, left=LEFT + shift, nodata=nodata_tag)
        options: dict[str, Any] = {"values": values} | ({"nodata": option} if option is not None else {})
        _, [seen], picture = observed(Sentinel1("a", archive(root, **options)))
        assert set(np.round(picture.x_cyx[0][picture.clear_yx], 2)) == {-10.0}
        assert set(np.round(picture.x_cyx[1][picture.clear_yx], 1)) == {-16.0}
        assert not (seen.seen_yx & ~picture.clear_yx).any()
        if not shift:
            empty = np.argwhere(~picture.clear_yx).tolist()
            assert empty == [[10, 10 + 4 * n] for n in range(len(holes))], "one band without data is no data"


# --- products -------------------------------------------------------------------------------------


def item(root: Path, product: str, orbit: str | None, left: float = LEFT) -> None:
    """A STAC Item as catalogues of RTC products write it, with the catalogue's file names."""
    for band in ("vv", "vh"):
        write(root / product / f"iw-{band}.rtc.tiff", np.full((SIDE, SIDE), 0.1, np.float32), left=left)
    document = {
        "type": "Feature",
        "id": product,
        "properties": {"datetime": "2020-06-07T01:08:12Z"} | ({"sat:orbit_state": orbit} if orbit else {}),
        "assets": {band: {"href": f"./iw-{band}.rtc.tiff"} for band in ("vv", "vh")},
    }
    (root / product / "item.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("properties", "orbit"),
    [
        ({"sat:orbit_state": "ASCENDING"}, "ascending"),
        ({"sat:orbit_state": "asc"}, "ascending"),
        ({"sat:orbit_state": None, "orbitDirection": "Descending"}, "descending"),
        ({"s1:orbit_direction": "D"}, "descending"),
        ({"sat:orbit_state": "rising"}, ""),
    ],
)
def test_an_orbit_state_is_known_in_other_words(properties: dict[str, Any], orbit: str) -> None:
    """One that is not known is asked about; as another state it would leave the scene out without a word."""
    product = Product(id="x", time=datetime(2020, 6, 7, tzinfo=UTC), files={}, properties=properties)
    assert _orbit(product) == orbit


def earth_engine(root: Path, product: str, orbit: str, power: float) -> None:
    write_product(root, product, np.full((SIDE, SIDE), power))
    (root / product / "metadata.json").write_text(json.dumps({"orbitProperties_pass": orbit}))


def test_passes_are_told_apart_or_merged(tmp_path: Path) -> None:
    earth_engine(tmp_path, ASCENDING, "ASCENDING", 0.1)
    earth_engine(tmp_path, DESCENDING, "DESCENDING", 0.3)
    for orbit, ids, power in (
        ("ascending", [ASCENDING], 0.1),
        ("descending", [DESCENDING], 0.3),
        ("both", [DESCENDING, ASCENDING], 0.2),
    ):
        scenes, _, picture = observed(Sentinel1("a", archive(tmp_path, values="linear", orbit=orbit)))
        assert [scene.id for scene in scenes] == ids, "in the order of time"
        np.testing.assert_allclose(picture.x_cyx[0], 10 * np.log10(power), atol=1e-5)
        assert all(
            f"orbit {one}" in scene.processing for scene, one in zip(scenes, [orbit], strict=False) if one != "both"
        )


def test_a_pass_that_is_not_known_is_refused_only_where_it_matters(tmp_path: Path) -> None:
    earth_engine(tmp_path, ASCENDING, "ASCENDING", 0.1)
    write_product(tmp_path, DESCENDING, np.full((SIDE, SIDE), 0.1))
    unknown, known = Sentinel1("a", archive(tmp_path, values="linear", orbit="ascending")).scenes(full_digests=False)
    assert (unknown.id, known.id, known.verdict) == (DESCENDING, ASCENDING, "")
    assert unknown.verdict.startswith("options.orbit: ascending is asked for, and it does not say what it is")
    scenes = list(Sentinel1("a", archive(tmp_path, values="linear")).scenes(full_digests=False))
    assert [scene.processing.split(";")[0] for scene in scenes] == ["orbit unknown", "orbit ascending"]


def test_items_are_found_by_polarisation_and_their_files_once(tmp_path: Path) -> None:
    item(tmp_path, DESCENDING, "descending")
    write_product(tmp_path, DESCENDING, np.full((SIDE, SIDE), 0.5))
    source = Sentinel1("a", archive(tmp_path, values="linear", orbit="descending"))
    [scene], _, picture = observed(source)
    assert [asset.path for asset in scene.assets] == [f"{DESCENDING}/iw-{band}.rtc.tiff" for band in ("vv", "vh")]
    assert scene.time == datetime(2020, 6, 7, 1, 8, 12, tzinfo=UTC)
    np.testing.assert_allclose(picture.x_cyx, -10, atol=1e-5)


def test_bands_go_by_the_names_that_the_options_give(tmp_path: Path) -> None:
    write(tmp_path / f"{ASCENDING}_sigma.tif", np.full((SIDE, SIDE), 0.1, np.float32))
    wanted = archive(tmp_path, bands=("HH",), values="linear", variables={"HH": "Sigma"})
    [scene] = Sentinel1("a", wanted).scenes(full_digests=False)
    assert (scene.id, scene.assets[0].band, scene.verdict) == (ASCENDING, "HH", "")


def test_slices_of_one_pass_are_one_acquisition(tmp_path: Path) -> None:
    for product, power, left in ((DESCENDING, 0.1, LEFT), (NEXT_SLICE, 0.3, LEFT + 200)):
        write_product(tmp_path, product, np.full((SIDE, SIDE), power), left=left)
    scenes, _, picture = observed(Sentinel1("a", archive(tmp_path, values="linear")))
    assert len({scene.acquisition for scene in scenes}) == 1
    expected = np.full(SIDE, 0.1)  # where they overlap the first one counts: it is one measurement, not two
    np.testing.assert_allclose(picture.x_cyx[0], 10 * np.log10(np.tile(expected, (SIDE, 1))), atol=1e-5)
    assert [int(used.sum()) for used in picture.used_yx] == [SIDE * SIDE, 0]


@pytest.mark.parametrize(
    ("product", "properties", "expected"),
    [
        (DESCENDING, {}, "S1A_032904_03CFBA"),
        ("S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA", {}, "S1A_032904_03CFBA"),
        ("S1B_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_rtc", {}, "S1B_032904_03CFBA"),
        ("s1a-iw-grd-vv-20200607t010800-20200607t010825-032904-03cfba-001", {}, "S1A_032904_03CFBA"),
        ("x", {"platform_number": "A", "orbitNumber_start": 32904, "missionDataTakeID": 249786}, "S1A_032904_03CFBA"),
        (
            "x",
            {"platform": "SENTINEL-1A", "sat:absolute_orbit": 32904, "s1:datatake_id": "249786"},
            "S1A_032904_03CFBA",
        ),
        ("x", {"platform": "S1A", "orbitNumber": 32905, "eopf:datatake_id": "03CFBA"}, "S1A_032905_03CFBA"),
        ("x", {"platform": "S1A", "s1:datatake_id": "032490"}, "S1A_032490"),
        ("x", {"platform": "S1A", "s1:datatake_id": "249786.0"}, "S1A_03CFBA"),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48", {}, "S1A 2017-06-13T16:48 + 48 min"),
        ("S1A_IW_20200607T010800_DVP_RTC10_G_gpuned_12AB", {}, "S1A 2020-06-07T00:48 + 48 min"),
        (
            "OPERA_L2_RTC-S1_T044-093010-IW2_20230801T004800Z_20230802T123456Z_S1A_30_v1.0",
            {},
            "S1A 2023-08-01T00:48 + 48 min",
        ),
        ("burst-7", {"platform": "sentinel-1a", "sat:absolute_orbit": 32904}, "S1A_A032904"),
        ("stack_20201101T000000", {}, "stack_20201101T000000"),
    ],
)
def test_the_acquisition_is_the_datatake(product: str, properties: dict[str, Any], expected: str) -> None:
    time = time_in(product) or datetime(2020, 6, 7, 1, 8, tzinfo=UTC)
    clues = clues_of(Product(id=product, time=time, files={}, properties=properties))
    assert acquisitions("S1", [clues]) == [expected]


FOOTPRINT = "49.0,11.2 49.4,7.7 47.9,7.3 47.5,10.8"
"""latitudes and longitudes of the corners, as manifests have them"""


def write_safe(root: Path, product: str, footprint: str = FOOTPRINT, *, zipped: bool = False) -> None:
    """A SAFE product as delivered: pixels with ground control points, and a manifest."""
    safe = root / f"{product}.SAFE"
    (safe / "measurement").mkdir(parents=True)
    corners = [rasterio.control.GroundControlPoint(r, c, 7.0 + c / 100, 49.0 - r / 100) for r in (0, 8) for c in (0, 8)]
    (safe / "annotation" / "calibration").mkdir(parents=True)
    raster: dict[str, Any] = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "uint16"}
    for number, band in enumerate(("vv", "vh"), start=1):
        stem = f"s1a-iw-grd-{band}-20200607t010800-20200607t010825-032904-03cfba-00{number}"
        with rasterio.open(safe / "measurement" / f"{stem}.tiff", "w", gcps=corners, crs="EPSG:4326", **raster) as file:
            file.write(np.full((8, 8), 300, np.uint16), 1)
        for text in (f"{stem}.xml", f"calibration/calibration-{stem}.xml", f"calibration/noise-{stem}.xml"):
            (safe / "annotation" / text).write_text("<text/>")
    (safe / "manifest.safe").write_text(
        '<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:s1="http://www.esa.int/safe/sentinel-1.0/sentinel-1" '
        'xmlns:gml="http://www.opengis.net/gml"><metadataSection><s1:pass>DESCENDING</s1:pass>'
        f"<footPrint><gml:coordinates>{footprint}</gml:coordinates></footPrint></metadataSection></xfdu:XFDU>"
    )
    if zipped:
        with zipfile.ZipFile(root / f"{product}.zip", "w") as archive:
            for path in sorted(safe.rglob("*")):
                archive.write(path, path.relative_to(root))
        shutil.rmtree(safe)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_product_of_the_ground_segment_says_what_to_do_first(tmp_path: Path, zipped: bool) -> None:
    """It is in the inventory with its footprint and orbit state, so that the cells it covers have the right status."""
    write_safe(tmp_path, DESCENDING, zipped=zipped)
    write_product(tmp_path, ASCENDING, speckled(0))
    raw, good = Sentinel1("a", archive(tmp_path, values="linear")).scenes(full_digests=False)
    assert (raw.id, good.verdict) == (DESCENDING, "")
    assert "calibrate and terrain-correct it first, for example with sarsen" in raw.verdict
    assert raw.bbox == (7.3, 47.5, 11.2, 49.4)
    assert raw.time == datetime(2020, 6, 7, 1, 8, tzinfo=UTC)
    assert raw.processing.startswith("orbit descending")
    reader = RasterReader(1)
    try:
        with pytest.raises(CorruptInput, match="terrain-correct it first"):
            Sentinel1("a", archive(tmp_path, values="linear")).observe(raw, ALL_TIME, GRID, ON_GRID, reader)
    finally:
        reader.close()
    assert list(Sentinel1("a", archive(tmp_path, ("HH",), values="linear")).scenes(full_digests=False)) == []
    alone = tmp_path / f"{DESCENDING}{'.zip' if zipped else '.SAFE'}"
    (same,) = Sentinel1("a", archive(alone, values="linear")).scenes(full_digests=False)
    assert (same.id, same.verdict) == (raw.id, raw.verdict)


def test_a_product_across_the_antimeridian_or_without_a_manifest(tmp_path: Path) -> None:
    write_safe(tmp_path, DESCENDING, "10.0,-179.0 10.5,178.5 9.0,178.0 8.5,-179.5")
    write_safe(tmp_path, NEXT_SLICE)
    (tmp_path / f"{NEXT_SLICE}.SAFE" / "manifest.safe").write_text("<torn")
    across, torn = Sentinel1("a", archive(tmp_path, values="linear")).scenes(full_digests=False)
    assert across.bbox == (178.0, 8.5, -179.0, 10.5)
    assert torn.boxes_in(GRID) == ()
    assert "terrain-correct it first" in torn.verdict


def test_radar_in_an_archive_of_acquisitions_is_none_of_it(tmp_path: Path) -> None:
    write_safe(tmp_path, DESCENDING)
    assert list(find_products(tmp_path, {"B04": frozenset({"b04", "red"})})) == []


def test_pixels_with_ground_control_points_alone_are_to_be_geocoded(tmp_path: Path) -> None:
    """Items of a catalogue that names the images of SAFE products as delivered."""
    write_safe(tmp_path / "safe", DESCENDING)
    image = next((tmp_path / "safe").rglob("*.tiff"))
    item = {
        "type": "Feature", "id": DESCENDING, "properties": {"datetime": "2020-06-07T01:08:00Z"},
        "assets": {"vv": {"href": str(image)}},
    }  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(item))
    (scene,) = Sentinel1("a", archive(tmp_path / "item.json", ("VV",), values="linear")).scenes(full_digests=False)
    assert "has ground control points only; geocode it first" in scene.verdict


def test_a_missing_polarisation_makes_a_product_unusable(tmp_path: Path) -> None:
    write_product(tmp_path, DESCENDING, np.full((SIDE, SIDE), 0.1))
    (tmp_path / DESCENDING / "VH.tif").unlink()
    (tmp_path / "notes" / "x").mkdir(parents=True)
    write(tmp_path / "notes" / "VV.tif", np.ones((4, 4), np.float32))
    source = Sentinel1("a", archive(tmp_path, values="linear"))
    [scene] = source.scenes(full_digests=False)
    assert scene.verdict == "VH: there is no file of this band"
    with pytest.raises(CorruptInput, match="VH"):
        source.observe(scene, ALL_TIME, GRID, ON_GRID, RasterReader(1))


@pytest.mark.parametrize("values", ["db", "worldcereal"])
def test_it_keeps_the_contract(tmp_path: Path, values: str) -> None:
    write_product(tmp_path, DESCENDING, speckled(0, side=160), values, left=LEFT + 3)
    check_source(Sentinel1("a", archive(tmp_path, values=values)), GRID, area_px=48)


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("wanted", "grid"),
    [
        (archive(SSL4EO, values="db"), Grid(crs="EPSG:32643", pixel=10)),
        (archive(BIGEARTHNET, values="db"), Grid(crs="EPSG:32633", pixel=10)),
        (
            archive(WORLDCEREAL, values="worldcereal", variables={"VV": "S1-SIGMA0-VV", "VH": "S1-SIGMA0-VH"}),
            Grid(crs="EPSG:32631", pixel=20),
        ),
    ],
    ids=["SSL4EO-S12", "BigEarthNet", "WorldCereal"],
)
def test_real_archives_keep_the_contract(wanted: Archive, grid: Grid) -> None:
    check_source(Sentinel1("a", wanted), grid, area_px=48)


@pytest.mark.realdata
def test_a_patch_of_bigearthnet_lies_where_it_does() -> None:
    area = PixelArea(row=-534240, col=38400, rows=120, cols=120)
    source = Sentinel1("a", archive(BIGEARTHNET, values="db"))
    [scene], _, picture = observed(source, Grid(crs="EPSG:32633", pixel=10), area)
    assert scene.time == datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC)
    assert scene.acquisition == "S1A 2017-06-13T16:48 + 48 min"
    for band, x_yx in zip(("VV", "VH"), picture.x_cyx, strict=True):
        with rasterio.open(next(BIGEARTHNET.rglob(f"*_{band}.tif"))) as file:
            np.testing.assert_allclose(x_yx, file.read(1), atol=1e-4)


@pytest.mark.realdata
def test_worldcereal_integers_are_the_decibels_that_netcdf4_and_numpy_read() -> None:
    variables = {"VV": "S1-SIGMA0-VV", "VH": "S1-SIGMA0-VH"}
    source = Sentinel1("a", archive(WORLDCEREAL, values="worldcereal", variables=variables))
    area = PixelArea(row=-561212, col=66400, rows=100, cols=100)
    scenes, found, picture = observed(source, Grid(crs="EPSG:32631", pixel=10), area)
    assert [scene.time.month for scene in scenes] == [11, 12, *range(1, 11)]
    with netCDF4.Dataset(WORLDCEREAL) as stack:
        stack.set_auto_maskandscale(False)
        numbers = np.stack([stack[variables[band]][:] for band in ("VV", "VH")]).view(np.uint16)  # c t y x
    decibels = 20 * np.log10(numbers.astype(np.float64)) - 83
    for t, one in enumerate(found):
        assert one.seen_yx.all()
        np.testing.assert_allclose(10 * np.log10(one.values_cyx.astype("f8")), decibels[:, t], atol=1e-4)
    np.testing.assert_allclose(picture.x_cyx, 10 * np.log10((10 ** (decibels / 10)).mean(axis=1)), atol=1e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """The campaign of `configs/campaigns` in a folder of its own, run to a verified cube."""
    with pytest.MonkeyPatch.context() as patch:
        campaign = real_campaign(CAMPAIGN, tmp_path_factory.mktemp("s1"), patch)
        printed = campaign.cli("run")
        assert "4 scenes in" in printed
        assert "0 unusable" in printed
        assert "nothing found wrong" in printed
        yield campaign


def reference_power(day: str, band: str, area: PixelArea) -> NDArray[np.float64]:
    """Decibels to power, then the weighted four pixels around each centre; NaN where one is missing."""
    with rasterio.open(next(SSL4EO.rglob(f"S1A_IW_GRDH_1SDV_{day}*/{band}.tif"))) as file:
        power = 10.0 ** (file.read(1).astype(np.float64) / 10)
        to_pixels = ~file.transform
    x, y = 10.0 * (area.col + np.arange(area.cols)) + 5, -10.0 * (area.row + np.arange(area.rows)) - 5
    lonlat = Transformer.from_crs("EPSG:32643", "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))
    cols, rows = (axis - 0.5 for axis in to_pixels @ lonlat)
    i, j = np.floor(rows).astype(int), np.floor(cols).astype(int)
    down, right = rows - i, cols - j
    inside = (i >= 0) & (i < power.shape[0] - 1) & (j >= 0) & (j < power.shape[1] - 1)
    i, j = np.where(inside, i, 0), np.where(inside, j, 0)
    above = power[i, j] * (1 - right) + power[i, j + 1] * right
    below = power[i + 1, j] * (1 - right) + power[i + 1, j + 1] * right
    return np.where(inside, above * (1 - down) + below * down, np.nan)


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def test_real_composites_are_the_references(finished: Campaign) -> None:
    campaign, run = load_campaign(finished.file), finished.run
    scenes = read_inventory(campaign, run)
    compared = 0
    for group in read_shards(run, read_plan(campaign, run)):
        for shard in group:
            merged = shard.layer == "s1_merged"
            channels = np.zeros(2 if merged else 4, np.float32)
            nothing = Weights(mean=channels, std=channels, tensors={})
            context = make_context(
                campaign, shard.layer, [shard.zone], nothing, torch.nn.Identity(), torch.device("cpu"), batch=2
            )
            reader = RasterReader(1)
            sample = read_sample(shard, [scenes[i] for i in shard.scenes], context, reader)
            reader.close()
            area = context.layout.shard_area(shard.row, shard.col).grown(context.layout.halo_px)
            june, september = (
                np.stack([reference_power(day, band, area) for band in ("VV", "VH")])
                for day in ("20200607", "20200903")
            )
            if shard.t == 1:
                june = np.full_like(june, np.nan)
            power = np.nanmean([june, september], axis=0) if merged else np.concatenate([september, june])
            found, known = sample.x_tcyx[0], np.isfinite(power)
            np.testing.assert_allclose(found[known], 10 * np.log10(power[known]), atol=1e-4)
            # at a file's edge fewer than four pixels count
            assert (np.isfinite(found) != known).mean() < 0.01
            compared += int(known.sum())
    assert compared > 200_000


@pytest.mark.realdata
def test_the_real_cube_counts_passes_and_tells_what_was_done(finished: Campaign) -> None:
    with xarray.open_datatree(finished.run.newest_cube, engine="zarr") as tree:
        for layer in ("s1_merged", "s1_by_pass"):
            cube = tree[f"{layer}/grid"].to_dataset().load()
            valid = cube["status"].values == 1
            assert valid[0].sum() > 200
            assert set(np.unique(cube["n_obs"].values[0][valid[0]])) == {2}, "two passes in the first window"
            # where passes are archives of their own, one of them is missing then
            valid[1] |= cube["status"].values[1] == 5
            assert set(np.unique(cube["n_obs"].values[1][valid[1]])) == {1}, "one in the second"
            assert np.isfinite(cube["scale"].values[valid]).all()
    cube_ = Cube(finished.run.newest_cube)
    told = cube_.explain(cube_.cell_at(73.3056, 30.464, "2020-07-01", "s1_merged"))
    assert {scene["processing"].split(";")[0] for scene in told["scenes"]} == {"orbit ascending", "orbit descending"}
    assert all("10^(value / 10), taken before resampling" in scene["processing"] for scene in told["scenes"])
