"""Routes of what is seen: colours and status of a window, whole as raw numbers, or in tiles as PNG.

All are in the cells of the zone, in its own CRS: nothing is warped or interpolated. A cell without a vector is 0, or
transparent.
"""

import io
import math
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from PIL import Image

from embedcube.cube.preview_store import has_preview
from embedcube.uses.serve.answers import BYTES, bytes_answer, unchanged
from embedcube.uses.serve.extent import window_bytes
from embedcube.uses.serve.holdings import Holding, NotHere
from embedcube.uses.serve.limits import Limits, refuse_above
from embedcube.uses.serve.points import REFUSED
from embedcube.uses.serve.served import Served

TILE = 256
"""pixels along one side of a tile"""

_LEVELS = 16

_GREYS = (235, 0, 170, 120, 80, 0)
"""greys of tiles of status, in the order of its values; valid cells are transparent"""

What = Literal["colours", "status", "n_obs"]
Index = Annotated[int, Path(ge=0, le=1_000_000)]
Step = Annotated[int, Query(ge=1, le=4096, description="Every so many rows and columns.")]


def routes(served: Served) -> APIRouter:
    """Routes of windows and of tiles."""
    router = APIRouter(prefix="/cubes/{cube}/layers/{layer}/zones/{zone}/windows/{t}", responses=REFUSED)

    @router.get("/{what}", response_class=Response, responses={200: {"content": {BYTES: {}}}})
    async def window(
        request: Request, cube: str, layer: str, zone: str, t: Index, what: What, step: Step = 1
    ) -> Response:
        """One window as raw numbers, row by row: colours (y, x, 3) uint8, status (y, x) uint8, n_obs (y, x) uint16.

        The headers X-Embedcube-Shape and X-Embedcube-Type say what they are; numbers are little-endian.
        """
        holding = served.cube(cube)
        path = holding.zone_with_window(layer, zone, t)
        every = slice(None, None, step)
        _refuse_large(holding, path, what, every, every, served.limits)
        if (same := unchanged(request, holding.etag)) is not None:
            return same

        def read() -> NDArray[Any]:
            cells = _values(holding, path, t, what, every, every)
            return np.ascontiguousarray(cells.astype(cells.dtype.newbyteorder("<"), copy=False))

        cells = await served.desk.run(read)
        about = {"Shape": ",".join(map(str, cells.shape)), "Type": cells.dtype.name}
        return bytes_answer(request, cells.tobytes(), about, etag=holding.etag)

    @router.get(
        "/tiles/{what}/{level}/{row}/{column}.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
    )
    async def tile(
        request: Request,
        cube: str,
        layer: str,
        zone: str,
        t: Index,
        what: Literal["colours", "status"],
        level: Annotated[int, Path(ge=0, le=_LEVELS)],
        row: Index,
        column: Index,
    ) -> Response:
        """A tile of 256 x 256 pixels, counted from the upper left corner; at level n every 2^n-th cell is a pixel."""
        holding = served.cube(cube)
        path = holding.zone_with_window(layer, zone, t)
        y, x = _cells_of_tile(holding, path, level, row, column)
        _refuse_large(holding, path, what, y, x, served.limits)
        if (same := unchanged(request, holding.etag)) is not None:
            return same

        def draw() -> bytes:
            return _png(_values(holding, path, t, what, y, x))

        headers = {"ETag": holding.etag, "Cache-Control": "no-cache"}
        return Response(await served.desk.run(draw), media_type="image/png", headers=headers)

    return router


def _cells_of_tile(holding: Holding, path: str, level: int, row: int, column: int) -> tuple[slice, slice]:
    """Rows and columns of a zone that a tile shows; NotHere where it would be beside the zone."""
    rows, columns = holding.cube.array(path, "status").shape[1:]
    step, side = 1 << level, TILE << level
    if row * side >= rows or column * side >= columns:
        raise NotHere(f"no tile ({row}, {column}) at level {level}: the zone has {rows} x {columns} cells")
    # the zone may end within the tile
    y, x = (slice(i * side, min((i + 1) * side, size), step) for i, size in ((row, rows), (column, columns)))
    return y, x


def _refuse_large(holding: Holding, path: str, what: str, y: slice, x: slice, limits: Limits) -> None:
    """Refuse what is too much to send, or to decode for it: of colours the vectors, where no preview has them."""
    cube, shape = holding.cube, holding.cube.array(path, "status").shape[1:]
    rows, columns = (range(*part.indices(size)) for part, size in zip((y, x), shape, strict=True))
    each = 3 if what == "colours" else int(cube.array(path, what).dtype.itemsize)
    refuse_above("MB in one map", len(rows) * len(columns) * each >> 20, limits.map_mb)
    name = "embedding" if what == "colours" and not holding.reader.keeps(path) and not has_preview(cube, path) else what
    if name != "colours":
        # a chunk is decoded whole, whatever the step leaves out
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / max(1, math.prod(shape))
        refuse_above("MB to decode", int(window_bytes(cube, path, name) * share) >> 20, limits.decoded_mb)


def _values(holding: Holding, path: str, t: int, what: str, y: slice, x: slice) -> NDArray[Any]:
    return holding.reader.colours(path, t, y, x) if what == "colours" else holding.reader.flat(path, what, t, y, x)


def _png(part: NDArray[np.uint8]) -> bytes:
    """A whole tile of colours (y, x, 3) or of status (y, x)."""
    image = np.zeros((TILE, TILE, 4), np.uint8)
    rows, columns = part.shape[:2]
    if part.ndim == 3:
        image[:rows, :columns, :3] = part
        image[:rows, :columns, 3] = (part.max(axis=-1) > 0) * np.uint8(255)
    else:
        greys = np.array(_GREYS, np.uint8)[np.minimum(part, len(_GREYS) - 1)]
        image[:rows, :columns, :3] = greys[..., None]
        image[:rows, :columns, 3] = (greys > 0) * np.uint8(255)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()
