"""A zone of a cube as an xarray Dataset whose vectors are decoded when they are used, and only those that are."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from numpy.typing import NDArray
from xarray.backends.common import BackendArray
from xarray.core import indexing

from embedcube.cube.chunks import read_box, read_cells, read_vectors
from embedcube.cube.encoding import decode
from embedcube.cube.sample import status_attributes, times_of, vector_attributes
from embedcube.cube.store import CubeStore

if TYPE_CHECKING:
    from collections.abc import Sequence


class LazyArray(BackendArray):
    """Decoded vectors, or another array of a zone, read by boxes, by rows and columns, or by points."""

    def __init__(self, cube: CubeStore, zone: str, name: str) -> None:
        """`name` is "vector" or that of an array of the store."""
        source = cube.array(zone, "embedding" if name == "vector" else name)
        self.shape: tuple[int, ...] = source.shape
        self.dtype = np.dtype(np.float32) if name == "vector" else source.dtype
        self._cube, self._zone, self._name = cube, zone, name

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        """Values of an index of any of xarray's three kinds."""
        if isinstance(key, indexing.VectorizedIndexer):
            parts = [_positive(one, size) for one, size in zip(key.tuple, self.shape, strict=True)]
            if not isinstance(parts[1], range) and not isinstance(parts[2], range):
                return self._points(parts)
        outer = indexing.IndexingSupport.OUTER
        return np.asarray(indexing.explicit_indexing_adapter(key, self.shape, outer, self._outer))

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Values at every combination of indices, which are numbers, slices with a positive step, or arrays."""
        wanted = [np.atleast_1d(np.arange(size)[one]) for one, size in zip(key, self.shape, strict=True)]
        dropped = tuple(axis for axis, one in enumerate(key) if isinstance(one, int | np.integer))
        rest = wanted[3:]
        if not all(one.size for one in wanted):
            values = np.empty([one.size for one in wanted], self.dtype)
        elif all((np.diff(one) == 1).all() for one in wanted[:3]):
            t, y, x = (slice(int(one[0]), int(one[-1]) + 1) for one in wanted[:3])
            values = self._box(t, y, x)
            whole = not rest or np.array_equal(rest[0], np.arange(self.shape[3]))
            values = values if whole else values[..., rest[0]]
        else:
            rows, columns = (grid.ravel() for grid in np.meshgrid(wanted[1], wanted[2], indexing="ij"))
            cells = self._cells(wanted[0], rows, columns)
            values = cells.reshape(len(wanted[0]), len(wanted[1]), len(wanted[2]), *cells.shape[2:])
            values = values[..., rest[0]] if rest else values
        return np.squeeze(values, axis=dropped)

    def _points(self, parts: "Sequence[range | NDArray[np.int64]]") -> NDArray[Any]:
        """Values at points (y, x), each at its own time or at a slice of times; features of a slice, or one of each."""
        shape = np.broadcast_shapes(*(one.shape for one in parts if not isinstance(one, range)))
        points = [one if isinstance(one, range) else np.broadcast_to(one, shape).ravel() for one in parts]
        time, rows, columns = points[0], np.asarray(points[1]), np.asarray(points[2])
        if isinstance(time, range):
            values = np.moveaxis(self._cells(np.asarray(time), rows, columns), 0, 1)
        else:
            values = np.empty((len(rows), *self.shape[3:]), self.dtype)
            depth = self._cube.chunks(self._zone, self._stored).chunks[0]
            for number in np.unique(time // depth):
                here = np.flatnonzero(time // depth == number)
                times, at = np.unique(time[here], return_inverse=True)
                values[here] = self._cells(times, rows[here], columns[here])[at, np.arange(len(here))]
        if len(points) > 3:
            features = points[3]
            if isinstance(features, range):
                values = values[..., np.asarray(features, np.int64)]
            else:
                values = np.take_along_axis(values, features.reshape(-1, *[1] * (values.ndim - 1)), axis=-1)[..., 0]
        return values.reshape(*shape, *values.shape[1:])

    @property
    def _stored(self) -> str:
        return "embedding" if self._name == "vector" else self._name

    def _box(self, t: slice, y: slice, x: slice) -> NDArray[Any]:
        if self._name == "vector":
            return read_vectors(self._cube, self._zone, t, y, x)
        return read_box(self._cube, self._zone, self._name, t, y, x)

    def _cells(self, t: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        stored = read_cells(self._cube, self._zone, self._stored, t.tolist(), rows, columns)
        if self._name != "vector":
            return stored
        scaled = self._cube.has_scale(self._zone)
        return decode(
            stored, read_cells(self._cube, self._zone, "scale", t.tolist(), rows, columns) if scaled else None
        )


def _positive(one: "slice | NDArray[np.int64]", size: int) -> "range | NDArray[np.int64]":
    """An index without negative numbers."""
    if isinstance(one, slice):
        return range(*one.indices(size))
    return np.where(one < 0, one + size, one)


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
