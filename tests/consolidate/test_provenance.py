"""What is written below `provenance/`: the rows of all shards, without holding them all."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

from embedcube.consolidate import provenance
from embedcube.cube.provenance import Provenance

ROWS, BYTES = 64, 100_000


def row(number: int) -> bytes:
    """Bytes of one shard, which do not compress; of some none."""
    return np.random.default_rng(number).bytes(BYTES * (number % 8 > 0))


def test_rows_of_many_shards_are_written_without_holding_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_CHUNK", 1 << 17)
    group = zarr.open_group(tmp_path / "provenance", mode="w", zarr_format=3)
    tracemalloc.start()
    blobs = provenance._Blobs(group, "contributions", [len(row(number)) for number in range(ROWS)])
    for number in range(ROWS):
        blobs.append(row(number))
    blobs.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = Provenance(zarr.storage.LocalStore(tmp_path), "").blobs("contributions")
    assert found == [row(number) for number in range(ROWS)]
    assert peak < ROWS * BYTES / 2
