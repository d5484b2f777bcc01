"""Scores of predictions: of classes, of numbers, of shares; and how well probabilities are calibrated."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedcube.uses.decode.examples import Task

MAIN: dict[Task, str] = {"classification": "balanced_accuracy", "regression": "r2", "dense": "r2"}
"""the score that rows of a report are compared by; larger is better for all"""

_BINS = 10


def scores(task: Task, target: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Scores of predictions (row, output) against targets, by name."""
    if task == "classification":
        return of_classes(target.astype(np.int64), predicted.argmax(axis=1), predicted.shape[1])
    if task == "dense":
        return of_shares(target, predicted)
    return of_numbers(target, predicted[:, 0])


def confusion(true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How often each class (row) was taken for each class (column)."""
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def of_classes(true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> dict[str, float]:
    """Balanced accuracy, accuracy, macro F1, mean intersection over union: of the classes that are true somewhere."""
    table = confusion(true, predicted, classes).astype(np.float64)
    right, truly, taken = np.diagonal(table), table.sum(axis=1), table.sum(axis=0)
    there = truly > 0
    right, truly, taken = right[there], truly[there], taken[there]
    return {
        "balanced_accuracy": float((right / truly).mean()),
        "accuracy": float(right.sum() / table.sum()),
        "macro_f1": float((2 * right / (truly + taken)).mean()),
        "miou": float((right / (truly + taken - right)).mean()),
    }


def of_numbers(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """R2, root mean square error, mean absolute error and bias (predicted minus true)."""
    off = predicted - true
    spread = ((true - true.mean()) ** 2).sum()
    return {
        "r2": float(1 - (off**2).sum() / spread) if spread > 0 else float("nan"),
        "rmse": float(np.sqrt((off**2).mean())),
        "mae": float(np.abs(off).mean()),
        "bias": float(off.mean()),
    }


def of_shares(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """R2 and error of shares of classes, over all classes together, and how often the largest share is right."""
    off, spread = predicted - true, ((true - true.mean(axis=0)) ** 2).sum()
    return {
        "r2": float(1 - (off**2).sum() / spread) if spread > 0 else float("nan"),
        "rmse": float(np.sqrt((off**2).mean())),
        "largest_class": float((true.argmax(axis=1) == predicted.argmax(axis=1)).mean()),
    }


def within_groups(true: NDArray[np.float64], predicted: NDArray[np.float64], group: NDArray[np.str_]) -> float:
    """R2 of what differs from the mean of the own group: whether change within a group is seen, not only its level."""
    number = np.unique(group, return_inverse=True)[1].ravel()
    count = np.bincount(number)

    def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(values - (np.bincount(number, values) / count)[number])

    spread = (centred(true) ** 2).sum()
    return float(1 - ((centred(true) - centred(predicted)) ** 2).sum() / spread) if spread > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities of classes can be believed, of rows that were held out."""

    brier: float
    """mean squared distance between probabilities and truth, summed over classes: 0 to 2, less is better"""
    ece: float
    """expected calibration error: mean distance between confidence and accuracy"""
    reliability: tuple[tuple[int, float, float], ...]
    """of each tenth of confidence with rows in it: rows, mean confidence, accuracy"""


def calibration(true: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Calibration:
    """Calibration of probabilities (row, class)."""
    brier = ((probabilities - np.eye(probabilities.shape[1])[true]) ** 2).sum(axis=1).mean()
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    tenth = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    bins = [
        (int(own.sum()), float(confidence[own].mean()), float(right[own].mean()))
        for own in (tenth == number for number in range(_BINS))
        if own.any()
    ]
    ece = sum(count * abs(told - found) for count, told, found in bins) / len(true)
    return Calibration(brier=float(brier), ece=float(ece), reliability=tuple(bins))
