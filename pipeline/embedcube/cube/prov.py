"""W3C PROV: a graph of entities, activities and agents as PROV-JSON, and as a drawing (Mermaid).

`shard_graph` says of one shard what it was made of, by what and when, from the provenance of the cube alone. The graph
of the whole cube lies in it as provenance/crate/prov.json (`consolidate/prov_files.py`); it names the tables of scenes
and shards, and not their rows.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from embedcube.cube.provenance import arrays_in
from embedcube.cube.store import CubeStore

RELATIONS: dict[str, tuple[str, str]] = {
    "used": ("prov:activity", "prov:entity"),
    "wasGeneratedBy": ("prov:entity", "prov:activity"),
    "wasDerivedFrom": ("prov:generatedEntity", "prov:usedEntity"),
    "wasInfluencedBy": ("prov:influencee", "prov:influencer"),
    "wasAssociatedWith": ("prov:activity", "prov:agent"),
    "hadMember": ("prov:collection", "prov:entity"),
}
"""Relations of PROV that are used here, with the names of their two ends in PROV-JSON."""


class ProvGraph:
    """A PROV document."""

    def __init__(self, version: str) -> None:
        """An empty one, about the cube of that version."""
        self._nodes: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self._relations: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self._prefix = {
            "cube": f"urn:embedcube:cube:{version}:",
            "scene": "urn:embedcube:scene:",
            "embedcube": "urn:embedcube:terms:",
        }

    def add(self, kind: str, name: str, label: str, facts: Mapping[str, Any]) -> str:
        """Add an `entity`, `activity` or `agent` called "<prefix>:<name>", and return how others name it.

        Facts without a prefix are terms of embedcube; empty ones are left out.
        """
        prefix, _, local = name.partition(":")
        key = f"{prefix}:{quote(local, safe='/._-')}"
        own = {fact if ":" in fact else f"embedcube:{fact}": value for fact, value in facts.items()}
        kept = {fact: value for fact, value in own.items() if value not in (None, "", [])}
        self._nodes[kind][key] = {"prov:label": label} | kept
        return key

    def relate(self, relation: str, first: str, second: str, facts: Mapping[str, Any] | None = None) -> None:
        """Add one of `RELATIONS` between two that were added."""
        ends = dict(zip(RELATIONS[relation], (first, second), strict=True))
        self._relations[relation][f"_:{relation}{len(self._relations[relation]) + 1}"] = ends | dict(facts or {})

    def document(self) -> dict[str, Any]:
        """The document as PROV-JSON."""
        return {"prefix": self._prefix, **self._nodes, **self._relations}

    def to_json(self) -> str:
        """The text of the document, the same for equal graphs."""
        return json.dumps(self.document(), indent=1, sort_keys=True)

    def mermaid(self) -> str:
        """The graph as a flow chart of Mermaid: arrows lead from what was made to what it was made of."""
        number = {key: f"n{i}" for i, key in enumerate(key for own in self._nodes.values() for key in own)}
        boxes = {"entity": '(["{}"])', "activity": '["{}"]', "agent": '{{{{"{}"}}}}'}
        lines = ["flowchart LR"]
        for kind, own in self._nodes.items():
            for key, facts in own.items():
                label = str(facts["prov:label"]).replace('"', "'")
                lines.append(f"  {number[key]}{boxes[kind].format(label)}")
        for relation, links in self._relations.items():
            first, second = RELATIONS[relation]
            for one in links.values():
                lines.append(f"  {number[one[first]]} -- {relation} --> {number[one[second]]}")
                if "prov:plan" in one:
                    lines.append(f"  {number[one[first]]} -- plan --> {number[one['prov:plan']]}")
        return "\n".join(lines)


def dated(moment: str) -> dict[str, str]:
    """A moment (ISO 8601) as a literal of PROV-JSON."""
    return {"$": moment, "type": "xsd:dateTime"}


def typed(name: str) -> dict[str, str]:
    """A name of a type as a literal of PROV-JSON."""
    return {"$": name, "type": "prov:QUALIFIED_NAME"}


def shard_graph(cube: CubeStore, place: tuple[str, int, int, int]) -> ProvGraph:
    """What a shard, given as ("<layer>/<zone>", window, row, column), was made of, by what and when."""
    zone, t, iy, ix = place
    layer, provenance = zone.split("/")[0], cube.provenance
    row = provenance.shard(*place)
    record, about, name = provenance.record(row), provenance.attributes, f"{zone} t{t} y{iy} x{ix}"
    window, path = cube.windows(zone)[t].short, f"{zone}/t{t}/y{iy}/x{ix}"
    graph = ProvGraph(cube.version)
    shard = graph.add(
        "entity", f"cube:{path}", f"shard {name}",
        {"prov:type": typed("prov:Collection"), "recipe": record["recipe"], "window": window},
    )  # fmt: skip
    run = graph.add(
        "activity", f"cube:embed/{path}", f"embed, attempt {record['attempt']}",
        {
            "prov:startTime": record["started"], "prov:endTime": record["finished"], "prov:location": record["host"],
            "device": record["device"], "rank": record["rank"], "job": record["job"], "attempt": record["attempt"],
        },
    )  # fmt: skip
    graph.relate("wasGeneratedBy", shard, run)
    for stored in arrays_in(record):
        if stored["path"]:
            one = graph.add(
                "entity", f"cube:{path}/{stored['array']}", stored["array"],
                {"sha256": stored["sha256"], "bytes": stored["size"]},
            )  # fmt: skip
            graph.relate("hadMember", shard, one)
    weights = graph.add(
        "entity", f"cube:weights/{layer}", f"weights of {layer}",
        {"sha256": about["weights"][layer], "fitted_on": about.get("fitted_on", {}).get(layer, "")},
    )  # fmt: skip
    graph.relate("used", run, weights)
    if program := about.get("programs", {}).get(layer):
        compiled = graph.add("entity", f"cube:program/{layer}", f"program of {layer}", {"sha256": program})
        graph.relate("used", run, compiled)
    _add_scenes(graph, cube, row, record, shard, run)
    software = graph.add(
        "agent", "embedcube:software", f"embedcube {record['code_version']}",
        {"prov:type": typed("prov:SoftwareAgent"), "container_sha256": record["container"], **about["versions"]},
    )  # fmt: skip
    plan = graph.add(
        "entity", "cube:campaign", f"campaign {about['campaign']}",
        {"prov:type": typed("prov:Plan"), "sha256": about["campaign_digest"]},
    )  # fmt: skip
    graph.relate("wasAssociatedWith", run, software, {"prov:plan": plan})
    return graph


def _add_scenes(graph: ProvGraph, cube: CubeStore, row: int, record: Mapping[str, Any], shard: str, run: str) -> None:
    """Add the scenes of a shard: those that were read, and those that could not be read, with the reason."""
    provenance = cube.provenance
    rows, unread = provenance.links(row)
    reasons = {one["scene_digest"]: one["reason"] for one in record["quarantined"]}
    digests = provenance.array("scene_digest")
    for number, failed in zip(rows.tolist(), unread.tolist(), strict=True):
        scene, digest = provenance.scene(number), bytes(digests[number]).hex()
        key = graph.add(
            "entity", f"scene:{scene['archive']}/{scene['id']}", f"scene {scene['id']}",
            {
                "sha256": digest, "time": dated(scene["time"]), "archive": scene["archive"],
                "acquisition": scene["acquisition"], "unread": reasons.get(digest, "") if failed else "",
            },
        )  # fmt: skip
        if failed:
            graph.relate("wasInfluencedBy", shard, key)
        else:
            graph.relate("used", run, key)
            graph.relate("wasDerivedFrom", shard, key)
