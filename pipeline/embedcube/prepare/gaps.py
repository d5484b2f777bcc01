"""Name what each window lacks, before anything is read: steps of weather, and archives that have no scene in it."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.zones import own_scenes
from embedcube.prepare.pieces import Linked
from embedcube.sources.era5.gaps import missing_steps
from embedcube.windows import Window


def gaps_of(campaign: Campaign, name: str, scenes: Sequence[Scene], zones: Iterable[Linked]) -> dict[str, list[str]]:
    """For each window of a layer that lacks something, by its number as text: what, in words.

    Only scenes count that a shard has in one of the zones.
    """
    own = own_scenes(campaign.layers[name], scenes)
    found = missing_steps(campaign, name, own)
    used = [scenes[i] for i in sorted({row for linked in zones for row in linked.scenes})]
    for window, words in _without_scene(campaign, name, used):
        found.setdefault(str(window), []).append(words)
    return found


def _without_scene(campaign: Campaign, name: str, scenes: Sequence[Scene]) -> Iterator[tuple[int, str]]:
    """Windows of a layer and the archives that have no scene in one of their frames, where another one has.

    Weather is left out: its steps are counted.
    """
    times: dict[str, list[tuple[float, float]]] = {archive: [] for archive in campaign.layers[name].archives}
    for scene in scenes:
        if any(asset.timeline for asset in scene.assets):
            times.pop(scene.archive, None)
        elif not scene.verdict and scene.archive in times:
            times[scene.archive].append((scene.time.timestamp(), (scene.end or scene.time).timestamp()))
    spans = {archive: np.array(pairs).reshape(-1, 2) for archive, pairs in times.items()}
    others = len(campaign.layers[name].archives) > len(spans)
    for t, frames in enumerate(campaign.frames(name)):
        lacking = [
            (i, archive) for i, frame in enumerate(frames, 1) for archive in spans if not _any(spans[archive], frame)
        ]
        if not others and len(lacking) == len(frames) * len(spans):
            continue  # the window is empty, which is told of the layer
        for number, archive in lacking:
            where = f"frame {number} of {len(frames)}: " if len(frames) > 1 else ""
            yield t, f"{where}archive {archive} has no scene"


def _any(spans: np.ndarray[tuple[int, int], np.dtype[np.float64]], frame: Window) -> bool:
    """Whether any scene lies in a frame, at least in part, as `Scene.meets` says."""
    return bool(((spans[:, 0] < frame.end.timestamp()) & (spans[:, 1] >= frame.start.timestamp())).any())


def empty_windows(zones: Iterable[Linked]) -> tuple[int, ...]:
    """The windows in which no shard of the zones has a scene that makes a cell valid."""
    shown = np.any([linked.shown for linked in zones], axis=0)
    return tuple(np.nonzero(~shown)[0].tolist())
