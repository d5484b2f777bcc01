"""Verbs that give parts of a cube to others and take them in: export, check, import, codecs.

Heavy imports are inside the functions, as in `verbs.py`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedcube.campaign.readable import readable
from embedcube.cli.options import AsJson, Bbox, LayerName, Moment, parts_of, teller, values_of
from embedcube.errors import RequestError, WorkError
from embedcube.progress import shown

if TYPE_CHECKING:
    from embedcube.uses.exchange.part import Exported

verbs = typer.Typer()

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="What `export --as bundle` wrote.")]

FormName = Literal["bundle", "geoparquet", "major-tom", "neuco-csv", "terratorch-tiff", "terratorch-parquet", "pt"]


@verbs.command()
def export(
    cube: Annotated[str, typer.Argument(metavar="CUBE.zarr", help="Folder or link of a cube.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file, or the folder of terratorch-* and pt.")],
    form: Annotated[FormName, typer.Option("--as", help="Form of the file.")] = "bundle",
    layer: Annotated[str, typer.Option(help="Layers, with commas between; by default all.")] = "",
    bbox: Bbox = None,
    moment: Moment = None,
    ids: Annotated[str, typer.Option(help="Cells ZONE/ROW/COLUMN with commas between, or @FILE with one a line.")] = "",
    features: Annotated[int | None, typer.Option(help="Fewer numbers: components of a PCA, as int8.", min=1)] = None,
    bits: Annotated[Literal["8", "4", "1"] | None, typer.Option(help="Fewer bits for each number, centred.")] = None,
    tile: Annotated[int, typer.Option(help="Of terratorch-*: cells along a side of a tile.", min=1)] = 16,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how large it would be, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a part of a cube as one file.  Example: embedcube export cube.zarr june.zip --time 2023-06"""
    from embedcube.uses.exchange.chosen import Chosen
    from embedcube.uses.exchange.codecs import Smaller
    from embedcube.uses.exchange.export import export as write
    from embedcube.uses.touching import parse_box

    chosen = Chosen(layers=parts_of(layer), box=parse_box(bbox) if bbox else None, time=moment, ids=_ids(ids))
    width: Literal[8, 4, 1] = 1 if bits == "1" else 4 if bits == "4" else 8
    smaller = Smaller(features=features, bits=width) if features or bits else None
    with shown("export", "objects", teller(as_json)) as progress:
        done = write(cube, out, form, chosen, smaller, progress, tile=tile, dry_run=dry_run)
    _say_exported(done, dry_run=dry_run, as_json=as_json)


def _say_exported(done: "Exported", *, dry_run: bool, as_json: bool) -> None:
    size = f"{'' if done.exact or not dry_run else 'about '}{done.bytes:,} bytes"
    if as_json:
        print(json.dumps(asdict(done), default=str))
        return
    for layer, loss in done.measured.items():
        print(
            f"loss        {layer}: {loss['codec']}, {loss['recall_at_10']:.3f} of the ten nearest cells stay, "
            f"centred cosine {loss['centred_cosine']:.4f}" + (f"; {loss['warning']}" if loss["warning"] else "")
        )
    cells = f", {done.cells:,} cells with a vector" if done.cells else ""
    what = str(done.files[0]) if len(done.files) == 1 else f"{len(done.files)} files in {done.files[0].parent}"
    print(f"{'would be' if dry_run else 'wrote':<12}{what}: {size}{cells}")


@verbs.command()
def check(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Compare every byte of a bundle with its digests.  Example: embedcube check june.zip"""
    from embedcube.uses.exchange.receiving import check as compare

    with shown("check", "members", teller(as_json)) as progress:
        found = compare(bundle, progress)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        print("\n".join(found.damaged) or f"nothing found wrong: {found.members} members, {found.bytes:,} bytes, a "
              f"{'part' if found.kind == 'part' else 'part with smaller vectors'} of cube {found.cube}")  # fmt: skip
    if found.damaged:
        raise WorkError(f"{bundle}: {len(found.damaged)} members are damaged; copy or export the bundle again")


@verbs.command("import")
def import_(
    bundle: BundlePath,
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the cube comes to lie.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Make a cube of a bundle.  Example: embedcube import june.zip cubes"""
    from embedcube.uses.exchange.receiving import take_in

    with shown("import", "files", teller(as_json)) as progress:
        made = take_in(bundle, folder, progress)
    if as_json:
        print(json.dumps(asdict(made), default=str))
        return
    print(f"wrote       {made.folder}: {made.files} files, {made.kept} of them were there")
    if made.kind == "part":
        print(f"now         embedcube verify {made.folder}")


@verbs.command()
def codecs(
    source: Annotated[str, typer.Argument(metavar="CUBE|FIELD.nc", help="A cube; or a file of fields, as ERA5.")],
    labels: Annotated[
        Path | None, typer.Option(help="Labels: the change of a decoder's score is measured too.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of the labels: their column.")] = None,
    share: Annotated[str, typer.Option(help="Of a raster of labels: the share of these values, as 8+9.")] = "",
    layer: LayerName = None,
    bounds: Annotated[str, typer.Option(help="Of fields: largest errors, as shares of the range.")] = "1e-4,1e-2",
    as_json: AsJson = False,
) -> None:
    """Measure what smaller vectors or fields lose.  Example: embedcube codecs cube.zarr"""
    if Path(source).is_file() and Path(source).suffix in (".nc", ".nc4", ".grib", ".grb", ".grib2"):
        from embedcube.uses.exchange.fields import lines_of_fields, measure_file

        runs = measure_file(Path(source), tuple(_number(text) for text in parts_of(bounds)))
        print(json.dumps([asdict(run) for run in runs]) if as_json else "\n".join(lines_of_fields(runs)))
        if broken := [run for run in runs if not run.bound_holds]:
            raise WorkError(f"{len(broken)} of {len(runs)} runs violate their bound, the first {broken[0].codec}")
        return
    from embedcube.uses.exchange.measured import lines_of_losses, measure_cube

    found = measure_cube(source, layer, labels, column, values_of(share))
    print(json.dumps([asdict(one) for one in found]) if as_json else "\n".join(lines_of_losses(found)))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise RequestError(f'--bounds "{text}" is no share of the range; write for example 1e-4,1e-2')
    return number


def _ids(text: str) -> tuple[str, ...]:
    if text.startswith("@"):
        lines = readable(Path(text[1:])).read_text().splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    return parts_of(text)
