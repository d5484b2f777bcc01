"""The STAC beside a cube says what the cube says, and is STAC."""

import copy
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
from jsonschema import Draft7Validator
from pyproj import CRS, Transformer
from pyproj.datadir import get_data_dir
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7
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
    """The only zone of the demo."""
    (item,) = (one for one in collection.get_items() if "embedcube:zone" in one.properties)
    return item


@pytest.fixture(scope="module")
def model(collection: pystac.Collection) -> pystac.Item:
    """The model of its only layer."""
    (model,) = (one for one in collection.get_items() if "mlm:name" in one.properties)
    return model


SCHEMAS = Path(__file__).parents[1] / "data" / "stac"


def schemas() -> Registry[Any]:
    """All schemas that the extensions refer to, by the address that is used for them; no other is fetched."""
    named = {
        f"https://stac-extensions.github.io/{name}/{version}/schema.json": path
        for path in SCHEMAS.glob("*.schema.json")
        for name, _, version in (path.name.removesuffix(".schema.json").partition("-"),)
    }
    named["https://proj.org/schemas/v0.7/projjson.schema.json"] = Path(get_data_dir()) / "projjson.schema.json"
    core = Path(pystac.validation.__file__).parent / "jsonschemas" / "geojson"
    named["https://geojson.org/schema/Geometry.json"] = core / "Geometry.json"
    contents = [(address, json.loads(path.read_text()) | {"$id": address}) for address, path in named.items()]
    return Registry().with_resources(
        (address, Resource.from_contents(content, default_specification=DRAFT7)) for address, content in contents
    )


def complaints(document: dict[str, Any]) -> list[str]:
    """What the declared extensions find wrong."""
    registry = schemas()
    return [
        f"{extension.split('/')[3]}: {error.message}"
        for extension in document.get("stac_extensions", [])
        for error in Draft7Validator(registry.contents(extension), registry=registry).iter_errors(document)
    ]


def test_it_is_valid_stac(collection: pystac.Collection, item: pystac.Item, model: pystac.Item) -> None:
    for one in (collection, item, model):
        document = one.to_dict()
        # the schemas of the core come with pystac
        pystac.validation.validate_dict(document | {"stac_extensions": []})
        assert complaints(document) == []
    assert len(item.stac_extensions) == 3
    assert len(model.stac_extensions) == 1


@pytest.mark.parametrize(
    ("extension", "change"),
    [
        ("projection", {"proj:shape": [1]}),
        ("datacube", {"cube:dimensions": {"x": {"type": "spatial"}}}),
        ("processing", {"processing:software": {"torch": 2}}),
    ],
)
def test_the_schemas_refuse_what_is_wrong(item: pystac.Item, extension: str, change: dict[str, Any]) -> None:
    document = copy.deepcopy(item.to_dict())
    document["properties"] |= change
    assert {complaint.split(":")[0] for complaint in complaints(document)} == {extension}


def test_the_schema_of_models_refuses_what_is_wrong(model: pystac.Item) -> None:
    document = copy.deepcopy(model.to_dict())
    del document["properties"]["mlm:input"]
    assert complaints(document)


def test_the_model_is_that_of_the_layer(item: pystac.Item, model: pystac.Item, finished_demo: Campaign) -> None:
    (derived,) = item.get_links("derived_from")
    assert derived.get_absolute_href() == model.get_self_href()
    (given,) = model.properties["mlm:input"]
    assert given["bands"] == ["s2:B02", "s2:B03", "s2:B04", "s2:B08"]
    assert given["input"]["shape"] == [-1, -1, 4, 130, 130]
    (vectors,) = model.properties["mlm:output"]
    assert vectors["result"]["shape"] == [-1, 8, 8, item.properties["emb:dimensions"]]
    href = model.assets["weights"].get_absolute_href()
    assert href is not None
    assert Path(href) == finished_demo.run.weights("s2_mosaiks")
    seal = json.loads(finished_demo.run.weights_seal("s2_mosaiks").read_text())
    assert model.properties["embedcube:weights_sha256"] in seal.values()


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
        # the arrays reach further than what is processed, to the borders of objects
        processed = (zone.status != 0).any("time").transpose("x", "y").to_numpy().ravel()
        lon, lat = to_degrees.transform(*(v.to_numpy().ravel()[processed] for v in xarray.broadcast(zone.x, zone.y)))
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
    west, south, east, north = _degrees((800_000.0, -1_900_000.0, 900_000.0, -1_800_000.0), CRS("EPSG:32660").to_wkt())
    assert west > 179
    assert east < -179
    assert footprint((west, south, east, north)).geom_type == "MultiPolygon"
