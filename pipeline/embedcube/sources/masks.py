"""Masks of missing pixels: inside a file (a mask of GDAL, an alpha band), or beside it (.msk). 0 means missing.

GDAL opens a file beside an image with any driver, also with those that lead elsewhere. So it is opened here, by name of
driver, like any image.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from embedcube.campaign.scene import Asset
from embedcube.sources.opening import open_raster

BESIDE = (".msk", ".MSK")
"""Suffixes of a mask, behind the whole name of its file, in the order in which GDAL looks for them"""

ALPHA = "band "
"""What `Asset.mask` says of an alpha band, before its number"""

_PER_DATASET = 2
"""bit of INTERNAL_MASK_FLAGS: one mask for all bands"""


def open_mask(path: Path) -> Any:
    """Open a mask beside a file.

    Raises:
        RasterioError: it is no GeoTIFF, or damaged.
    """
    return open_raster(path, "", sidecars=False)


def missing_pixels(image: Any, beside: Any, asset: Asset, window: Window) -> NDArray[np.bool_]:
    """Which pixels of a window the mask of an open file calls missing; `beside` is the open mask beside it, if any.

    Raises:
        RasterioError, ValueError: the mask cannot be read.
    """
    if asset.mask.startswith(ALPHA):
        return np.asarray(image.read(int(asset.mask.removeprefix(ALPHA)), window=window) == 0)
    if beside is None:
        return np.asarray(image.read_masks(asset.index, window=window) == 0)
    if beside.shape != (asset.rows, asset.cols):
        raise ValueError(f"its mask has {beside.shape[0]} x {beside.shape[1]} pixels")
    flags = beside.tags().get(f"INTERNAL_MASK_FLAGS_{asset.index}", "")
    one = beside.count < asset.index or (flags.isdigit() and int(flags) & _PER_DATASET)
    return np.asarray(beside.read(1 if one else asset.index, window=window) == 0)


def fits(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether a type can hold a number."""
    return dtype.kind == "f" or (float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
