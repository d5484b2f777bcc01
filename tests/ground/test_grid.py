"""Lattices of pixels, chips, cells and shards: each begins at the origin of the grid, whatever area is requested."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from odc.geo import wh_, xy_
from odc.geo.geobox import GeoBox
from odc.geo.gridspec import GridSpec
from pyproj import CRS

from embedcube.grid import Grid, PixelArea, ShardLayout, ShardRange, same_crs, shards_touching

steady = settings(deadline=None)

EDGE = Fraction(1, 10)
"""share of a pixel: the tests place edges exactly on a shard's edge, or at least this far from it"""

pixels = st.sampled_from([10.0, 20.0, 0.5, 30.0, 0.1, 0.25, 1.0 / 3.0])
origins = st.sampled_from([(0.0, 0.0), (-7.0, 13.0), (300_000.0, 5_700_000.0), (0.05, -0.3), (-180.0, 90.0)])


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Strategy: grids with several pixel sizes and origins."""
    x, y = draw(origins)
    return Grid(crs="EPSG:32632", pixel=draw(pixels), origin_x=x, origin_y=y)


@st.composite
def layouts(draw: st.DrawFn) -> ShardLayout:
    """Strategy: allowed layouts, in which cells divide the kept centre of a chip."""
    cell, cells, halo = draw(st.integers(1, 16)), draw(st.integers(1, 14)), draw(st.integers(0, 24))
    return ShardLayout(chip_px=cell * cells + 2 * halo, halo_px=halo, cell_px=cell, chips=draw(st.integers(1, 6)))


indices = st.integers(-60, 60)


@steady
@given(layout=layouts())
def test_a_shard_is_whole_chips_and_whole_cells(layout: ShardLayout) -> None:
    assert layout.keep_px == layout.chip_px - 2 * layout.halo_px > 0
    assert layout.chip_cells * layout.cell_px == layout.keep_px
    assert layout.shard_px == layout.chips * layout.keep_px == layout.shard_cells * layout.cell_px
    assert layout.sample_px == layout.shard_area(0, 0).grown(layout.halo_px).rows
    # the last chip of a sample ends with the sample
    assert (layout.chips - 1) * layout.keep_px + layout.chip_px == layout.sample_px


@steady
@given(layout=layouts(), row=indices, col=indices)
def test_chips_tile_shards_and_shards_tile_the_plane(layout: ShardLayout, row: int, col: int) -> None:
    area = layout.shard_area(row, col)
    assert layout.shard_area(row + 1, col).row == area.row + area.rows
    assert layout.shard_area(row, col + 1).col == area.col + area.cols
    covered = np.zeros((area.rows, area.cols), dtype=int)
    sample = area.grown(layout.halo_px)
    for i in range(layout.chips):
        for j in range(layout.chips):
            # as `cut_chips` cuts a chip out of the sample, then without its halo
            top, left = sample.row + i * layout.keep_px, sample.col + j * layout.keep_px
            assert top + layout.chip_px <= sample.row + sample.rows
            kept = PixelArea(row=top, col=left, rows=layout.chip_px, cols=layout.chip_px).grown(-layout.halo_px)
            assert kept.row % layout.keep_px == kept.col % layout.keep_px == 0, "off the lattice of chips"
            covered[kept.row - area.row :, kept.col - area.col :][: kept.rows, : kept.cols] += 1
    assert (covered == 1).all()


@steady
@given(
    layout=layouts(),
    others=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    row=st.integers(-5000, 5000),
    col=st.integers(-5000, 5000),
)
def test_a_place_falls_in_the_same_chip_whatever_the_shard_size(
    layout: ShardLayout, others: list[int], row: int, col: int
) -> None:
    def chip_of(chips: int) -> tuple[int, int]:
        """First pixel of the chip, found through the shard that holds the pixel."""
        cut = ShardLayout(chip_px=layout.chip_px, halo_px=layout.halo_px, cell_px=layout.cell_px, chips=chips)
        area = cut.shard_area(row // cut.shard_px, col // cut.shard_px)
        i, j = (row - area.row) // cut.keep_px, (col - area.col) // cut.keep_px
        assert 0 <= i < chips
        assert 0 <= j < chips
        return area.row + i * cut.keep_px, area.col + j * cut.keep_px

    assert {chip_of(chips) for chips in [layout.chips, *others]} == {
        (row // layout.keep_px * layout.keep_px, col // layout.keep_px * layout.keep_px)
    }


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (
            {"chip_px": 32, "halo_px": 16, "cell_px": 16, "chips": 1},
            "a chip of 32 px is not larger than two halos of 16 px",
        ),
        ({"chip_px": 32, "halo_px": 20, "cell_px": 1, "chips": 1}, "not larger than two halos of 20 px"),
        ({"chip_px": 100, "halo_px": 1, "cell_px": 16, "chips": 1}, r"98 px .* does not divide into cells of 16 px"),
    ],
)
def test_layouts_that_leave_a_rest_are_refused(layout: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShardLayout(**layout, apart=False)


@st.composite
def rectangles(draw: st.DrawFn, unit: int) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """Strategy: rectangles (xmin, ymin, xmax, ymax) in pixels from the origin, y upward, often on edges of shards."""

    def position() -> Fraction:
        edge = draw(indices) * unit
        inside = st.fractions(EDGE, unit - EDGE, max_denominator=100).map(lambda offset: edge + offset)
        return draw(st.one_of(st.just(Fraction(edge)), inside))

    xmin, xmax = sorted((position(), position()))
    ymin, ymax = sorted((position(), position()))
    assume(xmin < xmax)
    assume(ymin < ymax)
    return xmin, ymin, xmax, ymax


@steady
@given(data=st.data(), grid=grids(), layout=layouts(), halo=st.booleans())
def test_shards_touching_agrees_with_a_naive_loop(
    data: st.DataObject, grid: Grid, layout: ShardLayout, halo: bool
) -> None:
    side, reach = layout.shard_px, layout.halo_px if halo else 0
    xmin, ymin, xmax, ymax = data.draw(rectangles(side))
    # with a halo, an edge may come too near to the edge of another shard
    for low, high in ((xmin, xmax), (ymin, ymax)):
        for place in (low - reach, high + reach, low + reach, high - reach):
            rest = place % side
            assume(rest == 0 or EDGE <= rest <= side - EDGE)
    pixel = Fraction(grid.pixel)
    bounds = [
        float(Fraction(grid.origin_x) + xmin * pixel),
        float(Fraction(grid.origin_y) + ymin * pixel),
        float(Fraction(grid.origin_x) + xmax * pixel),
        float(Fraction(grid.origin_y) + ymax * pixel),
    ]

    def naive(low: Fraction, high: Fraction) -> tuple[int, int]:
        """Shards [first, last) along an axis that share more than an edge with (low, high)."""
        near = range(math.floor(low / side) - 30, math.ceil(high / side) + 31)
        hit = [k for k in near if k * side - reach < high and (k + 1) * side + reach > low]
        return hit[0], hit[-1] + 1

    rows, cols = naive(-ymax, -ymin), naive(xmin, xmax)
    found = shards_touching(grid, layout, np.array([bounds, bounds]), halo_px=reach)
    assert found.tolist() == [[rows[0], cols[0], rows[1], cols[1]]] * 2


def test_shards_that_only_share_an_edge_are_not_touched() -> None:
    grid = Grid(crs="EPSG:32632", pixel=10.0, origin_x=100.0, origin_y=-50.0)
    layout = ShardLayout(chip_px=18, halo_px=1, cell_px=4, chips=2)  # shards of 32 px, 320 m
    exact = np.array([[100.0 - 320, -50.0, 100.0, -50.0 + 320]])
    assert shards_touching(grid, layout, exact).tolist() == [[-1, -1, 0, 0]]
    assert shards_touching(grid, layout, exact, halo_px=1).tolist() == [[-2, -2, 1, 1]]
    hair = exact + np.array([0, 0, 1e-3, 0])
    assert shards_touching(grid, layout, hair).tolist() == [[-1, -1, 0, 1]]
    assert shards_touching(grid, layout, exact + 1e-9).tolist() == [[-1, -1, 0, 0]], "rounding is not touching"


@st.composite
def ranges(draw: st.DrawFn) -> ShardRange:
    """Strategy: rectangles of shards."""
    return ShardRange(row=draw(indices), col=draw(indices), rows=draw(st.integers(1, 4)), cols=draw(st.integers(1, 4)))


@steady
@given(grid=grids(), layout=layouts(), one=ranges(), up=st.integers(0, 3), left=st.integers(0, 3))
def test_cell_centres_have_equal_bits_whatever_the_extent(
    grid: Grid, layout: ShardLayout, one: ShardRange, up: int, left: int
) -> None:
    larger = ShardRange(row=one.row - up, col=one.col - left, rows=one.rows + up + 1, cols=one.cols + left + 2)
    both = (grid.centres(shards.area(layout), layout.cell_px) for shards in (one, larger))
    for small, large, skipped, count in zip(*both, (left, up), (one.cols, one.rows), strict=True):
        first = skipped * layout.shard_cells
        assert small.size == count * layout.shard_cells
        assert small.tobytes() == large[first : first + small.size].tobytes()


@steady
@given(grid=grids(), layout=layouts(), shards=ranges())
def test_the_grid_agrees_with_odc_geo(grid: Grid, layout: ShardLayout, shards: ShardRange) -> None:
    area = shards.area(layout)
    tolerance = 1e-6 * grid.pixel
    pixels_box = GeoBox(wh_(area.cols, area.rows), grid.affine(area), grid.crs)
    assert pixels_box.shape == (area.rows, area.cols)
    np.testing.assert_allclose(pixels_box.boundingbox.bbox, grid.bounds(area), rtol=0, atol=tolerance)
    cells_box = pixels_box.zoom_out(layout.cell_px)
    assert cells_box.shape == (shards.rows * layout.shard_cells, shards.cols * layout.shard_cells)
    np.testing.assert_allclose(
        list(cells_box.affine)[:6], list(grid.affine(area, layout.cell_px))[:6], rtol=1e-12, atol=tolerance
    )
    x, y = grid.centres(area, layout.cell_px)
    for axis, ours in (("x", x), ("y", y)):
        np.testing.assert_allclose(ours, cells_box.coordinates[axis].values, rtol=0, atol=tolerance)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) < 0).all()


@steady
@given(layout=layouts(), row=indices, col=indices, origin=origins)
def test_shards_are_the_tiles_of_an_odc_grid_spec(
    layout: ShardLayout, row: int, col: int, origin: tuple[float, float]
) -> None:
    grid = Grid(crs="EPSG:32632", pixel=10.0, origin_x=origin[0], origin_y=origin[1])
    side = layout.shard_px
    # odc counts tiles upward from the lower left corner of tile (0, 0), we downward from the upper left corner of shard
    # (0, 0): their tile (col, -1 - row) is our shard (row, col)
    spec = GridSpec(grid.crs, (side, side), grid.pixel, origin=xy_(grid.origin_x, grid.origin_y))
    theirs = spec.tile_geobox((col, -1 - row)).boundingbox.bbox
    np.testing.assert_allclose(grid.bounds(layout.shard_area(row, col)), theirs, rtol=0, atol=1e-5)


@steady
@given(grid=grids(), row=st.integers(-9000, 9000), col=st.integers(-9000, 9000), u=st.floats(0.01, 0.99))
def test_points_fall_in_the_pixel_that_holds_them(grid: Grid, row: int, col: int, u: float) -> None:
    area = PixelArea(row=row, col=col, rows=1, cols=1)
    xmin, ymin, xmax, ymax = grid.bounds(area)
    rows, cols = grid.rows_cols(np.array([xmin + u * (xmax - xmin)]), np.array([ymin + u * (ymax - ymin)]))
    assert (rows.item(), cols.item()) == (row, col)
    x, y = grid.affine(area) @ (u, 1 - u)
    np.testing.assert_allclose((x, y), (xmin + u * (xmax - xmin), ymin + u * (ymax - ymin)), atol=1e-6 * grid.pixel)


@steady
@given(row=indices, col=indices, rows=st.integers(1, 50), cols=st.integers(1, 50), halo=st.integers(0, 20))
def test_growing_adds_to_every_side(row: int, col: int, rows: int, cols: int, halo: int) -> None:
    area = PixelArea(row=row, col=col, rows=rows, cols=cols)
    grown = area.grown(halo)
    assert (grown.row + grown.rows, grown.col + grown.cols) == (row + rows + halo, col + cols + halo)
    assert grown.grown(-halo) == area


def test_a_crs_is_known_by_any_of_its_names() -> None:
    wkt = CRS.from_epsg(32632).to_wkt()
    assert same_crs("EPSG:32632", "epsg:32632")
    assert same_crs("EPSG:32632", wkt)
    assert not same_crs("EPSG:32632", "EPSG:32732")
