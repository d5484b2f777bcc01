"""Pictures of a cube: what the colours mean, what is written around the map, and how much memory drawing takes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from pyproj import Geod
from tests.conftest import Campaign
from tests.cube.synthetic import create_zone, write_zone

from embedcube.cube import products
from embedcube.cube.basis import Basis, fit_basis
from embedcube.cube.compare import compare
from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, NOT_PROCESSED, VALID
from embedcube.cube.picture import EMPTY, LEAST_WIDTH, pattern, scale_bar
from embedcube.cube.preview import preview
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

INK = (25, 25, 25)

LENGTHS: NDArray[np.float32] = np.arange(1, 9, dtype=np.float32)
"""lengths of the principal axes; they differ, so that the order of the components is known"""


def vectors(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def colours(path: Path) -> NDArray[np.uint8]:
    """Colours (y, x, 3) of a GeoTIFF."""
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)


def longest_run(picture: NDArray[np.uint8]) -> int:
    """Length in pixels of the longest horizontal line in the colour of ink, which is the scale bar."""
    longest = 0
    for row in (picture == INK).all(axis=-1):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        longest = max(longest, int((edges[1::2] - edges[::2]).max(initial=0)))
    return longest


def test_equal_vectors_have_equal_colours_in_all_windows_and_zones(tmp_path: Path) -> None:
    """The same vectors lie at three places, in two windows and two zones, beside vectors that are much larger."""
    same = vectors(16, 16, 8)
    first, second = vectors(2, 32, 48, 8, seed=1), 5 * vectors(2, 48, 16, 8, seed=2)
    first[0, 3:19, 7:23] = same
    first[1, 16:32, 32:48] = same
    second[1, 20:36, :16] = same
    write_zone(tmp_path / "cube.zarr", "layer/utm32", first)
    write_zone(tmp_path / "cube.zarr", "layer/utm33", second, crs="EPSG:32633")
    preview(tmp_path / "cube.zarr", tmp_path / "out")
    places = {
        "layer_utm32_20230601T0000": np.s_[3:19, 7:23],
        "layer_utm32_20230611T0000": np.s_[16:32, 32:48],
        "layer_utm33_20230611T0000": np.s_[20:36, :16],
    }
    drawn = [colours(tmp_path / "out" / f"{name}.tif")[place] for name, place in places.items()]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] == drawn[2]).all()
    assert len(np.unique(drawn[0].reshape(-1, 3), axis=0)) > 200


def test_colours_are_the_principal_components(tmp_path: Path) -> None:
    """Equal to a singular value decomposition: the cube has fewer cells than a sample, so both use all vectors."""
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 32, 32, 8) * LENGTHS)
    cube = Cube(tmp_path / "cube.zarr")
    decoded = cube.vectors("layer/grid", 0, slice(None), slice(None)).reshape(-1, 8).astype(np.float64)
    basis = fit_basis(cube, "layer")
    assert basis is not None
    _, singular, directions = np.linalg.svd(decoded - decoded.mean(axis=0), full_matrices=False)
    assert np.abs((basis.components * directions[:3]).sum(axis=1)) == pytest.approx(1, abs=1e-5)
    assert basis.variance == pytest.approx((singular**2 / (singular**2).sum())[:3], rel=1e-5)
    along = (decoded - basis.mean) @ basis.components.T
    expected = 1 + 254 * np.clip((along - basis.low) / (basis.high - basis.low), 0, 1)
    preview(tmp_path / "cube.zarr", tmp_path)
    drawn = colours(tmp_path / "layer_grid_20230601T0000.tif").reshape(-1, 3)
    assert np.abs(drawn - expected).max() <= 0.51


@pytest.mark.parametrize("features", [3, 130, 1500])
def test_colours_of_int8_are_those_of_float64_with_numkong_and_without(
    features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors far from zero too, of which the basis shows what little is not common to all."""
    rng = np.random.default_rng(features)
    stored = rng.integers(-127, 128, (3000, features)).astype(np.int8)
    stored[:, 0] = rng.integers(120, 128, 3000)
    scale = rng.uniform(0.9, 1.1, 3000).astype(np.float32)
    rows = stored.astype(np.float64) * scale[:, None]
    mean, components = rows.mean(axis=0), np.linalg.qr(rng.normal(size=(features, 3)))[0].T
    low, high = np.percentile((rows - mean) @ components.T, (2, 98), axis=0)
    drawn = []
    for library in (products._numkong, None):
        monkeypatch.setattr(products, "_numkong", library)
        basis = Basis(mean=mean, components=components, low=low, high=high, variance=np.ones(3))
        drawn.append(basis.colours(stored, scale, np.ones(3000, bool)))
    assert drawn[0].tobytes() == drawn[1].tobytes()
    expected = 1 + 254 * np.clip(((rows - mean) @ components.T - low) / (high - low), 0, 1)
    assert np.abs(drawn[0] - expected).max() <= 0.501


@pytest.mark.parametrize("encoding", ["float16", "float32"])
def test_vectors_that_are_stored_as_floats(tmp_path: Path, encoding: str) -> None:
    status = np.full((1, 16, 16), VALID, np.uint8)
    status[0, :4] = MASKED
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 16, 16, 2), status, encoding=encoding)
    (png, tif) = preview(tmp_path / "cube.zarr", tmp_path)
    assert (png.suffix, tif.suffix) == (".png", ".tif")
    drawn = colours(tif)
    assert (drawn[:4] == 0).all()
    assert (drawn[4:, :, :2] > 0).all()


def test_the_geotiff_lies_where_the_cube_lies(tmp_path: Path) -> None:
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(2, 32, 48, 4))
    preview(tmp_path / "cube.zarr", tmp_path)
    with rasterio.open(tmp_path / "layer_grid_20230601T0000.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.bounds == (400_000, 5_600_000 - 32 * 160, 400_000 + 48 * 160, 5_600_000)
        assert (file.nodata, file.dtypes, file.shape) == (0, ("uint8",) * 3, (32, 48))
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_overviews_of_the_geotiff_show_colours_of_vectors_only(tmp_path: Path) -> None:
    """A mixture of two colours would be the colour of a vector that no cell has."""
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 640, 640, 4), shard=128)
    preview(tmp_path / "cube.zarr", tmp_path)
    tif = tmp_path / "layer_grid_20230601T0000.tif"
    whole = {tuple(colour) for colour in colours(tif).reshape(-1, 3).tolist()}
    with rasterio.open(tif, overview_level=0) as file:
        assert file.shape == (320, 320)
        assert {tuple(colour) for colour in file.read().reshape(3, -1).T.tolist()} <= whole


def test_cells_without_a_vector_are_told_apart(tmp_path: Path) -> None:
    """Each status has a pattern of its own in the map and in the legend."""
    kinds = (NO_DATA, MASKED, FAILED, NOT_PROCESSED)
    status = np.full((1, 16, 48), VALID, np.uint8)
    for i, kind in enumerate(kinds):
        status[0, :8, 8 * i : 8 * i + 8] = kind
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 16, 48, 4), status)
    png, _ = preview(tmp_path / "cube.zarr", tmp_path)
    picture, factor = pixels(png), 1200 // 48
    top, left = frame_of(picture)
    whole = {kind: pattern(kind, 16 * factor, 48 * factor) for kind in kinds}
    for i, kind in enumerate(kinds):
        cells = np.s_[: 8 * factor, 8 * i * factor : 8 * (i + 1) * factor]
        drawn = picture[top : top + 16 * factor, left : left + 48 * factor][cells]
        assert (drawn == whole[kind][cells]).all()
        assert (drawn == drawn[..., :1]).all(), "greys only"
        swatch = pattern(kind, 20, 34)
        assert contains(picture[top + 16 * factor :], swatch), f"the legend shows {EMPTY[kind]}"
    looks = {kind: pattern(kind, 40, 40).tobytes() for kind in kinds}
    assert len(set(looks.values())) == len(kinds)
    means = {kind: pattern(kind, 40, 40).mean() for kind in kinds}
    assert means[NO_DATA] - means[FAILED] > 80


def frame_of(picture: NDArray[np.uint8]) -> tuple[int, int]:
    """First row and column inside the frame around the map."""
    framed = (picture == 150).all(axis=-1)
    rows = np.flatnonzero(framed.sum(axis=1) > 1000)
    columns = np.flatnonzero(framed[rows[0] : rows[-1]].all(axis=0))
    return int(rows[0]) + 1, int(columns[0]) + 1


def contains(picture: NDArray[np.uint8], swatch: NDArray[np.uint8]) -> bool:
    height, width = swatch.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], (height, width))
    return bool((windows == swatch[..., 0]).all(axis=(2, 3)).any())


def test_the_scale_bar_has_the_length_it_says(tmp_path: Path) -> None:
    """A cell of 160 m has 25 pixels, so 1 km has 156.25 pixels. The scale factor of UTM changes that by 0.1 pixel."""
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 16, 48, 4))
    png, _ = preview(tmp_path / "cube.zarr", tmp_path)
    assert longest_run(pixels(png)) == pytest.approx(1000 / 160 * 25, abs=1)


def test_the_scale_bar_of_degrees_is_right_at_its_latitude(tmp_path: Path) -> None:
    write_zone(
        tmp_path / "cube.zarr", "layer/latlon", vectors(1, 16, 32, 4), crs="EPSG:4326", side=0.5, corner=(0.0, 64.0)
    )
    png, _ = preview(tmp_path / "cube.zarr", tmp_path)
    _, _, metres = Geod(ellps="WGS84").inv(7.75, 60, 8.25, 60)
    factor = 1200 // 32
    assert longest_run(pixels(png)) == pytest.approx(200_000 / metres * factor, abs=1)


def test_lengths_are_round() -> None:
    bars = {length: scale_bar(length, "m", 300) for length in (0.1, 10, 37, 160 / 25)}
    assert {length: bar.label for length, bar in bars.items()} == {0.1: "20 m", 10: "2 km", 37: "10 km", 6.4: "1 km"}
    assert bars[10].pixels == 200
    assert scale_bar(0.013, "degrees", 200).label == "2 degrees"


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (400, 3), (1300, 700)])
def test_pictures_are_wide_enough_and_not_huge(tmp_path: Path, shape: tuple[int, int]) -> None:
    rows, columns = (-(-size // 100) * 100 for size in shape)
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(2, rows, columns, 3), shard=100)
    for file in preview(tmp_path / "cube.zarr", tmp_path):
        if file.suffix == ".png":
            height, width, _ = pixels(file).shape
            assert LEAST_WIDTH <= width <= 1300
            assert height <= 1600


def test_the_sheet_shows_all_windows(tmp_path: Path) -> None:
    """Each of the seven windows has one colour of its own; all seven colours are on the sheet."""
    shades = np.linspace(-1, 1, 7, dtype=np.float32)
    values = np.stack([np.ones(7), shades, shades**2, shades**3], axis=-1).astype(np.float32)
    write_zone(tmp_path / "cube.zarr", "layer/grid", np.broadcast_to(values[:, None, None], (7, 16, 16, 4)).copy())
    files = preview(tmp_path / "cube.zarr", tmp_path)
    assert [file.name for file in files if "windows" in file.name] == ["layer_grid_windows.png"]
    sheet = pixels(tmp_path / "layer_grid_windows.png").reshape(-1, 3)
    for tif in sorted(tmp_path.glob("*.tif")):
        (colour,) = np.unique(colours(tif).reshape(-1, 3), axis=0)
        assert (sheet == colour).all(axis=1).sum() >= 16 * 16


def test_windows_that_share_chunks_are_drawn_alike(tmp_path: Path) -> None:
    series = vectors(5, 16, 32, 8) * LENGTHS
    for name, windows in (("apart", 1), ("together", 5)):
        write_zone(tmp_path / f"{name}.zarr", "layer/grid", series, chunk_windows=windows)
        preview(tmp_path / f"{name}.zarr", tmp_path / name)
    # the samples are drawn in another order, but they hold all cells
    for tif in sorted((tmp_path / "apart").glob("*.tif")):
        difference = colours(tif).astype(int) - colours(tmp_path / "together" / tif.name)
        assert np.abs(difference).max() <= 1


def test_a_cube_without_vectors_is_refused(tmp_path: Path) -> None:
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 16, 16, 4), np.full((1, 16, 16), MASKED, np.uint8))
    with pytest.raises(RequestError, match=r"cube.zarr: no layer has vectors to draw"):
        preview(tmp_path / "cube.zarr", tmp_path / "out")


def test_memory_stays_below_a_part_of_the_cube(tmp_path: Path) -> None:
    """Vectors of 67 MB as int8 (268 MB decoded) are drawn in less than 64 MB of memory."""
    arrays = create_zone(tmp_path / "cube.zarr", "layer/grid", (2, 512, 512, 128), shard=128)
    rng = np.random.default_rng(0)
    for y in range(0, 512, 128):
        arrays["embedding"][:, y : y + 128] = rng.integers(-127, 128, (2, 128, 512, 128), np.int8)
    arrays["scale"][...] = 0.01
    arrays["status"][...] = VALID
    preview(tmp_path / "cube.zarr", tmp_path / "first")  # imports are not counted
    tracemalloc.start()
    preview(tmp_path / "cube.zarr", tmp_path / "second")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6


def test_the_demo_is_worth_looking_at(finished_demo: Campaign, tmp_path: Path) -> None:
    preview(finished_demo.run.newest_cube, tmp_path)
    picture = pixels(tmp_path / "s2_mosaiks_grid_20230701T0000.png")
    assert picture.shape[1] >= LEAST_WIDTH
    top, left = frame_of(picture)
    inside = picture[top : top + 720, left : left + 1200]
    assert len(np.unique(inside[5::10, 5::10].reshape(-1, 3), axis=0)) > 1000


def test_layers_of_several_cubes_stand_side_by_side(tmp_path: Path) -> None:
    for name, layer in (("one", "a"), ("two", "b")):
        write_zone(tmp_path / f"{name}.zarr", f"{layer}/utm32", vectors(2, 32, 32, 8))
    cubes = [tmp_path / "one.zarr", tmp_path / "two.zarr"]
    sheets = compare(cubes, tmp_path / "out")
    assert [sheet.name for sheet in sheets] == ["compared_20230601T0000.png", "compared_20230611T0000.png"]
    single = pixels(tmp_path / "out" / "one" / "a_utm32_20230601T0000.png")
    both = pixels(sheets[0])
    width = single.shape[1] * min(1.0, 900 / max(single.shape))
    assert abs(both.shape[1] - 2 * width) < 20
    with pytest.raises(RequestError, match="nothing to compare"):
        compare(cubes[:1], tmp_path / "alone")
    # two zones of one layer are one layer
    write_zone(tmp_path / "one.zarr", "a/utm33", vectors(2, 32, 32, 8))
    with pytest.raises(RequestError, match="nothing to compare"):
        compare(cubes[:1], tmp_path / "zones")
