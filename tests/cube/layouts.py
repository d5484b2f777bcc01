"""Vectors in two layouts: a file for each shard and array, and objects that hold blocks of shards, as in a cube."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from embedcube.cube.arrays import ArraySpec, ShardEncoder, array_specs, numbers_of
from embedcube.cube.encoding import VALID
from embedcube.cube.members import ObjectLayout, ObjectWriter
from embedcube.zones import ObjectShape

Values = dict[str, NDArray[Any]]
Place = tuple[int, int, int]

KINDS = 4
"""shards with values of their own; the others repeat them"""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Shards of int8 vectors in some blocks. Corners of shards are empty, every fifth shard is, and the last block."""

    cells: int
    dimensions: int
    objects: ObjectShape
    blocks: Place
    """objects along time, rows and columns"""

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The arrays of one shard."""
        return array_specs(cells=self.cells, dimensions=self.dimensions, encoding="int8")

    @property
    def shards(self) -> Place:
        """Shards along time, rows and columns."""
        t, y, x = self.blocks
        return t * self.objects.windows, y * self.objects.rows, x * self.objects.cols

    def shape(self, spec: ArraySpec) -> tuple[int, ...]:
        """Shape of one of the whole arrays."""
        t, y, x = self.shards
        return (t, y * self.cells, x * self.cells, *spec.shard[3:])

    def members(self, block: Place) -> list[tuple[Place, Place, int]]:
        """Place within the block, place in all, and kind of the shards of a block that have values."""
        if block == tuple(count - 1 for count in self.blocks):
            return []
        along = (self.objects.windows, self.objects.rows, self.objects.cols)
        found = []
        for t, y, x in np.ndindex(along):
            place = (block[0] * along[0] + t, block[1] * along[1] + y, block[2] * along[2] + x)
            number = int(np.ravel_multi_index(place, self.shards))
            if number % 5 != 1:
                found.append(((t, y, x), place, number % KINDS))
        return found

    def kinds(self) -> list[Values]:
        """Values of the shards, by their kind: vectors that vary smoothly from cell to cell, as those of ground do."""
        rng = np.random.default_rng(0)
        kinds = []
        for number in range(KINDS):
            coarse = rng.standard_normal((-(-self.cells // 4),) * 2 + (self.dimensions,), dtype=np.float32)
            smooth = coarse.repeat(4, axis=0).repeat(4, axis=1)[: self.cells, : self.cells]
            vectors = smooth + 0.5 * rng.standard_normal(smooth.shape, dtype=np.float32)
            scale = np.abs(vectors).max(axis=-1) / np.float32(127)
            values: Values = {
                "embedding": np.rint(vectors / scale[..., None]).astype(np.int8),
                "scale": scale,
                "status": np.full(scale.shape, VALID, np.uint8),
                "n_obs": rng.integers(1, 9, scale.shape).astype(np.uint16),
            }
            for spec in self.specs:
                values[spec.name][number * self.cells // 8 :, self.cells // 2 :] = spec.fill
            kinds.append(values)
        return kinds

    def whole(self) -> Values:
        """The values of all arrays."""
        whole = {spec.name: np.full(self.shape(spec), spec.fill, spec.dtype) for spec in self.specs}
        kinds, n = self.kinds(), self.cells
        for block in np.ndindex(self.blocks):
            for _, (t, y, x), kind in self.members(block):
                for name, values in kinds[kind].items():
                    whole[name][t, y * n : (y + 1) * n, x * n : (x + 1) * n] = values
        return whole

    def write(self, shards: Path, objects: Path) -> None:
        """Write two groups: one with a file for each shard and array, one with objects. No member is encoded twice."""
        encoder = ShardEncoder(self.specs)
        encoded = [encoder.encode(values) for values in self.kinds()]
        for spec in self.specs:
            in_objects = spec.in_objects(self.objects)
            for path, one in ((shards, spec), (objects, in_objects)):
                zarr.open_group(path, mode="a", zarr_format=3)
                one.create(zarr.storage.LocalStore(path), spec.name, self.shape(spec))
            layout = ObjectLayout.of_spec(in_objects, self.cells)
            for block in np.ndindex(self.blocks):
                members = self.members(block)
                for _, place, kind in members:
                    (shards / spec.name / spec.key(*place)).write_bytes(encoded[kind][spec.name] or b"")
                if members:
                    with (objects / spec.name / spec.key(*block)).open("xb") as file:
                        writer = ObjectWriter(file, layout)
                        for at, _, kind in members:
                            writer.add(numbers_of(spec.name, at), encoded[kind][spec.name] or b"")
                        writer.finish()
