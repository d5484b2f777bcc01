"""A map of the steps across borders of chips and shards: one PNG for each zone, one square for each square of cells."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedcube.consolidate.seams import SEAM_BOUND, Steps
from embedcube.cube.picture import draw_figure
from embedcube.cube.reader import Cube
from embedcube.grid import unit_of

_SIDE_PX = 1200
"""pixels along the longer side of a map, at most"""

_LARGEST_PX = 24
"""pixels along one side of a square, at most"""

_NOTHING = (200, 200, 200)
"""colour where nothing was measured"""


def draw_seams(cube: Cube, layer: str, steps: Steps, folder: Path) -> None:
    """Write seams_<layer>_<zone>.png, with title and legend: white where steps across borders are as those beside them.

    Full red is an effect of twice the bound, full blue as far below 0.
    """
    spread = steps.inside[1]
    for zone in cube.zones_of(layer):
        lines = {(row, col): found for (name, row, col), found in steps.by_place.items() if name == zone}
        if not lines or not spread:
            continue
        rows, cols = np.array(list(lines)).T
        effects = np.full((rows.max() - rows.min() + 1, cols.max() - cols.min() + 1), np.nan)
        for (row, col), found in lines.items():
            means, counts = np.array(found).T
            effects[row - rows.min(), col - cols.min()] = np.average(means, weights=counts) / spread
        step = -(-max(effects.shape) // _SIDE_PX)
        effects = effects[::step, ::step]
        factor = max(1, min(_LARGEST_PX, _SIDE_PX // max(effects.shape)))
        picture = np.repeat(np.repeat(_colours(effects), factor, axis=0), factor, axis=1)
        page = draw_figure(picture, f"{cube.campaign}: seams in {zone}", _lines(cube, zone, steps, step), _legend())
        page.save(folder / f"seams_{zone.replace('/', '_')}.png")


def _lines(cube: Cube, zone: str, steps: Steps, step: int) -> tuple[str, ...]:
    """What a map shows, in words."""
    attributes, cells = cube.group(zone).attrs, steps.sampling.step
    side, unit = cells * attributes["spatial:transform"][0], unit_of(attributes["proj:wkt2"])
    lines = [
        "The mean step of vectors across borders of chips, less the steps beside them, over the spread of steps inside "
        "(effect size). All windows together.",
        f"A square stands for {cells} x {cells} cells ({side:g} x {side:g} {unit}); north is up.",
    ]
    if step > 1:
        lines.append(f"One of {step} x {step} squares is shown.")
    return tuple(lines)


def _legend() -> list[tuple[NDArray[np.uint8], str]]:
    shown = {
        f"{-2 * SEAM_BOUND:g} or less": -2 * SEAM_BOUND,
        "0: no seam": 0.0,
        f"{SEAM_BOUND:g}": SEAM_BOUND,
        f"{2 * SEAM_BOUND:g} or more": 2 * SEAM_BOUND,
        "nothing measured": np.nan,
    }
    return list(zip(_colours(np.array([[*shown.values()]]))[0], shown, strict=True))


def _colours(effects: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours (y, x, 3) of effects (y, x): blue, white, red; grey for NaN."""
    strength = np.clip(np.nan_to_num(effects) / (2 * SEAM_BOUND), -1, 1)
    fade = 255 * (1 - np.abs(strength))
    red, blue = (np.where(sign * strength >= 0, 255, fade) for sign in (1, -1))
    rgb = np.stack([red, fade, blue], axis=-1).astype(np.uint8)
    rgb[np.isnan(effects)] = _NOTHING
    return np.asarray(rgb)
