"""Which pixels of a file are missing: what the file, a mask, its catalogue and the campaign say. Asked of every source.

Missing is missing whoever says it: a number that the file declares, another one that its catalogue states, a mask
inside the file (also an alpha band), a mask beside it. The campaign's `options.nodata` counts instead of all numbers.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from embedcube.campaign.scene import Asset
from embedcube.errors import CorruptInput
from embedcube.sources.catalog.products import Stated
from embedcube.sources.masks import ALPHA, BESIDE, fits, open_mask
from embedcube.sources.netcdf3 import is_netcdf


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of a band that mean no data."""

    nodata: float
    also: tuple[float, ...]
    """further numbers"""
    by: str
    """who states them, in words; empty where nobody does, and the first is NaN or 0"""


def numbers_of(dataset: Any, index: int, dtype: np.dtype[Any], stated: Stated, asked: float | None) -> Numbers:
    """The numbers that mean no data: those that are asked for, else all that the file and its catalogue state.

    Numbers that the type cannot hold are left out.
    """
    if asked is not None and fits(asked, dtype):
        return Numbers(nodata=asked, also=(), by="the campaign")
    by_file = [number for number in _declared(dataset, index) if fits(number, dtype)]
    by_catalogue = [stated.nodata] if stated.nodata is not None and fits(stated.nodata, dtype) else []
    numbers = list(dict.fromkeys([*by_file, *by_catalogue]))
    finite = [number for number in numbers if isfinite(number)]
    if not numbers:
        return Numbers(nodata=float("nan") if dtype.kind == "f" else 0.0, also=(), by="")
    who = [words for words, said in (("the file", by_file), ("its catalogue", by_catalogue)) if said]
    # NaN is missing in any case
    return Numbers(nodata=finite[0] if finite else numbers[0], also=tuple(finite[1:]), by=" and ".join(who))


def several_in_words(assets: Sequence[Asset]) -> list[str]:
    """For each band with several numbers that mean no data: these, and who states them."""
    return [
        f"{asset.band}: no data are {' and '.join(f'{number:g}' for number in (asset.nodata, *asset.also_nodata))}, as "
        f"{asset.nodata_by} {'say, which differ' if ' and ' in asset.nodata_by else 'says'}"
        for asset in assets
        if asset.also_nodata and asset.nodata is not None
    ]


def _declared(dataset: Any, index: int) -> list[float]:
    """The numbers that a file declares as no data: NetCDF may have a fill value and another one for missing values."""
    number = dataset.nodatavals[index - 1]
    if dataset.driver != "netCDF":
        return [] if number is None else [number]
    tags = dataset.tags(index)
    found = [number] if number is not None and {"_FillValue", "missing_value"} & set(tags) else []
    for name in ("_FillValue", "missing_value"):
        # GDAL writes an attribute of several numbers as {1,2}
        for text in str(tags.get(name, "")).strip("{}").split(","):
            try:
                found.append(float(text))
            except ValueError:
                continue
    return found


def mask_of(dataset: Any, index: int, path: Path, inner: str, read: Collection[int], name: str) -> str:
    """Where the mask of a band is, as `Asset.mask` has it.

    An alpha band that is itself among those that are `read` is a band, not a mask.

    Raises:
        CorruptInput: there is a mask beside the file, and it cannot be read.
    """
    if suffix := beside(path, inner):
        try:
            with open_mask(Path(f"{path}{suffix}")) as mask:
                if mask.shape != dataset.shape:
                    raise ValueError(f"it has {mask.shape[0]} x {mask.shape[1]} pixels")
        except (OSError, ValueError) as error:
            # a failing disk raises here
            Path(f"{path}{suffix}").read_bytes()
            # a library's error has the path of the archive in it, which must be in no verdict
            words = str(error) if isinstance(error, ValueError) else "it is no GeoTIFF, or damaged"
            raise CorruptInput(f"{name} has a mask beside it, {suffix}, that cannot be read: {words}") from None
        return suffix
    flags = set(dataset.mask_flag_enums[index - 1])
    # also where a pixel is missing if all bands have their number of NODATA_VALUES
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return "inside"
    # GDAL takes an alpha band for a mask only where it holds integers, and no number is declared
    alpha = [i for i, kind in enumerate(dataset.colorinterp, start=1) if kind == ColorInterp.alpha]
    return f"{ALPHA}{alpha[0]}" if alpha and alpha[0] not in read else ""


def beside(path: Path, inner: str) -> str:
    """The suffix of the mask beside a file; empty where there is none."""
    if inner or is_netcdf(path):
        return ""
    return next((suffix for suffix in BESIDE if os.access(f"{path}{suffix}", os.F_OK)), "")
