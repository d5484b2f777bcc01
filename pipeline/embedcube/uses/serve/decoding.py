"""The route of decoded maps: what a decoder says of every cell of a window."""

import math
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from embedcube.cube.reader import Cube
from embedcube.uses.decode.outputs import NO_CLASS, classes_of
from embedcube.uses.decode.rectangles import said_of
from embedcube.uses.serve.answers import BYTES, bytes_answer, unchanged
from embedcube.uses.serve.extent import Cost, cells_of_zone, of_windows
from embedcube.uses.serve.holdings import Holding, NotHere
from embedcube.uses.serve.limits import Limits, refuse_above
from embedcube.uses.serve.pictures import Index
from embedcube.uses.serve.points import REFUSED
from embedcube.uses.serve.raw import about_map, raw_map
from embedcube.uses.serve.served import Served

_SIDE = 512
"""cells along a side of the squares whose vectors are in memory at once"""

_AROUND = 9
"""times that a cell may be read for a head that takes the cells beside, at most"""

_MOST_PRODUCTS = 1 << 37
"""cells x numbers of the decoder in one map: some minutes of a core"""


def routes(served: Served) -> APIRouter:
    """The route `decoded`."""
    router = APIRouter(prefix="/cubes/{cube}/layers/{layer}/zones/{zone}/windows/{t}", responses=REFUSED)

    @router.get("/decoded/{decoder}", response_class=Response, responses={200: {"content": {BYTES: {}}}})
    async def decoded(request: Request, cube: str, layer: str, zone: str, t: Index, decoder: str) -> Response:
        """What a decoder says of every cell of one window, row by row, as uint8; the layer names its decoders.

        Of classes n is the n-th class, counted from 1. Of a number n from 1 to 255 is low + (n - 1) / 254 * (high -
        low), where X-Embedcube-Range is "low,high". 0 is no vector. X-Embedcube-Shape is "rows,columns".
        """
        holding = served.cube(cube)
        path = holding.zone_with_window(layer, zone, t)
        if decoder not in holding.decoders_of(layer):
            raise NotHere(f"layer {layer} has no decoder of this name; start the server with --decoder FILE")
        _refuse_costly(holding, decoder, path, t, served.limits)
        refuse_above("MB in one map", cells_of_zone(holding.cube, path) >> 20, served.limits.map_mb)
        if (same := unchanged(request, holding.etag)) is not None:
            return same
        values, about = await served.desk.run(lambda: _decoded(holding, decoder, path, t))
        return bytes_answer(request, values.tobytes(), about, etag=holding.etag)

    return router


def _refuse_costly(holding: Holding, name: str, zone: str, t: int, limits: Limits) -> None:
    """Refuse a map that reads or computes too much."""
    cube, decoder = holding.cube, holding.decoders[name]
    cost, head = of_windows(cube, zone, [t]), decoder.head
    # a head that takes the cells beside reads them for each square again
    times = _AROUND if head.around else 1
    others = sum(_bytes_beside(cube, zone, layer) for layer in decoder.layers[1:])
    Cost(cells=cost.cells * times, decoded=(cost.decoded + others) * times).refuse("cells of one window", limits)
    refuse_above("million products", (cost.cells * head.parameters) >> 20, _MOST_PRODUCTS >> 20)


def _bytes_beside(cube: Cube, zone: str, layer: str) -> int:
    """Bytes of chunks of another layer that are decoded for a window of a zone: for each square of it, those it has."""
    rows, columns = cube.array(zone, "status").shape[1:]
    side = min(cube.shard_cells(zone), _SIDE)
    squares = -(-rows // side) * -(-columns // side)
    window = largest = 0
    for other in cube.zones_of(layer):
        array = cube.array(other, "embedding")
        chunk = math.prod(map(int, array.chunks)) * int(array.dtype.itemsize)
        along = [-(-size // own) for size, own in zip(array.shape[1:3], array.chunks[1:3], strict=True)]
        window, largest = window + math.prod(map(int, along)) * chunk, max(largest, chunk)
    return int(squares * min(window, side * side * largest))


def _decoded(holding: Holding, name: str, zone: str, t: int) -> tuple[NDArray[Any], dict[str, object]]:
    """The map (y, x) of one window; a number does not depend on the square that it is made in."""
    cube, decoder = holding.cube, holding.decoders[name]
    rows, columns = cube.array(zone, "status").shape[1:]
    side = min(cube.shard_cells(zone), _SIDE)
    classes = decoder.about.classes
    values = np.full((rows, columns), NO_CLASS if classes else np.nan, np.uint8 if classes else np.float32)
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            y, x = (top, min(top + side, rows)), (left, min(left + side, columns))
            said = said_of(cube, decoder, (zone, t), y, x, decoder.head)
            values[slice(*y), slice(*x)] = classes_of(said) if classes else said[..., 0]
    if not classes:
        return raw_map(values, "uint8", holding, zone, t)
    # counted from 1, and 255, which is no class, becomes 0
    values += np.uint8(1)
    return values, about_map(values, "uint8", holding, zone, t)
