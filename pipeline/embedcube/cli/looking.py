"""Verbs for people who look: pictures, the report of a campaign, and a map of a cube in the browser."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from embedcube.cli.options import AsJson, CampaignFile, CubePath
from embedcube.cli.serving import Decoders, tellers
from embedcube.errors import RequestError

verbs = typer.Typer()


@verbs.command()
def preview(
    cube: CubePath,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; by default `report` beside the cube.")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(metavar="CUBE.zarr", help="Draw all layers of both cubes side by side; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw principal components: Zarr, PNG, GeoTIFF.  Example: embedcube preview cube.zarr"""
    from embedcube.cube.compare import compare as draw_side_by_side
    from embedcube.cube.preview import preview as draw
    from embedcube.cube.preview_store import preview_store_of

    folder = out or cube.absolute().parent / "report"
    if compare:
        cubes = [cube, *(other for other in compare if other.resolve() != cube.resolve())]
        files = draw_side_by_side(cubes, folder)
    else:
        # the link is followed once: store and pictures are of one version
        version = cube.resolve()
        store = out / preview_store_of(version).name if out else preview_store_of(version)
        files = [store, *draw(version, folder, store)]
    print(json.dumps({"files": [str(f) for f in files]}) if as_json else "\n".join(f"wrote {f}" for f in files))


@verbs.command()
def report(
    campaign_file: CampaignFile,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default report.html in `report` of the run folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a report of a campaign as one HTML file.  Example: embedcube report campaign.yaml"""
    from embedcube.campaign.resolve import open_submitted
    from embedcube.uses.report.page import write_report

    campaign, folder, changed = open_submitted(campaign_file)
    path = write_report(campaign, folder, out)
    if as_json:
        print(json.dumps({"report": str(path)}))
    else:
        print("\n".join([*([changed] if changed else []), f"wrote {path}"]))


@verbs.command()
def view(
    cubes: Annotated[list[str], typer.Argument(metavar="[NAME=]CUBE.zarr...", help="The folders of cubes.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 0,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of mode 0600 with a token that the browser asks for, as a password."),
    ] = None,
    decoders: Decoders = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the browser of this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show cubes on a map in the browser, until it is stopped.  Example: embedcube view cube.zarr"""
    try:
        from embedcube.uses.view.show import view as view_cubes
    except ModuleNotFoundError as error:
        raise RequestError(f"{error.name} is not installed; `pip install 'embedcube[serve]'`") from None

    say, told = tellers("view", "", as_json)

    def ready(address: str) -> None:
        told(address)
        if browser:
            webbrowser.open(address)

    view_cubes(cubes, port=port, token_file=token_file, decoders=decoders or (), say=say, ready=ready)
