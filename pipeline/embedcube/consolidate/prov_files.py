"""Files of `provenance/crate` for other tools: campaign.json, prov.json (W3C PROV-JSON), ro-crate-metadata.json.

That folder is a Zarr group, so that readers of Zarr that list `provenance/` find nothing strange there.
They say the same as the arrays beside them, and stay small however large the cube is: rows of scenes and shards are
named by their tables. `crate.py` makes the last one. As all of `provenance/` they hold times, devices and versions, and
are under the digests of `provenance/files`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedcube.campaign.parts import Record
from embedcube.campaign.plan import Plan
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.crate import Crate, RunOfLayer, crate_of
from embedcube.cube.prov import ProvGraph, typed

FOLDER = "crate"
"""group of `provenance/`"""

CAMPAIGN, PROV, CRATE = "campaign.json", "prov.json", "ro-crate-metadata.json"

TABLES = {
    "scene": "the inventory: one JSON text for each scene",
    "shard_record": "the records: one JSON text for each shard",
    "link_scene": "which scenes each shard was made of",
}
"""Arrays of `provenance/` that other tools are pointed to; with `<name>_first` a row of a text is found."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the files are made from."""

    campaign: Campaign
    plan: Plan
    version: str
    """name of the cube"""
    scenes: int
    records: Mapping[str, Sequence[Record]]
    """by layer of the cube; a record may name its layer otherwise, as it was called when the shard was embedded"""


def write_files(told: Told, folder: Path) -> None:
    """Write the files to a folder; each is the same for the same records."""
    campaign = json.dumps({"campaign": told.campaign.campaign, **told.campaign.what}, indent=1, sort_keys=True)
    (folder / CAMPAIGN).write_text(campaign + "\n")
    (folder / PROV).write_text(_graph(told).to_json() + "\n")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CAMPAIGN, PROV)}
    crate = crate_of(
        Crate(
            name=told.campaign.campaign, version=told.version, campaign_digest=told.campaign.digest,
            archives=told.campaign.archives, software=told.plan.versions, layers=_layers(told), digests=digests,
            tables=TABLES,
        )
    )  # fmt: skip
    (folder / CRATE).write_text(json.dumps(crate, indent=1, sort_keys=True) + "\n")


def _layers(told: Told) -> list[RunOfLayer]:
    """What is to be told of the run of each layer."""
    return [
        RunOfLayer(
            name=name,
            backbone=str(told.campaign.layers[name].backbone["name"]),
            archives=told.campaign.layers[name].archives,
            weights=layer.weights,
            records=told.records[name],
        )
        for name, layer in told.plan.layers.items()
    ]


def _graph(told: Told) -> ProvGraph:
    """PROV of the whole cube: its layers, what they were made of, and the tables with all scenes and shards."""
    graph = ProvGraph(told.version)
    collection = {"prov:type": typed("prov:Collection")}
    shards = sum(map(len, told.records.values()))
    cube = graph.add(
        "entity", "cube:cube", f"cube {told.version}",
        collection | {"campaign_sha256": told.campaign.digest, "shards": shards, "scenes": told.scenes},
    )  # fmt: skip
    plan = graph.add(
        "entity", "cube:campaign", f"campaign {told.campaign.campaign}",
        {"prov:type": typed("prov:Plan"), "sha256": told.campaign.digest, "prov:location": CAMPAIGN},
    )  # fmt: skip
    tables = {
        name: graph.add(
            "entity", f"cube:{name}", words, {"prov:type": typed("prov:Bundle"), "prov:location": f"../{name}"}
        )
        for name, words in TABLES.items()
    }
    software = graph.add(
        "agent", "embedcube:software", "embedcube", {"prov:type": typed("prov:SoftwareAgent"), **told.plan.versions}
    )
    archives = {
        name: graph.add("entity", f"cube:archive/{name}", f"archive {name}", collection | {"source": block.source})
        for name, block in told.campaign.archives.items()
    }
    for archive in archives.values():
        graph.relate("wasDerivedFrom", tables["scene"], archive)
    for layer in _layers(told):
        _add_layer(graph, layer, archives, tables, (cube, plan, software))
    return graph


def _add_layer(
    graph: ProvGraph, layer: RunOfLayer, archives: dict[str, str], tables: dict[str, str], known: tuple[str, str, str]
) -> None:
    cube, plan, software = known
    facts: dict[str, Any] = {"shards": len(layer.records), "devices": layer.devices, "code": layer.code_versions}
    if layer.records:
        facts |= {"prov:startTime": layer.started, "prov:endTime": layer.finished}
    run = graph.add("activity", f"cube:embed/{layer.name}", f"embed {layer.name}", facts)
    made = graph.add(
        "entity", f"cube:layer/{layer.name}", f"layer {layer.name}",
        {"prov:type": typed("prov:Collection"), "prov:location": f"../../{layer.name}", "backbone": layer.backbone},
    )  # fmt: skip
    weights = graph.add("entity", f"cube:weights/{layer.name}", f"weights of {layer.name}", {"sha256": layer.weights})
    graph.relate("wasGeneratedBy", made, run)
    graph.relate("hadMember", cube, made)
    graph.relate("used", run, weights)
    for archive in layer.archives:
        graph.relate("used", run, archives[archive])
        graph.relate("wasDerivedFrom", made, archives[archive])
    for table in ("shard_record", "link_scene"):
        graph.relate("wasInfluencedBy", tables[table], run)
    graph.relate("wasAssociatedWith", run, software, {"prov:plan": plan})
