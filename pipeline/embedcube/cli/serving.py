"""Verbs that bring cubes to others: serve them over HTTP, and copy a part of a remote one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from embedcube.cli.options import AsJson, Bbox, Moment, teller
from embedcube.errors import RequestError, WorkError
from embedcube.progress import Say, shown

verbs = typer.Typer()

Token = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File of mode 0600 with the token that clients must show; a new file gets a random one.",
    ),
]


Decoders = Annotated[
    list[Path] | None,
    typer.Option(
        "--decoder", metavar="FILE", help="A decoder (`decode fit`) whose maps are shown too; may be repeated."
    ),
]


def tellers(verb: str, below: str, as_json: bool) -> tuple[Say, Say]:
    """What prints the lines of a server, and what prints its address when it listens."""

    def say(line: str) -> None:
        if not as_json:
            print(f"            {line}", flush=True)

    def ready(address: str) -> None:
        print(json.dumps({"address": address}) if as_json else f"{verb:11} {address}{below}", flush=True)

    return say, ready


@verbs.command()
def serve(
    cubes: Annotated[list[str], typer.Argument(metavar="[NAME=]CUBE.zarr...", help="The folders of cubes.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on. One that other machines can reach needs --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8765,
    token_file: Token = None,
    decoders: Decoders = None,
    as_json: AsJson = False,
) -> None:
    """Serve cubes over HTTP until it is stopped.  Example: embedcube serve cube.zarr"""
    try:
        from embedcube.uses.serve.running import serve as serve_cubes
    except ModuleNotFoundError as error:
        raise RequestError(f"{error.name} is not installed; `pip install 'embedcube[serve]'`") from None

    say, ready = tellers("serve", "/v1/cubes", as_json)
    serve_cubes(cubes, host=host, port=port, token_file=token_file, decoders=decoders or (), say=say, ready=ready)


@verbs.command()
def pull(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A store (http, https, s3, ...), a folder, or .../v1/cubes/NAME.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that the copy is put into.")],
    bbox: Bbox = None,
    moment: Moment = None,
    layer: Annotated[list[str] | None, typer.Option(help="May be repeated; by default all layers.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of mode 0600 with the token of the server.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a part of a remote cube, every file checked.  Example: embedcube pull URL copy --bbox 7.4,50.8,7.6,50.9"""
    from embedcube.uses.pull import pull as pull_part
    from embedcube.uses.remote import Address
    from embedcube.uses.touching import parse_box

    box = None if bbox is None else parse_box(bbox)
    address = Address(url=url, token_file=token_file)
    with shown("pull", "files", teller(as_json)) as progress:
        pulled = pull_part(address, folder, progress, box=box, time=moment, layers=layer or ())
    if as_json:
        print(json.dumps(asdict(pulled), default=str))
    else:
        print(f"cube        {pulled.cube}, {pulled.bytes:,} bytes read, {pulled.kept} files were there")
    if pulled.damaged:
        named = "\n".join(pulled.damaged[:20])
        raise WorkError(
            f"{len(pulled.damaged)} files of the remote cube are damaged or missing and were not copied:\n{named}\n"
            "the same command tries them again; if they stay so, tell the centre to run `embedcube verify`"
        )
