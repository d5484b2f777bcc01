"""A box or a polygon of a layer as xarray: each zone in its own CRS, or merged into one CRS by moving whole vectors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from embedcube.cube.encoding import NOT_PROCESSED, VALID, VALID_INCOMPLETE
from embedcube.cube.lazy import zone_dataset
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import METRES_PER_DEGREE, Within, area_in
from embedcube.errors import RequestError

_MOST_SPREAD = 16
"""cells of a merged grid for each cell of its parts, at most: two zones side by side, turned, need about four"""

_FEW_CELLS = 1_000_000
"""cells of a merged grid that are never too many"""


class WindowTree(xarray.DataTree):  # type: ignore[no-untyped-call]
    """A DataTree with one Dataset for each zone, named as the zone; nothing is decoded until it is used."""

    __slots__ = ()

    def merged(self, crs: Any = None) -> xarray.Dataset:
        """All zones in one Dataset, by default in the CRS of the first: each cell has the vector of the nearest cell.

        Vectors are moved whole, never mixed: a new cell has the vector of the cell that its centre lies in. Where two
        zones have one, it is one with a vector, that of the place's own zone first. `zone`, `row` and `column` say
        which cell it is. This decodes all that is in the tree. In degrees, longitudes of a region over the antimeridian
        go on beyond 180 or -180, so that neighbours stay neighbours.

        Raises:
            RequestError: `crs` is no CRS, or the region lies at opposite ends of it.
        """
        return _merged([child.to_dataset() for child in self.children.values()], crs)


def window(cube: CubeStore, layer: str, within: Within, time: Time) -> WindowTree:
    """The cells of a layer in a region in degrees: what `Layer.window` returns."""
    found: dict[str, xarray.Dataset] = {}
    for zone in cube.zones_of(layer):
        area = area_in(cube, zone, within)
        if area is None:
            continue
        # a place at the border of two zones may lie in a cell of one whose centre lies in the other
        margin = 1 if len(cube.zones_of(layer)) > 1 else 0
        y, x = (
            slice(max(0, part.start - margin), min(size, part.stop + margin))
            for part, size in zip((area.y, area.x), cube.group(zone).attrs["spatial:shape"], strict=True)
        )
        part = zone_dataset(cube, zone).isel(time=cube.windows_of(zone, time), y=y, x=x)
        about = {"long_name": "centre of the cell is in the region", "grid_mapping": "spatial_ref"}
        found[zone.split("/")[1]] = part.assign(inside=(("y", "x"), area.cut(y, x), about))
    if not found:
        raise RequestError(f"{cube.address}: no cell of {layer} has its centre in the region")
    tree = WindowTree(name=layer)
    for name, dataset in found.items():
        tree[name] = xarray.DataTree(dataset)
    return tree


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The grid of a merged Dataset."""

    crs: Any
    x: NDArray[np.float64]
    """centres of the columns"""
    y: NDArray[np.float64]
    """centres of the rows, descending"""


def _merged(parts: list[xarray.Dataset], crs: Any) -> xarray.Dataset:
    target = _target_of(parts, crs)
    shape = (parts[0].sizes["time"], len(target.y), len(target.x))
    values: dict[str, NDArray[Any]] = {
        "vector": np.full((*shape, parts[0].sizes["feature"]), np.nan, np.float32),
        "status": np.zeros(shape, np.uint8),
        "n_obs": np.zeros(shape, np.uint16),
        "zone": np.full(shape, -1, np.int8),
        "row": np.full(shape, -1, np.int32),
        "column": np.full(shape, -1, np.int32),
    }
    best = np.zeros(shape, np.int8)
    for number, part in enumerate(parts):
        to, of = _nearest(part, target)
        status = part["status"].values[:, of[0], of[1]]
        has_vector = np.isin(status, (VALID, VALID_INCOMPLETE))
        # a cell with a vector before one without; then that of the place's own zone
        rank = np.where(status == NOT_PROCESSED, 0, 1 + 2 * has_vector + part["inside"].values[of]).astype(np.int8)
        better = rank > best[:, to[0], to[1]]
        t, which = np.nonzero(better)
        at, source = ((t, *(axis[which] for axis in cells)) for cells in (to, of))
        best[at] = rank[better]
        for name in ("vector", "status", "n_obs"):
            values[name][at] = part[name].values[source]
        values["zone"][at] = number
        values["row"][at], values["column"][at] = part["row"].values[source[1]], part["column"].values[source[2]]
    return _dataset_of(parts, target, values)


def _dataset_of(parts: list[xarray.Dataset], target: _Target, values: dict[str, NDArray[Any]]) -> xarray.Dataset:
    first = parts[0]
    zones = [str(part.attrs["zone"]) for part in parts]
    about = {name: first[name].attrs for name in ("vector", "status", "n_obs")}
    about["zone"] = {"long_name": "which of zones the cell is of, -1 for none", "zones": zones}
    about["row"], about["column"] = ({"long_name": f"{name} of the cell in its zone"} for name in ("row", "column"))
    dimensions = ("time", "y", "x", "feature")
    return xarray.Dataset(
        {name: (dimensions[: own.ndim], own, about[name]) for name, own in values.items()},
        coords={
            "time": first["time"],
            "time_end": first["time_end"],
            "t": first["t"],
            "y": ("y", target.y),
            "x": ("x", target.x),
            "spatial_ref": ((), np.int64(0), target.crs.to_cf()),
        },
        attrs={name: first.attrs[name] for name in ("cube", "version")},
    )


def _target_of(parts: list[xarray.Dataset], crs: Any) -> _Target:
    """A grid that covers all parts, with cells as large as theirs; it is the grid of a part that has the same CRS."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    systems = [CRS.from_cf(part["spatial_ref"].attrs) for part in parts]
    try:
        target = systems[0] if crs is None else CRS.from_user_input(crs)
    except CRSError:
        raise RequestError(f"{crs!r} is no CRS; write for example EPSG:3035") from None
    side = parts[0].attrs["cell"]
    if systems[0].is_geographic != target.is_geographic:
        side = side / METRES_PER_DEGREE if target.is_geographic else side * METRES_PER_DEGREE
    boxes: list[tuple[float, float, float, float]] = []
    anchor = (0.0, 0.0)
    for part, system in zip(parts, systems, strict=True):
        x, y, half = part["x"].values, part["y"].values, part.attrs["cell"] / 2
        box = (x[0] - half, y[-1] - half, x[-1] + half, y[0] + half)
        if system == target:
            anchor = (box[0], box[3])
        else:
            box = Transformer.from_crs(system, target, always_xy=True).transform_bounds(*box)
        if target.is_geographic:
            box = _beside(box, boxes[0] if boxes else box)
        boxes.append(box)
    edges = np.array(boxes)
    _refuse_spread(edges, side, parts, target)
    (left, right), (bottom, top) = (
        ((ends - origin) / side)
        for ends, origin in (
            (np.array([edges[:, 0].min(), edges[:, 2].max()]), anchor[0]),
            (np.array([edges[:, 1].min(), edges[:, 3].max()]), anchor[1]),
        )
    )
    columns = np.arange(np.floor(left + 1e-6), np.ceil(right - 1e-6)) + 0.5
    rows = np.arange(np.ceil(top - 1e-6), np.floor(bottom + 1e-6), -1) - 0.5
    return _Target(crs=target, x=anchor[0] + columns * side, y=anchor[1] + rows * side)


def _beside(box: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, float, float, float]:
    """A box in degrees, its longitudes counted so that its right is above its left, and that it is near another one."""
    left, bottom, right, top = box
    right += 360 if right < left else 0
    turn = 360 * round((other[0] - left) / 360)
    return left + turn, bottom, right + turn, top


def _refuse_spread(edges: NDArray[np.float64], side: float, parts: list[xarray.Dataset], target: Any) -> None:
    """Refuse a grid that is nearly empty: parts at both ends of a CRS would need all that is between in memory."""
    sides = (edges[:, 2:].max(axis=0) - edges[:, :2].min(axis=0)) / side
    cells = sum(part.sizes["y"] * part.sizes["x"] for part in parts)
    if not np.isfinite(sides).all() or sides.prod() > _MOST_SPREAD * cells + _FEW_CELLS:
        raise RequestError(
            f"in {target.name} the region would be {sides[1]:,.0f} x {sides[0]:,.0f} cells for the {cells:,} that it "
            "has, as its parts lie far apart there; choose another crs, or take the zones one by one"
        )


def _nearest(
    part: xarray.Dataset, target: _Target
) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]:
    """Cells (row, column) of the target that lie in a part, and the cells of the part that hold their centres."""
    from pyproj import CRS, Transformer

    system = CRS.from_cf(part["spatial_ref"].attrs)
    x, y = np.meshgrid(target.x, target.y)
    if system != target.crs:
        x, y = Transformer.from_crs(target.crs, system, always_xy=True).transform(x, y)
    side = part.attrs["cell"]
    if system.is_geographic:
        # longitudes of the part may be counted from another meridian
        first = float(part["x"][0]) - side / 2
        x = first + (x - first) % 360
    column, row = (x - float(part["x"][0])) / side + 0.5, (float(part["y"][0]) - y) / side + 0.5
    inside = (column >= 0) & (column < part.sizes["x"]) & (row >= 0) & (row < part.sizes["y"])
    return np.nonzero(inside), (np.floor(row[inside]).astype(np.int64), np.floor(column[inside]).astype(np.int64))
