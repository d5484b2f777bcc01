"""The shards of a layer in one zone, a piece at a time: a plan may hold more of them, with their scenes, than memory.

Every window of a zone has shards at the same places. Pieces follow one another by window, then by row; a piece is some
windows, or of a window with very many links some rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.plan import Ints, Shards
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.sources.base import counted_archives

LINKS_AT_ONCE = 1 << 21
"""shards, and links of shards with scenes, in a piece, about; a link takes some 60 bytes while a piece is made"""

WHOLE_ROWS = 16
"""pieces of a window begin at a multiple of so many rows below its first: no draw group is torn"""


@dataclass(frozen=True, kw_only=True)
class Span:
    """The place of a piece."""

    windows: range
    places: slice
    """of the shards of a window"""


Make = Callable[[Span], tuple[Ints, Ints]]
"""Gives the links of a piece: `first` and `scenes` as in `Shards`"""


class Pieces:
    """The shards of a layer in one zone; a loop makes the links of each piece anew, where there are several."""

    def __init__(self, row: Ints, col: Ints, spans: Sequence[Span], links: Make) -> None:
        """`row` and `col` are those of the shards of each window."""
        self.row, self.col = row, col
        self.windows = spans[-1].windows.stop
        self._spans, self._links = tuple(spans), links
        self._only: Shards | None = None

    @classmethod
    def of(cls, shards: Shards) -> "Pieces":
        """Shards that are in memory as a whole, as pieces of whole windows."""
        windows = int(shards.t[-1]) + 1
        many = len(shards.t) // windows

        def links(span: Span) -> tuple[Ints, Ints]:
            start = span.windows.start * many + span.places.start
            first = shards.first[start : (span.windows.stop - 1) * many + span.places.stop + 1]
            return first - first[0], shards.scenes[first[0] : first[-1]]

        counts = [many + int(shards.first[(t + 1) * many] - shards.first[t * many]) for t in range(windows)]
        return cls(shards.row[:many], shards.col[:many], spans_of(counts, shards.row[:many]), links)

    def __len__(self) -> int:
        """Number of shards."""
        return self.windows * len(self.row)

    @property
    def one(self) -> bool:
        """Whether all shards are one piece, which is made once."""
        return len(self._spans) == 1

    def __iter__(self) -> Iterator[Shards]:
        """Give each piece."""
        if not self.one:
            yield from map(self._made, self._spans)
            return
        if self._only is None:
            self._only = self._made(self._spans[0])
        yield self._only

    def numbered(self) -> Iterator[tuple[slice, Shards]]:
        """Each piece, and where its shards are among all of the zone."""
        start = 0
        for shards in self:
            yield slice(start, start + len(shards.t)), shards
            start += len(shards.t)

    def whole(self) -> Shards:
        """All shards as one piece."""
        if self.one:
            return next(iter(self))
        pieces = [*self]
        ends = np.cumsum([0, *(len(piece.scenes) for piece in pieces)])
        firsts = [piece.first[:-1] + end for piece, end in zip(pieces, ends, strict=False)]
        return Shards(
            t=np.concatenate([piece.t for piece in pieces]),
            row=np.concatenate([piece.row for piece in pieces]),
            col=np.concatenate([piece.col for piece in pieces]),
            first=np.concatenate([*firsts, ends[-1:]]),
            scenes=np.concatenate([piece.scenes for piece in pieces]),
        )

    def _made(self, span: Span) -> Shards:
        row, col = self.row[span.places], self.col[span.places]
        first, scenes = self._links(span)
        return Shards(
            t=np.repeat(np.array(span.windows), len(row)),
            row=np.tile(row, len(span.windows)),
            col=np.tile(col, len(span.windows)),
            first=first,
            scenes=scenes,
        )


def spans_of(counts: Sequence[int], row: Ints) -> list[Span]:
    """Pieces of a zone with so many shards and links in each window, at most, and shards in these rows, which rise."""
    spans: list[Span] = []
    every, first, held = slice(0, len(row)), 0, 0
    for t, count in enumerate(counts):
        if t > first and held + count > LINKS_AT_ONCE:
            spans.append(Span(windows=range(first, t), places=every))
            first, held = t, 0
        held += count
        if held > LINKS_AT_ONCE:
            spans += [Span(windows=range(t, t + 1), places=places) for places in _bands(row, -(-held // LINKS_AT_ONCE))]
            first, held = t + 1, 0
    if first < len(counts):
        spans.append(Span(windows=range(first, len(counts)), places=every))
    return spans


def _bands(row: Ints, pieces: int) -> Iterator[slice]:
    """About so many slices of shards, of whole draw groups."""
    high = int(row[-1] - row[0]) + 1
    step = -(-high // (pieces * WHOLE_ROWS)) * WHOLE_ROWS
    edges = np.searchsorted(row - row[0], np.arange(0, high + step, step)).tolist()
    return (slice(start, stop) for start, stop in pairwise(edges) if stop > start)


@dataclass(frozen=True, kw_only=True)
class Linked:
    """What the links of all shards of a zone come to."""

    links: int
    most: int
    """scenes of the shard that has the most"""
    worst: tuple[int, int, int]
    """window, row and column of the first such shard"""
    of_scene: Ints
    """shards of each scene of the inventory"""
    shown: NDArray[np.bool_]
    """for each window, whether a shard has a scene that makes cells valid"""

    @classmethod
    def of(cls, campaign: Campaign, name: str, pieces: Pieces, scenes: Sequence[Scene]) -> "Linked":
        """Count the links of a layer's shards with the scenes of the inventory."""
        counted = set(counted_archives(campaign, name))
        counts = np.array([scene.archive in counted for scene in scenes], dtype=bool)
        of_scene, shown = np.zeros(len(counts), dtype=np.int64), np.zeros(pieces.windows, dtype=bool)
        most, worst = -1, (0, 0, 0)
        for shards in pieces:
            members = np.diff(shards.first)
            largest = int(members.argmax())
            if members[largest] > most:
                most = int(members[largest])
                worst = int(shards.t[largest]), int(shards.row[largest]), int(shards.col[largest])
            of_scene += np.bincount(shards.scenes, minlength=len(counts))
            shown[np.repeat(shards.t, members)[counts[shards.scenes]]] = True
        return cls(links=int(of_scene.sum()), most=most, worst=worst, of_scene=of_scene, shown=shown)

    @property
    def scenes(self) -> list[int]:
        """Rows of the inventory that any shard has."""
        rows: list[int] = np.nonzero(self.of_scene)[0].tolist()
        return rows
