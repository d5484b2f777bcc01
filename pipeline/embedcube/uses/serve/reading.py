"""Reading a served cube with tensorstore; decoded chunks and whole windows are kept.

A point costs a third of the time that zarr-python needs, and a tenth where its chunks are kept. Objects of a version
never change, so what is kept is never compared with the disk.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
from embedcube.uses.serve.limits import Limits

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


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


@dataclass(frozen=True, kw_only=True)
class WholeWindow:
    """One window of a zone."""

    embedding: NDArray[Any]
    """(y, x, feature) as stored"""
    status: NDArray[np.uint8]
    """(y, x)"""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Cells (y, x) with a vector."""
        return np.asarray((self.status == VALID) | (self.status == VALID_INCOMPLETE))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.embedding.nbytes + self.status.nbytes


class Kept(Generic[K, T]):
    """The values that were used last, up to a number of bytes. For several threads."""

    def __init__(self, most_bytes: int, size: Callable[[T], int]) -> None:
        """Nothing is kept yet; `size` gives the bytes of a value."""
        self._values: OrderedDict[K, T] = OrderedDict()
        self._most, self._size, self._bytes = most_bytes, size, 0
        self._lock = threading.Lock()

    def get(self, key: K) -> T | None:
        """The value of a key, or None."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: T) -> T:
        """Keep a value; those that were not used for the longest time go. Returns the value."""
        with self._lock:
            before = self._values.pop(key, None)
            self._bytes += self._size(value) - (0 if before is None else self._size(before))
            self._values[key] = value
            while self._bytes > self._most and len(self._values) > 1:
                self._bytes -= self._size(self._values.popitem(last=False)[1])
        return value


_BLOCK_CELLS = 1 << 18
"""cells whose vectors are in memory at once, where a window is read part by part"""

_Key = tuple[str, str, int, int, int]
"""zone, array, and place of a chunk: block of windows, row, column"""


class Reader:
    """Reads the arrays of one cube. For several threads."""

    def __init__(self, cube: Cube, limits: Limits) -> None:
        """Nothing is opened yet."""
        self._cube = cube
        # tensorstore keeps what says where chunks lie in an object, and the chunks that it decoded last
        pool = {"total_bytes_limit": limits.held.chunks_mb << 17}
        self._context = tensorstore.Context({"cache_pool": pool})
        self._arrays: dict[tuple[str, str], Any] = {}
        self._chunks: Kept[_Key, NDArray[Any]] = Kept(limits.held.chunks_mb * 7 << 17, lambda chunk: chunk.nbytes)
        self._windows: Kept[tuple[str, int], WholeWindow] = Kept(
            limits.held.windows_mb << 20, lambda window: window.nbytes
        )
        self._colours: Kept[tuple[str, int], NDArray[np.uint8]] = Kept(
            limits.held.windows_mb << 17, lambda one: one.nbytes
        )
        self._bases: dict[str, Basis | None] = {}
        self._most_window = limits.held.windows_mb << 20

    def _array(self, zone: str, name: str) -> Any:
        key = (zone, name)
        if key not in self._arrays:
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(self._cube.path / zone / name)}}
            self._arrays[key] = tensorstore.open(
                {**spec, "recheck_cached_data": False, "recheck_cached_metadata": False},
                context=self._context, open=True, read=True,
            ).result()  # fmt: skip
        return self._arrays[key]

    def names(self, zone: str) -> tuple[str, ...]:
        """Arrays that hold a cell: embedding, status, n_obs, and scale where the encoding has one."""
        return ("embedding", "status", "n_obs", *(("scale",) if self._cube.has_scale(zone) else ()))

    async def point(self, zone: str, windows: Sequence[int], y: int, x: int) -> Stored:
        """One cell in some windows: arrays (window) and (window, feature)."""
        chunks: dict[_Key, NDArray[Any]] = {}
        begun: dict[_Key, Any] = {}
        wanted: dict[str, list[tuple[_Key, int]]] = {}
        for name in self.names(zone):
            depth, height, width = self._cube.array(zone, name).chunks[:3]
            wanted[name] = [((zone, name, t // depth, y // height, x // width), t % depth) for t in windows]
            for key, _ in wanted[name]:
                if key not in chunks and key not in begun:
                    kept = self._chunks.get(key)
                    if kept is None:
                        # all are begun before the first is waited for
                        begun[key] = self._chunk(key)
                    else:
                        chunks[key] = kept
        try:
            for key, future in begun.items():
                chunks[key] = self._chunks.put(key, np.asarray(await future))
        except (ValueError, OSError) as error:
            raise self._unreadable(zone, error) from None
        cells = {}
        for name, keys in wanted.items():
            height, width = self._cube.array(zone, name).chunks[1:3]
            cells[name] = np.stack([chunks[key][t, y % height, x % width] for key, t in keys])
        return _stored(cells)

    def _chunk(self, key: _Key) -> Any:
        """A chunk as tensorstore is about to read it."""
        zone, name, *place = key
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
        return window_bytes(self._cube, zone, "embedding") <= self._most_window

    def whole(self, zone: str, t: int) -> WholeWindow:
        """One window of a zone; it is kept."""
        kept = self._windows.get((zone, t))
        if kept is not None:
            return kept
        window = WholeWindow(embedding=self.flat(zone, "embedding", t), status=self.flat(zone, "status", t))
        return self._windows.put((zone, t), window)

    def cosines(self, zone: str, t: int, query: Query) -> NDArray[np.float32]:
        """Cosine (y, x) of every cell of one window with a query; NaN where there is no vector.

        A window that is too large to be kept is read part by part.
        """
        cosines = np.full(self._cube.array(zone, "status").shape[1:], np.nan, np.float32)
        if self.keeps(zone):
            window = self.whole(zone, t)
            cosines[...] = query.cosines(window.embedding.reshape(-1, window.embedding.shape[-1])).reshape(
                cosines.shape
            )
            # a stored zero would be like any other stored zero: only status tells
            cosines[~window.valid] = np.nan
            return cosines
        for block in blocks_in(self._cube, zone, None, [t], _BLOCK_CELLS):
            part = np.full(block.status.shape, np.nan, np.float32)
            part[block.valid] = query.cosines(block.stored[block.valid])
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
        kept = self._colours.get((zone, t))
        if kept is not None:
            return kept
        whole = slice(None)
        if (drawn := drawn_colours(self._cube, zone, t, whole, whole)) is not None:
            return self._colours.put((zone, t), drawn)
        basis, window = self._basis(zone), self.whole(zone, t)
        colours = np.zeros((*window.status.shape, 3), np.uint8)
        if basis is not None:
            scale = self.flat(zone, "scale", t) if self._cube.has_scale(zone) else None
            colours = basis.colours(window.embedding, scale, window.valid)
        return self._colours.put((zone, t), colours)

    def _coloured(self, basis: Basis | None, zone: str, t: int, y: slice, x: slice) -> NDArray[np.uint8]:
        status = self.flat(zone, "status", t, y, x)
        valid = (status == VALID) | (status == VALID_INCOMPLETE)
        if basis is None or not valid.any():
            return np.zeros((*status.shape, 3), np.uint8)
        scale = self.flat(zone, "scale", t, y, x) if self._cube.has_scale(zone) else None
        return basis.colours(self.flat(zone, "embedding", t, y, x), scale, valid)

    def _basis(self, zone: str) -> Basis | None:
        layer = zone.partition("/")[0]
        if layer not in self._bases:
            self._bases[layer] = fit_basis(self._cube, layer)
        return self._bases[layer]


def _slice(part: range) -> slice:
    return slice(part.start, part.stop, part.step)


def _stored(arrays: dict[str, NDArray[Any]]) -> Stored:
    return Stored(
        embedding=arrays["embedding"], scale=arrays.get("scale"), status=arrays["status"], n_obs=arrays["n_obs"]
    )
