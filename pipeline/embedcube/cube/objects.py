"""Inner chunks of the objects of an array, one at a time: in less CPU time and memory than zarr-python takes.

An object is a Zarr shard as `arrays.py` writes it: inner chunks of zstd, and at its end an index with a checksum. The
index of an object is read once. Arrays that are written otherwise are read by zarr-python.
"""

import math
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from embedcube.cube.arrays import MAP, numbers_of
from embedcube.cube.listed import AsMap
from embedcube.cube.members import ABSENT, Damaged, ObjectLayout, cut, index_bytes, members_of, parsed
from embedcube.errors import WorkError

Place = tuple[int, int, int]
"""numbers of a chunk along time, y and x"""

_INDEXES, _INDEX_BYTES = 1024, 32 << 20
"""indexes of objects that are kept of one array, and bytes of all of them"""

_ZSTD_MAGIC = bytes.fromhex("28b52ffd")


class Chunks:
    """The inner chunks of one array (time, y, x) or (time, y, x, feature). For several threads."""

    def __init__(self, array: Any, keep_bytes: int = 0) -> None:
        """`array` is an array of zarr-python; so many bytes of the chunks that were read last are kept, decoded."""
        self.shape, self.chunks, self.dtype = array.shape, array.chunks, array.dtype
        self._array = array
        self._zstd = Zstd() if _plain(array) else None
        self._inner = tuple(s // c for s, c in zip(array.shards or array.chunks, array.chunks, strict=True))
        self._indexes: dict[str, NDArray[np.uint64] | None] = {}
        self._lock = threading.Lock()
        self._folder = _folder_of(array) if self._zstd is not None else ""
        self._keep = keep_bytes // max(1, self._bytes_of_chunk)
        self._kept: OrderedDict[Place, NDArray[Any] | None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: no lock, no indexes and no decoded chunks."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_indexes", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock(), "_indexes": {}, "_kept": OrderedDict()}

    @property
    def _bytes_of_chunk(self) -> int:
        return math.prod(map(int, self.chunks)) * int(self.dtype.itemsize)

    @property
    def fill(self) -> Any:
        """Value where nothing was written."""
        return self._array.fill_value

    def read(self, place: Place) -> NDArray[Any] | None:
        """Values of one chunk, whole also where it reaches beyond the array; None where nothing was written.

        They are not to be written to.

        Raises:
            WorkError: the object is damaged.
        """
        if not self._keep:
            return self._read(place)
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        values = self._read(place)
        with self._lock:
            self._kept[place] = values
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return values

    def _read(self, place: Place) -> NDArray[Any] | None:
        if self._zstd is None:
            region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, self.chunks[:3], strict=True))
            return np.asarray(self._array[region])
        whole = (*place, *([0] * (len(self.shape) - 3)))
        key = self._array.metadata.encode_chunk_key(tuple(i // n for i, n in zip(whole, self._inner, strict=True)))
        index = self.index(key)
        if index is None:
            return None
        offset, size = (int(number) for number in index[tuple(i % n for i, n in zip(whole, self._inner, strict=True))])
        if offset == ABSENT:
            return None
        # zstd makes what cannot be packed larger by 1/256 and some bytes
        if size > self._bytes_of_chunk + (self._bytes_of_chunk >> 8) + 256 or offset + size >= 1 << 63:
            raise WorkError(self.damaged(key))
        stored = self.bytes_of(key, RangeByteRequest(offset, offset + size))
        # the decoder takes a shorter frame too, and would leave what was in memory before behind it
        if stored is None or _content_bytes(stored) != self._bytes_of_chunk:
            raise WorkError(self.damaged(key))
        values = np.empty(self.chunks, self.dtype)
        try:
            self._zstd.decode(stored, values)
        except (RuntimeError, ValueError):
            raise WorkError(self.damaged(key)) from None
        return values

    def index(self, key: str) -> NDArray[np.uint64] | None:
        """The index of an object, which is kept; None where there is no object. Several threads may ask at once.

        Raises:
            WorkError: the object is damaged.
        """
        with self._lock:
            if key in self._indexes:
                return self._indexes[key]
        # without the lock: others read other objects meanwhile
        index = self._read_index(key)
        with self._lock:
            if len(self._indexes) >= max(1, min(_INDEXES, _INDEX_BYTES // (16 * math.prod(self._inner)))):
                self._indexes.clear()
            self._indexes[key] = index
        return index

    def _read_index(self, key: str) -> NDArray[np.uint64] | None:
        """Offset and size (..., 2) of each chunk of an object; None where there is no object."""
        stored = self.bytes_of(key, SuffixByteRequest(index_bytes(self._inner)))
        if stored is None:
            return None
        try:
            return parsed(stored, self._inner)
        except Damaged:
            raise WorkError(self.damaged(key)) from None

    def bytes_of(self, key: str, part: ByteRequest) -> bytes | None:
        """Bytes of a part of an object; None where there is no object."""
        place = self._array.store_path
        if self._folder:
            return _bytes_of_file(f"{self._folder}/{key}", part)
        found = sync(place.store.get(f"{place.path}/{key}", default_buffer_prototype(), part))
        return None if found is None else found.to_bytes()

    def damaged(self, key: str) -> str:
        """What is said of an object that is damaged."""
        return f"{self._array.store_path}/{key} is damaged; `embedcube verify` says what else is, copy the file again"


class Objects:
    """The objects of one array (`members.py`): where the array of a shard is in them, and its bytes."""

    def __init__(self, array: Any, cells: int) -> None:
        """`array` is an array of zarr-python; `cells` are the rows of a shard in it, or its samples.

        Raises:
            ValueError: its objects are not made of such shards.
        """
        self._array, self._chunks = array, Chunks(array)
        self._name = array.name.rpartition("/")[2]
        self._axes = len(array.shape) - (self._name == "embedding")
        self.layout = ObjectLayout.of_shapes(array.shards or array.chunks, array.chunks, cells, self._axes)

    def locate(self, place: tuple[int, int, int]) -> tuple[str, tuple[int, ...]]:
        """Name of the object that holds the shard at (window, row, column), and the place of the member in it."""
        t, *within = place
        numbers = numbers_of(self._name, (t // self._array.chunks[0], *within), self._axes)
        pairs = [divmod(number, count) for number, count in zip(numbers, self.layout.members, strict=True)]
        return self._array.metadata.encode_chunk_key(tuple(a for a, _ in pairs)), tuple(b for _, b in pairs)

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers along time, rows and columns of the objects that hold the shards at `places`: (shard, 3)."""
        along = [1, 1, 1]
        along[: min(self._axes, 3)] = self.layout.members[: min(self._axes, 3)]
        if self._axes != len(MAP):
            along[2] = 1  # a list has no columns
        along[0] *= int(self._array.chunks[0])
        return np.asarray(places, np.int64).reshape(-1, 3) // along

    def member(self, place: tuple[int, int, int]) -> bytes | None:
        """The array of a shard as it stands alone; None where all of it is the fill value.

        Raises:
            WorkError: the object is damaged.
        """
        key, at = self.locate(place)
        index = self._chunks.index(key)
        if index is None:
            return None
        try:
            return cut(index, self.layout, at, lambda start, end: self._read(key, start, end))
        except Damaged:
            raise WorkError(self._chunks.damaged(key)) from None

    def members(self, key: str, size: int) -> set[tuple[int, ...]]:
        """Places of the members that an object of `size` bytes has.

        Raises:
            WorkError: it is damaged, or there is anything else in it.
        """
        index = self._chunks.index(key)
        try:
            return set() if index is None else set(members_of(index, self.layout, size))
        except Damaged:
            raise WorkError(self._chunks.damaged(key)) from None

    def _read(self, key: str, start: int, end: int) -> bytes:
        return self._chunks.bytes_of(key, RangeByteRequest(start, end)) or b""


def _content_bytes(frame: bytes) -> int | None:
    """Bytes that a frame of zstd has when it is decoded, as its header says; None where it does not, or is none."""
    if len(frame) < 6 or frame[:4] != _ZSTD_MAGIC:
        return None
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    size = (single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if not size or len(frame) < start + size:
        return None
    return int.from_bytes(frame[start : start + size], "little") + (256 if size == 2 else 0)


def _bytes_of_file(path: str, part: ByteRequest) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # never waits, should it be a FIFO
    except FileNotFoundError:
        return None
    try:
        if isinstance(part, RangeByteRequest):
            return os.pread(file, part.end - part.start, part.start)
        assert isinstance(part, SuffixByteRequest)
        return os.pread(file, part.suffix, max(0, os.fstat(file).st_size - part.suffix))
    finally:
        os.close(file)


def _folder_of(array: Any) -> str:
    """The folder of this machine that holds an array; empty for one elsewhere."""
    place = array.store_path
    return f"{place.store.root}/{place.path}" if type(place.store) is LocalStore else ""


def _plain(array: Any) -> bool:
    """Whether an array is written as `arrays.py` does: sharded, zstd, an index with CRC-32C at the end."""
    if isinstance(array, AsMap):
        return False
    codecs = array.metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or _text(codecs[0].index_location) != "end":
        return False
    inner, index = codecs[0].codecs, codecs[0].index_codecs
    kinds = [[type(codec) for codec in chain] for chain in (inner, index)]
    if kinds != [[BytesCodec, ZstdCodec], [BytesCodec, Crc32cCodec]] or array.chunks[3:] != array.shape[3:]:
        return False
    return all(_text(getattr(chain[0], "endian", None)) in (None, "little") for chain in (inner, index))


def _text(option: Any) -> Any:
    """An option of a codec: a text in zarr 3.4, and an enumeration of texts before."""
    return getattr(option, "value", option)
