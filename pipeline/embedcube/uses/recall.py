"""Recall of the vector index: how many of the hits of an exact search the lists give."""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.drawing import Drawing, Drawn, Place
from embedcube.cube.encoding import directions
from embedcube.cube.examples import Wanted
from embedcube.cube.find import default_apart_m
from embedcube.cube.scan import LISTS, IndexScan, Statuses
from embedcube.cube.segments import INCOMPLETE, VectorIndex
from embedcube.cube.similar import Query
from embedcube.cube.store import CubeStore
from embedcube.errors import WorkError

HITS = 10
"""hits of each query"""

_SEED = 17


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Mean over queries, for one number of lists."""

    lists: int
    """lists of each segment that are read"""
    recall_at_10: float
    """share of the 10 best cells of an exact search that are found"""
    recall_of_places: float
    """share of its 10 best places at least `apart_m` apart that are found: a hit lies that near"""
    share_read: float
    """of all vectors"""
    cpu_ms: float
    """of a query for distinct places, computing time of this process"""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `find --check` has measured."""

    queries: int
    cells: int
    """cells with a vector"""
    apart_m: float
    damaged: list[str]
    """files of the index whose bytes have changed"""
    measured: list[Recall]


def check(
    cube: CubeStore, index: VectorIndex, queries: int = 50, lists: tuple[int, ...] = (4, 8, LISTS, 32)
) -> Checked:
    """Compare the lists with an exact search, for cells drawn at random, always the same; and read all files again.

    Raises:
        WorkError: the index has no vector.
    """
    apart_m = default_apart_m(cube, index.layer)
    scan = IndexScan(cube, index, Statuses(complete=True, incomplete=True), None, None)
    near, apart = (Drawing(cube, cube.zones_of(index.layer), metres) for metres in (0.0, apart_m))
    offset = cube.offset(cube.zones_of(index.layer)[0])
    chosen = [_query(index, number, offset) for number in _numbers(index, queries)]
    truth = [
        [drawing.best(partial(scan.all, wanted.query), HITS, wanted.own) for drawing in (near, apart)]
        for wanted in chosen
    ]
    measured = []
    for count in sorted({min(count, scan.most_lists) for count in lists}):
        found, places, spent_s, read = 0.0, 0.0, 0.0, 0
        for wanted, (cells, distinct) in zip(chosen, truth, strict=True):
            batches = partial(scan.lists, wanted.query, count)
            hits = near.best(batches, HITS, wanted.own)
            begun = time.process_time()
            far = apart.best(batches, HITS, wanted.own)
            spent_s += time.process_time() - begun
            read += sum(len(batch.cosine) for batch in batches())
            found += _found(hits, cells) / max(1, len(cells))
            places += _places_found(apart, far, distinct) / max(1, len(distinct))
        measured.append(
            Recall(
                lists=count,
                recall_at_10=round(found / len(chosen), 4),
                recall_of_places=round(places / len(chosen), 4),
                share_read=round(read / len(chosen) / scan.cells, 5),
                cpu_ms=round(1000 * spent_s / len(chosen), 3),
            )
        )
    return Checked(
        queries=len(chosen),
        cells=scan.cells,
        apart_m=apart_m,
        damaged=[str(path) for path in index.damaged()],
        measured=measured,
    )


def _numbers(index: VectorIndex, queries: int) -> list[int]:
    total = sum(entry.cells for entry in index.listed.segments)
    if not total:
        raise WorkError(f"{index.folder}: the index of layer {index.layer} has no vector")
    # not a permutation of all of them, which takes eight bytes for each
    drawn = np.random.default_rng(_SEED).choice(total, min(queries, total), replace=False)
    return [int(number) for number in np.sort(drawn)]


def _query(index: VectorIndex, number: int, offset: NDArray[np.float32] | None) -> Wanted:
    """The vector of a cell, by its number among all rows of all segments."""
    for entry in index.listed.segments:
        if number < entry.cells:
            segment = index.segment(entry)
            y, x = divmod(int(segment.cell[number]) & (INCOMPLETE - 1), entry.width)
            own = Place(zone=entry.zone, y=entry.y + y, x=entry.x + x)
            scale = None if segment.scale is None else segment.scale[number]
            return Wanted(query=Query.of(np.array(directions(segment.vectors[number], scale, offset))), own=[own])
        number -= entry.cells
    raise AssertionError


def _found(hits: list[Drawn], truth: list[Drawn]) -> int:
    """How many hits are as good as the exact ones: cells of one cosine may stand for each other."""
    return sum(hit.cosine >= truth[-1].cosine for hit in hits) if truth else 0


def _places_found(drawing: Drawing, hits: list[Drawn], truth: list[Drawn]) -> int:
    """How many of the exact places have a hit nearer than `apart_m`."""
    return sum(any(drawing.apart(hit, one) < drawing.apart_m for hit in hits) for one in truth)
