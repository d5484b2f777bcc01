"""Routes of one place: its vectors in all windows, and what made them."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from embedcube.cube.encoding import NOT_PROCESSED, STATUS_MEANINGS, decode
from embedcube.cube.reader import Cell
from embedcube.errors import RequestError
from embedcube.uses.serve.answers import json_answer, unchanged
from embedcube.uses.serve.extent import of_points, total
from embedcube.uses.serve.holdings import Holding, NotHere
from embedcube.uses.serve.limits import Limits, refuse_above
from embedcube.uses.serve.places import Spot
from embedcube.uses.serve.reading import Stored
from embedcube.uses.serve.served import Served

Lon = Annotated[float, Query(ge=-180, le=180, allow_inf_nan=False, description="Longitude in degrees.")]
Lat = Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False, description="Latitude in degrees.")]
Time = Annotated[
    str | None,
    Query(max_length=64, description='"2023", "2023-06", "2023-06-15" or "2023-06-01/2023-07-01"; by default all.'),
]

_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}

REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {"application/json": {"schema": _DETAIL}}}
    for status, words in {
        400: "The body is no JSON.",
        401: "The token is missing or wrong.",
        403: "The server answers to names of this machine only.",
        404: "No such cube, layer, zone, window or place.",
        413: "More than the server gives at once.",
        422: "A value is none that can be asked for.",
        500: "An object of the cube cannot be read.",
        503: "Too many requests wait.",
    }.items()
}
"""Answers that every route may give."""


def routes(served: Served) -> APIRouter:
    """Routes `point` and `explain`."""
    router = APIRouter(prefix="/cubes/{cube}/layers/{layer}", responses=REFUSED)

    @router.get("/point", response_class=Response, responses={200: {"content": {"application/json": {}}}})
    async def point(request: Request, cube: str, layer: str, lon: Lon, lat: Lat, time: Time = None) -> Response:
        """Vectors, status and number of acquisitions of the cell that holds a place, in each window.

        A place outside of the layer is 404, never the nearest cell.
        """
        holding = served.cube(cube)
        # what is not there is 404, also for a client that has something else of this version
        spots = spots_at(holding, layer, lon, lat, time)
        decoded = _decoded(holding, spots, served.limits)
        if (same := unchanged(request, holding.etag)) is not None:
            return same
        reading = partial(read_point, holding, spots)
        # all connections may ask at once: most questions are small, and the others are computed a few at a time
        small = decoded <= served.limits.held.point_mb << 20
        spot, windows, stored = await (reading() if small else served.desk.turn(reading))
        answer = _described(holding, layer, spot, windows, stored)
        return json_answer(request, {"lon": lon, "lat": lat} | answer, etag=holding.etag)

    @router.get("/explain", response_class=Response, responses={200: {"content": {"application/json": {}}}})
    async def explain(request: Request, cube: str, layer: str, lon: Lon, lat: Lat, time: Time = None) -> Response:
        """Provenance of the vector of a place: scenes with digests, preprocessing, weights, versions, host."""
        holding = served.cube(cube)
        spots_at(holding, layer, lon, lat, time)
        if (same := unchanged(request, holding.etag)) is not None:
            return same

        def explained() -> dict[str, Any]:
            try:
                cell = holding.cube.cell_at(lon, lat, time, layer)
                return holding.cube.explain(cell) | {"cell": _cell(holding, cell)}
            except RequestError as error:
                raise NotHere(str(error)) from None

        return json_answer(request, await served.desk.run(explained), etag=holding.etag)

    return router


def spots_at(holding: Holding, layer: str, lon: float, lat: float, time: str | None) -> list[tuple[Spot, list[int]]]:
    """Cells that hold a place, each with the windows that a time selects; NotHere where there is none."""
    spots = holding.places(layer).spots(lon, lat)
    if not spots:
        raise NotHere(f"({lon}, {lat}) is outside of layer {layer}")
    return [(spot, holding.windows(spot.zone, time)) for spot in spots]


def _decoded(holding: Holding, spots: list[tuple[Spot, list[int]]], limits: Limits) -> int:
    """Bytes of vectors that a question decodes; TooMuch says that it asks for too many."""
    cost = total(of_points(holding.cube, spot.zone, windows, 1) for spot, windows in spots)
    refuse_above("MB of vectors to decode", cost.decoded >> 20, limits.decoded_mb)
    return cost.decoded


async def read_point(holding: Holding, spots: list[tuple[Spot, list[int]]]) -> tuple[Spot, list[int], Stored]:
    """The cell of a place of those that hold it, its windows, and what is stored there.

    Near the border of two UTM zones it is the cell with a vector, that of the place's own zone first.
    """
    found: list[tuple[Spot, list[int], Stored]] = []
    for spot, windows in spots:
        stored = await holding.reader.point(spot.zone, windows, spot.y, spot.x)
        found.append((spot, windows, stored))
        if stored.valid.any():
            return found[-1]
    for one in found:
        if (one[2].status != NOT_PROCESSED).any():
            return one
    return found[0]


def _described(holding: Holding, layer: str, spot: Spot, windows: list[int], stored: Stored) -> dict[str, Any]:
    attributes = holding.cube.group(spot.zone).attrs
    vectors, valid = decode(stored.embedding, stored.scale, holding.cube.offset(spot.zone)), stored.valid.tolist()
    all_windows, status, n_obs = holding.cube.windows(spot.zone), stored.status.tolist(), stored.n_obs.tolist()
    return {
        "cube": holding.name,
        "version": holding.cube.version,
        "layer": layer,
        "zone": spot.zone.partition("/")[2],
        "y": spot.y,
        "x": spot.x,
        "crs": attributes.get("proj:code"),
        "centre": holding.places(layer).centre(spot),
        "windows": [
            {
                "t": t,
                "window": all_windows[t].short,
                "status": STATUS_MEANINGS[status[i]],
                "n_obs": n_obs[i],
                "vector": vectors[i] if valid[i] else None,
            }
            for i, t in enumerate(windows)
        ],
    }


def _cell(holding: Holding, cell: Cell) -> dict[str, Any]:
    layer, _, zone = cell.zone.partition("/")
    spot = Spot(zone=cell.zone, y=cell.y, x=cell.x)
    lon, lat = holding.places(layer).degrees(spot)
    window = holding.cube.windows(cell.zone)[cell.t].short
    return {
        "layer": layer,
        "zone": zone,
        "t": cell.t,
        "y": cell.y,
        "x": cell.x,
        "window": window,
        "lon": lon,
        "lat": lat,
    }
