"""Rows of provenance, whatever chunks they lie in and in whatever order they are asked for."""

import json
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from embedcube.cube.provenance import Provenance
from embedcube.errors import RequestError


def test_rows_are_read_across_chunks_in_any_order() -> None:
    texts = [json.dumps({"id": "x" * length, "row": row}) for row, length in enumerate((0, 30, 3, 90, 1, 7))]
    data = np.frombuffer("".join(texts).encode(), np.uint8)
    firsts = np.cumsum([0, *map(len, texts)])
    store = MemoryStore()
    group = zarr.open_group(store, path="provenance", mode="w", zarr_format=3)
    group.create_array("scene", data=data, chunks=(16,))
    group.create_array("scene_first", data=firsts, chunks=(2,))
    provenance = Provenance(store, "memory")
    for row in (0, 5, 3, 3, 1, 4, 2, 0):
        assert provenance.scene(row) == json.loads(texts[row])


def places(count: int) -> tuple[Any, Provenance]:
    """A group with the places of shards in two zones, and its reader."""
    store = MemoryStore()
    group: Any = zarr.open_group(store, path="provenance", mode="w", zarr_format=3)
    group.update_attributes({"zones": ["a/b", "c/d"]})
    rows = np.arange(count, dtype=np.int32)
    columns = {"zone": (rows % 2).astype(np.uint16), "t": rows // 2 % 3, "iy": rows // 6 % 50, "ix": rows // 300}
    for name, column in columns.items():
        group.create_array(f"shard_{name}", data=column)
    return group, Provenance(store, "memory")


def test_a_shard_is_found_by_its_place_in_little_memory() -> None:
    import tracemalloc

    _, provenance = places(60_000)
    tracemalloc.start()
    assert provenance.shard("c/d", 2, 7, 11) == 1 + 2 * 2 + 6 * 7 + 300 * 11
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100 * 60_000
    for place in (("c/d", 3, 7, 11), ("e/f", 0, 0, 0), ("a/b", -1, 0, 0)):
        with pytest.raises(RequestError, match="no shard was planned at window"):
            provenance.shard(*place)
    rows, found = provenance.shards_of("a/b")
    assert {("a/b", *place): row for place, row in zip(map(tuple, found.tolist()), rows.tolist(), strict=True)} == {
        place: row for place, row in provenance.places.items() if place[0] == "a/b"
    }


def test_rows_that_lie_outside_of_their_array_or_in_huge_chunks_are_refused() -> None:
    group, provenance = places(6)
    group.create_array("scene", shape=(10**12,), dtype="uint8", chunks=(1 << 20,))
    group.create_array("scene_first", data=np.array([0, 10**12, 4, -3]))
    group.create_array("link_scene", shape=(8,), dtype="int32", chunks=(1 << 40,))
    for row, words in ((0, "provenance/scene: .* bytes, at most"), (1, "rows 1000000000000 to 4"), (2, "rows 4 to -3")):
        with pytest.raises(RequestError, match=words):
            provenance.scene(row)
    group.create_array("link_first", data=np.array([0, 8]))
    group.create_array("link_quarantined", data=np.zeros(8, np.uint8))
    with pytest.raises(RequestError, match=r"provenance/link_scene: .* bytes in a chunk"):
        provenance.links(0)
