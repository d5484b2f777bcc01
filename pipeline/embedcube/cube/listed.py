"""A list of samples in a cube: who they are, and its arrays seen as a map, so that what reads maps reads lists too."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.arrays import VECTORS
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.zones import SAMPLES, UNDATED, together

NO_MAP = "is a list of samples and no map: name samples by their ids (layer.ids, layer.vector(id), layer.to_pandas())"
"""What is said where a place is asked for, and a layer has none."""


def is_list(zone: str) -> bool:
    """Whether a zone, "<layer>/<zone>", is a list of samples."""
    return zone.rpartition("/")[2] == SAMPLES


class NoMap(dict[str, Any]):
    """Attributes of a zone that is a list. Whoever needs those that say where a map lies is told that there are none.

    All that asks a layer for places begins with them, so nothing else needs to refuse lists.
    """

    def __init__(self, attributes: Any, called: str) -> None:
        """`called` is the zone, for messages."""
        super().__init__(attributes)
        self._called = called

    def __missing__(self, key: str) -> Any:
        """Refuse what only a map has with a RequestError; `get` and `in` say as usual that it is not there."""
        if key.startswith(("spatial:", "proj:")):
            raise RequestError(f"{self._called} {NO_MAP}")
        raise KeyError(key)

    def asdict(self) -> dict[str, Any]:
        """A plain copy, as attributes of zarr-python give it."""
        return dict(self)


class ListedGroup:
    """The Zarr group of a zone that is a list, which has no map's attributes and no rows and columns."""

    def __init__(self, group: Any, called: str) -> None:
        """`called` is the zone, for messages."""
        self._group, self._called = group, called
        self.attrs = NoMap(group.attrs, called)

    def __getitem__(self, name: str) -> Any:
        """An array; a RequestError says that a list is no map. Of several vectors a sample, `y` and `x` count them."""
        if name in ("y", "x") and name not in self._group:
            raise RequestError(f"{self._called} {NO_MAP}")
        return self._group[name]

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Names and arrays."""
        yield from self._group.arrays()

    def array_keys(self) -> Iterator[str]:
        """Names of the arrays."""
        yield from self._group.array_keys()


@dataclass(frozen=True)
class SampleTable:
    """The samples of a zone, in the order of its arrays."""

    group: Any
    """Zarr group of the zone"""

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids."""
        data, first = bytes(self.group["sample_id"][...]), self.group["sample_id_first"][...].tolist()
        return tuple(data[a:b].decode() for a, b in pairwise(first))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {one: i for i, one in enumerate(self.ids)}

    def number(self, sample: str) -> int:
        """Number of a sample; a RequestError names ids where there is none of this id."""
        if sample not in self._numbers:
            some = ", ".join(self.ids[:3]) + (" ..." if len(self.ids) > 3 else "")
            raise RequestError(f'there is no sample "{sample}" among {len(self.ids):,} samples: {some}')
        return self._numbers[sample]

    def column(self, name: str) -> NDArray[Any]:
        """One of the coordinates (sample,) or (time, sample)."""
        return np.asarray(self.group[name][...])

    def described(self, number: int, t: int) -> dict[str, Any]:
        """Id, place and date of a sample in a window, for `explain`."""
        group = self.group
        seconds, system = int(group["acquired"][t, number]), int(group["sample_crs"][number])
        x, y = (float(group[name][number]) for name in ("sample_x", "sample_y"))
        return {
            "sample": self.ids[number],
            "crs": group.attrs["embedcube:sample_crs"][system] if system >= 0 else None,
            "centre": [x, y] if system >= 0 else None,
            "acquired": None if seconds == UNDATED else str(np.datetime64(seconds, "s")) + "Z",
        }


class AsMap:
    """An array (time, sample[, y, x][, feature]) as a map (time, y, x[, feature]): shards are squares below each other.

    The place of a cell in it is that in the shard's record: `slots` samples of a shard stand in a square, row by row.
    """

    def __init__(self, array: Any, slots: int) -> None:
        """`array` is an array of zarr-python; a shard has `slots` samples."""
        self.stored = array
        windows = array.chunks[0]
        self._features = array.shape[-1:] if array.name.endswith("/embedding") else ()
        self.axes = len(array.shape) - len(self._features)
        """dimensions of the array itself, without `feature`"""
        cells = 1 if self.axes == len(VECTORS) else array.shape[2]
        self._layout = ShardLayout(chip_px=cells, halo_px=0, cell_px=1, chips=math.isqrt(slots), apart=True)
        side, count = self._layout.shard_cells, -(-array.shape[1] // slots)
        self.dtype, self.fill_value, self.attrs = array.dtype, array.fill_value, array.attrs
        self.shape = (array.shape[0], count * side, side, *self._features)
        self.shards = self.chunks = (windows, side, side, *self._features)

    @property
    def slots(self) -> int:
        """Samples of a shard."""
        return self._layout.slots

    @property
    def sample_cells(self) -> int:
        """Cells along a side of a sample."""
        return self._layout.chip_cells

    def place(self, sample: int) -> tuple[int, int]:
        """Row and column of the first cell of a sample."""
        shard, slot = divmod(sample, self._layout.slots)
        row, col = divmod(slot, self._layout.chips)
        return shard * self.shards[1] + row * self._layout.chip_cells, col * self._layout.chip_cells

    def sample(self, y: Any, x: Any) -> Any:
        """Number of the sample that a cell is of."""
        cells, side = self._layout.chip_cells, self.shards[1]
        slot = y % side // cells * self._layout.chips + x // cells
        return y // side * self._layout.slots + slot

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Values at (t, y, x), each a number or a slice; `...` is all of them."""
        t, y, x, *features = (slice(None),) * 3 if key is Ellipsis else key
        rows = range(self.shape[1])[y if isinstance(y, slice) else slice(y, y + 1)]
        side, slots = self.shards[1], self._layout.slots
        first, last = rows.start // side, max(rows.start // side + 1, -(-rows.stop // side))
        stored = np.asarray(self.stored[t if isinstance(t, slice) else slice(t, t + 1), first * slots : last * slots])
        missing = (last - first) * slots - stored.shape[1]
        padding = [(0, 0)] * stored.ndim
        padding[1] = (0, missing)
        stored = np.pad(stored, padding, constant_values=self.fill_value)
        cells = self._layout.chip_cells
        blocks = stored.reshape(len(stored), last - first, slots, cells, cells, *self._features)
        square = np.stack([np.concatenate([together(one, self._layout) for one in window]) for window in blocks])
        inside = slice(rows.start - first * side, rows.stop - first * side)
        chosen = square[:, inside]
        at = (slice(None) if isinstance(t, slice) else 0, slice(None) if isinstance(y, slice) else 0, x, *features)
        return np.asarray(chosen[at])
