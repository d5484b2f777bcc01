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
from embedcube.sources.catalog.bands import shown
from embedcube.sources.catalog.dates import When, last_moment, time_in
from embedcube.sources.catalog.notes import Notes, undated
from embedcube.sources.catalog.products import File, Names, Product, is_alias, product_id, unusable
from embedcube.sources.catalog.told import Told
from embedcube.sources.netcdf import open_netcdf

_PIECE = 1 << 24
"""bytes that are read at once"""


def products_of(path: Path, id_prefix: str, names: Names, told: Told, notes: Notes) -> Iterator[Product]:
    """The products of one file, one for each time step, with ids as `<id_prefix>_20190127T000000`.

    A file without an axis of time is of the time in its name, else of the time told. A file that does not open is one
    product with a fault. A file with none of the bands is left out.
    """
    try:
        layers, times = apart(_variables, path.stat().st_size, path, names, told)
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
    if isinstance(layers, list):
        notes.left[path] = (
            f"has none of the bands: its variables are {shown(layers)}. Where one of them is a band, options.variables "
            "says which; fields of weather are for the source era5"
        )
        return
    missing = {band: f"{printable(path.name)} has no variable of this band" for band in names if band not in layers}
    for step, when in enumerate(times, start=1):
        yield Product(
            id=f"{product_id(id_prefix)}_{when.time:%Y%m%dT%H%M%S}",
            time=when.time,
            end=when.end,
            files={
                band: File(path=path, inner=variable, index=step if timed else 1)
                for band, (variable, timed) in layers.items()
            },
            missing=missing,
            properties={},
        )


def _variables(path: Path, names: Names, told: Told) -> tuple[dict[str, tuple[str, bool]] | list[str], list[When]]:
    """For each band its variable and whether it has time steps, and the times; all variables if none is a band."""
    with open_netcdf(path) as dataset:
        axes = {str(name): tuple(map(str, variable.dims[:-2])) for name, variable in dataset.data_vars.items()}
        images = [name for name, outer in axes.items() if len(outer) <= 1 and dataset[name].ndim >= 2]
        layers = {}
        for band, known in names.items():
            found = [name for name in images if name.lower() in known]
            # the band's name, then others of its own, then those that another band may have too
            rank = {name: (name.lower() != band.lower(), is_alias(known, name.lower())) for name in found}
            for variable in sorted(found, key=rank.__getitem__)[:1]:
                layers[band] = variable, bool(axes[variable])
        if not layers:
            return [name for name in axes if dataset[name].ndim >= 2], []
        timed = {axes[variable] for variable, has_steps in layers.values() if has_steps}
        if not timed:
            return layers, [_undated(path, told)]
        if len(timed) > 1:
            raise ValueError(f"{', '.join(variable for variable, _ in layers.values())} have {len(timed)} axes of time")
        return layers, [step for (axis,) in timed for step in _steps(dataset, axis)]


def _undated(path: Path, told: Told) -> When:
    when = told.when(path.stem)
    if when is None:
        raise ValueError(f"it has no axis of time, and {undated(path.name).removeprefix('has ')}")
    return when


def _steps(dataset: Any, axis: str) -> list[When]:
    """The time of each step, and the last moment of a step that lasts, as the bounds of the axis state (CF)."""
    moments = list(map(_utc, dataset[axis].values))
    bounds = dataset[axis].attrs.get("bounds", dataset[axis].encoding.get("bounds"))
    if bounds not in dataset.variables:
        return [When(time=moment) for moment in moments]
    intervals = [(_utc(first), _utc(last)) for first, last in dataset[bounds].values]
    return [
        When(time=first, end=end) if (end := last_moment(first, last)) else When(time=moment)
        for moment, (first, last) in zip(moments, intervals, strict=True)
    ]


def _utc(moment: Any) -> datetime:
    if not isinstance(moment, np.datetime64) or np.isnat(moment):
        raise ValueError(f"{moment!r} on the axis of time is not a date")
    return datetime.fromtimestamp(int(moment.astype("datetime64[s]").astype(int)), UTC)
