"""The numbers of NetCDF and Zarr as values: unpacked, and missing where the file says so, in any of the ways of CF."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DEFAULT_FILL: dict[str, float] = {
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
    "i2": -32767,
    "i4": -2147483647,
}
"""What the NetCDF library writes where nothing was written, if the file declares no other number"""

_AS_STORED = {"_FillValue", "missing_value", "valid_min", "valid_max", "valid_range"}
"""attributes in the type of the stored numbers"""


def unpacked(raw: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[np.float64]:
    """Unpack numbers by the CF conventions, in float64; NaN where missing.

    Missing are `_FillValue`, `missing_value`, without these the library's default, and what lies outside of
    `valid_min`, `valid_max` and `valid_range`.
    """
    packed = "scale_factor" in attributes or "add_offset" in attributes
    kind = raw.dtype.str[1:]
    if not attributes.keys() & {"_FillValue", "missing_value"} and (packed or kind[0] == "f") and kind in _DEFAULT_FILL:
        attributes = {**attributes, "_FillValue": _DEFAULT_FILL[kind]}
    if str(attributes.get("_Unsigned", "")).lower() == "true" and kind[0] == "i":
        raw = raw.view(raw.dtype.str.replace("i", "u"))
        attributes = {
            **attributes,
            **{key: _unsigned(attributes[key], raw.dtype) for key in _AS_STORED & set(attributes)},
        }
    values = raw.astype(np.float64)
    missing = np.zeros(raw.shape, dtype=bool)
    declared = [attributes[key] for key in ("_FillValue", "missing_value") if key in attributes]
    for numbers in declared:
        for number in np.atleast_1d(np.asarray(numbers)).tolist():
            # a number that the type cannot hold is nowhere
            missing |= raw == np.float32(number) if raw.dtype == np.float32 else values == _number(number)
    low, high, as_stored = _valid(attributes, raw.dtype)
    if as_stored or not packed:
        missing |= (values < low) | (values > high)
    if packed:
        values = values * float(attributes.get("scale_factor", 1)) + float(attributes.get("add_offset", 0))
        if not as_stored:
            missing |= (values < low) | (values > high)
    values[missing | ~np.isfinite(values)] = np.nan
    return values


def _unsigned(stated: Any, dtype: np.dtype[Any]) -> Any:
    """An attribute of signed integers, which `_Unsigned` makes unsigned as it does the numbers; others stay."""
    numbers = np.asarray(stated)
    # those that the type of the numbers cannot hold stay, too
    least = -(1 << (8 * dtype.itemsize - 1))
    if numbers.dtype.kind != "i" or not ((numbers < 0) & (numbers >= least)).any():
        return stated
    return [int(one) + (1 << 8 * dtype.itemsize) if least <= one < 0 else int(one) for one in numbers.ravel().tolist()]


def _number(stated: Any) -> float:
    try:
        return float(stated)
    except (TypeError, ValueError):
        return float("nan")


def _valid(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[float, float, bool]:
    """The valid range, and whether it is one of packed numbers: then its type is theirs (CF, section 8.1)."""
    low, high = -np.inf, np.inf
    stated = [np.asarray(attributes[key]) for key in ("valid_range", "valid_min", "valid_max") if key in attributes]
    if "valid_range" in attributes and np.size(attributes["valid_range"]) == 2:
        low, high = map(_number, np.asarray(attributes["valid_range"]).tolist())
    if "valid_min" in attributes:
        low = _number(np.asarray(attributes["valid_min"]).ravel()[0])
    if "valid_max" in attributes:
        high = _number(np.asarray(attributes["valid_max"]).ravel()[0])
    # a range without a number in it says nothing
    if np.isnan(low) or np.isnan(high) or low > high:
        return -np.inf, np.inf, False
    return low, high, bool(stated) and dtype.kind in "iu" and all(one.dtype.kind in "iu" for one in stated)
