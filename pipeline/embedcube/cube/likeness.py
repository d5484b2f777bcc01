"""`Layer.similar`: the cosine of every cell of a layer with some examples, as a map."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.blocks import blocks
from embedcube.cube.examples import Examples, wanted_by
from embedcube.cube.similar import Query
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import Within

if TYPE_CHECKING:
    import xarray as xr


def similar(
    cube: CubeStore, layer: str, like: Examples, unlike: Examples | None = None, time: Time = None
) -> "xr.DataArray | xr.DataTree":
    """Cosine (time, y, x) of every cell, NaN where there is no vector; a tree of them where there are several zones."""
    import xarray as xr

    query = wanted_by(cube, layer, like, unlike, time).query
    maps = {
        zone: _map(cube, zone, cosines, time) for zone, cosines in cosines_of(cube, layer, query, time=time).items()
    }
    if len(maps) == 1:
        return next(iter(maps.values()))
    return xr.DataTree.from_dict({zone.split("/")[1]: one.to_dataset() for zone, one in maps.items()})


def cosines_of(
    cube: CubeStore, layer: str, query: Query, within: Within | None = None, time: Time = None
) -> dict[str, NDArray[np.float32]]:
    """Cosines (window, y, x) by zone; NaN where a cell has no vector, which `status` says, or lies outside `within`."""
    windows = {zone: cube.windows_of(zone, time) for zone in cube.zones_of(layer)}
    maps = {
        zone: np.full((len(chosen), *cube.array(zone, "status").shape[1:]), np.nan, np.float32)
        for zone, chosen in windows.items()
    }
    for block in blocks(cube, layer, within, time):
        wanted = block.valid if block.inside is None else block.valid & block.inside
        cosines = np.full(wanted.shape, np.nan, np.float32)
        if wanted.all():
            cosines[...] = block.cosines(query).reshape(wanted.shape)
        else:
            cosines[wanted] = block.cosines(query, wanted)
        maps[block.zone][windows[block.zone].index(block.t), block.y, block.x] = cosines
    return maps


def _map(cube: CubeStore, zone: str, cosines: NDArray[np.float32], time: Time) -> "xr.DataArray":
    import xarray as xr

    attributes: dict[str, Any] = {
        "long_name": "cosine with the examples",
        "units": "1",
        "grid_mapping": "spatial_ref",
        "valid_range": [-1.0, 1.0],
    }
    return xr.DataArray(
        cosines, coords=coordinates(cube, zone, time), dims=("time", "y", "x"), name="cosine", attrs=attributes
    )


def coordinates(cube: CubeStore, zone: str, time: Time) -> dict[str, Any]:
    """Coordinates of maps (time, y, x) of a zone in some windows: as `zone_dataset` has them, the CRS among them."""
    from embedcube.cube.lazy import zone_dataset

    chosen = zone_dataset(cube, zone).isel(time=cube.windows_of(zone, time))
    return {str(name): values for name, values in chosen.coords.items()}
