"""`embedcube decode fit`, `score` and `apply`: small heads on the vectors of a cube.

Heavy imports are inside the functions, as in `verbs.py`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedcube.cli.options import AsJson, Bbox, CubePath, Moment, parts_of, teller, values_of
from embedcube.errors import RequestError
from embedcube.progress import shown

decode = typer.Typer(
    help="From vectors to classes or numbers.  Example: embedcube decode apply cube.zarr crops.safetensors crops.tif",
    no_args_is_help=True,
    rich_markup_mode=None,
)

verbs = typer.Typer()
verbs.add_typer(decode, name="decode")

DecoderPath = Annotated[Path, typer.Argument(metavar="DECODER.safetensors", help="What `decode fit` wrote.")]
LabelPaths = Annotated[
    list[Path],
    typer.Argument(metavar="LABELS...", help="A table (.csv .parquet .geojson) of points or polygons; or rasters."),
]


@decode.command()
def fit(
    cube: CubePath,
    labels: LabelPaths,
    to: Annotated[Path, typer.Option(help="The file of the decoder.")],
    task: Annotated[
        Literal["classification", "regression", "dense"] | None,
        typer.Option(help="By default classification; regression for ridge and --share, dense for conv."),
    ] = None,
    head: Annotated[
        Literal["ridge", "logistic", "knn", "forest", "conv"] | None,
        typer.Option(help="By default ridge or logistic; conv sees the cells beside too, for --task dense."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of a table: the column of the label.")] = None,
    layers: Annotated[str, typer.Option(help="Layers side by side, for example s2,era5.")] = "",
    moment: Moment = None,
    date: Annotated[str | None, typer.Option(help="Of a table: the column of the date of each label.")] = None,
    groups: Annotated[str | None, typer.Option(help="Of a table: a column of groups that `score` keeps whole.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of the labels, where it is not degrees or the file's.")] = None,
    classes: Annotated[str, typer.Option(help="Of a raster: names and values, for example cloud=8+9,snow=11.")] = "",
    share: Annotated[str, typer.Option(help="Of a raster: the label is the share of these values, as 8+9.")] = "",
    align: Annotated[
        Literal["nearest", "majority", "mean"] | None, typer.Option(help="How pixels become the label of a cell.")
    ] = None,
    class_weights: Annotated[
        Literal["balanced", "none"], typer.Option(help="Whether rare classes count as much as frequent ones.")
    ] = "balanced",
    neighbours: Annotated[int, typer.Option(help="Of --head knn.", min=1)] = 10,
    trees: Annotated[int, typer.Option(help="Of --head forest.", min=1)] = 100,
    hidden: Annotated[int, typer.Option(help="Of --head conv: numbers between its two layers.", min=1)] = 64,
    most: Annotated[int, typer.Option(help="Labels that are learned from; of more, a sample.", min=3)] = 5_000,
    seed: Annotated[int, typer.Option(help="Seed of all that is random.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a head on labels.  Example: embedcube decode fit cube.zarr crops.csv --column crop --to crops.safetensors"""
    from embedcube.uses.decode import commands
    from embedcube.uses.decode.fit import FITTING, Settings
    from embedcube.uses.decode.labels import counted_classes
    from embedcube.uses.decode.request import Request

    numbers = head == "ridge" or share
    chosen = task or ("dense" if head == "conv" else "regression" if numbers else "classification")
    request = Request(
        task=chosen, column=column, crs=crs, time=moment, date=date, groups=groups, classes=_classes(classes),
        share=values_of(share), align=align,
    )  # fmt: skip
    settings = Settings(
        kind=head or FITTING[chosen][0], seed=seed, class_weights=class_weights, neighbours=neighbours, trees=trees,
        hidden=hidden, most=most,
    )  # fmt: skip
    decoder, examples = commands.fit(cube, labels, to, request, settings, parts_of(layers))
    answer = {
        "decoder": str(to), "labels": len(examples), "left_out": examples.left_out,
        "classes": counted_classes(examples), "parameters": decoder.head.parameters,
        "layers": [layer.name for layer in decoder.about.layers],
    }  # fmt: skip
    files = " ".join(map(str, labels if len(labels) == 1 else [labels[0], "..."]))
    print(json.dumps(answer) if as_json else _fitted(answer, f"embedcube decode score {cube} {to} {files}"))


def _fitted(answer: dict[str, Any], following: str) -> str:
    left = ", ".join(f"{count:,} {reason}" for reason, count in answer["left_out"].items())
    return "\n".join([
        f"labels      {answer['labels']:,} cells with a vector" + (f"; left out: {left}" if left else ""),
        *(f"  {name:24} {count:g}" for name, count in answer["classes"].items()),
        f"decoder     {answer['decoder']}: {answer['parameters']:,} numbers",
        f"now         {following}",
    ])  # fmt: skip


@decode.command()
def score(
    cube: CubePath,
    decoder: DecoderPath,
    labels: LabelPaths,
    blocks: Annotated[str | None, typer.Option(help="Side of the blocks that are held out: 0.1deg, 2km, 500m.")] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Hold out groups of the column that fit named.")] = False,
    years: Annotated[bool, typer.Option("--years", help="Hold out one year after the other.")] = False,
    folds: Annotated[int, typer.Option(help="Parts that are held out in turn.", min=2)] = 5,
    seeds: Annotated[int, typer.Option(help="Times that the folds are dealt.", min=1)] = 3,
    raw: Annotated[
        bool, typer.Option("--raw/--no-raw", help="Read the archive too: raw pixels and random weights.")
    ] = True,
    protocol: Annotated[
        Literal["neuco", "xview3"] | None,
        typer.Option(
            help="As NeuCo-Bench: its CSV of vectors as DECODER, its folder of labels as LABELS. "
            "As xView3: a CSV of detections as DECODER, its CSV of labels as LABELS."
        ),
    ] = None,
    shore: Annotated[Path | None, typer.Option(help="Of --protocol xview3: the folder of shorelines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score on held-out labels.  Example: embedcube decode score cube.zarr crops.safetensors crops.csv --blocks 2km"""
    if protocol == "neuco":
        from embedcube.uses.decode.neuco import lines_of_neuco, score_neuco

        found = score_neuco(decoder, labels[0])
        print(json.dumps([asdict(one) for one in found]) if as_json else "\n".join(lines_of_neuco(found)))
        return
    if protocol == "xview3":
        from embedcube.uses.decode.commands import score_vessels
        from embedcube.uses.decode.xview3 import lines_of_xview3

        vessels = score_vessels(cube, decoder, labels[0], shore)
        print(json.dumps(asdict(vessels)) if as_json else "\n".join(lines_of_xview3(vessels)))
        return
    from embedcube.uses.decode.commands import score_decoder
    from embedcube.uses.decode.folds import size_in
    from embedcube.uses.decode.printed import lines_of
    from embedcube.uses.decode.report import Held

    if sum([blocks is not None, groups, years]) > 1:
        raise RequestError("choose one of --blocks, --groups and --years")
    held = Held(
        blocks=size_in(blocks) if blocks else None, groups=groups, years=years, folds=folds, seeds=seeds
    )  # fmt: skip
    with shown("archive", "shards", teller(as_json)) as progress:
        report = score_decoder(cube, decoder, labels, held, again=raw, progress=progress)
    print(json.dumps(asdict(report)) if as_json else "\n".join(lines_of(report)))


@decode.command()
def apply(
    cube: CubePath,
    decoder: DecoderPath,
    out: Annotated[Path, typer.Argument(metavar="OUT.tif|OUT.zarr", help="Maps (COG), or a Zarr layer.")],
    moment: Moment = None,
    bbox: Bbox = None,
    finer: Annotated[
        int, typer.Option(help="Of a dense decoder: pixels along a side of a cell, logits interpolated.", min=1)
    ] = 1,
    guide: Annotated[
        list[Path] | None, typer.Option(help="Of numbers: fine bands that divide the cells; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decode the cells of a cube.  Example: embedcube decode apply cube.zarr crops.safetensors crops.tif --time 2023"""
    from embedcube.cube.reader import open_cube
    from embedcube.uses.decode.apply import apply as decode_cells
    from embedcube.uses.touching import parse_box

    within = parse_box(bbox) if bbox else None
    if guide:
        from embedcube.uses.decode.guided import check_guides, guide_all

        if out.suffix not in (".tif", ".tiff"):
            raise RequestError(f"{out}: with --guide a map is written as .tif")
        check_guides(guide, decoder)
    with shown("decode", "shards", teller(as_json)) as progress:
        files = decode_cells(open_cube(cube), decoder.absolute(), out, within, moment, progress, finer)
    if guide:
        files = guide_all(files, guide)
    if as_json:
        print(json.dumps({"files": [str(file) for file in files]}))
    else:
        print("\n".join(f"wrote {file}" for file in files))


def _classes(text: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for part in parts_of(text):
        name, equals, values = part.partition("=")
        if not (name and equals and values) or name in found:
            raise RequestError(f'--classes "{part}" is no class; write a name and its values once: cloud=8+9')
        found[name] = values_of(values)
    taken: list[Any] = [value for values in found.values() for value in values]
    if len(set(taken)) != len(taken):
        raise RequestError(f"--classes {text}: a value belongs to two classes; name it once")
    return found
