"""Which scenes of acquisitions are copied onto a grid, and which are resampled: told by `plan`, and put in order."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import shapely

from embedcube.campaign.boxes import Box
from embedcube.campaign.resampling import resampling_of
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.grid import Grid
from embedcube.prepare.pieces import Linked
from embedcube.sources.base import make_source
from embedcube.zones import SampleList


def resampled_on(
    campaign: Campaign,
    name: str,
    zones: Mapping[str, Grid | SampleList],
    linked: Mapping[str, Linked],
    scenes: Sequence[Scene],
) -> dict[str, list[str]]:
    """For each grid onto which scenes of a layer's shards are resampled, how many, in words."""
    words = {}
    for zone, of_zone in linked.items():
        # a sample is where its chip is
        if isinstance(grid := zones[zone], Grid):
            words[zone] = Resampled(campaign, name, grid).in_words(scenes[i] for i in of_zone.scenes)
    return {zone: lines for zone, lines in words.items() if lines}


class Resampled:
    """The ways in which the bands of scenes come onto one grid. Scenes that are no acquisitions have none."""

    def __init__(self, campaign: Campaign, name: str, grid: Grid) -> None:
        """`name` is that of a layer."""
        self._campaign = campaign
        self._grid = grid
        archives = campaign.layers[name].archives
        self._counted = {archive for archive in archives if make_source(campaign, archive).counted}
        self._known: dict[object, tuple[str, ...]] = {}

    def methods(self, scene: Scene) -> tuple[str, ...]:
        """The method of each band that is resampled; empty where all bands are copied or repeated."""
        if scene.archive not in self._counted or scene.software:
            return ()  # fields cover every place; what other software decodes comes onto the grid in its own way
        # all dates of a tile lie at the same place
        places = [(asset.band, asset.crs, asset.transform, asset.rows, asset.cols) for asset in scene.assets]
        key = (scene.archive, *places)
        if key not in self._known:
            method_of = self._campaign.archives[scene.archive].resampling_of
            ways = [resampling_of(asset, self._grid, method_of(asset.band)) for asset in scene.assets]
            self._known[key] = tuple(way for way in ways if way not in ("copied", "repeated"))
        return self._known[key]

    def in_words(self, scenes: Iterable[Scene]) -> list[str]:
        """How many of the planned scenes are resampled, and whether copied ones meet them; empty if none is."""
        planned = [scene for scene in scenes if scene.archive in self._counted and scene.assets and not scene.software]
        methods = [self.methods(scene) for scene in planned]
        count = sum(map(bool, methods))
        if not count:
            return []
        named = ", ".join(sorted({one for some in methods for one in some}))
        copied = f", {len(planned) - count} copied" if count < len(planned) else ""
        return [f"{count} of {len(planned)} scenes are resampled ({named}){copied}", *self._warning(planned)]

    def _warning(self, planned: Sequence[Scene]) -> Iterator[str]:
        """A warning where scenes of one acquisition meet of which the one is resampled in fewer bands."""
        of_acquisition: dict[tuple[str, str], dict[int, list[Scene]]] = defaultdict(lambda: defaultdict(list))
        for scene in planned:
            of_acquisition[scene.archive, scene.acquisition][len(self.methods(scene))].append(scene)
        for kinds in of_acquisition.values():
            least, most = kinds[min(kinds)], kinds[max(kinds)]
            if least is not most and (pair := self._first_that_meet(least, most)):
                one, other = (scene.id for scene in pair)
                yield (
                    f"warning: copied and resampled scenes meet in an acquisition, the first are {one} and {other}: "
                    "values may step at their edge. Where both are clear, the copied one counts; `grid.origin` decides "
                    "which scenes are copied"
                )
                return

    def _first_that_meet(self, some: Sequence[Scene], others: Sequence[Scene]) -> tuple[Scene, Scene] | None:
        """The first two scenes whose boxes share an area, or come within a pixel of each other."""
        placed = [(other, box) for other in others for box in other.boxes_in(self._grid)]
        # a tree, because a pass over a continent has thousands of tiles
        tree = shapely.STRtree([shapely.box(*box) for _, box in placed])
        reach = self._grid.pixel
        for one in some:
            near = [
                place
                for box in one.boxes_in(self._grid)
                for place in tree.query(shapely.box(*box).buffer(reach, join_style="mitre")).tolist()
                if self._meet(box, placed[place][1])
            ]
            if near:
                return one, placed[min(near)][0]
        return None

    def _meet(self, box: Box, other: Box) -> bool:
        reach = self._grid.pixel
        across = box[0] - reach < other[2] and other[0] - reach < box[2]
        return across and box[1] - reach < other[3] and other[1] - reach < box[3]
