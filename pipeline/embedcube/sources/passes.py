"""Which products show one pass of a satellite, however it was cut into tiles, slices, bursts and files.

What names the pass best decides: the datatake; else satellite and absolute orbit; else satellite and sensing time. All
families of satellites ask here, so that a product gets the same answer from whatever catalogue it comes.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from embedcube.campaign.scene import UNKNOWN_TIME

APART_S = 100.0
"""products of one satellite within so many seconds show one pass: in this time it flies over six tiles"""

_REVOLUTION_S = 6042
"""time around the Earth: no pass lasts longer"""

_SLOT_S = 2880
"""48 minutes, a little less than half a revolution: within them a satellite of these orbits sees no place twice"""


_PLATFORMS = (
    "platform", "eo:platform", "SPACECRAFT_NAME", "spacecraft_name", "platformShortName", "satellite",
)  # fmt: skip
_LETTERS = ("platform_number", "platformSerialIdentifier")
"""Properties that name the satellite of a product, or its letter alone"""


def satellite_letter(pattern: re.Pattern[str], properties: Mapping[str, Any], id: str) -> str:
    """The letter of a satellite, by the id of a product and by what a catalogue says of its platform; empty if unknown.

    The first group of `pattern` is the letter, behind a name of the mission.
    """
    platforms = " ".join(str(properties.get(key, "")) for key in _PLATFORMS)
    letters = (str(properties.get(key, "")).upper() for key in _LETTERS)
    known = next((letter for letter in letters if letter in ("A", "B", "C", "D")), "")
    found = pattern.search(id) or pattern.search(platforms)
    return found[1].upper() if found else known


@dataclass(frozen=True, kw_only=True, slots=True)
class Clues:
    """What a product tells about the pass that it shows."""

    id: str
    time: datetime
    """of sensing"""
    satellite: str = ""
    """as S2A; empty if unknown"""
    datatake: str = ""
    """number of the datatake, which its satellite does not use again; empty if unknown"""
    start: datetime | None = None
    """beginning of the datatake, where it has no number"""
    orbit: int | None = None
    """absolute orbit: revolutions since the launch"""
    place: str = ""
    """tile or burst; empty if unknown"""


@dataclass(kw_only=True, slots=True)
class _Pass:
    name: str
    members: list[int] = field(default_factory=list)
    orbits: set[int] = field(default_factory=set)


def acquisitions(mission: str, products: Sequence[Clues]) -> list[str]:
    """For each product the name of its acquisition; equal names mean one pass. `mission` is S1 or S2.

    - Products of one datatake are one acquisition, also where it begins in one orbit and ends in the next. So are
      datatakes of a satellite that begin within 100 s.
    - A product that names no datatake belongs to the datatake of its satellite's orbit, the nearest in time of several;
      where there is none, the products of one orbit are an acquisition.
    - Products that name neither belong together, and to the others, if they follow each other within 100 s. What is
      left within 48 minutes is one acquisition too, as a satellite sees a place once in that time, unless a place is
      there twice.

    The name of an acquisition follows from each of its products alone, so that it stays when an archive grows: except
    where products that name their pass in different ways, or lie on both sides of a 48 minutes' border, meet.
    """
    named = _Passes(mission, products)
    of_satellite: dict[str, list[int]] = defaultdict(list)
    for i, product in enumerate(products):
        of_satellite[product.satellite].append(i)
    # those of an unknown satellite last: they may belong to a pass of a known one
    for satellite in sorted(of_satellite, key=lambda name: (not name, name)):
        named.add(satellite, of_satellite[satellite])
    result = [product.id for product in products]
    for one in named.passes:
        for i in one.members:
            result[i] = one.name
    return result


class _Passes:
    """The passes that are known so far; those of each satellite are added at once."""

    def __init__(self, mission: str, products: Sequence[Clues]) -> None:
        self._mission = mission
        self._products = products
        self.passes: list[_Pass] = []

    def add(self, satellite: str, members: Iterable[int]) -> None:
        """Add the products of one satellite, of which none has been added yet."""
        products, first = self._products, len(self.passes)
        prefix = satellite or self._mission
        by_datatake: dict[str, list[int]] = defaultdict(list)
        begun: list[tuple[datetime, int]] = []
        by_orbit: list[int] = []
        rest: list[int] = []
        for i in members:
            product = products[i]
            if product.datatake:
                by_datatake[product.datatake].append(i)
            elif product.start is not None:
                begun.append((product.start, i))
            elif product.orbit is not None:
                by_orbit.append(i)
            elif product.time != UNKNOWN_TIME:
                rest.append(i)
        for datatake, every in sorted(by_datatake.items()):
            for found in self._of_one_datatake(every):
                self._make(f"{prefix}{self._lowest_orbit(found)}_{datatake}", found)
        known = _Near([] if satellite else self.passes, products)
        for chain in _chains(begun):
            at, found = chain[0][0], [i for _, i in chain]
            if (one := known.nearest(at, APART_S)) is not None:
                one.members.extend(found)
            else:
                orbit = self._lowest_orbit(found)
                # as the datatakes of Sentinel-2 are called
                self._make(f"{'G' if orbit else ''}{prefix}_{at:%Y%m%dT%H%M%S}{orbit}", found)
        self._add_orbits(prefix, by_orbit, first)
        self._add_by_time(prefix, rest, first if satellite else 0)

    def _make(self, name: str, members: list[int]) -> None:
        self.passes.append(_Pass(name=name, members=members, orbits=self._orbits(members)))

    def _of_one_datatake(self, members: list[int]) -> list[list[int]]:
        """The products with one number of a datatake, parted where it cannot be one datatake.

        It may begin in one orbit and end in the next, as a new one begins at the equator, northward.
        """
        dated = [(time, i) for i in members if (time := self._products[i].time) != UNKNOWN_TIME]
        parts: list[list[int]] = []
        for chain in _chains(dated, _REVOLUTION_S):
            found = [i for _, i in chain]
            orbits = self._orbits(found)
            if orbits and max(orbits) - min(orbits) > 1:
                by_orbit: dict[int | None, list[int]] = defaultdict(list)
                for i in found:
                    by_orbit[self._products[i].orbit].append(i)
                parts.extend(by_orbit.values())
            else:
                parts.append(found)
        for i in members:
            if (product := self._products[i]).time == UNKNOWN_TIME:
                known = (part for part in parts if product.orbit is None or product.orbit in self._orbits(part))
                if (part := next(known, None)) is None:
                    parts.append([i])
                else:
                    part.append(i)
        return parts

    def _orbits(self, members: list[int]) -> set[int]:
        return {orbit for i in members if (orbit := self._products[i].orbit) is not None}

    def _lowest_orbit(self, members: list[int]) -> str:
        """The lowest orbit that any product names, behind an underscore; empty if none names one."""
        orbits = self._orbits(members)
        return f"_{min(orbits):06d}" if orbits else ""

    def _add_orbits(self, prefix: str, members: list[int], first: int) -> None:
        """Add products that name an orbit and no datatake; `first` is the first pass of their satellite."""
        datatakes, of_orbit = _Near(self.passes[first:], self._products), dict[int, list[int]]()
        without = _Near([one for one in self.passes[first:] if not one.orbits], self._products)
        for i in sorted(members, key=lambda i: (self._products[i].time, self._products[i].id)):
            product = self._products[i]
            assert product.orbit is not None
            found = datatakes.nearest(product.time, _REVOLUTION_S, product.orbit)
            found = found or without.nearest(product.time, APART_S)
            if found is None:
                of_orbit.setdefault(product.orbit, []).append(i)
            else:
                found.members.append(i)
        last: _Pass | None = None
        for orbit, all_in in sorted(of_orbit.items()):
            # two satellites have the same orbit numbers, years apart; it may be unknown which of them it is
            chains = _chains([(self._products[i].time, i) for i in all_in], _REVOLUTION_S)
            for number, chain in enumerate(chains):
                found_in = [i for _, i in chain]
                # a pass over the equator, northward, begins in one orbit and ends in the next
                if last is not None and orbit - 1 in last.orbits and self._gap_s(last.members, found_in) <= APART_S:
                    last.members.extend(found_in)
                    last.orbits.add(orbit)
                else:
                    day = f"_{chain[0][0]:%Y%m%d}" if number else ""
                    self._make(f"{prefix}_A{orbit:06d}{day}", found_in)
                    last = self.passes[-1]

    def _gap_s(self, before: list[int], after: list[int]) -> float:
        last, first = (max(self._products[i].time for i in before), min(self._products[i].time for i in after))
        return abs((first - last).total_seconds())

    def _add_by_time(self, prefix: str, members: list[int], first: int) -> None:
        """Add products that tell no more than when they were sensed; `first` is the first pass they may belong to."""
        known = _Near(self.passes[first:], self._products)
        slots: dict[int, list[list[int]]] = defaultdict(list)
        for chain in _chains([(self._products[i].time, i) for i in members]):
            found = [one for time, _ in chain if (one := known.nearest(time, APART_S))]
            if found:
                found[0].members.extend(i for _, i in chain)
            else:
                slots[int(chain[0][0].timestamp()) // _SLOT_S].append([i for _, i in chain])
        for slot, chains in sorted(slots.items()):
            places = [place for members in chains for place in {self._products[i].place for i in members}]
            if len(chains) == 1 or ("" not in places and len(set(places)) == len(places)):
                begin = datetime.fromtimestamp(slot * _SLOT_S, UTC)
                self._make(f"{prefix} {begin:%Y-%m-%dT%H:%M} + 48 min", [i for members in chains for i in members])
                continue
            for one_chain in chains:
                self._make(f"{prefix} {self._products[one_chain[0]].time:%Y-%m-%dT%H:%M:%S}", one_chain)


def _chains(moments: list[tuple[datetime, int]], apart_s: float = APART_S) -> list[list[tuple[datetime, int]]]:
    """The moments in order, parted where more than so many seconds lie between two."""
    chains: list[list[tuple[datetime, int]]] = []
    for moment in sorted(moments):
        if not chains or (moment[0] - chains[-1][-1][0]).total_seconds() > apart_s:
            chains.append([])
        chains[-1].append(moment)
    return chains


class _Near:
    """Finds among some passes the one with the product that was sensed nearest to a time."""

    def __init__(self, passes: Sequence[_Pass], products: Sequence[Clues]) -> None:
        self._by_orbit: dict[int | None, list[tuple[float, int]]] = defaultdict(list)
        self._passes = list(passes)
        for number, one in enumerate(passes):
            times = (time for i in one.members for time in (products[i].time, products[i].start) if time is not None)
            moments = [(time.timestamp(), number) for time in times]
            for orbit in (None, *one.orbits):
                self._by_orbit[orbit].extend(moments)
        for moments in self._by_orbit.values():
            moments.sort()

    def nearest(self, time: datetime, within_s: float = float("inf"), orbit: int | None = None) -> _Pass | None:
        """The nearest pass of an orbit, or of any; None if there is none within so many seconds."""
        moments, second = self._by_orbit.get(orbit, []), time.timestamp()
        place = bisect_left(moments, (second, -1))
        around = [(abs(moment - second), number) for moment, number in moments[max(0, place - 1) : place + 1]]
        apart, number = min(around, default=(float("inf"), -1))
        return self._passes[number] if number >= 0 and apart <= within_s else None
