"""A bundle with a part of a cube as it is: its files byte for byte, each compared with its digest on the way."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.consolidate.seal import seal_of
from embedcube.cube.arrays import FILES, is_object
from embedcube.cube.listed import is_list
from embedcube.cube.part import part_of
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.progress import Progress
from embedcube.uses.exchange.chosen import Chosen, cells_named, layers_of, samples_in
from embedcube.uses.exchange.manifest import MANIFEST, PART, about_cube, manifest_bytes, request_digest
from embedcube.uses.exchange.zipped import BundleWriter, zip_bytes
from embedcube.uses.pull import Selection, Wanted, digests_in


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, or would be."""

    files: list[Path]
    bytes: int
    """of all files; with `dry_run` as far as it is known beforehand"""
    cells: int
    """cells with a vector; of a part of a cube those of its objects"""
    exact: bool = True
    """whether `bytes` is what the file has, not the most that it may have"""
    kept: int = 0
    """members that an interrupted export had written"""
    measured: dict[str, Any] = field(default_factory=dict)
    """what smaller vectors lose, by layer"""


def export_part(cube: Cube, out: Path, chosen: Chosen, progress: Progress, *, dry_run: bool = False) -> Exported:
    """Write a bundle of the chosen objects, all metadata and the provenance of a cube in a folder.

    Raises:
        RequestError: the cube is elsewhere, has no provenance, or nothing lies in what was chosen.
        WorkError: a file of the cube is damaged or not there.
    """
    folder = cube.path.resolve()
    listing = _list_files(folder)
    sealed = digests_in(listing)
    wanted = [Wanted(name=name, sha256=digest) for name, digest in sorted(sealed.items()) if not is_object(name)]
    objects = _objects(cube, sealed, chosen, folder)
    sizes = _sizes(folder, [*(one.name for one in (*wanted, *objects)), *sorted(listing)])
    layers = layers_of(cube, chosen)
    about = {"kind": PART, **about_cube(cube, layers), "seal": seal_of(folder), "asked": chosen.asked()}
    if dry_run:
        listed = {name: ("0" * 64, size) for name, size in sizes.items()}
        manifest = len(manifest_bytes(about, listed))
        return Exported(files=[out], bytes=zip_bytes({**sizes, MANIFEST: manifest}), cells=0)
    asked = {one.name: one for one in (*wanted, *objects)}
    files: dict[str, tuple[str, int]] = {}
    with closing(BundleWriter(out, request_digest(about))) as writer:
        kept = len(writer.kept)
        for done, name in enumerate(sizes, start=1):
            data = writer.read(name) if writer.has(name) else (folder / name).read_bytes()
            if name in asked and (found := asked[name].digest(data)) != asked[name].sha256:
                raise WorkError(f"{folder.name}/{name}: {found[:12] or 'damaged'}, the provenance has "
                                f"{asked[name].sha256[:12]}; `embedcube verify` says what else is damaged")  # fmt: skip
            writer.add(name, data)
            files[name] = hashlib.sha256(data).hexdigest(), len(data)
            progress(done, len(sizes))
        writer.add(MANIFEST, manifest_bytes(about, files))
        size = writer.finish()
    return Exported(files=[out], bytes=size, cells=0, kept=kept)


def _objects(cube: Cube, sealed: dict[str, str], chosen: Chosen, folder: Path) -> Sequence[Wanted]:
    """The chosen objects; of a part of a cube those that are here."""
    shards = None if not chosen.ids else _shards_named(cube, chosen)
    selection = Selection(
        cube=cube, sealed=sealed, box=chosen.box, time=chosen.time, layers=chosen.layers, shards=shards
    )
    here = part_of(folder)
    found = [one for one in selection.objects() if here is None or one.name in here.objects]
    if not found:
        raise RequestError("no object that is here lies in what was asked for; this is a part of a cube")
    return sorted(found, key=lambda one: one.name)


def _shards_named(cube: Cube, chosen: Chosen) -> Mapping[str, frozenset[tuple[int, int]]]:
    found = {}
    for layer in layers_of(cube, chosen):
        if is_list(zone := cube.zones_of(layer)[0]):
            slots = cube.array(zone, "status").slots
            rows = np.flatnonzero(samples_in(cube, zone, replace(chosen, box=None))) // slots
            found[zone] = frozenset((int(row), 0) for row in rows)
            continue
        for zone, cells in cells_named(cube, layer, chosen.ids).items():
            side = cube.shard_cells(zone)
            found[zone] = frozenset((int(y) // side, int(x) // side) for y, x in cells)
    return found


def _list_files(folder: Path) -> dict[str, bytes]:
    """The files of the array that lists digests, by name."""
    root = folder / "provenance" / FILES
    if not (root / "zarr.json").is_file():
        raise RequestError(f"{folder}: the cube has no provenance, so nothing says what its bytes must be")
    about = json.loads((root / "zarr.json").read_bytes())
    (size,), (chunk,) = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
    names = [f"provenance/{FILES}/zarr.json", *(f"provenance/{FILES}/c/{i}" for i in range(-(-size // chunk)))]
    return {name: (folder / name).read_bytes() for name in names}


def _sizes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    try:
        return {name: (folder / name).stat().st_size for name in names}
    except FileNotFoundError as error:
        raise WorkError(f"{error.filename}: no such file in the cube, its provenance has it; "
                        "`embedcube verify` says what else is not there") from None  # fmt: skip
