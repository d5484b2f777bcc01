"""The vector index beside a cube, `<version>.find/`: its files and their reader. `uses/segments.py` makes them.

    index.json                                 layers: centroids, and the segments with their places and digests
    <layer>/<digest>.centroids.safetensors     centroids int8 (list, feature)
    <layer>/<digest>.segment.safetensors       the valid vectors of a block of cells in one window, list by list, and
                                               in a centred layer the scale of each, without which it has no direction

A segment holds the vectors as the cube stores them, so a search that reads all of them is exact. Its name is the digest
of all that decides its bytes; nothing in it depends on the version of the cube, so versions share segments.
"""

import hashlib
import json
import mmap
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.errors import WorkError

FIND_VERSION = 1
"""Version of the format and of the way in which cells are put into lists: a part of the name of each segment."""

INCOMPLETE = 1 << 31
"""Bit of `cell` that says status valid_incomplete."""

ABSENT = 0xFFFFFFFF
"""Value of `row` where a cell has no vector."""

_TYPES = {"I8": "int8", "F16": "<f2", "F32": "<f4", "U32": "<u4", "I64": "<i8"}
"""types of numbers of a safetensors file that occur here"""


def find_folder(cube: Path) -> Path:
    """Folder of the vector index of a cube: beside it, never inside."""
    resolved = cube.resolve()
    return resolved.with_name(f"{resolved.stem}.find")


def segment_file(folder: Path, layer: str, name: str) -> Path:
    """File of a segment in the folder of an index."""
    return folder / layer / f"{name}.segment.safetensors"


def centroids_file(folder: Path, layer: str, digest: str) -> Path:
    """File of the centroids of a layer in the folder of an index."""
    return folder / layer / f"{digest}.centroids.safetensors"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class SegmentEntry:
    """One segment as index.json lists it."""

    name: str
    """digest of all that decides its bytes"""
    sha256: str
    """of the file"""
    zone: str
    """path of the group: "<layer>/<zone>" """
    t: int
    """index of the window"""
    y: int
    """row of the cube's arrays at which the segment begins"""
    x: int
    height: int
    """rows of cells"""
    width: int
    cells: int
    """number of cells with a vector"""


@dataclass(frozen=True, kw_only=True)
class LayerIndex:
    """One layer as index.json lists it."""

    weights: str
    """digest of the weights of the layer's encoder"""
    centroids: str
    """SHA-256 of the file of the centroids"""
    segments: tuple[SegmentEntry, ...]


def write_index(layers: dict[str, LayerIndex]) -> bytes:
    """Bytes of index.json, with a checksum of its own."""
    body = {"find_version": FIND_VERSION, "layers": {name: asdict(layers[name]) for name in sorted(layers)}}
    return json.dumps(body | {"sha256": _checksum(body)}, indent=1).encode()


def read_index(folder: Path) -> dict[str, LayerIndex]:
    """Layers of an index by name; empty where there is no index, or one of another FIND_VERSION.

    Raises:
        WorkError: index.json is damaged.
    """
    path = folder / "index.json"
    try:
        body = json.loads(path.read_bytes())
        if body["find_version"] != FIND_VERSION:
            return {}
        if body.pop("sha256") != _checksum(body):
            raise ValueError("checksum")
        return {
            name: LayerIndex(
                weights=layer["weights"],
                centroids=layer["centroids"],
                segments=tuple(SegmentEntry(**entry) for entry in layer["segments"]),
            )
            for name, layer in body["layers"].items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise WorkError(
            f"{path} is damaged; remove it and run `embedcube index-vectors` again: segments stay"
        ) from None


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], mmap.mmap]:
    """Arrays of a safetensors file, memory-mapped, and the mapping.

    Raises:
        WorkError: the file is missing, cut off or not of this format.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(mapping[:8], "little")
        header = json.loads(mapping[8 : 8 + length])
        header.pop("__metadata__", None)
        arrays = {}
        for name, said in header.items():
            begin, end = said["data_offsets"]
            dtype = np.dtype(_TYPES[said["dtype"]])
            values = np.frombuffer(mapping, dtype, (end - begin) // dtype.itemsize, 8 + length + begin)
            arrays[name] = values.reshape(said["shape"])
        return arrays, mapping
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else "it is cut off or damaged"
        raise WorkError(
            f"{path}: {words}; remove it and run `embedcube index-vectors` again, it makes what is missing"
        ) from None


class Segment:
    """The vectors of a block of cells in one window, list by list."""

    def __init__(self, path: Path) -> None:
        """Map the file; a WorkError says that it is missing or damaged."""
        arrays, self._mapping = read_tensors(path)
        try:
            self.vectors: NDArray[Any] = arrays["vectors"]
            """(row, feature) as the cube stores them, list by list"""
            self.scale: NDArray[np.float32] | None = arrays.get("scale")
            """(row): of a centred layer"""
            self.cell: NDArray[np.uint32] = arrays["cell"]
            """(row): y * width + x of the cell, in the segment, with the bit INCOMPLETE"""
            self.first: NDArray[np.int64] = arrays["first"]
            """(list + 1): first row of each list"""
            self.row: NDArray[np.uint32] = arrays["row"]
            """(height, width): row of each cell, or ABSENT"""
        except KeyError as missing:
            raise WorkError(f"{path} is no segment of a vector index: it has no {missing}") from None

    def forget(self) -> None:
        """Give back the memory of the pages that were read; they stay in the system's cache."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


class VectorIndex:
    """The index of one layer."""

    def __init__(self, folder: Path, layer: str, listed: LayerIndex) -> None:
        """`listed` is what index.json says of the layer."""
        self.folder = folder
        self.layer = layer
        self.listed = listed
        self._open: dict[str, Segment] = {}

    @classmethod
    def beside(cls, cube: Path, layer: str) -> "VectorIndex | None":
        """The index of a layer of a cube; None where there is none."""
        folder = find_folder(cube)
        listed = read_index(folder).get(layer)
        return None if listed is None else cls(folder, layer, listed)

    @cached_property
    def centroids(self) -> NDArray[np.int8]:
        """int8 (list, feature)."""
        arrays, _ = read_tensors(centroids_file(self.folder, self.layer, self.listed.centroids))
        return np.array(arrays["centroids"])

    def segment(self, entry: SegmentEntry) -> Segment:
        """One of its segments; it is opened once."""
        if entry.name not in self._open:
            self._open[entry.name] = Segment(segment_file(self.folder, self.layer, entry.name))
        return self._open[entry.name]

    def damaged(self) -> list[Path]:
        """Files of the layer whose bytes are not those of index.json; all are read."""
        files = {centroids_file(self.folder, self.layer, self.listed.centroids): self.listed.centroids}
        files |= {segment_file(self.folder, self.layer, one.name): one.sha256 for one in self.listed.segments}
        return [path for path, digest in files.items() if not path.is_file() or file_digest(path) != digest]
