"""Scores by the protocol of NeuCo-Bench, beside those of a probe that has converged.

Its evaluator standardises by one mean and one deviation over all numbers, takes NaN for 0, trains a linear layer for
ten epochs, and keeps the best epoch as seen on the held-out rows. Half of its quality Q is that optimiser: so a ridge
or logistic on the same splits stands beside each score.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.readable import readable
from embedcube.errors import RequestError
from embedcube.printable import printable

SPLITS, EPOCHS, BATCH, RATE, SEED, HELD = 40, 10, 64, 1e-3, 42, 0.1
"""of its sample configuration: splits, epochs, rows of a batch, learning rate, seed, share of rows held out"""

Kind = Literal["classification", "regression"]

_KINDS: dict[str, Kind] = {
    "classification": "classification", "cls": "classification", "regression": "regression", "regr": "regression",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """One file of labels, of the ids that have vectors."""

    name: str
    kind: Kind
    vectors: NDArray[np.float32]
    target: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NeucoScore:
    """Scores of one task: F1 of two classes, or R2 of a number, over its splits."""

    task: str
    kind: Kind
    rows: int
    mean: float
    spread: float
    """standard deviation over splits"""
    quality: float
    """its Q: 2 mean / (0.02 + spread)"""
    converged_mean: float
    """of a ridge or logistic on the same splits"""
    converged_spread: float


def score_neuco(vectors: Path, labels: Path, splits: int = SPLITS) -> list[NeucoScore]:
    """Scores of all tasks of a folder of labels, in the order in which the evaluator draws its random numbers.

    `vectors` is a CSV as `embedcube export --as neuco-csv` writes it; `labels` holds <task>__<kind>.csv.

    Raises:
        RequestError: a file cannot be read, or no id of a task has a vector.
    """
    import torch

    tasks = read_tasks(vectors, labels)
    torch.manual_seed(SEED)
    return [_scored(task, splits) for task in tasks]


def read_tasks(vectors: Path, labels: Path) -> list[Task]:
    """The tasks by name, their vectors standardised by one number for all."""
    names, matrix = _read_vectors(vectors)
    told = sorted(labels.glob("*.csv")) if labels.is_dir() else []
    if not told:
        raise RequestError(f"{labels}: no <task>__<classification|regression>.csv in this folder")
    labelled = {path: _read_labels(path) for path in told}
    wanted = {name for rows in labelled.values() for name, _ in rows}
    own = [i for i, name in enumerate(names) if name in wanted]
    if not own:
        raise RequestError(f"{vectors.name}: none of its {len(names)} ids is in {labels}, for example {names[0]}")
    matrix = matrix[own]
    deviation = matrix.std()
    matrix = (matrix - matrix.mean()) / (deviation if deviation != 0 else 1)
    row_of = {names[i]: row for row, i in enumerate(own)}
    found = []
    for path, rows in labelled.items():
        name, _, kind = path.stem.partition("__")
        if kind.lower() not in _KINDS:
            raise RequestError(f"{path.name}: its name ends in __classification or __regression, not __{kind}")
        pairs = [(row_of[one], label) for one, label in rows if one in row_of]
        target = np.array([label for _, label in pairs])
        if len(pairs) < 10 or np.ptp(target) == 0:
            raise RequestError(f"{path.name}: {len(pairs)} rows with a vector, all of one label or too few to score")
        target = (target - target.min()) / np.ptp(target)
        taken = matrix[[row for row, _ in pairs]]
        found.append(Task(name=name, kind=_KINDS[kind.lower()], vectors=taken, target=target))
    return sorted(found, key=lambda task: task.name)


def _read_vectors(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    try:
        with readable(path).open(newline="") as file:
            reader = csv.reader(file)
            head = next(reader)
            columns = sorted((int(name), i) for i, name in enumerate(head) if name.isdigit())
            at = head.index("id")
            rows = [(row[at], [row[i] or "nan" for _, i in columns]) for row in reader]
        matrix = np.array([numbers for _, numbers in rows], np.float32)
    except (OSError, ValueError, StopIteration, IndexError) as error:
        raise RequestError(
            f"{path}: not a CSV of vectors with the columns id, 0, 1, ... ({error}); `embedcube export --as neuco-csv`"
        ) from None
    if not len(matrix) or matrix.ndim != 2:
        raise RequestError(f"{path}: it holds no vector")
    names = [name.replace(".zarr.zip", "").replace(".zarr", "") for name, _ in rows]
    _check_once(path, names)
    return names, np.nan_to_num(matrix)


def _read_labels(path: Path) -> list[tuple[str, float]]:
    with readable(path).open(newline="") as file:
        try:
            rows = [(row["id"], float(row["label"])) for row in csv.DictReader(file) if row.get("label")]
        except (KeyError, ValueError) as error:
            raise RequestError(f"{path}: labels are a CSV with the columns id and label, a number ({error})") from None
    for name, label in rows:
        if not np.isfinite(label):
            raise RequestError(f"{path}: the label of {printable(name, 60)} is {label}; labels are finite numbers")
    _check_once(path, [name for name, _ in rows])
    return rows


def _check_once(path: Path, names: Sequence[str]) -> None:
    """Refuse an id that is there twice: its vector would be learned from and asked for."""
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise RequestError(f"{path}: the id {printable(name, 60)} is there {count} times; write each once")


def _scored(task: Task, splits: int) -> NeucoScore:
    from sklearn.model_selection import ShuffleSplit

    split = list(ShuffleSplit(n_splits=splits, test_size=HELD, random_state=SEED).split(task.vectors))
    if task.kind == "classification" and any(len(np.unique(task.target[known] > 0.5)) < 2 for known, _ in split):
        raise RequestError(
            f"{task.name}: one of its {splits} splits has all rows of one of its two classes in the held-out tenth, "
            "so there is nothing to learn; label more rows of both classes"
        )
    own = [_trained(task, known, asked) for known, asked in split]
    converged = [_converged(task, known, asked) for known, asked in split]
    mean, spread = float(np.mean(own)), float(np.std(own))
    return NeucoScore(
        task=task.name, kind=task.kind, rows=len(task.target), mean=mean, spread=spread,
        quality=2 * mean / (0.02 + spread), converged_mean=float(np.mean(converged)),
        converged_spread=float(np.std(converged)),
    )  # fmt: skip


def _trained(task: Task, known: NDArray[np.int64], asked: NDArray[np.int64]) -> float:
    """The best score on held-out rows over the epochs of a linear layer, as the evaluator trains it."""
    import torch
    from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

    target = task.target.astype(np.float32)
    rows = TensorDataset(torch.from_numpy(task.vectors), torch.from_numpy(target))
    loaders: list[Any] = [DataLoader(rows, batch_size=BATCH, sampler=SubsetRandomSampler(part.tolist()))
                          for part in (known, asked)]  # fmt: skip
    layer = torch.nn.Linear(task.vectors.shape[1], 1)
    steps = torch.optim.AdamW(layer.parameters(), lr=RATE)
    loss = torch.nn.BCEWithLogitsLoss() if task.kind == "classification" else torch.nn.MSELoss()
    best = -np.inf
    for _ in range(EPOCHS):
        for features, labels in loaders[0]:
            steps.zero_grad()
            loss(layer(features).view(-1), labels).backward()
            steps.step()
        said, true = [], []
        with torch.no_grad():
            for features, labels in loaders[1]:
                said.append(layer(features).view(-1).numpy())
                true.append(labels.numpy())
        best = max(best, _metric(task.kind, np.concatenate(true), np.concatenate(said)))
    return best


def _metric(kind: Kind, true: NDArray[np.float32], said: NDArray[np.float32]) -> float:
    """F1 of the second class, or R2."""
    if kind == "regression":
        spread = ((true - true.mean()) ** 2).sum()
        return float(1 - ((true - said) ** 2).sum() / spread) if spread > 0 else float("nan")
    # numbers that all lie from 0 to 1 are taken for probabilities, as torchmetrics does
    taken = said > (0.5 if ((said >= 0) & (said <= 1)).all() else 0.0)
    right = float((taken & (true > 0.5)).sum())
    whole = float(taken.sum() + (true > 0.5).sum())
    return 2 * right / whole if whole else 0.0


def _converged(task: Task, known: NDArray[np.int64], asked: NDArray[np.int64]) -> float:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(task.vectors[known])
    x, x_asked = (scaler.transform(task.vectors[part]) for part in (known, asked))
    if task.kind == "regression":
        said = RidgeCV(alphas=np.logspace(-2, 5, 15)).fit(x, task.target[known]).predict(x_asked)
        return _metric(task.kind, task.target[asked].astype(np.float32), said.astype(np.float32))
    model = LogisticRegression(max_iter=2000).fit(x, task.target[known] > 0.5)
    return _metric(task.kind, task.target[asked].astype(np.float32), model.decision_function(x_asked) * 1e3)


def lines_of_neuco(found: Sequence[NeucoScore]) -> Iterator[str]:
    """The table as text."""
    yield f"{'task':<24}{'rows':>7}  {'score':>16}{'Q':>8}  {'converged probe':>16}"
    for one in found:
        yield (
            f"{one.task:<24}{one.rows:>7}  {one.mean:>8.3f} ± {one.spread:.3f}{one.quality:>8.2f}  "
            f"{one.converged_mean:>8.3f} ± {one.converged_spread:.3f}"
        )
    yield "score: F1 of classes, R2 of numbers, the best of ten epochs on the held-out tenth, as NeuCo-Bench has it"
    yield "converged probe: ridge or logistic on the same splits; the difference is the optimiser, not the vectors"
