"""`embedcube view`: the server of cubes on this machine's own address, with the page that draws them."""

from collections.abc import Sequence
from pathlib import Path

from embedcube.progress import Say
from embedcube.uses.serve.running import serve

PAGE = Path(__file__).parent / "page"
"""the built page: index.html, view.js, view.css, and the licences of what is in view.js"""


def view(
    cubes: Sequence[str | Path], *, port: int, token_file: Path | None, decoders: Sequence[Path], say: Say, ready: Say
) -> None:
    """Serve the page, the cubes and the maps of decoders on 127.0.0.1 until SIGINT or SIGTERM.

    `ready` is called with the address.

    Raises:
        RequestError: a path is no cube, a decoder fits none, or the port cannot be had.
    """
    serve(
        cubes, host="127.0.0.1", port=port, token_file=token_file, say=say, static=PAGE, decoders=decoders, ready=ready
    )
