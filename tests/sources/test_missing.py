"""Which pixels are missing: numbers of file and Item, masks inside, beside and as alpha bands, for every source."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from tests.conftest import Campaign, call_cli
from tests.sources.rasters import (
    AREA,
    GRID,
    LEFT,
    S1,
    S2,
    SIDE,
    TOP,
    observed,
    scenes_of,
    source_of,
    write,
    write_item,
)

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.errors import CorruptInput
from embedcube.grid import Grid
from embedcube.sources.reader import RasterReader
from embedcube.windows import parse_period

KINDS = {
    "sentinel2": (S2, "B04", "uint16"),
    "sentinel1": (S1, "VV", "float32"),
    "fields": ("map_20210607", "cover", "float32"),
}
"""For each source the name of a product, a band, and a type of its numbers"""

PLACES: dict[str, dict[str, Any]] = {"inside": {}, "beside": {"beside": True}, "alpha": {"alpha": True}}


def numbers(kind: str, seed: int = 1) -> NDArray[Any]:
    """Numbers of a source without any structure."""
    rng = np.random.default_rng(seed)
    values = rng.integers(200, 3000, (SIDE, SIDE)) if kind == "sentinel2" else rng.gamma(3, 0.03, (SIDE, SIDE))
    return values.astype(KINDS[kind][2])


def masked_rows() -> NDArray[np.uint8]:
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:8], mask[20, 5:9] = 0, 0
    return mask


def by_rasterio(path: Path) -> NDArray[np.bool_]:
    """Where a file has data by its mask; or by its alpha band, which GDAL takes for a mask only if it has integers."""
    with rasterio.open(path) as file:
        alpha = [i for i, kind in enumerate(file.colorinterp, start=1) if kind == ColorInterp.alpha]
        return np.asarray((file.read(alpha[0]) if alpha else file.dataset_mask()) > 0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_pixel_is_missing_as_rasterio_says(tmp_path: Path, kind: str, place: str) -> None:
    product, band, _ = KINDS[kind]
    values = numbers(kind)
    values[:8] = 65000 if kind == "sentinel2" else 40.0
    path = write(tmp_path / product / f"{band}.tif", values, mask=masked_rows(), **PLACES[place])
    assert (tmp_path / product / f"{band}.tif.msk").exists() == (place == "beside")
    [one] = observed(kind, tmp_path, band)
    expected = by_rasterio(path)
    assert 0 < (~expected).sum() < expected.size
    np.testing.assert_array_equal(one.seen_yx, expected)
    np.testing.assert_array_equal(one.values_cyx[0][expected], values[expected])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("resampling", ["bilinear", "average", "nearest"])
def test_a_masked_pixel_has_no_weight_where_it_is_resampled(tmp_path: Path, resampling: Any, place: str) -> None:
    """The same numbers, missing by a mask or by a declared number, are the same pixels on another grid."""
    values, mask = numbers("fields"), masked_rows()
    write(tmp_path / "mask" / "map_20210607" / "cover.tif", values, mask=mask, **PLACES[place])
    write(tmp_path / "number" / "map_20210607" / "cover.tif", np.where(mask, values, -9999), nodata=-9999)
    for grid in (Grid(crs=GRID.crs, pixel=10, origin_x=3.0, origin_y=4.0), Grid(crs=GRID.crs, pixel=20)):
        area = replace(AREA, row=AREA.row * 10 // int(grid.pixel), col=AREA.col * 10 // int(grid.pixel))
        found, expected = (
            observed("fields", tmp_path / name, "cover", grid=grid, area=area, resampling=resampling)[0]
            for name in ("mask", "number")
        )
        np.testing.assert_array_equal(found.seen_yx, expected.seen_yx)
        np.testing.assert_array_equal(found.values_cyx, expected.values_cyx)
        assert 0 < found.seen_yx.sum() < found.seen_yx.size


def test_zero_is_a_value_where_a_mask_decides(tmp_path: Path) -> None:
    values = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 7
    write(tmp_path / "map_20210607" / "cover.tif", values, mask=masked_rows())
    [one] = observed("fields", tmp_path, "cover")
    np.testing.assert_array_equal(one.seen_yx, masked_rows() > 0)
    np.testing.assert_array_equal(one.values_cyx[0][one.seen_yx], values[one.seen_yx])
    assert (one.values_cyx[0][one.seen_yx] == 0).any()


def test_an_alpha_band_that_is_read_is_a_band(tmp_path: Path) -> None:
    """GDAL calls the fourth of four bands of 8 bits alpha, whatever it holds."""
    bands = np.random.default_rng(0).integers(0, 9, (4, SIDE, SIDE)).astype(np.uint8)
    path = tmp_path / "stack_20210607.tif"
    write(path, bands, descriptions=["a", "b", "c", "d"], alpha=True)
    with rasterio.open(path) as file:
        assert file.colorinterp[3].name == "alpha"
    for wanted, missing in ((("a", "d"), 0), (("a", "b"), int((bands[3] == 0).sum()))):
        [one] = observed("fields", path, *wanted, options={"nodata": 99})
        assert int((~one.seen_yx).sum()) == missing


def test_two_files_that_differ_in_their_mask_alone_are_told_apart(tmp_path: Path) -> None:
    values = numbers("sentinel2")
    for day, mask in (("05", None), ("06", masked_rows()), ("07", None), ("08", masked_rows())):
        write(tmp_path / f"S2A_202106{day}" / "B04.tif", values, mask=mask, nodata=0)
    found = scenes_of("sentinel2", tmp_path, "B04", offset=0)
    assert [scene.assets[0].mask for scene in found] == ["", "inside", "", "inside"]
    assert len({scene.assets[0].digest for scene in found}) == 2


def test_a_mask_behind_overviews_and_beyond_the_first_bytes_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 60_000, (600, 600)).astype(np.uint16)
    mask = np.full(values.shape, 255, np.uint8)
    mask[:100] = 0
    for name in ("with", "without"):
        path = write(tmp_path / f"S2A_20210607_{name}" / "B04.tif", values, tiled=True, blockxsize=256, blockysize=256)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
            if name == "with":
                file.write_mask(mask)
    assert path.stat().st_size > 1 << 19
    assert [s.assets[0].mask for s in scenes_of("sentinel2", tmp_path, "B04", offset=0)] == ["inside", ""]


def test_a_pixel_with_the_no_data_values_of_all_bands_is_missing(tmp_path: Path) -> None:
    """GDAL's NODATA_VALUES: one number for each band, and a pixel is missing where all bands have theirs."""
    values = np.random.default_rng(0).integers(1, 4, (2, SIDE, SIDE)).astype(np.uint8)
    for name, tags in (("plain", {}), ("told", {"NODATA_VALUES": "1 2"})):
        path = write(tmp_path / f"{name}_20210607.tif", values, descriptions=["a", "b"])
        with rasterio.open(path, "r+") as file:
            file.update_tags(**tags)
    [one] = observed("fields", tmp_path / "told_20210607.tif", "a", "b")
    expected = by_rasterio(tmp_path / "told_20210607.tif")
    np.testing.assert_array_equal(expected, ~((values[0] == 1) & (values[1] == 2)))
    np.testing.assert_array_equal(one.seen_yx, expected)
    [scene] = scenes_of("fields", tmp_path / "plain_20210607.tif", "a", "b")
    assert "is 0 a value?" in scene.verdict


def test_a_declared_zero_is_no_question(tmp_path: Path) -> None:
    values = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 7
    write(tmp_path / "map_20210607" / "cover.tif", values, nodata=0)
    [one] = observed("fields", tmp_path, "cover")
    np.testing.assert_array_equal(one.seen_yx, values > 0)


def test_numbers_of_bands_without_names_are_those_of_the_file(tmp_path: Path) -> None:
    values = numbers("fields")
    values[:5] = 7
    write(tmp_path / "x" / "cover.tif", np.stack([values] * 3))
    asset = {"href": "./cover.tif", "raster:bands": [{"nodata": 7}] * 3}
    write_item(tmp_path / "x", "x", {"cover": asset}, datetime="2021-06-07T00:00:00Z")
    [one] = observed("fields", tmp_path, "cover")
    np.testing.assert_array_equal(one.seen_yx, values != 7)


# --- a mask beside a file -----------------------------------------------------------------------------


def beside(root: Path) -> Path:
    return write(root / S2 / "B04.tif", numbers("sentinel2"), mask=masked_rows(), beside=True, nodata=0)


def test_a_mask_beside_a_file_is_in_the_digest_of_its_scene(tmp_path: Path) -> None:
    path = beside(tmp_path)
    mask = Path(f"{path}.msk")
    [before] = scenes_of("sentinel2", tmp_path, "B04")
    other = masked_rows()
    other[9] = 0
    with rasterio.open(mask, "r+") as file:
        file.write(other, 1)
    [after] = scenes_of("sentinel2", tmp_path, "B04")
    assert before.assets[0].digest == after.assets[0].digest
    assert before.digest != after.digest
    mask.unlink()
    [without] = scenes_of("sentinel2", tmp_path, "B04")
    assert without.digest not in (before.digest, after.digest)


@pytest.mark.parametrize("harm", ["other", "gone", "torn"])
def test_a_mask_that_changed_since_index_is_noticed(tmp_path: Path, harm: str) -> None:
    mask = Path(f"{beside(tmp_path)}.msk")
    source = source_of("sentinel2", tmp_path, "B04")
    [scene] = source.scenes(full_digests=True)
    if harm == "gone":
        mask.unlink()
    elif harm == "torn":
        os.truncate(mask, mask.stat().st_size // 2)
    else:
        data = bytearray(mask.read_bytes())
        data[-1] ^= 1
        mask.write_bytes(data)
    reader = RasterReader(1, attempts=1)
    try:
        with pytest.raises(CorruptInput, match=r"B04\.tif\.msk (has|is gone)"):
            source.observe(scene, parse_period("2021"), GRID, AREA, reader)
    finally:
        reader.close()


@pytest.mark.parametrize("what", ["text", "another size", "a text of GDAL"])
def test_a_mask_that_cannot_be_read_is_a_verdict(tmp_path: Path, what: str) -> None:
    path = beside(tmp_path)
    mask = Path(f"{path}.msk")
    if what == "text":
        mask.write_text("no mask")
    elif what == "another size":
        write(tmp_path / "other.tif", np.ones((5, 5), np.uint8))
        shutil.move(tmp_path / "other.tif", mask)
    else:
        write(tmp_path / "elsewhere.tif", np.ones((SIDE, SIDE), np.uint8))
        band = f"<SimpleSource><SourceFilename>{tmp_path / 'elsewhere.tif'}</SourceFilename></SimpleSource>"
        mask.write_text(
            f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><VRTRasterBand dataType="Byte" band="1">{band}'
            "</VRTRasterBand></VRTDataset>"
        )
    [scene] = scenes_of("sentinel2", tmp_path, "B04")
    assert "B04.tif has a mask beside it, .msk, that cannot be read" in scene.verdict


def indexed(folder: Path) -> Campaign:
    """A campaign over the scenes below `archive`, whose inventory is made."""
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(
        """
campaign: masks
archives: {s2: {source: sentinel2, path: archive, bands: [B04]}}
grid: {crs: "EPSG:32632", pixel: 10}
windows: [["2021-06-01", "2021-07-01"]]
layers: {one: {archives: s2, backbone: {name: mosaiks}}}
"""
    )
    campaign.cli("index")
    return campaign


def test_notes_of_masks_survive_the_inventory(tmp_path: Path) -> None:
    beside(tmp_path / "archive")
    campaign = indexed(tmp_path)
    [scene] = read_inventory(load_campaign(campaign.file), campaign.run)
    [expected] = scenes_of("sentinel2", tmp_path / "archive", "B04")
    assert (scene.digest, scene.notes) == (expected.digest, expected.notes)
    assert len(scene.notes) == 2
    assert scene.notes[1].inode


def test_index_again_says_that_a_mask_was_changed(tmp_path: Path) -> None:
    """The weak digest is over the first bytes: a change behind them is noted, and refused."""
    values = np.random.default_rng(0).integers(1, 3000, (512, 512)).astype(np.uint16)
    mask = np.random.default_rng(0).integers(0, 2, values.shape).astype(np.uint8) * 255
    path = write(tmp_path / "archive" / S2 / "B04.tif", values, mask=mask, beside=True, nodata=0)
    campaign = indexed(tmp_path)
    beside_it = Path(f"{path}.msk")
    data = bytearray(beside_it.read_bytes())
    assert len(data) > 1 << 15
    data[-64:] = bytes(64)
    beside_it.write_bytes(data)
    done = call_cli("index", campaign.file)
    assert done.returncode == 2
    assert "1 scenes have other bytes than at the last" in done.stderr


# --- numbers ------------------------------------------------------------------------------------------


def stated(**raster: Any) -> dict[str, Any]:
    return {"cover": {"href": "./cover.tif", "raster:bands": [raster]}}


@pytest.mark.parametrize(
    "asset",
    [
        {"raster:bands": [{"nodata": 7}]},
        {"bands": [{"name": "cover", "nodata": 7}]},
        {"bands": [{"name": "cover"}], "nodata": 7},
        {"nodata": 7},
        {"eo:bands": [{"name": "cover"}], "raster:bands": [{"nodata": 7}]},
    ],
    ids=str,
)
def test_a_number_that_the_item_calls_no_data_is_missing(tmp_path: Path, asset: dict[str, Any]) -> None:
    values = numbers("fields")
    values[:5] = 7
    write(tmp_path / "x" / "cover.tif", values)
    write_item(tmp_path / "x", "x", {"cover": {"href": "./cover.tif"} | asset}, datetime="2021-06-07T00:00:00Z")
    [one] = observed("fields", tmp_path, "cover")
    np.testing.assert_array_equal(one.seen_yx, values != 7)


def test_zeros_of_sentinel_2_are_no_data_beside_another_declared_number(tmp_path: Path) -> None:
    _, band, _ = KINDS["sentinel2"]
    values = numbers("sentinel2")
    values[:5], values[5:9] = 65535, 0
    for dtype in ("u2", "f4"):
        write(tmp_path / dtype / "x" / f"{band}.tif", values.astype(dtype), nodata=65535)
        write_item(
            tmp_path / dtype / "x", "x", {band: {"href": f"./{band}.tif"}}, datetime="2021-06-07T00:00:00Z",
            s2__processing_baseline="03.00",
        )  # fmt: skip
        [scene] = scenes_of("sentinel2", tmp_path / dtype, band)
        [one] = observed("sentinel2", tmp_path / dtype, band)
        # a fraction of 0 may be a value
        missing = (values == 65535) | ((values == 0) & (dtype == "u2"))
        np.testing.assert_array_equal(one.seen_yx, ~missing)
        assert ("0 is no data, too" in scene.processing) == (dtype == "u2")


@pytest.mark.parametrize("kind", KINDS)
def test_where_file_and_item_differ_both_numbers_are_missing_and_it_is_said(tmp_path: Path, kind: str) -> None:
    _, band, _ = KINDS[kind]
    values = numbers(kind)
    values[:5], values[5:9] = 9999, 8888
    write(tmp_path / "x" / f"{band}.tif", values, nodata=9999)
    asset = {"href": f"./{band}.tif", "raster:bands": [{"nodata": 8888}]}
    write_item(tmp_path / "x", "x", {band: asset}, datetime="2021-06-07T00:00:00Z", s2__processing_baseline="03.00")
    [scene] = scenes_of(kind, tmp_path, band)
    [one] = observed(kind, tmp_path, band)
    np.testing.assert_array_equal(one.seen_yx, values < 8888)
    assert f"{band}: no data are 9999 and 8888, as the file and its catalogue say, which differ" in scene.processing


def test_a_nan_and_a_number_are_both_missing(tmp_path: Path) -> None:
    values = numbers("fields")
    values[:5], values[5:9] = np.nan, -5
    write(tmp_path / "x" / "cover.tif", values, nodata=-5)
    assets = {"cover": {"href": "./cover.tif", "raster:bands": [{"nodata": "nan"}]}}
    write_item(tmp_path / "x", "x", assets, datetime="2021-06-07T00:00:00Z")
    [one] = observed("fields", tmp_path, "cover")
    np.testing.assert_array_equal(one.seen_yx, np.arange(SIDE)[:, None] * np.ones(SIDE) >= 9)


def test_fill_value_and_missing_value_of_netcdf_are_both_missing(tmp_path: Path) -> None:
    values = numbers("fields")
    values[:5], values[5:9] = -1000, -2000
    write_netcdf(tmp_path / "series.nc", values[None], _FillValue=-1000.0, missing_value=-2000.0)
    [one] = observed("fields", tmp_path, "cover")
    np.testing.assert_array_equal(one.seen_yx, values > -1000)


def test_what_the_campaign_says_counts_instead(tmp_path: Path) -> None:
    values = numbers("fields")
    values[:5], values[5:9] = -5, 7
    write(tmp_path / "x" / "cover.tif", values, nodata=-5)
    write_item(tmp_path / "x", "x", stated(nodata=7), datetime="2021-06-07T00:00:00Z")
    [one] = observed("fields", tmp_path, "cover", options={"nodata": -99})
    assert one.seen_yx.all()


def write_netcdf(path: Path, values_tyx: NDArray[Any], bounds: Any = None, **attributes: Any) -> None:
    """A series of days from 2021-06-07 on, as CF has it; `bounds` are days since then."""
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", len(values_tyx)), ("y", SIDE), ("x", SIDE), ("two", 2)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "days since 2021-06-07"
        time[:] = np.arange(len(values_tyx)) if bounds is None else np.mean(bounds, axis=1)
        if bounds is not None:
            time.bounds = "time_bnds"
            file.createVariable("time_bnds", "f8", ("time", "two"))[:] = bounds
        for name, start, step in (("x", LEFT + 5, 10), ("y", TOP - 5, -10)):
            axis = file.createVariable(name, "f8", (name,))
            axis.standard_name, axis.units = f"projection_{name}_coordinate", "m"
            axis[:] = start + step * np.arange(SIDE)
        file.createVariable("crs", "i4").spatial_ref = rasterio.crs.CRS.from_string(GRID.crs).to_wkt()
        fill = attributes.pop("_FillValue", None)
        cover = file.createVariable("cover", values_tyx.dtype, ("time", "y", "x"), fill_value=fill)
        cover.setncatts({"grid_mapping": "crs"} | attributes)
        cover.set_auto_maskandscale(False)
        cover[:] = values_tyx


# --- cut otherwise ------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    place=st.sampled_from(list(PLACES)),
    at=st.integers(4, SIDE - 4),
    seed=st.integers(0, 3),
)
def test_cutting_the_same_data_otherwise_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, kind: str, place: str, at: int, seed: int
) -> None:
    """One file or two tiles, a file for each band or one for both: the same values, and the same are missing."""
    root = tmp_path_factory.mktemp("cut")
    product, first, _ = KINDS[kind]
    second = {"sentinel2": "B08", "sentinel1": "VH", "fields": "soil"}[kind]
    values = {band: numbers(kind, seed + i) for i, band in enumerate((first, second))}
    mask = np.where(np.random.default_rng(seed).random((SIDE, SIDE)) < 0.3, 0, 255).astype(np.uint8)
    other = {"sentinel2": f"{S2}x", "sentinel1": f"{S1}x", "fields": "map_20210607x"}[kind]
    for band, pixels in values.items():
        write(root / "whole" / product / f"{band}.tif", pixels, mask=mask, **PLACES[place])
        write(root / "tiles" / product / f"{band}.tif", pixels[:at], mask=mask[:at], **PLACES[place])
        below = {"top": TOP - 10 * at} | PLACES[place]
        write(root / "tiles" / other / f"{band}.tif", pixels[at:], mask=mask[at:], **below)
    stack = np.stack(list(values.values()))
    write(root / "one" / f"{product}.tif", stack, mask=mask, descriptions=[first, second], **PLACES[place])
    [whole] = observed(kind, root / "whole", first, second)
    tiles = observed(kind, root / "tiles", first, second)
    [one] = observed(kind, root / "one" / f"{product}.tif", first, second)
    np.testing.assert_array_equal(whole.seen_yx, mask > 0)
    np.testing.assert_array_equal(one.seen_yx, whole.seen_yx)
    np.testing.assert_array_equal(np.logical_or.reduce([tile.seen_yx for tile in tiles]), whole.seen_yx)
    for found in (one, *tiles):
        np.testing.assert_array_equal(found.values_cyx[:, found.seen_yx], whole.values_cyx[:, found.seen_yx])
