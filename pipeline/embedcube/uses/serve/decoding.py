"""The route of decoded maps: what a decoder says of every cell of a window."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from embedcube.uses.decode.outputs import NO_CLASS, classes_of
from embedcube.uses.decode.rectangles import said_of
from embedcube.uses.serve.answers import BYTES, bytes_answer, unchanged
from embedcube.uses.serve.extent import cells_of_zone, of_windows, total
from embedcube.uses.serve.holdings import Holding, NotHere
from embedcube.uses.serve.limits import refuse_above
from embedcube.uses.serve.points import REFUSED
from embedcube.uses.serve.raw import about_map, raw_map
from embedcube.uses.serve.served import Served

Index = Annotated[int, Path(ge=0, le=1_000_000)]


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
        path = holding.zone(layer, zone)
        windows = holding.cube.windows(path)
        if t >= len(windows):
            raise NotHere(f"{path} has {len(windows)} windows, counted from 0; there is no window {t}")
        if decoder not in holding.decoders_of(layer):
            raise NotHere(f"layer {layer} has no decoder of this name; start the server with --decoder FILE")
        # of each layer that stands beside the first as much is read as of the first
        layers = len(holding.decoders[decoder].layers)
        total([of_windows(holding.cube, path, [t])] * layers).refuse("cells of one window", served.limits)
        refuse_above("MB in one map", cells_of_zone(holding.cube, path) >> 20, served.limits.map_mb)
        if (same := unchanged(request, holding.etag)) is not None:
            return same
        values, about = await served.desk.run(lambda: _decoded(holding, decoder, path, t))
        return bytes_answer(request, values.tobytes(), about, etag=holding.etag)

    return router


def _decoded(holding: Holding, name: str, zone: str, t: int) -> tuple[NDArray[Any], dict[str, object]]:
    """The map (y, x) of one window; it is made shard by shard, as `decode apply` does."""
    cube, decoder = holding.cube, holding.decoders[name]
    rows, columns = cube.array(zone, "status").shape[1:]
    side = cube.shard_cells(zone)
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
