"""Vessels by xView3's matching: against matching by hand, and the ceiling of tokens."""

import itertools

import numpy as np
import pytest

from embedcube.uses.decode.detections import detections_of, f1_of, matched, perfect_tokens


def test_matches_are_as_many_as_any_pairing_gives() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        found, true = rng.uniform(0, 600, (5, 2)), rng.uniform(0, 600, (4, 2))
        near = np.linalg.norm(found[:, None] - true[None], axis=-1) <= 200
        best = max(sum(near[i, j] for j, i in enumerate(order)) for order in itertools.permutations(range(5), 4))
        assert matched(found, true) == best


def test_each_detection_stands_for_one_vessel() -> None:
    two = np.array([[0.0, 0], [50, 0]])
    assert f1_of(np.array([[20.0, 0]]), two) == pytest.approx(2 / 3)
    assert f1_of(two, two) == 1
    assert f1_of(np.zeros((0, 2)), np.zeros((0, 2))) == 0
    assert f1_of(two, two + np.array([0, 201])) == 0


def test_the_ceiling_merges_vessels_of_one_token() -> None:
    true = np.array([[10.0, -10], [150, -150], [170, -10]])
    tokens = perfect_tokens(true, 160, (0, 0))
    assert sorted(tokens.tolist()) == [[80, -80], [240, -80]]
    assert f1_of(tokens, true) == pytest.approx(0.8)


def test_detections_are_local_maxima() -> None:
    score = np.zeros((6, 6))
    score[1, 1], score[1, 2], score[4, 4] = 0.9, 0.6, 0.7
    x = y = np.asarray(np.arange(6) * 160.0, np.float64)
    assert detections_of(score, 0.5, x, y).tolist() == [[160, 160], [640, 640]]
