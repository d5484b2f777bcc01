"""What a Dask worker of `consolidate` runs: verify the objects of one shard and link them into the cube."""

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
"""Why a file system cannot link, and the object is copied."""


def adopted(
    part: Path, objects: tuple[StoredObject, ...], targets: tuple[Path, ...]
) -> tuple[int, int, int] | WorkError:
    """A failure comes back as a value: raised, Dask would log its traceback beside our one line."""
    try:
        return (*adopt_shard(part, objects, targets), 0)
    except WorkError as error:
        return error


def rechunked(
    series: Series, sources: tuple[ArraySpec, ...], targets: tuple[ArraySpec, ...]
) -> tuple[int, int, int] | WorkError:
    """Write the objects of several windows anew; counts and failures as `adopted` returns them."""
    try:
        return 0, 0, rechunk(series, sources, targets)
    except WorkError as error:
        return error


def adopt_shard(part: Path, objects: tuple[StoredObject, ...], targets: tuple[Path, ...]) -> tuple[int, int]:
    """Verify the objects of one shard and link them under their names in the cube; returns (linked, copied).

    It is made read-only, as from then on the cube and the part share it.
    """
    linked = copied = 0
    for stored, target in zip(objects, targets, strict=True):
        if not stored.path:
            continue
        if target.exists():  # whole, as links and renamed copies are: of an earlier start, or of a worker that was lost
            linked += 1
            continue
        source = part / stored.path
        read_verified(part, stored)
        source.chmod(0o444)
        try:
            os.link(source, target)
            linked += 1
        except FileExistsError:
            linked += 1  # just now, by a worker that is believed to be lost
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            target.chmod(0o444)
            copied += 1
    return linked, copied
