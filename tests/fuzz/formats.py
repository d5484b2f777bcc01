"""Every format that is damaged: the archives that stand for it, and what in it tells damage from data."""

from functools import partial
from pathlib import Path

from tests.fuzz import documents, images, tiff_tags, weather
from tests.fuzz.inputs import Format
from tests.fuzz.mutations import BINARY, Mutation, around

_DOCUMENTS = (".json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def _tiff(_: Path) -> tuple[Mutation, ...]:
    return (*BINARY, *tiff_tags.TIFF * 2)


def _binary(_: Path) -> tuple[Mutation, ...]:
    return BINARY


def _store(path: Path) -> tuple[Mutation, ...]:
    return documents.JSON if path.name in _DOCUMENTS or path.suffix == ".json" else BINARY


def _safe(path: Path) -> tuple[Mutation, ...]:
    return BINARY if path.suffix == ".zip" else documents.XML


def _whole(data: bytes) -> list[tuple[int, int]]:
    return [(0, len(data))]


def _beginning(data: bytes) -> list[tuple[int, int]]:
    return [(0, min(len(data), 1024))]


def _jpeg2000(data: bytes) -> list[tuple[int, int]]:
    """Boxes and main header; then the marker of each tile."""
    return [(0, min(len(data), 300)), *around(data, b"\xff\x90", 0, 14)]


def _grib(data: bytes) -> list[tuple[int, int]]:
    """The sections before the values of each message."""
    return around(data, b"GRIB", 0, 200)


def _zip(data: bytes) -> list[tuple[int, int]]:
    """Headers of members, and the directory at the end."""
    return [
        *around(data, b"PK\x03\x04", 0, 60),
        *around(data, b"PK\x01\x02", 0, 60),
        *around(data, b"PK\x05\x06", 0, 22),
    ]


def _safe_structure(data: bytes) -> list[tuple[int, int]]:
    return _zip(data) if data.startswith(b"PK") else _whole(data)


FORMATS = {
    one.name: one
    for one in (
        Format(
            name="geotiff",
            title="GeoTIFF",
            writers={
                "raw": partial(images.plain, driver="GTiff"),
                "deflate": partial(images.plain, **images.TIFF, compress="deflate", predictor=2),
                "lzw, no mask": partial(images.plain, mask=False, **images.TIFF, compress="lzw"),
                "decibels": images.radar,
            },
            mutations=_tiff,
            structure=tiff_tags.structure,
            checksum="Adler-32 in deflate blocks; none in others",
        ),
        Format(
            name="cog",
            title="COG",
            writers={
                "deflate": partial(images.plain, driver="COG", compress="deflate", predictor="yes", blocksize=128),
                "zstd": partial(images.plain, driver="COG", compress="zstd", blocksize=128),
            },
            mutations=_tiff,
            structure=tiff_tags.structure,
            checksum="Adler-32 in deflate blocks; none in zstd blocks",
        ),
        Format(
            name="jp2",
            title="JPEG 2000",
            writers={
                "mask": partial(images.plain, **images.JP2),
                "no mask": partial(images.plain, mask=False, **images.JP2),
            },
            mutations=_binary,
            structure=_jpeg2000,
            checksum="none",
        ),
        Format(
            name="netcdf3",
            title="NetCDF 3",
            writers={
                "classic": partial(weather.netcdf3, kind="NETCDF3_CLASSIC"),
                "64 bit": partial(weather.netcdf3, kind="NETCDF3_64BIT"),
            },
            mutations=_binary,
            structure=_beginning,
            checksum="none",
        ),
        Format(
            name="netcdf4",
            title="NetCDF 4",
            writers={
                "plain": weather.netcdf4,
                "packed": partial(weather.netcdf4, **weather.PACKED, **weather.DEFLATED),
                "checksums": partial(weather.netcdf4, **weather.DEFLATED, fletcher32=True),
            },
            mutations=_binary,
            structure=_whole,
            checksum="Fletcher-32 where a variable has it; checksums of HDF5's newer headers",
        ),
        Format(
            name="grib1",
            title="GRIB 1",
            writers={"simple": partial(weather.grib, edition=1)},
            mutations=_binary,
            structure=_grib,
            checksum="none",
        ),
        Format(
            name="grib2",
            title="GRIB 2",
            writers={
                "simple": partial(weather.grib, edition=2),
                "ccsds": partial(weather.grib, edition=2, packing="grid_ccsds"),
            },
            mutations=_binary,
            structure=_grib,
            checksum="none",
        ),
        Format(
            name="zarr",
            title="Zarr",
            writers={
                "2": partial(weather.zarr, version=2, consolidated=True),
                "3": partial(weather.zarr, version=3, consolidated=False),
                "3, checksums": partial(weather.zarr, version=3, consolidated=True, checksums=True),
            },
            mutations=_store,
            structure=_whole,
            checksum="CRC-32C where an array has that codec; none in its documents",
        ),
        Format(
            name="stac",
            title="STAC Items",
            writers={
                "items": images.items,
                "item collections": images.item_collections,
                "catalogue": images.catalogue,
            },
            mutations=lambda _: documents.JSON,
            structure=_whole,
            checksum="none of the Item; `file:checksum` of the files that it names",
        ),
        Format(
            name="safe",
            title="SAFE",
            writers={"folders": images.safe_folders, "zips": images.safe_zips},
            mutations=_safe,
            structure=_safe_structure,
            checksum="none of manifest and metadata; the manifest's of the images; CRC-32 of members of a zip",
        ),
    )
}
"""By name, in the order of the table."""
