"""What every request passes first: the name of the host, the token, and the size of its body."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedcube.uses.serve.tokens import is_local, shows_token


class Gate:
    """Middleware that lets through only who shows the token, and bodies of bounded size.

    Without a token only requests to this machine's own names pass: a page of another site whose name was made to lead
    to 127.0.0.1 cannot read the cube with the browser of its visitor.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, body_bytes: int) -> None:
        """Guard `app`."""
        self._app, self._token, self._most = app, token, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise HTTPException(413, f"a body of more than {self._most} bytes")
            return message

        await self._app(scope, bounded, send)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        if self._token is None:
            name = headers.get("host", "").rpartition("]")[0].lstrip("[") or headers.get("host", "").partition(":")[0]
            if not is_local(name):
                return JSONResponse({"detail": "this server answers to 127.0.0.1 and localhost only"}, 403)
        elif not shows_token(headers.get("authorization"), self._token):
            asked = {"WWW-Authenticate": 'Basic realm="embedcube", Bearer'}
            return JSONResponse({"detail": "show the token: Authorization: Bearer <token>"}, 401, asked)
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return JSONResponse({"detail": "Content-Length is no number"}, 400)
        if int(length) > self._most:
            return JSONResponse({"detail": f"a body of {length} bytes; at most {self._most}"}, 413)
        return None
