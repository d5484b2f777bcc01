"""Rows of provenance, whatever chunks they lie in and in whatever order they are asked for."""

import json

import numpy as np
import zarr
from zarr.storage import MemoryStore

from embedcube.cube.provenance import Provenance


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
