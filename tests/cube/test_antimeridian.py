"""A region over the antimeridian, 180 E: boxes with west above east (RFC 7946), and what is asked of a layer there."""

from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from tests.cube.synthetic import write_zone

import embedcube
from embedcube.cube.encoding import NOT_PROCESSED, VALID
from embedcube.errors import RequestError

LAT = -17.0

BOX = (179.9, -17.05, -179.9, -16.95)
"""west above east: it crosses the antimeridian"""

SIDE, CELLS = 160.0, 256


def degrees_of(zone: int, left: float, top: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitudes, from 0 to 360, and latitudes of all cells."""
    centres = (np.arange(CELLS) + 0.5) * SIDE
    x, y = np.meshgrid(left + centres, top - centres)
    lon, lat = Transformer.from_crs(f"EPSG:326{zone:02d}", "EPSG:4326", always_xy=True).transform(x, y)
    return np.asarray(lon) % 360, np.asarray(lat)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two zones on either side, whose vectors say where they are."""
    path = tmp_path_factory.mktemp("antimeridian") / "cube.zarr"
    for zone in (60, 1):
        x, y = Transformer.from_crs("EPSG:4326", f"EPSG:326{zone:02d}", always_xy=True).transform(180.0, LAT)
        left, top = (round(edge / SIDE) * SIDE for edge in (x - CELLS * SIDE / 2, y + CELLS * SIDE / 2))
        lon, lat = degrees_of(zone, left, top)
        vectors = np.stack([lon - 180, lat - LAT, np.ones_like(lon)], axis=-1)[None].astype(np.float32)
        own = (lon < 180.002) if zone == 60 else (lon > 179.998)
        status = np.where(own, VALID, NOT_PROCESSED).astype(np.uint8)[None]
        write_zone(
            path, f"s2/utm{zone:02d}", vectors, status, crs=f"EPSG:326{zone:02d}", side=SIDE, corner=(left, top),
            encoding="float32", shard=128,
        )  # fmt: skip
    return embedcube.open_cube(path)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32660", "EPSG:3832"])
def test_merged_zones_stay_neighbours(cube: Any, crs: str) -> None:
    merged = cube.layer.window(BOX).merged(crs=crs)
    x, y = np.meshgrid(merged["x"].values, merged["y"].values)
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    lon = np.asarray(lon) % 360
    inside = (lon > 179.91) & (lon < 180.09) & (lat > -17.04) & (lat < -16.96)
    assert merged.sizes["x"] < 400
    assert (np.diff(merged["x"].values) > 0).all()
    found = merged["vector"].values[0]
    assert np.isfinite(found[inside]).all()
    # each vector is of the place where it is put, to a cell's diagonal
    assert np.abs(found[..., 0] + 180 - lon)[inside].max() < 0.0025
    assert np.abs(found[..., 1] + LAT - lat)[inside].max() < 0.0025
    assert set(np.unique(merged["zone"].values[0][inside])) == {0, 1}


def test_a_crs_that_is_cut_there_is_refused_before_memory_is_taken(cube: Any) -> None:
    with pytest.raises(RequestError, match="lie far apart there; choose another crs"):
        cube.layer.window(BOX).merged(crs="EPSG:3857")


def test_boxes_and_polygons_that_cross_it_are_the_same_region(cube: Any) -> None:
    layer = cube.layer
    halves = shapely.MultiPolygon([shapely.box(179.9, -17.05, 180, -16.95), shapely.box(-180, -17.05, -179.9, -16.95)])
    regions = (BOX, shapely.box(179.9, -17.05, 180.1, -16.95), shapely.box(-180.1, -17.05, -179.9, -16.95), halves)
    counts = [sum(int(np.count_nonzero(one.inside)) for one in layer.blocks(region)) for region in regions]
    # cells of 160 m at 17 S
    assert abs(counts[0] / (0.2 * 0.1 * 111_320 * 110_700 * np.cos(np.radians(17)) / SIDE**2) - 1) < 0.02
    assert max(counts) - min(counts) <= 2 * 70  # the halves share the cells on the border
    found = [layer.find((179.9995, LAT), k=60, within=region) for region in regions]
    for one in found:
        assert (one["lon"] % 360).between(179.9, 180.1).all()
        assert {hit > 0 for hit in one["lon"]} == {True, False}
    assert [one["y"].tolist() for one in found[1:3]] == [found[0]["y"].tolist()] * 2


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32660", "EPSG:32601", "EPSG:3832"])
def test_parcels_over_it_have_the_cells_of_both_sides(cube: Any, crs: str) -> None:
    square = geopandas.GeoSeries([shapely.box(179.95, -17.02, 180.05, -16.98)], crs="EPSG:4326")
    frame = geopandas.GeoDataFrame(geometry=square.segmentize(0.005).to_crs(crs))
    found = cube.layer.parcels(frame)
    expected = 0.1 * 0.04 * 111_320 * 110_700 * np.cos(np.radians(17)) / SIDE**2
    assert abs(int(found["cells"][0]) / expected - 1) < 0.03
    mean = found["mean"].values[0, 0]
    assert abs(mean[0]) < 0.002  # around 180 E
    assert abs(mean[1]) < 0.002


def test_points_on_both_sides_and_however_they_are_counted(cube: Any) -> None:
    lon = np.array([179.99, 180.0, -180.0, -179.99, 180.01, 539.99])
    found = cube.layer.sample(x=lon, y=np.full(6, LAT), crs="EPSG:4326")
    assert (found["status"].values[:, 0] == VALID).all()
    assert np.abs(found["vector"].values[:, 0, 0] + 180 - lon % 360).max() < 0.002


def test_bounds_go_over_it_the_short_way(cube: Any) -> None:
    west, south, east, north = cube.layer.bounds
    assert 179 < west < 180
    assert -180 < east < -179
    assert south < LAT < north
