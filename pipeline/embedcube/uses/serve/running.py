"""Running the server in this process until it is stopped."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from embedcube.errors import RequestError, StartAgain
from embedcube.progress import Say
from embedcube.uses.serve.app import create_app
from embedcube.uses.serve.limits import Limits
from embedcube.uses.serve.tokens import token_for

_CONNECTIONS = 256
"""connections at once; others are told to come again"""

_IDLE_S = 15
"""seconds after which a connection without a request is closed"""

_END_S = 10
"""seconds that requests in hand are given when the server is stopped"""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. A RequestError says that it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once only where the protocol is named
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        # from now on clients wait for the server to start instead of being refused
        opened.listen(_CONNECTIONS)
    except OSError as error:
        opened.close()
        raise RequestError(f"cannot listen on {host} port {port}: {error.strerror or error}; try --port 0") from None
    return opened


def serve(
    cubes: Sequence[str | Path],
    *,
    host: str,
    port: int,
    token_file: Path | None,
    say: Say,
    limits: Limits | None = None,
    static: Path | None = None,
    decoders: Sequence[Path] = (),
    ready: Say | None = None,
) -> None:
    """Serve cubes, and maps of `decoders`, until SIGINT or SIGTERM.

    `ready` is called with the address when the socket listens.

    Raises:
        RequestError: a path is no cube, a decoder fits none, the address cannot be had, or it needs a token.
    """
    token = token_for(host, token_file)
    app = create_app(cubes, token=token, limits=limits, static=static, decoders=decoders)
    opened = listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{opened.getsockname()[1]}"
    if token is None:
        say("without a token every user of this machine can read the cubes; --token-file FILE asks for one")
    else:
        say(f"clients must show the token in {token_file}")
    # no access log: links hold places that people look at
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_END_S,
        lifespan="off",
    )
    (ready or say)(address)
    # uvicorn ends in order, then raises the signal again, which the command line takes as work that was broken off
    with suppress(StartAgain, KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[opened])
