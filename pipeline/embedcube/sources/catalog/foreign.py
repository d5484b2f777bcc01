"""Files and stores that hold images in a form that is not read: what they are, and what to do with them."""

import zipfile
from pathlib import Path

from embedcube.sources.catalog.files import not_a_file

_ZARR = (".zarr", ".zarr-v3")
STORE = frozenset((".zgroup", ".zmetadata", ".zattrs", ".zarray", "zarr.json"))
"""Files that make any folder a Zarr store"""

_AS_GEOTIFF = "write its bands as GeoTIFF first"

_KINDS = {
    (".h5", ".hdf5", ".he5"): f"is HDF5, which says in no common way where its pixels lie: {_AS_GEOTIFF}",
    (".hdf", ".hdf4"): f"is HDF, which is not read: {_AS_GEOTIFF} (gdal_translate)",
    (".vrt",): "is a list of other files, which are not followed: write it as one GeoTIFF (gdal_translate)",
    (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".zst"): "is packed: unpack it",
    (".grib", ".grb", ".grib2", ".grb2"): "is GRIB, which the source era5 reads",
    (".img", ".bsq", ".bil", ".bip", ".dim", ".kea", ".asc"): "is no GeoTIFF or JPEG 2000: convert it (gdal_translate)",
}
"""What is said of files, by suffix"""

_WORDS = {suffix: words for suffixes, words in _KINDS.items() for suffix in suffixes}
_MAGIC = {
    b"PK\x03\x04": ".zip",
    b"\x89HDF\r\n\x1a\n": ".h5",
    b"\x0e\x03\x13\x01": ".hdf",
    b"\x1f\x8b": ".gz",
    b"GRIB": ".grb",
}

_SUFFIXES = (*_ZARR, *_WORDS, ".zip")

_MEMBERS = 10_000
"""most members of a zip whose names are looked at"""

ZARR = "is a Zarr store, read as weather only (source era5): write its bands as GeoTIFF, named as X_20220615_B04.tif"
"""What is said of a store, such as a product of Sentinel-2 in the form of EOPF"""


def is_store(name: str) -> bool:
    """Whether a folder is a Zarr store, by its name."""
    return name.rstrip("/").lower().endswith(_ZARR)


def holds_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store, by its name or its content."""
    return is_store(folder.name) or any((folder / name).exists() for name in STORE)


def may_be_foreign(name: str) -> bool:
    """Whether `foreign` may have something to say of a file; it costs less to ask."""
    return name.lower().endswith(_SUFFIXES)


def foreign(path: Path) -> str:
    """What a file is that no source of images reads, and what to do, by its suffix; empty for all others."""
    if is_store(path.name):
        return ZARR
    suffix = path.suffix.lower()
    return _of_zip(path) if suffix == ".zip" else _WORDS.get(suffix, "")


def foreign_by_bytes(path: Path) -> str:
    """The same by the suffix, or by the first bytes.

    Raises:
        OSError: the file could not be read.
    """
    if words := foreign(path):
        return words
    if not_a_file(path):
        return ""
    with path.open("rb") as file:
        first = file.read(8)
    suffix = next((suffix for magic, suffix in _MAGIC.items() if first.startswith(magic)), "")
    return _of_zip(path) if suffix == ".zip" else _WORDS.get(suffix, "")


def _of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:_MEMBERS]
    except (OSError, ValueError, zipfile.BadZipFile):
        return "is a damaged zip: get it again"
    if any(name.endswith(tuple(STORE)) for name in names):
        return "is a zip of a Zarr store, which is not read: write its bands as GeoTIFF"
    return "is a zip, and no SAFE of Sentinel-2: unpack it"
