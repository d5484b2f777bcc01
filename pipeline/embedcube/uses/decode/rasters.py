"""Rasters of labels -> labelled cells: the pixels on each cell become one class, one number, or shares of classes.

The pixels are brought onto the cells by GDAL: by the centre of the cell (nearest), by area (mean, and shares), or by
the class with most area (majority). A cell of which less than half is labelled has no label.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from embedcube.campaign.readable import readable
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import same_crs
from embedcube.sources.catalog.dates import time_in
from embedcube.uses.decode.examples import Cells, joined
from embedcube.uses.decode.heads import MOST_CLASSES
from embedcube.uses.decode.request import Labels, Request

_LEAST_LABELLED = 0.5
"""share of a cell that must be labelled"""

_TILE = 256
"""cells along a side of the squares that are aligned at once"""


def labels_of_rasters(cube: Cube, layer: str, paths: Sequence[Path], request: Request) -> Labels:
    """Labelled cells of one or several rasters; the date in the name of a file, or of its folder, says its windows."""
    _check(request)
    classes = dict(request.classes) or ({} if request.task == "regression" else _values(paths, request))
    zones = cube.zones_of(layer)
    found: list[tuple[Cells, NDArray[np.float64]]] = []
    outside = 0
    for path in paths:
        with opened(path, request.crs) as source:
            before = len(found)
            for number, zone in enumerate(zones):
                windows = windows_of_raster(cube, zone, path, request)
                for y, x, target in _aligned(cube, zone, source, request, classes) if windows else ():
                    for t in windows:
                        cells = Cells(zones=zones, zone=np.full(len(y), number), t=np.full(len(y), t), y=y, x=x)
                        found.append((cells, target))
            outside += len(found) == before
    nothing = np.empty(0, np.int64)
    cells = joined([Cells(zones=zones, zone=nothing, t=nothing, y=nothing, x=nothing), *(one for one, _ in found)])
    targets = [target for _, target in found]
    target = np.concatenate(targets) if targets else np.empty(0)
    # the cells of one place, in all windows, are one part
    part = np.unique(np.stack([cells.zone, cells.y, cells.x], axis=1), axis=0, return_inverse=True)[1].ravel()
    return Labels(
        cells=cells, target=target, classes=tuple(classes), part=part.astype(np.int64), group=None, outside=outside
    )


def _check(request: Request) -> None:
    if request.task == "regression" and request.classes and not request.share:
        raise RequestError("--task regression has no --classes; --share 8+9 makes the label a share of pixels")
    if request.share and request.task != "regression":
        raise RequestError(f"--share is a number: write --task regression, not {request.task}")
    if request.groups or request.date or request.column:
        raise RequestError("--column, --groups and --date are columns of a table; these labels are rasters")
    fitting = {"regression": ("mean", "nearest"), "classification": ("majority", "nearest"), "dense": ()}[request.task]
    if request.align and request.align not in fitting:
        raise RequestError(
            f"--align {request.align} does not fit --task {request.task}; "
            + (f"write {' or '.join(fitting)}" if fitting else "leave it out: the label is the share of each class")
        )


class opened:
    """A raster, opened by content, with its CRS checked against what is said."""

    def __init__(self, path: Path, crs: str | None) -> None:
        self._path, self._crs = path, crs

    def __enter__(self) -> Any:
        from rasterio.errors import RasterioError

        from embedcube.sources.opening import open_raster

        try:
            self._file = open_raster(readable(self._path), "")
        except (RasterioError, OSError) as error:
            raise RequestError(f"{self._path}: cannot be read as a raster: {str(error)[:200]}") from None
        stated = self._file.crs
        if stated is None and self._crs is None:
            raise RequestError(f"{self._path.name} says no CRS; say it with --crs EPSG:n")
        if stated is not None and self._crs is not None and not same_crs(stated.to_wkt(), self._crs):
            raise RequestError(
                f"{self._path.name} says that its CRS is {stated.to_string()[:40]}, the request says {self._crs}; "
                f"leave --crs out"
            )
        self.crs = stated.to_wkt() if stated is not None else self._crs
        self.file = self._file
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def windows_of_raster(cube: Cube, zone: str, path: Path, request: Request) -> list[int]:
    """Windows that a raster's labels hold for."""
    moment = time_in(path.stem) or time_in(path.parent.name)
    if moment is None:
        return cube.windows_of(zone, request.time)
    asked = set(cube.windows_of(zone, request.time))
    try:
        return [t for t in cube.windows_of(zone, f"{moment:%Y-%m-%d}") if t in asked]
    except RequestError:
        return []


def _values(paths: Sequence[Path], request: Request) -> dict[str, tuple[int, ...]]:
    """Every value of the rasters as a class of its own."""
    values: set[int] = set()
    for path in paths:
        with opened(path, request.crs) as source:
            if np.dtype(source.file.dtypes[0]).kind not in "iu":
                raise RequestError(f"{path.name} holds {source.file.dtypes[0]}, which are no classes; "
                                   "write --task regression")  # fmt: skip
            for _, window in source.file.block_windows(1):
                block = source.file.read(1, window=window, masked=True)
                values |= set(np.unique(block.compressed()).tolist())
                if len(values) > MOST_CLASSES:
                    raise RequestError(f"{path.name} has more than {MOST_CLASSES} values; name some with --classes")
    return {str(value): (value,) for value in sorted(values)}


def _aligned(
    cube: Cube, zone: str, source: Any, request: Request, classes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Rows, columns and targets of the labelled cells of a zone, square by square."""
    attributes = cube.group(zone).attrs
    rows, columns = attributes["spatial:shape"]
    transform, wkt = Affine(*attributes["spatial:transform"][:6]), attributes["proj:wkt2"]
    for top in range(0, rows, _TILE):
        for left in range(0, columns, _TILE):
            shape = (min(_TILE, rows - top), min(_TILE, columns - left))
            place = transform @ Affine.translation(left, top)
            read = _read_around(source, place, shape, wkt)
            if read is None:
                continue
            labelled, target = _on_cells(read, place, shape, wkt, request, classes)
            y, x = np.nonzero(labelled)
            if len(y):
                yield y + top, x + left, target[..., y, x].T


def _read_around(
    source: Any, place: Affine, shape: tuple[int, int], wkt: str
) -> tuple[NDArray[Any], NDArray[np.bool_], Affine, str] | None:
    """The pixels around some cells: values, where they are labelled, transform and CRS; None where there are none."""
    from rasterio.warp import transform_bounds
    from rasterio.windows import Window, from_bounds

    west, north = place @ (0, 0)
    east, south = place @ (shape[1], shape[0])
    bounds = transform_bounds(wkt, source.crs, west, south, east, north, densify_pts=21)
    if not np.isfinite(bounds).all():
        return None
    file = source.file
    window = from_bounds(*bounds, file.transform)
    first_row, first_column = int(window.row_off) - 2, int(window.col_off) - 2
    last_row, last_column = (
        int(window.row_off + window.height) + 3, int(window.col_off + window.width) + 3
    )  # fmt: skip
    first_row, first_column = max(first_row, 0), max(first_column, 0)
    height, width = min(last_row, file.height) - first_row, min(last_column, file.width) - first_column
    if height <= 0 or width <= 0:
        return None
    window = Window(first_column, first_row, width, height)
    values = file.read(1, window=window, masked=True)
    labelled = ~np.ma.getmaskarray(values) & np.isfinite(values.data)
    return values.data, labelled, file.window_transform(window), source.crs


def _on_cells(
    read: tuple[NDArray[Any], NDArray[np.bool_], Affine, str],
    place: Affine, shape: tuple[int, int], wkt: str,
    request: Request, classes: dict[str, tuple[int, ...]],
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:  # fmt: skip
    """Which cells (y, x) have a label, and the label (y, x), dense: (class, y, x)."""
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    values, labelled, transform, crs = read

    def onto(pixels: NDArray[np.float32], method: Resampling) -> NDArray[np.float64]:
        # the sums of GDAL are in float64, its results as the target is; NaN is left out of them
        cells = np.full((*pixels.shape[:-2], *shape), np.nan, np.float64)
        reproject(
            pixels.astype(np.float64), cells, src_transform=transform, src_crs=crs, dst_transform=place, dst_crs=wkt,
            src_nodata=np.nan, dst_nodata=np.nan, resampling=method,
        )  # fmt: skip
        return cells

    if request.share:
        values = np.isin(values, request.share).astype(np.float32)
    if classes:
        labelled = labelled & np.isin(values, [value for own in classes.values() for value in own])
    covered = np.nan_to_num(onto(labelled.astype(np.float32), Resampling.average)) >= _LEAST_LABELLED
    if request.align == "nearest":
        method, pixels = Resampling.nearest, values.astype(np.float32)
        if classes:
            pixels = np.zeros(values.shape, np.float32)
            for number, own in enumerate(classes.values()):
                pixels[np.isin(values, own)] = number
        target = onto(np.where(labelled, pixels, np.nan), method)
    elif not classes:
        target = onto(np.where(labelled, values, np.nan), Resampling.average)
    else:
        shares = np.stack([np.where(labelled, np.isin(values, own), np.nan) for own in classes.values()])
        target = np.nan_to_num(onto(shares, Resampling.average))
        if request.task == "classification":
            # of equal shares the first class, whatever the last bit of GDAL's sums
            target = target.round(9).argmax(axis=0).astype(np.float64)
    there = covered & np.isfinite(target if target.ndim == 2 else target.sum(axis=0))
    return there, target
