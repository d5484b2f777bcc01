"""The RO-Crate of a cube: `provenance/crate` as a Provenance Run Crate (Workflow Run RO-Crate 0.5, on RO-Crate 1.1).

The campaign is the workflow, the backbone of each layer a tool that it runs. Scenes, shards and layers are collections
whose members are rows of tables; these lie outside of the crate's folder, so they are told in words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedcube.campaign.parts import Record
from embedcube.campaign.schema import Archive, Campaign
from embedcube.consolidate.receipt import receipt

_RUN_TERMS = "https://w3id.org/ro/terms/workflow-run#"

CONTEXT: list[Any] = [
    "https://w3id.org/ro/crate/1.1/context",
    {
        name: f"{_RUN_TERMS}{name}"
        for name in ("ContainerImage", "SIFImage", "containerImage", "resourceUsage", "sha256", "registry")
    },
]
"""The context of RO-Crate 1.1, and terms of workflow runs that it has not."""

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}

_UNITS = {"device_s": "https://qudt.org/vocab/unit/SEC", "energy_kwh": "https://qudt.org/vocab/unit/KiloW-HR"}

CAMPAIGN, PROV = "campaign.json", "prov.json"
"""The files beside it."""

TABLES = {
    "scene": "the inventory: one JSON text for each scene",
    "shard_record": "the records: one JSON text for each shard",
    "link_scene": "which scenes each shard was made of",
}
"""Arrays of `provenance/` that other tools are pointed to; with `<name>_first` a row of a text is found."""


@dataclass(frozen=True, kw_only=True)
class RunOfLayer:
    """How a layer was computed."""

    name: str
    backbone: str
    archives: tuple[str, ...]
    weights: str
    """SHA-256 of the weights file"""
    records: Sequence[Record]
    """of its shards; a record may name its layer otherwise, as it was called when the shard was embedded"""

    @property
    def started(self) -> str:
        """When the first shard was begun; there must be records."""
        return min(record.started for record in self.records)

    @property
    def finished(self) -> str:
        """When the last shard was done; there must be records."""
        return max(record.finished for record in self.records)

    @property
    def devices(self) -> list[str]:
        """Classes of devices."""
        return sorted({record.device for record in self.records})

    @property
    def code_versions(self) -> list[str]:
        """Versions of embedcube."""
        return sorted({record.code_version for record in self.records})

    @property
    def containers(self) -> list[str]:
        """Digests of the images of containers."""
        return sorted({record.container for record in self.records if record.container})


@dataclass(frozen=True, kw_only=True)
class RunOfCube:
    """How a cube was computed: what the files for other tools are made from."""

    campaign: Campaign
    version: str
    """name of the cube"""
    scenes: int
    """number of scenes of the inventory"""
    software: Mapping[str, str]
    """versions by package"""
    layers: Sequence[RunOfLayer]


def crate_of(run: RunOfCube, digests: Mapping[str, str]) -> dict[str, Any]:
    """The content of ro-crate-metadata.json; `digests` are the SHA-256 of the files beside it, by name."""
    layers = [layer for layer in run.layers if layer.records]
    actions = [_run(run, layers), *(_embed(layer) for layer in layers)] if layers else []
    collections = [*_archives(run.campaign.archives), *_made(run)]
    name = run.campaign.campaign
    root = {
        "@id": "./", "@type": "Dataset", "name": f"Provenance of cube {run.version}",
        "description": f"How the embeddings of campaign {name} were made: scenes, shards, software, devices",
        "datePublished": max((layer.finished for layer in layers), default="1970-01-01")[:10],
        "license": "other: the terms of the inputs hold", "conformsTo": _ids(PROFILES),
        "hasPart": _ids([CAMPAIGN, PROV]),
        "mainEntity": {"@id": CAMPAIGN}, "mentions": _ids([one["@id"] for one in (*actions, *collections)]),
    }  # fmt: skip
    descriptor = {
        "@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": _ids(["https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"]),
    }  # fmt: skip
    profiles = [
        {"@id": profile, "@type": "CreativeWork", "name": name, "version": version}
        for profile, (name, version) in PROFILES.items()
    ]
    tables = [
        {"@id": f"#table/{table}", "@type": "CreativeWork", "name": f"provenance/{table}", "description": words}
        for table, words in TABLES.items()
    ]
    prov = {
        "@id": PROV, "@type": "File", "name": "W3C PROV-JSON of the cube", "encodingFormat": "application/json",
        "description": "The same as a graph of W3C PROV", "sha256": digests[PROV],
    }  # fmt: skip
    entities = [
        descriptor, root, *profiles, prov, *tables, *_workflow(run.campaign, layers, digests[CAMPAIGN]), *collections,
        *actions, *(entity for layer in layers for entity in _details(layer)),
    ]  # fmt: skip
    return {"@context": CONTEXT, "@graph": entities}


def _ids(names: Iterable[str]) -> Any:
    """References to entities: a list, but for one alone, as RO-Crate wants it."""
    found = [{"@id": name} for name in names]
    return found[0] if len(found) == 1 else found


def _workflow(campaign: Campaign, layers: Sequence[RunOfLayer], digest: str) -> list[dict[str, Any]]:
    """The campaign, what goes in and out of it, its language, and the tools that it runs."""
    language: dict[str, Any] = {"@id": "#language", "@type": "ComputerLanguage", "name": "campaign file of embedcube"}
    inputs = [
        {
            "@id": f"#input/{name}", "@type": "FormalParameter", "name": name, "additionalType": "Collection",
            "description": f"scenes of the archive {name}", "workExample": {"@id": f"#archive/{name}"},
            "valueRequired": True,
        }
        for name in campaign.archives
    ]  # fmt: skip
    output = {
        "@id": "#output/cube", "@type": "FormalParameter", "name": "cube", "additionalType": "Collection",
        "description": "the layers of the cube", "workExample": {"@id": "#cube"},
    }  # fmt: skip
    tools = [
        {
            "@id": f"#tool/{layer.name}", "@type": "SoftwareApplication", "name": f"{layer.backbone} of {layer.name}",
            "description": f"backbone {layer.backbone} with the weights {layer.weights}",
            "softwareVersion": ", ".join(layer.code_versions),
        }
        for layer in layers
    ]  # fmt: skip
    workflow = {
        "@id": CAMPAIGN, "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": f"campaign {campaign.campaign}", "programmingLanguage": {"@id": "#language"},
        "description": "What was asked: archives, grid, windows, layers; paths of archives are left out",
        "version": campaign.digest, "sha256": digest, "encodingFormat": "application/json",
        "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
        "hasPart": _ids(f"#tool/{layer.name}" for layer in layers),
        "input": _ids(f"#input/{name}" for name in campaign.archives), "output": _ids(["#output/cube"]),
    }  # fmt: skip
    return [workflow, language, *inputs, output, *tools]


def _archives(archives: Mapping[str, Archive]) -> list[dict[str, Any]]:
    return [
        {
            "@id": f"#archive/{name}", "@type": "Collection", "name": f"scenes of {name}",
            "hasPart": _ids(["#table/scene"]), "mainEntity": {"@id": "#table/scene"},
            "exampleOfWork": {"@id": f"#input/{name}"},
            "description": f"archive read as {block.source}: bands {', '.join(block.bands)}",
        }
        for name, block in archives.items()
    ]  # fmt: skip


def _made(run: RunOfCube) -> list[dict[str, Any]]:
    """The cube and its layers."""
    layers = [
        {
            "@id": f"#layer/{layer.name}", "@type": "Collection", "name": f"layer {layer.name}",
            "description": f"{len(layer.records)} shards of the group {layer.name} of the cube",
            "hasPart": _ids(["#table/shard_record", "#table/link_scene"]), "mainEntity": {"@id": "#table/shard_record"},
        }
        for layer in run.layers
    ]  # fmt: skip
    cube = {
        "@id": "#cube", "@type": "Collection", "name": f"cube {run.version}", "version": run.version,
        "description": "the Zarr store around the folder provenance/",
        "hasPart": _ids(f"#layer/{layer.name}" for layer in run.layers),
        "mainEntity": {"@id": "#table/shard_record"}, "exampleOfWork": {"@id": "#output/cube"},
    }  # fmt: skip
    return [cube, *layers]


def _run(run: RunOfCube, layers: Sequence[RunOfLayer]) -> dict[str, Any]:
    """The execution of the campaign."""
    software = ", ".join(f"{name} {version}" for name, version in sorted(run.software.items()))
    return {
        "@id": "#run", "@type": "CreateAction", "name": f"run of campaign {run.campaign.campaign}",
        "description": f"all shards of all layers, with {software}", "instrument": {"@id": CAMPAIGN},
        "object": _ids([f"#archive/{name}" for name in run.campaign.archives]), "result": _ids(["#cube"]),
        "startTime": min(layer.started for layer in layers), "endTime": max(layer.finished for layer in layers),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }  # fmt: skip


def _embed(layer: RunOfLayer) -> dict[str, Any]:
    """The execution of a tool of the campaign."""
    images = _ids(f"#image/{digest}" for digest in layer.containers)
    return {
        "@id": f"#embed/{layer.name}", "@type": "CreateAction", "name": f"embed {layer.name}",
        "description": f"{len(layer.records)} shards on {', '.join(layer.devices)}",
        "instrument": {"@id": f"#tool/{layer.name}"}, "object": _ids([f"#archive/{name}" for name in layer.archives]),
        "result": _ids([f"#layer/{layer.name}"]), "startTime": layer.started, "endTime": layer.finished,
        "resourceUsage": _ids([usage["@id"] for usage in _usage(layer)]),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    } | ({"containerImage": images} if images else {})  # fmt: skip


def _details(layer: RunOfLayer) -> list[dict[str, Any]]:
    """What the execution of a layer used: time, energy, images of containers."""
    images = [
        {
            "@id": f"#image/{digest}", "@type": "ContainerImage", "additionalType": {"@id": f"{_RUN_TERMS}SIFImage"},
            "name": f"image of {layer.name}", "sha256": digest,
        }
        for digest in layer.containers
    ]  # fmt: skip
    return [*_usage(layer), *images]


def _usage(layer: RunOfLayer) -> list[dict[str, Any]]:
    used = receipt(layer.records)
    return [
        {
            "@id": f"#usage/{layer.name}/{name}", "@type": "PropertyValue", "name": name, "propertyID": name,
            "value": str(used[name]), "unitCode": unit,
        }
        for name, unit in _UNITS.items()
        if used[name] is not None
    ]  # fmt: skip
