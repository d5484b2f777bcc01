"""A file of labels -> labelled cells: the cell that holds a point, the cells in a polygon, the pixels on a cell."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.listed import is_list
from embedcube.cube.reader import Cube
from embedcube.cube.within import area_in
from embedcube.errors import RequestError
from embedcube.grid import is_geographic
from embedcube.uses.decode.examples import (
    Cells,
    Examples,
    Task,
    cells_at,
    cells_of_samples,
    check_layers,
    degrees_of,
    joined,
    seconds_of,
    side_by_side,
    windows_holding,
)
from embedcube.uses.decode.folds import EARTH_M
from embedcube.uses.decode.rasters import labels_of_rasters
from embedcube.uses.decode.request import Labels, Request
from embedcube.uses.decode.tables import Table, read_columns, read_table

RASTERS = (".tif", ".tiff")

FEWEST = 3
"""members of a class, or labelled cells, below which nothing can be held out"""


def read_examples(cube: Cube, layers: Sequence[str], paths: Sequence[Path], request: Request) -> Examples:
    """The labels of some files, with the vectors of one or several layers side by side.

    Raises:
        RequestError: the labels are of another CRS than said, outside of the cube, without any vector, missing, or of
            one class.
    """
    layers = check_layers(cube, layers)
    named = paths[0].name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    for path in paths:
        if not path.is_file():
            raise RequestError(f"{path}: there is no such file of labels")
    listed = is_list(cube.zones_of(layers[0])[0])
    if all(path.suffix.lower() in RASTERS for path in paths):
        if listed:
            raise RequestError(f"{named}: {layers[0]} is a list of samples: labels are a table with a column id")
        labels = labels_of_rasters(cube, layers[0], paths, request)
    elif len(paths) == 1:
        table = read_columns(paths[0]) if listed else read_table(paths[0], request.crs)
        labels = _labels_of_table(cube, layers[0], table, request)
    else:
        raise RequestError(f"{named}: several files of labels are rasters (.tif), one for each date; or one table")
    if not len(labels.cells):
        if listed:
            known = ", ".join(cube[layers[0]].ids[:3])
            raise RequestError(f"{named}: none of its ids is a sample of {layers[0]}; the cube has {known}, ...")
        spans = ", ".join(f"{zone} {_extent(cube, zone)}" for zone in cube.zones_of(layers[0])[:2])
        raise RequestError(f"{named}: all {labels.outside} labels lie outside of the cube ({spans})")
    features = side_by_side(cube, layers, labels.cells)
    there = np.asarray(np.isfinite(features).all(axis=1))
    left_out = {"outside of the cube": labels.outside, "no vector": int((~there).sum()), **labels.left_out}
    if not there.any():
        raise RequestError(
            f"{named}: none of the {len(there)} labelled cells has a vector in {' and '.join(layers)}; "
            "look at them with `embedcube explain`, or choose other windows with --time"
        )
    lon, lat = degrees_of(cube, labels.cells)
    examples = Examples(
        features=features, target=labels.target, classes=labels.classes, lon=lon, lat=lat,
        seconds=seconds_of(cube, labels.cells), part=labels.part, group=labels.group, cells=labels.cells,
        left_out={reason: count for reason, count in left_out.items() if count}, cell_m=cell_m(cube, layers[0]),
    ).take(there)  # fmt: skip
    return checked(examples, named, request.column)


def cell_m(cube: Cube, layer: str) -> float:
    """Side of the cells of a layer in metres, the longest; of degrees at the equator; 0 of samples without a grid."""
    sides = []
    for zone in cube.zones_of(layer):
        attributes = cube.group(zone).attrs
        if (transform := attributes.get("spatial:transform")) is None:
            continue
        unit = EARTH_M * np.radians(1) if is_geographic(attributes["proj:wkt2"]) else 1.0
        sides += [abs(transform[i]) * unit for i in (0, 4)]
    return float(max(sides, default=0))


def _extent(cube: Cube, zone: str) -> str:
    west, south, east, north = (f"{edge:.6g}" for edge in cube.group(zone).attrs["spatial:bbox"])
    return f"x {west} to {east}, y {south} to {north}"


def checked(examples: Examples, named: str, column: str | None) -> Examples:
    """The examples, without classes that none of them has.

    Raises:
        RequestError: there are too few, or they are all of one class or one value.
    """
    of = f"{named}: " + (f"column {column}" if column else "the labels")
    if len(examples) < FEWEST:
        raise RequestError(f"{of}: {len(examples)} labelled cells with a vector, a decoder needs at least {FEWEST}")
    if examples.task == "regression":
        if np.ptp(examples.target) == 0:
            raise RequestError(f"{of}: every label is {examples.target[0]:g}; there is nothing to learn")
        return examples
    if examples.task == "dense":
        present = examples.target.sum(axis=0) > 0
    else:
        present = np.bincount(examples.target.astype(np.int64), minlength=len(examples.classes)) > 0
    names = tuple(name for name, there in zip(examples.classes, present, strict=True) if there)
    if len(names) < 2:
        raise RequestError(f"{of}: one class ({names[0]}) at cells with a vector; a decoder needs at least two")
    number = np.cumsum(present) - 1
    target = examples.target[:, present] if examples.task == "dense" else number[examples.target.astype(np.int64)]
    return replace(examples, target=np.asarray(target, np.float64), classes=names)


def digest_of(paths: Sequence[Path]) -> str:
    """SHA-256 over the bytes of some files of labels."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


# --- tables ---------------------------------------------------------------------------------------


def _labels_of_table(cube: Cube, layer: str, table: Table, request: Request) -> Labels:
    if request.column is None:
        raise RequestError(f"{table.path.name}: say the column of the label with --column; it has "
                           f"{', '.join(list(table.columns)[:20])}")  # fmt: skip
    if request.task == "dense":
        raise RequestError(f"{table.path.name}: dense labels are a raster (.tif) finer than the cells; this is a table")
    values = table.column(request.column)
    target, classes = _target(table.path.name, request.column, values, request.task)
    windows = None if request.date is None else _windows_at(cube, layer, table, request.date)
    listed = is_list(cube.zones_of(layer)[0])
    place = _cells_of_samples if listed else _cells_of_points if table.of_points else _cells_of_polygons
    cells, row = place(cube, layer, table, request.time if windows is None else windows)
    outside = len(values) - len(np.unique(row))
    groups = None if request.groups is None else np.array([str(name) for name in table.column(request.groups)])
    twice = mixed = 0
    if not listed and not table.of_points:
        cells, row, twice = _once(cells, row, target)
    elif groups is not None:
        kept = _of_one_group(cells, groups[row])
        cells, row, mixed = cells.take(kept), row[kept], int((~kept).sum())
    return Labels(
        cells=cells, target=target[row], classes=classes, part=row, group=None if groups is None else groups[row],
        outside=outside,
        left_out={"in polygons of several labels": twice, "in cells of several groups": mixed},
    )  # fmt: skip


def _target(name: str, column: str, values: list[Any], task: Task) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    missing = [row for row, value in enumerate(values) if value is None or value != value or value == ""]
    if missing:
        raise RequestError(
            f"{name}: column {column} has no value (empty or NaN) in {len(missing)} of {len(values)} rows, the first "
            f"is row {missing[0] + 1}; take them out of the file"
        )
    if task == "classification":
        kinds = sorted(set(values), key=lambda value: (str(type(value)), value))
        number = {value: i for i, value in enumerate(kinds)}
        return np.array([number[value] for value in values], np.float64), tuple(str(kind) for kind in kinds)
    try:
        target = np.array(values, np.float64)
    except (TypeError, ValueError):
        text = next(value for value in values if not isinstance(value, int | float))
        raise RequestError(
            f"{name}: column {column} holds {text!r}, which is no number; --task classification takes names"
        ) from None
    if not np.isfinite(target).all():
        raise RequestError(f"{name}: column {column} holds {target[~np.isfinite(target)][0]}; labels are finite")
    return target, ()


def _windows_at(cube: Cube, layer: str, table: Table, column: str) -> list[list[int]]:
    """For each label the window that holds its date."""
    zone = cube.zones_of(layer)[0]
    try:
        moments = np.array([str(value).replace("Z", "") for value in table.column(column)], "datetime64[s]")
    except ValueError:
        raise RequestError(f"{table.path.name}: column {column} is not all dates; write them as 2023-06-15") from None
    return windows_holding(cube, zone, moments.astype(np.int64))


def _cells_of_points(
    cube: Cube, layer: str, table: Table, t_of: "str | list[list[int]] | None"
) -> tuple[Cells, NDArray[np.int64]]:
    import shapely

    return cells_at(cube, layer, shapely.get_x(table.geometry), shapely.get_y(table.geometry), t_of)


def _cells_of_samples(
    cube: Cube, layer: str, table: Table, t_of: "str | list[list[int]] | None"
) -> tuple[Cells, NDArray[np.int64]]:
    """The cells of the samples that the column id names."""
    return cells_of_samples(cube, cube.zones_of(layer)[0], table.ids(), t_of)


def _cells_of_polygons(
    cube: Cube, layer: str, table: Table, t_of: "str | list[list[int]] | None"
) -> tuple[Cells, NDArray[np.int64]]:
    """Cells whose centre lies in a polygon, with the row of the polygon."""
    zones = cube.zones_of(layer)
    nothing = np.empty(0, np.int64)
    parts, rows = [Cells(zones=zones, zone=nothing, t=nothing, y=nothing, x=nothing)], [nothing]
    for i, polygon in enumerate(table.geometry):
        for number, zone in enumerate(zones):
            area = area_in(cube, zone, polygon)
            if area is None:
                continue
            windows = t_of[i] if isinstance(t_of, list) else cube.windows_of(zone, t_of)
            lengths = area.end - area.first
            y = np.repeat(area.row, lengths)
            x = np.arange(len(y)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(area.first, lengths)
            t = np.repeat(np.array(windows, np.int64), len(y))
            y, x = np.tile(y, len(windows)), np.tile(x, len(windows))
            parts.append(Cells(zones=zones, zone=np.full(len(t), number), t=t, y=y, x=x))
            rows.append(np.full(len(t), i))
    return joined(parts), np.concatenate(rows)


def _once(cells: Cells, row: NDArray[np.int64], target: NDArray[np.float64]) -> tuple[Cells, NDArray[np.int64], int]:
    """Each cell once; cells of polygons with different labels are left out, and counted."""
    keys = np.stack([cells.zone, cells.t, cells.y, cells.x], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.ravel()
    lowest, highest = np.full(len(first), np.inf), np.full(len(first), -np.inf)
    np.minimum.at(lowest, inverse, target[row])
    np.maximum.at(highest, inverse, target[row])
    kept = np.sort(first[lowest == highest])
    return cells.take(kept), row[kept], int((lowest != highest).sum())


def _of_one_group(cells: Cells, group: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether all labels in the cell of each row are of one group: else one vector lies on both sides of a fold."""
    keys = np.stack([cells.zone, cells.t, cells.y, cells.x], axis=1)
    inverse = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    number = np.unique(group, return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([inverse, number], axis=1), axis=0)
    return np.asarray(np.bincount(pairs[:, 0])[inverse] == 1)


def counted_classes(examples: Examples) -> dict[str, float]:
    """How many rows each class has; dense: how many cells' worth of pixels."""
    if examples.task == "dense":
        return dict(zip(examples.classes, examples.target.sum(axis=0).round(1).tolist(), strict=True))
    counts = Counter(examples.target.astype(np.int64).tolist())
    return {name: counts[number] for number, name in enumerate(examples.classes)}
