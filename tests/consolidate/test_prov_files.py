"""campaign.json, prov.json and ro-crate-metadata.json in `provenance/crate`, and the graph of one shard."""

import hashlib
import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import prov.model
import pyshacl
import pytest
import rdflib
import zarr
from tests.conftest import call_cli
from tests.cube.two_zones import FAILED_SHARD

from embedcube.campaign.parts import Record
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.seals import from_line
from embedcube.consolidate.crate import CAMPAIGN, PROV, RunOfCube, RunOfLayer, crate_of
from embedcube.consolidate.prov_files import CRATE, FOLDER
from embedcube.consolidate.rebuilt import rebuild
from embedcube.cube.prov import RELATIONS, shard_graph
from embedcube.cube.reader import Cube

SHAPES = Path(__file__).parents[1] / "data" / "rocrate"

BASE = "https://crate.example/"

# of names that rdflib itself uses
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib", "ignore::DeprecationWarning:pyshacl")


@cache
def _graphs() -> tuple[rdflib.Graph, rdflib.Graph, Any]:
    """Shapes of all profiles, the ontology of RO-Crate, and its context."""
    shapes, ontology = rdflib.Graph(), rdflib.Graph()
    for path in sorted(SHAPES.rglob("*.ttl")):
        (ontology if path.name == "ontology.ttl" else shapes).parse(path, publicID=BASE)
    return shapes, ontology, json.loads((SHAPES / "context-1.1.json").read_text())["@context"]


def _complaints(crate: dict[str, Any]) -> str:
    """What the shapes of RO-Crate 1.1, Process, Workflow and Provenance Run Crate say of a crate; empty if nothing."""
    shapes, ontology, context = _graphs()
    local = [context if isinstance(one, str) else one for one in crate["@context"]]
    data = rdflib.Graph().parse(data=json.dumps(crate | {"@context": local}), format="json-ld", publicID=BASE)
    conforms, _, text = pyshacl.validate(
        data, shacl_graph=shapes, ont_graph=ontology, inference="owlrl", advanced=True, allow_warnings=True
    )
    return "" if conforms else str(text)


def _crate(cube: Path) -> dict[str, Any]:
    return dict(json.loads((cube / "provenance" / FOLDER / CRATE).read_text()))


def test_the_crate_conforms(two_zones: Path) -> None:
    """Every MUST of the profiles holds; all that it names by path is there, with the digest that it states."""
    crate = _crate(two_zones)
    assert _complaints(crate) == ""
    folder, entities = two_zones / "provenance" / FOLDER, {one["@id"]: one for one in crate["@graph"]}
    for part in entities["./"]["hasPart"]:
        data = (folder / part["@id"]).read_bytes()
        assert entities[part["@id"]]["sha256"] == hashlib.sha256(data).hexdigest()
    references = [one for entity in entities.values() for value in entity.values() for one in _references(value)]
    known = entities.keys() | {"https://w3id.org/ro/crate/1.1"}
    assert {one for one in references if not one.startswith("https://bioschemas.org/")} <= known


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [one for item in value for one in _references(item)]
    return [value["@id"]] if isinstance(value, dict) else []


@pytest.mark.parametrize(
    ("entity", "key"), [("#run", "instrument"), ("./", "mainEntity"), ("campaign.json", "hasPart"), ("./", "license")]
)
def test_the_shapes_see_what_is_missing(two_zones: Path, entity: str, key: str) -> None:
    """The test above can fail."""
    crate = _crate(two_zones)
    next(one for one in crate["@graph"] if one["@id"] == entity).pop(key)
    assert "Constraint Violation" in _complaints(crate)


def test_a_crate_of_containers_and_meters(two_zones: Path) -> None:
    """Images and energy, which the machine of the tests does not have, conform too."""
    said = rebuild(Cube(two_zones))
    document = from_line(Cube(two_zones).provenance.record_line(0))
    assert document is not None
    record = replace(Record.from_document(document), container="a" * 64, energy_j=7.2e6)
    layer = RunOfLayer(name="s2", backbone="mosaiks", archives=("s2",), weights="1" * 64, records=[record])
    run = RunOfCube(campaign=said.campaign, version="v", scenes=1, software=said.versions, layers=[layer])
    crate = crate_of(run, {CAMPAIGN: "0", PROV: "0"})
    assert _complaints(crate) == ""
    entities = {one["@id"]: one for one in crate["@graph"]}
    assert entities["#usage/s2/energy_kwh"]["value"] == "2.0"
    assert entities[f"#image/{'a' * 64}"]["sha256"] == "a" * 64


def _parsed(text: str) -> prov.model.ProvDocument:
    """A PROV-JSON document, by the library of PROV; it must be the same when written again."""
    document = prov.model.ProvDocument.deserialize(content=text, format="json")
    again = prov.model.ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert document == again
    return document


def test_prov_of_the_cube(two_zones: Path) -> None:
    """It is PROV-JSON; both ends of each relation are there; it names tables and not rows."""
    text = (two_zones / "provenance" / FOLDER / PROV).read_text()
    document = _parsed(text)
    _check_ends(json.loads(text))
    for one in json.loads(text)["entity"].values():
        assert (two_zones / "provenance" / FOLDER / one.get("prov:location", "")).exists()
    (run,) = document.get_records(prov.model.ProvActivity)
    assert isinstance(run, prov.model.ProvActivity)
    assert (str(run.get_startTime())[:4], str(run.identifier)) == ("2024", "cube:embed/s2")
    bundles = [str(one.identifier) for one in document.get_records(prov.model.ProvEntity) if "Bundle" in str(one)]
    assert sorted(bundles) == ["cube:link_scene", "cube:scene", "cube:shard_record"]
    assert len(text) < 10_000


def test_prov_of_a_shard(two_zones: Path) -> None:
    """It has the scenes that were read as used, and the one that could not be read apart, with the reason."""
    zone, t, iy, ix = FAILED_SHARD
    cube = Cube(two_zones)
    place = (f"s2/{zone}", t, iy, ix)
    text = shard_graph(cube, place).to_json()
    document, plain = _parsed(text), json.loads(text)
    _check_ends(plain)
    rows, unread = cube.provenance.links(cube.provenance.shard(*place))
    names = [cube.provenance.scene(row)["id"] for row in rows.tolist()]
    used = {one["prov:entity"] for one in plain["used"].values()} - {"cube:weights/s2"}
    assert used == {f"scene:s2/{name}" for name, failed in zip(names, unread, strict=True) if not failed}
    derived = {one["prov:usedEntity"] for one in plain["wasDerivedFrom"].values()}
    assert derived == used
    entity = plain["entity"][f"cube:s2/{zone}/t{t}/y{iy}/x{ix}"]
    record = cube.provenance.record(cube.provenance.shard(*place))
    assert entity["embedcube:recipe"] == record["recipe"]
    assert len(list(document.get_records(prov.model.ProvAgent))) == 1


def _check_ends(document: dict[str, Any]) -> None:
    nodes = {key for kind in ("entity", "activity", "agent") for key in document[kind]}
    for relation, ends in RELATIONS.items():
        for link in document.get(relation, {}).values():
            assert {link[end] for end in ends} <= nodes


def test_readers_of_zarr_find_nothing_strange(two_zones: Path) -> None:
    """The files are in a group of their own: listing `provenance/` gives arrays and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(two_zones / "provenance", mode="r")
        assert {"scene", "shard_record"} <= {name for name, _ in group.arrays()}
        assert [name for name, _ in group.groups()] == [FOLDER]


def test_the_graph_is_printed(two_zones: Path) -> None:
    """By the command line, as PROV-JSON and as a flow chart."""
    said = call_cli("lineage", two_zones, "--shard", "s2/utm32/t0/y2/x2")
    assert _parsed(said.stdout).get_records()
    drawn = call_cli("lineage", two_zones, "--shard", "s2/utm32/t0/y2/x2", "--as", "mermaid").stdout
    assert drawn.startswith("flowchart LR")
    assert drawn.count("-- used -->") == 4
    assert call_cli("lineage").returncode == 2


def test_the_campaign_can_be_asked_again(two_zones: Path) -> None:
    """With paths of archives, campaign.json is a campaign file of the same digest."""
    document = json.loads((two_zones / "provenance" / FOLDER / CAMPAIGN).read_text())
    for block in document["archives"].values():
        block["path"] = "/somewhere"
    document["windows"] = [window.split("/") for window in document["windows"]]
    cube = Cube(two_zones)
    assert Campaign.model_validate(document).digest == digest_of(cube.what)
    assert document["campaign"] == cube.campaign
