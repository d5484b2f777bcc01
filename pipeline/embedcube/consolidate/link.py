"""Functions that Dask workers of `consolidate` run: verify the objects of one shard and link them into the cube."""

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedcube.campaign.parts import StoredObject, read_verified
from embedcube.campaign.run_folder import replacing
from embedcube.consolidate.rechunk import Series, digest_of, rechunk
from embedcube.cube.arrays import ArraySpec
from embedcube.errors import WorkError

CANNOT_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP)
"""errors of a file system that cannot link: the object is copied"""

Failure = WorkError | OSError | MemoryError
"""Errors that a task gives back as its result: if they were raised, Dask would log a traceback beside our one line."""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a task has brought into the cube."""

    linked: int = 0
    """number of objects that share their bytes with the part"""
    copied: int = 0
    """number of objects that could not be linked"""
    new: bool = True
    """whether any of it was not there yet"""
    series: str = ""
    """name of the series that was made of several windows; empty for linked objects"""
    rechunked: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the object of each array that was made of several windows; empty where nothing is stored"""


def adopted(part: Path, objects: tuple[StoredObject, ...], targets: tuple[Path, ...]) -> Brought | Failure:
    """Call `adopt_shard`; returns what it brought, or its error as a value."""
    try:
        linked, copied, kept = adopt_shard(part, objects, targets)
        return Brought(linked=linked, copied=copied, new=linked + copied > kept)
    except (WorkError, OSError, MemoryError) as error:
        return error


def rechunked(
    series: Series, known: Mapping[str, str], sources: tuple[ArraySpec, ...], targets: tuple[ArraySpec, ...]
) -> Brought | Failure:
    """Call `rechunk`; returns what it brought, or its error as a value."""
    try:
        digests = rechunk(series, known, sources, targets)
        return Brought(series=series.name, rechunked=digests, new=digests is not known)
    except (WorkError, OSError, MemoryError) as error:
        return error


def adopt_shard(part: Path, objects: tuple[StoredObject, ...], targets: tuple[Path, ...]) -> tuple[int, int, int]:
    """Verify the objects of one shard and link them into the cube.

    Returns the numbers of objects linked and copied, and of those among the linked that were there already.

    An object that is in the cube already, from an interrupted start, counts only if its bytes have the digest of the
    record; otherwise it is made again. Objects are made read-only, as from then on the cube and the part share them.
    """
    linked = copied = kept = 0
    for stored, target in zip(objects, targets, strict=True):
        if not stored.path:
            continue
        if found := digest_of(target):
            if found == stored.sha256:
                linked, kept = linked + 1, kept + 1
                continue
            target.unlink()
        source = part / stored.path
        read_verified(part, stored)
        source.chmod(0o444)
        try:
            os.link(source, target)
            linked += 1
        except FileExistsError:
            linked += 1  # a worker that is believed to be lost linked it just now
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            target.chmod(0o444)
            copied += 1
    return linked, copied, kept
