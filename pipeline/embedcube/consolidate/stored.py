"""Reading what records name: arrays of shards in packs, or in the objects of an earlier cube."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedcube.campaign.parts import PACK, Stored
from embedcube.cube.members import Damaged, Index, Layout, cut, layout_in
from embedcube.errors import WorkError

_NO_FOLLOW = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
"""never waits, should it be a FIFO, and leaves the folder by no link"""

_METADATA_BYTES = 1 << 24
"""bytes of a zarr.json that are believed"""


class Gone(WorkError):
    """A file is not where a record says."""


def read_stored(part: Path, stored: Stored) -> bytes:
    """The bytes that a record names, after their size and SHA-256 were compared; empty where nothing is stored.

    Raises:
        WorkError: they are gone, or the record says otherwise.
    """
    if not stored.path:
        return b""
    path = part / stored.path
    try:
        data = _read(path, stored)
    except (FileNotFoundError, NotADirectoryError):
        raise Gone(
            f"{path}: a record speaks of it, but it is gone; remove that part's records.jsonl and embed again"
        ) from None
    except Damaged as error:
        raise WorkError(f"{path}: {error}; the disk has changed it: {_NEXT}") from None
    found = hashlib.sha256(data).hexdigest()
    if len(data) != stored.size or found != stored.sha256:
        raise WorkError(
            f"{path}: {stored.array}, {len(data)} bytes with SHA-256 {found[:12]}, its record says {stored.size} and "
            f"{stored.sha256[:12]}; the disk has changed it: {_NEXT}"
        )
    return data


_NEXT = "remove that part's records.jsonl and embed again"


def in_pack(path: str) -> bool:
    """Whether a file that a record names is a pack; otherwise it is an object of an earlier cube."""
    return path.rpartition("/")[2] == PACK


def _read(path: Path, stored: Stored) -> bytes:
    with _opened(path) as descriptor:
        found = os.fstat(descriptor)
        if in_pack(stored.path):
            return os.pread(descriptor, min(stored.size, max(0, found.st_size - stored.offset)), stored.offset)
        layout, index = _index(path, found.st_mtime_ns)
        at = layout.at(stored.offset) if stored.offset < _count(layout) else None
        if at is None:
            raise Damaged(f"it has no member number {stored.offset}")
        return cut(index, layout, at, lambda start, end: os.pread(descriptor, end - start, start)) or b""


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a file, open for reading; Damaged where there is anything else, and no waiting for a FIFO."""
    descriptor = os.open(path, _NO_FOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Damaged("it is not a file")
        yield descriptor
    finally:
        os.close(descriptor)


def _count(layout: Layout) -> int:
    count = 1
    for along in layout.members:
        count *= along
    return count


@lru_cache(maxsize=64)
def _index(path: Path, _changed: int) -> tuple[Layout, Index]:
    """Layout and index of an object; `_changed` is the time of its last change."""
    layout = layout_of(path.parent)
    with _opened(path) as descriptor:
        start = max(0, os.fstat(descriptor).st_size - layout.index_bytes)
        return layout, layout.parse(os.pread(descriptor, layout.index_bytes, start))


def layout_of(array: Path) -> Layout:
    """Layout of the objects in a folder of an array of a cube, from its metadata and those of its zone.

    Raises:
        Damaged: the metadata are none, or say of no layout.
    """
    return layout_in(_document(array / "zarr.json"), _document(array.parent / "zarr.json"))


def _document(path: Path) -> Any:
    try:
        with _opened(path) as descriptor:
            data = os.pread(descriptor, _METADATA_BYTES + 1, 0)
        if len(data) > _METADATA_BYTES:
            raise ValueError(f"more than {_METADATA_BYTES} bytes")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} of {path.parent.name} cannot be read: {error}") from None
