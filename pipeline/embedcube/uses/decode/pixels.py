"""Dense labels finer than the cells: heads are scored on pixels, after their logits were interpolated onto these.

Vectors are never interpolated. Other rows are bounds: the true class of most pixels of each cell, which is the best
that one class for each cell can do; the same of cells of 4 pixels, where those of the cube are larger; and a logistic
on the raw numbers of each pixel, which needs no encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.uses.decode.examples import Cells, Examples
from embedcube.uses.decode.fit import Settings, fit_head
from embedcube.uses.decode.folds import Folds
from embedcube.uses.decode.metrics import of_classes
from embedcube.uses.decode.rasters import opened, windows_of_raster
from embedcube.uses.decode.request import Request

NONE = -1
"""a pixel without a label"""

ORACLE = "true class of most pixels of a cell"
FINE_PX = 4
"""side of the smaller cells that are looked at beside larger ones"""

ORACLE_FINE = f"the same of cells of {FINE_PX} pixels"
INTERPOLATED = "vectors, logits interpolated"
SINGLE = "the same of single cells"
RAW_LOGISTIC = "raw pixels, logistic on each"

_SAMPLE = 20_000
"""pixels that the logistic on raw numbers is fitted on"""

_OFF = 1e-3
"""pixels that a raster may lie beside the borders of cells"""


@dataclass(frozen=True, kw_only=True)
class PixelRow:
    """Scores on pixels that were held out."""

    features: str
    parameters: int | None
    scores: dict[str, float]


def pixel_classes(cube: Cube, cells: Cells, paths: Sequence[Path], request: Request, classes: Sequence[str]) -> Any:
    """Number (cell, row, column) of the class of each pixel of some cells, `NONE` where there is no label.

    Raises:
        RequestError: the pixels of a raster do not divide the cells.
    """
    values = dict(request.classes) or {name: (int(name),) for name in classes}
    found: list[tuple[NDArray[np.int64], NDArray[np.int16]]] = []
    for path in paths:
        with opened(path, request.crs) as source:
            for number, zone in enumerate(cells.zones):
                windows = windows_of_raster(cube, zone, path, request)
                rows = np.flatnonzero((cells.zone == number) & np.isin(cells.t, windows))
                if len(rows) and (cut := _cut(source, cube, zone, cells, rows)) is not None:
                    own = np.full(cut.shape, NONE, np.int16)
                    for code, name in enumerate(classes):
                        own[np.isin(cut, values[name])] = code
                    found.append((rows, own))
    sides = {own.shape[1] for _, own in found}
    if len(sides) != 1:
        raise RequestError(
            f"{paths[0].name}: its pixels do not divide the cells of any zone, or several sizes of pixels do; warp the "
            "rasters onto the cells' grid for a score on pixels"
        )
    (side,) = sides
    codes = np.full((len(cells), side, side), NONE, np.int16)
    for rows, own in found:
        codes[rows] = own
    return codes


def _cut(source: Any, cube: Cube, zone: str, cells: Cells, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The pixels (cell, row, column) of some cells, without a label a value of no class; None if they do not fit."""
    from rasterio.windows import Window

    a, _, c, _, _, f = cube.group(zone).attrs["spatial:transform"][:6]
    file = source.file
    factor = a / file.transform.a
    left, top = (c - file.transform.c) / file.transform.a, (f - file.transform.f) / file.transform.e
    off = max(abs(number - round(number)) for number in (factor, left, top))
    if file.crs != cube.group(zone).attrs["proj:wkt2"] or off > _OFF or round(factor) < 1:
        return None
    side, x0, y0 = round(factor), round(left), round(top)
    y, x = cells.y[rows], cells.x[rows]
    window = Window(x0 + int(x.min()) * side, y0 + int(y.min()) * side,
                    int(np.ptp(x) + 1) * side, int(np.ptp(y) + 1) * side)  # fmt: skip
    read = file.read(1, window=window, boundless=True, masked=True)
    values = np.where(np.ma.getmaskarray(read), np.iinfo(np.int64).min, read.data.astype(np.int64))
    squares = values.reshape(-1, side, values.shape[1] // side, side)
    return np.asarray(squares[y - y.min(), :, x - x.min()])


def interpolated(logits: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Logits (y, x, class) on pixels `factor` times finer, bilinear between centres of cells.

    Cells without logits (NaN) are left out of the weights; pixels of such cells are NaN.
    """
    there = np.asarray(np.isfinite(logits).all(axis=-1, keepdims=True))
    known = np.where(there, logits, 0.0)
    weight = there.astype(np.float64)
    for axis in (0, 1):
        known, weight = _finer(np.asarray(known), factor, axis), _finer(weight, factor, axis)
    own = there.repeat(factor, axis=0).repeat(factor, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(own, known / weight, np.nan)


def _finer(values: NDArray[np.float64], factor: int, axis: int) -> NDArray[np.float64]:
    count = values.shape[axis]
    at = (np.arange(count * factor) + 0.5) / factor - 0.5
    low = np.floor(at).astype(np.int64)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    first, second = (np.clip(index, 0, count - 1) for index in (low, low + 1))
    return np.asarray(values.take(first, axis) * (1 - share) + values.take(second, axis) * share)


def score_pixels(
    examples: Examples, codes: NDArray[np.int16], raw: NDArray[np.float32] | None, settings: Settings, folds: Folds
) -> tuple[PixelRow, ...]:
    """Scores of a dense head on the pixels of held-out cells, beside the bounds.

    `codes` (cell, row, column) are the true classes; `raw` (cell, row, column, number) the pixels of the archive, of
    the same size.
    """
    true = codes != NONE
    count = len(examples.classes)
    guesses, side = {ORACLE: most_common(codes, codes.shape[1], count)}, codes.shape[1]
    if side > FINE_PX and side % FINE_PX == 0:
        guesses[ORACLE_FINE] = most_common(codes, FINE_PX, count)
    parameters: dict[str, int | None] = dict.fromkeys(guesses)
    if settings.around:
        alone = settings.alone(examples.task)
        guesses[SINGLE], parameters[SINGLE] = _of_vectors(examples, side, alone, folds)
    guesses[INTERPOLATED], parameters[INTERPOLATED] = _of_vectors(examples, side, settings, folds)
    if raw is not None and raw.shape[:3] == codes.shape:
        guesses[RAW_LOGISTIC], parameters[RAW_LOGISTIC] = _of_raw(examples, codes, raw, settings, folds)
    return tuple(
        PixelRow(
            features=name, parameters=parameters[name],
            scores=of_classes(codes[true].astype(np.int64), guess[true].astype(np.int64), count),
        )
        for name, guess in guesses.items()
    )  # fmt: skip


def most_common(codes: NDArray[np.int16], side: int, classes: int) -> NDArray[np.int64]:
    """For each pixel the class (cell, row, column) of most labelled pixels of its square of `side` pixels."""
    cells, rows = codes.shape[0], codes.shape[1] // side
    squares = codes.reshape(cells, rows, side, rows, side)
    most = np.stack([(squares == k).sum(axis=(2, 4)) for k in range(classes)], axis=-1).argmax(axis=-1)
    return np.asarray(most.repeat(side, axis=1).repeat(side, axis=2))


def _of_vectors(examples: Examples, side: int, settings: Settings, folds: Folds) -> tuple[NDArray[np.int64], int]:
    """Class (cell, row, column) of each pixel by heads that have not seen its fold, and their parameters."""
    assert examples.cells is not None
    cells, guess, parameters = examples.cells, np.empty((len(examples), side, side), np.int64), 0
    for fold in range(folds.count):
        out = folds.fold == fold
        head = fit_head(examples.take(~out), settings)
        parameters = head.parameters
        logits = examples.said(head, logits=head.has_logits)
        for number, t in {(int(z), int(t)) for z, t in zip(cells.zone[out], cells.t[out], strict=True)}:
            rows = np.flatnonzero((cells.zone == number) & (cells.t == t))
            y, x = cells.y[rows] - cells.y[rows].min(), cells.x[rows] - cells.x[rows].min()
            grid = np.full((y.max() + 1, x.max() + 1, logits.shape[1]), np.nan)
            grid[y, x] = logits[rows]
            fine = interpolated(grid, side).reshape(grid.shape[0], side, grid.shape[1], side, -1)
            held = out[rows]
            guess[rows[held]] = fine[y[held], :, x[held]].argmax(axis=-1)
    return guess, parameters


def _of_raw(
    examples: Examples, codes: NDArray[np.int16], raw: NDArray[np.float32], settings: Settings, folds: Folds
) -> tuple[NDArray[np.int64], int]:
    """Predict held-out pixels by a logistic on the numbers of single pixels; the answer is that of `_of_vectors`."""
    from dataclasses import replace

    guess, parameters = np.zeros(codes.shape, np.int64), 0
    own = replace(settings, kind="logistic", most=_SAMPLE)
    there = np.isfinite(raw).all(axis=-1)
    rng = np.random.default_rng(settings.seed)
    for fold in range(folds.count):
        out = (folds.fold == fold)[:, None, None]
        known = np.flatnonzero((there & ~out & (codes != NONE)).ravel())
        known = rng.choice(known, min(_SAMPLE, len(known)), replace=False)
        cell = known // codes[0].size
        pixels = replace(
            examples.take(cell), features=raw.reshape(-1, raw.shape[-1])[known],
            target=codes.ravel()[known].astype(np.float64),
        )  # fmt: skip
        head = fit_head(pixels, own)
        parameters = head.parameters
        asked = there & out
        guess[asked] = head(raw[asked]).argmax(axis=-1)
    return guess, parameters
