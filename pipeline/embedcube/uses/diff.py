"""`diff`: which shards and cells of two cubes differ, why, and how far the vectors are from each other."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.plan import Shard
from embedcube.campaign.reasons import KINDS, Account, Compared, Reason, compared
from embedcube.consolidate.accounts import account_of_cube
from embedcube.cube.lineage import ShardAt, shard_at
from embedcube.cube.reader import Cube
from embedcube.printable import listed
from embedcube.progress import Progress

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)
"""of the cosines that are told"""

_BINS = 200_000
"""steps of cosines, from -1 to 1: a quantile is right to half of 0.00001"""

EQUAL, CHANGED, LOST, GAINED = 1, 2, 3, 4
"""what became of a cell: the same numbers; other numbers; a vector only in the first cube, only in the second"""


@dataclass(frozen=True, kw_only=True)
class ShardDiff:
    """A shard that differs."""

    at: ShardAt
    """in the second cube; in the first one where the shard is gone"""
    reason: Reason
    cells: dict[int, int]
    """number of cells by what became of them; other cells have no vector in either cube"""
    least_cosine: float | None
    """between two vectors of a cell that changed; None where no vectors could be compared"""
    fate: NDArray[np.uint8] | None = field(default=None, repr=False)
    """what became of each cell (y, x), 0 where neither cube has a vector; None where cells cannot be compared"""
    distance: NDArray[np.float32] | None = field(default=None, repr=False)
    """1 - cosine of each cell (y, x), NaN where there is none"""

    def facts(self) -> dict[str, Any]:
        """The row of a table."""
        cells = {f"cells_{word}": self.cells.get(code, 0) for word, code in _WORDS.items()}
        why = {"kind": self.reason.kind, "reason": str(self.reason)}
        return {**self.at.facts(), **why, **cells, "least_cosine": self.least_cosine}


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Two cubes, compared."""

    first: str
    second: str
    unchanged: int
    """shards of the same recipe and the same bytes"""
    shards: tuple[ShardDiff, ...]
    """those that differ"""
    cosines: dict[str, dict[float, float]]
    """for each layer whose vectors could be compared, quantiles of the cosines of the cells that changed"""
    apart: dict[str, str]
    """for each layer of both whose cells lie on different grids: which, in words"""

    @property
    def equal(self) -> bool:
        """Whether all shards have the same bytes."""
        return not self.shards

    def document(self) -> dict[str, Any]:
        """What `diff --json` prints."""
        cosines = {layer: {f"{q:g}": value for q, value in found.items()} for layer, found in self.cosines.items()}
        return {
            "first": self.first, "second": self.second, "equal": self.equal, "unchanged": self.unchanged,
            "reasons": self.table(), "scenes": self.scenes(), "other_grids": self.apart,
            "cosines": cosines,
            "shards": [one.facts() | {"why": asdict(one.reason)} for one in self.shards],
        }  # fmt: skip

    def table(self) -> dict[str, dict[str, int]]:
        """Numbers of shards and cells by reason, without names of scenes."""
        rows: dict[str, Counter[str]] = defaultdict(Counter)
        for one in sorted(self.shards, key=lambda one: (_RANK[one.reason.kind], one.reason.label)):
            cells = {word: one.cells.get(code, 0) for word, code in _WORDS.items()}
            rows[one.reason.label] += Counter({"shards": 1, **cells})
        return {label: {"shards": 0, **dict.fromkeys(_WORDS, 0)} | dict(row) for label, row in rows.items()}

    def scenes(self) -> dict[str, dict[str, int]]:
        """Scenes that only one cube has, that changed or were judged otherwise, with the number of their shards."""
        found: dict[str, Counter[str]] = {name: Counter() for name in ("added", "removed", "changed", "verdicts")}
        for one in self.shards:
            for name, counter in found.items():
                counter.update(getattr(one.reason, name))
        return {name: dict(sorted(counter.items())) for name, counter in found.items() if counter}

    def lines(self) -> Iterator[str]:
        """What `diff` prints."""
        yield f"first       {self.first}"
        yield f"second      {self.second}"
        yield f"{self.unchanged:>8} shards unchanged"
        for label, row in self.table().items():
            cells = ", ".join(f"{row[word]:,} cells {word}" for word in _WORDS if row[word])
            yield f"{row['shards']:>8} shards {label}" + (f": {cells}" if cells else "")
        for name, counts in self.scenes().items():
            yield f"{_SCENES[name]:<12}{listed([f'{scene} ({count} shards)' for scene, count in counts.items()], 6)}"
        for layer, words in self.apart.items():
            yield f"other grids {layer}: {words}; no cell is compared"
        for layer, quantiles in self.cosines.items():
            shown = "  ".join(f"{q:.0%} {value:.5f}" for q, value in quantiles.items())
            yield f"cosines     {layer}, of cells that changed: {shown}"


_RANK = {kind: rank for rank, kind in enumerate(KINDS)}

_WORDS = {"equal": EQUAL, "changed": CHANGED, "lost": LOST, "gained": GAINED}

_SCENES = {"added": "new scenes", "removed": "gone scenes", "changed": "changed", "verdicts": "judged"}


def diff(first: Cube, second: Cube, progress: Progress, *, keep_cells: bool = False) -> Diff:
    """Compare two cubes shard by shard; `keep_cells` keeps what became of each cell of those that differ, for a map.

    Raises:
        RequestError: a cube was made by an earlier version of embedcube, which did not say how shards were made.
    """
    sides = _Side(first), _Side(second)
    pairs = list(compared(*(side.account for side in sides)))
    other_bytes = _other_bytes(sides, [one for one in pairs if one.reason.kind == "unchanged"])
    histograms: dict[str, NDArray[np.int64]] = {}
    shards, unchanged = [], 0
    for done, one in enumerate(pairs, start=1):
        if one.reason.kind == "unchanged" and id(one) not in other_bytes:
            unchanged += 1
        else:
            shards.append(_shard_diff(sides, one, histograms, keep_cells=keep_cells))
        progress(done, len(pairs))
    return Diff(
        first=first.address, second=second.address, unchanged=unchanged, shards=tuple(shards),
        cosines={layer: _quantiles(counts) for layer, counts in histograms.items() if counts.any()},
        apart=_apart(sides),
    )  # fmt: skip


class _Side:
    """One of the two cubes."""

    def __init__(self, cube: Cube) -> None:
        self.cube, self.account = cube, account_of_cube(cube)

    def window(self, shard: Shard) -> tuple[str, int, slice, slice]:
        """Zone, window, rows and columns of a shard in its arrays."""
        side = self.account.plan.layers[shard.layer].layout.shard_cells
        rows, cols = (slice(i * side, (i + 1) * side) for i in (shard.iy, shard.ix))
        return f"{shard.layer}/{shard.zone}", shard.t, rows, cols

    def valid(self, shard: Shard) -> NDArray[np.bool_]:
        """Whether each cell of a shard has a vector."""
        return self.cube.valid(*self.window(shard))

    def row(self, shard: Shard) -> int:
        """Row of a shard in the provenance."""
        return self.cube.provenance.shard(*shard.place)


def _other_bytes(sides: tuple[_Side, _Side], pairs: Sequence[Compared]) -> set[int]:
    """The pairs, by `id`, of one recipe whose records name different bytes: one machine is not to be trusted."""
    shards = [(one.earlier, one.later) for one in pairs if one.earlier is not None and one.later is not None]
    rows = [[side.row(pair[i]) for pair in shards] for i, side in enumerate(sides)]
    digests = [side.cube.provenance.digests(sorted(own)) for side, own in zip(sides, rows, strict=True)]
    found = zip(pairs, *rows, strict=True)
    return {id(one) for one, first, second in found if digests[0][first] != digests[1][second]}


def _shard_diff(
    sides: tuple[_Side, _Side], one: Compared, histograms: dict[str, NDArray[np.int64]], *, keep_cells: bool
) -> ShardDiff:
    """Compare the cells of one pair of shards; cosines are counted in `histograms`."""
    side, shard = (sides[1], one.later) if one.later is not None else (sides[0], one.earlier)
    assert shard is not None
    zone, *_ = side.window(shard)
    (fate, distance), least = _fate(sides, one), None
    if distance is not None and (known := distance[np.isfinite(distance)]).size:
        bins = np.clip(((2 - known) * (_BINS / 2)).astype(np.int64), 0, _BINS)
        counts = np.bincount(bins, minlength=_BINS + 1)
        histograms[shard.layer] = histograms.get(shard.layer, np.zeros(_BINS + 1, np.int64)) + counts
        least = 1 - float(known.max())
    cells = {} if fate is None else {code: int(n) for code in _WORDS.values() if (n := (fate == code).sum())}
    return ShardDiff(
        at=shard_at(side.cube, zone, shard.t, shard.iy, shard.ix), reason=one.reason,
        cells=cells,
        least_cosine=least,
        fate=fate if keep_cells else None, distance=distance if keep_cells else None,
    )  # fmt: skip


def _fate(sides: tuple[_Side, _Side], one: Compared) -> tuple[NDArray[np.uint8] | None, NDArray[np.float32] | None]:
    """What became of each cell, and 1 - cosine of the cells that changed; None where there is nothing to compare."""
    first, second = sides
    if one.earlier is None and one.later is not None:
        return np.where(second.valid(one.later), GAINED, 0).astype(np.uint8), None
    if one.later is None and one.earlier is not None:
        return np.where(first.valid(one.earlier), LOST, 0).astype(np.uint8), None
    assert one.earlier is not None
    assert one.later is not None
    a, b = (side.cube.vectors(*side.window(shard)) for side, shard in ((first, one.earlier), (second, one.later)))
    if a.shape[:2] != b.shape[:2]:
        return None, None
    have_a, have_b = first.valid(one.earlier), second.valid(one.later)
    fate = np.where(have_a & ~have_b, LOST, np.where(have_b & ~have_a, GAINED, 0)).astype(np.uint8)
    both = have_a & have_b
    if a.shape != b.shape:
        fate[both] = CHANGED
        return fate, None
    same = both & (a == b).all(axis=-1)
    fate[same] = EQUAL
    changed = both & ~same
    fate[changed] = CHANGED
    distance = np.full(both.shape, np.nan, np.float32)
    distance[changed] = 1 - cosines(a[changed], b[changed])
    return fate, distance


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of pairs of vectors, in float64; NaN where a vector is 0."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return np.asarray(np.einsum("nf,nf->n", x, y) / np.where(lengths > 0, lengths, np.nan))


def _quantiles(counts: NDArray[np.int64]) -> dict[float, float]:
    ends = np.cumsum(counts)
    places = (np.searchsorted(ends, max(1, q * ends[-1])) for q in QUANTILES)
    return {q: round(float(place) / (_BINS / 2) - 1, 5) for q, place in zip(QUANTILES, places, strict=True)}


def _apart(sides: tuple[_Side, _Side]) -> dict[str, str]:
    """The layers of both cubes whose grids differ, in words."""
    first, second = (side.account for side in sides)
    return {
        name: f"{grids[0]} and {grids[1]}"
        for name in first.plan.layers
        if name in second.plan.layers and (grids := [_grid(one, name) for one in (first, second)])[0] != grids[1]
    }


def _grid(account: Account, layer: str) -> str:
    grid, layout = account.campaign.grid_of(layer), account.plan.layers[layer].layout
    origin = f" from {grid.origin[0]:g}, {grid.origin[1]:g}" if any(grid.origin) else ""
    return f"cells of {layout.cell_px} x {grid.pixel:g} on {grid.crs}{origin}"
