"""Gaps: of each window how many cells were planned, have a vector, or are masked; and holes in the form of a shard."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from embedcube.consolidate.contents import LEAST_DUPLICATES
from embedcube.consolidate.findings import Finding
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.cube.provenance import arrays_in
from embedcube.cube.reader import Cube

RING_BOUND = 0.9
"""share of the cells around a shard without any vector that have one, above which the shard is a gap"""

_LEAST_SIDE = 3
"""cells along one side of a shard, at least: a smaller hole may be chance"""

_LEAST_NEIGHBOURS = 2
"""planned shards beside a gap, at least; all of them must have vectors"""

Place = tuple[str, int, int, int]
"""zone, window, row and column of a shard"""


class Records:
    """The cells of each shard by status, and the digests of its vectors."""

    def __init__(self, cube: Cube, layer: str) -> None:
        """Read status and record of all shards of a layer once."""
        self._cube = cube
        self.windows: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("planned", *STATUS_MEANINGS), 0))
        """for each window the cells of its shards, and how many have each status"""
        self._vectors: dict[Place, int] = {}
        self._explained: set[Place] = set()
        """shards that clouds hide or that could not be read, at least in part"""
        self._otherwise: list[tuple[Place, dict[str, int], dict[str, int]]] = []
        self._digests: dict[tuple[str, ...], list[Place]] = defaultdict(list)
        for place, row in cube.held.items():
            if place[0].split("/")[0] != layer:
                continue
            record = cube.provenance.record(row)
            counts = self._counts(place)
            self._otherwise += [(place, counts, record["counts"])] * any(
                record["counts"].get(name, count) != count for name, count in counts.items()
            )
            for name, count in counts.items():
                self.windows[place[1]][name] += count
            self.windows[place[1]]["planned"] += sum(counts.values())
            self._vectors[place] = counts["valid"] + counts["valid_incomplete"]
            if counts["masked"] or counts["failed"]:
                self._explained.add(place)
            if self._vectors[place]:
                held = {one["array"]: one["sha256"] for one in arrays_in(record)}
                self._digests[held["embedding"], held.get("scale", "")].append(place)

    def counts(self) -> Iterator[Finding]:
        """Shards whose cells have not the status that their record counted."""
        for (zone, t, iy, ix), found, recorded in self._otherwise:
            for name in (name for name in found if recorded.get(name, found[name]) != found[name]):
                yield Finding(
                    check="counts",
                    place=f"{zone} window {t} shard ({iy}, {ix})",
                    found=f"{found[name]} cells {name}",
                    expected=f"{recorded[name]}, as recorded",
                )

    def _counts(self, place: Place) -> dict[str, int]:
        """Cells of a shard by name of their status."""
        zone, t, iy, ix = place
        side = self._cube.shard_cells(zone)
        area = slice(iy * side, (iy + 1) * side), slice(ix * side, (ix + 1) * side)
        counted = np.bincount(self._cube.stored(zone, "status", t, *area).ravel(), minlength=len(STATUS_MEANINGS))
        return dict(zip(STATUS_MEANINGS, counted.tolist(), strict=False))

    def gaps(self) -> Iterator[Finding]:
        """Shards without a vector amid cells that have one, for no reason that a status gives."""
        for zone, t, iy, ix in self._empty():
            around = [place for place in _beside((zone, t, iy, ix)) if place in self._vectors]
            if len(around) < _LEAST_NEIGHBOURS or not all(self._vectors[place] for place in around):
                continue
            share = self._ring(zone, t, around, (iy, ix))
            if share >= RING_BOUND:
                yield Finding(
                    check="gap",
                    place=f"{zone} window {t} shard ({iy}, {ix})",
                    found=f"no vector, and {share:.0%} of the cells around it have one",
                    expected=f"less than {RING_BOUND:.0%}: what is missing has not the form of a shard",
                )

    def repeated(self) -> Iterator[Finding]:
        """Shards of different places that hold the same vectors."""
        for places in self._digests.values():
            if len({(zone, iy, ix) for zone, _, iy, ix in places}) > 1 and self._varies(places[0]):
                named = ", ".join(f"{zone} window {t} ({iy}, {ix})" for zone, t, iy, ix in places[:3])
                yield Finding(
                    check="duplicates",
                    place=f"shards {named}",
                    found=f"the same vectors at {len(places)} places",
                    expected="vectors of their own at each place",
                )

    def _varies(self, place: Place) -> bool:
        """Whether a shard has different vectors: shards of one and the same land are equal by right."""
        zone, t, iy, ix = place
        side = self._cube.shard_cells(zone)
        area = slice(iy * side, (iy + 1) * side), slice(ix * side, (ix + 1) * side)
        stored = self._cube.stored(zone, "embedding", t, *area)[self._cube.valid(zone, t, *area)]
        return len(np.unique(stored, axis=0)) >= LEAST_DUPLICATES

    def _empty(self) -> list[Place]:
        """Places without any vector: planned ones, and those beside a vector that only other windows planned."""
        planned = {(zone, iy, ix) for zone, _, iy, ix in self._vectors}
        empty = {place for place, vectors in self._vectors.items() if not vectors and place not in self._explained}
        for place, vectors in self._vectors.items():
            if vectors:
                beside = (other for other in _beside(place) if other not in self._vectors)
                empty |= {(zone, t, iy, ix) for zone, t, iy, ix in beside if (zone, iy, ix) in planned}
        return sorted(empty)

    def _ring(self, zone: str, t: int, around: list[Place], place: tuple[int, int]) -> float:
        """Share of the cells just outside of a shard that have a vector; 0 for a shard too small to tell."""
        side = self._cube.shard_cells(zone)
        if side < _LEAST_SIDE:
            return 0.0
        seen = []
        for _, _, iy, ix in around:
            lines = [
                slice(i * side, (i + 1) * side)
                if i == own
                else slice(own * side - 1, own * side)
                if i < own
                else slice(i * side, i * side + 1)
                for i, own in zip((iy, ix), place, strict=True)
            ]
            seen.append(self._cube.valid(zone, t, lines[0], lines[1]).ravel())
        return float(np.concatenate(seen).mean())


def _beside(place: Place) -> list[Place]:
    """The places of the four shards beside one."""
    zone, t, iy, ix = place
    return [(zone, t, iy + i, ix + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
