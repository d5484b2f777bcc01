"""Which cells lie in a geometry, against rasterio; UTM borders, the antimeridian, boxes that are none."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.features import geometry_mask
from tests.cube.synthetic import create_zone, write_zone

import embedcube
from embedcube.cube.within import area_in, geometry_of, rasterised
from embedcube.errors import RequestError


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("within") / "cube.zarr"
    create_zone(path, "s2/grid", (1, 64, 96, 2))
    create_zone(path, "world/latlon", (1, 32, 64, 2), crs="EPSG:4326", side=5.625, corner=(-180.0, 90.0))
    create_zone(path, "pacific/utm60", (1, 64, 64, 2), crs="EPSG:32660", side=2000.0, corner=(750_000.0, 64_000.0))
    create_zone(path, "pacific/utm01", (1, 64, 64, 2), crs="EPSG:32601", side=2000.0, corner=(120_000.0, 64_000.0))
    return embedcube.open_cube(path)


def star(rng: np.random.Generator, x: float, y: float, radius: float) -> shapely.Polygon:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 20)))
    lengths = radius * rng.uniform(0.3, 1, len(angles))
    return shapely.Polygon(np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], axis=1))


@pytest.mark.parametrize("seed", range(60))
def test_cells_are_those_of_rasterio(cube: Any, seed: int) -> None:
    """Stars with and without a hole, and two at once, inside of the zone and across its edges."""
    rng = np.random.default_rng(seed)
    about = cube.group("s2/grid").attrs
    xmin, ymin, xmax, ymax = about["spatial:bbox"]
    stars = [star(rng, rng.uniform(xmin, xmax), rng.uniform(ymin, ymax), rng.uniform(200, 6000)) for _ in range(2)]
    shape = shapely.make_valid([stars[0], stars[0].difference(stars[1]), stars[0].union(stars[1])][seed % 3])
    expected = geometry_mask([shape], about["spatial:shape"], Affine(*about["spatial:transform"]), invert=True)
    area = rasterised(shape, cube, "s2/grid")
    if area is None:
        assert not expected.any()
        return
    assert area.cells == expected.sum()
    np.testing.assert_array_equal(area.cut(slice(0, 64), slice(0, 96)), expected)
    part = slice(10, 30), slice(25, 70)
    np.testing.assert_array_equal(area.cut(*part), expected[part])


def test_neighbours_share_no_cell_and_leave_none_out(cube: Any) -> None:
    """Edges lie exactly on centres: each cell is in one of the parcels."""
    xmin, _, _, ymax = cube.group("s2/grid").attrs["spatial:bbox"]
    edges = [80.0 + 160 * i for i in (0, 3, 9, 10)]
    count = np.zeros((64, 96), int)
    for left, right in pairwise(edges):
        for top, bottom in pairwise(edges):
            area = rasterised(shapely.box(xmin + left, ymax - bottom, xmin + right, ymax - top), cube, "s2/grid")
            assert area is not None
            count += area.cut(slice(0, 64), slice(0, 96))
    assert count.max() == 1
    assert count.sum() == 10 * 10


def test_a_box_in_degrees_has_the_cells_whose_centre_is_in_it(cube: Any) -> None:
    box = (7.58, 50.46, 7.66, 50.52)
    about = cube.group("s2/grid").attrs
    a, _, c, _, e, f = about["spatial:transform"]
    x, y = np.meshgrid(c + (np.arange(96) + 0.5) * a, f + (np.arange(64) + 0.5) * e)
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(x, y)
    expected = (lon > box[0]) & (lon < box[2]) & (lat > box[1]) & (lat < box[3])
    area = area_in(cube, "s2/grid", box)
    assert area is not None
    assert 200 < expected.sum() < 5000
    np.testing.assert_array_equal(area.cut(slice(0, 64), slice(0, 96)), expected)


def test_a_box_over_the_border_of_two_zones_is_divided(two_zones: Path) -> None:
    cube = embedcube.open_cube(two_zones)
    box = (11.95, 49.97, 12.05, 50.03)
    areas = [area_in(cube, zone, box) for zone in cube.zones]
    cells = [0 if area is None else area.cells for area in areas]
    square_km = 0.1 * 71.7 * 0.06 * 111.2
    assert sum(cells) == pytest.approx(square_km / 0.0256, rel=0.01)
    for zone, area in zip(cube.zones, areas, strict=True):
        assert area is not None
        a, _, c, _, e, f = cube.group(zone).attrs["spatial:transform"]
        rows, columns = np.nonzero(area.cut(slice(0, 80), slice(0, 80)))
        crs = cube.group(zone).attrs["proj:code"]
        lon, _ = Transformer.from_crs(crs, 4326, always_xy=True).transform(
            c + (columns + 0.5) * a, f + (rows + 0.5) * e
        )
        assert ((lon < 12) == (zone == "s2/utm32")).all()


@pytest.mark.parametrize("box", [(179.5, -0.5, -179.5, 0.5), (179.5, -0.5, 180.5, 0.5), (-180.5, -0.5, -179.5, 0.5)])
def test_a_box_over_the_antimeridian(cube: Any, box: tuple[float, float, float, float]) -> None:
    areas = [area_in(cube, zone, box) for zone in ("pacific/utm60", "pacific/utm01")]
    cells = [0 if area is None else area.cells for area in areas]
    expected = 0.5 * 111.3 * 1 * 110.6 / 4
    assert cells == [pytest.approx(expected, rel=0.05), pytest.approx(expected, rel=0.05)]


def test_a_box_over_the_antimeridian_of_a_grid_of_degrees(cube: Any) -> None:
    area = area_in(cube, "world/latlon", (170.0, -10.0, -170.0, 10.0))
    assert area is not None
    assert sorted(set(np.nonzero(area.cut(slice(0, 32), slice(0, 64)))[1].tolist())) == [0, 1, 62, 63]


@pytest.mark.parametrize(
    ("within", "words"),
    [
        ((7, 51, 8, 50), r"\(7, 51, 8, 50\) is no box \(west, south, east, north\) in degrees"),
        ((7, 50, 8), "a region is"),
        ((7, 50, float("nan"), 51), "is no box"),
        ("7,50,8,51", "a region is"),
        (shapely.Point(7, 50), "this is a Point"),
        (shapely.Polygon(), "this is a Polygon"),
    ],
)
def test_what_is_no_region_is_refused(within: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        geometry_of(within)


@pytest.mark.parametrize("cells", [1, 300, 10**9])
@pytest.mark.parametrize("within", [None, (7.58, 50.46, 7.66, 50.52)])
def test_blocks_cover_each_cell_once(tmp_path: Path, cells: int, within: Any) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "cube.zarr"
    write_zone(path, "s2/grid", rng.normal(size=(4, 64, 96, 4)).astype(np.float32), chunk_windows=2)
    layer = embedcube.open_cube(path).layer
    seen, count = np.full((4, 64, 96, 4), np.nan, np.float32), np.zeros((4, 64, 96), int)
    for block in layer.blocks(within, slice("2023-06-05", "2023-06-25"), cells):
        seen[block.t, block.y, block.x] = block.vectors
        count[block.t, block.y, block.x] += 1 if block.inside is None else block.inside
    area = None if within is None else area_in(layer.cube, "s2/grid", within)
    inside = np.ones((64, 96), bool) if area is None else area.cut(slice(0, 64), slice(0, 96))
    np.testing.assert_array_equal(count[:3], np.broadcast_to(inside, (3, 64, 96)))
    assert (count[3] == 0).all()
    decoded = np.stack([layer.cube.vectors("s2/grid", t, slice(None), slice(None)) for t in range(3)])
    np.testing.assert_array_equal(seen[:3][:, inside], decoded[:, inside])
