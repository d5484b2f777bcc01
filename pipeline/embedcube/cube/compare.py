"""Pictures of several layers, or of cubes of several backbones, side by side: one sheet for each window.

Colours are principal components of each layer by itself: shapes may be compared, colours may not.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from embedcube.cube.preview import preview
from embedcube.cube.rasters import write_picture
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

_GAP = 12
_SIDE = 900
"""pixels of the longer side of a picture on a sheet"""


def compare(cubes: Sequence[Path], folder: Path) -> list[Path]:
    """Draw every layer of some cubes, and a sheet for each start of a window that several layers have.

    Returns the sheets, "compared_<start>.png". Names of layers and models are in the titles of the pictures.

    Raises:
        RequestError: no two layers have a window that starts at the same time.
    """
    pictures: dict[str, list[tuple[str, Path]]] = {}
    for cube in cubes:
        drawn = preview(cube, folder / cube.resolve().stem)
        opened = Cube(cube)
        for layer in opened.layers:
            for zone in opened.zones_of(layer):
                stem = zone.replace("/", "_")
                for window in opened.windows(zone):
                    start = f"{window.start:%Y%m%dT%H%M}"
                    own = [(f"{cube}/{layer}", path) for path in drawn if path.name == f"{stem}_{start}.png"]
                    pictures.setdefault(start, []).extend(own)
    sheets = []
    for start, own in sorted(pictures.items()):
        # zones of one layer are no comparison
        if len({layer for layer, _ in own}) > 1:
            sheets.append(folder / f"compared_{start}.png")
            write_picture(_side_by_side([path for _, path in own]), sheets[-1])
    if not sheets:
        raise RequestError("no two layers have a window that starts at the same time; there is nothing to compare")
    return sheets


def _side_by_side(paths: Sequence[Path]) -> Image.Image:
    """One picture of several, in a row, none larger than it was."""
    opened = []
    for path in paths:
        with Image.open(path) as image:
            one = image.convert("RGB")
        one.thumbnail((_SIDE, _SIDE))
        opened.append(one)
    width = sum(one.width for one in opened) + _GAP * (len(opened) - 1)
    sheet = Image.new("RGB", (width, max(one.height for one in opened)), "white")
    left = 0
    for one in opened:
        sheet.paste(one, (left, 0))
        left += one.width + _GAP
    return sheet
