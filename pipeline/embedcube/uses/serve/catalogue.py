"""Routes of what is served: cubes and layers in words, and the counts of requests."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.uses.decode.file import Decoder
from embedcube.uses.decode.outputs import label_of
from embedcube.uses.serve.answers import json_answer, unchanged
from embedcube.uses.serve.files import beside
from embedcube.uses.serve.holdings import Holding
from embedcube.uses.serve.points import REFUSED
from embedcube.uses.serve.served import Served

_JSON: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}}}}


def routes(served: Served) -> APIRouter:
    """Routes `cubes`, `cubes/{cube}` and `cubes/{cube}/layers/{layer}`."""
    router = APIRouter(responses=REFUSED)

    @router.get("/cubes", response_class=Response, responses=_JSON)
    async def cubes(request: Request) -> Response:
        """All cubes that are served."""
        return json_answer(request, {"cubes": [_cube(one) for one in served.holdings.values()]})

    @router.get("/cubes/{cube}", response_class=Response, responses=_JSON)
    async def cube(request: Request, cube: str) -> Response:
        """One cube: its version, its layers, and where its store and its STAC Collection are."""
        holding = served.cube(cube)
        if (same := unchanged(request, holding.etag)) is not None:
            return same
        layers = {name: _layer(holding, name) for name in holding.layers}
        return json_answer(request, _cube(holding) | {"layers": layers}, etag=holding.etag)

    @router.get("/cubes/{cube}/layers/{layer}", response_class=Response, responses=_JSON)
    async def layer(request: Request, cube: str, layer: str) -> Response:
        """One layer: features, model, digest of its weights, zones with CRS and transform, windows."""
        holding = served.cube(cube)
        holding.layer(layer)
        if (same := unchanged(request, holding.etag)) is not None:
            return same
        return json_answer(request, _layer(holding, layer), etag=holding.etag)

    return router


def metrics_route(served: Served) -> APIRouter:
    """The route `/metrics`."""
    router = APIRouter()

    @router.get("/metrics", response_class=PlainTextResponse, responses={401: REFUSED[401], 403: REFUSED[403]})
    async def metrics() -> PlainTextResponse:
        """Counts of requests, as Prometheus reads them."""
        return PlainTextResponse(served.metrics.text())

    return router


def _cube(holding: Holding) -> dict[str, Any]:
    folder = f"/v1/cubes/{holding.name}/files"
    files = beside(holding.cube.path)
    return {
        "name": holding.name,
        "version": holding.cube.version,
        "campaign": holding.cube.campaign,
        "layers": list(holding.layers),
        "store": f"{folder}/{files['store'].name}",
        "stac": f"{folder}/{files['stac'].name}/collection.json" if "stac" in files else None,
        "preview": f"{folder}/{files['preview'].name}" if "preview" in files else None,
    }


def _layer(holding: Holding, layer: str) -> dict[str, Any]:
    zones = holding.layer(layer).zones
    first = holding.cube.group(zones[0]).attrs
    embedding = holding.cube.array(zones[0], "embedding")
    return {
        "layer": layer,
        "model": holding.cube.model(zones[0]),
        "weights_sha256": first.get("embedcube:weights_sha256"),
        "features": int(embedding.shape[-1]),
        "encoding": str(embedding.dtype),
        "status_meanings": STATUS_MEANINGS,
        "decoders": [_decoder(name, decoder) for name, decoder in holding.decoders_of(layer).items()],
        "zones": [_zone(holding, zone) for zone in zones],
    }


def _decoder(name: str, decoder: Decoder) -> dict[str, Any]:
    """What its numbers are; `classes` is empty for a number."""
    about = decoder.about
    return {"decoder": name, "kind": about.kind, "label": label_of(decoder), "classes": about.classes}


def _zone(holding: Holding, zone: str) -> dict[str, Any]:
    attributes, cells = holding.cube.group(zone).attrs, holding.cube.cells_of_shards(zone)
    return {
        "zone": zone.partition("/")[2],
        "crs": attributes.get("proj:code"),
        "wkt2": attributes["proj:wkt2"],
        "transform": attributes["spatial:transform"],
        "shape": attributes["spatial:shape"],
        "bbox": attributes["spatial:bbox"],
        "processed": [[axis.start, axis.stop] for axis in cells],
        "windows": [window.short for window in holding.cube.windows(zone)],
    }
