"""Reading a served cube with tensorstore; decoded chunks and whole windows are kept.

A point costs a third of the time that zarr-python needs, and a tenth where its chunks are kept. Objects of a version
never change, so what is kept is never compared with the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from embedcube.cube.basis import Basis, fit_basis
from embedcube.cube.blocks import blocks_in
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.preview_store import drawn_colours
from embedcube.cube.reader import Cube
from embedcube.cube.similar import Query
from embedcube.errors import WorkError
from embedcube.uses.serve.extent import window_bytes
from embedcube.uses.serve.kept import ChunkKey, Kept, Shelf, WholeWindow


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Cells as they are stored; the arrays have the same shape, but for the features of `embedding`."""

    embedding: NDArray[Any]
    """(..., feature)"""
    scale: NDArray[np.float32] | None
    """None for other encodings than int8"""
    status: NDArray[np.uint8]
    n_obs: NDArray[np.uint16]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Cells with a vector."""
        return np.asarray((self.status == VALID) | (self.status == VALID_INCOMPLETE))


_BLOCK_CELLS = 1 << 18
"""cells whose vectors are in memory at once, where a window is read part by part"""


class Reader:
    """Reads the arrays of one cube. For several threads."""

    def __init__(self, cube: Cube, shelf: Shelf) -> None:
        """Nothing is opened yet; what is read is kept on `shelf`, beside that of other cubes."""
        self._cube, self._name, self._shelf = cube, str(cube.path), shelf
        self._arrays: dict[tuple[str, str], Any] = {}
        # small, and one for each layer
        self._bases: Kept[str, tuple[Basis | None]] = Kept(0, lambda _: 0)

    def _array(self, zone: str, name: str) -> Any:
        key = (zone, name)
        if key not in self._arrays:
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(self._cube.path / zone / name)}}
            self._arrays[key] = tensorstore.open(
                {**spec, "recheck_cached_data": False, "recheck_cached_metadata": False},
                context=self._shelf.context, open=True, read=True,
            ).result()  # fmt: skip
        return self._arrays[key]

    def names(self, zone: str) -> tuple[str, ...]:
        """Arrays that hold a cell: embedding, status, n_obs, and scale where the encoding has one."""
        return ("embedding", "status", "n_obs", *(("scale",) if self._cube.has_scale(zone) else ()))

    async def point(self, zone: str, windows: Sequence[int], y: int, x: int) -> Stored:
        """One cell in some windows: arrays (window) and (window, feature)."""
        chunks: dict[ChunkKey, NDArray[Any]] = {}
        begun: dict[ChunkKey, Any] = {}
        wanted: dict[str, list[tuple[ChunkKey, int]]] = {}
        for name in self.names(zone):
            depth, height, width = self._cube.array(zone, name).chunks[:3]
            wanted[name] = [((self._name, zone, name, t // depth, y // height, x // width), t % depth) for t in windows]
            for key, _ in wanted[name]:
                if key not in chunks and key not in begun:
                    kept = self._shelf.chunks.get(key)
                    if kept is None:
                        # all are begun before the first is waited for
                        begun[key] = self._chunk(key)
                    else:
                        chunks[key] = kept
        try:
            for key, future in begun.items():
                chunks[key] = self._shelf.chunks.put(key, np.asarray(await future))
        except (ValueError, OSError) as error:
            raise self._unreadable(zone, error) from None
        cells = {}
        for name, keys in wanted.items():
            height, width = self._cube.array(zone, name).chunks[1:3]
            cells[name] = np.stack([chunks[key][t, y % height, x % width] for key, t in keys])
        return _stored(cells)

    def _chunk(self, key: ChunkKey) -> Any:
        """A chunk as tensorstore is about to read it."""
        _, zone, name, *place = key
        array = self._cube.array(zone, name)
        region = tuple(
            slice(i * size, min((i + 1) * size, whole))
            for i, size, whole in zip(place, array.chunks, array.shape, strict=False)
        )
        return self._array(zone, name)[region].read()

    def _unreadable(self, zone: str, error: Exception) -> WorkError:
        # where the cube lies on this machine is not for clients
        words = " ".join(str(error).replace(str(self._cube.path), "").split())[:200]
        return WorkError(f"{zone}: an object cannot be read ({words}); run `embedcube verify` on the cube")

    def box(self, zone: str, windows: Sequence[int], y: slice, x: slice) -> Stored:
        """A rectangle of cells in some windows: arrays (window, y, x) and (window, y, x, feature)."""
        names = self.names(zone)
        begun = [self._array(zone, name)[list(windows), y, x].read() for name in names]
        try:
            return _stored({name: future.result() for name, future in zip(names, begun, strict=True)})
        except (ValueError, OSError) as error:
            raise self._unreadable(zone, error) from None

    def flat(self, zone: str, name: str, t: int, y: slice = slice(None), x: slice = slice(None)) -> NDArray[Any]:
        """An array in a rectangle of one window: (y, x), or (y, x, feature) of the vectors. Slices may have steps."""
        try:
            return np.asarray(self._array(zone, name)[t, y, x].read().result())
        except (ValueError, OSError) as error:
            raise self._unreadable(zone, error) from None

    def keeps(self, zone: str) -> bool:
        """Whether whole windows of a zone are small enough to be kept."""
        return window_bytes(self._cube, zone, "embedding") <= self._shelf.most_window

    def whole(self, zone: str, t: int) -> WholeWindow:
        """One window of a zone; it is kept."""

        def read() -> WholeWindow:
            embedding, status = (self.flat(zone, name, t) for name in ("embedding", "status"))
            scale = None if self._cube.offset(zone) is None else self.flat(zone, "scale", t)
            return WholeWindow(embedding=embedding, status=status, scale=scale)

        return self._shelf.windows.made((self._name, zone, t), read)

    def cosines(self, zone: str, t: int, query: Query) -> NDArray[np.float32]:
        """Cosine (y, x) of every cell of one window with a query; NaN where there is no vector.

        A window that is too large to be kept is read part by part.
        """
        cosines = np.full(self._cube.array(zone, "status").shape[1:], np.nan, np.float32)
        if self.keeps(zone):
            window = self.whole(zone, t)
            stored, scale = window.embedding, None if window.scale is None else window.scale.ravel()
            found = query.cosines(stored.reshape(-1, stored.shape[-1]), scale, self._cube.offset(zone))
            cosines[...] = found.reshape(cosines.shape)
            # a stored zero would be like any other stored zero: only status tells
            cosines[~window.valid] = np.nan
            return cosines
        for block in blocks_in(self._cube, zone, None, [t], _BLOCK_CELLS):
            part = np.full(block.status.shape, np.nan, np.float32)
            part[block.valid] = block.cosines(query, block.valid)
            cosines[block.y, block.x] = part
        return cosines

    def colours(self, zone: str, t: int, y: slice, x: slice) -> NDArray[np.uint8]:
        """Colours (y, x, 3) in a rectangle of one window, 1 to 255, and 0 where there is no vector.

        One basis holds for all zones and windows of a layer: equal colours are equal vectors. They are those of the
        preview beside the cube, where there is one. Colours of a window are kept, where all its vectors are not too
        many; else those of the rectangle are read from the preview, or made of its vectors part by part.
        """
        if self.keeps(zone):
            return self._colours_of_window(zone, t)[y, x]
        drawn = drawn_colours(self._cube, zone, t, y, x)
        if drawn is not None:
            return drawn
        rows, columns = (range(*part.indices(size)) for part, size in
                         zip((y, x), self._cube.array(zone, "status").shape[1:], strict=True))  # fmt: skip
        colours = np.zeros((len(rows), len(columns), 3), np.uint8)
        basis = self._basis(zone)
        # some rows at a time: what is between lies in memory, what is left out by the step does not
        most = max(1, _BLOCK_CELLS // max(1, len(columns)))
        for first in range(0, len(rows) if basis is not None else 0, most):
            part = rows[first : first + most]
            colours[first : first + len(part)] = self._coloured(basis, zone, t, _slice(part), _slice(columns))
        return colours

    def _colours_of_window(self, zone: str, t: int) -> NDArray[np.uint8]:
        return self._shelf.colours.made((self._name, zone, t), lambda: self._draw(zone, t))

    def _draw(self, zone: str, t: int) -> NDArray[np.uint8]:
        whole = slice(None)
        if (drawn := drawn_colours(self._cube, zone, t, whole, whole)) is not None:
            return drawn
        basis, window = self._basis(zone), self.whole(zone, t)
        colours = np.zeros((*window.status.shape, 3), np.uint8)
        if basis is not None:
            scale = self.flat(zone, "scale", t) if self._cube.has_scale(zone) else None
            colours = basis.colours(window.embedding, scale, window.valid, self._cube.offset(zone))
        return colours

    def _coloured(self, basis: Basis | None, zone: str, t: int, y: slice, x: slice) -> NDArray[np.uint8]:
        status = self.flat(zone, "status", t, y, x)
        valid = (status == VALID) | (status == VALID_INCOMPLETE)
        if basis is None or not valid.any():
            return np.zeros((*status.shape, 3), np.uint8)
        scale = self.flat(zone, "scale", t, y, x) if self._cube.has_scale(zone) else None
        return basis.colours(self.flat(zone, "embedding", t, y, x), scale, valid, self._cube.offset(zone))

    def _basis(self, zone: str) -> Basis | None:
        layer = zone.partition("/")[0]
        return self._bases.made(layer, lambda: (fit_basis(self._cube, layer),))[0]


def _slice(part: range) -> slice:
    return slice(part.start, part.stop, part.step)


def _stored(arrays: dict[str, NDArray[Any]]) -> Stored:
    return Stored(
        embedding=arrays["embedding"], scale=arrays.get("scale"), status=arrays["status"], n_obs=arrays["n_obs"]
    )
