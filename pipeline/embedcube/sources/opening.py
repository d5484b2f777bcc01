"""Open raster files: which drivers may, and which files beside an image count."""

import warnings
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from embedcube.sources.netcdf3 import is_netcdf

# a file without georeferencing gets a verdict
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_DRIVERS = ("GTiff", "JP2OpenJPEG")
"""GDAL's drivers for images. GDAL opens by content, whatever a name says: without this list a file called .tif may be a
text (VRT, WMS) that names other files, asks servers or runs code"""


def raster_settings(*, sidecars: bool = True) -> Any:
    """GDAL's settings for opening files in this thread: folders are not listed, and no file runs code.

    With `sidecars`, files beside an image that add to its header (.aux.xml, .tfw) are found by their names. Without it
    an image is all that is read: the inventory has the geometry, and no pixel is in a sidecar file.
    """
    listing = "TRUE" if sidecars else "EMPTY_DIR"
    return rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=listing, GDAL_VRT_ENABLE_PYTHON="NO")


def open_raster(path: Path, inner: str, *, sidecars: bool = True) -> Any:
    """Open a GeoTIFF or JPEG 2000, or with `inner` a member of a zip archive or the variable of a NetCDF file.

    Nothing else is opened, whatever the name of the file: no driver of GDAL that follows references in a file is tried.
    `sidecars` is explained at `raster_settings`.

    Raises:
        RasterioError: it is no such file, or damaged.
    """
    name: str = str(path)
    drivers: tuple[str, ...] = _DRIVERS
    if name.startswith("/vsi") and not name.startswith("/vsimem/"):
        raise RasterioError(f"{name} is a name that GDAL looks up elsewhere, not a file")
    if inner and is_netcdf(path):
        name, drivers = f"netcdf:{path}:{inner}", ("netCDF",)
    elif inner:
        name = f"/vsizip/{path}/{inner}"
    with raster_settings(sidecars=sidecars):
        return DatasetReader(name, driver=list(drivers))
