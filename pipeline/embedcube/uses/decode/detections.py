"""Points told by tokens, as vessels: detections, their F1 by xView3's matching, and the ceiling of perfect tokens."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(point, 2): x and y in metres"""

TOLERANCE_M = 200.0
"""distance within which a detection may stand for a vessel, in xView3"""


def detections_of(score: NDArray[np.float64], least: float, x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """Middles of the cells (y, x) whose score is at least `least`, and not below that of a cell beside them."""
    padded = np.pad(score, 1, constant_values=-np.inf)
    rows, columns = score.shape
    around = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    row, column = np.nonzero((score >= least) & (score >= np.max(around, axis=0)))
    return np.stack([x[column], y[row]], axis=1)


def pairs(found: Points, true: Points, tolerance_m: float = TOLERANCE_M) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which detections stand for which vessels: each for at most one, closer than the tolerance, as many as possible.

    Of pairings with as many matches it is the one with the least sum of distances (the Hungarian method).
    """
    from scipy.optimize import linear_sum_assignment

    if not (len(found) and len(true)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance = np.linalg.norm(found[:, None] - true[None], axis=-1)
    # a pair that is too far apart costs more than all that are near
    cost = np.where(distance <= tolerance_m, distance, tolerance_m * (1 + min(distance.shape)))
    rows, columns = linear_sum_assignment(cost)
    near = distance[rows, columns] < tolerance_m
    return rows[near].astype(np.int64), columns[near].astype(np.int64)


def matched(found: Points, true: Points, tolerance_m: float = TOLERANCE_M) -> int:
    """How many detections stand for a vessel, as `pairs` has them."""
    return len(pairs(found, true, tolerance_m)[0])


def f1_of(found: Points, true: Points, tolerance_m: float = TOLERANCE_M) -> float:
    """F1 of detections: the location score of xView3 for one scene; 0 where there is nothing at all."""
    right, told = matched(found, true, tolerance_m), len(found) + len(true)
    return 2 * right / told if told else 0.0


def perfect_tokens(true: Points, token_m: float, corner: tuple[float, float]) -> Points:
    """Middles of the tokens that hold a vessel, on a lattice with this upper left corner: the best that can be said."""
    place = np.unique(np.floor((true - np.asarray(corner)) / token_m), axis=0)
    return np.asarray((place + 0.5) * token_m + np.asarray(corner))
