"""A map of the steps across borders of chips and shards: one PNG for each zone, one square for each square of cells."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedcube.consolidate.seams import SEAM_BOUND, Steps
from embedcube.cube.reader import Cube

_SIDE_PX = 1200
"""pixels along the longer side of a map, at most"""

_LARGEST_PX = 24
"""pixels along one side of a square, at most"""

_NOTHING = (200, 200, 200)
"""colour where nothing was measured"""


def draw_seams(cube: Cube, layer: str, steps: Steps, folder: Path) -> None:
    """Write seams_<layer>_<zone>.png: white where steps across borders are as those beside them, red where larger.

    Full red is twice the bound, full blue as far below.
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
        thinned = -(-max(effects.shape) // _SIDE_PX)
        effects = effects[::thinned, ::thinned]
        factor = max(1, min(_LARGEST_PX, _SIDE_PX // max(effects.shape)))
        picture = np.repeat(np.repeat(_colours(effects), factor, axis=0), factor, axis=1)
        Image.fromarray(picture).save(folder / f"seams_{zone.replace('/', '_')}.png")


def _colours(effects: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours (y, x, 3) of effects (y, x): blue, white, red; grey for NaN."""
    strength = np.clip(np.nan_to_num(effects) / (2 * SEAM_BOUND), -1, 1)
    fade = 255 * (1 - np.abs(strength))
    red, blue = (np.where(sign * strength >= 0, 255, fade) for sign in (1, -1))
    rgb = np.stack([red, fade, blue], axis=-1).astype(np.uint8)
    rgb[np.isnan(effects)] = _NOTHING
    return np.asarray(rgb)
