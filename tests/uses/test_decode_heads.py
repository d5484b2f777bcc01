"""Heads give what scikit-learn gives, for a row whatever rows are beside it; their file holds nothing that runs."""

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import f1_score, jaccard_score, mean_squared_error, r2_score, recall_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from embedcube.errors import RequestError
from embedcube.uses.decode.examples import Examples
from embedcube.uses.decode.file import About, Decoder, LayerUsed, read_decoder, write_decoder
from embedcube.uses.decode.fit import Settings, fit_head, penalty
from embedcube.uses.decode.folds import folds_of
from embedcube.uses.decode.heads import Kind
from embedcube.uses.decode.metrics import calibration, of_classes, of_numbers, within_groups
from embedcube.uses.decode.request import Request


def made(task: str, rows: int = 400, features: int = 12, classes: int = 3) -> Examples:
    """Vectors of different scale, and targets that depend on them with some noise."""
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(rows, features)) * rng.uniform(0.1, 30, features) + rng.normal(size=features)).astype("f4")
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    drawn = standard @ rng.normal(size=(features, classes)) + rng.gumbel(size=(rows, classes))
    shares = np.exp(drawn) / np.exp(drawn).sum(axis=1, keepdims=True)
    targets = {"classification": drawn.argmax(axis=1).astype(float), "regression": drawn[:, 0], "dense": shares}
    return Examples(
        features=x, target=targets[task], classes=() if task == "regression" else ("a", "b", "c")[:classes],
        lon=rng.uniform(7, 8, rows), lat=rng.uniform(50, 51, rows), seconds=np.zeros(rows, np.int64),
        part=np.arange(rows),
    )  # fmt: skip


def standardised(examples: Examples) -> NDArray[np.float32]:
    x = examples.features.astype(np.float64)
    return np.asarray(((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32))


def test_ridge_is_that_of_scikit_learn() -> None:
    """With the penalty that predicts whole groups best, of all that are tried."""
    examples = replace(made("regression"), group=(np.arange(len(made("regression"))) % 7).astype(str))
    features = standardised(examples).astype(float)
    folds = folds_of(examples, blocks=None, groups=True, years=False)
    best = min(
        np.logspace(-2, 5, 15),
        key=lambda alpha: mean_squared_error(
            examples.target,
            cross_val_predict(Ridge(alpha), features, examples.target, cv=PredefinedSplit(folds.fold)),
        ),
    )
    assert penalty(features, examples) == pytest.approx(best)
    expected = Ridge(best).fit(features, examples.target).predict(features)
    np.testing.assert_allclose(fit_head(examples, Settings(kind="ridge"))(examples.features)[:, 0], expected, atol=1e-5)


def test_rows_that_are_alike_choose_a_stronger_penalty_for_other_groups() -> None:
    """Twenty rows of each of twelve sites, that differ by little: leaving single rows out fits the sites."""
    rng = np.random.default_rng(2)
    sites = np.repeat(np.arange(12), 20)
    features = (rng.normal(size=(12, 30))[sites] + 0.01 * rng.normal(size=(240, 30))).astype(np.float32)
    target = rng.normal(size=12)[sites] + features[:, 0]
    examples = replace(made("regression", 240), features=features, target=target, group=sites.astype(str))
    x = standardised(examples).astype(float)
    alone = RidgeCV(alphas=np.logspace(-2, 5, 15)).fit(x, target).alpha_
    assert (penalty(x, examples) or 0) > 5 * alone


def test_a_share_is_never_below_nothing_nor_above_all(tmp_path: Path) -> None:
    examples = made("regression")
    share = replace(examples, target=np.clip(examples.target / 4 + 0.5, 0, 1))
    free = fit_head(share, Settings(kind="ridge"))
    assert free(share.features).min() < -0.01
    assert free(share.features).max() > 1.01
    decoder = Decoder(
        fit_head(share, Settings(kind="ridge", bounds=(0.0, 1.0))), decoder_of("ridge", "regression").about
    )
    write_decoder(decoder, tmp_path / "d.safetensors")
    head = read_decoder(tmp_path / "d.safetensors").head
    np.testing.assert_array_equal(head(share.features), free(share.features).clip(0, 1))
    assert head.parameters == free.parameters


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weights", ["balanced", "none"])
def test_logistic_is_that_of_scikit_learn(classes: int, weights: Any) -> None:
    examples = made("classification", classes=classes)
    chosen = "balanced" if weights == "balanced" else None
    model = LogisticRegression(max_iter=2000, class_weight=chosen)
    expected = model.fit(standardised(examples).astype(float), examples.target).predict_proba(standardised(examples))
    got = fit_head(examples, Settings(kind="logistic", class_weights=weights))(examples.features)
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_neighbours_are_those_of_scikit_learn() -> None:
    for task, model in (("classification", KNeighborsClassifier(7)), ("regression", KNeighborsRegressor(7))):
        examples = made(task)
        model.fit(standardised(examples), examples.target)
        asked = made(task, rows=300).features + np.float32(0.05)
        x = examples.features.astype(np.float64)
        standard = ((asked - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
        expected = model.predict_proba(standard) if task == "classification" else model.predict(standard)[:, None]
        got = fit_head(examples, Settings(kind="knn", neighbours=7))(asked)
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_forest_is_that_of_scikit_learn() -> None:
    settings = Settings(kind="forest", trees=8, seed=5)
    examples = made("classification")
    classifier = RandomForestClassifier(8, min_samples_leaf=2, class_weight="balanced", random_state=5)
    classifier.fit(standardised(examples), examples.target.astype(int))
    got = fit_head(examples, settings)(examples.features)
    np.testing.assert_allclose(got, classifier.predict_proba(standardised(examples)), atol=1e-12)
    examples = made("regression")
    regressor = RandomForestRegressor(8, min_samples_leaf=2, max_features=1 / 3, random_state=5)
    regressor.fit(standardised(examples), examples.target)
    got = fit_head(examples, settings)(examples.features)[:, 0]
    np.testing.assert_allclose(got, regressor.predict(standardised(examples)), atol=1e-9)


def test_shares_are_learned_as_repeated_labels_are() -> None:
    """A cell with shares 0.25 and 0.75 counts as one label of the first and three of the second class do."""
    examples = made("dense", rows=60)
    quarters = np.floor(examples.target * 4)
    quarters[:, 2] = 4 - quarters[:, :2].sum(axis=1)
    dense = replace(examples, target=quarters / 4)
    rows, classes = np.nonzero(quarters)
    repeats = quarters[rows, classes].astype(int)
    model = LogisticRegression(max_iter=2000, C=0.25)  # four labels for each cell weigh four times as much
    model.fit(np.repeat(standardised(dense)[rows].astype(float), repeats, axis=0), np.repeat(classes, repeats))
    got = fit_head(dense, Settings(kind="logistic", class_weights="none"))(dense.features)
    np.testing.assert_allclose(got, model.predict_proba(standardised(dense)), atol=2e-3)


@pytest.mark.parametrize(("kind", "task"), [
    ("ridge", "regression"), ("logistic", "classification"), ("knn", "classification"), ("forest", "classification"),
    ("forest", "regression"), ("knn", "dense"),
])  # fmt: skip
def test_a_row_has_the_same_result_whatever_rows_are_beside_it(kind: Kind, task: str) -> None:
    examples = made(task)
    head = fit_head(examples, Settings(kind=kind, trees=4))
    whole = head(examples.features)
    for size in (1, 7, 64, 399):
        parts = [head(examples.features[i : i + size]) for i in range(0, 400, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_equal_seeds_give_equal_heads_and_many_rows_a_sample() -> None:
    examples = made("classification")
    first, again, other = (
        fit_head(examples, Settings(kind="forest", trees=3, most=100, seed=seed)) for seed in (1, 1, 2)
    )
    assert all((first.arrays[name] == again.arrays[name]).all() for name in first.arrays)
    assert first.arrays["threshold"].shape != other.arrays["threshold"].shape
    few = fit_head(examples, Settings(kind="knn", most=100))
    assert few.arrays["vectors"].shape == (100, 12)


def test_a_class_that_no_example_has_gets_no_probability() -> None:
    examples = made("classification")
    without = examples.take(examples.target != 1)
    for kind in ("logistic", "forest", "knn"):
        got = fit_head(without, Settings(kind=kind, trees=3))(examples.features)
        assert got.shape == (400, 3)
        assert (got[:, 1] == 0).all()
        np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-12)


def test_a_head_is_refused_for_a_task_that_it_is_not_for() -> None:
    with pytest.raises(RequestError, match=r"ridge head is not for classification; choose --head logistic or knn"):
        fit_head(made("classification"), Settings(kind="ridge"))


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true, taken = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    found = of_classes(true, taken, 4)
    recalls = recall_score(true, taken, average="macro", labels=[0, 1, 2])
    assert found["balanced_accuracy"] == pytest.approx(recalls, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(true, taken, average="macro", labels=[0, 1, 2]), abs=1e-12)
    assert found["miou"] == pytest.approx(jaccard_score(true, taken, average="macro", labels=[0, 1, 2]), abs=1e-12)
    x, y = rng.normal(size=(2, 200))
    assert of_numbers(x, y)["r2"] == pytest.approx(r2_score(x, y), abs=1e-12)
    assert of_numbers(x, y)["rmse"] == pytest.approx(mean_squared_error(x, y) ** 0.5, abs=1e-12)


def test_within_groups_only_change_counts() -> None:
    group = np.repeat(["a", "b", "c"], 50)
    level = np.repeat([0.0, 10.0, 20.0], 50)
    change = np.tile(np.linspace(-1, 1, 50), 3)
    assert within_groups(level + change, level, group) == pytest.approx(0)
    assert within_groups(level + change, change, group) == pytest.approx(1)


def test_probabilities_that_are_said_are_found() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=40_000)
    true = (rng.uniform(size=40_000) < p).astype(int)
    good = calibration(true, np.stack([1 - p, p], axis=1))
    sure = calibration(true, np.eye(2)[(p > 0.5).astype(int)])
    assert good.ece < 0.01
    assert good.brier == pytest.approx(2 * np.mean(p * (1 - p)), abs=0.01)
    assert sure.ece == pytest.approx(0.25, abs=0.01)
    assert sum(rows for rows, _, _ in good.reliability) == 40_000


# --- the file -------------------------------------------------------------------------------------


def decoder_of(kind: Kind, task: Any) -> Decoder:
    examples = made(task)
    settings = Settings(kind=kind, trees=3)
    about = About(
        kind=kind, request=Request(task=task, column="y", classes={"a": (1, 2)}), settings=settings,
        layers=(LayerUsed(name="s2", weights="1" * 64, features=12, encoding="int8"),), classes=examples.classes,
        fitted_on=400, labels="2" * 64, cube="abc",
    )  # fmt: skip
    return Decoder(fit_head(examples, settings), about)


@pytest.mark.parametrize(("kind", "task"), [
    ("ridge", "regression"), ("logistic", "classification"), ("knn", "dense"), ("forest", "classification"),
])  # fmt: skip
def test_a_decoder_is_read_as_it_was_written(kind: Kind, task: str, tmp_path: Path) -> None:
    decoder, path = decoder_of(kind, task), tmp_path / "d.safetensors"
    write_decoder(decoder, path)
    read = read_decoder(path)
    assert read.about == decoder.about
    x = made(task).features
    np.testing.assert_array_equal(read.head(x), decoder.head(x))


def foreign(path: Path, how: str) -> None:
    buffer = io.BytesIO()
    content = {"a": np.zeros(3)}
    if how == "pickle":
        pickle.dump(content, buffer)
    elif how == "joblib":
        joblib.dump(content, buffer)
    elif how == "joblib, compressed":
        joblib.dump(content, buffer, compress=3)
    elif how == "torch":
        # the form of torch.save, which takes seconds to import
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(content))
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("how", ["pickle", "joblib", "joblib, compressed", "torch"])
def test_a_pickle_is_refused_by_name(how: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    foreign(path, how)
    with pytest.raises(RequestError, match=r"d\.safetensors: .*pickle.* is not opened"):
        read_decoder(path)


def rewritten(path: Path, change: Any) -> None:
    """Change the arrays of a decoder's file, and nothing else."""
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path, metadata)


DAMAGE: list[tuple[Kind, str, Any, str]] = [
    ("ridge", "regression", lambda a: a.update(model=np.frombuffer(pickle.dumps(1), np.uint8)),
     "the array model, which a ridge head does not have"),
    ("ridge", "regression", lambda a: a.pop("intercepts"), "lacks the array intercepts"),
    ("ridge", "regression", lambda a: a.update(coefficients=np.zeros((1, 11))), "coefficients has the shape"),
    ("ridge", "regression", lambda a: a.update(intercepts=np.array([np.nan])), "intercepts is empty or not finite"),
    ("ridge", "regression", lambda a: a.update(std=np.zeros(12)), "std is not above 0"),
    ("ridge", "regression", lambda a: a.update(bounds=np.array([1.0, 0.0])), "bounds are .1.0, 0.0., the first is not"),
    ("ridge", "regression", lambda a: a.update(bounds=np.zeros(3)), "bounds has the shape"),
    ("logistic", "classification", lambda a: a.update(bounds=np.array([0.0, 1.0])), "the array bounds, which a logist"),
    ("logistic", "classification", lambda a: a.update(coefficients=np.zeros((4, 12))), "coefficients has the shape"),
    ("knn", "dense", lambda a: a.update(neighbours=np.array(401)), "401 neighbours of 400 examples"),
    ("forest", "classification", lambda a: a.update(left=np.zeros_like(a["left"])), "child"),
    ("forest", "classification", lambda a: a.update(left=np.where(a["left"] < 0, -1, np.arange(len(a["left"])))),
     "a child before its parent"),
    ("forest", "classification", lambda a: a.update(feature=a["feature"] + 12), "feature that there is none of"),
    ("forest", "classification", lambda a: a.update(first=a["first"] + len(a["left"])), "begin outside"),
    ("forest", "classification", lambda a: a.update(left=a["left"].astype(float)), "left holds float64"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "task", "change", "said"), DAMAGE)
def test_arrays_that_do_not_fit_are_refused_by_name(
    kind: Kind, task: str, change: Any, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.safetensors"
    write_decoder(decoder_of(kind, task), path)
    rewritten(path, change)
    with pytest.raises(RequestError, match=said):
        read_decoder(path)


def test_other_files_are_no_decoder(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    with pytest.raises(RequestError, match="there is no such file"):
        read_decoder(path)
    safetensors.numpy.save_file({"mean": np.zeros(3)}, path)
    with pytest.raises(RequestError, match="not a decoder of embedcube"):
        read_decoder(path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(RequestError, match="not a decoder of embedcube"):
        read_decoder(path)
