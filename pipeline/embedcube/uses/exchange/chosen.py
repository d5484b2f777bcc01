"""Which part of a cube is asked for: layers, windows, a box, or some cells by name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube
from embedcube.cube.within import area_in
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
        """As a bundle and its digest have it."""
        return {"layers": self.layers, "box": self.box, "time": self.time, "ids": sorted(self.ids)}


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A rectangle of cells of one zone, in some windows."""

    zone: str
    windows: list[int]
    y: slice
    x: slice


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
    found, named = [], cells_named(cube, layer, chosen.ids) if chosen.ids else None
    for zone in cube.zones_of(layer):
        rows, columns = cube.group(zone).attrs["spatial:shape"]
        y, x = slice(0, rows), slice(0, columns)
        if chosen.box is not None:
            area = area_in(cube, zone, chosen.box)
            if area is None:
                continue
            y, x = area.y, area.x
        if named is not None:
            if zone not in named:
                continue
            low, high = named[zone].min(axis=0), named[zone].max(axis=0) + 1
            y, x = _both(y, int(low[0]), int(high[0])), _both(x, int(low[1]), int(high[1]))
            if y.start >= y.stop or x.start >= x.stop:
                continue
        found.append(Rectangle(zone=zone, windows=cube.windows_of(zone, chosen.time), y=y, x=x))
    if not found:
        raise RequestError(f"no cell of layer {layer} is in what was asked for; `embedcube info` shows where it lies")
    return found


def _both(part: slice, first: int, end: int) -> slice:
    return slice(max(part.start, first), min(part.stop, end))


def cells_in(cube: Cube, layer: str, chosen: Chosen) -> Iterator[tuple[Rectangle, NDArray[np.bool_]]]:
    """Each rectangle of a layer, and which of its cells (y, x) are chosen."""
    named = cells_named(cube, layer, chosen.ids) if chosen.ids else None
    for one in rectangles(cube, layer, chosen):
        shape = (one.y.stop - one.y.start, one.x.stop - one.x.start)
        inside = np.ones(shape, bool)
        if chosen.box is not None and (area := area_in(cube, one.zone, chosen.box)) is not None:
            inside &= area.cut(one.y, one.x)
        if named is not None:
            asked = np.zeros(shape, bool)
            own = named[one.zone] - [one.y.start, one.x.start]
            own = own[((own >= 0) & (own < shape)).all(axis=1)]
            asked[own[:, 0], own[:, 1]] = True
            inside &= asked
        yield one, inside
