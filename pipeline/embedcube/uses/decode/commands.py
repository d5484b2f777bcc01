"""Fit, score and apply a decoder, as the command line does: from paths to files and reports."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.reader import Cube, open_cube
from embedcube.errors import RequestError
from embedcube.progress import Progress, silent
from embedcube.uses.decode.baselines import PIXELS, Again, read_again
from embedcube.uses.decode.examples import Examples, cells_of_other, check_layers, with_around
from embedcube.uses.decode.figures import figures
from embedcube.uses.decode.file import Decoder, check_fits, made, read_decoder, write_decoder
from embedcube.uses.decode.fit import Settings, fit_head
from embedcube.uses.decode.folds import folds_of
from embedcube.uses.decode.labels import cell_m, digest_of, read_examples
from embedcube.uses.decode.metrics import scores
from embedcube.uses.decode.pixels import PixelRow, pixel_classes, score_pixels
from embedcube.uses.decode.report import Held, Report, score
from embedcube.uses.decode.request import Request
from embedcube.uses.decode.xview3 import Xview3Score, score_xview3


def fit(
    cube_path: Path, labels: Sequence[Path], to: Path, request: Request, settings: Settings, layers: Sequence[str] = ()
) -> tuple[Decoder, Examples]:
    """Fit a decoder on all labels and write its file; returns it with the labelled vectors.

    Raises:
        RequestError: labels, layers, head or the name of the file are not usable.
    """
    if to.suffix != ".safetensors":
        raise RequestError(f"{to}: a decoder is a file .safetensors")
    settings.checked(request.task)
    if request.share:
        settings = replace(settings, bounds=(0.0, 1.0))
    cube = open_cube(cube_path)
    layers = check_layers(cube, layers)
    examples = _examples(cube, layers, labels, request, settings)
    head = fit_head(examples, settings)
    decoder = made(cube, layers, examples, head, request, settings, digest_of(labels))
    write_decoder(decoder, to)
    return decoder, examples


def score_decoder(
    cube_path: Path, decoder_file: Path, labels: Sequence[Path], held: Held, *, again: bool = True,
    progress: Progress = silent,
) -> Report:  # fmt: skip
    """Score a decoder's way of learning on held-out labels, beside what is simpler; and what it costs.

    With `again` the labelled cells are read from the archive of the cube's run folder: raw pixels, random weights.
    With labels that the decoder was not fitted on, its own score on them is a verdict of the report.
    """
    cube, decoder = open_cube(cube_path), read_decoder(decoder_file)
    check_fits(decoder, cube, decoder_file)
    request, settings = decoder.about.request, decoder.about.settings
    examples = _examples(cube, decoder.layers, labels, request, settings)
    seen = _again(cube, decoder.layers, examples, settings.seed, progress) if again else None
    raw = seen.features.pop(PIXELS, None) if seen else None
    report = score(examples, settings, held, seen.features if seen else None)
    if request.task == "dense":
        report = replace(report, pixels=_on_pixels(cube, examples, labels, decoder, held, raw))
    costs = figures(cube, decoder.layers, examples, decoder.head, settings, seen)
    verdicts = report.verdicts
    if digest_of(labels) != decoder.about.labels:
        verdicts = (*verdicts, _as_it_is(decoder, examples, report.main))
    return replace(report, figures=costs, verdicts=verdicts)


def score_vessels(cube_path: Path, detections: Path, labels: Path, shore: Path | None) -> Xview3Score:
    """The metric of xView3, with the ceiling of perfect tokens as large as the cells of the cube."""
    cube = open_cube(cube_path)
    sides = {cell_m(cube, layer) for layer in cube.layers}
    return score_xview3(detections, labels, shore, sorted(sides - {0.0}))


def _examples(
    cube: Cube, layers: Sequence[str], labels: Sequence[Path], request: Request, settings: Settings
) -> Examples:
    """The labels with their vectors, and those of the cells beside where the head takes them."""
    examples = read_examples(cube, layers, labels, request)
    return with_around(cube, layers, examples) if settings.around else examples


def _on_pixels(
    cube: Cube, examples: Examples, labels: Sequence[Path], decoder: Decoder, held: Held,
    raw: NDArray[np.float32] | None,
) -> tuple[PixelRow, ...]:  # fmt: skip
    """Scores on pixels; none where the pixels of the labels do not divide the cells."""
    assert examples.cells is not None
    try:
        codes = pixel_classes(cube, examples.cells, labels, decoder.about.request, examples.classes)
    except RequestError:
        return ()
    folds = folds_of(examples, blocks=held.blocks, groups=held.groups, years=held.years, count=held.folds)
    fits = raw is not None and raw.shape[1] % codes[0].size == 0
    pixels = raw.reshape(*codes.shape, -1) if raw is not None and fits else None
    return score_pixels(examples, codes, pixels, decoder.about.settings, folds)


def _again(cube: Cube, layers: Sequence[str], examples: Examples, seed: int, progress: Progress) -> Again:
    """Raw pixels and random weights of all layers side by side, as the vectors are."""
    assert examples.cells is not None
    parts = []
    for layer in layers:
        cells, rows = examples.cells, np.arange(len(examples))
        if layer != layers[0]:
            cells, rows = cells_of_other(cube, layer, examples)
        pixels = examples.task == "dense" and len(layers) == 1
        part = read_again(cube, layer, cells, seed, progress, pixels=pixels)
        features = {name: _spread(values, rows, len(examples)) for name, values in part.features.items()}
        parts.append(replace(part, features=features))
    names = set.intersection(*(set(part.features) for part in parts))
    return Again(
        features={name: np.concatenate([part.features[name] for part in parts], axis=1) for name in sorted(names)},
        encoder_parameters=sum(part.encoder_parameters for part in parts),
        raw_bytes=sum(part.raw_bytes for part in parts),
        read_cpu_s=sum(part.read_cpu_s for part in parts),
        encoder_cpu_s=sum(part.encoder_cpu_s for part in parts),
        missing="; ".join(dict.fromkeys(part.missing for part in parts if part.missing)),
    )


def _spread(values: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    whole = np.full((count, values.shape[1]), np.nan, np.float32)
    whole[rows] = values
    return whole


def _as_it_is(decoder: Decoder, examples: Examples, main: str) -> str:
    """The score of the stored head on labels that it was not fitted on."""
    if examples.classes != decoder.about.classes:
        return f"the stored head knows {', '.join(decoder.about.classes)}; these labels have other classes"
    found = scores(examples.task, examples.target, examples.said(decoder.head))
    return f"the stored head, as it is, on these other labels: {main.replace('_', ' ')} {found[main]:.3f}"
