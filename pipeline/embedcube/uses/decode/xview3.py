"""Score detections of vessels by the metric of xView3, from its tables: where they are, what they are, how long.

The aggregate is F1 x (1 + length + vessel + fishing + shore) / 5, all between 0 and 1:

    F1        of locations: a detection stands for a label closer than 200 m, each for one (Hungarian method)
    shore     the same within 2 km of the shore
    vessel    F1 of "is a vessel" among detections that stand for a label
    fishing   F1 of "is fishing" among those that stand for a vessel
    length    1 - mean relative error, lengths above 500 m counted as 500 m

Labels of low confidence are left out, and with them the detections that stand for them (its options `drop_low_detect`
and `costly_dist`). As in its evaluator, labels of scenes without any detection do not count, and a scene counts for
the shore only where labels and detections lie near it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.readable import readable
from embedcube.errors import RequestError
from embedcube.uses.decode.detections import TOLERANCE_M, Points, pairs, perfect_tokens

if TYPE_CHECKING:
    import pandas

PIXEL_M = 10.0
"""side of the pixels that rows and columns of a scene count"""

SHORE_M = 2_000.0

LONGEST_M = 500.0

_PLACE = ("detect_scene_row", "detect_scene_column")
_TOLD = ("scene_id", *_PLACE, "is_vessel", "is_fishing", "vessel_length_m")
_KNOWN = (*_TOLD, "confidence", "distance_from_shore_km")
_TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "": np.nan, "nan": np.nan}


@dataclass(frozen=True, kw_only=True)
class Xview3Score:
    """The metric, and what it is made of."""

    aggregate: float
    location: float
    """F1"""
    shore: float | None
    """F1 near the shore; None where no shorelines are given, which counts as 0"""
    vessel: float
    fishing: float
    length: float
    scenes: int
    """with labels and detections"""
    scenes_without: int
    """with labels and no detection: they do not count"""
    labels: int
    """of medium and high confidence"""
    detections: int
    """without those that stand for a label of low confidence"""
    ceilings: dict[str, float]
    """F1 of locations that perfect tokens would get, by their side in metres"""


def score_xview3(
    detections: Path, labels: Path, shore: Path | None = None, tokens_m: Sequence[float] = ()
) -> Xview3Score:
    """The metric of a CSV of detections against a CSV of labels, both as xView3 has them.

    `shore` is a folder with the points (row, column) of the shoreline of each scene, SCENE_shoreline.npy. `tokens_m`
    are sides of tokens whose ceiling is told.

    Raises:
        RequestError: a table or a shoreline cannot be read, or lacks something.
    """
    told, known = _table(detections, _TOLD), _table(labels, _KNOWN)
    if told["vessel_length_m"].isna().any():
        raise RequestError(f"{detections.name}: a detection has no vessel_length_m; each needs a length")
    scenes = [scene for scene in known["scene_id"].unique() if (told["scene_id"] == scene).any()]
    if not scenes:
        raise RequestError(f"{detections.name}: none of its scenes has labels in {labels.name}")
    matches = [_Scene.of(told[told["scene_id"] == one], known[known["scene_id"] == one]) for one in scenes]
    near = None if shore is None else [
        each for name, one in zip(scenes, matches, strict=True) if (each := one.near(_shoreline(shore, str(name))))
    ]  # fmt: skip
    vessel = np.concatenate([one.pair("is_vessel") for one in matches])
    fishing = np.concatenate([one.pair("is_fishing") for one in matches])[vessel[:, 1] == 1]
    parts = {
        "location": _f1([one.counts for one in matches]), "vessel": _f1_of_truths(vessel),
        "fishing": _f1_of_truths(fishing),
        "length": _length(np.concatenate([one.pair("vessel_length_m") for one in matches])),
    }  # fmt: skip
    shore_f1 = None if near is None else _f1(near)
    aggregate = parts["location"] * (1 + parts["length"] + parts["vessel"] + parts["fishing"] + (shore_f1 or 0)) / 5
    return Xview3Score(
        aggregate=aggregate, **parts, shore=shore_f1, scenes=len(scenes),
        scenes_without=int(known["scene_id"].nunique()) - len(scenes), labels=sum(len(one.known) for one in matches),
        detections=sum(len(one.told) for one in matches),
        ceilings={f"{side:g}": _f1([one.perfect(side) for one in matches]) for side in tokens_m},
    )  # fmt: skip


def lines_of_xview3(score: Xview3Score) -> list[str]:
    """The score as lines of text."""
    left = f"; {score.scenes_without} scenes without any detection do not count" if score.scenes_without else ""
    return [
        f"xView3      {score.aggregate:.3f}: {score.detections:,} detections, {score.labels:,} labels, "
        f"{score.scenes} scenes{left}",
        f"  location F1 {score.location:.3f}",
        f"  shore F1    {'no shorelines, counts as 0' if score.shore is None else f'{score.shore:.3f}'}",
        f"  vessel F1   {score.vessel:.3f}",
        f"  fishing F1  {score.fishing:.3f}",
        f"  length      {score.length:.3f}",
        *(f"ceiling     location F1 {f1:.3f} with perfect tokens of {side} m" for side, f1 in score.ceilings.items()),
    ]


Counts = tuple[int, int, int]
"""matches, detections, labels"""


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """The detections and labels of a scene that count, and which stand for which."""

    told: "pandas.DataFrame"
    known: "pandas.DataFrame"
    first: NDArray[np.int64]
    """rows of `told` that stand for a label"""
    second: NDArray[np.int64]
    """the row of `known` of each"""

    @classmethod
    def of(cls, told: "pandas.DataFrame", known: "pandas.DataFrame") -> "_Scene":
        """The scene without labels of low confidence, and without what stands for them."""
        first, second = pairs(_metres(told), _metres(known))
        unsure = first[(known["confidence"] == "LOW").to_numpy()[second]]
        told = told.drop(index=told.index[unsure])
        known = known[known["confidence"].isin(["HIGH", "MEDIUM"])]
        first, second = pairs(_metres(told), _metres(known))
        return cls(told=told, known=known, first=first, second=second)

    @property
    def counts(self) -> Counts:
        return len(self.first), len(self.told), len(self.known)

    def pair(self, column: str) -> NDArray[np.float64]:
        """What was said and what is true (match, 2) of the detections that stand for a label."""
        said, true = self.told[column].to_numpy(float)[self.first], self.known[column].to_numpy(float)[self.second]
        return np.stack([said, true], axis=1)

    def perfect(self, side_m: float) -> Counts:
        """The same as `counts` of perfect tokens."""
        true = _metres(self.known)
        found = perfect_tokens(true, side_m, (0, 0))
        return len(pairs(found, true)[0]), len(found), len(true)

    def near(self, shoreline: Points) -> Counts | None:
        """The same near the shore; None where there are no labels or no detections."""
        from scipy.spatial import KDTree

        true = _metres(self.known[self.known["distance_from_shore_km"] * 1000 <= SHORE_M])
        if not (len(shoreline) and len(true) and len(self.told)):
            return None
        found = _metres(self.told)
        found = found[KDTree(shoreline).query(found)[0] <= SHORE_M + TOLERANCE_M]
        return (len(pairs(found, true)[0]), len(found), len(true)) if len(found) else None


def _metres(table: "pandas.DataFrame") -> Points:
    return np.asarray(table[list(_PLACE)].to_numpy(float) * PIXEL_M)


def _f1(counts: Sequence[Counts]) -> float:
    """F1 over scenes."""
    right, told, known = (sum(one[i] for one in counts) for i in range(3))
    return 2 * right / (told + known) if right else 0.0


def _f1_of_truths(pairs_of: NDArray[np.float64]) -> float:
    """F1 of what was said to be true; pairs without a known truth do not count."""
    said, true = pairs_of[np.isfinite(pairs_of[:, 1])].T
    right, wrong = int(((said == 1) & (true == 1)).sum()), int(((said != 0) & (true == 0)).sum())
    return _f1([(right, right + wrong, int((true == 1).sum()))])


def _length(pairs_of: NDArray[np.float64]) -> float:
    said, true = np.minimum(pairs_of[np.isfinite(pairs_of[:, 1])], LONGEST_M).T
    return 1 - min(float((np.abs(said - true) / true).mean()), 1.0) if len(true) else 0.0


def _shoreline(folder: Path, scene: str) -> Points:
    """Points of the shoreline of a scene in metres; none where the scene has no shore."""
    path = folder / f"{scene}_shoreline.npy"
    try:
        points = np.load(readable(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(
            f"{path}: no points (row, column) of a shoreline ({' '.join(str(error).split())[:80]}); those of xView3 "
            "are pickles, which can run code: where you trust them, save np.vstack(contours) as numbers"
        ) from None
    if points.size and (points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu"):
        raise RequestError(f"{path}: an array {points.dtype} {points.shape}; a shoreline is points (row, column)")
    return np.asarray(points.reshape(-1, 2) * PIXEL_M, np.float64)


def _table(path: Path, columns: Sequence[str]) -> "pandas.DataFrame":
    """A CSV with these columns; truths become 1, 0 or NaN."""
    import pandas

    try:
        table = pandas.read_csv(readable(path), dtype={"scene_id": str, "is_vessel": str, "is_fishing": str})
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as CSV: {' '.join(str(error).split())[:120]}") from None
    if missing := [name for name in columns if name not in table]:
        raise RequestError(f"{path.name}: no column {missing[0]}; it has {', '.join(map(str, table.columns[:20]))}")
    for name in ("is_vessel", "is_fishing"):
        said = table[name].fillna("").str.lower()
        if unknown := sorted(set(said) - set(_TRUTH)):
            raise RequestError(f"{path.name}: column {name} has {unknown[0]!r}; write True, False, or nothing")
        table[name] = said.map(_TRUTH)
    for name in columns:
        if name not in ("scene_id", "confidence") and table[name].dtype.kind not in "fi":
            raise RequestError(f"{path.name}: column {name} is not all numbers")
    if not np.isfinite(table[list(_PLACE)].to_numpy(float)).all():
        raise RequestError(f"{path.name}: a row has no place; fill in {' and '.join(_PLACE)}")
    return table
