"""Answers: JSON without NaN, or raw numbers; with the version of the cube as ETag, and compressed where it pays."""

import gzip
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response

from embedcube.errors import RequestError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

_LEAST_COMPRESSED = 2048
"""bytes of an answer below which compression saves nothing"""

_LOCAL = ("127.0.0.1", "::1", "testclient")

BYTES = "application/octet-stream"


def json_answer(request: Request, value: Any, *, etag: str = "", status: int = 200) -> Response:
    """An answer in JSON; numbers that are not finite become null. NumPy arrays are lists."""
    try:
        data = orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        # of an answer only what the client has sent can be so
        raise RequestError(f"what was sent cannot be sent back as JSON: {error}") from None
    return _answer(request, data, "application/json", _headers(etag), status)


def bytes_answer(request: Request, data: bytes, about: Mapping[str, object], *, etag: str = "") -> Response:
    """An answer of raw numbers; `about` says in headers X-Embedcube-<name> what they are."""
    headers = _headers(etag) | {f"X-Embedcube-{name}": str(value) for name, value in about.items()}
    return _answer(request, data, BYTES, headers, 200)


def unchanged(request: Request, etag: str) -> Response | None:
    """The answer 304 if the client has this version already; nothing is read for it."""
    known = request.headers.get("if-none-match")
    if known is None or etag not in (one.strip().removeprefix("W/") for one in known.split(",")):
        return None
    return Response(status_code=304, headers=_headers(etag))


def _headers(etag: str) -> dict[str, str]:
    # a name such as cube.zarr may lead to another version tomorrow: always ask, and be told 304
    return {"ETag": etag, "Cache-Control": "no-cache"} if etag else {}


def _answer(request: Request, data: bytes, kind: str, headers: dict[str, str], status: int) -> Response:
    if len(data) >= _LEAST_COMPRESSED and "gzip" in request.headers.get("accept-encoding", "") and _pays(request, kind):
        data = gzip.compress(data, compresslevel=1)
        headers = headers | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(data, status_code=status, headers=headers, media_type=kind)


def _pays(request: Request, kind: str) -> bool:
    """Compressing a map of a million cells costs as much as making it: not for a client on this machine."""
    return kind != BYTES or request.client is None or request.client.host not in _LOCAL
