"""Verbs that ask a cube where it comes from: what a scene fed, a shard made again, two cubes compared."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedcube.cli.options import AsJson, CubePlace, teller
from embedcube.errors import RequestError, WorkError
from embedcube.progress import shown

if TYPE_CHECKING:
    from embedcube.uses.lineage import Lineage

verbs = typer.Typer()


@verbs.command()
def lineage(
    scene: Annotated[
        str | None, typer.Argument(metavar="[SCENE]", help="Id of a scene, or a part that no other id has.")
    ] = None,
    place: Annotated[
        str | None,
        typer.Argument(metavar="[CUBE.zarr|CAMPAIGN.yaml]", help="By default campaign.yaml, or cube.zarr, here."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a table: .csv, .parquet, .geojson.")] = None,
    cells: Annotated[bool, typer.Option("--cells", help="The table has a row for each cell, not each shard.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Instead of a scene: the graph of this shard of the cube, with --as.")
    ] = None,
    as_: Annotated[
        Literal["prov-json", "mermaid"], typer.Option("--as", help="Of --shard: W3C PROV-JSON, or a flow chart.")
    ] = "prov-json",
    as_json: AsJson = False,
) -> None:
    """Show which shards and cells a scene fed.  Example: embedcube lineage S2B_32UMB_20230606 cube.zarr"""
    from embedcube.uses.lineage import write_lineage
    from embedcube.uses.tables import check_suffix

    if shard is not None:
        _print_graph(place or scene or "cube.zarr", shard, as_)
        return
    if scene is None:
        raise RequestError("lineage of what? Name a scene, or a shard with --shard")
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


def _print_graph(place: str, shard: str, form: Literal["prov-json", "mermaid"]) -> None:
    from embedcube.cube.lineage import place_of_shard
    from embedcube.cube.prov import shard_graph
    from embedcube.cube.reader import Cube

    cube = Cube(place)
    graph = shard_graph(cube, place_of_shard(cube.provenance, shard))
    print(graph.to_json() if form == "prov-json" else graph.mermaid())


def _lineage(scene: str, place: str | None) -> "Lineage":
    """What a scene fed: of a cube, or of the newest cube of a campaign, or of its plan before there is one."""
    from embedcube.cube.reader import Cube
    from embedcube.uses.lineage import lineage_in_cube, lineage_in_plan

    place = place or next((name for name in ("campaign.yaml", "cube.zarr") if Path(name).exists()), None)
    if place is None:
        raise RequestError("lineage of which cube? There is no campaign.yaml and no cube.zarr here; name one")
    if Path(place).suffix not in (".yaml", ".yml"):
        return lineage_in_cube(Cube(place), scene)
    from embedcube.campaign.resolve import open_submitted

    campaign, run, _ = open_submitted(Path(place))
    if run.newest_cube.exists():
        return lineage_in_cube(Cube(run.newest_cube), scene)
    return lineage_in_plan(campaign, run, scene)


@verbs.command()
def reproduce(
    cube: CubePlace,
    shard: Annotated[str, typer.Option(help='Name of a shard, "s2/utm32 t0 y1 x2", or first digits of its recipe.')],
    archive: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where an archive is now; by default as the run folder says."),
    ] = None,
    links: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="What recorded paths of files begin with, and now do.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="LAYER=FILE", help="Published weights, which no cube keeps.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="By default that of the record.")] = None,
    threads: Annotated[int, typer.Option(help="Threads; they change no byte.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Make a shard again and compare the bytes.  Example: embedcube reproduce cube.zarr --shard s2/grid/t0/y1/x2"""
    from embedcube.cube.reader import Cube
    from embedcube.uses.reproduce import Here, pairs
    from embedcube.uses.reproduce import reproduce as made_again

    here = Here(
        archives={name: Path(path) for name, path in pairs("--archive", archive or []).items()},
        links=pairs("--links", links or []),
        weights={name: Path(path) for name, path in pairs("--weights", weights or []).items()},
        device=device,
        threads=threads,
    )
    again = made_again(Cube(cube), shard, here)
    print(json.dumps(again.document()) if as_json else "\n".join(again.lines()))
    if not again.equal:
        raise WorkError(f"{again.shard}: the bytes are not those of the cube")


@verbs.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="FIRST.zarr", help="Folder or link of a cube.")],
    second: Annotated[str, typer.Argument(metavar="SECOND.zarr", help="Another cube, or another version of it.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A map (.png), or a table: .geojson, .csv, .parquet.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which shards and cells differ, and why.  Example: embedcube diff old.zarr new.zarr -o changed.geojson"""
    from embedcube.cube.reader import Cube
    from embedcube.uses.diff import diff as compared
    from embedcube.uses.diff_map import MAP, check_suffix, write_diff

    check_suffix(out)
    with shown("diff", "shards", teller(as_json)) as progress:
        found = compared(Cube(first), Cube(second), progress, keep_cells=out is not None and out.suffix == MAP)
    files = write_diff(found, out) if out is not None and not found.equal else []
    if as_json:
        print(json.dumps(found.document() | {"files": [str(file) for file in files]}))
        return
    print("\n".join([*found.lines(), *(f"wrote {file}" for file in files)]))
