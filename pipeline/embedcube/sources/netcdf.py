"""Open NetCDF files, after a look at what their headers ask for.

Coordinates are read when a file is opened, whole. HDF5 stores nothing where nothing was written, so that a small file
may have an axis of any length.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedcube.sources.hdf5 import refuse_other_files
from embedcube.sources.hdf5_heap import refuse_endless_heap
from embedcube.sources.netcdf3 import refuse_cut_short

AXIS_POINTS = 1 << 22
"""most points along an axis. Hourly steps of 400 years, or points every 10 m along a meridian, are fewer"""


def open_netcdf(path: Path) -> Any:
    """Open a NetCDF file with xarray. Numbers stay packed, and nothing that is read is kept.

    Raises:
        ValueError: it is cut short, its header is damaged, an axis is too long, or its values are in other files.
        OSError: it could not be opened: its bytes are wrong, or for a reason that may pass.
    """
    import xarray

    refuse_cut_short(path)
    refuse_endless_heap(path)
    refuse_other_files(path)
    store = xarray.backends.NetCDF4DataStore.open(str(path))  # type: ignore[no-untyped-call]
    try:
        for name, variable in store.ds.variables.items():
            chunks = variable.chunking()
            refuse_long_axis(name, variable.shape, chunks if isinstance(chunks, list) else ())
        # by its class: looking an engine up imports those of all installed packages, four CPU seconds
        engine = xarray.backends.StoreBackendEntrypoint
        return xarray.open_dataset(store, engine=engine, mask_and_scale=False, cache=False)
    except BaseException:
        store.close()
        raise


def refuse_long_axis(name: str, shape: Sequence[int], chunks: Sequence[int]) -> None:
    """Refuse a variable of one dimension, such as a coordinate, that is too long or in too large chunks.

    Raises:
        ValueError: naming the variable.
    """
    if len(shape) == 1 and (points := max(*shape, *chunks, 0)) > AXIS_POINTS:
        raise ValueError(f"{name} has {points:,} points along its axis; {AXIS_POINTS:,} can be read")
