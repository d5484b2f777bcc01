"""Writes objects of a cube anew after a test has changed what they hold, and lets records say so.

zarr-python puts the chunks of several shards into another order than a cube has them.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from embedcube.campaign.seals import CHECKSUM, to_line
from embedcube.cube.arrays import ArraySpec, ShardEncoder
from embedcube.cube.members import ObjectWriter
from embedcube.cube.reader import Cube

ARRAYS = ("embedding", "scale", "status", "n_obs")

Place = tuple[int, int, int]
"""window, row and column of a shard"""


def members_of(path: Path, zone: str, array: str) -> dict[Place, bytes]:
    """The bytes of one array of each shard that an intact cube speaks of; those with something stored."""
    cube = Cube(path)
    objects = cube.objects(zone, array)
    found = {(t, iy, ix): objects.member((t, iy, ix)) for name, t, iy, ix in cube.provenance.places if name == zone}
    return {place: data for place, data in found.items() if data}


def write_members(path: Path, zone: str, array: str, members: Mapping[Place, bytes]) -> None:
    """Write all objects of an array, of these shards."""
    objects = Cube(path).objects(zone, array)
    of_object: dict[str, dict[tuple[int, ...], bytes]] = defaultdict(dict)
    for place, data in members.items():
        key, at = objects.locate(place)
        of_object[key][at] = data
    for file in (path / zone / array).glob("c.*"):
        file.unlink()
    for key, inside in of_object.items():
        with (path / zone / array / key).open("wb") as stream:
            writer = ObjectWriter(stream, objects.layout)
            for at in sorted(inside):
                writer.add(at, inside[at])
            writer.finish()


def rewrite(path: Path, zone: str) -> None:
    """Write the objects of a zone with the values that zarr-python finds in them, each shard as a rank encodes it."""
    cube = Cube(path)
    cells = cube.shard_cells(zone)
    places = [place for name, *place in cube.provenance.places if name == zone]
    for name in ARRAYS:
        if not (path / zone / name).exists():
            continue
        array: Any = zarr.open_array(path / zone / name, mode="r")
        spec = ArraySpec(
            name=name, dimensions=array.metadata.dimension_names, dtype=str(array.dtype), fill=array.fill_value,
            shard=(1, cells, cells, *array.shape[3:]), chunk=array.chunks,
        )  # fmt: skip
        values, encoder, members = array[...], ShardEncoder((spec,)), {}
        for t, iy, ix in places:
            window = values[t, iy * cells : (iy + 1) * cells, ix * cells : (ix + 1) * cells]
            if data := encoder.encode({name: window})[name]:
                members[t, iy, ix] = data
        write_members(path, zone, name, members)


def records_of(path: Path) -> list[dict[str, Any]]:
    """The records of a cube, without their checksums, in their order."""
    provenance: Any = zarr.open_group(path / "provenance", mode="r")
    data, first = provenance["shard_record"][...].tobytes(), provenance["shard_record_first"][...].tolist()
    records = [json.loads(data[start:end]) for start, end in pairwise(first)]
    for record in records:
        del record[CHECKSUM]
    return records


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the records of a cube, with their checksums."""
    provenance: Any = zarr.open_group(path / "provenance", mode="r+")
    texts = [to_line(record).rstrip() for record in records]
    joined = np.frombuffer(b"".join(texts), dtype=np.uint8)
    provenance.create_array("shard_record", data=joined, overwrite=True)
    provenance.create_array("shard_record_first", data=np.cumsum([0, *map(len, texts)]), overwrite=True)


def restate(path: Path, zone: str) -> int:
    """Let the records say what the objects of their zone hold; returns the bytes of all arrays."""
    members = {name: members_of(path, zone, name) for name in ARRAYS if (path / zone / name).exists()}
    records, written = records_of(path), 0
    for record, (name, *place) in zip(records, Cube(path).provenance.places, strict=True):
        assert name == zone
        for stored in record["arrays"]:
            data = members[stored["array"]].get((place[0], place[1], place[2]), b"")
            written += len(data)
            stored |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            if not data:
                stored["path"] = ""
    write_records(path, records)
    return written
