"""A bundle with vectors made smaller: one Zarr group for each zone, plain to read, with what was lost measured.

Its arrays are those of the cube, cut to the cells that were asked for: `embedding`, `scale` where there is one,
`status`, `n_obs`, coordinates; and `mean`, `basis`, `step` (codecs.py). The provenance of the cube is in it too.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from embedcube.consolidate.seal import seal_of
from embedcube.cube.arrays import COMPRESSION_LEVEL, KEY_SEPARATOR
from embedcube.cube.chunks import read_box, read_vectors
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.progress import Progress
from embedcube.uses.exchange.chosen import Chosen, Rectangle, layers_of, rectangles
from embedcube.uses.exchange.codecs import Fitted, Smaller, fit
from embedcube.uses.exchange.loss import measure, sample_of
from embedcube.uses.exchange.manifest import MANIFEST, REDUCED, about_cube, manifest_bytes, request_digest
from embedcube.uses.exchange.part import Exported
from embedcube.uses.exchange.zipped import BundleWriter, zip_bytes

SIDE = 64
"""cells along a side of a chunk"""

_COPIED = ("proj:code", "proj:wkt2", "spatial:dimensions", "spatial:transform_type", "spatial:registration",
           "zarr_conventions", "coordinates", "geoemb:model", "embedcube:models", "geoemb:source_data",
           "embedcube:backbone", "embedcube:weights_sha256", "embedcube:fitted_on")  # fmt: skip
"""attributes of a zone that hold for its smaller vectors too"""


def export_reduced(
    cube: Cube, out: Path, chosen: Chosen, asked: Smaller, progress: Progress, *, dry_run: bool = False
) -> Exported:
    """Write a bundle of smaller vectors; fitted on a sample of each layer, on which the loss is measured.

    Raises:
        RequestError: nothing lies in what was chosen, or there are fewer features than asked for.
        WorkError: the layer has too few vectors, or an object is damaged.
    """
    if chosen.ids:
        raise RequestError("--ids with --features or --bits is a table: write it with --as geoparquet")
    layers = layers_of(cube, chosen)
    parts = {layer: rectangles(cube, layer, chosen) for layer in layers}
    if dry_run:
        return _priced(cube, out, parts, asked)
    samples = {layer: sample_of(cube, layer) for layer in layers}
    fitted = {layer: fit(asked, sample) for layer, sample in samples.items()}
    measured = {layer: asdict(measure(samples[layer], asked)) for layer in layers}
    about: dict[str, Any] = {
        "kind": REDUCED, **about_cube(cube, layers), "asked": {**chosen.asked(), **asdict(asked)},
        "measured": measured, "seal": seal_of(cube.path.resolve()) if cube.is_local else "",
    }  # fmt: skip
    files: dict[str, tuple[str, int]] = {}
    groups = [(_Group(cube, one, fitted[layer], measured[layer]), one) for layer, own in parts.items() for one in own]
    work = [(group, place) for group, one in groups for place in _chunks(one)]
    with closing(BundleWriter(out, request_digest(about))) as writer:
        kept = len(writer.kept)
        # members are written in order: all before the last chunk with a member are whole
        whole = max((i for i, (group, at) in enumerate(work) if any(map(writer.has, group.names(*at)))), default=0)

        def put(name: str, data: bytes) -> None:
            data = writer.read(name) if writer.has(name) else data
            writer.add(name, data)
            files[name] = hashlib.sha256(data).hexdigest(), len(data)

        members = [*_provenance(cube), *(pair for group, _ in groups for pair in group.metadata())]
        for name, data in (*members, ("zarr.json", _root(about))):
            put(name, data)
        for i, (group, place) in enumerate(work):
            there = ((name, b"") for name in group.names(*place) if writer.has(name))
            for name, data in there if i < whole else group.chunk(*place):
                put(name, data)
            progress(i + 1, len(work))
        writer.add(MANIFEST, manifest_bytes(about, files))
        size = writer.finish()
    cells = sum(group.count() for group, _ in groups)
    return Exported(files=[out], bytes=size, cells=cells, kept=kept, measured=measured)


def _priced(cube: Cube, out: Path, parts: dict[str, list[Rectangle]], asked: Smaller) -> Exported:
    """The most that a bundle has: no compression, every cell with a vector."""
    size = cells = 0
    for own in parts.values():
        features = cube.array(own[0].zone, "embedding").shape[-1]
        asked.check(features)
        count = sum(len(one.windows) * (one.y.stop - one.y.start) * (one.x.stop - one.x.start) for one in own)
        size += count * (asked.vector_bytes(features) + 3) + 4 * features * (1 + (asked.features or 0))
        cells += count
    provenance = {name: len(data) for name, data in _provenance(cube)}
    return Exported(files=[out], bytes=size + zip_bytes(provenance) + (1 << 16), cells=cells, exact=False)


def _chunks(one: Rectangle) -> list[tuple[int, int, int]]:
    """(place of the window, chunk row, chunk column) of all chunks of a rectangle."""
    rows, columns = -(-(one.y.stop - one.y.start) // SIDE), -(-(one.x.stop - one.x.start) // SIDE)
    return list(np.ndindex(len(one.windows), rows, columns))


class _Group:
    """The arrays of one zone."""

    def __init__(self, cube: Cube, one: Rectangle, fitted: Fitted, measured: dict[str, Any]) -> None:
        self._cube, self._one, self._fitted = cube, one, fitted
        self._measured = measured
        self._store = MemoryStore()
        self._arrays: dict[str, Any] = {}

    def names(self, t: int, iy: int, ix: int) -> list[str]:
        """Names that the objects of a chunk may have."""
        arrays = {"embedding": ".0", "scale": "", "status": "", "n_obs": ""}
        return [f"{self._one.zone}/{name}/c.{t}.{iy}.{ix}{more}" for name, more in arrays.items()]

    def count(self) -> int:
        """How many cells have a vector."""
        one = self._one
        return sum(int(self._cube.valid(one.zone, t, one.y, one.x).sum()) for t in one.windows)

    def metadata(self) -> Iterator[tuple[str, bytes]]:
        """Files of the group, its coordinates and its tables; and the metadata of the arrays."""
        one, cube = self._one, self._cube
        layer, _, zone = one.zone.partition("/")
        zarr.create_group(self._store, path=layer, zarr_format=3)
        group: Any = zarr.create_group(self._store, path=f"{layer}/{zone}", zarr_format=3)
        source, shape = cube.group(one.zone), (one.y.stop - one.y.start, one.x.stop - one.x.start)
        a, b, c, d, e, f = source.attrs["spatial:transform"][:6]
        left, top = c + one.x.start * a, f + one.y.start * e
        asked = self._fitted.asked
        group.update_attributes({
            **{name: source.attrs[name] for name in _COPIED if name in source.attrs},
            "Conventions": "CF-1.11",
            "spatial:transform": [a, b, left, d, e, top],
            "spatial:shape": list(shape),
            "spatial:bbox": [left, top + shape[0] * e, left + shape[1] * a, top],
            "geoemb:dimensions": len(self._fitted.tables["mean"]),
            "embedcube:reduced": asdict(asked),
            "embedcube:value": asked.value,
            "embedcube:loss": self._measured,
        })  # fmt: skip
        axes = {"y": one.y, "x": one.x}
        for name in ("time", "time_bnds", "y", "x", "spatial_ref"):
            if name not in source:
                continue
            values = np.asarray(source[name][...])
            values = values[axes[name]] if name in axes else values[one.windows] if name.startswith("time") else values
            attributes = dict(source[name].attrs)
            if "GeoTransform" in attributes:
                attributes["GeoTransform"] = f"{left!r} {a!r} {b!r} {top!r} {d!r} {e!r}"
            group.create_array(name, data=values, chunks=values.shape or "auto", attributes=attributes,
                               dimension_names=source[name].metadata.dimension_names, compressors=None)  # fmt: skip
        of = {"mean": ("value",), "basis": ("component", "value"), "step": ("component",)}
        for name, table in self._fitted.tables.items():
            group.create_array(name, data=table, chunks=table.shape, dimension_names=of[name], compressors=None)
        stored = self._fitted.encode(np.zeros((1, len(self._fitted.tables["mean"])), np.float32))
        size = (len(one.windows), *shape)
        self._create(group, "embedding", (*size, stored["embedding"].shape[1]), stored["embedding"].dtype, 0, "feature")
        if "scale" in stored:
            self._create(group, "scale", size, np.dtype(np.float32), np.nan)
        self._create(group, "status", size, np.dtype(np.uint8), 0)
        self._create(group, "n_obs", size, np.dtype(np.uint16), 0)
        for name in ("status", "n_obs"):
            self._arrays[name].update_attributes(dict(source[name].attrs))
        yield from self._taken()

    def _create(self, group: Any, name: str, shape: tuple[int, ...], dtype: Any, fill: float, *more: str) -> None:
        chunks = (1, min(SIDE, shape[1]), min(SIDE, shape[2]), *shape[3:])
        self._arrays[name] = group.create_array(
            name, shape=shape, dtype=dtype, chunks=chunks, fill_value=fill, dimension_names=("time", "y", "x", *more),
            compressors=[ZstdCodec(level=COMPRESSION_LEVEL)],
            chunk_key_encoding={"name": "default", "separator": KEY_SEPARATOR},
        )  # fmt: skip

    def _taken(self) -> Iterator[tuple[str, bytes]]:
        """What is in the store now, which is then empty; metadata stay."""
        held = self._store._store_dict
        for name in sorted(held):
            yield name, held[name].to_bytes()
            if not name.endswith("zarr.json"):
                del held[name]

    def chunk(self, t: int, iy: int, ix: int) -> Iterator[tuple[str, bytes]]:
        """Objects of all arrays for one chunk."""
        one, cube = self._one, self._cube
        y, x = (
            slice(part.start + i * SIDE, min(part.stop, part.start + (i + 1) * SIDE))
            for part, i in ((one.y, iy), (one.x, ix))
        )
        at = slice(one.windows[t], one.windows[t] + 1)
        status, n_obs = (read_box(cube, one.zone, name, at, y, x)[0] for name in ("status", "n_obs"))
        vectors = read_vectors(cube, one.zone, at, y, x)[0]
        valid = (status == VALID) | (status == VALID_INCOMPLETE)
        stored = self._fitted.encode(vectors[valid])
        region = (t, slice(y.start - one.y.start, y.stop - one.y.start),
                  slice(x.start - one.x.start, x.stop - one.x.start))  # fmt: skip
        values: dict[str, NDArray[Any]] = {"status": status, "n_obs": n_obs}
        for name, rows in stored.items():
            whole = np.full((*valid.shape, *rows.shape[1:]), np.nan if name == "scale" else 0, rows.dtype)
            whole[valid] = rows
            values[name] = whole
        for name, part in values.items():
            self._arrays[name][region] = part
        for name, data in self._taken():
            if not name.endswith("zarr.json"):
                yield name, data


def _provenance(cube: Cube) -> Iterator[tuple[str, bytes]]:
    """The files of the provenance of the cube, as they are: what made the vectors, from which scenes."""

    async def all_of() -> list[tuple[str, bytes]]:
        names = sorted([name async for name in cube.store.list_prefix("provenance/")])
        found = [(name, await cube.store.get(name, default_buffer_prototype())) for name in names]
        return [(name, data.to_bytes()) for name, data in found if data is not None]

    if cube.is_local:
        yield from sync(all_of())


def _root(about: dict[str, Any]) -> bytes:
    store = MemoryStore()
    root = zarr.create_group(store, zarr_format=3)
    root.update_attributes({"title": f"Smaller vectors of {about['cube']}", "embedcube:bundle": about})
    buffer = store._store_dict["zarr.json"]
    assert isinstance(buffer, cpu.Buffer)
    return buffer.to_bytes()
