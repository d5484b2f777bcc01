"""Verbs that search a cube: similar places, changes, and the index that makes the search of a large cube fast."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedcube.cli.federating import find_at_centres
from embedcube.cli.options import AsJson, CubePath, LayerName, layer_of, teller
from embedcube.errors import RequestError, WorkError
from embedcube.printable import printable
from embedcube.progress import Say, shown

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from embedcube.cube.find import Found, Search
    from embedcube.cube.layer import Layer
    from embedcube.cube.within import Within
    from embedcube.uses.recall import Checked

verbs = typer.Typer()


@verbs.command()
def find(
    cube: Annotated[Path | None, typer.Argument(metavar="[CUBE.zarr]", help="The folder of a cube.")] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LON,LAT|FILE.geojson|ID",
            help="A place, polygons, or in a list an id, to be like; may be repeated.",
        ),
    ] = None,
    unlike: Annotated[
        list[str] | None, typer.Option(metavar="LON,LAT|FILE.geojson|ID", help="One to be unlike; may be repeated.")
    ] = None,
    k: Annotated[int, typer.Option(help="Number of hits.", min=1)] = 10,
    moment: Annotated[str | None, typer.Option("--time", help="Windows of hits and examples: 2023.")] = None,
    within: Annotated[
        str | None, typer.Option(metavar="W,S,E,N|FILE.geojson", help="Search only here, in degrees.")
    ] = None,
    apart_m: Annotated[
        float | None, typer.Option("--apart-m", help="Metres between hits; by default 100, or two large cells.", min=0)
    ] = None,
    layer: LayerName = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the hits: .geojson, .csv or .parquet.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Instead of a search: read the index again, and measure its recall.")
    ] = False,
    catalogue: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="Instead of a cube: the cubes of all its centres.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find places like some examples.  Example: embedcube find cube.zarr --like 7.6,50.87 --k 10"""
    if (cube is None) == (catalogue is None):
        raise RequestError("find searches a cube, or the cubes of a --catalogue: name one of them")
    searched = None if cube is None else layer_of(cube, layer)
    if check and searched is not None:
        _print_checked(_checked(searched), teller(as_json), as_json)
        return
    if not like:
        raise RequestError("find needs an example: --like LON,LAT, for instance --like 7.6,50.87")
    from embedcube.cube.listed import is_list
    from embedcube.uses.tables import check_suffix

    check_suffix(out)
    region = None if within is None else _region(within)
    if searched is not None and is_list(searched.zones[0]):
        _find_samples_in(searched, (like, unlike or []), _search(k, moment, region, apart_m), out, as_json)
        return
    examples = [_example(text) for text in like], [_example(text) for text in unlike or []]
    if searched is not None:
        _find_in(searched, examples, _search(k, moment, region, apart_m), out, as_json)
        return
    from embedcube.uses.holders import Question

    asked = Question(
        like=examples[0], unlike=examples[1], layer=layer, k=k, time=moment, within=region, apart_m=apart_m
    )
    find_at_centres(str(catalogue), asked, out, None if as_json else print)


def _search(k: int, moment: str | None, region: "Within | None", apart_m: float | None) -> "Search":
    from embedcube.cube.find import Search

    return Search(k=k, time=moment, within=region, apart_m=apart_m)


def _find_in(
    searched: "Layer", examples: "tuple[list[Any], list[Any]]", search: "Search", out: Path | None, as_json: bool
) -> None:
    """Search one cube, and print the hits."""
    from embedcube.cube.find import find as find_in
    from embedcube.cube.find import table_of
    from embedcube.uses.tables import write_table

    say = teller(as_json)
    found = find_in(searched.cube, searched.name, examples[0], examples[1] or None, search, searched.index)
    if not found.cells:
        where = ",".join(f"{edge:g}" for edge in searched.bounds)
        raise RequestError(f"no cell of {searched.name} lies in --within; the layer is in {where} degrees")
    if out is not None:
        write_table(table_of(found), out)
        say(f"wrote {out}")
    if as_json:
        answer = {"cube": searched.cube.address, "layer": searched.name} | asdict(found)
        print(json.dumps(answer | {"out": str(out) if out else None}))
        return
    _print_hits(found)


def _find_samples_in(
    searched: "Layer", texts: tuple[list[str], list[str]], search: "Search", out: Path | None, as_json: bool
) -> None:
    """Search a list of samples, and print the hits."""
    from embedcube.cube.samples_like import find_samples, table_of_samples
    from embedcube.uses.tables import write_table

    # an id may look like a place
    like, unlike = (
        [text if text in searched.ids or _numbers(text, 2) is None else _example(text) for text in some]
        for some in texts
    )
    found = find_samples(searched.cube, searched.name, like, unlike or None, search)
    if not found.samples:
        raise RequestError(f"no sample of {searched.name} lies in --within; one without a place lies in no region")
    if out is not None:
        write_table(table_of_samples(found), out)
        teller(as_json)(f"wrote {out}")
    if as_json:
        answer = {"cube": searched.cube.address, "layer": searched.name} | asdict(found)
        print(json.dumps(answer | {"out": str(out) if out else None}))
        return
    print("rank  cosine      lon         lat        window                  status            sample")
    for hit in found.hits:
        lon, lat = ("-" if degrees is None else f"{degrees:.5f}" for degrees in (hit.lon, hit.lat))
        print(
            f"{hit.rank:>4}  {hit.cosine:.6f}  {lon:>10}  {lat:>9}  {hit.window:<22}  {hit.status:<16}  "
            f"{printable(hit.sample, 80)}"
        )
    print(f"{len(found.hits)} hits of {found.samples:,} samples, every one compared")


@verbs.command("index-vectors")
def index_vectors(cube: CubePath, layer: LayerName = None, as_json: AsJson = False) -> None:
    """Index a cube, so that find is fast.  Example: embedcube index-vectors cube.zarr"""
    from embedcube.cube.reader import Cube
    from embedcube.uses.index import index_vectors as index_them
    from embedcube.uses.index import spread_for

    opened = Cube(cube)
    layers = opened.maps or opened.layers if layer is None else (opened[layer].name,)
    say = teller(as_json)
    with spread_for(opened) as spread, shown("index", "segments", say) as progress:
        indexed = index_them(opened, layers, spread, progress)
    if as_json:
        print(json.dumps(asdict(indexed)))
    say(
        f"{indexed.cells:,} vectors in {indexed.built + indexed.linked + indexed.kept} segments: {indexed.built} "
        f"built, {indexed.linked} linked from another version, {indexed.kept} kept"
    )
    say(
        f"{indexed.folder}: {indexed.bytes / 1e6:.1f} MB, {indexed.bytes / max(1, indexed.vector_bytes):.2f} x the "
        "vectors"
    )


@verbs.command()
def change(
    cube: CubePath,
    before: Annotated[str, typer.Option("--from", help="The past: windows to compare with, for example 2018/2022.")],
    after: Annotated[str, typer.Option("--to", help="The windows that are scored, for example 2023-06.")],
    history: Annotated[
        Path | None, typer.Option(help="A cube of the same weights with the past, if this one has it not.")
    ] = None,
    k: Annotated[int, typer.Option(help="Number of places with the largest scores that are printed.", min=0)] = 10,
    layer: LayerName = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the map: .tif, .zarr or .nc.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score how much places changed.  Example: embedcube change cube.zarr --from 2019/2023 --to 2023-06"""
    from embedcube.cube.changed import most_changed
    from embedcube.uses.maps import WRITERS, write_maps

    if out is not None and out.suffix not in WRITERS:
        raise RequestError(f"{out}: a map is written as {', '.join(WRITERS)}; give it such a name")
    searched = layer_of(cube, layer)
    changed = searched.change(before, after, None if history is None else layer_of(history, searched.name))
    hits = most_changed(searched.cube, searched.name, changed, after, k)
    files = [] if out is None else [str(path) for path in write_maps(changed, out)]
    remarks = list(changed.attrs["remarks"])
    if as_json:
        answer = {"cube": str(cube), "layer": searched.name, "files": files, "remarks": remarks}
        print(json.dumps(answer | {"places": [asdict(hit) for hit in hits]}))
        return
    print("rank  score    lon         lat        window                  cell")
    for hit in hits:
        place = f"{hit.zone} t {hit.t} y {hit.y} x {hit.x}"
        print(f"{hit.rank:>4}  {hit.score:>6.1f}  {hit.lon:>10.5f}  {hit.lat:>9.5f}  {hit.window:<22}  {place}")
    print("\n".join([*(f"remark: {remark}" for remark in remarks), *(f"wrote {file}" for file in files)]))


def _example(text: str) -> "tuple[float, float] | BaseGeometry":
    """A place or a polygon of the command line."""
    numbers = _numbers(text, 2)
    return _polygon(text, "LON,LAT") if numbers is None else (numbers[0], numbers[1])


def _region(text: str) -> "tuple[float, float, float, float] | BaseGeometry":
    numbers = _numbers(text, 4)
    return _polygon(text, "W,S,E,N") if numbers is None else (numbers[0], numbers[1], numbers[2], numbers[3])


def _numbers(text: str, count: int) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return numbers if len(numbers) == count else None


def _polygon(text: str, otherwise: str) -> "BaseGeometry":
    from shapely.geometry import shape

    from embedcube.campaign.geojson import read_geojson

    path = Path(text)
    if not path.is_file():
        raise RequestError(f'"{text}" is neither {otherwise} in degrees nor a GeoJSON file with polygons')
    try:
        return shape(read_geojson(path))
    except ValueError as error:
        raise RequestError(str(error).removeprefix("region.geojson: ")) from None


def _checked(layer: "Layer") -> "Checked":
    from embedcube.uses.recall import check

    if layer.index is None:
        cube = layer.cube.address
        raise RequestError(f"{cube}: no vector index of {layer.name}; make it: embedcube index-vectors {cube}")
    return check(layer.cube, layer.index)


def _print_checked(checked: "Checked", say: Say, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(checked)))
    say(f"{checked.queries} queries among {checked.cells:,} vectors, against comparing every one")
    say(f"lists  recall@10  recall of places {checked.apart_m:g} m apart  vectors read  CPU ms a query")
    for one in checked.measured:
        say(
            f"{one.lists:>5}  {one.recall_at_10:>9.3f}  {one.recall_of_places:>26.3f}  {one.share_read:>12.2%}  "
            f"{one.cpu_ms:>14.2f}"
        )
    if checked.damaged:
        raise WorkError(
            f"{len(checked.damaged)} files of the index have changed on the disk, the first is {checked.damaged[0]}: "
            "remove them and run `embedcube index-vectors` again"
        )


def _print_hits(found: "Found") -> None:
    print("rank  cosine      lon         lat        window                  status            cell")
    for hit in found.hits:
        print(
            f"{hit.rank:>4}  {hit.cosine:.6f}  {hit.lon:>10.5f}  {hit.lat:>9.5f}  {hit.window:<22}  {hit.status:<16}  "
            f"{hit.zone} t {hit.t} y {hit.y} x {hit.x}"
        )
    compared = "every one compared" if found.exact else "those in the nearest lists of the index compared"
    index = "" if found.indexed else ", without an index"
    print(f"{len(found.hits)} hits of {found.cells:,} cells, {compared}{index}")
