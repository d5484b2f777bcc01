"""Decoded cells as a Zarr store like the cube: prediction, probability, coordinates and provenance of each zone."""

import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from embedcube.campaign.run_folder import TEMPORARY_PREFIX, fsync_folder
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, naming
from embedcube.uses.decode.file import Decoder
from embedcube.uses.decode.outputs import NO_CLASS, Put, classes_of, label_of, provenance_of

_COPIED = ("proj:code", "proj:wkt2", "spatial:bbox", "spatial:transform", "spatial:shape", "spatial:dimensions",
           "zarr_conventions", "coordinates", "grid_mapping")  # fmt: skip
"""attributes of a zone that hold for the decoded cells too"""


class ZarrLayer:
    """Writes one Zarr v3 store with the windows that were decoded; it appears whole."""

    def __init__(
        self, cube: Cube, decoder: Decoder, decoder_file: Path, out: Path, work: list[tuple[str, int]],
        finer: int = 1,
    ) -> None:  # fmt: skip
        """A RequestError says that `out` exists."""
        if out.exists():
            raise RequestError(f"{out} exists; remove it, or write to another name")
        self.files = [out]
        self._cube, self._decoder, self._out = cube, decoder, out
        self._times = {zone: [t for own, t in work if own == zone] for zone, _ in work}
        self._about = provenance_of(cube, decoder, decoder_file)
        self._folder = out.with_name(f"{TEMPORARY_PREFIX}{out.name}-{secrets.token_hex(4)}")

    def __enter__(self) -> "ZarrLayer":
        self._out.parent.mkdir(parents=True, exist_ok=True)
        with self._or_removed():
            root = zarr.open_group(self._folder, mode="w", zarr_format=3)
            root.update_attributes({"Conventions": "CF-1.11", **self._about})
            self._groups = {zone: self._zone(root, zone, times) for zone, times in self._times.items()}
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        with self._or_removed(), warnings.catch_warnings():
            # as the cube has it (consolidate/template.py)
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(zarr.open_group(self._folder, mode="a").store, zarr_format=3)
            self._folder.rename(self._out)
        fsync_folder(self._out.parent)

    @contextmanager
    def _or_removed(self) -> Iterator[None]:
        """Remove what was written where it cannot become whole."""
        try:
            with naming(self._out):
                yield
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @contextmanager
    def window(self, zone: str, t: int) -> Iterator[Put]:
        """Give a function that writes a rectangle of one window."""
        group, own = self._groups[zone], self._times[zone].index(t)

        def put(y: slice, x: slice, values: NDArray[np.float32]) -> None:
            with naming(self._out):
                write(y, x, values)

        def write(y: slice, x: slice, values: NDArray[np.float32]) -> None:
            task = self._decoder.about.request.task
            if task == "classification":
                group["prediction"][own, y, x] = classes_of(values)
            elif task == "regression":
                group["prediction"][own, y, x] = values[..., 0]
            if self._decoder.about.classes:
                group["probability"][own, y, x] = values

        yield put

    def _zone(self, root: zarr.Group, zone: str, times: list[int]) -> Any:
        source, group = self._cube.group(zone), root.require_group(zone)
        group.update_attributes({name: source.attrs[name] for name in _COPIED if name in source.attrs})
        for name in ("x", "y", "spatial_ref"):
            _copied(group, name, source[name], np.asarray(source[name][...]))
        for name in ("time", "time_bnds"):
            _copied(group, name, source[name], np.asarray(source[name][...])[times])
        rows, columns = source.attrs["spatial:shape"]
        side = source["embedding"].shards[1]
        about, shape = self._decoder.about, (len(times), rows, columns)
        mapping = {"grid_mapping": "spatial_ref"}
        if about.request.task == "classification":
            flags = {"flag_values": list(range(len(about.classes))), "flag_meanings": _flags(about.classes)}
            _array(group, "prediction", shape, side, "uint8", NO_CLASS, mapping | flags)
        elif about.request.task == "regression":
            label = label_of(self._decoder)
            _array(group, "prediction", shape, side, "float32", np.nan, mapping | {"long_name": label})
        if about.classes:
            names = {"long_name": "share of the class" if about.request.task == "dense" else "probability of the class",
                     "class_names": list(about.classes)}  # fmt: skip
            _array(group, "probability", (*shape, len(about.classes)), side, "float32", np.nan, mapping | names)
        return group


def _array(
    group: Any, name: str, shape: tuple[int, ...], side: int, dtype: str, fill: float, attributes: dict[str, Any]
) -> None:  # fmt: skip
    dimensions = ("time", "y", "x", "class")[: len(shape)]
    chunks = (1, min(side, shape[1]), min(side, shape[2]), *shape[3:])
    group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, dimension_names=dimensions,
        attributes=attributes,
    )  # fmt: skip


def _copied(group: Any, name: str, source: Any, values: NDArray[Any]) -> None:
    group.create_array(
        name, data=values, chunks=values.shape or "auto", dimension_names=source.metadata.dimension_names,
        attributes=dict(source.attrs),
    )  # fmt: skip


def _flags(names: tuple[str, ...]) -> str:
    """Names without blanks, as CF lists them."""
    return " ".join("_".join(name.split()) for name in names)
