"""Files of `provenance/crate` for other tools: campaign.json, prov.json (W3C PROV-JSON), ro-crate-metadata.json.

That folder is a Zarr group, so that readers of Zarr that list `provenance/` find nothing strange there.
They say the same as the arrays beside them, and stay small however large the cube is: rows of scenes and shards are
named by their tables. `crate.py` makes the last one. As all of `provenance/` they hold times, devices and versions, and
are under the digests of `provenance/files`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from embedcube.consolidate.crate import CAMPAIGN, PROV, TABLES, RunOfCube, RunOfLayer, crate_of
from embedcube.cube.prov import ProvGraph, typed

FOLDER = "crate"
"""group of `provenance/`"""

CRATE = "ro-crate-metadata.json"


def write_files(run: RunOfCube, folder: Path) -> None:
    """Write the files to a folder; each is the same for the same records."""
    campaign = json.dumps({"campaign": run.campaign.campaign, **run.campaign.what}, indent=1, sort_keys=True)
    (folder / CAMPAIGN).write_text(campaign + "\n")
    (folder / PROV).write_text(_graph(run).to_json() + "\n")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CAMPAIGN, PROV)}
    (folder / CRATE).write_text(json.dumps(crate_of(run, digests), indent=1, sort_keys=True) + "\n")


def _graph(run: RunOfCube) -> ProvGraph:
    """PROV of the whole cube: its layers, what they were made of, and the tables with all scenes and shards."""
    graph = ProvGraph(run.version)
    collection = {"prov:type": typed("prov:Collection")}
    shards = sum(len(layer.records) for layer in run.layers)
    cube = graph.add(
        "entity", "cube:cube", f"cube {run.version}",
        collection | {"campaign_sha256": run.campaign.digest, "shards": shards, "scenes": run.scenes},
    )  # fmt: skip
    plan = graph.add(
        "entity", "cube:campaign", f"campaign {run.campaign.campaign}",
        {"prov:type": typed("prov:Plan"), "sha256": run.campaign.digest, "prov:location": CAMPAIGN},
    )  # fmt: skip
    tables = {
        name: graph.add(
            "entity", f"cube:{name}", words, {"prov:type": typed("prov:Bundle"), "prov:location": f"../{name}"}
        )
        for name, words in TABLES.items()
    }
    software = graph.add(
        "agent", "embedcube:software", "embedcube", {"prov:type": typed("prov:SoftwareAgent"), **run.software}
    )
    archives = {
        name: graph.add("entity", f"cube:archive/{name}", f"archive {name}", collection | {"source": block.source})
        for name, block in run.campaign.archives.items()
    }
    for archive in archives.values():
        graph.relate("wasDerivedFrom", tables["scene"], archive)
    for layer in run.layers:
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
