"""Which scenes and acquisitions made each cell, as numbers that can be compared: from the cube's provenance."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from embedcube.consolidate.blocks import Spot
from embedcube.cube.reader import Cube

_KEPT_BYTES = 1 << 26
"""most memory of keys that are kept, at least those of one shard: squares beside one another share shards"""

_CELL_BYTES = 3 * 8
"""keys of one cell"""

Keys = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


class Origins:
    """Keys of the cells of a cube: equal keys, equal scenes."""

    def __init__(self, cube: Cube) -> None:
        """Nothing is read yet."""
        self._cube = cube
        self._kept: OrderedDict[tuple[str, int, int, int], Keys | None] = OrderedDict()
        self._cells = 0

    def of(self, spot: Spot) -> Keys | None:
        """For what is read of a square: keys of scenes, keys of acquisitions, 1 where each acquisition is one scene.

        None where all cells have the same scenes.
        """
        side = self._cube.shard_cells(spot.zone)
        whole = [np.zeros((spot.rows, spot.cols), np.uint64) for _ in range(3)]
        for iy in range(spot.top // side, (spot.top + spot.rows - 1) // side + 1):
            for ix in range(spot.left // side, (spot.left + spot.cols - 1) // side + 1):
                keys = self._of_shard((spot.zone, spot.t, iy, ix))
                if keys is None:
                    continue
                y = slice(max(iy * side, spot.top), min((iy + 1) * side, spot.top + spot.rows))
                x = slice(max(ix * side, spot.left), min((ix + 1) * side, spot.left + spot.cols))
                for target, source in zip(whole, keys, strict=True):
                    target[y.start - spot.top : y.stop - spot.top, x.start - spot.left : x.stop - spot.left] = source[
                        y.start - iy * side : y.stop - iy * side, x.start - ix * side : x.stop - ix * side
                    ]
        scenes, acquisitions, alone = whole
        return None if (scenes == scenes[0, 0]).all() else (scenes, acquisitions, alone)

    @property
    def kept_bytes(self) -> int:
        """Memory of the keys that are kept."""
        return self._cells * _CELL_BYTES

    def _of_shard(self, place: tuple[str, int, int, int]) -> Keys | None:
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        keys = self._read(place)
        if keys is not None:
            self._cells += keys[0].size
            # those that were used longest ago go first
            while self._kept and self.kept_bytes > _KEPT_BYTES:
                _, oldest = self._kept.popitem(last=False)
                self._cells -= 0 if oldest is None else oldest[0].size
        self._kept[place] = keys
        return keys

    def _read(self, place: tuple[str, int, int, int]) -> Keys | None:
        provenance, (zone, *_) = self._cube.provenance, place
        row = provenance.places.get(place)
        if row is None:
            return None
        side = self._cube.shard_cells(zone)
        rows, _ = provenance.links(row)
        bits = np.unpackbits(provenance.contributions(row), axis=1, count=side * side).astype(bool)
        names = [str(provenance.scene(scene)["acquisition"]) for scene in rows.tolist()]
        scenes, acquisitions = (np.zeros(side * side, np.uint64) for _ in range(2))
        for number, gave in zip(rows.tolist(), bits, strict=True):
            scenes[gave] ^= _key(f"scene {number}")
        of_one = np.ones(side * side, dtype=bool)
        for name in dict.fromkeys(names):
            gave_n = bits[[other == name for other in names]].sum(axis=0)
            acquisitions[gave_n > 0] ^= _key(name)
            of_one &= gave_n <= 1
        shape = (side, side)
        return scenes.reshape(shape), acquisitions.reshape(shape), of_one.astype(np.uint64).reshape(shape)


def _key(name: str) -> np.uint64:
    """64 bits that stand for a name."""
    import hashlib

    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))
