"""What is recorded, asked of many records at once: the tables where they hold, the lines elsewhere (ADR 0015)."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from embedcube.campaign.columns import coded, integers, numbers_of, places_in, texts
from embedcube.campaign.parts import RECORDS, crash_files, recipe_of, record_texts, scan_documents
from embedcube.campaign.plan import Plan
from embedcube.campaign.record_tables import RecordTable, merge_tables, note, note_all, read_table, rows_of
from embedcube.campaign.run_folder import RunDir

_LISTINGS = 3
"""times that a merged table is looked for: `submit` may replace it between listing and opening"""

_BASE = "base"
"""folder of `parts` with those that were taken from other runs"""


def read_recorded(run: RunDir, names: Collection[str]) -> pyarrow.Table:
    """The named columns (`record_tables.py`) of every record, in no order that means anything."""
    return rows_of(run, note_all(run), [*run.recorded(), *run.recorded_of_attempts()], names)


def recorded_recipes(run: RunDir, *, whole: bool = False) -> set[str]:
    """The recipes that have a record; with `whole` only those for which every scene was read."""
    return _recipes(read_recorded(run, ("recipe", "whole")), whole=whole)


def recorded_in(part: Path) -> set[str]:
    """The recipes that have a record in one part, which a rank may be writing."""
    return {recipe_of(text)[0] for text in record_texts(part / RECORDS)}


def merge_recorded(run: RunDir, plan: Plan) -> None:
    """Make the table that the tasks of this plan read first; `submit` does that before it submits them."""
    merge_tables(run, _digest_of(plan))


@dataclass(frozen=True, kw_only=True)
class OfTask:
    """What is recorded of the shards of a task, and where crashes are that may be of them."""

    recipes: set[str]
    crashes: tuple[Path, ...]


def recorded_of_task(run: RunDir, plan: Plan, task: int, recipes: Collection[str], *, whole: bool) -> OfTask:
    """What is recorded of a task whose shards have these recipes, at a price that does not grow with other tasks.

    Where `submit` has made a table for this plan, that is read, and what came later: of the task itself, of the pilot,
    and of other runs. Only those parts of the table are compared with their files that have one of these recipes.
    Elsewhere all that is recorded is looked through.
    """
    merged = _merged(run, plan)
    if merged is None:
        return OfTask(recipes=recorded_recipes(run, whole=whole) & set(recipes), crashes=tuple(crash_files(run)))
    rows = merged.rows
    own = rows.take(integers(np.flatnonzero(places_in(rows["recipe"], texts(dict.fromkeys(recipes))) >= 0)))
    numbers = numbers_of(own["part"])
    now = {number: note(run, merged.parts[number].part) for number in np.unique(numbers).tolist()}
    holds = [number for number, noted in now.items() if noted == merged.parts[number]]
    found = _recipes(own.take(integers(np.flatnonzero(np.isin(numbers, holds)))), whole=whole)
    # what came later: another task of this plan records none of these recipes
    folders = [run.task(one).name for one in sorted({task, plan.tasks})] + [_BASE]
    later = {part: noted for folder in folders for part, noted in note_all(run, folder).items()}
    later |= {noted.part: noted for noted in now.values() if noted is not None}
    known = {noted.part: noted for noted in merged.parts}
    later = {part: noted for part, noted in later.items() if known.get(part) != noted}
    tables = [path for folder in folders for path in run.recorded_of_attempts(folder)]
    found |= _recipes(rows_of(run, later, tables, ("recipe", "whole")), whole=whole) & set(recipes)
    files = {path for folder in folders for path in crash_files(run, folder)}
    return OfTask(recipes=found, crashes=tuple(sorted(files | {run.parts / one for one in merged.crashes})))


def _merged(run: RunDir, plan: Plan) -> RecordTable | None:
    """The merged table that was made for this plan."""
    for _ in range(_LISTINGS):
        paths = run.recorded()
        for path in paths:
            table = read_table(path, ("recipe", "whole"))
            if table is not None and table.plan == _digest_of(plan):
                return table
        if all(path.exists() for path in paths):
            return None
    return None


def _digest_of(plan: Plan) -> str:
    """Which shards are those of which task: the files of the plan say so."""
    return hashlib.sha256(json.dumps(plan.files, sort_keys=True).encode()).hexdigest()


def _recipes(rows: pyarrow.Table, *, whole: bool) -> set[str]:
    rows = rows.filter(rows["whole"]) if whole else rows
    return set(rows["recipe"].to_pylist())


def best_rows(rows: pyarrow.Table, recipes: pyarrow.Array) -> pyarrow.Table:
    """For each of these recipes that has a record the row with the fewest unreadable scenes, in their order.

    `rows` have the columns `recipe` and `quarantined`; `recipes` are unlike.
    """
    places = places_in(rows["recipe"], recipes)
    texts_of, codes = coded(rows["quarantined"])
    order = sorted(range(len(texts_of)), key=lambda code: missed(quarantined_of(texts_of[code])))
    rank = np.argsort(order)
    chosen = np.lexsort((rank[codes] if len(rank) else codes, places))
    chosen = chosen[places[chosen] >= 0]
    _, first = np.unique(places[chosen], return_index=True)
    return rows.take(integers(chosen[first]))


def best_documents(run: RunDir, recipes: Collection[str], names: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each recipe that has a record, the named fields of the one with the fewest unreadable scenes."""
    found: dict[str, dict[str, Any]] = {}
    for _, document in scan_documents(run):
        recipe = document["recipe"]
        if recipe in recipes and (
            recipe not in found or missed(document["quarantined"]) < missed(found[recipe]["quarantined"])
        ):
            found[recipe] = {name: document[name] for name in ("quarantined", *names)}
    return found


def missed(quarantined: Iterable[Mapping[str, Any]]) -> tuple[int, tuple[str, ...]]:
    """Number and digests of the scenes that a record has not; of two records of a recipe, the one with less counts."""
    digests = tuple(sorted(one["scene_digest"] for one in quarantined))
    return len(digests), digests


def some_of(rows: pyarrow.Table, name: str) -> Iterator[tuple[int, str]]:
    """The number and the text of each row whose text in this column is not empty."""
    values, codes = coded(rows[name])
    for row in np.flatnonzero(codes != values.index("")).tolist() if "" in values else range(len(codes)):
        yield row, values[codes[row]]


def quarantined_of(text: str) -> list[dict[str, Any]]:
    """The unreadable scenes of a record, from the column `quarantined`."""
    return list(json.loads(text)) if text else []
