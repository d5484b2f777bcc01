"""What the sources of sample lists share: files as scenes, files that changed, and samples of files with ids."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from embedcube.campaign.scene import NOWHERE, UNKNOWN_TIME, Asset, Listed, Scene
from embedcube.errors import CorruptInput, EmbedcubeError, RequestError
from embedcube.grid import to_degrees
from embedcube.printable import is_plain, printable
from embedcube.sources.catalog.digests import Look, digest_of_file
from embedcube.sources.catalog.files import lasting, not_a_file
from embedcube.sources.changed import change_of
from embedcube.sources.reader import Opened, RasterReader, judge_missing

H = TypeVar("H", bound=Opened)
T = TypeVar("T")

_ID_CHARACTERS = 200
"""most characters of an id"""


def files_below(root: Path, suffixes: Sequence[str], name: str, what: str) -> list[Path]:
    """The files of an archive with one of these suffixes, sorted by path; `root` may be one of them itself.

    Raises:
        RequestError: there is none; `name` is that of the archive, `what` says in words what was looked for.
    """
    if root.is_file():
        return [root]
    found = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        found += [Path(folder) / one for one in sorted(files) if one.lower().endswith(tuple(suffixes))]
    if not found:
        raise RequestError(f"archives.{name}: no {what} ({', '.join(suffixes)}) in {printable(root)}")
    return found


def file_asset(path: Path, root: Path, *, band: str, rows: int, cols: int, dtype: str, full: bool) -> Asset:
    """A file that is no raster as an asset: its bytes are what counts, its geometry is that of nothing.

    Raises:
        OSError: it could not be read.
        CorruptInput: it is no file.
    """
    if words := not_a_file(path):
        raise CorruptInput(f"{path.name} {words}")
    look = Look.at(path)
    return Asset(
        band=band,
        path=os.path.relpath(path, root),
        crs="EPSG:4326",
        transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
        rows=rows,
        cols=cols,
        block_rows=1,
        block_cols=1,
        dtype=dtype,
        nodata=None,
        size=look.size,
        digest=digest_of_file(path, True) if full else look.digest,
        noted=look.noted,
    )


def scenes_or_verdict(archive: str, path: Path, id: str, scenes: Iterator[Scene]) -> Iterator[Scene]:
    """The scenes that are made of a file; where its bytes are wrong, one more, `id`, that cannot be used and says why.

    Raises:
        EmbedcubeError: the archive as a whole is refused.
        OSError: the file could not be read for a reason that may pass.
    """
    try:
        yield from scenes
    except (EmbedcubeError, MemoryError):
        raise
    except Exception as error:  # libraries raise anything on wrong bytes
        if isinstance(error, OSError) and not _damaged(error):
            raise
        yield Scene(
            id=id,
            archive=archive,
            time=UNKNOWN_TIME,
            acquisition="unknown",
            bbox=NOWHERE,
            verdict=f"{path.name}: {printable(error, 300)}",
        )


def _same_file(path: Path, asset: Asset) -> None:
    """Raise a ValueError where a file is not the one that was indexed."""
    status = path.stat()
    if status.st_size != asset.size:
        raise ValueError(f"{asset.path} has {status.st_size} bytes, {asset.size} when it was indexed")
    if other := change_of(path, asset, status):
        raise ValueError(other)


def read_file(
    reader: RasterReader, path: Path, asset: Asset, opened: Callable[[], H], decode: Callable[[H], T]
) -> "Future[T]":
    """Start `decode` on the file that `opened` opens, and that stays open; `path` is what was indexed as `asset`.

    The result raises CorruptInput where the bytes of the file are wrong, and OSError where it could not be read for a
    reason that may pass.
    """

    def checked() -> H:
        _same_file(path, asset)
        return _foreign_errors(opened)

    def again() -> None:
        with closing(opened()) as file:
            decode(file)

    return reader.run(
        0,
        key=(path, asset.band),
        opened=checked,
        decode=lambda file: _foreign_errors(lambda: decode(file)),
        judged=lambda: _judged(path, asset, again),
    )


def _foreign_errors(read: Callable[[], T]) -> T:
    """The result of `read`; what a library of a format raises on wrong bytes becomes the ValueError that is judged."""
    try:
        return read()
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _damaged(error: OSError) -> bool:
    """Whether an error is of a library that calls wrong bytes so; the file system gives its errors a number."""
    return error.errno is None and not isinstance(error, TimeoutError)


def _judged(path: Path, asset: Asset, again: Callable[[], object]) -> CorruptInput | OSError:
    """Why a file could not be read: wrong bytes (CorruptInput), or a failure that may pass (OSError)."""
    try:
        _same_file(path, asset)
        again()
    except FileNotFoundError as missing:
        return judge_missing(path, asset.band, asset.path, missing)
    except OSError as error:
        if _damaged(error):
            return CorruptInput(f"{asset.path}: {printable(error, 300)}")
        return CorruptInput(f"{asset.path} {words}") if (words := lasting(error)) else error
    except MemoryError:
        raise
    except Exception as error:  # libraries of formats raise anything on wrong bytes
        return CorruptInput(f"{asset.path}: {printable(error, 300)}")
    return OSError(f"{asset.path} could not be read whole, though its bytes are right")


def usable_id(text: str) -> str:
    """Why a text can be no id, in words; empty if it can."""
    if not text:
        return "an id is empty"
    if len(text) > _ID_CHARACTERS or not is_plain(text):
        return f"the id {printable(text, 60)} has more than {_ID_CHARACTERS} characters or one that cannot be printed"
    return ""


def box_around(samples: Sequence[Listed]) -> tuple[float, float, float, float]:
    """West, south, east, north around the centres of samples, in degrees; NOWHERE where no place is known."""
    lons, lats = [], []
    for one in samples:
        if one.crs:
            lon, lat = to_degrees(one.crs).transform(one.x, one.y)
            lons.append(lon)
            lats.append(lat)
    return (min(lons), min(lats), max(lons), max(lats)) if lons else NOWHERE
