"""Products of NetCDF files that hold a series of images: one variable (time, y, x) for each band."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from embedcube.campaign.scene import unforeseen
from embedcube.errors import StartAgain
from embedcube.printable import printable
from embedcube.sources.apart import apart
from embedcube.sources.catalog.products import (
    File,
    Names,
    Product,
    is_alias,
    last_moment,
    product_id,
    time_in,
    unusable,
)
from embedcube.sources.netcdf import open_netcdf

_PIECE = 1 << 24
"""bytes that are read at once"""


def products_of(path: Path, id_prefix: str, names: Names) -> Iterator[Product]:
    """The products of one file, one for each time step, with ids as `<id_prefix>_20190127T000000`.

    A file that does not open is one product with a fault.
    """
    try:
        layers, times = apart(_variables, path.stat().st_size, path, names)
    except StartAgain:
        raise
    except Exception as error:
        # the library reports wrong bytes and a failing disk alike; this read raises only if the disk fails
        with path.open("rb") as file:
            while file.read(_PIECE):
                pass
        words = printable(error) if isinstance(error, OSError | ValueError | KeyError) else unforeseen(error)
        fault = f"{printable(path.name)} is not a usable NetCDF file: {words}"
        yield unusable(id_prefix, fault, time_in(path.stem))
        return
    if not layers:
        return
    missing = {band: f"{printable(path.name)} has no variable of this band" for band in names if band not in layers}
    for step, (time, end) in enumerate(times, start=1):
        yield Product(
            id=f"{product_id(id_prefix)}_{time:%Y%m%dT%H%M%S}",
            time=time,
            end=end,
            files={
                band: File(path=path, inner=variable, index=step if timed else 1)
                for band, (variable, timed) in layers.items()
            },
            missing=missing,
            properties={},
        )


def _variables(path: Path, names: Names) -> tuple[dict[str, tuple[str, bool]], list[tuple[datetime, datetime | None]]]:
    """For each band its variable and whether it has time steps; and for each step its time and its last moment."""
    with open_netcdf(path) as dataset:
        axes = {str(name): tuple(map(str, variable.dims[:-2])) for name, variable in dataset.data_vars.items()}
        images = [name for name, outer in axes.items() if len(outer) <= 1 and dataset[name].ndim >= 2]
        layers = {}
        for band, known in names.items():
            found = [name for name in images if name.lower() in known]
            # a name of its own before one that another band may have too
            for variable in sorted(found, key=lambda name: is_alias(known, name.lower()))[:1]:
                layers[band] = variable, bool(axes[variable])
        timed = {axes[variable] for variable, has_steps in layers.values() if has_steps}
        if layers and len(timed) != 1:
            raise ValueError(f"{', '.join(variable for variable, _ in layers.values())} have {len(timed)} axes of time")
        times = [step for (axis,) in timed for step in _steps(dataset, axis)]
    return layers, times


def _steps(dataset: Any, axis: str) -> list[tuple[datetime, datetime | None]]:
    """The time of each step, and the last moment of a step that lasts, as the bounds of the axis state (CF)."""
    moments = list(map(_utc, dataset[axis].values))
    bounds = dataset[axis].attrs.get("bounds", dataset[axis].encoding.get("bounds"))
    if bounds not in dataset.variables:
        return [(moment, None) for moment in moments]
    intervals = [(_utc(first), _utc(last)) for first, last in dataset[bounds].values]
    return [
        (first, end) if (end := last_moment(first, last)) else (moment, None)
        for moment, (first, last) in zip(moments, intervals, strict=True)
    ]


def _utc(moment: Any) -> datetime:
    if not isinstance(moment, np.datetime64) or np.isnat(moment):
        raise ValueError(f"{moment!r} on the axis of time is not a date")
    return datetime.fromtimestamp(int(moment.astype("datetime64[s]").astype(int)), UTC)
