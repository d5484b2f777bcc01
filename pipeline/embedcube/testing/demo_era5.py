"""Weather of the demo, in the manner of ERA5: daily fields of one year on a grid of a quarter of a degree, and heights.

Temperature follows the season, the height and the weather; rain comes with fronts that move eastward. As in
`demo_world`, numbers come from +, -, *, / and integer hashes alone, so that every machine gets the same ones.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from embedcube.testing.demo_world import Axis, fractal, key_of, noise

YEAR, DAYS = 2023, 365
LONS: Axis = 4.0 + 0.25 * np.arange(32, dtype=np.float64)
LATS: Axis = 58.0 - 0.25 * np.arange(32, dtype=np.float64)

FIELDS, HEIGHTS = "2023.nc", "heights.nc"

GRAVITY = 9.80665
_LAPSE = 0.0065
"""K colder for each metre upward"""

Fields = NDArray[np.float64]


def season(days: Axis) -> Axis:
    """Between -1, in the middle of January, and 1, in the middle of July, for each day of the year."""
    turn = (days - 106.0) / DAYS
    part = 2.0 * (turn - np.floor(turn + 0.5))
    return 4.0 * part * (1.0 - np.abs(part))


def heights_m(seed: int) -> Fields:
    """Height (m) of the ground at each point: the sea in the north, a plain, and hills in the south."""
    rough = fractal(LONS, LATS, (3.0, 1.3, 0.6), key_of(seed, "heights")).astype(np.float64)
    south = np.clip((55.0 - LATS) / 5.0, 0.0, 1.0)[:, None]
    return np.maximum(0.0, np.rint((south * south * 500.0 + south * 200.0) * (1.0 + 1.1 * rough) + 130.0 * rough))


def weather(seed: int) -> tuple[Fields, Fields]:
    """Mean temperature at 2 m (K) and sum of rain (m), both of each day (day, lat, lon)."""
    heights, days = heights_m(seed), np.arange(float(DAYS))
    spells = noise(days, np.zeros(1), 6.0, key_of(seed, "spells"))[0].astype(np.float64)
    warmth, rain = np.empty((2, DAYS, LATS.size, LONS.size))
    for day in range(DAYS):
        # fronts move four degrees eastward in a day, and never come twice
        front = fractal(LONS - 4.0 * day, LATS, (5.0, 2.2, 1.0), key_of(seed, "fronts")).astype(np.float64)
        level = 283.0 - 0.6 * (LATS[:, None] - 51.0) - _LAPSE * heights
        warmth[day] = level + 9.0 * season(days[day]) + 5.0 * spells[day] - 4.0 * front
        rain[day] = np.maximum(0.0, front - 0.12) * 0.03 * (1.0 + heights / 1500.0)
    # steps that the files can hold in few bytes
    return np.rint(warmth * 64.0) / 64.0, np.rint(rain * 131072.0) / 131072.0


Variables = dict[str, tuple[Fields, dict[str, str]]]


def _write(path: Path, variables: Variables, days: NDArray[np.int32], title: str) -> None:
    """Write fields (day, lat, lon), each with its attributes, as the Climate Data Store names the axes."""
    axes: dict[str, tuple[NDArray[Any], dict[str, str]]] = {
        "valid_time": (days, {"units": "days since 1970-01-01", "calendar": "standard", "standard_name": "time"}),
        "latitude": (LATS, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": (LONS, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts({"Conventions": "CF-1.8", "institution": "embedcube", "title": title})
        for name, (values, attributes) in axes.items():
            file.createDimension(name, len(values))
            axis = file.createVariable(name, values.dtype, (name,))
            axis.setncatts(attributes)
            axis[:] = values
        for name, (fields, attributes) in variables.items():
            variable = file.createVariable(name, "f4", tuple(axes), zlib=True, complevel=4)
            variable.setncatts(attributes)
            variable[:] = fields


def write_era5(folder: Path, seed: int) -> None:
    """Write the fields of the year and the heights into a new folder."""
    folder.mkdir(parents=True)
    warmth, rain = weather(seed)
    first = (date(YEAR, 1, 1) - date(1970, 1, 1)).days
    days = np.arange(first, first + DAYS, dtype=np.int32)
    fields: Variables = {
        "t2m": (warmth, {"units": "K", "long_name": "2 metre temperature", "cell_methods": "valid_time: mean"}),
        "tp": (rain, {"units": "m", "long_name": "Total precipitation", "cell_methods": "valid_time: sum"}),
    }
    _write(folder / FIELDS, fields, days, f"Synthetic weather (seed {seed})")
    about = {"units": "m**2 s**-2", "long_name": "Geopotential", "standard_name": "geopotential"}
    heights: Variables = {"z": (heights_m(seed)[None] * GRAVITY, about)}
    _write(folder / HEIGHTS, heights, days[:1], f"Synthetic heights (seed {seed})")
