"""Objects of a cube: Zarr shards that hold the arrays of a block of shards, their *members*, one behind another.

An array of one shard, as a rank writes it, is a small Zarr shard itself: inner chunks of zstd, then an index of their
places with a checksum (Zarr's codec `sharding_indexed`). In an object of the cube the inner chunks of its members
stand one behind another, in the order of time, rows and columns; one index is at its end. So members are copied and
never decoded, and each can be cut out again as it was, byte for byte: the digest in its record holds for both.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from embedcube.cube.arrays import MAP, ArraySpec

ABSENT = 2**64 - 1
"""offset of a chunk that was not written, as all its values are the fill value"""

_ENTRY, _CHECKSUM = 16, 4
"""bytes of a chunk in an index, and of the checksum behind it"""

MOST_CHUNKS = 1 << 20
"""chunks of an object that are believed: its index has 16 bytes for each"""

_MOST_AXES = 5
"""dimensions of an array: time, sample, y, x, feature"""

Index = NDArray[np.uint64]
"""offset and size of each chunk: (chunks along each dimension, 2)"""


class Damaged(ValueError):
    """Bytes that are no object, or not one of this layout; the text says what is wrong with them."""


@dataclass(frozen=True)
class ObjectLayout:
    """How the inner chunks of an object belong to its members; both along each dimension of the array."""

    members: tuple[int, ...]
    """members of an object"""
    chunks: tuple[int, ...]
    """inner chunks of a member"""

    @classmethod
    def of_shapes(cls, shard: tuple[int, ...], chunk: tuple[int, ...], cells: int, axes: int) -> "ObjectLayout":
        """ObjectLayout of objects of shape `shard`, of chunks of shape `chunk`.

        A member has `cells` rows and columns, or of a list of samples so many samples; `axes` is the number of
        dimensions without `feature`. Along time it is one chunk.

        Raises:
            Damaged: one is not a multiple of the other, or there are more chunks than can be.
        """
        if not 1 < len(shard) <= _MOST_AXES or len(shard) != len(chunk):
            raise Damaged(f"objects of {len(shard)} dimensions in chunks of {len(chunk)}")
        sides = (cells, cells) if axes == len(MAP) else (cells,)
        member = (chunk[0], *sides, *shard[1 + len(sides) :])
        pairs = [*zip(shard, member, strict=True), *zip(member, chunk, strict=True)]
        if min((*shard, *member, *chunk), default=0) < 1 or any(outer % inner for outer, inner in pairs):
            raise Damaged(f"objects of {shard} do not divide into shards of {member} and chunks of {chunk}")
        if math.prod(shard) // math.prod(chunk) > MOST_CHUNKS:
            raise Damaged(f"objects of {shard} in chunks of {chunk}, which are too many")
        return cls(
            tuple(a // b for a, b in zip(shard, member, strict=True)),
            tuple(a // b for a, b in zip(member, chunk, strict=True)),
        )

    @classmethod
    def of_spec(cls, spec: ArraySpec, cells: int) -> "ObjectLayout":
        """ObjectLayout of the objects of an array of the cube, whose members have `cells` rows, as `of_shapes`."""
        return cls.of_shapes(spec.shard, spec.chunk, cells, spec.axes)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of an object."""
        return index_bytes(self.all_chunks)

    @property
    def member_index_bytes(self) -> int:
        """Bytes of the index at the end of a member that stands alone."""
        return index_bytes(self.chunks)

    @property
    def all_chunks(self) -> tuple[int, ...]:
        """Inner chunks of an object along each dimension."""
        return tuple(a * b for a, b in zip(self.members, self.chunks, strict=True))

    def at(self, number: int) -> tuple[int, ...]:
        """Place of a member along each dimension, from its number in the order of the object."""
        return tuple(int(i) for i in np.unravel_index(number, self.members))

    def number(self, at: tuple[int, ...]) -> int:
        """Number of a member in the order of the object, from its place along each dimension."""
        return int(np.ravel_multi_index(at, self.members))

    def part(self, at: tuple[int, ...]) -> tuple[slice, ...]:
        """The chunks of a member in the index of an object."""
        return tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, self.chunks, strict=True))

    def parse(self, tail: bytes) -> Index:
        """The index of an object from its last `index_bytes` bytes.

        Raises:
            Damaged: the checksum is not that of the bytes.
        """
        return parsed(tail, self.all_chunks)


class ObjectWriter:
    """Writes an object: its members in the order (time, rows, columns), then its index."""

    def __init__(self, file: BinaryIO, layout: ObjectLayout) -> None:
        """`file` is open for writing, and empty."""
        self._file, self._layout, self._size, self._last = file, layout, 0, -1
        self._index = np.full((*layout.all_chunks, 2), ABSENT, "<u8")

    def add(self, at: tuple[int, ...], member: bytes) -> None:
        """Copy the inner chunks of a member, given as it stands alone, behind those before it.

        Raises:
            Damaged: its index has a wrong checksum, or places outside of it.
        """
        number, layout = self._layout.number(at), self._layout
        assert number > self._last, "members are added in their order"
        self._last = number
        end = len(member) - layout.member_index_bytes
        index = parsed(member[max(end, 0) :], layout.chunks)
        _check_whole(index, 0, end)
        self._index[layout.part(at)] = _moved(index, self._size)
        self._file.write(memoryview(member)[:end])
        self._size += end

    def finish(self) -> None:
        """Write the index."""
        self._file.write(_packed(self._index))


def cut(
    index: Index, layout: ObjectLayout, at: tuple[int, ...], read: Callable[[int, int], bytes], most: int | None = None
) -> bytes | None:
    """A member of an object as it stands alone; None where it has nothing.

    `read` returns the bytes of the object from one place to another. More than `most` bytes are not read.

    Raises:
        Damaged: its chunks do not stand one behind another in the object, or have more bytes.
    """
    own = index[layout.part(at)]
    start, end = _span(own)
    if end == 0:
        return None
    if most is not None and end - start + layout.member_index_bytes > most:
        raise Damaged(f"{end - start:,} bytes of chunks, expected at most {most:,} with their index")
    _check_whole(own, start, end)
    data = read(start, end)
    if len(data) != end - start:
        raise Damaged(f"it ends before byte {end}")
    return data + _packed(_moved(own, -start))


def members_of(index: Index, layout: ObjectLayout, size: int) -> Iterator[tuple[int, ...]]:
    """Places of the members that an object of `size` bytes has, in their order, when nothing else is in it.

    Raises:
        Damaged: there are bytes that belong to no member, or members are not in their order.
    """
    before = 0
    for number in range(math.prod(layout.members)):
        at = layout.at(number)
        own = index[layout.part(at)]
        start, end = _span(own)
        if end == 0:
            continue
        if start != before:
            raise Damaged(f"bytes {before} to {start} belong to nothing")
        _check_whole(own, start, end)
        before = end
        yield at
    if before + layout.index_bytes != size:
        raise Damaged(f"{size} bytes, its index says {before + layout.index_bytes}")


def digest_of_members(members: Mapping[tuple[int, ...], str], layout: ObjectLayout) -> str:
    """SHA-256 that stands for all bytes of an object, from those of its members by their places.

    What an object holds beside its members follows from them; so records, which have the digests of members, say what
    the bytes of an object are.
    """
    numbered = sorted((layout.number(at), digest) for at, digest in members.items())
    return sha256("".join(f"{number} {digest}\n" for number, digest in numbered).encode()).hexdigest()


def digest_of_object(data: bytes, layout: ObjectLayout) -> str:
    """The digest of `digest_of_members`, from the bytes of an object.

    Raises:
        Damaged: it is none, or there is anything else in it.
    """
    digests = digests_in_object(layout, len(data), lambda start, end: data[max(start, 0) : end])
    return digest_of_members(dict(digests), layout)


def digests_in_object(
    layout: ObjectLayout, size: int, read: Callable[[int, int], bytes]
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Place and SHA-256 of each member of an object of `size` bytes, in their order; one is held in memory.

    `read` returns the bytes of the object from one place to another.

    Raises:
        Damaged: it is none, or there is anything else in it.
    """
    index = layout.parse(read(size - layout.index_bytes, size))
    for at in members_of(index, layout, size):
        yield at, sha256(cut(index, layout, at, read) or b"").hexdigest()


def layout_in(array: Mapping[str, Any], group: Mapping[str, Any]) -> ObjectLayout:
    """ObjectLayout of the objects of an array, from the documents zarr.json of the array and of its zone.

    Raises:
        Damaged: they do not say it.
    """
    try:
        shard = tuple(int(n) for n in array["chunk_grid"]["configuration"]["chunk_shape"])
        chunk = tuple(int(n) for n in array["codecs"][0]["configuration"]["chunk_shape"])
        axes = len(shard) - ("feature" in array["dimension_names"])
        return ObjectLayout.of_shapes(shard, chunk, cells_in(group["attributes"]), axes)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        raise Damaged(f"zarr.json does not say how objects are made: {error}") from None


def cells_in(attributes: Mapping[str, Any]) -> int:
    """Cells along a side of a shard, or samples of one, as a zone says.

    Raises:
        Damaged: it says nothing, or what cannot be.
    """
    said = attributes.get(SHARD_CELLS)
    if type(said) is not int or not 0 < said < 1 << 24:
        raise Damaged(f"{SHARD_CELLS} is {said!r}"[:100])
    return said


SHARD_CELLS = "embedcube:shard_cells"
"""Attribute of a zone: cells along a side of a shard, or of a list the samples of a shard."""


def index_bytes(chunks: tuple[int, ...]) -> int:
    """Bytes of an index of so many chunks along each dimension."""
    return _ENTRY * math.prod(chunks) + _CHECKSUM


def parsed(tail: bytes, chunks: tuple[int, ...]) -> Index:
    """An index of so many chunks along each dimension, from its bytes.

    Raises:
        Damaged: the checksum is not theirs, or it says what cannot be.
    """
    entries, checksum = tail[:-_CHECKSUM], tail[-_CHECKSUM:]
    right = len(tail) == index_bytes(chunks)
    if not right or google_crc32c.value(bytes(entries)) != int.from_bytes(checksum, "little"):
        raise Damaged("its index is damaged, or is none")
    index = np.frombuffer(entries, "<u8").reshape(*chunks, 2)
    # of a chunk that was not written both are, as Zarr has it: else bytes of the index would belong to no member
    if not np.array_equal(index[..., 0] == ABSENT, index[..., 1] == ABSENT):
        raise Damaged("its index has a place without a size")
    return index


def _packed(index: Index) -> bytes:
    entries: bytes = index.astype("<u8").tobytes()
    checksum: int = google_crc32c.value(entries)
    return entries + checksum.to_bytes(_CHECKSUM, "little")


def _moved(index: Index, by: int) -> Index:
    """The index of the same chunks, `by` bytes further."""
    moved = index.copy()
    present = moved[..., 0] != ABSENT
    moved[present, 0] = (moved[present, 0].astype(np.int64) + by).astype(np.uint64)
    return moved


def _span(index: Index) -> tuple[int, int]:
    """First byte of the chunks, and the byte behind the last; (0, 0) where there are none."""
    present = index[index[..., 0] != ABSENT]
    if not len(present):
        return 0, 0
    if (present >= 1 << 62).any() or not (present[:, 1] > 0).all():
        raise Damaged("its index names places that cannot be")
    return int(present[:, 0].min()), int((present[:, 0] + present[:, 1]).max())


def _check_whole(index: Index, start: int, end: int) -> None:
    """Raise Damaged unless the chunks fill the bytes from `start` to `end`, each byte once."""
    present = index[index[..., 0] != ABSENT]
    present = present[np.argsort(present[:, 0])]
    if len(present) and (present >= 1 << 62).any():
        raise Damaged("its index names places that cannot be")
    ends = np.cumsum(np.concatenate([[np.uint64(start)], present[:, 1]]))
    if not np.array_equal(present[:, 0], ends[:-1]) or int(ends[-1]) != end:
        raise Damaged("its chunks do not stand one behind another")
