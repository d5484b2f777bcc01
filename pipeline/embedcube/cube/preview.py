"""Pictures of a cube: for each layer, zone and window a PNG to look at and a GeoTIFF, and one sheet of all windows.

<layer>_<zone>_<start>.png     map with title, scale bar and legend
<layer>_<zone>_<start>.tif     the colours of all cells, georeferenced (COG; 0 is no vector)
<layer>_<zone>_windows.png     small maps of the windows, where there are several

They show the cells of shards, not those beside them, and are drawn from the preview store (`preview_store.py`).
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.cube.listed import NO_MAP
from embedcube.cube.picture import MAP_SIDE, Caption, Panel, draw_map, draw_sheet, sheet_side, thinning
from embedcube.cube.preview_store import preview_store_of, write_preview_store
from embedcube.cube.rasters import new_raster, write_cog, write_picture
from embedcube.cube.reader import Cube
from embedcube.grid import is_geographic, to_degrees, unit_of

log = logging.getLogger(__name__)

_SHEET_WINDOWS = 100
"""number of maps on a sheet, at most"""


def preview(path: Path, folder: Path, store: Path | None = None) -> list[Path]:
    """Draw every layer, zone and window into `folder`; returns the files.

    They are drawn from the preview store, which is written first: to `store`, by default in `folder` too.
    """
    cube = Cube(path)
    folder.mkdir(parents=True, exist_ok=True)
    store = store or folder / preview_store_of(cube.path).name
    write_preview_store(cube, store)
    drawn: Any = zarr.open_group(store, mode="r", zarr_format=3)
    files = []
    for layer in cube.layers:
        if layer not in drawn:
            what = "has no vectors to draw" if layer in cube.maps else f"is not drawn: it {NO_MAP}"
            log.warning("%s: layer %s %s", cube.address, layer, what)
            continue
        for zone in cube.zones_of(layer):
            files += _draw_zone(cube, zone, drawn[zone], folder)
    return files


def _draw_zone(cube: Cube, zone: str, drawn: Any, folder: Path) -> list[Path]:
    windows, caption = cube.windows(zone), _caption(cube, zone, drawn.attrs["embedcube:variance"])
    shown = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _SHEET_WINDOWS)).astype(int)).tolist()
    stem = zone.replace("/", "_")
    files, small = [], []
    step = thinning(_size(cube.cells_of_shards(zone)), MAP_SIDE)
    for t, window in enumerate(windows):
        png = folder / f"{stem}_{window.start:%Y%m%dT%H%M}.png"
        panel = _draw_window(cube, zone, drawn["0"], t, png.with_suffix(".tif"))
        write_picture(draw_map(panel, caption, step), png)
        files += [png, png.with_suffix(".tif")]
        if t in shown:
            small.append(panel.thinned(sheet_side(len(shown))))
    if len(windows) > 1:
        sheet = folder / f"{stem}_windows.png"
        of_all = f"{len(shown)} of {len(windows)} windows, evenly chosen"
        note = of_all if len(shown) < len(windows) else f"{len(windows)} windows"
        thinned = step * thinning(panel.status.shape, sheet_side(len(shown)))
        write_picture(draw_sheet(small, caption, thinned, note), sheet)
        files.append(sheet)
    return files


def _draw_window(cube: Cube, zone: str, level: Any, t: int, tif: Path) -> Panel:
    """Write the GeoTIFF of a window, and return its panel; one chunk of the store is held at a time."""
    rows, columns = cube.cells_of_shards(zone)
    height, width = level["status"].chunks[1:]
    thinned = _Thinned(_size((rows, columns)))
    with _geotiff(cube, zone, tif) as output:
        for y in _tiles(rows, height):
            for x in _tiles(columns, width):
                rgb = level["rgb"][t, :, y, x]
                to_y, to_x = _moved(y, -rows.start), _moved(x, -columns.start)
                output.write(rgb, window=((to_y.start, to_y.stop), (to_x.start, to_x.stop)))
                thinned.add(np.moveaxis(rgb, 0, -1), level["status"][t, y, x], to_y, to_x)
    return thinned.panel(cube.windows(zone)[t].days)


def _size(cells: tuple[slice, slice]) -> tuple[int, int]:
    """Numbers of rows and columns."""
    rows, columns = (along.stop - along.start for along in cells)
    return rows, columns


def _tiles(along: slice, side: int) -> Iterator[slice]:
    """What chunks of `side` rows, or columns, have of some of them."""
    for first in range(along.start // side * side, along.stop, side):
        yield slice(max(first, along.start), min(first + side, along.stop))


def _moved(along: slice, by: int) -> slice:
    return slice(along.start + by, along.stop + by)


def _bounds(cube: Cube, zone: str) -> tuple[float, float, float, float]:
    """West, south, east and north of the cells of all shards."""
    a, _, left, _, e, top = cube.group(zone).attrs["spatial:transform"]
    rows, columns = cube.cells_of_shards(zone)
    return left + columns.start * a, top + rows.stop * e, left + columns.stop * a, top + rows.start * e


@contextmanager
def _geotiff(cube: Cube, zone: str, tif: Path) -> Iterator[Any]:
    """Give a raster of a zone to write to; at the end it becomes a COG. Nothing stays after an error."""
    from affine import Affine

    a, b, _, d, e, _ = cube.group(zone).attrs["spatial:transform"]
    rows, columns = _size(cube.cells_of_shards(zone))
    west, _, _, north = _bounds(cube, zone)
    profile: dict[str, Any] = {
        "width": columns, "height": rows, "count": 3, "dtype": "uint8", "nodata": 0,
        "crs": cube.group(zone).attrs["proj:wkt2"], "transform": Affine(a, b, west, d, e, north), "photometric": "RGB",
        "tiled": True, "interleave": "pixel",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=tif.parent, prefix=".tmp-") as scratch:
        raw, cog = Path(scratch) / "raw.tif", Path(scratch) / tif.name
        with new_raster(raw, tif, profile) as output:
            yield output
        # nearest: a mixture of two colours stands for no vector
        options = {"compress": "deflate", "level": 1, "predictor": "yes", "overview_resampling": "nearest"}
        write_cog(raw, cog, tif, options)
        cog.replace(tif)


class _Thinned:
    """Colours and status of every n-th row and column of a window, and counts of the status of all cells."""

    def __init__(self, cells: tuple[int, int]) -> None:
        """Make room for a window of `cells` (rows, columns), none of which is known yet."""
        self._step = thinning(cells, MAP_SIDE)
        rows, columns = (-(-side // self._step) for side in cells)
        self._rgb, self._status = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns), np.uint8)
        self._counts = np.zeros(len(STATUS_MEANINGS), np.int64)

    def add(self, colours: NDArray[np.uint8], status: NDArray[np.uint8], y: slice, x: slice) -> None:
        """Take over a tile: colours (y, x, 3) and status (y, x)."""
        step = self._step
        from_y, from_x = -y.start % step, -x.start % step
        part = (slice(-(-y.start // step), -(-y.stop // step)), slice(-(-x.start // step), -(-x.stop // step)))
        self._rgb[part] = colours[from_y::step, from_x::step]
        self._status[part] = status[from_y::step, from_x::step]
        self._counts += np.bincount(status.ravel(), minlength=len(STATUS_MEANINGS))

    def panel(self, label: str) -> Panel:
        """The panel of the window, with its label."""
        shares = self._counts / self._counts.sum()
        return Panel(rgb=self._rgb, status=self._status, label=label, shares=dict(enumerate(shares.tolist())))


def _caption(cube: Cube, zone: str, variance_shares: list[float]) -> Caption:
    from pyproj import CRS

    attributes = cube.group(zone).attrs
    layer, name = zone.split("/")
    crs = attributes["proj:wkt2"]
    unit, side = unit_of(crs), attributes["spatial:transform"][0]
    xmin, ymin, xmax, ymax = _bounds(cube, zone)
    names = dict.fromkeys((attributes.get("proj:code", ""), CRS.from_wkt(crs).name))
    latitude, metres = _ground((xmin + xmax) / 2, (ymin + ymax) / 2, side, crs)
    variance = ", ".join(f"{share:.0%}" for share in variance_shares)
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
