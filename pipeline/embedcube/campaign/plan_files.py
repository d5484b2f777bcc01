"""The files of a plan, and reading their rows: plan.parquet, or several files of a plan of very many shards.

Rows are given some thousand at a time, with the recipes of the present round: those without the scenes that are out.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from embedcube.campaign.columns import integers, texts
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import read_sealed
from embedcube.campaign.tables import read_pieces
from embedcube.campaign.verdicts import Verdicts
from embedcube.errors import RequestError


class Files(Protocol):
    """What is read here of a plan."""

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each file, by its name in the run folder."""

    @property
    def tasks(self) -> int:
        """Number of tasks; the pilot is the one after the last."""

    @property
    def verdicts(self) -> Verdicts:
        """The scenes that are out for all shards."""

    @property
    def seal(self) -> str:
        """The digest of all rows in their order."""

    def files_of(self, task: int | None) -> list[str]:
        """Names of the files that may have rows of a task, or of all files."""


def plan_pieces(run: RunDir, plan: Files, names: Sequence[str], task: int | None) -> Iterator[pyarrow.Table]:
    """Columns of the rows of a task, or of all tasks, in the order of the plan.

    Only the files that may have rows of the task are read; each of them is checked whole before it is parsed.

    Raises:
        RequestError: a file is not the one that plan.json was written with.
    """
    changed = not {"recipe", "scenes"}.isdisjoint(names) and bool(plan.verdicts.scenes)
    needed = tuple(dict.fromkeys((*names, "recipe", "scenes"))) if changed else tuple(names)
    if task == plan.tasks:
        yield _without_broken(_pilot_of(run, plan, needed), plan.verdicts, changed).select(list(names))
        return
    for name in plan.files_of(task):
        for piece in read_pieces(run.root / name, plan.files[name], needed, "plan", task):
            yield _without_broken(piece, plan.verdicts, changed).select(list(names))


def _without_broken(table: pyarrow.Table, verdicts: Verdicts, changed: bool) -> pyarrow.Table:
    """The rows with their recipes and scenes of the present round."""
    if not changed:
        return table
    scenes = table["scenes"].combine_chunks()
    one = pyarrow.compute.list_flatten(scenes)
    broken = pyarrow.compute.is_in(one, integers(sorted(verdicts.scenes)).cast(one.type))
    rows = sorted(set(pyarrow.compute.list_parent_indices(scenes).filter(broken).to_pylist()))
    recipes = [verdicts.recipe(table["recipe"][row].as_py(), scenes[row].as_py()) for row in rows]
    chosen = pyarrow.compute.is_in(integers(range(len(table))), integers(rows))
    changed = pyarrow.compute.replace_with_mask(table["recipe"].combine_chunks(), chosen, texts(recipes))
    table = table.set_column(table.schema.get_field_index("recipe"), "recipe", changed)
    return _with_instead(table, scenes, rows, verdicts) if verdicts.instead else table


def _with_instead(
    table: pyarrow.Table, scenes: pyarrow.ListArray, rows: Sequence[int], verdicts: Verdicts
) -> pyarrow.Table:
    """The rows with the scenes that are used instead of those that are out."""
    of_row = {row: verdicts.rows(scenes[row].as_py()) for row in rows}
    counts = pyarrow.compute.list_value_length(scenes).to_numpy().astype(np.int64)
    ends = np.cumsum(counts)
    flat, pieces, start = pyarrow.compute.list_flatten(scenes).to_numpy(), [], 0
    for row, linked in sorted(of_row.items()):
        pieces += [flat[start : ends[row] - counts[row]], np.array(linked, dtype=flat.dtype)]
        start = ends[row]
    pieces.append(flat[start:])
    for row, linked in of_row.items():
        counts[row] = len(linked)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    changed = pyarrow.ListArray.from_arrays(_small(offsets), _small(np.concatenate(pieces)))
    return table.set_column(table.schema.get_field_index("scenes"), "scenes", changed)


def _small(values: NDArray[Any]) -> pyarrow.Array:
    return pyarrow.Array.from_buffers(pyarrow.int32(), len(values), [None, pyarrow.py_buffer(values.astype(np.int32))])


def _pilot_of(run: RunDir, plan: Files, names: Sequence[str]) -> pyarrow.Table:
    """The rows of the pilot, each a draw group of its own; none where no pilot was chosen."""
    rows: list[int] = []
    if run.pilot.exists():
        pilot = read_sealed(run.pilot, "submit --pilot")
        if pilot.get("plan") != plan.seal:
            raise RequestError(f"{run.pilot} was chosen for another plan; run `embedcube submit --pilot` again")
        rows = pilot["rows"]
    wanted, start, pieces = np.sort(np.array(rows, dtype=np.int64)), 0, []
    for name in plan.files_of(None):
        for piece in read_pieces(run.root / name, plan.files[name], names, "plan"):
            here = wanted[(wanted >= start) & (wanted < start + len(piece))] - start
            pieces.append(piece.take(integers(here)))
            start += len(piece)
    chosen = pyarrow.concat_tables(pieces).take(integers(np.searchsorted(wanted, rows)))
    numbers = {"task": np.full(len(rows), plan.tasks), "draw": np.arange(len(rows))}
    for name in numbers.keys() & set(chosen.column_names):
        chosen = chosen.set_column(chosen.schema.get_field_index(name), name, integers(numbers[name]))
    return chosen
