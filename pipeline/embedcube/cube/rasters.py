"""Rasters and pictures as files, whole or not at all.

GDAL does not say what it had no room for when it closes a file: so each is read again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcube.errors import WorkError, naming

if TYPE_CHECKING:
    from PIL import Image


@contextmanager
def new_raster(path: Path, named: Path, profile: dict[str, Any]) -> Iterator[Any]:
    """Give a GeoTIFF at `path` to write to, of a profile of rasterio; messages call it `named`.

    It is looked at when it is closed. Its blocks may not be sparse.

    Raises:
        WorkError: a part of it could not be written.
    """
    import rasterio

    with _explained(named):
        with rasterio.open(path, "w", driver="GTiff", **profile) as file:
            yield file
            wanted = _facts(file)
        _refuse_torn(path, wanted)


def write_cog(raster: Path, cog: Path, named: Path, options: dict[str, Any]) -> None:
    """Make a Cloud Optimized GeoTIFF of a raster, with options of GDAL, and look at it; messages call it `named`.

    Raises:
        WorkError: a part of it could not be written.
    """
    import rasterio
    from rasterio.shutil import copy

    with _explained(named):
        with rasterio.open(raster) as file:
            wanted = _facts(file)
        copy(raster, cog, driver="COG", **options)
        _refuse_torn(cog, wanted)


def write_picture(picture: "Image.Image", png: Path) -> None:
    """Write a picture, whole or not at all."""
    temporary = png.with_name(f".tmp-{png.name}")
    try:
        with naming(png):
            picture.save(temporary, format="PNG")
            temporary.replace(png)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _explained(named: Path) -> Iterator[None]:
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, CPLE_BaseError, _Torn) as error:
        words = f"{named}: it could not be written whole: {error}; is the disk full, or your quota?"
        raise WorkError(words) from error


class _Torn(Exception):
    """A part of a raster is not there."""


def _facts(file: Any) -> list[Any]:
    """What a raster says of itself."""
    tags = [file.tags(band) for band in (0, *file.indexes)]
    tags[0].pop("AREA_OR_POINT", None)  # GDAL adds it
    return [file.crs, file.transform, file.shape, file.dtypes, str(file.nodata), file.descriptions, tags]


def _refuse_torn(path: Path, wanted: list[Any]) -> None:
    """Read all blocks, and compare what the file says of itself."""
    import rasterio
    from rasterio.enums import Interleaving

    with rasterio.open(path) as file:
        if _facts(file) != wanted:
            raise _Torn("its header is not all there")
        # a block of pixels holds all of their bands, and is decoded whole
        own = file.indexes[:1] if file.interleaving is Interleaving.pixel else file.indexes
        for band in own:
            for (row, column), window in file.block_windows(band):
                if file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band) is None:
                    raise _Torn("a block of its pixels is not there")
                file.read(band, window=window)
