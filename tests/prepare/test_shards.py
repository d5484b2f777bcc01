"""The shape of a region in the CRS of a grid, held against another library's."""

from typing import Any

import numpy as np
import pytest
import shapely
from odc.geo.geom import Geometry

from embedcube.prepare.shards import projected

STAR = shapely.Polygon(
    [(6.2, 46.1), (7.9, 46.4), (8.1, 47.9), (7.0, 47.2), (5.9, 48.0)], [[(6.9, 46.6), (7.2, 46.6), (7.1, 46.9)]]
)
PARTS = shapely.MultiPolygon([shapely.box(5, 45, 8, 48), shapely.box(8.5, 45, 9, 45.2)])


@pytest.mark.parametrize("shape", [shapely.box(-0.5, 50, 3, 52), shapely.box(0, 50, 1, 51), STAR, PARTS])
@pytest.mark.parametrize("target", ["EPSG:32631", "EPSG:3035", "EPSG:3413"])
def test_a_region_has_the_same_points_as_with_odc_geo(shape: Any, target: str) -> None:
    for step in (0.01, 0.07):
        other = Geometry(shape, "EPSG:4326").to_crs(target, resolution=step).geom
        assert shapely.equals_exact(projected(shape, "EPSG:4326", target, step), other, 0)


def test_straight_edges_become_curves() -> None:
    west_to_east = shapely.box(6, 50, 12, 51)
    curved = projected(west_to_east, "EPSG:4326", "EPSG:32632", step=0.1)
    assert len(shapely.get_coordinates(curved)) > 100
    corners = projected(west_to_east, "EPSG:4326", "EPSG:32632", step=10)
    assert np.abs(curved.bounds[1] - corners.bounds[1]) > 1000, "metres by which the middle of the edge lies lower"


def test_a_region_in_the_grids_own_crs_stays_as_it_is() -> None:
    assert projected(PARTS, "EPSG:4326", "EPSG:4326", step=0.1) is PARTS
