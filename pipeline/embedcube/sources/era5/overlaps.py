"""Scenes of an archive whose times overlap: one of two is refused."""

from dataclasses import replace

from embedcube.campaign.scene import Scene
from embedcube.sources.era5.scenes import is_static, stamps


def without_overlaps(scenes: list[Scene]) -> list[Scene]:
    """The scenes, with a verdict for each whose times overlap another's: its steps would count twice.

    Of two, the later is refused, unless only the earlier lacks steps: one step at a wrong time makes a file long.
    """
    result: list[Scene] = []
    current: list[int] = []
    for place, scene in enumerate(scenes):
        if scene.superseded_by or is_static(scene):
            result.append(scene)
            continue
        first = stamps(scene)[0]
        current = [o for o in current if stamps(result[o])[1] >= first]
        twice = [o for o in current if result[o].acquisition != scene.acquisition and _may_overlap(result[o], scene)]
        if twice and not scene.verdict:
            if _lacks_steps(scene) or not all(_lacks_steps(result[o]) for o in twice):
                scene = _refused_beside(scene, result[twice[0]])
            else:
                for o in twice:
                    result[o] = _refused_beside(result[o], scene)
                current = [o for o in current if o not in twice]
        result.append(scene)
        current += [] if scene.verdict else [place]
    return result


def _refused_beside(scene: Scene, other: Scene) -> Scene:
    return replace(scene, verdict=f"its times are also in {other.id}; take one of them away")


_UNEVEN = 1.2
"""a series of months is that much longer, at most, than its shortest month would make it"""


def _lacks_steps(scene: Scene) -> bool:
    """Whether a scene has fewer steps than its shortest step lets fit between its first and its last."""
    whole_s = ((scene.end or scene.time) - scene.time).total_seconds()
    return any(whole_s > _UNEVEN * asset.step_s * (asset.steps - 1) for asset in scene.assets if asset.steps > 1)


def _may_overlap(one: Scene, other: Scene) -> bool:
    """Whether two scenes may share points; boxes across the antimeridian count as overlapping in longitude."""
    west, south, east, north = one.bbox
    left, bottom, right, top = other.bbox
    wraps = west > east or left > right
    return (wraps or (west < right and left < east)) and south < top and bottom < north
