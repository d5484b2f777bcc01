"""Scored cells of a layer, batch by batch: from the cube's chunks, or from the vector index beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.blocks import blocks
from embedcube.cube.drawing import Batch, Mask
from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.segments import ABSENT, INCOMPLETE, SegmentEntry, VectorIndex
from embedcube.cube.similar import Query
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import Area, Within, area_in
from embedcube.errors import RequestError, WorkError

_BLOCK_ROWS = 1 << 16
"""vectors of a segment that are scored at once"""

LISTS = 16
"""lists of each segment that a search reads first: recall@10 is then 0.99 and more (docs/find.md)"""


@dataclass(frozen=True, kw_only=True)
class Statuses:
    """Which cells with a vector may be hits."""

    complete: bool
    """status valid"""
    incomplete: bool
    """status valid_incomplete"""

    @classmethod
    def named(cls, names: Sequence[str]) -> "Statuses":
        """From the names of statuses; a RequestError says which there are."""
        allowed = (STATUS_MEANINGS[VALID], STATUS_MEANINGS[VALID_INCOMPLETE])
        if not names or set(names) - set(allowed):
            raise RequestError(
                f"status {', '.join(names) or 'is empty'}: cells with a vector have {' or '.join(allowed)}; no other "
                "cell can be similar to anything"
            )
        return cls(complete=allowed[0] in names, incomplete=allowed[1] in names)

    @property
    def both(self) -> bool:
        """Whether all cells with a vector are meant."""
        return self.complete and self.incomplete

    def wanted(self, incomplete: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which cells with a vector are meant."""
        return np.where(incomplete, self.incomplete, self.complete)


def from_cube(
    cube: CubeStore, layer: str, query: Query, statuses: Statuses, within: Within | None, time: Time
) -> Iterator[Batch]:
    """Every cell with a vector, from the chunks of the cube: exact."""
    for block in blocks(cube, layer, within, time):
        incomplete = block.status == VALID_INCOMPLETE
        wanted = block.valid & statuses.wanted(incomplete)
        if block.inside is not None:
            wanted &= block.inside
        number = np.flatnonzero(wanted)
        if len(number):
            yield Batch(
                zone=block.zone,
                t=block.t,
                y=block.y.start,
                x=block.x.start,
                width=wanted.shape[1],
                number=number,
                cosine=block.cosines(query, number),
                incomplete=incomplete.ravel()[number],
            )


class IndexScan:
    """A search in the segments of an index that zones, windows and a region leave."""

    def __init__(
        self, cube: CubeStore, index: VectorIndex, statuses: Statuses, within: Within | None, time: Time
    ) -> None:
        """A RequestError says that no window matches."""
        self.index = index
        self._statuses = statuses
        zones = cube.zones_of(index.layer)
        self._offset = cube.offset(zones[0])
        windows = {zone: set(cube.windows_of(zone, time)) for zone in zones}
        areas = {} if within is None else {zone: area_in(cube, zone, within) for zone in zones}
        self._parts: list[tuple[SegmentEntry, Mask | None]] = []
        self.cells = 0
        """cells, with a vector or without, that are left"""
        listed = 0
        for entry in index.listed.segments:
            if entry.t not in windows.get(entry.zone, ()):
                continue
            area = areas.get(entry.zone)
            mask = None if area is None else _part_of(area, entry)
            if within is not None and mask is None:
                continue
            self._parts.append((entry, mask))
            self.cells += entry.cells if mask is None else int(np.count_nonzero(mask.inside))
            listed += entry.cells
        self._share = min(1.0, self.cells / listed) if listed else 1.0
        self.most_lists = len(index.centroids)

    def all(self, query: Query) -> Iterator[Batch]:
        """Every cell that is left: exact."""
        for entry, mask in self._parts:
            segment = self.index.segment(entry)
            if mask is None:
                for first in range(0, len(segment.cell), _BLOCK_ROWS):
                    rows = slice(first, first + _BLOCK_ROWS)
                    yield self._scored(query, entry, [rows], None)
                    segment.forget()
                continue
            found = segment.row[mask.y, mask.x][mask.inside]
            found = np.sort(found[found != ABSENT])
            for first in range(0, len(found), _BLOCK_ROWS):
                part = found[first : first + _BLOCK_ROWS]
                yield self._scored(query, entry, [part], None)
            segment.forget()

    def lists(self, query: Query, count: int) -> Iterator[Batch]:
        """Cells in the `count` lists of each segment nearest to the query; of more where the region is small."""
        count = min(self.most_lists, round(np.ceil(count / self._share)))
        chosen = np.argsort(-query.cosines(self.index.centroids), kind="stable")[:count]
        chosen.sort()
        for entry, mask in self._parts:
            segment = self.index.segment(entry)
            held: list[slice] = []
            for first, last in zip(segment.first[chosen].tolist(), segment.first[chosen + 1].tolist(), strict=True):
                for begin in range(first, last, _BLOCK_ROWS):
                    held.append(slice(begin, min(begin + _BLOCK_ROWS, last)))
                if sum(rows.stop - rows.start for rows in held) >= _BLOCK_ROWS:
                    yield self._scored(query, entry, held, mask)
                    held = []
            if held:
                yield self._scored(query, entry, held, mask)
            segment.forget()

    def _scored(self, query: Query, entry: SegmentEntry, held: Sequence[Any], mask: Mask | None) -> Batch:
        """Score rows of a segment; those of several lists together, as a call takes as long as hundreds of rows."""
        segment = self.index.segment(entry)
        cell, vectors = _rows(segment.cell, held), _rows(segment.vectors, held)
        scale = None
        if self._offset is not None:
            if segment.scale is None:
                raise WorkError(f"{self.index.folder}: no scales in it; run `embedcube index-vectors` again")
            scale = _rows(segment.scale, held)
        incomplete = (cell & np.uint32(INCOMPLETE)) != 0
        number = cell & np.uint32(INCOMPLETE - 1)
        cosine = query.cosines(vectors, scale, self._offset)
        if mask is not None:
            y, x = np.divmod(number.astype(np.int64), entry.width)
            cosine[~mask.holds(y, x)] = np.nan
        if not self._statuses.both:
            cosine[~self._statuses.wanted(incomplete)] = np.nan
        return Batch(
            zone=entry.zone,
            t=entry.t,
            y=entry.y,
            x=entry.x,
            width=entry.width,
            number=number,
            cosine=cosine,
            incomplete=incomplete,
        )


def _rows(values: NDArray[Any], held: Sequence[Any]) -> NDArray[Any]:
    """Rows of an array, given by slices or numbers."""
    return values[held[0]] if len(held) == 1 else np.concatenate([values[rows] for rows in held])


def _part_of(area: Area, entry: SegmentEntry) -> Mask | None:
    """The part of an area that lies in a segment, in rows and columns of the segment; None where there is none."""
    y = slice(max(area.y.start, entry.y), min(area.y.stop, entry.y + entry.height))
    x = slice(max(area.x.start, entry.x), min(area.x.stop, entry.x + entry.width))
    if y.start >= y.stop or x.start >= x.stop:
        return None
    inside = area.cut(y, x)
    if not inside.any():
        return None
    return Mask(
        zone=entry.zone,
        y=slice(y.start - entry.y, y.stop - entry.y),
        x=slice(x.start - entry.x, x.stop - entry.x),
        inside=inside,
    )
