"""Arguments and options that several verbs have, and what is made of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedcube.errors import RequestError
from embedcube.progress import Say

if TYPE_CHECKING:
    from embedcube.cube.layer import Layer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
CampaignFile = Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign file.")]
CubePath = Annotated[Path, typer.Argument(metavar="CUBE.zarr", help="The folder of a cube.")]
CubePlace = Annotated[str, typer.Argument(metavar="CUBE.zarr", help="Folder or link of a cube, or of its Collection.")]
LayerName = Annotated[str | None, typer.Option(help="Where the cube has several.")]
Moment = Annotated[str | None, typer.Option("--time", help="Windows: 2023, 2023-06 or start/end; by default all.")]
Bbox = Annotated[str | None, typer.Option(help="West,south,east,north in degrees; by default all.")]


def teller(as_json: bool) -> Say:
    """What prints a line of text; with `--json` nothing is printed but the object."""

    def nothing(_: str) -> None:
        return

    return nothing if as_json else print


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a text with commas between them; empty ones are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def values_of(text: str) -> tuple[int, ...]:
    """Whole numbers of a text with a plus between them; none of an empty text."""
    try:
        return tuple(int(value) for value in text.split("+")) if text else ()
    except ValueError:
        raise RequestError(f'"{text}" is no list of values; write whole numbers as 8+9') from None


def layer_of(cube: str | Path, name: str | None) -> "Layer":
    """The layer of a cube that is named, or the only one; a RequestError lists the names where there are several."""
    from embedcube.cube.reader import Cube

    opened = Cube(cube)
    if name is None and len(opened.layers) > 1:
        raise RequestError(f"{opened.address}: which layer? It has {', '.join(opened.layers)}; name one with --layer")
    return opened.layer if name is None else opened[name]
