"""Pictures of a cube: for each layer, zone and window a PNG to look at and a GeoTIFF, and one sheet of all windows.

<layer>_<zone>_<start>.png     map with title, scale bar and legend
<layer>_<zone>_<start>.tif     the colours of all cells, georeferenced (COG; 0 is no vector)
<layer>_<zone>_windows.png     small maps of the windows, where there are several
"""

import logging
import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.basis import Basis, fit_basis
from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.picture import MAP_SIDE, Caption, Panel, draw_map, draw_sheet, sheet_side, thinning
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import is_geographic, to_degrees, unit_of

log = logging.getLogger(__name__)

_TILE_NUMBERS = 1 << 23
"""number of stored numbers that are read at once"""

_LEAST_FEATURES = 16
"""a cell counts as at least this many numbers, because its colours and status take memory too"""

_SHEET_WINDOWS = 100
"""number of maps on a sheet, at most"""


def preview(path: Path, folder: Path) -> list[Path]:
    """Draw every layer, zone and window into `folder`; returns the files."""
    cube = Cube(path)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for layer in cube.layers:
        basis = fit_basis(cube, layer)
        if basis is None:
            log.warning("%s: layer %s has no vectors to draw", path, layer)
            continue
        for zone in cube.zones_of(layer):
            files += _draw_zone(cube, zone, basis, folder)
    if not files:
        raise RequestError(f"{path}: no layer has vectors to draw")
    return files


def _draw_zone(cube: Cube, zone: str, basis: Basis, folder: Path) -> list[Path]:
    windows, caption = cube.windows(zone), _caption(cube, zone, basis)
    shown = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _SHEET_WINDOWS)).astype(int)).tolist()
    stem = zone.replace("/", "_")
    files, small = [], []
    depth, cells = cube.array(zone, "embedding").chunks[0], cube.array(zone, "status").shape[1:]
    step = thinning(cells, MAP_SIDE)
    for first in range(0, len(windows), depth):
        block = range(first, min(first + depth, len(windows)))
        tifs = [folder / f"{stem}_{windows[t].start:%Y%m%dT%H%M}.tif" for t in block]
        panels = _draw_block(cube, zone, basis, block, tifs)
        for t, tif, panel in zip(block, tifs, panels, strict=True):
            png = tif.with_suffix(".png")
            draw_map(panel, caption, step).save(png)
            files += [png, tif]
            if t in shown:
                small.append(panel.thinned(sheet_side(len(shown))))
    if len(windows) > 1:
        sheet = folder / f"{stem}_windows.png"
        of_all = f"{len(shown)} of {len(windows)} windows, evenly chosen"
        note = of_all if len(shown) < len(windows) else f"{len(windows)} windows"
        thinned = step * thinning(panels[0].status.shape, sheet_side(len(shown)))
        draw_sheet(small, caption, thinned, note).save(sheet)
        files.append(sheet)
    return files


def _draw_block(cube: Cube, zone: str, basis: Basis, block: range, tifs: list[Path]) -> list[Panel]:
    """Write the GeoTIFFs of the windows that share chunks, and return their panels; one tile is held at a time."""
    status, windows = cube.array(zone, "status"), cube.windows(zone)
    thinned = _Thinned(len(block), status.shape[1:])
    with _geotiffs(cube, zone, tifs) as outputs:
        for y, x in _tiles(cube, zone):
            tile = status[block.start : block.stop, y, x]
            colours = _colours(cube, zone, basis, (slice(block.start, block.stop), y, x), tile)
            for i, output in enumerate(outputs):
                output.write(np.moveaxis(colours[i], -1, 0), window=((y.start, y.stop), (x.start, x.stop)))
            thinned.add(colours, tile, y, x)
    return thinned.panels([windows[t].days for t in block])


@contextmanager
def _geotiffs(cube: Cube, zone: str, tifs: list[Path]) -> Iterator[list[Any]]:
    """Give a raster of a zone to write to for each file; at the end they become COGs. Nothing stays after an error."""
    import rasterio
    from affine import Affine
    from rasterio.shutil import copy

    attributes = cube.group(zone).attrs
    _, rows, columns = cube.array(zone, "status").shape
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": columns, "height": rows, "count": 3, "dtype": "uint8", "nodata": 0,
        "crs": attributes["proj:wkt2"], "transform": Affine(*attributes["spatial:transform"]), "photometric": "RGB",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=tifs[0].parent, prefix=".tmp-") as scratch:
        raw = [Path(scratch) / tif.name for tif in tifs]
        with ExitStack() as stack:
            yield [stack.enter_context(rasterio.open(file, "w", **profile)) for file in raw]
        for file, tif in zip(raw, tifs, strict=True):
            # nearest: a mixture of two colours stands for no vector
            copy(file, tif, driver="COG", compress="deflate", level=1, predictor="yes", overview_resampling="nearest")
            file.unlink()


class _Thinned:
    """Colours and status of every n-th row and column of some windows, and counts of the status of all cells."""

    def __init__(self, windows: int, cells: tuple[int, int]) -> None:
        """Make room for `windows` windows of `cells` (rows, columns), none of which is known yet."""
        self._step = thinning(cells, MAP_SIDE)
        shape = (windows, *(-(-side // self._step) for side in cells))
        self._rgb, self._status = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
        self._counts = np.zeros((windows, len(STATUS_MEANINGS)), np.int64)

    def add(self, colours: NDArray[np.uint8], status: NDArray[np.uint8], y: slice, x: slice) -> None:
        """Take over a tile of all windows: colours (window, y, x, 3) and status (window, y, x)."""
        step = self._step
        from_y, from_x = -y.start % step, -x.start % step
        part = (slice(-(-y.start // step), -(-y.stop // step)), slice(-(-x.start // step), -(-x.stop // step)))
        self._rgb[:, *part] = colours[:, from_y::step, from_x::step]
        self._status[:, *part] = status[:, from_y::step, from_x::step]
        for counts, tile in zip(self._counts, status, strict=True):
            counts += np.bincount(tile.ravel(), minlength=len(STATUS_MEANINGS))

    def panels(self, labels: list[str]) -> list[Panel]:
        """One panel for each window, with its label."""
        shares = self._counts / self._counts.sum(axis=1, keepdims=True)
        return [
            Panel(rgb=rgb, status=status, label=label, shares=dict(enumerate(own.tolist())))
            for rgb, status, label, own in zip(self._rgb, self._status, labels, shares, strict=True)
        ]


def _tiles(cube: Cube, zone: str) -> Iterator[tuple[slice, slice]]:
    """Rectangles (y, x) of whole chunks, or of whole objects where these are small, that cover a zone."""
    array = cube.array(zone, "embedding")
    _, rows, columns, features = array.shape
    features = max(features, _LEAST_FEATURES)
    fits = math.prod(array.shards) <= _TILE_NUMBERS
    depth, height, width = (array.shards if fits else array.chunks)[:3]
    across = max(1, _TILE_NUMBERS // (depth * height * width * features)) * width
    if across >= columns:
        height *= max(1, _TILE_NUMBERS // (depth * height * columns * features))
    for y in range(0, rows, height):
        for x in range(0, columns, across):
            yield slice(y, min(y + height, rows)), slice(x, min(x + across, columns))


def _colours(
    cube: Cube, zone: str, basis: Basis, region: tuple[slice, slice, slice], status: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    valid = (status == VALID) | (status == VALID_INCOMPLETE)
    if not valid.any():
        return np.zeros((*status.shape, 3), np.uint8)
    scale = cube.array(zone, "scale")[region] if cube.has_scale(zone) else None
    return basis.colours(cube.array(zone, "embedding")[region], scale, valid)


def _caption(cube: Cube, zone: str, basis: Basis) -> Caption:
    from pyproj import CRS

    attributes = cube.group(zone).attrs
    layer, name = zone.split("/")
    crs = attributes["proj:wkt2"]
    unit, side = unit_of(crs), attributes["spatial:transform"][0]
    xmin, ymin, xmax, ymax = attributes["spatial:bbox"]
    names = dict.fromkeys((attributes.get("proj:code", ""), CRS.from_wkt(crs).name))
    latitude, metres = _ground((xmin + xmax) / 2, (ymin + ymax) / 2, side, crs)
    variance = ", ".join(f"{share:.0%}" for share in basis.variance)
    west, east, south, north = (f"{edge:,.0f}" if unit == "m" else f"{edge:g}" for edge in (xmin, xmax, ymin, ymax))
    return Caption(
        title=f"{cube.campaign}, layer {layer}, zone {name}",
        lines=(
            f"model {cube.model(zone)}, {cube.array(zone, 'embedding').shape[-1]} features, cube {cube.version}",
            f"{' '.join(filter(None, names))}, cells of {side:g} {unit}, x {west} to {east}, y {south} to {north}",
        ),
        colours=(
            "Colours: principal components 1, 2 and 3 of the vectors as red, green and blue "
            f"({variance} of the variance). One basis for all windows and zones of the layer: equal vectors have "
            "equal colours."
        ),
        cell=metres or side,
        unit="m" if metres else unit,
        where=f"at {abs(latitude):.1f}° {'N' if latitude >= 0 else 'S'}" if metres and is_geographic(crs) else "",
    )


def _ground(x: float, y: float, side: float, crs: str) -> tuple[float, float | None]:
    """Latitude of a place, and metres on the ground of `side` along x there; None where the CRS gives none."""
    from pyproj import Geod

    lon, lat = to_degrees(crs).transform([x - side / 2, x + side / 2], [y, y])
    if not np.isfinite([*lon, *lat]).all():
        return 0.0, None
    metres = abs(Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])[2])
    return float(np.mean(lat)), metres or None
