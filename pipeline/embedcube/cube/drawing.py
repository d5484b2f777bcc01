"""Drawing the best hits from batches of scored cells, with hits at least so many metres apart. Memory is bounded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod

from embedcube.cube.store import CubeStore
from embedcube.grid import to_degrees, unit_of

_GLOBE = Geod(ellps="WGS84")

_FEWEST = 2048
"""candidates that one pass keeps, at least"""

_FOR_EACH_HIT = 64
"""candidates that one pass keeps for each hit that is wanted, at least"""

_DRAWN_AT_ONCE = 256
"""candidates that are compared with the hits at once"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cells of one zone in one window, with their cosines."""

    zone: str
    t: int
    y: int
    """row of the rectangle that the cells are in"""
    x: int
    width: int
    """columns of the rectangle"""
    number: NDArray[np.integer]
    """of each cell in the rectangle, row by row"""
    cosine: NDArray[np.float32]
    """NaN where a vector has no direction, or the cell is not meant"""
    incomplete: NDArray[np.bool_]
    """status valid_incomplete"""

    def place(self, which: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of some of the cells."""
        y, x = np.divmod(self.number[which].astype(np.int64), self.width)
        return y + self.y, x + self.x


Batches = Callable[[], Iterable[Batch]]
"""Gives all batches of a search from the start; called once for each pass."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cell of a zone, in any window."""

    zone: str
    y: int
    x: int


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Cells of a rectangle of one zone."""

    zone: str
    y: slice
    x: slice
    inside: NDArray[np.bool_]
    """(y, x)"""

    def holds(self, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which cells of its zone it has."""
        held = (y >= self.y.start) & (y < self.y.stop) & (x >= self.x.start) & (x < self.x.stop)
        at = np.flatnonzero(held)
        held[at] = self.inside[y[at] - self.y.start, x[at] - self.x.start]
        return np.asarray(held)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One hit."""

    cosine: float
    zone: str
    t: int
    y: int
    x: int
    incomplete: bool


@dataclass(frozen=True)
class _Candidates:
    """Scored cells; arrays of one length."""

    cosine: NDArray[np.float32]
    zone: NDArray[np.int64]
    """index into the zones of the search"""
    t: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    incomplete: NDArray[np.bool_]

    def take(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> "_Candidates":
        return _Candidates(*(values[which] for values in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence["_Candidates"]) -> "_Candidates":
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(one).values() for one in parts), strict=True)))


class Drawing:
    """Draws hits of one search."""

    def __init__(self, cube: CubeStore, zones: Sequence[str], apart_m: float) -> None:
        """`zones` are those that batches may come from; `apart_m` metres lie between hits, in any windows."""
        self.zones = list(zones)
        self.apart_m = apart_m
        self._transforms = [cube.group(zone).attrs["spatial:transform"] for zone in zones]
        self._crs = [str(cube.group(zone).attrs["proj:wkt2"]) for zone in zones]

    def best(self, batches: Batches, count: int, own: Sequence[Place] = (), masks: Sequence[Mask] = ()) -> list[Drawn]:
        """The `count` cells with the largest cosines, best first; fewer where there are no more.

        None lies nearer than `apart_m` to a better one, nor to a place of `own`, nor in one of `masks`. Passes over the
        batches are repeated until enough hits are drawn: a pass keeps some thousands of candidates, and each one after
        the first begins where the last ended.
        """
        seeds = list({(self.zones.index(one.zone), one.y, one.x) for one in own if one.zone in self.zones})
        taken, hits = list(seeds), list[Drawn]()
        limit, ceiling, near = max(_FEWEST, _FOR_EACH_HIT * count), np.inf, list[tuple[int, int, int]]()
        while True:
            found, cut = self._collect(batches(), limit, ceiling, near, masks)
            before = len(hits)
            self._draw(found.take(self._settled(found, cut)), count, taken, hits)
            if len(hits) == count or cut == -np.inf or not self.apart_m:
                return hits
            if len(hits) == before and cut == ceiling:
                limit *= 8  # more cells of one cosine than are kept
            ceiling, near = cut, taken

    def _settled(self, found: _Candidates, cut: float) -> NDArray[np.bool_]:
        """Candidates that no dropped one can come before; where all have the cosine of a dropped one, these."""
        above: NDArray[np.bool_] = found.cosine > cut
        return above if above.any() and self.apart_m else np.ones(len(above), bool)

    def _collect(
        self,
        batches: Iterable[Batch],
        limit: int,
        ceiling: float,
        near: Sequence[tuple[int, int, int]],
        masks: Sequence[Mask],
    ) -> tuple[_Candidates, float]:
        """The best candidates up to `ceiling`, and the largest cosine that was dropped (-inf if none was)."""
        parts: list[_Candidates] = []
        held, floor, cut = 0, -np.inf, -np.inf
        for batch in batches:
            which = np.flatnonzero((batch.cosine <= ceiling) & (batch.cosine >= floor))
            found = self._candidates(batch, which)
            parts.append(found if not (near or masks) else found.take(~self._kept_out(found, near, masks)))
            held += len(parts[-1].cosine)
            if held > 2 * limit:
                parts = [self._best(_Candidates.joined(parts), limit)]
                held = limit
                floor = cut = float(parts[0].cosine.min())
        if not parts:
            empty = np.empty(0, np.int64)
            return _Candidates(np.empty(0, np.float32), empty, empty, empty, empty, np.empty(0, np.bool_)), -np.inf
        found = _Candidates.joined(parts)
        if len(found.cosine) > limit:
            found = self._best(found, limit)
            cut = max(cut, float(found.cosine.min()))
        return found, cut

    def _candidates(self, batch: Batch, which: NDArray[np.integer]) -> _Candidates:
        y, x = batch.place(which)
        zone, t = np.full(len(which), self.zones.index(batch.zone)), np.full(len(which), batch.t)
        return _Candidates(batch.cosine[which], zone, t, y, x, batch.incomplete[which])

    @staticmethod
    def _best(found: _Candidates, limit: int) -> _Candidates:
        return found.take(np.argpartition(-found.cosine, limit - 1)[:limit])

    def _draw(self, found: _Candidates, count: int, taken: list[tuple[int, int, int]], hits: list[Drawn]) -> None:
        """Move hits from the candidates, best first, until there are `count`."""
        order = np.argsort(-found.cosine, kind="stable")
        # most searches end among the first of them
        for first in range(0, len(order), _DRAWN_AT_ONCE):
            some = found.take(order[first : first + _DRAWN_AT_ONCE])
            alive = np.ones(len(some.cosine), bool)
            for place in taken:
                alive &= ~self._near(some, place)
            while len(hits) < count and alive.any():
                i = int(np.argmax(alive))
                zone, y, x = int(some.zone[i]), int(some.y[i]), int(some.x[i])
                cosine, incomplete = float(some.cosine[i]), bool(some.incomplete[i])
                hits.append(
                    Drawn(cosine=cosine, zone=self.zones[zone], t=int(some.t[i]), y=y, x=x, incomplete=incomplete)
                )
                alive[i] = False
                if self.apart_m:
                    taken.append((zone, y, x))
                    alive &= ~self._near(some, (zone, y, x))
            if len(hits) == count:
                return

    def _kept_out(
        self, found: _Candidates, near: Sequence[tuple[int, int, int]], masks: Sequence[Mask]
    ) -> NDArray[np.bool_]:
        """Which candidates are near a place, or in one of the masks."""
        out = np.zeros(len(found.cosine), bool)
        if not len(out):
            return np.asarray(out)
        for place in near:
            out |= self._near(found, place)
        for mask in masks:
            if mask.zone in self.zones:
                out |= (found.zone == self.zones.index(mask.zone)) & mask.holds(found.y, found.x)
        return np.asarray(out)

    def _near(self, found: _Candidates, place: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Which candidates are nearer to a place than `apart_m`, or are the place itself."""
        zone, y, x = place
        same = found.zone == zone
        near = same & (found.y == y) & (found.x == x)
        if not self.apart_m:
            return np.asarray(near)
        if unit_of(self._crs[zone]) == "m":
            a, _, _, _, e, _ = self._transforms[zone]
            apart_2 = ((found.x - x) * a) ** 2 + ((found.y - y) * e) ** 2
            near |= same & (apart_2 < self.apart_m**2)
            others = np.flatnonzero(~same)
        else:
            others = np.arange(len(same))
        if len(others):
            near[others] |= self._metres(found, others, place) < self.apart_m
        return np.asarray(near)

    def _metres(self, found: _Candidates, which: NDArray[np.int64], place: tuple[int, int, int]) -> NDArray[np.float64]:
        """Distances on the Earth between candidates and a place."""
        lon, lat = np.empty(len(which)), np.empty(len(which))
        zones = found.zone[which]
        for zone in np.unique(zones).tolist():
            own = zones == zone
            lon[own], lat[own] = self.degrees(zone, found.y[which][own], found.x[which][own])
        (lon0,), (lat0,) = self.degrees(place[0], np.array([place[1]]), np.array([place[2]]))
        return np.asarray(_GLOBE.inv(lon, lat, np.full(len(lon), lon0), np.full(len(lat), lat0))[2])

    def apart(self, one: Drawn, other: Drawn) -> float:
        """Metres between two hits."""
        a, _, _, _, e, _ = self._transforms[self.zones.index(one.zone)]
        if one.zone == other.zone and unit_of(self._crs[self.zones.index(one.zone)]) == "m":
            return float(np.hypot((one.x - other.x) * a, (one.y - other.y) * e))
        (lon, lat), (lon2, lat2) = (
            self.degrees(self.zones.index(hit.zone), np.array([hit.y]), np.array([hit.x])) for hit in (one, other)
        )
        return float(_GLOBE.inv(lon, lat, lon2, lat2)[2][0])

    def degrees(
        self, zone: int, y: NDArray[np.int64], x: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitudes and latitudes of the centres of cells of a zone."""
        a, _, c, _, e, f = self._transforms[zone]
        lon, lat = to_degrees(self._crs[zone]).transform(c + (x + 0.5) * a, f + (y + 0.5) * e)
        return np.asarray(lon), np.asarray(lat)
