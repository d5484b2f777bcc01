"""Maps that were computed from a cube, as files: GeoTIFF, Zarr, NetCDF."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcube.campaign.run_folder import replacing
from embedcube.cube.rasters import new_raster
from embedcube.errors import RequestError, WorkError, naming

if TYPE_CHECKING:
    import xarray as xr


def write_maps(maps: "xr.Dataset | xr.DataTree", path: Path) -> list[Path]:
    """Write maps (time, y, x) with their CRS to a file named by its suffix; returns the files.

    A GeoTIFF has one band for each variable and window. Of several zones each gets a file: change-utm32.tif.

    Raises:
        RequestError: the suffix is unknown, or a Zarr folder is there already.
    """
    import xarray as xr

    if path.suffix not in WRITERS:
        raise RequestError(f"{path}: a map is written as {', '.join(WRITERS)}; give it such a name")
    if isinstance(maps, xr.Dataset):
        WRITERS[path.suffix](maps, path)
        return [path]
    files = {path.with_stem(f"{path.stem}-{zone}"): node.to_dataset() for zone, node in maps.children.items()}
    for file, one in files.items():
        WRITERS[path.suffix](one, file)
    return list(files)


def _write_geotiff(maps: "xr.Dataset", path: Path) -> None:
    from affine import Affine

    x, y = (np.asarray(maps[name].values, np.float64) for name in ("x", "y"))
    down = (y[-1] - y[0]) / (len(y) - 1) if len(y) > 1 else x[0] - x[1]
    right = (x[-1] - x[0]) / (len(x) - 1) if len(x) > 1 else -down
    transform = Affine(right, 0, x[0] - right / 2, 0, down, y[0] - down / 2)
    bands = [(name, i) for name in maps.data_vars for i in range(maps.sizes["time"])]
    profile: dict[str, Any] = {
        "width": maps.sizes["x"],
        "height": maps.sizes["y"],
        "count": len(bands),
        "dtype": "float32",
        "crs": maps["spatial_ref"].attrs["crs_wkt"],
        "transform": transform,
        "nodata": np.nan,
        "tiled": True,
        "compress": "deflate",
        "predictor": 3,
    }
    with (
        replacing(path) as temporary,
        new_raster(temporary, path, profile) as file,
    ):  # fmt: skip
        for number, (name, i) in enumerate(bands, start=1):
            file.write(maps[name].values[i].astype("float32"), number)
            file.set_band_description(number, f"{name} {np.datetime_as_string(maps['time'].values[i], 'D')}")


def _write_zarr(maps: "xr.Dataset", path: Path) -> None:
    if path.exists():
        raise RequestError(f"{path} is there already; remove it, or name another")
    temporary = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with warnings.catch_warnings(), naming(path):
            # not in the text of Zarr v3 yet; without it each reader of xarray is warned
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            maps.to_zarr(temporary, zarr_format=3, consolidated=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_netcdf(maps: "xr.Dataset", path: Path) -> None:
    with replacing(path) as temporary:
        try:
            maps.to_netcdf(temporary, engine="netcdf4")
        except RuntimeError as error:  # the library does not say which error of the disk it was
            words = f"{path}: it could not be written whole: {error}; is the disk full, or your quota?"
            raise WorkError(words) from error


WRITERS: dict[str, Callable[["xr.Dataset", Path], None]] = {
    ".tif": _write_geotiff,
    ".zarr": _write_zarr,
    ".nc": _write_netcdf,
}
"""Writers of maps, by the suffix of the file."""
