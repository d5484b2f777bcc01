"""What a cube says of a list of samples: ids, places and dates, as coordinates without string arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.conventions import GEOEMB
from embedcube.grid import ShardLayout
from embedcube.zones import UNDATED, SampleList

Coordinate = tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]
"""dimensions, values, attributes"""


def list_attributes(samples: SampleList) -> dict[str, Any]:
    """Attributes of the group of a list: those that a map has instead say where it lies."""
    return {
        "coordinates": "lon lat",
        "zarr_conventions": [GEOEMB],
        "embedcube:sample_crs": _systems(samples),
        "embedcube:pixel": samples.pixel,
    }


def sample_coordinates(samples: SampleList, layout: ShardLayout) -> dict[str, Coordinate]:
    """Coordinates of the samples, by name; text is UTF-8 bytes with offsets, as tensorstore opens no strings."""
    text = [one.encode() for one in samples.ids]
    systems = _systems(samples)
    of_system = [systems.index(one) if one else -1 for one in samples.crs]
    along, lonlat = ("sample",), samples.lonlat
    ids = {"long_name": "ids of the samples, UTF-8, one behind the other", "units": "1"}
    first = {"long_name": "first byte of each id in sample_id; then the number of bytes", "units": "1"}
    system = {"long_name": "CRS of each sample, as its number in the attribute embedcube:sample_crs", "units": "1"}
    found: dict[str, Coordinate] = {
        "sample_id": (("byte",), np.frombuffer(b"".join(text), dtype=np.uint8), ids),
        "sample_id_first": (("sample_edge",), np.cumsum([0, *map(len, text)]), first),
        "sample_crs": (along, np.array(of_system, dtype=np.int32), system),
    }
    for name, degrees, unit in zip(("lon", "lat"), lonlat, ("degrees_east", "degrees_north"), strict=True):
        standard = {"lon": "longitude", "lat": "latitude"}[name]
        about = {"standard_name": standard, "long_name": f"{standard} of the sample's centre", "units": unit}
        found[name] = (along, degrees, about)
    for name in ("x", "y", "dx", "dy"):
        what = {"x": "x of the centre", "y": "y of the centre", "dx": "step of x", "dy": "step of y"}[name]
        own = {"long_name": f"{what} in the sample's CRS" + (", from pixel to pixel" if len(name) > 1 else "")}
        found[f"sample_{name}"] = (along, np.array(getattr(samples, name), dtype=np.float64), own)
    dates = np.array(samples.acquired, dtype=np.int64).reshape(len(samples.acquired), len(samples))
    about_dates = {
        "long_name": "first acquisition of the sample in the window",
        "units": "seconds since 1970-01-01T00:00:00Z",
        "calendar": "proleptic_gregorian",
        "_FillValue": UNDATED,
    }
    found["acquired"] = (("time", "sample"), dates, about_dates)
    if layout.chip_cells > 1:
        for axis in ("y", "x"):
            centres = (np.arange(layout.chip_cells) + 0.5) * layout.cell_px + layout.halo_px
            where = {"long_name": f"{axis} of the cell's centre in its chip, in pixels from the upper left corner"}
            found[axis] = ((axis,), centres, where | {"units": "1"})
    return found


def _systems(samples: SampleList) -> list[str]:
    """Every CRS of the samples, once."""
    return sorted(set(samples.crs) - {""})
