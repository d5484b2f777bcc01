"""What a decoder says of the cells of a rectangle; needs NumPy and zarr only."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube
from embedcube.uses.decode.examples import Cells, around_cells, side_by_side
from embedcube.uses.decode.file import Decoder


def said_of(
    cube: Cube, decoder: Decoder, place: tuple[str, int], rows: tuple[int, int], columns: tuple[int, int],
    say: Callable[[NDArray[np.float32]], NDArray[np.float64]],
) -> NDArray[np.float32]:  # fmt: skip
    """What `say` says of the vectors of a rectangle of cells (y, x, output); NaN where there is none.

    `place` is the zone and the window; `rows` and `columns` are the first, and the one after the last.
    """
    zone, t = place
    y, x = (axis.ravel() for axis in np.mgrid[rows[0] : rows[1], columns[0] : columns[1]])
    zones = cube.zones_of(zone.split("/")[0])
    cells = Cells(zones=zones, zone=np.full(len(y), zones.index(zone)), t=np.full(len(y), t), y=y, x=x)
    values = np.full((len(y), decoder.head.outputs), np.nan, np.float32)
    if decoder.head.around:
        around = around_cells(cube, decoder.layers, cells)
        if (there := around.own).any():
            values[there] = around.take(there).said(say)
    else:
        vectors = side_by_side(cube, decoder.layers, cells)
        if (there := np.asarray(np.isfinite(vectors).all(axis=1))).any():
            values[there] = say(vectors[there])
    return values.reshape(rows[1] - rows[0], columns[1] - columns[0], -1)
