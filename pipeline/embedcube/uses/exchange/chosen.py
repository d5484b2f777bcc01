"""Which part of a cube is asked for: layers, windows, a box, or some cells by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube
from embedcube.cube.within import Area, area_in
from embedcube.errors import RequestError
from embedcube.printable import listed, printable
from embedcube.uses.touching import Box, contains


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A part of a cube."""

    layers: tuple[str, ...] = ()
    """all where there are none"""
    box: Box | None = None
    time: str | None = None
    ids: tuple[str, ...] = ()
    """names of cells, ZONE/ROW/COLUMN, or ids of samples of a list; all where there are none"""

    def asked(self) -> dict[str, Any]:
        """The choice as bundles and summaries tell it; it is a part of the digest of the request."""
        return {"layers": self.layers, "box": self.box, "time": self.time, "ids": sorted(self.ids)}


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """The rectangle of cells of one zone, in some windows, that holds all that is chosen of it."""

    zone: str
    windows: list[int]
    y: slice
    x: slice
    area: Area | None
    """cells of the box; None where no box is chosen"""
    named: NDArray[np.int64] | None
    """rows and columns (cell, 2) of the cells that are named, also of those beside the box; None where none is named"""

    def inside(self) -> NDArray[np.bool_]:
        """Which cells (y, x) of the rectangle are chosen."""
        shape = (self.y.stop - self.y.start, self.x.stop - self.x.start)
        inside = np.ones(shape, bool) if self.area is None else self.area.cut(self.y, self.x)
        if self.named is None:
            return inside
        asked = np.zeros(shape, bool)
        own = self.named - [self.y.start, self.x.start]
        own = own[((own >= 0) & (own < shape)).all(axis=1)]
        asked[own[:, 0], own[:, 1]] = True
        return inside & asked


def layers_of(cube: Cube, chosen: Chosen) -> tuple[str, ...]:
    """Names of the chosen layers; a RequestError names those that the cube does not have."""
    if unknown := set(chosen.layers) - set(cube.layers):
        raise RequestError(f"the cube has no layer {listed(unknown)}; it has {', '.join(cube.layers)}")
    return chosen.layers or cube.layers


def one_layer(cube: Cube, chosen: Chosen) -> str:
    """The only chosen layer; a RequestError says that there are several."""
    layers = layers_of(cube, chosen)
    if len(layers) != 1:
        raise RequestError(f"this takes one layer; choose one of {', '.join(layers)} with --layer")
    return layers[0]


def cells_named(cube: Cube, layer: str, ids: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Rows and columns (cell, 2) of named cells in each zone of a layer; a RequestError names what is no cell."""
    found: dict[str, list[tuple[int, int]]] = {}
    for name in ids:
        zone, _, place = name.partition("/")
        path = f"{layer}/{zone}"
        row, slash, column = place.partition("/")
        if path not in cube.zones or not slash or not (row.isdecimal() and column.isdecimal()):
            zones = ", ".join(one.split("/")[1] for one in cube.zones_of(layer))
            raise RequestError(f'"{printable(name, 60)}" is no cell; write ZONE/ROW/COLUMN, for example '
                               f"{zones.split(', ')[0]}/12/40 (zones: {zones})")  # fmt: skip
        rows, columns = cube.group(path).attrs["spatial:shape"]
        if int(row) >= rows or int(column) >= columns:
            raise RequestError(f"{name}: {path} has {rows} rows and {columns} columns of cells, counted from 0")
        found.setdefault(path, []).append((int(row), int(column)))
    return {path: np.array(cells, np.int64) for path, cells in found.items()}


def samples_in(cube: Cube, zone: str, chosen: Chosen) -> NDArray[np.bool_]:
    """Which samples of a list are chosen: by their ids, and by the box that their places lie in.

    Raises:
        RequestError: there is no sample of such an id, or none is chosen.
    """
    samples = cube.samples(zone)
    inside = np.ones(len(samples.ids), bool)
    if chosen.ids:
        named = [samples.number(one) for one in chosen.ids]
        inside &= np.isin(np.arange(len(inside)), named)
    if chosen.box is not None:
        inside &= contains(chosen.box, samples.column("lon"), samples.column("lat"))
    if not inside.any():
        raise RequestError(f"no sample of {zone} is in what was asked for; `embedcube info` shows what there is")
    return inside


def rectangles(cube: Cube, layer: str, chosen: Chosen) -> list[Rectangle]:
    """The rectangle of each zone of a layer that holds all that is chosen; a RequestError says that there is none."""
    found, cells = [], cells_named(cube, layer, chosen.ids) if chosen.ids else None
    for zone in cube.zones_of(layer):
        rows, columns = cube.group(zone).attrs["spatial:shape"]
        y, x, area, named = slice(0, rows), slice(0, columns), None, None
        if chosen.box is not None:
            area = area_in(cube, zone, chosen.box)
            if area is None:
                continue
            y, x = area.y, area.x
        if cells is not None:
            named = cells.get(zone)
            if named is None:
                continue
            low, high = named.min(axis=0), named.max(axis=0) + 1
            y, x = _both(y, int(low[0]), int(high[0])), _both(x, int(low[1]), int(high[1]))
            if y.start >= y.stop or x.start >= x.stop:
                continue
        windows = cube.windows_of(zone, chosen.time)
        found.append(Rectangle(zone=zone, windows=windows, y=y, x=x, area=area, named=named))
    if not found:
        raise RequestError(f"no cell of layer {layer} is in what was asked for; `embedcube info` shows where it lies")
    return found


def _both(part: slice, first: int, end: int) -> slice:
    return slice(max(part.start, first), min(part.stop, end))
