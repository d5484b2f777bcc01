"""`embedcube codecs CUBE`: what each way of writing the vectors of a layer costs and loses, on that cube."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedcube.cube.reader import Cube
from embedcube.uses.exchange.chosen import Chosen, one_layer
from embedcube.uses.exchange.codecs import Floats
from embedcube.uses.exchange.loss import Loss, losses, sample_of

_AS_STORED = "no measurement: the cube has its vectors so already, what that lost is not in the table"


def measure_cube(
    source: str, layer: str | None, labels: Path | None, column: str | None, share: tuple[int, ...]
) -> list[Loss]:
    """Measure the codecs on a sample of one layer; with labels also what they do to a decoder on held-out blocks."""
    cube = Cube(source)
    name = one_layer(cube, Chosen(layers=() if layer is None else (layer,)))
    change = None if labels is None else _change(cube, name, labels, column, share)
    found = losses(sample_of(cube, name), change)
    stored = str(cube.array(cube.zones_of(name)[0], "embedding").dtype)
    return [replace(one, warning=f"{one.warning}; {_AS_STORED}".removeprefix("; ")) if one.codec == stored else one
            for one in found]  # fmt: skip


def _change(
    cube: Cube, layer: str, labels: Path, column: str | None, share: tuple[int, ...]
) -> Callable[[Callable[[Floats], Floats]], float]:
    """Change of the main score of a linear head on held-out blocks where its vectors go through a function."""
    from embedcube.uses.decode.examples import Examples
    from embedcube.uses.decode.fit import Settings, fit_head
    from embedcube.uses.decode.folds import folds_of
    from embedcube.uses.decode.labels import read_examples
    from embedcube.uses.decode.metrics import MAIN, scores
    from embedcube.uses.decode.request import Request

    request = Request(task="regression" if share else "classification", column=column, share=share)
    examples = read_examples(cube, [layer], [labels], request)
    folds = folds_of(examples, blocks=None, groups=False, years=False)
    settings = Settings(kind="ridge" if share else "logistic")

    def scored(seen: Examples) -> float:
        predicted = np.zeros((len(seen), len(seen.classes) or 1))
        for fold in range(folds.count):
            out = folds.fold == fold
            predicted[out] = fit_head(seen.take(~out), settings)(seen.features[out])
        return scores(seen.task, seen.target, predicted)[MAIN[seen.task]]

    as_it_is = scored(examples)
    return lambda code: scored(examples.seen_through(code(examples.features))) - as_it_is


def lines_of_losses(found: Sequence[Loss]) -> list[str]:
    """The table as text, with its warnings."""
    decoded = any(one.decoder_change is not None for one in found)
    lines = [
        f"{'codec':<22}{'bytes':>8}{'smaller':>9}{'cosine':>9}{'worst':>9}{'recall@10':>11}"
        + ("   decoder" if decoded else "")
    ]
    for one in found:
        lines.append(
            f"{one.codec:<22}{one.bytes_per_vector:>8.1f}{one.times_smaller:>8.1f}x{one.centred_cosine:>9.4f}"
            f"{one.least_cosine:>9.4f}{one.recall_at_10:>11.3f}"
            + ("" if one.decoder_change is None else f"{one.decoder_change:>+10.4f}")
        )
    lines.append("bytes of a vector with its scale, compressed; cosine after the mean was subtracted: mean, and the "
                 "worst 1 %; recall@10 against the vectors of this cube; fitted on one half of the sample, "
                 "measured on the other")  # fmt: skip
    return [*lines, *(f"warning     {one.codec}: {one.warning}" for one in found if one.warning)]
