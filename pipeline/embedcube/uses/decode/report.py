"""Score decoders: the same labels seen through vectors and through what is simpler, on folds that leak and do not."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.uses.decode.baselines import filled
from embedcube.uses.decode.examples import Examples
from embedcube.uses.decode.fit import Settings, fit_head
from embedcube.uses.decode.folds import FOLDS, Folds, Size, folds_of, random_folds
from embedcube.uses.decode.labels import counted_classes
from embedcube.uses.decode.metrics import MAIN, Calibration, calibration, scores, within_groups
from embedcube.uses.decode.pixels import PixelRow

VECTORS = "vectors"
"""name of the row of the cube's vectors"""

ALONE = "vectors of single cells"
"""where a head takes the cells beside too: what one that does not says"""

NOTHING = "majority class"
MEAN = "mean of the labels"
PLACE = "place and date only"


@dataclass(frozen=True, kw_only=True)
class Held:
    """How a report holds rows out."""

    blocks: Size | None = None
    """side of blocks; None for 0.1 degrees, or less where labels lie close together"""
    groups: bool = False
    years: bool = False
    folds: int = FOLDS
    seeds: int = 3
    """how many times folds are dealt; blocks and groups differently each time"""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score over all held-out rows, mean over seeds, and the standard deviation over folds and seeds."""

    value: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of features with one kind of folds."""

    features: str
    head: str
    folds: str
    """as `Folds.words`"""
    leaks: bool
    """whether neighbours of held-out rows were learned from: random folds"""
    groups: int
    numbers: int
    """features of a row"""
    scores: dict[str, Score]
    fit_cpu_s: float
    """CPU seconds of one fit, mean"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows, with what they are scores of."""

    task: str
    main: str
    """name of the score that `verdicts` compare"""
    labels: int
    """labelled cells with a vector"""
    classes: dict[str, float]
    left_out: dict[str, int]
    rows: tuple[Row, ...]
    calibration: Calibration | None
    """of the vectors, on folds that do not leak"""
    verdicts: tuple[str, ...]
    pixels: tuple[PixelRow, ...] = ()
    """of dense labels: scores on the pixels of held-out cells"""
    figures: dict[str, Any] = field(default_factory=dict)
    """parameters, bytes and CPU seconds, of vectors and of raw pixels"""


def score(
    examples: Examples, settings: Settings, held: Held, others: Mapping[str, NDArray[np.float32]] | None = None
) -> Report:
    """Fit and score the head again and again on folds, with the vectors and with what is simpler.

    `others` are other features (row, feature) of the same rows by name: raw pixels, random weights. Rows in which one
    of them has no number are left out for all; where some are missing, each fold takes means of what it learns from.
    """
    others = dict(others or {})
    there = np.ones(len(examples), bool)
    for features in others.values():
        there &= np.isfinite(features).any(axis=1)
    examples, others = examples.take(there), {name: features[there] for name, features in others.items()}
    alone = settings.alone(examples.task)
    ways: list[tuple[str, Settings | None, Examples]] = [
        (NOTHING if examples.classes else MEAN, None, examples),
        (PLACE, _place_settings(settings, examples), examples.seen_through(places(examples))),
        *((name, alone, examples.seen_through(features)) for name, features in others.items()),
        *([(ALONE, alone, examples)] if settings.around else []),
        (VECTORS, settings, examples),
    ]
    dealt = [
        [folds_of(examples, blocks=held.blocks, groups=held.groups, years=held.years, count=held.folds, seed=seed)
         for seed in range(held.seeds)],
        [random_folds(examples, count=held.folds, seed=seed) for seed in range(held.seeds)],
    ]  # fmt: skip
    rows, calibrated = [], None
    for folds in dealt:
        for name, own, seen in ways:
            row, predicted = _scored(name, own, seen, folds)
            rows.append(row)
            if name == VECTORS and not row.leaks and examples.task == "classification":
                calibrated = calibration(examples.target.astype(np.int64), predicted)
    unused = {"no raw pixels": int((~there).sum())} if not there.all() else {}
    return Report(
        task=examples.task, main=MAIN[examples.task], labels=len(examples), classes=counted_classes(examples),
        left_out={**examples.left_out, **unused}, rows=tuple(rows), calibration=calibrated,
        verdicts=tuple(verdicts(rows, MAIN[examples.task])),
    )  # fmt: skip


def _place_settings(settings: Settings, examples: Examples) -> Settings:
    """Nearest neighbours: a linear head could not draw a map from coordinates."""
    return replace(settings, kind="knn")


def places(examples: Examples) -> NDArray[np.float32]:
    """Kilometres east and north of the middle of the labels, and the date in days where there are several."""
    north = (examples.lat - examples.lat.mean()) * 111.2
    east = (examples.lon - examples.lon.mean()) * 111.2 * np.cos(np.radians(examples.lat))
    days = (examples.seconds - examples.seconds.min()) / 86_400
    columns = [east, north, *([days] if days.any() else [])]
    return np.stack(columns, axis=1).astype(np.float32)


def _scored(
    name: str, settings: Settings | None, examples: Examples, dealt: Sequence[Folds]
) -> tuple[Row, NDArray[np.float64]]:
    """The row of one kind of features, and the predictions for held-out rows of the first dealing."""
    whole, single, cpu_s, first = [], [], [], None
    whole_rows = bool(np.isfinite(examples.features).all())
    for folds in dealt:
        predicted = np.zeros((len(examples), len(examples.classes) or 1))
        for fold in range(folds.count):
            out = folds.fold == fold
            seen = examples if whole_rows else examples.seen_through(filled(examples.features, ~out))
            start_s = time.process_time()
            predicted[out] = _predicted(settings, seen.take(~out), seen.take(out))
            cpu_s.append(time.process_time() - start_s)
            single.append(scores(examples.task, examples.target[out], predicted[out]))
        found = scores(examples.task, examples.target, predicted)
        if examples.task == "regression" and examples.group is not None:
            found["r2_within_groups"] = within_groups(examples.target, predicted[:, 0], examples.group)
        whole.append(found)
        first = predicted if first is None else first
    result = {
        key: Score(
            value=float(np.mean([one[key] for one in whole])),
            spread=float(np.nanstd([one[key] for one in (single if key in single[0] else whole)])),
        )
        for key in whole[0]
    }
    folds = dealt[0]
    row = Row(
        features=name, head="-" if settings is None else settings.kind, folds=folds.words, leaks=folds.kind == "random",
        groups=folds.groups, numbers=examples.features.shape[1] if settings else 0, scores=result,
        fit_cpu_s=float(np.mean(cpu_s)),
    )  # fmt: skip
    assert first is not None
    return row, first


def _predicted(settings: Settings | None, known: Examples, asked: Examples) -> NDArray[np.float64]:
    if settings is not None:
        return asked.said(fit_head(known, settings))
    if known.task == "regression":
        return np.full((len(asked), 1), known.target.mean())
    if known.task == "dense":
        return np.repeat(known.target.mean(axis=0)[None], len(asked), axis=0)
    counts = np.bincount(known.target.astype(np.int64), minlength=len(known.classes))
    return np.repeat(np.eye(len(counts))[[counts.argmax()]], len(asked), axis=0)


def verdicts(rows: Sequence[Row], main: str) -> list[str]:
    """What the rows say, in sentences; also where something simpler wins."""
    found = []
    fair = {row.features: row.scores[main] for row in rows if not row.leaks}
    leaking = {row.features: row.scores[main] for row in rows if row.leaks}
    vectors, words = fair[VECTORS], main.replace("_", " ")
    for name, other in fair.items():
        if name == VECTORS:
            continue
        difference = vectors.value - other.value
        told = f"{words} {vectors.value:.3f} against {other.value:.3f}"
        if abs(difference) <= max(vectors.spread, other.spread) / 2:
            found.append(f"vectors and {name} are within the spread of folds: {told}")
        else:
            found.append(f"vectors before {name}: {told}" if difference > 0 else
                         f"{name} before vectors: {words} {other.value:.3f} against {vectors.value:.3f}")  # fmt: skip
    if (gain := leaking[VECTORS].value - vectors.value) > vectors.spread / 2:
        found.append(f"random folds say {leaking[VECTORS].value:.3f}: {gain:.3f} too good, neighbours leak")
    nothing = fair.get(NOTHING) or fair.get(MEAN)
    if nothing is not None and vectors.value - nothing.value <= vectors.spread / 2:
        found.append("the vectors are at chance on these folds")
    return found
