"""Fields: terrain and weather on rasters, scaled, averaged, and combined with acquisitions."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray
import yaml
from numpy.typing import NDArray
from tests.conftest import REAL_DATA, Campaign, in_shards

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive, Mask
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.fields import Fields
from embedcube.sources.reader import RasterReader
from embedcube.testing.contracts import check_source
from embedcube.windows import Window

STACK = REAL_DATA / "s1s2_agera5_worldcereal_31UFS_2020-2021" / "worldcereal_preprocessed_inputs.nc"
STACK_AREA = PixelArea(row=-561212, col=66400, rows=100, cols=100)
UTM31 = Grid(crs="EPSG:32631", pixel=10)

GRID = Grid(crs="EPSG:32632", pixel=10)
SIDE = 40
LEFT, TOP = 600_000.0, 5_500_000.0
AREA = PixelArea(row=-int(TOP) // 10, col=int(LEFT) // 10, rows=SIDE, cols=SIDE)


def archive(path: Path, *bands: str, composite: Any = None, **options: Any) -> Archive:
    return Archive(source="fields", path=path, bands=bands or ("elevation",), composite=composite, options=options)


def write(path: Path, values: NDArray[Any], *, left: float = LEFT, nodata: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, cols = values.shape
    raster: dict[str, Any] = {"driver": "GTiff", "width": cols, "height": rows, "count": 1, "dtype": values.dtype}
    place = rasterio.transform.from_origin(left, TOP, 10, 10)
    with rasterio.open(path, "w", crs=GRID.crs, transform=place, nodata=nodata, **raster) as file:
        file.write(values, 1)


def write_stack(path: Path, days: list[int], **values_tyx: NDArray[Any]) -> None:
    """A series in the usual form: coordinates of pixel centres, a CF grid mapping."""
    x, y = LEFT + 5 + 10 * np.arange(SIDE), TOP - 5 - 10 * np.arange(SIDE)
    variables = {
        name: (("t", "y", "x"), values, {"grid_mapping": "crs", "_FillValue": values.dtype.type(9999)})
        for name, values in values_tyx.items()
    }
    times = np.array([f"2020-06-{day:02d}" for day in days], dtype="datetime64[ns]")
    dataset = xarray.Dataset(variables, {"t": times, "y": y, "x": x})
    dataset["crs"] = ((), 0, {"spatial_ref": rasterio.crs.CRS.from_string(GRID.crs).to_wkt()})
    dataset["x"].attrs = {"standard_name": "projection_x_coordinate", "units": "m"}
    dataset["y"].attrs = {"standard_name": "projection_y_coordinate", "units": "m"}
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(path, engine="netcdf4")


def observed(source: Fields, grid: Grid = GRID, area: PixelArea = AREA) -> tuple[list[Scene], list[Observation]]:
    scenes = list(source.scenes(full_digests=False))
    reader = RasterReader(2)
    try:
        return scenes, [source.observe(s, Window(s.time, s.end or s.time), grid, area, reader) for s in scenes]
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"options": {"factor": 2}},
            r'archives\.dem\.options: no option "factor"; known here: add, names, nodata, packing, scale, static, '
            "steps, time, variables",
        ),
        ({"options": {"scale": {"slope": 2}}}, r'archives\.dem\.options\.scale: band "slope" is not one of'),
        ({"options": {"add": {"elevation": "much"}}}, r"options\.add\.elevation: .*'much'"),
        ({"options": {"static": "sometimes"}}, r"options\.static: .*'sometimes'"),
        ({"mask": Mask(band="SCL", clear=(4,))}, r"archives\.dem\.mask means nothing"),
        ({"offset": 3.0}, r"archives\.dem\.offset: 3\.0 means nothing .*options\.add"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    Fields("dem", archive(tmp_path))
    with pytest.raises(RequestError, match=complaint):
        Fields("dem", archive(tmp_path).model_copy(update=change))


def test_they_are_no_acquisitions(tmp_path: Path) -> None:
    assert not Fields("dem", archive(tmp_path)).counted


def test_a_static_field_falls_in_every_window_and_survives_the_inventory(tmp_path: Path) -> None:
    write(tmp_path / "dem" / "N50_elevation.tif", np.full((SIDE, SIDE), 7, np.int16), nodata=-32768)
    write(tmp_path / "dem" / "N51" / "elevation.tif", np.full((SIDE, SIDE), 9, np.int16), left=LEFT + 400, nodata=-1)
    campaign = Campaign(tmp_path / "campaign.yaml")
    campaign.file.write_text(
        yaml.safe_dump(
            {
                "campaign": "terrain",
                "archives": {
                    "dem": {"source": "fields", "path": "dem", "bands": ["elevation"], "options": {"static": True}}
                },
                "grid": {"crs": GRID.crs, "pixel": 10},
                "windows": [["2020-01-01", "2021-01-01"]],
                "layers": {"terrain": {"archives": "dem", "backbone": {"name": "mosaiks"}}},
            }
        )
    )
    campaign.cli("index")
    asked = load_campaign(campaign.file)
    found = read_inventory(asked, campaign.run)
    assert [scene.id for scene in found] == ["N50", "N51"]
    assert list(found) == list(Fields("dem", asked.archives["dem"]).scenes(full_digests=False))
    for year in (1980, 2020, 2100):
        assert all(
            scene.meets(Window(datetime(year, 1, 1, tzinfo=UTC), datetime(year, 1, 2, tzinfo=UTC))) for scene in found
        )
    source, wide = Fields("dem", asked.archives["dem"]), PixelArea(row=AREA.row, col=AREA.col, rows=SIDE, cols=2 * SIDE)
    scenes, seen = observed(source, area=wide)
    picture = source.composite([(scene.acquisition, one) for scene, one in zip(scenes, seen, strict=True)])
    np.testing.assert_array_equal(picture.x_cyx[0], np.repeat([[7, 9]], SIDE, axis=1).repeat(SIDE, axis=0))
    assert len({scene.acquisition for scene in scenes}) == 1, "the tiles of one field are one picture"


def test_zero_is_not_taken_for_no_data_without_being_told(tmp_path: Path) -> None:
    slope = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) % 9
    write(tmp_path / "slope.tif", slope)
    write(tmp_path / "declared" / "slope.tif", slope, nodata=99)
    declared, unclear = Fields("dem", archive(tmp_path, "slope", static=True)).scenes(full_digests=False)
    assert re.search(r"slope: slope\.tif holds uint16 .* is 0 a value\?.*nodata", unclear.verdict)
    assert not declared.verdict, "the others go on"
    (tmp_path / "declared" / "slope.tif").unlink()
    for nodata, missing in ((-1, 0), (0, int((slope == 0).sum())), (65535, 0)):
        _, [one] = observed(Fields("dem", archive(tmp_path, "slope", static=True, nodata=nodata)))
        assert int((~one.seen_yx).sum()) == missing
        np.testing.assert_array_equal(one.values_cyx[0][one.seen_yx], slope[one.seen_yx])


def test_a_field_is_scaled_before_it_is_resampled_and_not_rounded(tmp_path: Path) -> None:
    numbers = np.arange(SIDE, dtype=np.int16) * np.ones((SIDE, 1), np.int16)
    write(tmp_path / "elevation.tif", numbers, left=LEFT + 5, nodata=-32768)
    _, [one] = observed(
        Fields("dem", archive(tmp_path, static=True, scale={"elevation": 0.1}, add={"elevation": -2.0}))
    )
    expected = (np.arange(SIDE) - 0.5) * 0.1 - 2
    np.testing.assert_allclose(one.values_cyx[0, :, 1:], np.tile(expected[1:], (SIDE, 1)), atol=1e-6)


def packed_stack(path: Path, celsius_tyx: NDArray[Any]) -> None:
    """Packed as by xarray: int16 with scale_factor, add_offset and a fill value in packed numbers."""
    write_stack(path, [1, 11], temperature=celsius_tyx + 273.15)
    with xarray.open_dataset(path, engine="netcdf4") as stack:
        loaded = stack.load()
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 270.0, "_FillValue": -32768}
    for name in ("temperature", "x", "y"):
        loaded[name].encoding.clear()
    loaded["temperature"].encoding = packing
    loaded.to_netcdf(path.with_name("packed.nc"), engine="netcdf4")
    path.unlink()


def test_the_packing_of_netcdf_is_what_xarray_reads(tmp_path: Path) -> None:
    celsius = np.random.default_rng(2).uniform(-20, 40, (2, SIDE, SIDE))
    celsius[0, 3, 4] = np.nan
    packed_stack(tmp_path / "weather.nc", celsius)
    with xarray.open_dataset(tmp_path / "packed.nc", engine="netcdf4") as stack:
        expected = stack["temperature"].values - 273.15
    source = Fields("w", archive(tmp_path, "t2m", variables={"t2m": "temperature"}, add={"t2m": -273.15}))
    scenes, seen = observed(source)
    for t, one in enumerate(seen):
        np.testing.assert_array_equal(one.seen_yx, np.isfinite(expected[t]))
        np.testing.assert_allclose(one.values_cyx[0][one.seen_yx], expected[t][one.seen_yx], atol=1e-4)
        assert np.abs(one.values_cyx[0] - celsius[t])[one.seen_yx].max() <= 0.0051, "half a step of packing"
    assert scenes[0].processing == "t2m = (DN * 0.01 + 270.0 as the file says) * 1.0 + -273.15 as the campaign says"


def test_the_packing_of_geotiff_is_what_rioxarray_reads_and_each_file_has_its_own(tmp_path: Path) -> None:
    """Files whose headers differ only in GDAL's metadata."""
    numbers = np.random.default_rng(3).integers(-900, 900, (SIDE, SIDE), dtype=np.int16)
    for name, scale, add in (("N50", 0.5, 100.0), ("N51", 0.25, -1.0), ("N52", None, None)):
        path = tmp_path / name / "elevation.tif"
        write(path, numbers, nodata=-5, left=LEFT)
        if scale is not None:
            with rasterio.open(path, "r+") as file:
                file.scales, file.offsets = (scale,), (add,)
    scenes, seen = observed(Fields("dem", archive(tmp_path, static=True)))
    assert [scene.id for scene in scenes] == ["N50", "N51", "N52"]
    for scene, one in zip(scenes, seen, strict=True):
        expected = rioxarray.open_rasterio(tmp_path / scene.id / "elevation.tif", mask_and_scale=True)
        assert isinstance(expected, xarray.DataArray)
        np.testing.assert_array_equal(np.where(one.seen_yx, one.values_cyx[0], np.nan), expected.values[0])
    assert len({scene.digest for scene in scenes}) == 3
    stored = Fields("dem", archive(tmp_path, static=True, packing="ignored"))
    for one in observed(stored)[1]:
        np.testing.assert_array_equal(one.values_cyx[0][one.seen_yx], numbers[one.seen_yx])


def test_a_single_image_is_an_archive_by_its_bands_or_alone(tmp_path: Path) -> None:
    numbers = np.arange(2 * SIDE * SIDE, dtype=np.float32).reshape(2, SIDE, SIDE)
    path = tmp_path / "TERRAIN.TIF"
    place = rasterio.transform.from_origin(LEFT, TOP, 10, 10)
    raster: dict[str, Any] = {"driver": "GTiff", "width": SIDE, "height": SIDE, "dtype": "float32", "crs": GRID.crs}
    with rasterio.open(path, "w", count=2, transform=place, **raster) as file:
        file.write(numbers)
        file.descriptions = ("Elevation", "Slope")
    [scene], [one] = observed(Fields("dem", archive(path, "slope", "elevation", static=True)))
    assert (scene.id, [asset.index for asset in scene.assets]) == ("TERRAIN", [2, 1])
    np.testing.assert_array_equal(one.values_cyx, numbers[::-1])
    [unknown] = Fields("dem", archive(path, "aspect", static=True)).scenes(full_digests=False)
    asks = "options.variables takes a name in the file, or a number from 1, for each band"
    assert unknown.verdict == f"TERRAIN.TIF: it has no band aspect among its 2 (Elevation, Slope). {asks}"
    with rasterio.open(path, "w", count=2, transform=place, **raster) as file:
        file.write(numbers)
    [nameless] = Fields("dem", archive(path, "slope", static=True)).scenes(full_digests=False)
    assert nameless.verdict == f"TERRAIN.TIF: it has no band slope among its 2 (without names). {asks}"
    [scene], _ = observed(Fields("dem", archive(path, "slope", static=True, variables={"slope": 2})))
    assert scene.assets[0].index == 2
    write(tmp_path / "one" / "heights_2020-06-01.TIF", numbers[0])
    for where in (tmp_path / "one" / "heights_2020-06-01.TIF", tmp_path / "one"):
        named = {"elevation": "heights_2020-06-01"} if where.is_dir() else {}
        [scene], [one] = observed(Fields("dem", archive(where, variables=named, static=where.is_dir())))
        np.testing.assert_array_equal(one.values_cyx[0], numbers[0])


def test_products_of_one_name_are_two_scenes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "dem" / "elevation.tif", np.ones((SIDE, SIDE), np.float32))
    found = Fields("dem", archive(tmp_path, static=True)).scenes(full_digests=False)
    assert [scene.id for scene in found] == ["b/dem", "dem"]


def test_the_fields_of_a_frame_are_averaged(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).uniform(270, 300, (3, SIDE, SIDE)).astype(np.float32)
    steps[1, 3, 4] = 9999
    write_stack(tmp_path / "weather.nc", [1, 11, 21], temperature=steps)
    source = Fields("w", archive(tmp_path, "t2m", variables={"t2m": "temperature"}))
    scenes, seen = observed(source)
    assert [scene.time.day for scene in scenes] == [1, 11, 21]
    picture = source.composite([(scene.acquisition, one) for scene, one in zip(scenes, seen, strict=True)])
    expected = np.where(steps == 9999, np.nan, steps).astype(np.float64)
    np.testing.assert_allclose(picture.x_cyx[0], np.nanmean(expected, axis=0), rtol=1e-6)
    assert not seen[1].seen_yx[3, 4]


def test_without_time_a_plain_raster_is_no_scene(tmp_path: Path) -> None:
    write(tmp_path / "elevation.tif", np.ones((SIDE, SIDE), np.float32))
    with pytest.raises(
        RequestError, match=r"1 images are of no scene; the first, elevation\.tif, has no date .* options\.time"
    ):
        list(Fields("dem", archive(tmp_path)).scenes(full_digests=False))


def test_a_missing_band_makes_a_field_unusable(tmp_path: Path) -> None:
    write(tmp_path / "elevation.tif", np.ones((SIDE, SIDE), np.float32))
    source = Fields("dem", archive(tmp_path, "elevation", "slope", static=True))
    [scene] = source.scenes(full_digests=False)
    with pytest.raises(CorruptInput, match=r"slope: there is no file of this band"):
        source.observe(scene, Window(scene.time, scene.time), GRID, AREA, RasterReader(1))


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(-5, 900, (90, 90), dtype=np.int16)
    write(tmp_path / "elevation.tif", numbers, left=LEFT + 3, nodata=-5)
    check_source(Fields("dem", archive(tmp_path, static=True, scale={"elevation": 0.5})), GRID, area_px=48)


# --- real data ------------------------------------------------------------------------------------

WEATHER = {"variables": {"t2m": "AGERA5-TMEAN", "tp": "AGERA5-PRECIP"}, "nodata": 65535}


@pytest.mark.realdata
def test_the_real_stack_is_what_netcdf4_and_numpy_read() -> None:
    weather = Fields(
        "weather", archive(STACK, "t2m", "tp", **WEATHER, scale={"t2m": 0.01, "tp": 1e-5}, add={"t2m": -273.15})
    )
    terrain = Fields("terrain", archive(STACK, "elevation", "slope", nodata=65535))
    with netCDF4.Dataset(STACK) as stack:
        stack.set_auto_maskandscale(False)
        numbers = {
            name: np.asarray(stack[name][:]).view(np.uint16).astype(np.float64)
            for name in ("AGERA5-TMEAN", "AGERA5-PRECIP", "elevation", "slope")
        }
    assert (numbers["slope"] == 0).any(), "0 degrees is a slope"
    expected = {
        weather: [numbers["AGERA5-TMEAN"] * 0.01 - 273.15, numbers["AGERA5-PRECIP"] * 1e-5],
        terrain: [numbers["elevation"], numbers["slope"]],
    }
    for source, bands_tyx in expected.items():
        scenes, seen = observed(source, UTM31, STACK_AREA)
        assert [(scene.time.year, scene.time.month) for scene in scenes] == [
            *((2020, month) for month in (11, 12)),
            *((2021, month) for month in range(1, 11)),
        ]
        for t, one in enumerate(seen):
            assert one.seen_yx.all()
            np.testing.assert_array_equal(one.values_cyx, np.stack([band[t] for band in bands_tyx]).astype(np.float32))


@pytest.mark.realdata
def test_the_real_stack_keeps_the_contract() -> None:
    check_source(Fields("terrain", archive(STACK, "elevation", "slope", nodata=65535)), UTM31, area_px=48)


@pytest.mark.realdata
def test_radar_weather_and_terrain_of_the_real_stack_make_one_verified_layer(tmp_path: Path) -> None:
    """Weather and terrain exist in all months; only radar makes a cell valid and is counted."""
    stack = str(STACK.resolve())
    campaign = Campaign(tmp_path / "campaign.yaml")
    radar = {"values": "worldcereal", "variables": {"VV": "S1-SIGMA0-VV", "VH": "S1-SIGMA0-VH"}}
    terrain = {"nodata": 65535, "static": True}
    campaign.file.write_text(
        yaml.safe_dump(
            {
                "campaign": "stack",
                "archives": {
                    "s1": {"source": "sentinel1", "path": stack, "bands": ["VV", "VH"], "options": radar},
                    "weather": {"source": "fields", "path": stack, "bands": ["t2m", "tp"], "options": WEATHER},
                    "dem": {"source": "fields", "path": stack, "bands": ["elevation", "slope"], "options": terrain},
                },
                "grid": {"crs": "EPSG:32631", "pixel": 10, "origin": [664000, 5612120]},
                # the second window lies behind the radar's last month: terrain alone is there
                "windows": [["2020-11-01", "2021-02-01"], ["2022-01-01", "2022-04-01"]],
                "layers": {
                    "all": {
                        "archives": ["s1", "weather", "dem"],
                        "frames": "1 month",
                        "backbone": {"name": "mosaiks", "filters": 4},
                        "fit": {"start": "2020-11-01", "end": "2021-02-01"},
                        "chip_px": 22, "halo_px": 1, "cell_px": 20, "shard_chips": 5,
                    }
                },
                "how": {"ranks": 1},
            }
        )
    )  # fmt: skip
    assert "nothing found wrong" in campaign.cli("run")
    cube = in_shards(campaign.run.newest_cube, "all/grid")
    assert (cube["status"].values[0] == 1).all()
    assert (cube["n_obs"].values[0] == 3).all(), "three months of radar; fields are not counted beside it"
    assert (cube["status"].values[1] == 2).all(), "no data"
