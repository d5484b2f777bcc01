"""What Dask workers of `consolidate` run: make one object of the cube from the arrays of its shards, or link it."""

import errno
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import numpy as np

from embedcube.campaign.parts import Stored
from embedcube.campaign.run_folder import replacing
from embedcube.consolidate.stored import StoredReader
from embedcube.cube.arrays import MAP, ArraySpec, ShardDecoder, ShardEncoder, numbers_of
from embedcube.cube.members import Damaged, ObjectLayout, ObjectWriter, digests_in_object
from embedcube.errors import WorkError

CANNOT_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP)
"""errors of a file system that cannot link: the object is made, or copied"""

Failure = WorkError | OSError | MemoryError
"""Errors that a task gives back as its result: if they were raised, Dask would log a traceback beside our one line."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the objects of one array of a layer are made."""

    part: ArraySpec
    """as a part holds it: one window of one shard"""
    member: ArraySpec
    """as a member of an object: the windows of a chunk"""
    cube: ArraySpec
    """as the cube holds it"""
    cells: int
    """rows of a shard, or of a list its samples"""

    @property
    def layout(self) -> ObjectLayout:
        """How members are arranged in an object."""
        return ObjectLayout.of_spec(self.cube, self.cells)

    @property
    def windows(self) -> int:
        """Windows of a member."""
        return self.member.shard[0]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Members of an object along time, rows (of a list: samples) and columns."""
        t, rows, *cols = (a // b for a, b in zip(self.cube.shard, self.member.shard, strict=True))
        return t, rows, cols[0] if self.cube.axes == len(MAP) else 1


@dataclass(frozen=True, kw_only=True)
class Member:
    """One array of a shard, or of several windows of one place, on its way into an object."""

    at: tuple[int, int, int]
    """place within the object: along time, rows, columns"""
    windows: tuple[tuple[int, Path, Stored], ...]
    """for each window its number within the member, the part, and where its bytes are there"""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An object of the cube that is to be made."""

    target: Path
    place: tuple[int, int, int]
    """its number along time, rows and columns"""
    kind: Kind
    members: tuple[Member, ...]
    """those with something stored, in the order of the object"""
    earlier: tuple[Path, ...] = ()
    """objects of earlier versions that may be equal to it"""
    noted: str = ""
    """SHA-256 that an interrupted start has noted of it, where its chunks hold several windows"""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a task has done for its object."""

    target: Path
    linked: bool = False
    """whether it shares its bytes with an earlier version"""
    new: bool = True
    """whether it was not there yet"""
    digest: str = ""
    """SHA-256 of an object whose chunks hold several windows"""


def assembled(planned: Planned) -> Brought | Failure:
    """Call `assemble`; returns what it brought, or its error as a value."""
    try:
        return assemble(planned)
    except (WorkError, OSError, MemoryError) as error:
        return error


def assemble(planned: Planned) -> Brought:
    """Make an object, whole or not at all, and read-only, as versions share objects. One member is held in memory.

    An object that is there already, from an interrupted start, counts where its members have the digests of their
    records; otherwise it is made again. One of an earlier version with these members is linked.

    Raises:
        WorkError: the bytes of a shard are not those of its record, or are no array of this layer.
    """
    target = planned.target
    if target.exists():
        if _same(target, planned):
            return Brought(target=target, new=False, digest=planned.noted)
        target.unlink(missing_ok=True)  # a worker that is believed to be lost may do the same
    for earlier in planned.earlier:
        if _same(earlier, planned) and _linked(earlier, target):
            return Brought(target=target, linked=True)
    with replacing(target) as temporary:
        with temporary.open("xb") as file, StoredReader() as reader:
            writer = ObjectWriter(file, planned.kind.layout)
            for member in planned.members:
                _add(writer, member, planned.kind, reader)
            writer.finish()
        temporary.chmod(0o444)
        digest = "" if planned.kind.windows == 1 else _digest_of(temporary)
    return Brought(target=target, digest=digest)


def _add(writer: ObjectWriter, member: Member, kind: Kind, reader: StoredReader) -> None:
    try:
        if data := _bytes_of(member, kind, reader):
            writer.add(numbers_of(kind.cube.name, member.at, kind.cube.axes), data)
    except (Damaged, ValueError, RuntimeError) as error:
        # its digest is that of its record: so it was recorded, by somebody else
        _, part, stored = member.windows[0]
        raise WorkError(
            f"{part / stored.path}: {stored.array} at {stored.offset} is no array of this layer ({error}); remove that "
            "part's records.jsonl and embed again"
        ) from None


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_of(member: Member, kind: Kind, reader: StoredReader) -> bytes:
    """A member as it stands alone; empty where all of it is the fill value."""
    if kind.windows == 1:
        ((_, part, stored),) = member.windows
        return reader.read(part, stored)
    values = np.full(kind.member.shard, kind.member.fill, dtype=kind.member.dtype)
    for t, part, stored in member.windows:
        values[t] = _decoder(kind.part).decode({kind.part.name: reader.read(part, stored)})[kind.part.name][0]
    return _encoder(kind.member).encode({kind.member.name: values})[kind.member.name] or b""


@cache
def _decoder(spec: ArraySpec) -> ShardDecoder:
    return ShardDecoder((spec,))


@cache
def _encoder(spec: ArraySpec) -> ShardEncoder:
    return ShardEncoder((spec,))


def _same(path: Path, planned: Planned) -> bool:
    """Whether an object has the members that are wanted, and nothing else."""
    layout, name, axes = planned.kind.layout, planned.kind.cube.name, planned.kind.cube.axes
    if planned.kind.windows > 1:  # no record has a digest of its members
        return bool(planned.noted) and _digest_of(path) == planned.noted
    wanted = {numbers_of(name, one.at, axes): one.windows[0][2] for one in planned.members}
    size = sum(one.size - layout.member_index_bytes for one in wanted.values()) + layout.index_bytes
    try:
        # an object is no link, and a FIFO is not waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if os.fstat(descriptor).st_size != size:
            return False
        held = digests_in_object(layout, size, lambda start, end: os.pread(descriptor, end - start, start))
        pairs = zip_longest(held, ((at, one.sha256) for at, one in wanted.items()))
        return all(found == expected for found, expected in pairs)
    except (OSError, Damaged):
        return False
    finally:
        os.close(descriptor)


def _linked(source: Path, target: Path) -> bool:
    """Link an object of an earlier version; False where that cannot be, or somebody could change it later."""
    try:
        about = source.stat()
        if about.st_uid != os.geteuid() or about.st_mode & 0o222:
            return False
        os.link(source, target)
    except FileExistsError:
        return True  # a worker that is believed to be lost linked it just now
    except OSError as error:
        if error.errno in (*CANNOT_LINK, errno.EACCES, errno.EROFS, errno.ENOENT):
            return False
        raise
    return True
