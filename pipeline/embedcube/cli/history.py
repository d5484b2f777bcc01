"""Verbs that ask a cube where it comes from: what a scene fed, a shard made again, two cubes compared."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedcube.errors import RequestError
from embedcube.progress import Say

if TYPE_CHECKING:
    from embedcube.uses.lineage import Lineage

verbs = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@verbs.command()
def lineage(
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="Id of a scene, or a part that no other id has.")],
    place: Annotated[
        Path | None,
        typer.Argument(metavar="[CUBE.zarr|CAMPAIGN.yaml]", help="By default campaign.yaml, or cube.zarr, here."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a table: .csv, .parquet, .geojson.")] = None,
    cells: Annotated[bool, typer.Option("--cells", help="The table has a row for each cell, not each shard.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which shards and cells a scene fed.  Example: embedcube lineage S2B_32UMB_20230606 cube.zarr"""
    from embedcube.uses.lineage import write_lineage
    from embedcube.uses.tables import check_suffix

    check_suffix(out)
    if cells and out is None:
        raise RequestError("--cells needs a file: -o cells.parquet")
    found = _lineage(scene, place)
    if out is not None:
        write_lineage(found, out, cells=cells)
    if as_json:
        print(json.dumps(found.document() | {"out": str(out) if out else None}))
        return
    print("\n".join(found.lines()))
    if out is not None:
        print(f"wrote {out}")


def _lineage(scene: str, place: Path | None) -> "Lineage":
    """What a scene fed: of a cube, or of the newest cube of a campaign, or of its plan before there is one."""
    from embedcube.cube.reader import Cube
    from embedcube.uses.lineage import lineage_in_cube, lineage_in_plan

    place = place or next((path for path in (Path("campaign.yaml"), Path("cube.zarr")) if path.exists()), None)
    if place is None:
        raise RequestError("lineage of which cube? There is no campaign.yaml and no cube.zarr here; name one")
    if place.suffix not in (".yaml", ".yml"):
        return lineage_in_cube(Cube(place), scene)
    from embedcube.campaign.resolve import open_submitted

    campaign, run, _ = open_submitted(place)
    if run.newest_cube.exists():
        return lineage_in_cube(Cube(run.newest_cube), scene)
    return lineage_in_plan(campaign, run, scene)


def _teller(as_json: bool) -> Say:
    return (lambda _: None) if as_json else print
