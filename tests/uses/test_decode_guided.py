"""A coarse prediction on fine pixels: nearer to the truth than bilinear, and its coarse means stay."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from embedcube.errors import RequestError
from embedcube.uses.decode.guided import check_guides, guide_all, guided
from embedcube.uses.decode.pixels import interpolated

FACTOR, CELLS = 8, 40


def texture(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A fine map, as biomass, and two bands that tell of it: one of its texture, one of noise."""
    rng = np.random.default_rng(seed)
    side = FACTOR * CELLS
    y, x = np.mgrid[:side, :side] / side
    level = 120 + 60 * np.sin(5 * x) * np.cos(4 * y)
    forest = np.cumsum(np.cumsum(rng.normal(size=(side, side)), axis=0), axis=1)
    forest = np.sign(np.sin(forest / 30 + 25 * x * y))
    fine = level * (1 + 0.4 * forest) + rng.normal(size=(side, side)) * 5
    bands = np.stack([0.1 + 0.05 * forest + 0.01 * rng.normal(size=(side, side)), rng.normal(size=(side, side))])
    return fine, bands


def mean_of_cells(fine: np.ndarray) -> np.ndarray:
    pixels = fine.reshape(CELLS, FACTOR, CELLS, FACTOR).transpose(0, 2, 1, 3)
    count = np.isfinite(pixels).sum(axis=(2, 3))
    return np.asarray(np.nansum(pixels, axis=(2, 3)) / np.where(count, count, np.nan))


def rmse(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean((one - other) ** 2)))


def test_guided_is_nearer_to_the_truth_and_keeps_the_coarse_means() -> None:
    fine, bands = texture()
    coarse = mean_of_cells(fine)
    found = guided(coarse, bands)
    assert np.abs(mean_of_cells(found) - coarse).max() < 1e-6
    bilinear = interpolated(coarse[..., None], FACTOR)[..., 0]
    assert rmse(found, fine) < 0.6 * rmse(bilinear, fine)
    # bands that tell nothing do no harm
    assert rmse(guided(coarse, bands[1:]), fine) < 1.05 * rmse(bilinear, fine)


def test_what_is_missing_stays_missing_and_touches_no_other_cell() -> None:
    fine, bands = texture()
    coarse = mean_of_cells(fine)
    coarse[5, 7] = np.nan
    bands[0, 80:83, 80:90] = np.nan
    found = guided(coarse, bands)
    assert np.isnan(found[5 * FACTOR : 6 * FACTOR, 7 * FACTOR : 8 * FACTOR]).all()
    assert np.isnan(found[80:83, 80:90]).all()
    assert np.isfinite(found).sum() == found.size - FACTOR**2 - 30
    there = np.isfinite(coarse)
    assert np.abs(mean_of_cells(found)[there] - coarse[there]).max() < 1e-6


def write(path: Path, bands: np.ndarray, size: float, crs: str = "EPSG:32632", left: float = 400_000) -> Path:
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="float32", crs=crs, nodata=np.nan,
        transform=Affine(size, 0, left, 0, -size, 5_600_000),
    ) as file:  # fmt: skip
        file.write(bands.astype(np.float32))
    return path


def test_maps_are_upsampled_in_their_place(tmp_path: Path) -> None:
    fine, bands = texture()
    coarse = write(tmp_path / "map.tif", mean_of_cells(fine)[None], 80)
    # bands in two files, of a larger area
    margin = np.pad(bands, ((0, 0), (16, 16), (16, 16)))
    files = []
    for i, band in enumerate(margin):
        files.append(tmp_path / f"b{i}.tif")
        with rasterio.open(
            files[-1], "w", driver="GTiff", count=1, height=band.shape[0], width=band.shape[1], dtype="float64",
            crs="EPSG:32632", transform=Affine(10, 0, 400_000 - 160, 0, -10, 5_600_000 + 160),
        ) as file:  # fmt: skip
            file.write(band, 1)
    assert guide_all([coarse], files) == [coarse]
    with rasterio.open(coarse) as file:
        assert file.transform == Affine(10, 0, 400_000, 0, -10, 5_600_000)
        found = file.read(1)
    with rasterio.open(tmp_path / "map_coarse.tif") as file:
        true = file.read(1)
    assert np.abs(mean_of_cells(found) - true).max() < 1e-3
    np.testing.assert_allclose(found, guided(true.astype(float), bands), atol=1e-3)


def test_guides_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    fine, bands = texture()
    for name, size, crs, left, words in (
        ("a", 30.0, "EPSG:32632", 400_000.0, "do not divide the cells"),
        ("b", 10.0, "EPSG:32633", 400_000.0, "warp it onto them first"),
        ("c", 10.0, "EPSG:32632", 900_000.0, "lies beside the map"),
    ):
        coarse = write(tmp_path / f"{name}.tif", mean_of_cells(fine)[None], 80)
        guide = write(tmp_path / f"{name}_guide.tif", bands, size, crs, left)
        with pytest.raises(RequestError, match=words):
            guide_all([coarse], [guide])
        # refused before anything is renamed
        assert sorted(path.name for path in tmp_path.glob(f"{name}*")) == [f"{name}.tif", f"{name}_guide.tif"]


def placed(path: Path, transform: Affine, bands: np.ndarray) -> Path:
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="float32", crs="EPSG:32632",
        transform=transform,
    ) as file:  # fmt: skip
        file.write(bands.astype(np.float32))
    return path


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (Affine(10, 0, 400_000, 0, -20, 5_600_000), "pixels of 10 x 20"),
        (Affine(10, 1, 400_000, 1, -10, 5_600_000), "do not run along the axes"),
        (Affine(10, 0, 400_000, 0, -10, 5_700_000), "lies beside the map"),
    ],
)
def test_guides_that_are_turned_stretched_or_beside_are_refused(transform: Affine, words: str, tmp_path: Path) -> None:
    fine, bands = texture()
    coarse = write(tmp_path / "map.tif", mean_of_cells(fine)[None], 80)
    with pytest.raises(RequestError, match=words):
        guide_all([coarse], [placed(tmp_path / "guide.tif", transform, bands)])
    assert not (tmp_path / "map_coarse.tif").exists()


def test_a_guide_that_names_other_files_is_not_opened(tmp_path: Path) -> None:
    fine, bands = texture()
    coarse = write(tmp_path / "map.tif", mean_of_cells(fine)[None], 80)
    guide = write(tmp_path / "guide.tif", bands, 10)
    text = (
        f'<VRTDataset rasterXSize="320" rasterYSize="320"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>400000, 10, 0, 5600000, 0, -10</GeoTransform>"
        f'<VRTRasterBand dataType="Float32" band="1"><SimpleSource><SourceFilename>{guide}</SourceFilename>'
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    for name in ("guide.vrt", "named.tif"):
        (tmp_path / name).write_text(text)
        with rasterio.open(tmp_path / name) as opened:
            assert opened.driver == "VRT"
        with pytest.raises(RequestError, match="cannot be read as GeoTIFF or JPEG 2000"):
            guide_all([coarse], [tmp_path / name])
        # and before the decoder is looked at
        with pytest.raises(RequestError, match="cannot be read as GeoTIFF or JPEG 2000"):
            check_guides([tmp_path / name], tmp_path / "none.safetensors")
