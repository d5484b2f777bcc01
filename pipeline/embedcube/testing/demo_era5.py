"""Weather of the demo, in the manner of ERA5: daily fields of one year on a grid of a quarter of a degree, and heights.

Temperature follows the season, the height and the weather; rain comes with fronts that move eastward. As in
`demo_world`, numbers come from +, -, *, / and integer hashes alone, so that every machine gets the same ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from numpy.typing import NDArray

from embedcube.testing.demo_world import Axis, fractal, key_of, noise

YEAR, DAYS = 2023, 365
LONS: Axis = 4.0 + 0.25 * np.arange(32)
LATS: Axis = 54.0 - 0.25 * np.arange(32)

FIELDS, HEIGHTS = "2023.nc", "heights.nc"

_GRAVITY = 9.80665
_LAPSE = 0.0065
"""K colder for each metre upward"""

Fields = NDArray[np.float64]


def season(days: Axis) -> Axis:
    """Between -1, in the middle of January, and 1, in the middle of July, for each day of the year."""
    turn = (days - 106.0) / DAYS
    part = 2.0 * (turn - np.floor(turn + 0.5))
    return 4.0 * part * (1.0 - np.abs(part))


def heights_m(seed: int) -> Fields:
    """Height (m) of the ground at each point: the sea in the north, hills in the middle, mountains in the south."""
    rough = fractal(LONS, LATS, (3.0, 1.3, 0.6), key_of(seed, "heights")).astype(np.float64)
    south = np.clip((52.5 - LATS) / 6.0, 0.0, 1.0)[:, None]
    return np.maximum(0.0, np.rint((south * south * 1300.0 + south * 300.0) * (1.0 + 1.1 * rough) + 160.0 * rough))


def weather(seed: int) -> tuple[Fields, Fields]:
    """Mean temperature at 2 m (K) and sum of rain (m), both of each day (day, lat, lon)."""
    heights, days = heights_m(seed), np.arange(float(DAYS))
    spells = noise(days, np.zeros(1), 6.0, key_of(seed, "spells"))[0].astype(np.float64)
    warmth, rain = np.empty((2, DAYS, LATS.size, LONS.size))
    for day in range(DAYS):
        # fronts move four degrees eastward in a day, and never come twice
        front = fractal(LONS - 4.0 * day, LATS, (5.0, 2.2, 1.0), key_of(seed, "fronts")).astype(np.float64)
        level = 283.0 - 0.6 * (LATS[:, None] - 50.0) - _LAPSE * heights
        warmth[day] = level + 9.0 * season(days[day]) + 5.0 * spells[day] - 4.0 * front
        rain[day] = np.maximum(0.0, front - 0.12) * 0.03 * (1.0 + heights / 1500.0)
    # steps that the files can hold in few bytes
    return np.rint(warmth * 64.0) / 64.0, np.rint(rain * 131072.0) / 131072.0


def _axes(times: NDArray[np.datetime64]) -> dict[str, tuple[str, NDArray[np.generic], dict[str, str]]]:
    return {
        "valid_time": ("valid_time", times, {"standard_name": "time", "long_name": "time"}),
        "latitude": ("latitude", LATS, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", LONS, {"units": "degrees_east", "standard_name": "longitude"}),
    }


def _write(path: Path, data: xarray.Dataset) -> None:
    packed = {name: {"dtype": "float32", "zlib": True, "complevel": 4, "shuffle": True} for name in data.data_vars}
    time = {"valid_time": {"units": "days since 1970-01-01", "dtype": "int32"}}
    data.to_netcdf(path, engine="netcdf4", encoding=packed | time)


def write_era5(folder: Path, seed: int) -> None:
    """Write the fields of the year and the heights into a new folder."""
    folder.mkdir(parents=True)
    dims = ("valid_time", "latitude", "longitude")
    about = {"Conventions": "CF-1.8", "institution": "embedcube", "title": f"Synthetic weather (seed {seed})"}
    warmth, rain = weather(seed)
    days = np.datetime64(f"{YEAR}-01-01", "ns") + np.arange(DAYS) * np.timedelta64(1, "D")
    fields = xarray.Dataset(
        {
            "t2m": (
                dims,
                warmth,
                {"units": "K", "long_name": "2 metre temperature", "cell_methods": "valid_time: mean"},
            ),
            "tp": (dims, rain, {"units": "m", "long_name": "Total precipitation", "cell_methods": "valid_time: sum"}),
        },
        coords=_axes(days),
        attrs=about,
    )
    _write(folder / FIELDS, fields)
    geopotential = {"units": "m**2 s**-2", "long_name": "Geopotential", "standard_name": "geopotential"}
    still = xarray.Dataset(
        {"z": (dims, heights_m(seed)[None] * _GRAVITY, geopotential)}, coords=_axes(days[:1]), attrs=about
    )
    _write(folder / HEIGHTS, still)
