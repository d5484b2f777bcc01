"""Functions that Dask workers of `consolidate` run: verify the objects of one shard and link them into the cube."""

import errno
import os
import shutil
from pathlib import Path

from embedcube.campaign.parts import StoredObject, read_verified
from embedcube.campaign.run_folder import replacing
from embedcube.consolidate.rechunk import Series, rechunk
from embedcube.cube.arrays import ArraySpec
from embedcube.errors import WorkError

_CANNOT_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP)
"""errors of a file system that cannot link: the object is copied"""


def adopted(
    part: Path, objects: tuple[StoredObject, ...], targets: tuple[Path, ...]
) -> tuple[int, int, int] | WorkError:
    """Call `adopt_shard`; returns the numbers of objects linked, copied and rechunked (0), or the error.

    The error is a value: if it were raised, Dask would log its traceback beside our one line.
    """
    try:
        return (*adopt_shard(part, objects, targets), 0)
    except WorkError as error:
        return error


def rechunked(
    series: Series, sources: tuple[ArraySpec, ...], targets: tuple[ArraySpec, ...]
) -> tuple[int, int, int] | WorkError:
    """Call `rechunk`; returns the same three numbers as `adopted` (0, 0 and the objects written), or the error."""
    try:
        return 0, 0, rechunk(series, sources, targets)
    except WorkError as error:
        return error


def adopt_shard(part: Path, objects: tuple[StoredObject, ...], targets: tuple[Path, ...]) -> tuple[int, int]:
    """Verify the objects of one shard and link them into the cube; returns the numbers of objects linked and copied.

    Objects are made read-only, as from then on the cube and the part share them.
    """
    linked = copied = 0
    for stored, target in zip(objects, targets, strict=True):
        if not stored.path:
            continue
        # links and renamed copies are whole: this one is of an earlier start, or of a worker that was lost
        if target.exists():
            linked += 1
            continue
        source = part / stored.path
        read_verified(part, stored)
        source.chmod(0o444)
        try:
            os.link(source, target)
            linked += 1
        except FileExistsError:
            linked += 1  # a worker that is believed to be lost linked it just now
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            target.chmod(0o444)
            copied += 1
    return linked, copied
