"""Arrays of a layer: shapes, chunks and codecs, and the bytes of one shard of each (Zarr v3, sharded)."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from embedcube.cube.encoding import NOT_PROCESSED, Encoding, fill_value
from embedcube.grid import ShardLayout
from embedcube.zones import ObjectShape

CHUNK_BYTES = 1 << 18
"""most bytes of an inner chunk of vectors before compression: reading one point costs as much (docs/adr/0001)"""

FLAT_CHUNK_BYTES = 1 << 15
"""most bytes of an inner chunk of the other arrays before compression: a point of them is little beside its vector"""

COMPRESSION_LEVEL = 1
"""level of zstd (docs/adr/0001)"""

KEY_SEPARATOR = "."
"""All objects of an array lie in one folder: with "/" every shard would need a folder too (docs/adr/0002)."""

_OBJECT = re.compile(r"(?:embedding|scale|status|n_obs)/c(?:\.\d+){2,5}")
ARRAYS = ("embedding", "scale", "status", "n_obs")
"""Names of the arrays of a zone that shards fill."""

FILES = "files"
"""Array of `provenance/` with the digests of all files that no record covers, except the files of this array."""


def file_names(cube: Path) -> set[str]:
    """Relative paths of all files of a cube, except those of the array FILES."""
    names = {str(path.relative_to(cube)) for path in cube.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(f"provenance/{FILES}/")}


def is_object(name: str) -> bool:
    """Whether a file of a cube, given by its relative path, holds cells, not metadata, coordinates or provenance."""
    parts = name.split("/")
    return len(parts) == 4 and parts[0] != "provenance" and _OBJECT.fullmatch("/".join(parts[2:])) is not None


OBJECT_BYTES = 1 << 27
"""most bytes of vectors in an object before compression, where it holds several shards (docs/adr/0013)"""

INDEX_CHUNKS = 1 << 12
"""most chunks in the objects of all arrays of a block of shards: a point needs their indexes, 16 bytes a chunk"""

_MOST_ALONG, _MOST_WINDOWS = 8, 16
"""most shards in an object along each side of a map, and along time: arrays begin at the border of an object, so that
a larger one would put more empty cells around a small region"""


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of a layer, and how it is divided."""

    name: str
    dimensions: tuple[str, ...]
    dtype: str
    fill: float | int
    shard: tuple[int, ...]
    """shape of what is one file, a shard of Zarr: of one shard of work, or in a cube of a block of them"""
    chunk: tuple[int, ...]
    """shape of an inner chunk"""

    @property
    def axes(self) -> int:
        """Number of dimensions without `feature`."""
        return len(self.dimensions) - ("feature" in self.dimensions)

    def key(self, t: int, iy: int, ix: int) -> str:
        """Name of object number `t` along time, `iy` along rows (or samples), `ix` along columns."""
        return object_key(self.name, (t, iy, ix), self.axes)

    def in_objects(self, shape: ObjectShape) -> "ArraySpec":
        """The same array where one object holds so many of the shards that are one object here."""
        along = (shape.windows, shape.rows, shape.cols)[: self.axes]
        return replace(self, shard=(*map(int.__mul__, self.shard, along), *self.shard[len(along) :]))

    def create(self, store: Any, path: str, shape: tuple[int, ...], attributes: dict[str, Any] | None = None) -> Any:
        """Write the array's metadata and return the empty array."""
        return zarr.create_array(
            store,
            name=path or None,
            shape=shape,
            dtype=self.dtype,
            chunks=self.chunk,
            shards=self.shard,
            fill_value=self.fill,
            compressors=[ZstdCodec(level=COMPRESSION_LEVEL)],
            chunk_key_encoding={"name": "default", "separator": KEY_SEPARATOR},
            dimension_names=self.dimensions,
            attributes=attributes or {},
        )


MAP, VECTORS, TOKENS = ("time", "y", "x"), ("time", "sample"), ("time", "sample", "y", "x")
"""Dimensions of a lattice; of a list with one vector for each sample; of a list with several. `feature` comes behind"""


def numbers_of(array: str, place: tuple[int, int, int], axes: int = len(MAP)) -> tuple[int, ...]:
    """Number along each dimension of an array of what is at `place` along time, rows and columns.

    `axes` is the number of dimensions of the zone's arrays without `feature`; a list of samples has no columns.
    """
    within = {len(VECTORS): place[:2], len(MAP): place, len(TOKENS): (*place[:2], 0, 0)}[axes]
    return (*within, 0) if array == "embedding" else within


def object_key(array: str, place: tuple[int, int, int], axes: int = len(MAP)) -> str:
    """Name of the object at `place` along time, rows and columns in one of a layer's arrays; as `numbers_of`."""
    return KEY_SEPARATOR.join(["c", *map(str, numbers_of(array, place, axes))])


def zone_dimensions(layout: ShardLayout) -> tuple[str, ...]:
    """Dimensions of the arrays of a layer's zones, without `feature`."""
    if not layout.apart:
        return MAP
    return VECTORS if layout.chip_cells == 1 else TOKENS


def layer_specs(layout: ShardLayout, *, dimensions: int, encoding: Encoding, windows: int = 1) -> tuple[ArraySpec, ...]:
    """Arrays of a layer whose shards are laid out so, with vectors of `dimensions` numbers, in `windows` windows."""
    if not layout.apart:
        return array_specs(cells=layout.shard_cells, dimensions=dimensions, encoding=encoding, windows=windows)
    named = zone_dimensions(layout)
    within = (layout.chip_cells,) * (len(named) - len(VECTORS))

    def shape(cell_bytes: int, most_bytes: int) -> _Shapes:
        most = most_bytes // (windows * cell_bytes * math.prod(within))
        count = max((n for n in range(1, layout.slots + 1) if layout.slots % n == 0 and n <= most), default=1)
        return (windows, layout.slots, *within), (windows, count, *within)

    return _specs(named, shape, dimensions, encoding)


def array_specs(*, cells: int, dimensions: int, encoding: Encoding, windows: int = 1) -> tuple[ArraySpec, ...]:
    """Arrays of a layer whose shards are `cells` x `cells` cells of `dimensions` numbers in `windows` windows."""

    def shape(cell_bytes: int, most_bytes: int) -> _Shapes:
        side = chunk_cells(cells, windows * cell_bytes, most_bytes)
        return (windows, cells, cells), (windows, side, side)

    return _specs(MAP, shape, dimensions, encoding)


_Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape of an object and of an inner chunk, without features."""


def _specs(
    named: tuple[str, ...], shape: Callable[[int, int], _Shapes], dimensions: int, encoding: Encoding
) -> tuple[ArraySpec, ...]:
    """The arrays; `shape` is called with the bytes of a cell and the most bytes of an inner chunk."""

    def flat(name: str, dtype: str, fill: float | int) -> ArraySpec:
        shard, chunk = shape(np.dtype(dtype).itemsize, FLAT_CHUNK_BYTES)
        return ArraySpec(name=name, dimensions=named, dtype=dtype, fill=fill, shard=shard, chunk=chunk)

    shard, chunk = shape(dimensions * np.dtype(encoding).itemsize, CHUNK_BYTES)
    embedding = ArraySpec(
        name="embedding",
        dimensions=(*named, "feature"),
        dtype=encoding,
        fill=fill_value(encoding),
        shard=(*shard, dimensions),
        chunk=(*chunk, dimensions),
    )
    scale = (flat("scale", "float32", math.nan),) if encoding == "int8" else ()
    return (embedding, *scale, flat("status", "uint8", NOT_PROCESSED), flat("n_obs", "uint16", 0))


def object_shape(layout: ShardLayout, *, dimensions: int, encoding: Encoding, windows: int) -> ObjectShape:
    """How many shards one object of the cube holds, for a layer as `layer_specs` takes it.

    It follows from the bytes and the chunks of a shard alone: so versions of a cube, of any region, can share objects.
    """
    specs = layer_specs(layout, dimensions=dimensions, encoding=encoding, windows=windows)
    vectors, chunks = specs[0], sum(math.prod(spec.shard) // math.prod(spec.chunk) for spec in specs)
    room = OBJECT_BYTES // (math.prod(vectors.shard) * np.dtype(vectors.dtype).itemsize)
    room = max(1, min(room, INDEX_CHUNKS // chunks))
    if vectors.dimensions[: len(MAP)] == MAP:
        rows = cols = min(_MOST_ALONG, _power_of_2(math.isqrt(room)))
        # before windows are added: a cube may have few of them
        cols = min(_MOST_ALONG, 2 * cols) if 2 * rows * cols <= room else cols
    else:
        rows, cols = min(_MOST_ALONG**2, _power_of_2(room)), 1
    return ObjectShape(windows=min(_MOST_WINDOWS, _power_of_2(room // (rows * cols))), rows=rows, cols=cols)


def _power_of_2(most: int) -> int:
    """The largest power of two up to `most`, which is at least 1."""
    return 1 << (most.bit_length() - 1)


def chunk_cells(cells: int, cell_bytes: int, most_bytes: int) -> int:
    """Cells along one side of a chunk: the largest divisor of `cells` with which a chunk has at most `most_bytes`."""
    fitting = [side for side in range(1, cells + 1) if cells % side == 0 and side * side * cell_bytes <= most_bytes]
    return max(fitting, default=1)


class ShardEncoder:
    """Encodes one shard of each array into bytes, a small Zarr shard. Not for several threads at once."""

    def __init__(self, specs: tuple[ArraySpec, ...]) -> None:
        """`specs` are the arrays of one layer."""
        self._stores = {spec.name: MemoryStore() for spec in specs}
        self._arrays = {spec.name: spec.create(self._stores[spec.name], "", spec.shard) for spec in specs}
        self._keys = {spec.name: spec.key(0, 0, 0) for spec in specs}

    def encode(self, values: dict[str, NDArray[Any]]) -> dict[str, bytes | None]:
        """Bytes of each array; None where all values are the fill value (Zarr stores nothing then).

        They are the bytes that zarr-python writes for this shard in an array of any size.
        """
        objects: dict[str, bytes | None] = {}
        for name, array in self._arrays.items():
            held = self._stores[name]._store_dict
            # zarr would read an object of the shard before, if it were still in the store, before it overwrites it
            held.pop(self._keys[name], None)
            array[...] = values[name].reshape(array.shape)
            buffer = held.pop(self._keys[name], None)
            objects[name] = None if buffer is None else buffer.to_bytes()
        return objects


class ShardDecoder:
    """Decodes what `ShardEncoder` has encoded. Not for several threads at once."""

    def __init__(self, specs: tuple[ArraySpec, ...]) -> None:
        """`specs` are the arrays of one layer."""
        self._stores = {spec.name: MemoryStore() for spec in specs}
        self._arrays = {spec.name: spec.create(self._stores[spec.name], "", spec.shard) for spec in specs}
        self._keys = {spec.name: spec.key(0, 0, 0) for spec in specs}

    def decode(self, objects: dict[str, bytes | None]) -> dict[str, NDArray[Any]]:
        """Values of each array; the fill value where there is no object."""
        values = {}
        for name, data in objects.items():
            held = self._stores[name]._store_dict
            held.pop(self._keys[name], None)
            if data is not None:
                held[self._keys[name]] = cpu.Buffer.from_bytes(data)
            values[name] = np.asarray(self._arrays[name][...])
        return values
