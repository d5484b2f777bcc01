"""Routes of searches: similar places, maps of similarity, maps of change, and the vectors of examples."""

from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from embedcube.cube.examples import wanted_by
from embedcube.cube.find import EXACT_CELLS, Search, default_apart_m, find_query
from embedcube.errors import RequestError
from embedcube.uses.serve.answers import BYTES, bytes_answer, json_answer
from embedcube.uses.serve.examples import (
    ChangeBody,
    FindBody,
    SimilarBody,
    VectorsBody,
    as_asked,
    region,
)
from embedcube.uses.serve.extent import cells_of_zone, refuse_large_window
from embedcube.uses.serve.holdings import Holding
from embedcube.uses.serve.limits import Limits, refuse_above
from embedcube.uses.serve.points import REFUSED
from embedcube.uses.serve.served import Served

_JSON: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}}}}
_RAW: dict[int | str, dict[str, Any]] = {200: {"content": {BYTES: {}}}}

STEPS = 254
"""steps between the lowest and the highest value of a map in uint8"""


def routes(served: Served) -> APIRouter:
    """Routes `find`, `vectors`, `similar` and `change`."""
    router = APIRouter(prefix="/cubes/{cube}/layers/{layer}", responses=REFUSED)
    limits, desk = served.limits, served.desk

    @router.post("/find", response_class=Response, responses=_JSON)
    async def find(request: Request, cube: str, layer: str, body: FindBody) -> Response:
        """The cells that are most like the examples, best first."""
        holding = served.cube(cube)
        return json_answer(request, await desk.run(lambda: _find(holding, layer, body, limits)), etag=holding.etag)

    @router.post("/vectors", response_class=Response, responses=_JSON)
    async def vectors(request: Request, cube: str, layer: str, body: VectorsBody) -> Response:
        """The vector of each example, of length 1, or why there is none: what other cubes can be asked with."""
        holding = served.cube(cube)
        return json_answer(request, await desk.run(lambda: _vectors(holding, layer, body, limits)), etag=holding.etag)

    @router.post("/similar", response_class=Response, responses=_RAW)
    async def similar(request: Request, cube: str, layer: str, body: SimilarBody) -> Response:
        """Cosine of every cell of one window with the examples, row by row: a map of similarity.

        As uint8: 0 is no vector, and n from 1 to 255 is low + (n - 1) / 254 * (high - low), where X-Embedcube-Range is
        "low,high". As float32, little-endian: NaN is no vector. X-Embedcube-Shape is "rows,columns".
        """
        holding = served.cube(cube)
        values, about = await desk.run(lambda: _similar(holding, layer, body, limits))
        return bytes_answer(request, values.tobytes(), about, etag=holding.etag)

    @router.post("/change", response_class=Response, responses=_RAW)
    async def change(request: Request, cube: str, layer: str, body: ChangeBody) -> Response:
        """How much every cell changed, row by row, as in `similar`; each cell is compared with its own past.

        X-Embedcube-Window names the window, of several windows the last; X-Embedcube-Remarks what to beware of.
        """
        holding = served.cube(cube)
        values, about = await desk.run(lambda: _change(holding, layer, body, limits))
        return bytes_answer(request, values.tobytes(), about, etag=holding.etag)

    return router


def _scanned(holding: Holding, layer: str, time: str | None) -> int:
    """Cells of a layer in the windows that a time selects."""
    return sum(
        len(holding.windows(zone, time)) * cells_of_zone(holding.cube, zone) for zone in holding.layer(layer).zones
    )


def _find(holding: Holding, layer: str, body: FindBody, limits: Limits) -> dict[str, Any]:
    refuse_above("hits", body.k, limits.hits)
    opened, cells = holding.layer(layer), _scanned(holding, layer, body.time)
    if opened.index is None or cells <= EXACT_CELLS:
        refuse_above("cells without an index", cells, limits.scan_cells)
    like, unlike = (as_asked(one, holding.cube, layer, limits) for one in (body.like, body.unlike))
    wanted = wanted_by(holding.cube, layer, like, unlike or None, body.time)
    apart_m = default_apart_m(holding.cube, layer) if body.apart_m is None else body.apart_m
    asked = Search(k=body.k, time=body.time, within=region(body.within, limits), apart_m=apart_m)
    found = find_query(holding.cube, layer, wanted, asked, opened.index)
    return {
        "cube": holding.name,
        "version": holding.cube.version,
        "layer": layer,
        "weights_sha256": holding.weights(layer),
        "exact": found.exact,
        "cells": found.cells,
        "apart_m": apart_m,
        "hits": [asdict(hit) | {"zone": hit.zone.partition("/")[2]} for hit in found.hits],
    }


def _vectors(holding: Holding, layer: str, body: VectorsBody, limits: Limits) -> dict[str, Any]:
    holding.layer(layer)
    answers: list[dict[str, Any]] = []
    for one in as_asked(body.like, holding.cube, layer, limits):
        try:
            wanted = wanted_by(holding.cube, layer, [one], None, body.time)
            centres = holding.places(layer).centres(wanted.own)
            answers.append({"vector": wanted.query.vector, "centres": centres})
        except RequestError as error:
            answers.append({"vector": None, "problem": str(error)})
    return {"layer": layer, "weights_sha256": holding.weights(layer), "vectors": answers}


def _similar(holding: Holding, layer: str, body: SimilarBody, limits: Limits) -> tuple[NDArray[Any], dict[str, object]]:
    zone = holding.zone(layer, body.zone)
    t = holding.window(zone, body.time)
    refuse_large_window(holding.cube, zone, limits)
    like, unlike = (as_asked(one, holding.cube, layer, limits) for one in (body.like, body.unlike))
    query = wanted_by(holding.cube, layer, like, unlike or None, body.time).query
    window = holding.reader.whole(zone, t)
    cosines = query.cosines(window.embedding.reshape(-1, window.embedding.shape[-1])).reshape(window.status.shape)
    # a stored zero would be like any other stored zero: only status tells
    cosines[~window.valid] = np.nan
    return _raw(cosines, body.type, holding, zone, t)


def _change(holding: Holding, layer: str, body: ChangeBody, limits: Limits) -> tuple[NDArray[Any], dict[str, object]]:
    zone = holding.zone(layer, body.zone)
    t = holding.windows(zone, body.after)[-1]
    after = holding.cube.windows(zone)[t].short
    compared = sum(_scanned(holding, layer, time) for time in (body.before, after))
    refuse_above("cells to compare", compared, limits.scan_cells)
    found: Any = holding.layer(layer).change(body.before, after)
    own = found if len(holding.layer(layer).zones) == 1 else found[zone.partition("/")[2]]
    values, about = _raw(np.asarray(own["score"][-1], np.float32), body.type, holding, zone, t)
    remarks = " ".join(map(str, found.attrs.get("remarks", [])))
    return values, about | {"Remarks": remarks.encode("ascii", "replace").decode()}


def _raw(
    values: NDArray[np.float32], kind: str, holding: Holding, zone: str, t: int
) -> tuple[NDArray[Any], dict[str, object]]:
    """A map (y, x) as it is sent, and what its headers say."""
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    about: dict[str, object] = {
        "Zone": zone.partition("/")[2],
        "Window": holding.cube.windows(zone)[t].short,
        "Shape": ",".join(map(str, values.shape)),
        "Type": kind,
        "Range": f"{low!r},{high!r}",
    }
    if kind == "float32":
        return values.astype("<f4", copy=False), about
    factor = STEPS / (high - low) if high > low else 0.0
    with np.errstate(invalid="ignore"):
        steps = (values - np.float32(low)) * np.float32(factor) + np.float32(1.5)
    steps[~known] = 0
    return steps.astype(np.uint8), about
