"""What a bundle says of itself: its member bundle.json, with the digest of every other member and its own checksum."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedcube import __version__
from embedcube.campaign.seals import from_file, to_file
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.uses.exchange.zipped import Members
from embedcube.uses.report.terms import terms_of

MANIFEST = "bundle.json"
FORMAT = "embedcube bundle 1"
PART, REDUCED = "part", "reduced"

_MOST = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The fields of bundle.json that reading needs."""

    kind: str
    """PART: files of the cube as they are; REDUCED: vectors made smaller"""
    cube: str
    """version of the cube"""
    files: dict[str, str]
    """SHA-256 of each other member"""
    document: dict[str, Any]
    """all of it"""


def manifest_bytes(about: Mapping[str, Any], files: Mapping[str, tuple[str, int]]) -> bytes:
    """Bytes of bundle.json; `files` has the SHA-256 and the size of each other member."""
    listed = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in files.items()}
    return to_file({"format": FORMAT, **about, "files": listed})


def read_manifest(members: Members) -> Manifest:
    """What a bundle says of itself.

    Raises:
        RequestError: it is no bundle.
        WorkError: bundle.json is damaged.
    """
    if not members.has(MANIFEST):
        raise RequestError(f"{members.path}: a zip without {MANIFEST}, so no bundle of embedcube")
    try:
        document = from_file(members.read(MANIFEST, _MOST))
        if document["format"] != FORMAT:
            raise RequestError(f"{members.path}: the format {document['format']!r}, this version reads {FORMAT!r}")
        if document["kind"] not in (PART, REDUCED):
            raise ValueError(f"the kind {document['kind']!r}")
        files = {str(name): str(about["sha256"]) for name, about in document["files"].items()}
        return Manifest(kind=document["kind"], cube=str(document["cube"]), files=files, document=document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkError(f"{members.path}: its member {MANIFEST} is damaged ({error}); copy the bundle again") from None


def about_cube(cube: Cube, layers: tuple[str, ...]) -> dict[str, Any]:
    """Where vectors come from and under which terms: for all that leaves a cube."""
    described, uris = {}, []
    for layer in layers:
        attributes = cube.group(cube.zones_of(layer)[0]).attrs
        model, sources = attributes.get("geoemb:model", ""), list(attributes.get("geoemb:source_data", []))
        asked = cube.what["layers"][layer]
        uris += [*sources, *attributes.get("embedcube:models", [model] if model else [])]
        described[layer] = {
            "backbone": attributes.get("embedcube:backbone"),
            "model": model,
            "weights_sha256": attributes.get("embedcube:weights_sha256", ""),
            "sources": sources,
            **{key: asked[key] for key in ("over_time", "reduce", "centre") if asked.get(key)},
        }
    terms = [terms_of(uri) for uri in dict.fromkeys(uris)]
    return {
        "cube": cube.version,
        "campaign": cube.campaign,
        "layers": described,
        "licences": [
            {"name": one.name, "licence": one.licence, "cite": one.cite, "link": one.link} for one in terms
        ],
        "code_version": __version__,
    }  # fmt: skip


def request_digest(about: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the content of a bundle."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
