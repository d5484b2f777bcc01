"""Cubes whose metadata lie: `pull` and `open_cube` refuse them by name, before memory is taken for what they claim."""

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import embedcube
from embedcube.cube.provenance import Provenance
from embedcube.cube.reader import Cube
from embedcube.errors import EmbedcubeError, RequestError, WorkError
from embedcube.progress import silent
from embedcube.uses.pull import Selection, pull
from embedcube.uses.remote import Address

ZONE = "s2/utm32"

HUGE = 10**12

Document = dict[str, Any]


def set_at(*path: Any) -> Callable[[Document], None]:
    """What sets a value, the last of `path`, at a place of a document."""

    def change(document: Document) -> None:
        *way, last, value = path
        for step in way:
            document = document[step]
        document[last] = value

    return change


INNER = ("codecs", 0, "configuration")

LIES: dict[str, tuple[str, Callable[[Document], None], str]] = {
    "many rows": (f"{ZONE}/embedding", set_at("shape", 1, HUGE), "utm32/embedding: .* rows"),
    "many windows": (f"{ZONE}/embedding", set_at("shape", 0, HUGE), "utm32/embedding: .* windows"),
    "many features": (f"{ZONE}/embedding", set_at("shape", 3, HUGE), "utm32/embedding: .* features"),
    "a negative shape": (f"{ZONE}/status", set_at("shape", 1, -80), "not a cube that can be read|utm32/status"),
    "a shape of words": (f"{ZONE}/status", set_at("shape", 1, "many"), "not a cube that can be read|utm32/status"),
    "no chunks": (f"{ZONE}/embedding", set_at(*INNER, "chunk_shape", [1, 0, 16, 16]), "not a cube that|embedding"),
    "no objects": (
        f"{ZONE}/embedding", set_at("chunk_grid", "configuration", "chunk_shape", [1, 0, 16, 16]), "not a cube|embedd"
    ),
    "huge chunks": (
        f"{ZONE}/embedding",
        lambda d: (
            set_at("chunk_grid", "configuration", "chunk_shape", [1, 1 << 16, 1 << 16, 16])(d),
            set_at(*INNER, "chunk_shape", [1, 1 << 16, 1 << 16, 16])(d),
        )[0],
        "utm32/embedding: .* bytes in a chunk",
    ),
    "many chunks": (
        f"{ZONE}/embedding",
        set_at("chunk_grid", "configuration", "chunk_shape", [1, 1 << 20, 1 << 20, 16]),
        "utm32/embedding: .* chunks in an object",
    ),
    "another codec": (f"{ZONE}/embedding", set_at("codecs", [{"name": "evil"}]), "not a cube|embedding.*evil"),
    "another type": (f"{ZONE}/embedding", set_at("data_type", "float64"), "utm32/embedding: numbers of type float64"),
    "no such type": (f"{ZONE}/scale", set_at("data_type", "evil"), "not a cube|utm32/scale"),
    "another rank": (
        f"{ZONE}/n_obs",
        lambda d: d.update(json.loads(json.dumps(d).replace("[3, 80, 80]", "[3, 80]").replace("[1, 16, 16]", "[1, 16]"))
                           | {"dimension_names": ["time", "y"]}),
        "utm32/n_obs: 2 dimensions",
    ),
    "many times": (f"{ZONE}/time_bnds", set_at("shape", 0, HUGE), "utm32/time_bnds"),
    "other times": (f"{ZONE}/time_bnds", set_at("shape", 0, 4), "utm32/time_bnds is .4, 2., the vectors have 3"),
    "other cells": (ZONE, set_at("attributes", "spatial:shape", [HUGE, 80]), "spatial:shape is 1000000000000 x 80"),
    "no place": (ZONE, set_at("attributes", "spatial:transform", [160, 0, "x", 0, -160, 0]), "where its cells are"),
    "a place of NaN": (ZONE, set_at("attributes", "spatial:bbox", ["nan"] * 4), "say of no place where it is"),
    "no attributes": (ZONE, set_at("attributes", {}), "where its cells are"),
    "many shards": ("provenance/shard_zone", set_at("shape", 0, HUGE), "provenance/shard_zone: .* bytes"),
    "huge chunks of records": (
        "provenance/shard_record", set_at("chunk_grid", "configuration", "chunk_shape", [HUGE]),
        "provenance/shard_record: .* bytes in a chunk",
    ),
}  # fmt: skip


def lying(two_zones: Path, folder: Path, node: str, change: Callable[[Document], None]) -> Path:
    """A copy of the cube in which one node lies, wherever it is repeated; sealed as if its maker had written it so."""
    cube = folder / "cube.zarr"
    shutil.copytree(two_zones, cube, copy_function=os.link)
    changed = {}
    for file in cube.rglob("zarr.json"):
        name = str(file.parent.relative_to(cube))
        document = json.loads(file.read_bytes())
        consolidated = (document.get("consolidated_metadata") or {}).get("metadata", {})
        below = node if name == "." else node.removeprefix(f"{name}/")
        places = ([document] if name == node else []) + ([consolidated[below]] if below in consolidated else [])
        for place in places:
            change(place)
        if places:
            file.unlink()  # it is the file of the cube that all tests share
            file.write_text(json.dumps(document))
            changed[str(file.relative_to(cube))] = hashlib.sha256(file.read_bytes()).hexdigest()
    # the provenance is not repeated in the root
    assert len(changed) >= (1 if node.startswith("provenance") else 2)
    provenance: Any = zarr.open_group(cube / "provenance", mode="r+", zarr_format=3, use_consolidated=False)
    sealed = json.loads(provenance["files"][...].tobytes())
    assert changed.keys() <= sealed.keys()
    listed = np.frombuffer(json.dumps(sealed | changed).encode(), np.uint8)
    del provenance["files"]
    provenance.create_array("files", data=listed, chunks=listed.shape)
    return cube


def use(cube: Path) -> None:
    """Ask a cube for what touches all of its arrays."""
    opened = embedcube.open_cube(cube)
    opened.layer.sample([(11.99, 50.0)])
    opened.layer.window((11.9, 49.9, 12.1, 50.1), "2023-06")
    opened.explain(lon=11.99, lat=50.0, time="2023-06")


@pytest.mark.parametrize("lie", LIES)
def test_a_cube_that_lies_is_refused_by_name_and_in_little_memory(two_zones: Path, tmp_path: Path, lie: str) -> None:
    node, change, words = LIES[lie]
    cube = lying(two_zones, tmp_path, node, change)
    tracemalloc.start()
    with pytest.raises(RequestError, match=words):
        pull(Address(url=str(cube)), tmp_path / "copy", silent, time="2023-06", box=(11.9, 49.9, 12.1, 50.1))
    with pytest.raises(RequestError):
        use(cube)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64e6


def chunked(size: int) -> Document:
    """What metadata say of chunks of one size."""
    return {"chunk_grid": {"configuration": {"chunk_shape": [size]}}}


LISTS: dict[str, Callable[[str], str]] = {
    "no chunks": lambda text: json.dumps(json.loads(text) | {"chunk_grid": {"configuration": {"chunk_shape": [0]}}}),
    "negative chunks": lambda text: json.dumps(
        json.loads(text) | {"chunk_grid": {"configuration": {"chunk_shape": [-7]}}}
    ),
    "a huge list": lambda text: json.dumps(json.loads(text) | {"shape": [10**15]}),
    "many chunks": lambda text: json.dumps(json.loads(text) | {"shape": [10**9]} | chunked(1)),
    "no shape": lambda text: json.dumps(json.loads(text) | {"shape": []}),
    "words": lambda text: json.dumps(json.loads(text) | {"shape": ["many"]}),
    "another codec": lambda text: text.replace('"zstd"', '"evil"'),
    "another type": lambda text: text.replace('"uint8"', '"float64"'),
    "no JSON": lambda text: "{",
    "deep JSON": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("lie", LISTS)
def test_a_list_of_files_that_lies_is_refused(two_zones: Path, tmp_path: Path, lie: str) -> None:
    cube = tmp_path / "cube.zarr"
    shutil.copytree(two_zones, cube)
    file = cube / "provenance" / "files" / "zarr.json"
    file.chmod(0o644)
    file.write_text(LISTS[lie](file.read_text()))
    tracemalloc.start()
    with pytest.raises(WorkError, match=r"provenance/files of the remote cube is damaged"):
        pull(Address(url=str(cube)), tmp_path / "copy", silent)
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()


def test_a_root_that_is_deep_or_no_json_is_refused(two_zones: Path, tmp_path: Path) -> None:
    cube = tmp_path / "cube.zarr"
    shutil.copytree(two_zones, cube)
    (cube / "zarr.json").chmod(0o644)
    for text in ("[" * 100_000, "{", "[]", '{"zarr_format": 3, "node_type": "group", "consolidated_metadata": 7}'):
        (cube / "zarr.json").write_text(text)
        with pytest.raises(EmbedcubeError, match="not a cube"):
            embedcube.open_cube(cube)


@pytest.mark.parametrize(("size", "words"), [(10**15, ""), (-1, "-1 bytes"), ("9", "of 9 bytes"), (True, "True bytes")])
def test_the_size_in_a_record_is_bounded_and_only_records_of_the_box_are_read(
    two_zones: Path, size: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube, plain = Cube(two_zones), Provenance.rows_of
    rows: set[int] = set()

    def lying(provenance: Provenance, name: str, first: int, last: int) -> list[bytes]:
        rows.update(range(first, last))
        texts = [json.loads(text) for text in plain(provenance, name, first, last)]
        told = [one | {"arrays": [each | {"size": size} for each in one["arrays"]]} for one in texts]
        return [json.dumps(one).encode() for one in told]

    monkeypatch.setattr(Provenance, "rows_of", lying)
    selection = Selection(cube=cube, sealed={}, box=(11.9, 49.97, 11.96, 50.0), time="2023-06")
    if words:
        with pytest.raises(RequestError, match=words):
            selection.objects()
    else:
        assert {one.most for one in selection.objects()} == {1 << 31}
        assert 0 < len(rows) < cube.provenance.shards_in(ZONE) / 3
