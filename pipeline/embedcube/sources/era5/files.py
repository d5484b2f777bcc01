"""Files and Zarr stores of time series: recognise, open and digest them, and say why they cannot be read."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray

from embedcube.campaign.scene import Asset, Noted
from embedcube.errors import CorruptInput, RequestError
from embedcube.sources.catalog.digests import Look, digest_of_file, noted
from embedcube.sources.catalog.files import not_a_file, unusable_name, walk
from embedcube.sources.changed import compare_file
from embedcube.sources.era5.grib import GribSeries
from embedcube.sources.era5.series import Series
from embedcube.sources.era5.xarray_series import XarraySeries
from embedcube.sources.netcdf import open_netcdf
from embedcube.sources.reader import judge_missing
from embedcube.sources.stores import refuse_store

log = logging.getLogger(__name__)

NETCDF = frozenset((".nc", ".nc4", ".netcdf"))
GRIB = frozenset((".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2"))

ZARR = ".zarr"
"""Suffix of a folder that is a store"""

_STORES = (".zmetadata", ".zgroup", "zarr.json")
"""Files that make any folder a store: the names of ARCO-ERA5's stores end in .zarr-v3"""

_FORMATS = {b"PK\x03\x04": "a zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"GRIB": "GRIB",
            b"\x89HDF\r\n\x1a\n": "NetCDF", b"CDF": "NetCDF", b"<": "a page of text"}  # fmt: skip
"""First bytes of formats"""

_ADVICE = {
    "a zip": "a zip: unpack it",
    "gzip": "packed with gzip: unpack it",
    "bzip2": "packed with bzip2: unpack it",
    "xz": "packed with xz: unpack it",
    "a page of text": "text, perhaps the error of a server: download it again",
}

_XARRAY = ("cf-xarray", "cftime", "xarray")
"""Packages that decode coordinates and times"""


_UNDECODED = "unable to decode time units"
"""what xarray says of times in months or years, or in no units"""


def is_series(path: Path) -> bool:
    """Whether a file (by its suffix) or a folder (by its content) is a time series."""
    return path.suffix.lower() in NETCDF | GRIB or (path.is_dir() and is_store(path))


def is_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return folder.suffix.lower() == ZARR or any((folder / name).exists() for name in _STORES)


def listed(path: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Series at or below a path, in a fixed order, each with the reason why it cannot be opened, or an empty text.

    What lies inside a store is not listed. `root` is the folder that names are relative to.

    Raises:
        RequestError: a folder may not be listed.
        OSError: a folder could not be listed for a reason that may pass.
    """
    if is_series(path):
        yield path, "" if path.is_dir() else not_a_file(path)
        return
    for folder in walk(path, lambda below: is_store(Path(below))):
        for name in sorted((*folder.files, *folder.others)):
            if is_series(series := folder.path / name):
                yield series, folder.others.get(name, "") or unusable_name(os.path.relpath(series, root))


def open_series(path: Path, select: Mapping[str, Any]) -> Series:
    """Open a file or a store; `select` picks one coordinate of each further dimension, as a level.

    Raises:
        RequestError: the extra for this format is not installed.
        ValueError: the bytes do not decode.
        OSError: the file could not be read.
    """
    try:
        if path.suffix.lower() in GRIB:
            return GribSeries(path, select)
        if path.is_dir():
            refuse_store(path)
            return XarraySeries(_open_store(path), select)
        return XarraySeries(open_netcdf(path), select)
    except RequestError:
        raise
    except (ValueError, OSError) as error:
        if not path.is_dir():
            _refuse_other_format(path)
        if _UNDECODED in str(error):
            units = str(error).partition(_UNDECODED)[2].split(" with ")[0].strip()
            raise ValueError(f"its times are in {units}, which have no fixed length; write days since") from None
        raise
    except Exception as error:  # on wrong bytes the parsers may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _refuse_other_format(path: Path) -> None:
    """Refuse a file whose first bytes are those of another format than its name says.

    Raises:
        ValueError: naming both.
        OSError: the file could not be read.
    """
    with path.open("rb") as file:
        first = file.read(8)
    found = next((words for magic, words in _FORMATS.items() if first.startswith(magic)), "")
    wanted = "GRIB" if path.suffix.lower() in GRIB else "NetCDF"
    if found and found != wanted:
        raise ValueError(f"it is {_ADVICE.get(found, f'{found}, though its name says {wanted}: rename it')}")


def _open_store(path: Path) -> Any:
    together = _consolidated(path) is not None
    # by its class, as in `open_netcdf`
    engine = xarray.backends.ZarrBackendEntrypoint
    return xarray.open_dataset(path, engine=engine, mask_and_scale=False, cache=False, consolidated=together)


def software_of(path: Path) -> tuple[str, ...]:
    """The packages that decode a file or store; `zarr` and its codecs are in every recipe."""
    if path.suffix.lower() in GRIB:
        return ("eccodes", "eccodeslib")
    return _XARRAY if path.is_dir() else (*_XARRAY, "netCDF4")


def judge_series(
    path: Path,
    name: str,
    select: Mapping[str, Any],
    decode: Callable[[Series], object],
    *,
    size: int | None,
    opened: Callable[[Path, Mapping[str, Any]], Series] | None = None,
) -> CorruptInput | OSError:
    """Why a series could not be decoded: wrong bytes (CorruptInput), or a failure that may pass (OSError).

    As in `reader.judge`, all bytes are read without a decoder, then decoded again: if that fails, the bytes are wrong.
    `name` is the path below the archive, `size` the bytes when it was indexed, `opened` opens it if not `open_series`.
    """
    try:
        # first: to read a FIFO, which has no bytes, would wait for ever
        if size not in (None, actual := size_of(path)):
            return CorruptInput(f"{name} has {actual} bytes, {size} when it was indexed")
        if not path.is_dir():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
    except FileNotFoundError as missing:
        return judge_missing(path, "series", name, missing)
    except OSError as passing:
        return passing
    try:
        series = (opened or open_series)(path, select)
        try:
            decode(series)
        finally:
            series.close()
    except (ValueError, OSError) as error:
        # all bytes were just read without an error: an I/O error of the library now means wrong bytes
        return CorruptInput(f"{name} does not decode{_reason(error, path)}")
    return OSError(f"{name} could not be read whole, though its bytes are right")


def _reason(error: Exception, path: Path) -> str:
    """Why a file does not decode, in words that are the same everywhere, as those of an I/O error are not."""
    log.debug("%s: %s", path, error)
    if isinstance(error, OSError):
        return ""
    return f": {' '.join(str(error).split())}".replace(f"{path.parent}/", "")


def size_of(path: Path) -> int:
    """Size in bytes of a file, or of a store's metadata: counting every chunk of a large store would take too long."""
    return sum(part.stat().st_size for part in metadata_of(path)) if path.is_dir() else path.stat().st_size


def metadata_of(store: Path) -> list[Path]:
    """Metadata files of a Zarr store, in a fixed order: the consolidated one, else those of all arrays."""
    if (one := _consolidated(store)) is not None:
        return [one]
    names = (".zgroup", ".zattrs", ".zarray", "zarr.json")
    found = [path for name in names for path in (*store.glob(name), *store.glob(f"*/{name}"))]
    if not found:
        raise FileNotFoundError(f"{store}: no metadata of a Zarr store")
    return sorted(found)


def status_of(path: Path) -> os.stat_result:
    """The status of a file, or of a store's metadata: the file that was changed last."""
    files = metadata_of(path) if path.is_dir() else [path]
    return max((part.stat() for part in files), key=lambda status: (status.st_mtime_ns, status.st_ino))


def compare_series(path: Path, asset: Asset) -> str:
    """Why a file or store has other bytes than when it was indexed; empty if that is not known."""
    if not path.is_dir():
        return compare_file(path, replace(asset, inner=""))
    full = asset.digest.startswith("sha256:")
    found = Digests(path, full=full, by_name=False).of(path)[1]
    return "" if found == asset.digest else f"{found[:19]} now, {asset.digest[:19]} then"


class Digests:
    """Sizes and digests of files and stores; each is computed once."""

    def __init__(self, root: Path, *, full: bool, by_name: bool) -> None:
        """With `by_name`, weak digests are over names and sizes only, so that no file has to be opened."""
        self._root, self._full, self._by_name = root, full, by_name
        self._known: dict[Path, tuple[int, str, Noted]] = {}

    def of(self, path: Path) -> tuple[int, str, Noted]:
        """Size in bytes, digest ("sha256:<hex>" over all bytes, or "weak:<hex>"), and what is noted of the file."""
        if path not in self._known:
            opened = not (path.is_dir() or self._by_name)
            notes = Look.at(path).noted if opened else noted(status_of(path))
            self._known[path] = (size_of(path), self._digest(path), notes)
        return self._known[path]

    def _digest(self, path: Path) -> str:
        if not path.is_dir():
            if self._by_name and not self._full:
                named = f"{path.relative_to(self._root).as_posix()} {size_of(path)}"
                return f"weak:{hashlib.sha256(named.encode()).hexdigest()}"
            return digest_of_file(path, self._full)
        # a store: all its files, or its metadata for a weak digest
        files = sorted(part for part in path.rglob("*") if part.is_file()) if self._full else metadata_of(path)
        together = hashlib.sha256()
        for part in files:
            together.update(f"{part.relative_to(path)} {digest_of_file(part, True)}\n".encode())
        return f"{'sha256' if self._full else 'weak'}:{together.hexdigest()}"


def _consolidated(store: Path) -> Path | None:
    """The file that holds the metadata of all arrays; None if there is none."""
    if (store / ".zmetadata").exists():
        return store / ".zmetadata"
    root = store / "zarr.json"
    return root if root.exists() and b'"consolidated_metadata"' in root.read_bytes() else None
