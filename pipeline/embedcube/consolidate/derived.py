"""Checks of `verify` that need the cube alone: all that follows from what it says of itself is derived again.

A cube whose digests agree may still be wrong: times, places, scenes or settings can be changed together with the
digests. But a recipe is a digest of all that decides the bytes of a shard, and the name of the cube is one of all
recipes and bytes. So who changes one thing must change everything, and has another cube.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pyproj import CRS

from embedcube.campaign.parts import Record, version_of
from embedcube.campaign.plan import digest_of_recipes
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.schema import digest_of
from embedcube.campaign.seals import from_line
from embedcube.consolidate.findings import Finding
from embedcube.consolidate.rebuilt import Rebuilt, rebuild
from embedcube.consolidate.receipt import receipt
from embedcube.consolidate.template import write_template
from embedcube.cube.reader import Cube

_DECIDING = re.compile(
    r"(spatial|geoemb|embedcube):.*|proj:code|units|calendar|bounds|flag_values|flag_meanings|grid_mapping|GeoTransform"
)
"""names of the attributes that decide what the numbers of a cube mean"""

_WKT = {"proj:wkt2", "crs_wkt"}

_VERSION = re.compile(r"[0-9a-f]{12}")
"""a name that says which version a cube is; a user may have given another one"""


def derived(cube: Cube) -> Iterator[Finding]:
    """Check that all parts of a cube follow from its campaign, its scenes and its records.

    Raises:
        RequestError, ValueError, TypeError, KeyError, AttributeError: the cube does not say enough, or its metadata are
            damaged.
    """
    if "planned" not in cube.provenance.attributes:
        yield Finding(
            check="derived", place=cube.version, found="made by an earlier version of embedcube, which did not say how "
            "recipes were made", expected="a cube that can be derived again", remark=True,
        )  # fmt: skip
        return
    said = rebuild(cube)
    yield from _campaign(cube, said)
    yield from _template(cube, said)
    yield from _scenes(cube, said)
    yield from _shards(cube, said)


NO_FILE = "neither a file nor a folder"
"""what is found where a FIFO or a device lies"""


def foreign(cube: Path) -> Iterator[Finding]:
    """Check that a cube holds nothing but files, and folders with files: no link, no empty folder, no device."""
    for folder, folders, files in os.walk(cube):
        where = Path(folder)
        for name in (*folders, *files):
            path = where / name
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                found = "a link" if path.is_symlink() else NO_FILE
                yield Finding(check="files", place=str(path.relative_to(cube)), found=found, expected="a file")
        if not (folders or files):
            yield Finding(check="files", place=str(where.relative_to(cube)), found="an empty folder", expected="none")


def _differs(check: str, place: str, found: Any, expected: Any) -> Iterator[Finding]:
    """A finding where two things are not equal, with the beginning of each."""
    if found != expected:
        yield Finding(check=check, place=place, found=str(found)[:60], expected=str(expected)[:60])


def _campaign(cube: Cube, said: Rebuilt) -> Iterator[Finding]:
    """Check the digests of campaign and plan."""
    about, digest = cube.provenance.attributes, digest_of(cube.what)
    yield from _differs("campaign", "provenance campaign_digest", about["campaign_digest"], digest)
    yield from _differs("campaign", "embedcube:what", said.campaign.digest, digest)
    recipes = [bytes(recipe).hex() for recipe in cube.provenance.array("shard_recipe")]
    yield from _differs("plan", "provenance plan_digest", about["plan_digest"], digest_of_recipes(recipes))
    for name in about.get("weights_kept", []):
        kept = hashlib.sha256(cube.provenance.weights(name) or b"").hexdigest()
        yield from _differs("weights", f"provenance weights of {name}", kept, about["weights"][name])
    yield from _differs("plan", "provenance zones", sorted(about["zones"]), list(cube.zones))


def _template(cube: Cube, said: Rebuilt) -> Iterator[Finding]:
    """Check attributes, coordinates and shapes of groups and arrays against those that `consolidate` would write."""
    with TemporaryDirectory(prefix="embedcube-verify-") as folder:
        path = Path(folder) / "cube.zarr"
        write_template(said.campaign, said.layers, path)
        expected = Cube(path)
        root = _document(cube.path)
        yield from _attributes("the root", root["attributes"], _document(path)["attributes"])
        yield from _differs("derived", "zones", cube.zones, expected.zones)
        for zone in (zone for zone in expected.zones if zone in cube.zones):
            there, here = cube.group(zone), expected.group(zone)
            yield from _attributes(zone, there.attrs.asdict(), here.attrs.asdict())
            yield from _differs("derived", f"{zone} arrays", sorted(there.array_keys()), sorted(here.array_keys()))
            for name, array in sorted(pair for pair in here.arrays() if pair[0] in there):
                found, place = there[name], f"{zone}/{name}"
                yield from _attributes(place, found.attrs.asdict(), array.attrs.asdict())
                for fact in ("shape", "dtype", "chunks", "shards", "fill_value"):
                    # in words: NaN is not equal to itself
                    yield from _differs("derived", f"{place} {fact}", *(str(getattr(a, fact)) for a in (found, array)))
                if found.shape == array.shape and array.shards is None:
                    same = _same(name, found[...], array[...])
                    yield from _differs("derived", place, "other values" if not same else "", "")
    yield from _consolidated(cube, root)


def _same(name: str, found: Any, expected: Any) -> bool:
    """Whether a coordinate is as expected; degrees may differ by rounding between versions of PROJ."""
    if name in ("lon", "lat"):
        return bool(np.allclose(found, expected, rtol=0, atol=1e-9, equal_nan=True))
    return bool(np.array_equal(found, expected))


def _document(cube: Path) -> dict[str, Any]:
    """The metadata of the root, which hold those of all layers too."""
    document: dict[str, Any] = json.loads((cube / "zarr.json").read_bytes())
    return document


def _attributes(place: str, found: dict[str, Any], expected: dict[str, Any]) -> Iterator[Finding]:
    """Check the attributes that decide what numbers mean. Descriptions may differ between versions of libraries."""
    for key in sorted(key for key in found.keys() | expected.keys() if _DECIDING.fullmatch(key)):
        yield from _differs("derived", f"{place} {key}", found.get(key), expected.get(key))
    for key in _WKT & expected.keys():
        # their texts differ between versions of PROJ
        same = key in found and CRS.from_wkt(found[key]) == CRS.from_wkt(expected[key])
        yield from _differs("derived", f"{place} {key}", "another CRS" if not same else "", "")


def _consolidated(cube: Cube, root: dict[str, Any]) -> Iterator[Finding]:
    """Check that the metadata that the root repeats are those of the nodes themselves."""
    repeated = root["consolidated_metadata"]["metadata"]
    for zone in cube.zones:
        group = cube.group(zone)
        nodes = {zone: group} | {f"{zone}/{name}": array for name, array in group.arrays()}
        for name, node in nodes.items():
            found = repeated.get(name, {}).get("attributes", {})
            yield from _differs("derived", f"{name} in the root's metadata", found, node.attrs.asdict())
            if name != zone:
                yield from _differs("derived", f"{name} in the root's metadata", repeated[name]["shape"], [*node.shape])


def _scenes(cube: Cube, said: Rebuilt) -> Iterator[Finding]:
    """Check that the digest of each scene is that of its facts."""
    stored = cube.provenance.array("scene_digest")
    for scene, digest in zip(said.scenes, stored, strict=True):
        yield from _differs("scene", f"{scene.archive}/{scene.id}", bytes(digest).hex()[:12], scene.digest[:12])


def _shards(cube: Cube, said: Rebuilt) -> Iterator[Finding]:
    """Check records, scenes and recipe of each shard, and then the name of the cube and the sums of the records."""
    provenance, about = cube.provenance, cube.provenance.attributes
    recipes = PlannedRecipes(said.campaign, said, said.scenes)
    stored, records = provenance.array("shard_recipe"), {}
    windows, digest_of_scene = said.campaign.all_windows, [scene.digest for scene in said.scenes]
    for place, row in provenance.places.items():
        rows, quarantined = provenance.links(row)
        shard = said.shard(place, stored[row], rows)
        yield from _differs("recipe", str(shard), shard.recipe[:12], recipes.derive(shard)[:12])
        outside = [said.scenes[i].id for i in shard.scenes if not said.scenes[i].meets(windows[shard.t])]
        yield from _differs("scene", str(shard), outside, [])
        if (document := from_line(provenance.record_line(row))) is None:
            yield Finding(check="record", place=str(shard), found="another checksum", expected="its own")
            continue
        records[row] = record = Record.from_document(document)
        yield from _differs("record", f"{shard} recipe", record.recipe, shard.recipe)
        digests = [digest_of_scene[i] for i in shard.scenes]
        yield from _differs("record", f"{shard} scenes", list(record.scenes), digests)
        unread = {digest for digest, unread in zip(digests, quarantined.tolist(), strict=True) if unread}
        yield from _differs("record", f"{shard} quarantined", {q.scene_digest for q in record.quarantined}, unread)
    if len(records) < len(provenance.places):
        return
    yield from _differs("record", "receipt", about["receipt"], receipt([records[row] for row in sorted(records)]))
    for zone in cube.zones:
        own = [records[row] for (of, *_), row in provenance.places.items() if of == zone]
        yield from _differs("record", f"{zone} receipt", about["receipts"][zone], receipt(own))
    if _VERSION.fullmatch(cube.version):
        version = version_of(said.campaign, said.layers, records.values())
        yield from _differs("version", "name of the cube", cube.version, version)
