"""The application: all routes behind one gate. Every answer is of one version of a cube, and says so in its ETag."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

import embedcube
from embedcube.errors import RequestError, WorkError
from embedcube.printable import printable
from embedcube.uses.serve import catalogue, decoding, pictures, points, regions, searching
from embedcube.uses.serve.files import CubeFiles
from embedcube.uses.serve.gate import Gate
from embedcube.uses.serve.holdings import NotHere, open_holdings
from embedcube.uses.serve.limits import Limits, TooMuch
from embedcube.uses.serve.metrics import Counted
from embedcube.uses.serve.page import Page
from embedcube.uses.serve.served import RETRY_S, Busy, Desk, Served

log = logging.getLogger(__name__)

VERSION = "/v1"
"""prefix of all routes but /metrics: what is below it keeps its meaning"""

_MOST_ERRORS = 8
"""errors of one request that its answer lists"""

_STATUS: dict[type[Exception], int] = {NotHere: 404, TooMuch: 413, RequestError: 422, WorkError: 500, Busy: 503}


def create_app(
    cubes: Sequence[str | Path],
    *,
    token: str | None = None,
    limits: Limits | None = None,
    static: Path | None = None,
    decoders: Sequence[Path] = (),
) -> FastAPI:
    """The server of some cubes, given as paths or "NAME=PATH", as an ASGI application.

    Each of `decoders` (files of `decode fit`) gives maps of the cubes that it fits. Clients must show `token` if there
    is one; else only requests to this machine's own names are answered. `static` is a folder with an index.html that
    is served at "/": a page that draws the cubes.

    Raises:
        RequestError: a path is not a cube, two cubes have one name, or a decoder fits none of them.
    """
    limits = limits or Limits()
    served = Served(holdings=open_holdings(cubes, limits, decoders), limits=limits, desk=Desk(limits))
    app = FastAPI(
        title="embedcube",
        version=embedcube.__version__,
        summary="Cubes of embeddings: points, regions, similar places, provenance, and the store itself.",
        openapi_url=f"{VERSION}/openapi.json",
        # its pages load code from another server
        docs_url=None,
        redoc_url=None,
    )
    for module in (catalogue, points, regions, searching, decoding, pictures):
        app.include_router(module.routes(served), prefix=VERSION)
    app.include_router(catalogue.metrics_route(served))
    for name, holding in served.holdings.items():
        app.mount(f"{VERSION}/cubes/{name}/files", CubeFiles(holding), name=f"files of {name}")
    if static is not None:
        app.mount("/", Page(directory=static, html=True), name="page")
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _handler(status, served.words))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    # the gate is the outer one: what it refuses is not counted under a route
    app.add_middleware(Counted, metrics=served.metrics)
    app.add_middleware(Gate, token=token, body_bytes=limits.body_bytes)
    return app


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without the values that were sent: they may be no JSON, such as NaN, or long."""
    assert isinstance(error, RequestValidationError)
    found = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()[:_MOST_ERRORS]]
    status = 413 if any(one["type"] == "too_long" for one in error.errors()) else 422
    return JSONResponse({"detail": printable("; ".join(f"{place}: {words}" for place, words in found), 2000)}, status)


def _failed(_: Request, error: Exception) -> JSONResponse:
    # what failed is for the server's log, where it is written when this has been sent
    # its connection is closed then: a client must not ask for more on it
    words = f"the server failed ({type(error).__name__}); its log says where"
    return JSONResponse({"detail": words}, 500, {"Connection": "close"})


def _handler(status: int, words: Callable[[Exception], str]) -> Callable[[Request, Exception], JSONResponse]:
    def answer(_: Request, error: Exception) -> JSONResponse:
        if status == 500:
            # which file it is, its owner must know
            log.error("%s", printable(error, 1000))
        headers = {"Retry-After": str(RETRY_S)} if status == 503 else None
        return JSONResponse({"detail": words(error)}, status, headers)

    return answer
