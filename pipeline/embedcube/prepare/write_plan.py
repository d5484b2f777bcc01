"""The rows of a plan: made a piece at a time, put in the order in which they are drawn, and written.

A plan of a few hundred thousand shards is one file, plan.parquet. A larger one is several, of whole tasks as far as
they fit: no more than one of them is in memory, and a task reads only its own.
"""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from embedcube.campaign.plan import Ints, Plan, Shards, digest_of_digests
from embedcube.campaign.price import Price
from embedcube.campaign.recipes import LayerRecipes
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir, replacing
from embedcube.campaign.seals import digest_of_file, write_sealed
from embedcube.campaign.verdicts import keep_verdicts
from embedcube.errors import RequestError
from embedcube.kernel.recipes import recipes_of
from embedcube.prepare.draw_groups import Floats, assign
from embedcube.prepare.pieces import Linked, Pieces

ROWS_IN_FILE = 1 << 18
"""rows of a plan that is one file; of a larger one, those of each file, about"""

_ROWS_AT_ONCE = 1 << 16
"""rows of a file of several that are written together, all of one task: a reader of a task skips the others"""


@dataclass(frozen=True, kw_only=True)
class PlannedZone:
    """The shards of a layer on one grid."""

    layer: str
    zone: str
    pieces: Pieces
    linked: Linked
    recipes: LayerRecipes
    group: NDArray[np.integer[Any]]
    """draw group of each shard, counted from 0 in this zone"""
    cost: Floats
    """seconds of a rank for each shard"""
    price: Price


def write_plan(run: RunDir, result: Plan, zones: Sequence[PlannedZone], digests: NDArray[np.uint8]) -> Plan:
    """Write the files of the plan; return it with their digests, that of its recipes, and the verdicts that are kept.

    `digests` are those of the scenes and of the software that reads them: (scene, 32).

    Killed before plan.json is replaced, `plan` leaves the last plan as it was. A plan of one file may be killed between
    plan.json and plan.parquet: it leaves two that do not agree; every reader sees that, and so does a job of the last
    plan. Several files have names of their own, so that those of the last plan stay until plan.json is replaced.
    """
    order = _Order.of(zones, result.tasks)
    made = _Rows(zones, order, digests)
    if len(order.tasks_of) == 1:
        table = in_draw_order(pyarrow.concat_tables([piece for piece, _ in made.tables()]))
        with replacing(run.plan) as temporary:
            pyarrow.parquet.write_table(table, temporary)
            result = replace(result, plan=made.digest, files={run.plan.name: digest_of_file(temporary)})
            write_sealed(run.plan_summary, result.summary)
    else:
        token = secrets.token_hex(6)
        try:
            files = _write_files(run, made, order, token)
            tasks_of = dict(zip(files, order.tasks_of, strict=True))
            result = replace(result, plan=made.digest, files=files, tasks_of=tasks_of)
            _refuse_removed(run, files)
            write_sealed(run.plan_summary, result.summary)
        except BaseException:
            # also on a full disk nothing is left of it
            for path in run.plan_folder.glob(f"{token}-*"):
                path.unlink(missing_ok=True)
            raise
        run.plan.unlink(missing_ok=True)
    _remove_others(run, result)
    run.pilot.unlink(missing_ok=True)
    return replace(result, verdicts=keep_verdicts(run, result.digests))


@dataclass(frozen=True, kw_only=True)
class _Order:
    """Where the draw groups of all zones go."""

    task: NDArray[np.int32]
    """of each group"""
    draw: NDArray[np.int32]
    """place of each group in its task's order"""
    file: Ints
    """number of the file that has each group"""
    tasks_of: list[tuple[int, int]]
    """first and last task of each file"""

    @classmethod
    def of(cls, zones: Sequence[PlannedZone], tasks: int) -> "_Order":
        """Divide the groups among the tasks, and the tasks among files; a task that is too large has several."""
        task, draw = assign(np.concatenate([np.bincount(zone.group, zone.cost) for zone in zones]), tasks)
        members = np.concatenate([np.bincount(zone.group) for zone in zones])
        rows_of_task = np.bincount(task, members, minlength=tasks).astype(np.int64)
        first, held, tasks_of = np.zeros(tasks, dtype=np.int64), 0, [(0, 0)]
        for number, rows in enumerate(rows_of_task.tolist()):
            if held and held + rows > ROWS_IN_FILE:
                tasks_of.append((number, number))
                held = 0
            first[number] = len(tasks_of) - 1
            tasks_of[-1] = tasks_of[-1][0], number
            more = max(0, rows - 1) // ROWS_IN_FILE
            tasks_of += [(number, number)] * more
            held += rows - more * ROWS_IN_FILE
        in_order = np.lexsort((draw, task))
        before = np.cumsum(members[in_order]) - members[in_order]
        before -= (np.cumsum(rows_of_task) - rows_of_task)[task[in_order]]
        file = np.zeros(len(task), dtype=np.int64)
        file[in_order] = first[task[in_order]] + before // ROWS_IN_FILE
        # a group that is larger than a file leaves the next one empty
        used, file = np.unique(file, return_inverse=True)
        return cls(task=task, draw=draw, file=file, tasks_of=[tasks_of[number] for number in used])


class _Rows:
    """Makes the rows of the plan; afterwards `digest` is that of all recipes."""

    def __init__(self, zones: Sequence[PlannedZone], order: _Order, digests: NDArray[np.uint8]) -> None:
        self._zones, self._order, self._digests = zones, order, digests
        self._recipes = np.zeros((sum(len(zone.pieces) for zone in zones), 32), dtype=np.uint8)
        self._layers, self._names = (
            pyarrow.array(list(dict.fromkeys(getattr(zone, name) for zone in zones)), pyarrow.string())
            for name in ("layer", "zone")
        )

    @property
    def digest(self) -> str:
        """That of all recipes."""
        return digest_of_digests(self._recipes)

    def tables(self) -> Iterator[tuple[pyarrow.Table, Ints]]:
        """The rows of each piece, and the file that each row belongs to."""
        first_group = start = 0
        for zone in self._zones:
            for place, shards in zone.pieces.numbered():
                recipes = recipes_of(zone.recipes, shards, self._digests)
                self._recipes[start + place.start : start + place.stop] = _as_bytes(recipes)
                group = zone.group[place].astype(np.int64) + first_group
                yield self._table(zone, shards, recipes, zone.cost[place], group), self._order.file[group]
            first_group += int(zone.group.max()) + 1
            start += len(zone.pieces)

    def _table(
        self, zone: PlannedZone, shards: Shards, recipes: pyarrow.ChunkedArray, cost: Floats, group: Ints
    ) -> pyarrow.Table:
        return pyarrow.table(
            {
                "layer": _named(zone.layer, self._layers, len(group)),
                "zone": _named(zone.zone, self._names, len(group)),
                "t": shards.t,
                "row": shards.row,
                "col": shards.col,
                "recipe": recipes,
                "scenes": pyarrow.ListArray.from_arrays(shards.first.astype(np.int32), shards.scenes.astype(np.int32)),
                "cost": cost,
                "group": group,
                "task": self._order.task[group].astype(np.int64),
                "draw": self._order.draw[group].astype(np.int64),
            }
        )


def _named(name: str, names: pyarrow.Array, count: int) -> pyarrow.DictionaryArray:
    number = names.to_pylist().index(name)
    return pyarrow.DictionaryArray.from_arrays(np.full(count, number, dtype=np.int32), names)


def _as_bytes(recipes: pyarrow.ChunkedArray) -> NDArray[np.uint8]:
    """Recipes as bytes: (recipe, 32)."""
    text = "".join(recipes.to_pylist())
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(-1, 32)


def in_draw_order(table: pyarrow.Table) -> pyarrow.Table:
    """Rows sorted by task, then by draw (largest group first), then by place within the group."""
    keys = [table[name].to_numpy() for name in ("col", "row", "draw", "task")]
    return table.take(np.lexsort(keys))


def _refuse_removed(run: RunDir, files: Iterable[str]) -> None:
    """Refuse a plan whose files another `plan` has removed."""
    if gone := [name for name in files if not (run.root / name).exists()]:
        raise RequestError(f"{run.root / gone[0]} is gone: another `plan` works on this run folder; wait for its end")


def _write_files(run: RunDir, made: _Rows, order: _Order, token: str) -> dict[str, str]:
    """Write the files of a large plan; returns the digest of each by its name in the run folder.

    The rows of a file come from all pieces, so they are first put together in a file without order.
    """
    run.plan_folder.mkdir(exist_ok=True)
    files = {}
    with _temporary_folder(run.plan_folder) as folder:
        unsorted = [folder / str(number) for number in range(len(order.tasks_of))]
        with ExitStack() as stack:
            writers: dict[int, pyarrow.RecordBatchStreamWriter] = {}
            for table, file_of in made.tables():
                by_file = np.argsort(file_of, kind="stable")
                rows = table.take(by_file)
                edges = np.searchsorted(file_of[by_file], np.arange(len(unsorted) + 1)).tolist()
                for number, (first, last) in enumerate(pairwise(edges)):
                    if number not in writers and last > first:
                        sink = stack.enter_context(pyarrow.OSFile(str(unsorted[number]), "wb"))
                        writers[number] = stack.enter_context(pyarrow.ipc.new_stream(sink, table.schema))
                    if last > first:
                        writers[number].write_table(rows.slice(first, last - first))
        for number, path in enumerate(unsorted):
            name = run.plan_file(token, number)
            with replacing(run.root / name) as temporary:
                with pyarrow.OSFile(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
                    table = stream.read_all()
                path.unlink()
                _write_by_task(temporary, in_draw_order(table))
                files[name] = digest_of_file(temporary)
    return files


def _write_by_task(path: Path, table: pyarrow.Table) -> None:
    """Write a table whose row groups have rows of one task each."""
    task = table["task"].to_numpy()
    edges = [0, *(np.nonzero(np.diff(task))[0] + 1).tolist(), len(task)]
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        for first, last in pairwise(edges):
            writer.write_table(table.slice(first, last - first), _ROWS_AT_ONCE)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    folder = parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_others(run: RunDir, plan: Plan) -> None:
    """Remove the files of the last plan, and what killed processes have left."""
    if not run.plan_folder.exists():
        return
    kept = {run.root / name for name in plan.files}
    for path in run.plan_folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path not in kept:
            path.unlink(missing_ok=True)
    if not kept & {*run.plan_folder.iterdir()}:
        run.plan_folder.rmdir()
