"""Routes of searches: similar places, maps of similarity, maps of change, and the vectors of examples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from embedcube.cube.change import change_of_zone
from embedcube.cube.examples import Wanted, wanted_by
from embedcube.cube.find import EXACT_CELLS, WITHIN_CELLS, Search, default_apart_m, find_query
from embedcube.cube.scan import LISTS
from embedcube.cube.segments import VectorIndex
from embedcube.errors import RequestError
from embedcube.printable import printable
from embedcube.uses.serve.answers import BYTES, bytes_answer, json_answer
from embedcube.uses.serve.examples import (
    ChangeBody,
    FindBody,
    SimilarBody,
    VectorsBody,
    as_asked,
    cost_of,
    region,
)
from embedcube.uses.serve.extent import Cost, cells_of_zone, of_polygons, of_windows, refuse_long_outlines, total
from embedcube.uses.serve.holdings import Holding
from embedcube.uses.serve.limits import Limits, refuse_above
from embedcube.uses.serve.points import REFUSED
from embedcube.uses.serve.raw import raw_map
from embedcube.uses.serve.served import Served

_JSON: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}}}}
_RAW: dict[int | str, dict[str, Any]] = {200: {"content": {BYTES: {}}}}


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


@dataclass(frozen=True, kw_only=True)
class _Examples:
    """Examples as `wanted_by` takes them, and what reading their vectors costs."""

    like: list[Any]
    unlike: list[Any]
    cost: Cost

    def wanted(self, holding: Holding, layer: str, time: str | None) -> Wanted:
        """The vector that they stand for."""
        return wanted_by(holding.cube, layer, self.like, self.unlike or None, time)


def _examples(holding: Holding, layer: str, body: FindBody | SimilarBody, limits: Limits) -> _Examples:
    like, unlike = (as_asked(one, holding.cube, layer, limits) for one in (body.like, body.unlike))
    both = [*like, *unlike]
    refuse_above("vertices", _vertices(both), limits.vertices)
    return _Examples(like=like, unlike=unlike, cost=cost_of(holding, layer, both, body.time, limits))


def _vertices(examples: Sequence[Any]) -> int:
    return sum(int(shapely.get_num_coordinates(one)) for one in examples if isinstance(one, BaseGeometry))


def _scan(
    holding: Holding, layer: str, time: str | None, within: BaseGeometry | None, index: VectorIndex | None
) -> Cost:
    """What the search itself costs: all cells of its windows, those of a region, or the nearest lists of the index."""
    cube, zones = holding.cube, holding.layer(layer).zones
    windows = {zone: holding.windows(zone, time) for zone in zones}
    every = total(of_windows(cube, zone, windows[zone]) for zone in zones)
    part = every
    if within is not None:
        part = total(of_polygons(cube, zone, windows[zone], [within]) for zone in zones)
    if index is None or part.cells <= (EXACT_CELLS if within is None else WITHIN_CELLS):
        return part
    # where hits are too near to each other more lists are read: four times as many are allowed for
    share = min(1.0, 4 * LISTS / len(index.centroids))
    return Cost(cells=int(part.cells * share), decoded=int(every.decoded * share))


def _find(holding: Holding, layer: str, body: FindBody, limits: Limits) -> dict[str, Any]:
    refuse_above("hits", body.k, limits.hits)
    opened, within = holding.layer(layer), region(body.within, limits)
    examples = _examples(holding, layer, body, limits)
    cost = _scan(holding, layer, body.time, within, opened.index)
    (cost + examples.cost).refuse("cells to compare" + (" without an index" if opened.index is None else ""), limits)
    if within is not None:
        refuse_long_outlines(holding.cube, opened.zones, [within], limits)
    wanted = examples.wanted(holding, layer, body.time)
    apart_m = default_apart_m(holding.cube, layer) if body.apart_m is None else body.apart_m
    asked = Search(k=body.k, time=body.time, within=within, apart_m=apart_m)
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
    examples = as_asked(body.like, holding.cube, layer, limits)
    refuse_above("vertices", _vertices(examples), limits.vertices)
    cost_of(holding, layer, examples, body.time, limits).refuse("cells of the examples", limits)
    for one in examples:
        try:
            wanted = wanted_by(holding.cube, layer, [one], None, body.time)
            centres = holding.places(layer).centres(wanted.own)
            answers.append({"vector": wanted.query.vector, "centres": centres})
        except RequestError as error:
            answers.append({"vector": None, "problem": printable(error, 500)})
    return {"layer": layer, "weights_sha256": holding.weights(layer), "vectors": answers}


def _similar(holding: Holding, layer: str, body: SimilarBody, limits: Limits) -> tuple[NDArray[Any], dict[str, object]]:
    zone = holding.zone(layer, body.zone)
    t = holding.window(zone, body.time)
    examples = _examples(holding, layer, body, limits)
    (of_windows(holding.cube, zone, [t]) + examples.cost).refuse("cells of one window and of the examples", limits)
    refuse_above("MB in one map", 4 * cells_of_zone(holding.cube, zone) >> 20, limits.map_mb)
    query = examples.wanted(holding, layer, body.time).query
    return raw_map(holding.reader.cosines(zone, t, query), body.type, holding, zone, t)


def _change(holding: Holding, layer: str, body: ChangeBody, limits: Limits) -> tuple[NDArray[Any], dict[str, object]]:
    zone = holding.zone(layer, body.zone)
    t = holding.windows(zone, body.after)[-1]
    after = holding.cube.windows(zone)[t].short
    compared = [*holding.windows(zone, body.before), t]
    of_windows(holding.cube, zone, compared).refuse("cells to compare", limits)
    refuse_above("MB in one map", 4 * cells_of_zone(holding.cube, zone) >> 20, limits.map_mb)
    own = change_of_zone(holding.cube, zone, body.before, after)
    values, about = raw_map(np.asarray(own["score"][-1], np.float32), body.type, holding, zone, t)
    remarks = " ".join(map(str, own.attrs["remarks"]))
    return values, about | {"Remarks": remarks.encode("ascii", "replace").decode()}
