"""Files of `diff`: a table of shards, or a map of cells for each zone and window, by the suffix of the name."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.run_folder import replacing
from embedcube.cube.picture import draw_figure
from embedcube.errors import RequestError
from embedcube.uses.diff import CHANGED, EQUAL, GAINED, LOST, Diff, ShardDiff

if TYPE_CHECKING:
    import geopandas

MAP = ".png"

_SIDE_PX = 1000
"""pixels along the longer side of a map, at most"""

_PAPER, _EQUAL, _LOST, _GAINED = (255, 255, 255), (215, 215, 215), (40, 40, 40), (35, 110, 200)

_STEPS = ((0.001, (255, 237, 160)), (0.01, (254, 178, 76)), (0.1, (240, 59, 32)), (np.inf, (128, 0, 38)))
"""colours of cells that changed: up to which distance (1 - cosine)"""


def write_diff(found: Diff, path: Path) -> list[Path]:
    """Write a table of the shards that differ, or maps of their cells; returns the files.

    Of several zones and windows each gets a map: diff-s2-utm32-t0.png.

    Raises:
        RequestError: the suffix is unknown.
    """
    from embedcube.uses.tables import write_table

    if path.suffix != MAP:
        write_table(_table(found), path)
        return [path]
    by_window: dict[tuple[str, str, int], list[ShardDiff]] = defaultdict(list)
    for one in found.shards:
        by_window[one.at.layer, one.at.zone, one.at.t].append(one)
    files = []
    for (layer, zone, t), shards in by_window.items():
        file = path if len(by_window) == 1 else path.with_stem(f"{path.stem}-{layer}-{zone}-t{t}")
        picture, step = _picture(shards)
        lines = (
            f"window {shards[0].at.window}: shards that differ; north is up"
            + (f"; one of {step} x {step} cells is shown" if step > 1 else ""),
            f"first {found.first}",
            f"second {found.second}",
        )
        page = draw_figure(picture, f"What differs in {layer}/{zone}", lines, _legend())
        with replacing(file) as temporary:
            page.save(temporary, format="PNG")
        files.append(file)
    return files


def check_suffix(path: Path | None) -> None:
    """Refuse a file that nothing can be written to, before anything is computed."""
    from embedcube.uses.tables import SUFFIXES

    if path is not None and path.suffix not in (*SUFFIXES, MAP):
        raise RequestError(f"{path}: write a table as {', '.join(SUFFIXES)} or a map as {MAP}; give it such a name")


def _table(found: Diff) -> "geopandas.GeoDataFrame":
    import geopandas

    from embedcube.uses.lineage import square

    rows = [one.facts() for one in found.shards]
    names = list(rows[0]) if rows else ["shard", "layer", "zone", "kind", "reason"]
    columns = {name: [row[name] for row in rows] for name in names}
    geometry = [square(one.at.bounds, one.at.crs) for one in found.shards]
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")


def _picture(shards: list[ShardDiff]) -> tuple[NDArray[np.uint8], int]:
    """Colours (y, x, 3) around shards of one zone and window, and how many cells along a side are one square."""
    rows, cols = ([getattr(one.at, name) for one in shards] for name in ("iy", "ix"))
    top, left = min(rows), min(cols)
    side = max((one.fate.shape[0] for one in shards if one.fate is not None), default=1)
    shape = ((max(rows) - top + 1) * side, (max(cols) - left + 1) * side)
    step = -(-max(shape) // _SIDE_PX)
    small = tuple(-(-length // step) for length in shape)
    rgb = np.full((*small, 3), _PAPER, np.uint8)
    for one in shards:
        colours = _colours(one, side)[::step, ::step]
        y, x = ((one.at.iy - top) * side // step, (one.at.ix - left) * side // step)
        part = rgb[y : y + colours.shape[0], x : x + colours.shape[1]]
        part[...] = colours[: part.shape[0], : part.shape[1]]
    factor = max(1, _SIDE_PX // max(small))
    return np.repeat(np.repeat(rgb, factor, axis=0), factor, axis=1), step


def _colours(one: ShardDiff, side: int) -> NDArray[np.uint8]:
    """Colours (y, x, 3) of the cells of a shard; of cells that cannot be compared, those of the largest distance."""
    rgb = np.full((side, side, 3), _PAPER, np.uint8)
    if one.fate is None:
        rgb[...] = _STEPS[-1][1]
        return rgb
    for code, colour in ((EQUAL, _EQUAL), (LOST, _LOST), (GAINED, _GAINED), (CHANGED, _STEPS[-1][1])):
        rgb[one.fate == code] = colour
    if one.distance is not None:
        for most, colour in reversed(_STEPS):
            rgb[one.distance <= most] = colour
    return rgb


def _legend() -> list[tuple[NDArray[np.uint8], str]]:
    steps = [(colour, f"1 - cosine up to {most:g}") for most, colour in _STEPS[:-1]]
    shown = [
        (_EQUAL, "equal"), *steps, (_STEPS[-1][1], "more, or other dimensions"), (_LOST, "a vector only in the first"),
        (_GAINED, "a vector only in the second"),
    ]  # fmt: skip
    return [(np.array(colour, np.uint8), words) for colour, words in shown]
