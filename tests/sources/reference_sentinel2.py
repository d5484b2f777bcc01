"""A second implementation of what a cube of Sentinel-2 scenes must hold, with rasterio and NumPy, without embedcube.

Whole rasters are put on one canvas, the pixels of the cube; loops over shards and cells do the rest. It is slow and
plain on purpose, and follows the promises of the design and the READMEs of the archives, not the code under test.
"""

import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

NOT_PROCESSED, VALID, NO_DATA, MASKED, FAILED, VALID_INCOMPLETE = range(6)
"""the flags of `status` in the store"""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A rectangle of square pixels, north up."""

    west: float
    north: float
    pixel: float
    rows: int
    cols: int
    cells: tuple[slice, slice]
    """rows and columns of the cube's arrays under it"""

    @classmethod
    def of_cube(cls, zone: Any, pixel: float) -> "Canvas":
        """The pixels under the rectangle of a cube's cells outside of which none is processed.

        A cube's arrays begin on the border of a block of shards, and may reach far beyond the scenes.
        """
        processed = (zone["status"][:] != NOT_PROCESSED).any(axis=0)
        cells = _extent(processed.any(axis=1)), _extent(processed.any(axis=0))
        y, x = (zone[name][:][along] for name, along in zip(("y", "x"), cells, strict=True))
        cell = float(x[1] - x[0])
        assert float(y[0] - y[1]) == cell, "cells are square and y descends"
        per_cell = round(cell / pixel)
        return cls(
            west=float(x[0]) - cell / 2,
            north=float(y[0]) + cell / 2,
            pixel=pixel,
            rows=len(y) * per_cell,
            cols=len(x) * per_cell,
            cells=cells,
        )

    def window_of(self, transform: Any, shape: tuple[int, int]) -> tuple[slice, slice, int]:
        """The part of the canvas that a raster covers, and how many canvas pixels make one side of its own."""
        step = round(transform.a / self.pixel)
        row, col = (self.north - transform.f) / self.pixel, (transform.c - self.west) / self.pixel
        assert transform.a == -transform.e == step * self.pixel, "the raster nests in the canvas"
        assert row == int(row) >= 0, "the raster lies on the lattice, on the canvas"
        assert col == int(col) >= 0, "the raster lies on the lattice, on the canvas"
        rows, cols = shape[0] * step, shape[1] * step
        assert int(row) + rows <= self.rows
        assert int(col) + cols <= self.cols
        return slice(int(row), int(row) + rows), slice(int(col), int(col) + cols), step


def _extent(along: Bools) -> slice:
    """From the first that is true to the last."""
    found = np.flatnonzero(along)
    return slice(int(found[0]), int(found[-1]) + 1)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One scene on the canvas."""

    id: str
    acquisition: str
    time: datetime
    values: NDArray[Any]
    """(band, y, x): reflectance x 10000, 0 where there are no data"""
    data: Bools
    """every band has a value and the classification a class"""
    clear: Bools
    covered: Bools
    """whether a pixel lies inside the files"""
    undecodable: Bools
    """whether a pixel lies in a block of any file that does not decode"""


def read_shots(archive: Path, bands: Sequence[str], clear: Iterable[int], canvas: Canvas) -> list[Shot]:
    """Every scene of an archive of folders <id>/<band>.tif, <id>/<id>.json, ordered by time and id."""
    items = [json.loads(path.read_text()) for path in archive.glob("*/*.json")]
    items = [item for item in items if item["type"] == "Feature"]
    shots = [_read_shot(archive / item["id"], item, bands, sorted(clear), canvas) for item in items]
    return sorted(shots, key=lambda shot: (shot.time, shot.id))


def _read_shot(folder: Path, item: dict[str, Any], bands: Sequence[str], clear: list[int], canvas: Canvas) -> Shot:
    layers = []
    covered = np.zeros((canvas.rows, canvas.cols), dtype=bool)
    undecodable = covered.copy()
    for band in (*bands, "SCL"):
        with rasterio.open(folder / f"{band}.tif") as dataset:
            assert dataset.nodata == 0
            pixels, holes = _decode(dataset)
            rows, cols, step = canvas.window_of(dataset.transform, dataset.shape)
        on_canvas = np.zeros(covered.shape, dtype=pixels.dtype)
        on_canvas[rows, cols] = np.kron(pixels, np.ones((step, step), dtype=pixels.dtype))
        undecodable[rows, cols] |= np.kron(holes, np.ones((step, step), dtype=bool))
        covered[rows, cols] = True
        layers.append(on_canvas)
    values, classes = np.stack(layers[:-1]), layers[-1]
    properties = item["properties"]
    # baselines from 04.00 on store reflectance + 1000, unless the catalogue has taken it off; `offset` in
    # raster:bands is listed either way and says nothing
    if float(properties["s2:processing_baseline"]) >= 4 and not properties["earthsearch:boa_offset_applied"]:
        values = np.where(values == 0, 0, np.maximum(values.astype(np.int64) - 1000, 1))
    data = (values != 0).all(axis=0) & (classes != 0)
    return Shot(
        id=item["id"],
        # one datatake, at whatever processing baseline
        acquisition=re.sub(r"_N\d\d\.\d\d$", "", properties["s2:datatake_id"]),
        time=datetime.fromisoformat(properties["datetime"]),
        values=values,
        data=data,
        clear=data & np.isin(classes, clear),
        covered=covered,
        undecodable=undecodable,
    )


def _decode(dataset: Any) -> tuple[NDArray[Any], Bools]:
    """The pixels of a file, and the pixels of its blocks that do not decode."""
    pixels = np.zeros(dataset.shape, dtype=dataset.dtypes[0])
    holes = np.zeros(dataset.shape, dtype=bool)
    for _, window in dataset.block_windows(1):
        try:
            pixels[window.toslices()] = dataset.read(1, window=window)
        except RasterioIOError:
            holes[window.toslices()] = True
    return pixels, holes


def counts_and_status(
    shots: list[Shot], *, cell_px: int, min_valid: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`n_obs` and `status` of one window, for every cell of the canvas. `shots` are the window's.

    A scene that does not decode somewhere is out everywhere.
    """
    rows, cols = shots[0].data.shape
    n_obs = np.zeros((rows // cell_px, cols // cell_px), dtype=np.int64)
    status = np.zeros_like(n_obs)
    good = [shot for shot in shots if not shot.undecodable.any()]
    bad = [shot for shot in shots if shot.undecodable.any()]
    for y in range(0, rows, cell_px):
        for x in range(0, cols, cell_px):
            cell = np.s_[y : y + cell_px, x : x + cell_px]
            at = y // cell_px, x // cell_px
            n_obs[at] = len({shot.acquisition for shot in good if shot.clear[cell].any()})
            status[at] = _status(good, any(shot.covered[cell].any() for shot in bad), cell, min_valid)
    return n_obs, status


def _status(good: list[Shot], incomplete: bool, cell: Any, min_valid: float) -> int:
    seen = np.zeros((cell[0].stop - cell[0].start, cell[1].stop - cell[1].start), dtype=bool)
    for shot in good:
        seen |= shot.clear[cell]
    if seen.mean() >= min_valid:
        return VALID_INCOMPLETE if incomplete else VALID
    if incomplete:
        return FAILED
    return MASKED if any((shot.data[cell] & ~shot.clear[cell]).any() for shot in good) else NO_DATA


def composite(shots: list[Shot], method: str) -> NDArray[np.float32]:
    """(band, y, x) over the whole canvas, NaN where nothing is clear. `shots` are the window's, by time and id."""
    acquisitions = []
    for name in sorted({shot.acquisition for shot in shots}):
        picture = np.full(shots[0].values.shape, np.nan)
        for shot in shots:
            if shot.acquisition == name:
                # the first clear scene of an acquisition counts
                fresh = shot.clear & np.isnan(picture).all(axis=0)
                picture[:, fresh] = shot.values[:, fresh]
        acquisitions.append(picture)
    stack = np.stack(acquisitions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that nothing is clear somewhere
        combined = np.nanmedian(stack, axis=0) if method == "median" else np.nanmean(stack, axis=0)
    return np.asarray(combined, dtype=np.float32)


def open_zone(cube: Path, zone: str) -> Any:
    """The group of a layer in a cube, as any Zarr reader opens it."""
    return zarr.open_group(cube, mode="r", zarr_format=3)[zone]


def clear_scenes(shots: list[Shot], cell: Any) -> set[str]:
    """Ids of the scenes with at least one clear pixel in a cell (slices of the canvas)."""
    return {shot.id for shot in shots if shot.clear[cell].any()}
