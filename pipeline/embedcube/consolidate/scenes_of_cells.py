"""Which scenes and acquisitions made each cell, as numbers that can be compared: from the cube's provenance."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from embedcube.consolidate.blocks import Spot
from embedcube.cube.reader import Cube

_KEPT = 64
"""shards whose keys are kept: squares beside one another share shards"""

Keys = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


class Origins:
    """Keys of the cells of a cube: equal keys, equal scenes."""

    def __init__(self, cube: Cube) -> None:
        """Nothing is read yet."""
        self._cube = cube
        self._of_shard = lru_cache(maxsize=_KEPT)(self._read)

    def of(self, spot: Spot) -> Keys | None:
        """For what is read of a square: keys of scenes, keys of acquisitions, 1 where each acquisition is one scene.

        None where all cells have the same scenes.
        """
        side = int(self._cube.array(spot.zone, "embedding").shards[1])
        whole = [np.zeros((spot.rows, spot.cols), np.uint64) for _ in range(3)]
        for iy in range(spot.top // side, (spot.top + spot.rows - 1) // side + 1):
            for ix in range(spot.left // side, (spot.left + spot.cols - 1) // side + 1):
                keys = self._of_shard(spot.zone, spot.t, iy, ix)
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

    def _read(self, zone: str, t: int, iy: int, ix: int) -> Keys | None:
        provenance = self._cube.provenance
        row = provenance.places.get((zone, t, iy, ix))
        if row is None:
            return None
        side = int(self._cube.array(zone, "embedding").shards[1])
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
