"""Which of several products of one tile and pass are used: the newest processing baseline that is whole.

Sources ask when they index, and `workers/rounds.py` asks again when a product was found broken while it was read.
Products of one name may be cut out of a tile at two places: only those of one footprint show the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from embedcube.campaign.boxes import Box, width
from embedcube.campaign.remembered_scene import has_files
from embedcube.campaign.scene import NOWHERE, Scene

_SAME = 0.9
"""share of their common area in the area of both, from which on two footprints are one"""

_STATED = 0.5
"""the same share of the smaller one, where no file of one product could be opened: catalogues state boxes of data"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What is decided about one product."""

    instead: int | None = None
    """position of the product that is used instead; None if this one is used"""
    fills: bool = False
    """whether it only fills pixels that newer products of its subject do not show"""


def uses(scenes: Sequence[Scene]) -> list[Use]:
    """For each product whether it is used; one with a verdict cannot be used.

    A tile of a datatake may lie in several products of one baseline, each with a part of it, such as a datastrip: all
    are used. A baseline is whole if all of its parts can be used. Of the whole ones the newest is used, and no older
    one. Where the newest is not whole, an older one fills what it does not show. A product that cannot be used replaces
    none. Products of two footprints replace each other nowhere; where they overlap, the older one fills.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for place, scene in enumerate(scenes):
        alike[scene.shows].append(place)
    result = [Use()] * len(scenes)
    for places in alike.values():
        if len(places) > 1:
            footprints = _Footprints(scenes, places)
            newest = [_decide(scenes, group, result) for group in footprints.groups]
            for older, newer in footprints.overlapping:
                for place in footprints.groups[older] if newest[older] < newest[newer] else ():
                    if result[place].instead is None and not scenes[place].verdict:
                        result[place] = Use(fills=True)
    return result


def _decide(scenes: Sequence[Scene], places: list[int], result: list[Use]) -> float:
    """Decide about products of one subject and footprint; returns the newest baseline that is used."""
    subject = _Subject(scenes, places)
    instead = {place: subject.instead_of(place) for place in places}
    used = {place for place in places if instead[place] is None and not scenes[place].verdict}
    newest = max((scenes[place].version for place in used), default=0.0)
    for place in places:
        fills = place in used and scenes[place].version < newest
        result[place] = Use(instead=instead[place], fills=fills)
    return newest


class _Footprints:
    """The products of one subject, by footprint."""

    def __init__(self, scenes: Sequence[Scene], places: list[int]) -> None:
        by_box: dict[tuple[Box, bool], list[int]] = defaultdict(list)
        nowhere: list[int] = []
        for place in places:
            scene = scenes[place]
            if scene.bbox == NOWHERE and not has_files(scene):
                nowhere.append(place)
            else:
                by_box[_rounded(scene.bbox), has_files(scene)].append(place)
        self.overlapping: list[tuple[int, int]] = []
        """numbers of groups that overlap, each pair both ways"""
        boxes = list(by_box)
        group = list(range(len(boxes)))
        pairs = list(_pairs(boxes)) if len(boxes) > 1 else []
        for one, other, same in pairs:
            if same:
                _join(group, one, other)
        roots = [_root(group, number) for number in range(len(boxes))]
        numbers = {root: number for number, root in enumerate(dict.fromkeys(roots))}
        self.groups: list[list[int]] = [[] for _ in numbers]
        for root, found in zip(roots, by_box.values(), strict=True):
            self.groups[numbers[root]] += found
        # one that lies nobody knows where is the same as another only where there is one place
        if len(self.groups) == 1:
            self.groups[0] += nowhere
        elif nowhere:
            self.groups.append(nowhere)
        for group_of in self.groups:
            group_of.sort()
        ends = {(numbers[roots[one]], numbers[roots[other]]) for one, other, _ in pairs}
        self.overlapping = sorted({*ends, *((other, one) for one, other in ends)})


def _rounded(box: Box) -> Box:
    """The box to a metre, from west to east."""
    west, south, east, north = (round(edge, 5) for edge in box)
    return west, south, round(west + width((west, south, east, north)), 5), north


def _pairs(boxes: Sequence[tuple[Box, bool]]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of boxes that overlap, and whether they are one footprint."""
    shapes = shapely.box(*np.array([box for box, _ in boxes]).T)
    areas = shapely.area(shapes)
    for one, other in shapely.STRtree(shapes).query(shapes, predicate="intersects").T.tolist():
        if one >= other:
            continue
        shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
        if shared > 0:
            both = shared >= _SAME * (areas[one] + areas[other] - shared)
            opened = boxes[one][1] and boxes[other][1]
            yield one, other, bool(both or (not opened and shared >= _STATED * min(areas[one], areas[other])))


def _root(group: list[int], number: int) -> int:
    while group[number] != number:
        group[number] = group[group[number]]
        number = group[number]
    return number


def _join(group: list[int], one: int, other: int) -> None:
    one, other = _root(group, one), _root(group, other)
    group[max(one, other)] = min(one, other)


class _Subject:
    """The products of one subject and footprint."""

    def __init__(self, scenes: Sequence[Scene], places: list[int]) -> None:
        self._scenes = scenes
        usable = [place for place in places if not scenes[place].verdict]
        self._usable = set(usable)
        strips = {scenes[place].strip for place in places} - {""}
        self._all_strips_there = bool(strips) and strips <= {scenes[place].strip for place in usable}
        self._whole = self._newest_whole(places)
        self._of_whole = self._newest(place for place in usable if scenes[place].version == self._whole)
        self._of_strip = self._newest_by(usable, [scenes[place].strip for place in usable])
        self._of_any_strip = self._newest(place for strip, place in self._of_strip.items() if strip)
        self._of_id = self._newest_by(usable, [scenes[place].product_id for place in usable])

    def instead_of(self, place: int) -> int | None:
        """The product that is used instead of one; None if this one is used."""
        rival, twin = self._rival_of(place), self._of_id.get(self._scenes[place].product_id)
        if rival is not None and self._scenes[rival].version > self._scenes[place].version:
            return rival
        return None if twin == place else twin

    def _rival_of(self, place: int) -> int | None:
        """The newest product that can be used and shows all that this one shows, with others that are used."""
        scene = self._scenes[place]
        if self._whole is not None and scene.version < self._whole:
            return self._of_whole
        if scene.strip:
            return self._of_strip.get(scene.strip)
        return self._of_any_strip if self._all_strips_there else None

    def _newest_whole(self, places: Sequence[int]) -> float | None:
        """The newest baseline whose parts do not name their datastrips and are all there; None if there is none.

        There is none either where newer products name datastrips, and all known datastrips are there.
        """
        by_baseline: dict[float, list[int]] = defaultdict(list)
        for place in places:
            by_baseline[self._scenes[place].version].append(place)
        for baseline, found in sorted(by_baseline.items(), reverse=True):
            usable = [self._scenes[place] for place in found if place in self._usable]
            if any(part.strip for part in usable):
                if self._all_strips_there:
                    return None
                continue
            if usable and {self._scenes[place].product_id for place in found} == {part.product_id for part in usable}:
                return baseline
        return None

    def _newest(self, places: Iterable[int]) -> int | None:
        return max(places, key=self._order, default=None)

    def _newest_by(self, places: Sequence[int], keys: Sequence[str]) -> dict[str, int]:
        """The newest product of each key."""
        best: dict[str, int] = {}
        for place, key in zip(places, keys, strict=True):
            if key not in best or self._order(place) > self._order(best[key]):
                best[key] = place
        return best

    def _order(self, place: int) -> tuple[float, int]:
        return self._scenes[place].version, -place
