"""Fit a head on examples, with scikit-learn (the extra `decode`), and take it apart into plain arrays."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.errors import RequestError
from embedcube.uses.decode.examples import Examples, Task
from embedcube.uses.decode.folds import folds_of
from embedcube.uses.decode.heads import Head, Kind

FITTING: dict[Task, tuple[Kind, ...]] = {
    "regression": ("ridge", "knn", "forest"),
    "classification": ("logistic", "knn", "forest"),
    "dense": ("logistic", "knn", "conv"),
}
"""heads for each task, the default first"""

MOST_ROWS = 5_000
"""examples that a head is fitted on; of more, a sample is drawn with the seed"""

_ALPHAS = np.logspace(-2, 5, 15)
"""strengths of ridge's penalty; whole groups or blocks among the training rows, held out, choose"""

_STEPS = 2_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a head is fitted."""

    kind: Kind
    seed: int = 0
    class_weights: Literal["balanced", "none"] = "balanced"
    neighbours: int = 10
    trees: int = 100
    hidden: int = 64
    """of a conv head: numbers between its two convolutions"""
    most: int = MOST_ROWS
    bounds: tuple[float, float] | None = None
    """of a ridge head: the least and the greatest number that it says; None for any"""

    @property
    def around(self) -> bool:
        """Whether the head takes the cells beside a cell too."""
        return self.kind == "conv"

    def alone(self, task: Task) -> "Settings":
        """Settings of a head for features of single cells: these, or those of the default head of the task."""
        return replace(self, kind=FITTING[task][0]) if self.around else self

    def checked(self, task: Task) -> "Settings":
        """These settings; a RequestError names the heads that fit the task where this one does not."""
        if self.kind not in FITTING[task]:
            raise RequestError(f"a {self.kind} head is not for {task}; choose --head {' or '.join(FITTING[task])}")
        return self


def fit_head(examples: Examples, settings: Settings) -> Head:
    """A head for the task of the examples; equal examples and settings give an equal head.

    Features are standardised. Of more than `settings.most` rows a random sample is fitted on.
    """
    settings.checked(examples.task)
    if len(examples) > settings.most:
        rows = np.random.default_rng(settings.seed).choice(len(examples), settings.most, replace=False)
        examples = examples.take(np.sort(rows))
    features = examples.features.astype(np.float64)
    mean, std = features.mean(axis=0), features.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    if settings.around:
        arrays = _convolution(examples, mean, std, settings)
    else:
        standard = ((features - mean) / std).astype(np.float32)
        makers = {"ridge": _ridge, "logistic": _logistic, "knn": _neighbours, "forest": _forest}
        arrays = makers[settings.kind](standard, examples, settings)
    outputs = len(examples.classes) or 1
    return Head(kind=settings.kind, outputs=outputs, arrays={"mean": mean, "std": std, **arrays})


def shares_of(examples: Examples) -> NDArray[np.float64]:
    """The target (row, output): 1 for the class of a row, shares of classes, or the value."""
    if examples.task == "dense":
        return examples.target
    if examples.task == "regression":
        return examples.target[:, None]
    return np.eye(len(examples.classes))[examples.target.astype(np.int64)]


def _ridge(standard: NDArray[np.float32], examples: Examples, settings: Settings) -> dict[str, NDArray[Any]]:
    from sklearn.linear_model import Ridge, RidgeCV

    features = standard.astype(np.float64)
    alpha = penalty(features, examples)
    model = RidgeCV(alphas=_ALPHAS) if alpha is None else Ridge(alpha=alpha)
    model.fit(features, examples.target)
    bounds = {} if settings.bounds is None else {"bounds": np.array(settings.bounds, np.float64)}
    return {"coefficients": model.coef_.reshape(1, -1), "intercepts": np.reshape(model.intercept_, 1), **bounds}


def penalty(features: NDArray[np.float64], examples: Examples) -> float | None:
    """Ridge's penalty with which groups, or blocks without groups, are predicted best that were held out whole.

    Rows of one group are alike: leaving single rows out would choose too weak a penalty. None where there are fewer
    than three groups.
    """
    try:
        folds = folds_of(examples, blocks=None, groups=examples.group is not None, years=False)
    except RequestError:
        return None
    squares = np.zeros(len(_ALPHAS))
    for number in range(folds.count):
        out = folds.fold == number
        if out.all():
            return None
        x, y = features[~out], examples.target[~out]
        middle, level = x.mean(axis=0), y.mean()
        # one decomposition serves all penalties
        variance, directions = np.linalg.eigh((x - middle).T @ (x - middle))
        along = directions.T @ ((x - middle).T @ (y - level))
        asked = (features[out] - middle) @ directions
        predicted = asked @ (along[:, None] / (np.maximum(variance, 0)[:, None] + _ALPHAS)) + level
        squares += ((predicted - examples.target[out, None]) ** 2).sum(axis=0)
    return float(_ALPHAS[squares.argmin()])


def _logistic(standard: NDArray[np.float32], examples: Examples, settings: Settings) -> dict[str, NDArray[Any]]:
    """One row of coefficients for each class. Classes that no example has get a probability of 0.

    Dense: a cell counts for each of its classes by its share, which is the cross entropy with the shares.
    """
    from sklearn.linear_model import LogisticRegression

    shares = _weighted(shares_of(examples), settings)
    rows, classes = np.nonzero(shares)
    weight = shares[rows, classes]
    coefficients = np.zeros((shares.shape[1], standard.shape[1]))
    intercepts = np.full(shares.shape[1], -1e3)
    if len(set(classes.tolist())) == 1:
        intercepts[classes[0]] = 0.0
        return {"coefficients": coefficients, "intercepts": intercepts}
    model = LogisticRegression(max_iter=_STEPS).fit(standard.astype(np.float64)[rows], classes, sample_weight=weight)
    present = model.classes_
    two = len(present) == len(model.coef_) + 1  # of two classes there is one row, for the second
    coefficients[present[1:] if two else present] = model.coef_
    intercepts[present[1:] if two else present] = model.intercept_
    if two:
        intercepts[present[0]] = 0.0
    return {"coefficients": coefficients, "intercepts": intercepts}


def _weighted(shares: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    """Shares (row, class) as they count: where classes are balanced, each adds up to as much as every other."""
    if settings.class_weights == "none":
        return shares
    total = shares.sum(axis=0)
    return np.asarray(shares * total.sum() / (np.count_nonzero(total) * np.where(total > 0, total, 1)))


def _convolution(
    examples: Examples, mean: NDArray[np.float64], std: NDArray[np.float64], settings: Settings
) -> dict[str, NDArray[Any]]:
    """Classes that no example has get a probability of 0."""
    from embedcube.uses.decode.convolution import fit_convolution

    if examples.around is None:
        raise ValueError("a conv head is fitted on examples with the cells beside them (`with_around`)")
    weights = _weighted(shares_of(examples), settings)
    present = weights.sum(axis=0) > 0
    arrays = fit_convolution(examples.around, mean, std, weights[:, present], settings.hidden, settings.seed)
    coefficients, intercepts = np.zeros((len(present), settings.hidden)), np.full(len(present), -1e3)
    coefficients[present], intercepts[present] = arrays["coefficients"], arrays["intercepts"]
    return {**arrays, "coefficients": coefficients, "intercepts": intercepts}


def _neighbours(standard: NDArray[np.float32], examples: Examples, settings: Settings) -> dict[str, NDArray[Any]]:
    count = np.array(min(settings.neighbours, len(standard)), np.int64)
    return {"vectors": standard, "targets": shares_of(examples), "neighbours": count}


def _forest(standard: NDArray[np.float32], examples: Examples, settings: Settings) -> dict[str, NDArray[Any]]:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    trees, seed = settings.trees, settings.seed
    if examples.task == "classification":
        weights = "balanced" if settings.class_weights == "balanced" else None
        model = RandomForestClassifier(trees, min_samples_leaf=2, class_weight=weights, random_state=seed)
        present = model.fit(standard, examples.target.astype(np.int64)).classes_
    else:
        # a third of the features at each division, as Breiman has it for regression
        model = RandomForestRegressor(trees, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
        model.fit(standard, examples.target)
        present = np.zeros(1, np.int64)
    parts = [_tree(one.tree_, present, len(examples.classes) or 1) for one in model.estimators_]
    sizes = [len(part["left"]) for part in parts]
    first = np.cumsum([0, *sizes[:-1]])
    for part, start in zip(parts, first.tolist(), strict=True):
        for child in ("left", "right"):
            part[child] = np.where(part[child] >= 0, part[child] + start, -1)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**arrays, "first": first.astype(np.int64)}


def _tree(tree: Any, present: NDArray[np.int64], outputs: int) -> dict[str, NDArray[Any]]:
    """The nodes of one tree; one that is a leaf only gets a root that leads to it twice."""
    value = np.zeros((tree.node_count, outputs))
    # of a classifier shares of classes, since scikit-learn 1.3
    value[:, present] = tree.value[:, 0, :]
    nodes = {
        "feature": np.maximum(tree.feature, 0), "threshold": tree.threshold,
        "left": tree.children_left, "right": tree.children_right, "value": value,
    }  # fmt: skip
    if tree.node_count == 1:
        nodes = {
            "feature": np.zeros(3), "threshold": np.zeros(3), "left": np.array([1, -1, -1]),
            "right": np.array([2, -1, -1]), "value": np.repeat(value, 3, axis=0),
        }  # fmt: skip
    kinds = {"feature": np.int64, "threshold": np.float64, "left": np.int64, "right": np.int64, "value": np.float64}
    return {name: np.asarray(nodes[name], kind) for name, kind in kinds.items()}
