"""Scores by the protocol of NeuCo-Bench: against their unmodified evaluator where it is at hand.

EMBEDCUBE_NEUCO names a checkout of embed2scale/NeuCo-Bench whose `benchmark/main.py` runs in this Python (it needs
torchmetrics, scikit-optimize, matplotlib and tqdm).
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import call_cli

from embedcube.errors import RequestError
from embedcube.uses.decode.neuco import NeucoScore, read_tasks, score_neuco

SPLITS = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A CSV of 320 vectors of 24 numbers, of which one is missing, and labels of three tasks."""
    folder, rng = tmp_path_factory.mktemp("neuco"), np.random.default_rng(6)
    vectors = rng.normal(size=(320, 24)) * rng.uniform(0.5, 2, 24) + 1
    with (folder / "v.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *range(24)])
        for i, row in enumerate(vectors):
            writer.writerow([f"cell/{i}", *(["" if i == j == 5 else number for j, number in enumerate(row)])])
    labels = folder / "labels"
    labels.mkdir()
    told = vectors @ rng.normal(size=(24, 3)) / 5 + 0.3 * rng.normal(size=(320, 3))
    tasks = {"biomass__regression": told[:, 0] * 40 + 100, "crops__cls": (told[:, 1] > 1.2).astype(float),
             "clouds__classification": (told[:, 2] > 0).astype(float)}  # fmt: skip
    for name, target in tasks.items():
        lines = [f"cell/{i},{value}" for i, value in enumerate(target) if i % 9]
        (labels / f"{name}.csv").write_text("\n".join(["id,label", *lines, "elsewhere,1", "cell/0,"]))
    return folder / "v.csv", labels


@pytest.fixture(scope="module")
def scored(files: tuple[Path, Path]) -> list[NeucoScore]:
    return score_neuco(*files, splits=SPLITS)


def test_one_number_standardises_all(files: tuple[Path, Path]) -> None:
    tasks = {task.name: task for task in read_tasks(*files)}
    assert list(tasks) == ["biomass", "clouds", "crops"]
    assert {len(task.target) for task in tasks.values()} == {284}
    assert (tasks["biomass"].target.min(), tasks["biomass"].target.max()) == (0, 1)
    # columns keep their own spread: it is not a deviation for each of them
    assert np.ptp(tasks["biomass"].vectors.std(axis=0)) > 0.3


def test_a_score_has_a_converged_probe_beside_it(scored: list[NeucoScore]) -> None:
    biomass = scored[0]
    # ten epochs are not enough here: what is missing is the optimiser, not the vectors
    assert biomass.converged_mean > biomass.mean + 0.2
    for one in scored:
        assert one.quality == pytest.approx(2 * one.mean / (0.02 + one.spread))


@pytest.mark.skipif("EMBEDCUBE_NEUCO" not in os.environ, reason="EMBEDCUBE_NEUCO names no checkout of NeuCo-Bench")
def test_scores_are_those_of_their_own_evaluator(
    files: tuple[Path, Path], scored: list[NeucoScore], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    probe = {"batch_size": 64, "epochs": 10, "learning_rate": 0.001, "device": "cpu"}
    config.write_text(json.dumps({
        "k_folds": SPLITS, "probe_type": "linear", "probe_params": probe, "embedding_dim": None,
        "standardize_embeddings": True, "normalize_labels": True, "enable_plots": False, "update_leaderboard": False,
    }))  # fmt: skip
    main = Path(os.environ["EMBEDCUBE_NEUCO"]) / "benchmark" / "main.py"
    done = subprocess.run(
        [sys.executable, str(main), "--submission_file", str(files[0]), "--annotation_path", str(files[1]),
         "--config", str(config), "--output_dir", str(tmp_path / "out")],
        cwd=main.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (summary,) = tmp_path.rglob("results_summary.json")
    theirs = json.loads(summary.read_bytes())["task_acc_scores"]
    assert set(theirs) == {one.task for one in scored}
    for one in scored:
        assert one.mean == pytest.approx(theirs[one.task], abs=0.01)


def test_what_cannot_be_scored_is_refused_by_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    vectors, labels = files
    with pytest.raises(RequestError, match="no <task>__"):
        read_tasks(vectors, tmp_path)
    (tmp_path / "a__classification.csv").write_text("id,label\nother,1\n")
    with pytest.raises(RequestError, match=r"none of its 320 ids is in"):
        read_tasks(vectors, tmp_path)
    (tmp_path / "v.csv").write_text("name,0\na,1\n")
    with pytest.raises(RequestError, match="not a CSV of vectors"):
        read_tasks(tmp_path / "v.csv", labels)
    done = call_cli("decode", "score", "cube.zarr", str(tmp_path / "v.csv"), str(labels), "--protocol", "neuco")
    assert done.returncode == 2


def write_files(folder: Path, ids: list[str], labels: list[tuple[str, object]]) -> tuple[Path, Path]:
    rng = np.random.default_rng(1)
    rows = [",".join([name, *map(str, rng.normal(size=3))]) for name in ids]
    (folder / "v.csv").write_text("\n".join(["id,0,1,2", *rows]))
    (folder / "labels").mkdir()
    lines = [f"{name},{label}" for name, label in labels]
    (folder / "labels" / "rare__classification.csv").write_text("\n".join(["id,label", *lines]))
    return folder / "v.csv", folder / "labels"


IDS = [f"c{i}" for i in range(30)]


@pytest.mark.parametrize(
    ("ids", "labels", "words"),
    [
        (IDS, [(name, int(name == "c3")) for name in IDS], "rare: one of its 40 splits has all rows of one"),
        (IDS, [(name, "nan" if name == "c4" else i % 2) for i, name in enumerate(IDS)], "the label of c4 is nan"),
        ([*IDS, "c5"], [(name, i % 2) for i, name in enumerate(IDS)], "v.csv: the id c5 is there 2 times"),
        (IDS, [(name, i % 2) for i, name in enumerate([*IDS, "c6"])], "rare__.*: the id c6 is there 2 times"),
    ],
)
def test_labels_that_cannot_be_scored_are_refused_by_name(
    ids: list[str], labels: list[tuple[str, object]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=words):
        score_neuco(*write_files(tmp_path, ids, labels))
