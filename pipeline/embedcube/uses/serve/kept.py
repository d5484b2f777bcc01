"""What a server keeps in memory of all its cubes together: decoded chunks, whole windows, their colours."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import tensorstore
from numpy.typing import NDArray

from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.uses.serve.limits import Held

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

ChunkKey = tuple[str, str, str, int, int, int]
"""path of the cube, zone, array, and place of a chunk: block of windows, row, column"""

WindowKey = tuple[str, str, int]
"""path of the cube, zone, number of the window"""


@dataclass(frozen=True, kw_only=True)
class WholeWindow:
    """One window of a zone."""

    embedding: NDArray[Any]
    """(y, x, feature) as stored"""
    status: NDArray[np.uint8]
    """(y, x)"""
    scale: NDArray[np.float32] | None
    """(y, x) of a centred layer; elsewhere no direction needs it"""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Cells (y, x) with a vector."""
        return np.asarray((self.status == VALID) | (self.status == VALID_INCOMPLETE))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.embedding.nbytes + self.status.nbytes + (0 if self.scale is None else self.scale.nbytes)


class Kept(Generic[K, T]):
    """The values that were used last, up to a number of bytes. For several threads."""

    def __init__(self, most_bytes: int, size: Callable[[T], int]) -> None:
        """Nothing is kept yet; `size` gives the bytes of a value."""
        self._values: OrderedDict[K, T] = OrderedDict()
        self._most, self._size, self._bytes = most_bytes, size, 0
        self._lock = threading.Lock()
        self._making: dict[K, threading.Lock] = {}

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

    def made(self, key: K, make: Callable[[], T]) -> T:
        """The value of a key, made and kept where there is none; who asks for it meanwhile waits for that one."""
        value = self.get(key)
        if value is not None:
            return value
        with self._lock:
            turn = self._making.setdefault(key, threading.Lock())
        with turn:
            value = self.get(key)
            if value is not None:
                return value
            try:
                return self.put(key, make())
            finally:
                with self._lock:
                    self._making.pop(key, None)


class Shelf:
    """What is kept of all cubes of a server: the limits hold for all of them together."""

    def __init__(self, held: Held) -> None:
        """Nothing is kept yet."""
        self.most_window = held.windows_mb << 20
        # tensorstore keeps what says where chunks lie in an object, and the chunks that it decoded last
        self.context = tensorstore.Context({"cache_pool": {"total_bytes_limit": held.chunks_mb << 17}})
        self.chunks: Kept[ChunkKey, NDArray[Any]] = Kept(held.chunks_mb * 7 << 17, lambda chunk: chunk.nbytes)
        self.windows: Kept[WindowKey, WholeWindow] = Kept(held.windows_mb << 20, lambda window: window.nbytes)
        self.colours: Kept[WindowKey, NDArray[np.uint8]] = Kept(held.windows_mb << 17, lambda one: one.nbytes)
