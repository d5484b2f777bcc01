"""Reading what records name: arrays of shards in packs, or in the objects of an earlier cube."""

import hashlib
import json
import math
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from embedcube.campaign.parts import PACK, Stored
from embedcube.campaign.readable import readable
from embedcube.cube.members import Damaged, Index, ObjectLayout, cut, layout_in
from embedcube.errors import RequestError, WorkError

_MOST_OPEN = 256
"""files that are held open"""

_AT_ONCE = 1 << 30
"""bytes of one read; the system returns fewer than 2 GiB"""

_METADATA_BYTES = 1 << 24
"""bytes of a zarr.json that are believed"""


class Gone(WorkError):
    """A file is not where a record says."""


class StoredReader:
    """Reads what records name. It holds files open: a pack has the bytes of many shards. For one thread."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, part: Path, stored: Stored) -> bytes:
        """The bytes that a record of `part` names, after size and SHA-256 were compared; empty where there are none.

        Raises:
            WorkError: they are gone (`Gone`), or the record says otherwise.
        """
        if not stored.path:
            return b""
        path = part / stored.path
        try:
            data = _read(self._descriptor(path), path, stored)
        except (FileNotFoundError, NotADirectoryError):
            raise Gone(
                f"{path}: a record speaks of it, but it is gone; remove that part's records.jsonl and embed again"
            ) from None
        except Damaged as error:
            raise WorkError(f"{path}: {error}; the disk has changed it: {_NEXT}") from None
        found = hashlib.sha256(data).hexdigest()
        if len(data) != stored.size or found != stored.sha256:
            raise WorkError(
                f"{path}: {stored.array}, {len(data)} bytes with SHA-256 {found[:12]}, its record says {stored.size} "
                f"and {stored.sha256[:12]}; the disk has changed it: {_NEXT}"
            )
        return data

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            # never waits, should it be a FIFO
            self._open[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return self._open[path]

    def _close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


_NEXT = "remove that part's records.jsonl and embed again"


def in_pack(path: str) -> bool:
    """Whether a file that a record names is a pack; otherwise it is an object of an earlier cube."""
    return path.rpartition("/")[2] == PACK


def _read(descriptor: int, path: Path, stored: Stored) -> bytes:
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise Damaged("not a file")
    if in_pack(stored.path):
        if stored.offset + stored.size > about.st_size:
            raise Damaged(f"it ends at byte {about.st_size:,}, its record says byte {stored.offset + stored.size:,}")
        return _bytes_of(descriptor, stored.offset, stored.offset + stored.size)
    layout, index = _index(path, about.st_mtime_ns)
    if stored.offset >= math.prod(layout.members):
        raise Damaged(f"it has no member number {stored.offset}")
    at = layout.at(stored.offset)
    most = min(stored.size, about.st_size)
    return cut(index, layout, at, lambda start, end: _bytes_of(descriptor, start, end), most) or b""


def _bytes_of(descriptor: int, start: int, end: int) -> bytes:
    """The bytes of a file from one place to another; fewer where it ends before."""
    if end - start <= _AT_ONCE:
        return os.pread(descriptor, end - start, start)
    found = bytearray()
    while start < end and (data := os.pread(descriptor, min(end - start, _AT_ONCE), start)):
        found += data
        start += len(data)
    return bytes(found)


@lru_cache(maxsize=16)
def _index(path: Path, _changed: int) -> tuple[ObjectLayout, Index]:
    """ObjectLayout and index of an object; `_changed` is the time of its last change."""
    layout = object_layout_of(path.parent)
    with readable(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - layout.index_bytes))
        return layout, layout.parse(file.read(layout.index_bytes))


def object_layout_of(array: Path) -> ObjectLayout:
    """ObjectLayout of the objects in a folder of an array of a cube, from its metadata and those of its zone.

    Raises:
        Damaged: the metadata are none, or say of no layout.
    """
    return layout_in(metadata_of(array / "zarr.json"), metadata_of(array.parent / "zarr.json"))


def metadata_of(path: Path) -> Any:
    """The document zarr.json of an array or a group.

    Raises:
        Damaged: it cannot be read.
    """
    try:
        with readable(path).open("rb") as file:
            data = file.read(_METADATA_BYTES + 1)
        if len(data) > _METADATA_BYTES:
            raise ValueError(f"more than {_METADATA_BYTES} bytes")
        return json.loads(data)
    except (RequestError, OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} of {path.parent.name} cannot be read: {error}") from None
