"""xarray's engine `embedcube`: zones of a cube with decoded vectors, and the accessor `embedcube` of such Datasets.

xarray.open_datatree("cube.zarr", engine="embedcube")
xarray.open_dataset("cube.zarr", engine="embedcube", group="s2_mosaiks/utm32")
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import xarray
from xarray.backends import BackendEntrypoint

from embedcube.cube.layer import Layer
from embedcube.cube.lazy import zone_dataset
from embedcube.cube.reader import Cube, open_cube
from embedcube.errors import RequestError
from embedcube.printable import listed

_OPEN: WeakValueDictionary[tuple[str, str], Cube] = WeakValueDictionary()
"""Cubes whose Datasets are in use, by address and version: an address that is printed has no credentials to open it
again with, and a link leads to another version when a newer one is promoted."""


class EmbedcubeBackend(BackendEntrypoint):
    """Opens a cube, or one of its zones, without Dask: what is selected is read and decoded when it is used."""

    description = "Decoded vectors of a cube of embeddings"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "group")
    supports_groups = True

    def open_dataset(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, group: str | None = None
    ) -> xarray.Dataset:
        """The Dataset of a zone; `group` ("<layer>/<zone>", or a layer with one zone) may be left out if there is one.

        Raises:
            RequestError: there is no such zone, or several; the message lists them.
        """
        cube = _opened(filename_or_obj)
        wanted = (group or "").strip("/")
        zones = [zone for zone in cube.zones if not wanted or zone == wanted or zone.startswith(f"{wanted}/")]
        if len(zones) != 1:
            named = f"group={wanted} is {'no zone' if not zones else 'several zones'}." if wanted else "which group?"
            raise RequestError(f"{cube.address}: {named} It has {listed(zones or cube.zones)}")
        return _dropped(_dataset(cube, zones[0]), drop_variables)

    def open_datatree(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None
    ) -> xarray.DataTree:
        """A tree of all layers and zones."""
        return xarray.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables))

    def open_groups_as_dict(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None
    ) -> dict[str, xarray.Dataset]:
        """Datasets of all zones by path, "/<layer>/<zone>"."""
        cube = _opened(filename_or_obj)
        return {f"/{zone}": _dropped(_dataset(cube, zone), drop_variables) for zone in cube.zones}


def _opened(source: Any) -> Cube:
    cube = open_cube(os.fspath(source) if isinstance(source, os.PathLike) else source)
    _OPEN[cube.address, cube.version] = cube
    return cube


def _dataset(cube: Cube, zone: str) -> xarray.Dataset:
    dataset = zone_dataset(cube, zone)
    dataset.encoding["source"] = cube.address
    return dataset


def _dropped(dataset: xarray.Dataset, names: str | Iterable[str] | None) -> xarray.Dataset:
    return dataset if names is None else dataset.drop_vars([names] if isinstance(names, str) else list(names))


@xarray.register_dataset_accessor("embedcube")  # type: ignore[no-untyped-call]
class Accessor:
    """What can be asked of the layer that a Dataset is of: `dataset.embedcube.sample(points)`, `.find(like)` and so on.

    The answers are about the whole layer, in all its zones and windows, not only about what the Dataset has selected.
    """

    def __init__(self, dataset: xarray.Dataset) -> None:
        """`dataset` is one of the engine `embedcube`, of `Layer.window`, or what was selected from it."""
        try:
            self._address, self._zone = str(dataset.attrs["cube"]), str(dataset.attrs["zone"])
            self._version = str(dataset.attrs["version"])
        except KeyError:
            raise RequestError('this Dataset is not of a cube; open it with engine="embedcube"') from None

    @property
    def layer(self) -> Layer:
        """The layer; a RequestError where the address leads to another version by now."""
        cube = _OPEN.get((self._address, self._version))
        if cube is None:
            cube = _opened(Path(self._address) if "://" not in self._address else self._address)
            if cube.version != self._version:
                raise RequestError(
                    f"{self._address} leads to version {cube.version} now, this Dataset is of {self._version}; "
                    "open it again, or that version by its own name"
                )
        return cube[self._zone.partition("/")[0]]

    @property
    def sample(self) -> Any:
        """`Layer.sample`: vectors of points over time."""
        return self.layer.sample

    @property
    def parcels(self) -> Any:
        """`Layer.parcels`: statistics of polygons."""
        return self.layer.parcels

    @property
    def similar(self) -> Any:
        """`Layer.similar`: cosine of every cell with examples."""
        return self.layer.similar

    @property
    def find(self) -> Any:
        """`Layer.find`: the cells most like examples."""
        return self.layer.find
