"""Where a scene lies on a grid: every place of its footprint, once around the globe, and nothing of another place."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from embedcube.campaign.boxes import Box
from embedcube.campaign.scene import Asset, Scene
from embedcube.grid import Grid

steady = settings(deadline=None)

ASSET = Asset(
    band="t2m", path="t2m.tif", crs="EPSG:4326", transform=(0.25, 0.0, 0.0, 0.0, -0.25, 90.0), rows=1, cols=1,
    block_rows=1, block_cols=1, dtype="float32", nodata=float("nan"), size=1, digest="",
)  # fmt: skip
WHOLE_GLOBE = 1440
"""columns of 0.25 degrees"""


def scene_of(asset: Asset) -> Scene:
    """A scene of one file."""
    return Scene(
        id="one", archive="a", time=datetime(2023, 6, 1, tzinfo=UTC), acquisition="one", bbox=(0, 0, 0, 0),
        assets=(asset,),
    )  # fmt: skip


@st.composite
def globes(draw: st.DrawFn) -> Grid:
    """Grids of longitudes that begin anywhere."""
    origin = draw(st.sampled_from([0.0, -180.0, 180.0, -360.0, 0.125, -180.125, 7.0]))
    return Grid(crs="EPSG:4326", pixel=0.25, origin_x=origin, origin_y=90.0)


@st.composite
def footprints(draw: st.DrawFn) -> Asset:
    """Files that begin anywhere, in any counting of longitudes, up to once around the globe, and a column twice."""
    west, north = draw(st.integers(-4 * 400, 4 * 400)) / 4, draw(st.integers(-4 * 80, 4 * 90)) / 4
    return replace(
        ASSET,
        transform=(0.25, 0.0, west, 0.0, -0.25, north),
        rows=draw(st.integers(1, 4 * 10)),
        cols=draw(st.one_of(st.integers(1, WHOLE_GLOBE), st.integers(WHOLE_GLOBE - 1, WHOLE_GLOBE + 1))),
    )


def inside(boxes: tuple[Box, ...], x: float, y: float) -> int:
    """How many of the boxes hold a point."""
    return sum(west < x < east and south < y < north for west, south, east, north in boxes)


@steady
@given(grid=globes(), asset=footprints(), data=st.data())
def test_a_footprint_on_a_globe_holds_its_places_and_no_others(grid: Grid, asset: Asset, data: st.DataObject) -> None:
    boxes = scene_of(asset).boxes_in(grid)
    assert all(grid.origin_x <= box[0] < box[2] <= grid.origin_x + 360 for box in boxes), "once around the globe"
    west, south, east, north = asset.bounds
    # one pixel less than the whole globe is the whole: nobody makes a field with one column missing
    whole = east - west >= 360 - grid.pixel
    for _ in range(20):
        x = grid.origin_x + data.draw(st.integers(0, 8 * 360 - 1)) / 8 + 1 / 16
        y = data.draw(st.integers(-8 * 90, 8 * 90 - 1)) / 8 + 1 / 16
        held = south < y < north and (whole or any(west < x + 360 * turn < east for turn in range(-4, 5)))
        assert inside(boxes, x, y) == held


@steady
@given(grid=globes(), west=st.integers(-180, 180), width=st.integers(1, 359))
def test_a_catalogues_box_may_cross_the_antimeridian(grid: Grid, west: int, width: int) -> None:
    """GeoJSON writes the eastern edge as the smaller number then (RFC 7946)."""
    east = west + width if west + width <= 180 else west + width - 360
    scene = replace(scene_of(ASSET), assets=(), bbox=(west, -10.0, east, 10.0))
    boxes = scene.boxes_in(grid)
    for x in np.arange(grid.origin_x + 1 / 16, grid.origin_x + 360, 1 / 2).tolist():
        held = (x - west) % 360 < width if width < 360 - grid.pixel else True
        assert inside(boxes, x, 0.0) == held


@pytest.mark.parametrize(("zone", "parts"), [(1, 2), (60, 2), (32, 1)])
def test_a_utm_tile_across_the_antimeridian_lies_on_both_sides(zone: int, parts: int) -> None:
    """The tile reaches over both edges of its zone."""
    crs = f"EPSG:{32600 + zone}"
    asset = replace(ASSET, crs=crs, transform=(100.0, 0.0, 250_000.0, 0.0, -100.0, 5_600_000.0), rows=1000, cols=5000)
    boxes = scene_of(asset).boxes_in(Grid(crs="EPSG:4326", pixel=0.25, origin_x=-180.0, origin_y=90.0))
    assert len(boxes) == parts
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    for x, y in np.random.default_rng(0).uniform((250_001, 5_500_001), (749_999, 5_599_999), (200, 2)):
        assert inside(boxes, *to_degrees.transform(x, y)) == 1


GLOBAL_FIELDS = {
    "-180..180": replace(ASSET, transform=(0.25, 0.0, -180.0, 0.0, -0.25, 90.0), rows=720, cols=WHOLE_GLOBE),
    "0..360": replace(ASSET, transform=(0.25, 0.0, 0.0, 0.0, -0.25, 90.0), rows=720, cols=WHOLE_GLOBE),
    "0..360, points": replace(ASSET, transform=(0.25, 0.0, -0.125, 0.0, -0.25, 90.125), rows=721, cols=WHOLE_GLOBE),
    "half": replace(ASSET, transform=(0.25, 0.0, -100.0, 0.0, -0.25, 90.0), rows=720, cols=WHOLE_GLOBE // 2 + 400),
}


@pytest.mark.parametrize("field", GLOBAL_FIELDS)
@pytest.mark.parametrize(
    "grid",
    [
        Grid(crs="EPSG:32631", pixel=10),
        Grid.of_zone(1, 10, (0, 0)),
        Grid.of_zone(33, 10, (0, 0)),
        Grid(crs="EPSG:3035", pixel=10),
    ],
    ids=str,
)
def test_a_field_of_the_globe_covers_a_grid_of_metres(grid: Grid, field: str) -> None:
    boxes = scene_of(GLOBAL_FIELDS[field]).boxes_in(grid)
    zone = grid.utm_zone or 32
    if field == "half" and zone == 1:
        pytest.skip("the field does not reach there")
    to_grid = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    south = -79.9 if grid.utm_zone else 30
    lons, lats = np.random.default_rng(0).uniform((6 * zone - 186, south), (6 * zone - 180, 80), (300, 2)).T
    for x, y in zip(*to_grid.transform(lons, lats), strict=True):
        assert inside(boxes, x, y) >= 1


def test_a_scene_of_the_other_side_of_the_earth_lies_nowhere_on_a_grid_of_metres() -> None:
    """Its coordinates would be numbers that mean nothing."""
    far = replace(ASSET, crs="EPSG:32660", transform=(10.0, 0.0, 4e5, 0.0, -10.0, 5.6e6), rows=100, cols=100)
    scene = replace(scene_of(far), bbox=(175.5, 49.9, 176.5, 50.6))
    assert scene.boxes_in(Grid.of_zone(33, 10, (0, 0))) == ()
    (near,) = scene.boxes_in(Grid.of_zone(1, 10, (0, 0)))
    assert near[2] < 166_000, "west of the zone"
