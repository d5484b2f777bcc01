"""The STAC beside a cube says what the cube says, and is STAC."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pystac.validation
import pytest
import shapely
import xarray
from pyproj import CRS, Transformer
from tests.conftest import Campaign, cube_bytes, planned_records

from embedcube.campaign.boxes import footprint
from embedcube.consolidate.stac import _degrees


def beside(cube: Path) -> Path:
    cube = cube.resolve()
    return cube.with_name(f"{cube.stem}-stac")


@pytest.fixture(scope="module")
def catalogue(finished_demo: Campaign) -> Path:
    """Beside the cube."""
    return beside(finished_demo.run.newest_cube)


@pytest.fixture(scope="module")
def collection(catalogue: Path) -> pystac.Collection:
    """As any reader of STAC opens it."""
    return pystac.Collection.from_file(str(catalogue / "collection.json"))


@pytest.fixture(scope="module")
def item(collection: pystac.Collection) -> pystac.Item:
    """The only one of the demo."""
    (item,) = collection.get_items()
    return item


def test_it_is_valid_stac(collection: pystac.Collection, item: pystac.Item) -> None:
    # the schemas of the core come with pystac; those of extensions would have to be fetched
    for one in (collection, item):
        document = one.to_dict()
        pystac.validation.validate_dict(document | {"stac_extensions": []})


def test_its_asset_is_the_group_of_the_cube(item: pystac.Item, finished_demo: Campaign) -> None:
    href = item.assets["embeddings"].get_absolute_href()
    assert href is not None
    assert Path(href) == finished_demo.run.newest_cube.resolve() / "s2_mosaiks" / "grid"
    with xarray.open_zarr(href, consolidated=False) as zone:
        assert item.properties["emb:dimensions"] == zone.sizes["feature"]
        assert item.properties["proj:shape"] == [zone.sizes["y"], zone.sizes["x"]]
        assert item.properties["emb:data_type"] == str(zone.embedding.encoding.get("dtype", zone.embedding.dtype))


def test_it_is_where_and_when_the_cube_is(item: pystac.Item, finished_demo: Campaign) -> None:
    with xarray.open_zarr(finished_demo.run.newest_cube / "s2_mosaiks" / "grid", consolidated=False) as zone:
        to_degrees = Transformer.from_crs(item.properties["proj:code"], "EPSG:4326", always_xy=True)
        lon, lat = to_degrees.transform(*(v.to_numpy().ravel() for v in xarray.broadcast(zone.x, zone.y)))
    assert item.geometry is not None
    around = shapely.geometry.shape(item.geometry)
    assert shapely.contains_xy(around, lon, lat).all()
    # tight: less than two cells of 160 m on each side
    west, south, east, north = around.bounds
    assert (lon.min() - west, east - lon.max()) == pytest.approx((0, 0), abs=0.01)
    assert (lat.min() - south, north - lat.max()) == pytest.approx((0, 0), abs=0.01)
    assert item.common_metadata.start_datetime == datetime(2023, 6, 1, tzinfo=UTC)
    assert item.common_metadata.end_datetime == datetime(2023, 8, 1, tzinfo=UTC)


def test_it_says_what_the_cube_cost(item: pystac.Item, finished_demo: Campaign) -> None:
    records = planned_records(finished_demo)
    energy: dict[str, Any] = item.properties["emb:energy"]
    assert energy["device_type"] == records[0].device
    assert energy["inference_duration_s"] == pytest.approx(sum(r.seconds["forward"] for r in records), abs=1e-3)
    assert "energy_kwh" not in energy, "a CPU has no meter that a user may read"


def test_its_links_are_relative_so_that_it_can_be_moved_with_its_cube(catalogue: Path) -> None:
    for path in catalogue.rglob("*.json"):
        document = json.loads(path.read_text())
        local = [link["href"] for link in document["links"] if not link["rel"].startswith("emb:")]
        assert local
        assert all(href.startswith(".") for href in local)


def test_a_lost_catalogue_comes_back_and_the_cube_stays(finished: Campaign) -> None:
    before = cube_bytes(finished.run.newest_cube, provenance=True)
    lost = beside(finished.run.newest_cube)
    shutil.rmtree(lost)
    finished.cli("consolidate")
    assert (lost / "collection.json").exists()
    assert cube_bytes(finished.run.newest_cube, provenance=True) == before


def test_a_cube_across_the_antimeridian_has_two_polygons() -> None:
    west, south, east, north = _degrees([800_000.0, -1_900_000.0, 900_000.0, -1_800_000.0], CRS("EPSG:32660").to_wkt())
    assert west > 179
    assert east < -179
    assert footprint((west, south, east, north)).geom_type == "MultiPolygon"
