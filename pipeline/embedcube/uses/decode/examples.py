"""Cells of a cube, and labelled cells with their vectors, places and times: what decoders are fitted and scored on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.listed import is_list
from embedcube.cube.places import Places, cells_beside, own_cells
from embedcube.cube.reader import Cube
from embedcube.cube.store import Time
from embedcube.errors import RequestError
from embedcube.grid import to_degrees
from embedcube.uses.decode.around import NOTHING, Around
from embedcube.uses.decode.heads import Head

Task = Literal["classification", "regression", "dense"]
"""What a label is: one of several classes; a number; or the share of each class among the pixels of a cell."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Some cells of one layer, in any order."""

    zones: tuple[str, ...]
    """paths "<layer>/<zone>" """
    zone: NDArray[np.int64]
    """of each cell, its place in `zones`"""
    t: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.zone)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Cells":
        """Some of the cells."""
        return Cells(zones=self.zones, zone=self.zone[rows], t=self.t[rows], y=self.y[rows], x=self.x[rows])

    def each_zone(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each zone that has some of the cells, with their rows."""
        for number in np.unique(self.zone):
            yield self.zones[number], np.flatnonzero(self.zone == number)


def joined(parts: Sequence[Cells]) -> Cells:
    """The cells of several lists of one layer, one list after the other."""
    names = ("zone", "t", "y", "x")
    zone, t, y, x = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return Cells(zones=parts[0].zones, zone=zone, t=t, y=y, x=x)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled vectors, one row each: those of a cube, or those of any table."""

    features: NDArray[np.float32]
    """(row, feature), finite"""
    target: NDArray[np.float64]
    """(row): number of the class, or the value; dense: (row, class) shares that add up to 1"""
    classes: tuple[str, ...]
    """their names, ascending by number; empty for regression"""
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    seconds: NDArray[np.int64]
    """middle of the window, in seconds since 1970"""
    part: NDArray[np.int64]
    """number of the label that a row comes from: the cells of one polygon never lie on both sides of a fold"""
    group: NDArray[np.str_] | None = None
    """the value of the column of groups"""
    cells: Cells | None = None
    """the cells of the cube, of its first layer; None for rows of another table"""
    cell_m: float = 0.0
    """side of a cell in metres; 0 where it is not known"""
    left_out: dict[str, int] = field(default_factory=dict)
    """labels that are not used, by reason"""
    around: Around | None = None
    """the cells beside, for a head that takes them"""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def task(self) -> Task:
        """What the target is."""
        if self.target.ndim > 1:
            return "dense"
        return "classification" if self.classes else "regression"

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Examples":
        """Some of the rows."""
        return replace(
            self, features=self.features[rows], target=self.target[rows], lon=self.lon[rows], lat=self.lat[rows],
            seconds=self.seconds[rows], part=self.part[rows], group=None if self.group is None else self.group[rows],
            cells=None if self.cells is None else self.cells.take(rows),
            around=None if self.around is None else self.around.take(rows),
        )  # fmt: skip

    def seen_through(self, features: NDArray[np.float32]) -> "Examples":
        """The same labels with other features (row, feature); without the cells beside."""
        return replace(self, features=features, around=None)

    def said(self, head: Head, *, logits: bool = False) -> NDArray[np.float64]:
        """What a head says (row, output) of the rows: predictions, or logits of classes."""
        say = head.logits if logits else head
        if not head.around:
            return say(self.features)
        if self.around is None:
            raise ValueError("a conv head takes examples with the cells beside them (`with_around`)")
        return self.around.said(say)


def cells_at(
    cube: Cube, layer: str, lon: NDArray[np.float64], lat: NDArray[np.float64], t_of: "list[list[int]] | Time"
) -> tuple[Cells, NDArray[np.int64]]:
    """The cells of a layer that hold some points, and the row of the point of each.

    `t_of` selects windows; or it is a list of windows for each point. A point is in each of its windows one cell; one
    that is outside has none. Near the border of two UTM zones it is a cell with a vector, that of the place's own zone
    before the other.
    """
    zones, parts, rows = cube.zones_of(layer), [], []
    places = Places(lon=lon, lat=lat, names=np.arange(len(lon)))
    for found in (*own_cells(cube, layer, places), *cells_beside(cube, layer, places)):
        zone, own = found.zone, found.points
        windows = t_of if isinstance(t_of, list) else [cube.windows_of(zone, t_of)] * len(lon)
        counts = np.array([len(windows[i]) for i in own], np.int64)
        t = np.array([t for i in own for t in windows[i]], np.int64)
        repeated = np.repeat(np.arange(len(own)), counts)
        parts.append(Cells(
            zones=zones, zone=np.full(len(t), zones.index(zone)), t=t, y=found.rows[repeated], x=found.columns[repeated]
        ))  # fmt: skip
        rows.append(own[repeated])
    nothing = np.empty(0, np.int64)
    parts = parts or [Cells(zones=zones, zone=nothing, t=nothing, y=nothing, x=nothing)]
    cells, row = joined(parts), np.concatenate(rows or [nothing])
    # a point near a border lies in two zones: the cell with a vector, the own zone's before the other
    key = row * (1 + int(cells.t.max(initial=0))) + cells.t
    order = np.lexsort((np.arange(len(key)), ~has_vector(cube, cells), key))
    first = order[np.unique(key[order], return_index=True)[1]]
    return cells.take(first), row[first]


def cells_of_samples(
    cube: Cube, zone: str, ids: Sequence[str], t_of: "list[list[int]] | Time"
) -> tuple[Cells, NDArray[np.int64]]:
    """The cells of some samples of a list, as `cells_at` gives those of points; an id that is none has no cell."""
    numbers = {name: i for i, name in enumerate(cube.samples(zone).ids)}
    array = cube.array(zone, "status")
    windows = t_of if isinstance(t_of, list) else [cube.windows_of(zone, t_of)] * len(ids)
    places = np.stack(np.meshgrid(*[np.arange(array.sample_cells)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    rows, found = [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)]
    for i, name in enumerate(ids):
        if name not in numbers:
            continue
        y, x = (places + array.place(numbers[name])).T
        for t in windows[i]:
            rows.append(np.full(len(y), i))
            found.append(np.stack([np.full(len(y), t), y, x], axis=1))
    t, y, x = np.concatenate(found).T
    return Cells(zones=(zone,), zone=np.zeros(len(t), np.int64), t=t, y=y, x=x), np.concatenate(rows)


def has_vector(cube: Cube, cells: Cells) -> NDArray[np.bool_]:
    """Whether each cell has a vector."""
    there = np.zeros(len(cells), bool)
    for zone, rows, t, y, x in _by_chunk(cube, cells, "status"):
        status = np.asarray(cube.array(zone, "status")[t, y, x])
        found = status[cells.y[rows] - y.start, cells.x[rows] - x.start]
        there[rows] = (found == VALID) | (found == VALID_INCOMPLETE)
    return there


def vectors_of(cube: Cube, cells: Cells) -> NDArray[np.float32]:
    """Decoded vectors (cell, feature); NaN where a cell has none. Each chunk is decoded once for a window."""
    features = cube.array(cells.zones[0], "embedding").shape[-1]
    vectors = np.full((len(cells), features), np.nan, np.float32)
    for zone, rows, t, y, x in _by_chunk(cube, cells, "embedding"):
        vectors[rows] = cube.vectors(zone, t, y, x)[cells.y[rows] - y.start, cells.x[rows] - x.start]
    return vectors


def _by_chunk(cube: Cube, cells: Cells, array: str) -> Iterator[tuple[str, NDArray[np.int64], int, slice, slice]]:
    """Rows of the cells in each chunk of an array, with the window and the rows and columns of the chunk."""
    for zone, rows in cells.each_zone():
        stored = cube.array(zone, array)
        _, height, width = stored.chunks[:3]
        keys = np.stack([cells.t[rows], cells.y[rows] // height, cells.x[rows] // width], axis=1)
        order = np.lexsort(keys.T[::-1])
        starts = np.flatnonzero((np.diff(keys[order], axis=0) != 0).any(axis=1)) + 1
        for chunk in np.split(order, starts):
            t, iy, ix = keys[chunk[0]].tolist()
            y = slice(iy * height, min((iy + 1) * height, stored.shape[1]))
            x = slice(ix * width, min((ix + 1) * width, stored.shape[2]))
            yield zone, rows[chunk], t, y, x


def degrees_of(cube: Cube, cells: Cells) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of the centre of each cell; of a list those of its sample, NaN where nobody knows them."""
    lon, lat = np.empty(len(cells)), np.empty(len(cells))
    for zone, rows in cells.each_zone():
        if is_list(zone):
            samples, number = cube.samples(zone), cube.array(zone, "status").sample(cells.y[rows], cells.x[rows])
            lon[rows], lat[rows] = (samples.column(name)[number] for name in ("lon", "lat"))
            continue
        attributes = cube.group(zone).attrs
        a, _, c, _, e, f = attributes["spatial:transform"]
        x, y = c + (cells.x[rows] + 0.5) * a, f + (cells.y[rows] + 0.5) * e
        lon[rows], lat[rows] = to_degrees(attributes["proj:wkt2"]).transform(x, y)
    return lon, lat


def seconds_of(cube: Cube, cells: Cells) -> NDArray[np.int64]:
    """Middle of the window of each cell, in seconds since 1970."""
    seconds = np.empty(len(cells), np.int64)
    for zone, rows in cells.each_zone():
        bounds = np.asarray(cube.array(zone, "time_bnds")[...], np.int64)
        seconds[rows] = bounds.mean(axis=1).astype(np.int64)[cells.t[rows]]
    return seconds


def side_by_side(cube: Cube, layers: Sequence[str], cells: Cells) -> NDArray[np.float32]:
    """Vectors (cell, feature) of the cells' own layer, then those of other layers at the same place and time.

    `layers` begin with that of the cells. Another layer gives the cell that holds the centre, in the window that holds
    the middle of the window. NaN where a layer has no vector.
    """
    columns = [vectors_of(cube, cells)]
    if len(layers) > 1:
        lon, lat, seconds = *degrees_of(cube, cells), seconds_of(cube, cells)
        columns += [_of_other(cube, layer, lon, lat, seconds) for layer in layers[1:]]
    return np.concatenate(columns, axis=1)


def around_cells(cube: Cube, layers: Sequence[str], cells: Cells) -> Around:
    """The cells with the eight beside each, of the same zone and window; `layers` as in `side_by_side`."""
    dy, dx = (axis.ravel() for axis in np.mgrid[-1:2, -1:2])
    y, x = cells.y[:, None] + dy, cells.x[:, None] + dx
    shapes = np.array([cube.array(zone, "status").shape for zone in cells.zones], np.int64)
    windows, rows, columns = (shapes[cells.zone, axis][:, None] for axis in range(3))
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    zone, t = (np.broadcast_to(axis[:, None], y.shape) for axis in (cells.zone, cells.t))
    sizes = (len(cells.zones), *(int(axis.max(initial=1)) for axis in (windows, rows, columns)))
    number, inverse = np.unique(
        np.ravel_multi_index((zone[inside], t[inside], y[inside], x[inside]), sizes), return_inverse=True
    )
    own = dict(zip(("zone", "t", "y", "x"), np.unravel_index(number, sizes), strict=True))
    vectors = side_by_side(cube, layers, Cells(zones=cells.zones, **own))
    there = np.asarray(np.isfinite(vectors).all(axis=1))
    at = np.full(y.shape, NOTHING, np.int64)
    at[inside] = np.where(there, np.cumsum(there) - 1, NOTHING)[inverse.ravel()]
    return Around(vectors=vectors[there], at=at)


def with_around(cube: Cube, layers: Sequence[str], examples: Examples) -> Examples:
    """The examples with the cells beside them; they are cells of the cube."""
    assert examples.cells is not None
    return replace(examples, around=around_cells(cube, layers, examples.cells))


def _of_other(
    cube: Cube, layer: str, lon: NDArray[np.float64], lat: NDArray[np.float64], seconds: NDArray[np.int64]
) -> NDArray[np.float32]:
    zone = cube.zones_of(layer)[0]
    cells, row = cells_at(cube, layer, lon, lat, windows_holding(cube, zone, seconds))
    vectors = np.full((len(lon), cube.array(zone, "embedding").shape[-1]), np.nan, np.float32)
    vectors[row] = vectors_of(cube, cells)
    return vectors


def windows_holding(cube: Cube, zone: str, seconds: NDArray[np.int64]) -> list[list[int]]:
    """For each moment the first window of a zone that holds it, as a list of one; empty where there is none."""
    bounds = np.asarray(cube.array(zone, "time_bnds")[...], np.int64)
    holds = (bounds[None, :, 0] <= seconds[:, None]) & (seconds[:, None] < bounds[None, :, 1])
    return [np.flatnonzero(row)[:1].tolist() for row in holds]


def cells_of_other(cube: Cube, layer: str, examples: Examples) -> tuple[Cells, NDArray[np.int64]]:
    """Cells of another layer at the places and times of examples of a cube, with the row of the example of each."""
    windows = windows_holding(cube, cube.zones_of(layer)[0], examples.seconds)
    cells, row = cells_at(cube, layer, examples.lon, examples.lat, windows)
    return cells, row


def check_layers(cube: Cube, layers: Sequence[str]) -> tuple[str, ...]:
    """The layers that are asked for, or the only one of the cube; a RequestError names those that it has."""
    if not layers:
        return (cube.layer.name,)
    for layer in layers:
        cube[layer]
    if len(set(layers)) != len(layers):
        raise RequestError(f"--layers {','.join(layers)} names a layer twice; name each once")
    if len(layers) > 1 and (lists := [layer for layer in layers if is_list(cube.zones_of(layer)[0])]):
        raise RequestError(
            f"--layers: {lists[0]} is a list of samples, which stands beside no other layer; name it alone"
        )
    return tuple(layers)
