"""Vessels by xView3's metric: against matching and counting by hand, and its own evaluator where it is at hand."""

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import call_cli

from embedcube.errors import RequestError
from embedcube.uses.decode.detections import detections_of, f1_of, matched, perfect_tokens
from embedcube.uses.decode.xview3 import score_xview3


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


# --- the whole metric -----------------------------------------------------------------------------

COLUMNS = ["scene_id", "detect_scene_row", "detect_scene_column", "is_vessel", "is_fishing", "vessel_length_m"]


def tables(folder: Path, seed: int = 0) -> tuple[Path, Path, Path]:
    """Detections, labels and shorelines of four scenes: one has no detection, one no label near the shore."""
    rng, rows = np.random.default_rng(seed), []
    found = []
    (folder / "shore").mkdir(exist_ok=True)
    for scene in range(4):
        x, y = rng.uniform(0, 2000, (2, 60))
        np.save(folder / "shore" / f"s{scene}_shoreline.npy", np.c_[np.full(4001, 0.5), np.linspace(0, 2000, 4001)])
        for i in range(60):
            vessel = rng.choice(["True", "False", ""], p=[0.6, 0.3, 0.1])
            fishing = rng.choice(["True", "False", ""]) if vessel == "True" else ""
            length = rng.uniform(8, 700) if rng.uniform() < 0.7 else ""
            sure = rng.choice(["HIGH", "MEDIUM", "LOW"])
            off = y[i] / 100 + (5 if scene == 2 else 0)
            rows.append([f"s{scene}", y[i], x[i], vessel, fishing, length, sure, off])
            if scene != 3 and rng.uniform() < 0.8:
                j, k = rng.normal(0, 12, 2)
                guess = 60 if length == "" else float(length) * rng.uniform(0.6, 1.3)
                said = [str(rng.uniform() < 0.7), str(rng.uniform() < 0.5)]
                found.append([f"s{scene}", y[i] + j, x[i] + k, *said, guess])
        found += [[f"s{scene}", *rng.uniform(0, 2000, 2), "True", "False", 50.0] for _ in range(20) if scene != 3]
    for name, lines, columns in (("found", found, COLUMNS),
                                 ("labels", rows, [*COLUMNS, "confidence", "distance_from_shore_km"])):  # fmt: skip
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *lines])
    return folder / "found.csv", folder / "labels.csv", folder / "shore"


def test_the_parts_of_the_metric_are_those_counted_by_hand(tmp_path: Path) -> None:
    """Six labels in one scene; the detections are at known distances, in pixels of 10 m."""
    label = "a,{0},{0},{1},{2},{3},{4},{5}"
    known = [
        label.format(100, "True", "True", 20, "HIGH", 1.0), label.format(200, "True", "False", 600, "MEDIUM", 1.9),
        label.format(300, "False", "", "", "HIGH", 2.1), label.format(400, "", "", "", "HIGH", 9),
        label.format(500, "True", "True", 10, "LOW", 1), label.format(600, "True", "True", 40, "HIGH", 9),
    ]  # fmt: skip
    found = [
        "a,100,110,True,False,30",  # 100 m off: a vessel, its fishing missed, length 0.5 wrong
        "a,200,200,True,True,450",  # 500 m at most: length 0.1 wrong; said to be fishing, and is not
        "a,300,319,True,False,9",  # 190 m off: said to be a vessel, and is not
        "a,400,400,False,False,9",  # nobody knows what it is
        "a,500,500,True,True,10",  # of low confidence: left out
        "a,600,620,True,True,40",  # 200 m off: too far
        "a,150,900,False,False,9",  # nothing there
    ]
    names = ",".join(COLUMNS)
    (tmp_path / "f.csv").write_text("\n".join([names, *found]))
    (tmp_path / "l.csv").write_text("\n".join([f"{names},confidence,distance_from_shore_km", *known]))
    (tmp_path / "shore").mkdir()
    # the first two labels, and what lies within 220 pixels of the row 0: two of them and one that is nothing
    np.save(tmp_path / "shore" / "a_shoreline.npy", np.c_[np.zeros(1001), np.arange(1001)])
    got = score_xview3(tmp_path / "f.csv", tmp_path / "l.csv", tmp_path / "shore", [160])
    assert (got.detections, got.labels, got.scenes) == (6, 5, 1)
    assert got.location == pytest.approx(2 * 4 / (6 + 5))
    assert got.shore is not None
    assert got.shore == pytest.approx(2 * 2 / (3 + 2))
    assert got.vessel == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert got.fishing == 0
    assert got.length == pytest.approx(1 - (0.5 + 0.1) / 2)
    assert got.aggregate == pytest.approx(got.location * (1 + got.length + got.vessel + got.fishing + got.shore) / 5)
    assert got.ceilings == {"160": 1}
    without = score_xview3(tmp_path / "f.csv", tmp_path / "l.csv")
    assert without.shore is None
    assert without.aggregate == pytest.approx(got.location * (1 + got.length + got.vessel) / 5)


@pytest.mark.skipif("EMBEDCUBE_XVIEW3" not in os.environ, reason="EMBEDCUBE_XVIEW3 names no checkout")
@pytest.mark.parametrize("seed", range(4))
def test_their_own_evaluator_says_the_same(tmp_path: Path, seed: int) -> None:
    """EMBEDCUBE_XVIEW3 names a checkout of DIUx-xView/xview3-reference; its metric.py needs tqdm."""
    found, labels, shore = tables(tmp_path, seed)
    folder = Path(os.environ["EMBEDCUBE_XVIEW3"]) / "reference"
    subprocess.run(
        [sys.executable, "metric.py", "--inference_file", found, "--label_file", labels, "--output", tmp_path / "out",
         "--distance_tolerance", "200", "--shore_tolerance", "2", "--shore_root", shore, "--drop_low_detect",
         "--costly_dist"], cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    theirs, ours = json.loads((tmp_path / "out").read_text()), score_xview3(found, labels, shore)
    names = {"location": "loc_fscore", "shore": "loc_fscore_shore", "vessel": "vessel_fscore",
             "fishing": "fishing_fscore", "length": "length_acc", "aggregate": "aggregate"}  # fmt: skip
    for name, their_name in names.items():
        assert getattr(ours, name) == pytest.approx(theirs[their_name], abs=1e-12), name
        assert 0 < getattr(ours, name) < 1
    assert ours.scenes_without == 1


def test_tables_that_cannot_be_scored_are_refused_by_name(tmp_path: Path, two_zones: Path) -> None:
    found, labels, shore = tables(tmp_path)
    text = found.read_text()
    for changed, said in (
        (text.replace("is_fishing", "fishing"), "found.csv: no column is_fishing"),
        (text.replace("True", "perhaps"), "column is_vessel has 'perhaps'"),
        (text.replace(",50.0", ","), "a detection has no vessel_length_m"),
        (text.replace("\ns", "\nz"), "none of its scenes has labels in labels.csv"),
    ):
        found.write_text(changed)
        with pytest.raises(RequestError, match=said):
            score_xview3(found, labels)
    found.write_text(text)
    np.save(shore / "s1_shoreline.npy", np.array([np.zeros((2, 2)), np.zeros((3, 2))], object), allow_pickle=True)
    with pytest.raises(RequestError, match=r"s1_shoreline.npy: no points .* pickles, which can run code"):
        score_xview3(found, labels, shore)
    done = call_cli("decode", "score", two_zones, found, labels, "--protocol", "xview3")
    assert done.returncode == 0, done.stderr
    assert "no shorelines, counts as 0" in done.stdout
    assert "with perfect tokens of 160 m" in done.stdout
    assert "1 scenes without any detection do not count" in done.stdout
