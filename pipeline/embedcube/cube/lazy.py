"""A zone of a cube as an xarray Dataset whose vectors are decoded when they are used, and only those that are."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from numpy.typing import NDArray
from xarray.backends.common import BackendArray
from xarray.core import indexing

from embedcube.cube.chunks import read_box, read_outer, read_points, read_vectors, stored_name
from embedcube.cube.sample import status_attributes, times_of, vector_attributes
from embedcube.cube.store import CubeStore

if TYPE_CHECKING:
    from collections.abc import Sequence


class LazyArray(BackendArray):
    """Decoded vectors, or another array of a zone, read by boxes, by rows and columns, or by points."""

    def __init__(self, cube: CubeStore, zone: str, name: str) -> None:
        """`name` is "vector" or that of an array of the store."""
        source = cube.array(zone, stored_name(name))
        self.shape: tuple[int, ...] = source.shape
        self.dtype = np.dtype(np.float32) if name == "vector" else source.dtype
        self._cube, self._zone, self._name = cube, zone, name

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        """Values of an index of any of xarray's three kinds, in any order."""
        if not isinstance(key, indexing.VectorizedIndexer):
            # xarray's own way sorts the numbers first, and then copies all that was read
            return self._outer(key.tuple)
        parts = [_positive(one, size) for one, size in zip(key.tuple, self.shape, strict=True)]
        if not isinstance(parts[1], range) and not isinstance(parts[2], range):
            return self._points(parts)
        outer = indexing.IndexingSupport.OUTER
        return np.asarray(indexing.explicit_indexing_adapter(key, self.shape, outer, self._outer))

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Values at every combination of indices, which are numbers, slices or arrays, in any order."""
        wanted = [np.atleast_1d(np.arange(size)[one]) for one, size in zip(key, self.shape, strict=True)]
        dropped = tuple(axis for axis, one in enumerate(key) if isinstance(one, int | np.integer))
        features = wanted[3] if wanted[3:] and not np.array_equal(wanted[3], np.arange(self.shape[3])) else None
        straight = features is None and all(len(one) and (np.diff(one) == 1).all() for one in wanted[:3])
        if straight:
            t, y, x = (slice(int(one[0]), int(one[-1]) + 1) for one in wanted[:3])
            values = self._box(t, y, x)
        else:
            values = read_outer(self._cube, self._zone, self._name, wanted[:3], features)
        return np.squeeze(values, axis=dropped)

    def _points(self, parts: "Sequence[range | NDArray[np.int64]]") -> NDArray[Any]:
        """Values at points (y, x), each at its own time or at a slice of times; features of a slice, or one of each."""
        shape = np.broadcast_shapes(*(one.shape for one in parts if not isinstance(one, range)))
        points = [one if isinstance(one, range) else np.broadcast_to(one, shape) for one in parts]
        axis = _axis_of_features(points, len(shape))
        if axis is None:
            return self._chosen(points, shape)
        # xarray makes an index for each number of each vector: here they are points again, and the features of all
        features = np.asarray(points[3])[(0,) * axis + (slice(None),) + (0,) * (len(shape) - axis - 1)]
        points = [one if isinstance(one, range) else np.asarray(one.take(0, axis)) for one in points[:3]]
        found = self._chosen(points, (*shape[:axis], *shape[axis + 1 :]), features)
        return np.moveaxis(found, -1, axis)

    def _chosen(
        self,
        points: "Sequence[range | NDArray[np.int64]]",
        shape: tuple[int, ...],
        features: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Values at points of one shape; of their features those that are given, a slice of them, or one of each."""
        time, rows, columns = points[0], np.asarray(points[1]).ravel(), np.asarray(points[2]).ravel()
        each = len(points) > 3 and not isinstance(points[3], range)
        if len(points) > 3:
            features = np.asarray(points[3], np.int64).ravel()
        if features is not None and not each and np.array_equal(features, np.arange(self.shape[3])):
            features = None
        if isinstance(time, range):
            # the same times for all points: (point, time) as one list of points
            times, count = np.asarray(time, np.int64), len(rows)
            shape = (*shape, len(times))
            at = (np.tile(times, count), np.repeat(rows, len(times)), np.repeat(columns, len(times)))
            features = np.repeat(features, len(times)) if features is not None and each else features
        else:
            at = (time.ravel(), rows, columns)
        values = read_points(self._cube, self._zone, self._name, at, features, each)
        return values.reshape(*shape, *values.shape[1:])

    def _box(self, t: slice, y: slice, x: slice) -> NDArray[Any]:
        if self._name == "vector":
            return read_vectors(self._cube, self._zone, t, y, x)
        return read_box(self._cube, self._zone, self._name, t, y, x)


def _axis_of_features(points: "Sequence[range | NDArray[np.int64]]", axes: int) -> int | None:
    """The axis of index arrays of one shape along which the feature alone differs; None where there is no such axis."""
    if len(points) < 4 or isinstance(points[3], range):
        return None

    def same(one: "range | NDArray[np.int64]", axis: int) -> bool:
        return isinstance(one, range) or bool((one == one.take([0], axis)).all())

    if not points[3].size:
        return None
    for axis in range(axes):
        others = [other for other in range(axes) if other != axis]
        if all(same(one, axis) for one in points[:3]) and all(same(points[3], other) for other in others):
            return axis
    return None


def _positive(one: "slice | NDArray[np.int64]", size: int) -> "range | NDArray[np.int64]":
    """An index without negative numbers."""
    if isinstance(one, slice):
        return range(*one.indices(size))
    # a copy of many numbers only where it is needed
    return np.where(one < 0, one + size, one) if (one < 0).any() else one


def zone_dataset(cube: CubeStore, zone: str) -> xarray.Dataset:
    """A zone as a Dataset: `vector` (time, y, x, feature) in float32, `status`, `n_obs`; nothing is read but times.

    `spatial_ref` is a coordinate, so that the CRS is kept by arithmetic and selections; `t`, `row` and `column` are the
    numbers of a cell for `explain`.
    """
    about = cube.group(zone).attrs
    layer = zone.split("/", maxsplit=1)[0]
    a, _, c, _, e, f = about["spatial:transform"]
    rows, columns = about["spatial:shape"]
    starts, ends = times_of(cube, zone, list(range(cube.array(zone, "embedding").shape[0])))
    dimensions = ("time", "y", "x", "feature")

    def variable(name: str, attributes: dict[str, Any]) -> xarray.Variable:
        array = LazyArray(cube, zone, name)
        lazy = indexing.LazilyIndexedArray(array)
        return xarray.Variable(dimensions[: len(array.shape)], lazy, attributes | {"grid_mapping": "spatial_ref"})

    observed = {"long_name": "distinct acquisitions with at least one clear pixel in the cell", "units": "1"}
    return xarray.Dataset(
        {
            "vector": variable("vector", vector_attributes(cube, layer)),
            "status": variable("status", status_attributes()),
            "n_obs": variable("n_obs", observed),
        },
        coords={
            "time": starts,
            "time_end": ("time", ends),
            "t": ("time", np.arange(len(starts))),
            "row": ("y", np.arange(rows)),
            "column": ("x", np.arange(columns)),
            "y": ("y", f + (np.arange(rows) + 0.5) * e, {"axis": "Y", "long_name": "y of the cell's centre"}),
            "x": ("x", c + (np.arange(columns) + 0.5) * a, {"axis": "X", "long_name": "x of the cell's centre"}),
            "spatial_ref": spatial_ref(cube, zone),
        },
        attrs={"cube": cube.address, "version": cube.version, "zone": zone, "cell": float(a)},
    )


def spatial_ref(cube: CubeStore, zone: str) -> xarray.Variable:
    """The CF grid mapping of a zone. Where its cells are is said by x and y, also of a part of it."""
    from pyproj import CRS

    return xarray.Variable((), np.int64(0), CRS.from_wkt(cube.group(zone).attrs["proj:wkt2"]).to_cf())
