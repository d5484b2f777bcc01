"""Tables of records: of each record what is asked of many at once. Their schema, writers and reader (ADR 0015).

Each parent writes one for the ranks of its attempt, when they have ended; `submit` merges all that is recorded into
one more. The lines of records.jsonl are the truth: a table is believed for those of its parts alone whose file of
records has the size and the time of writing that were noted, and of all other parts the lines are read.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from embedcube.campaign.columns import integers, long_texts, numbers_of, texts, truths
from embedcube.campaign.parts import FORMAT, RECORDS, crash_files, recipe_of, record_texts
from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.schema import digest_of
from embedcube.campaign.seals import parsed_line

log = logging.getLogger(__name__)

COUNTS = "counts."
"""Begins the names of the columns with the counts of a record; who reads one of them by name gets those of this name,
who reads `COUNTS` all."""

_ABOUT = b"embedcube"
"""key of the metadata of the file"""

_DIGITS = 16
"""of the SHA-256 of the file, in its name"""

_FEW = frozenset({"recipe", "whole"})
"""columns for which a line need not be parsed"""


@dataclass(frozen=True, kw_only=True)
class NotedPart:
    """A file of records, as it was when it was read."""

    part: str
    """path of the part below the folder of parts"""
    size: int
    mtime_ns: int
    """time of its last writing"""


@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """A table of records, as it was read; what of it holds is another question."""

    parts: tuple[NotedPart, ...]
    plan: str
    """digest of the plan when it was made; empty for that of one attempt"""
    crashes: tuple[str, ...]
    """paths, below the folder of parts, of the crashes that there were; of a merged table"""
    rows: pyarrow.Table
    """the columns that were asked for, and `part`: a number in `parts`"""


def note(run: RunDir, part: str) -> NotedPart | None:
    """How the file of records of a part is now; None where there is none."""
    try:
        facts = (run.parts / part / RECORDS).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return NotedPart(part=part, size=facts.st_size, mtime_ns=facts.st_mtime_ns)


def note_all(run: RunDir, folder: str = "*") -> dict[str, NotedPart]:
    """How all files of records are now, or those below one folder of `parts`, by part in a fixed order."""
    paths = sorted(path.parent for path in run.parts.glob(f"{folder}/*/*/{RECORDS}"))
    noted = (note(run, str(path.relative_to(run.parts))) for path in paths)
    return {one.part: one for one in noted if one is not None}


# --- writing ----------------------------------------------------------------------------------------------------------


def write_table(run: RunDir, task: int, attempt: str, parent: int, ranks: Iterable[int]) -> None:
    """Write the table of the ranks of one parent, which have ended; none where they have recorded nothing."""
    parts = (str(run.part(task, attempt, rank).relative_to(run.parts)) for rank in ranks)
    noted = {one.part: one for part in parts if (one := note(run, part)) is not None}
    table = rows_of(run, noted, ())
    if len(table):
        about = {"parts": _documents(noted.values()), "plan": "", "crashes": []}
        _write(partial(run.recorded_by, task, attempt, parent), table, about)


def merge_tables(run: RunDir, plan: str) -> None:
    """Make one table of all records that there are, and remove older ones of that kind; `plan` is the plan's digest.

    Tasks then read one file, and beside it only what was recorded later. One that has begun before needs no table.
    """
    noted = note_all(run)
    crashes = [str(path.relative_to(run.parts)) for path in crash_files(run)]
    about = {"parts": _documents(noted.values()), "plan": plan, "crashes": crashes}
    older = run.recorded()
    table = rows_of(run, noted, [*older, *run.recorded_of_attempts()])
    written = _write(run.recorded_as, table, about)
    for path in older:
        if path != written:
            path.unlink(missing_ok=True)


def forget_tables(run: RunDir) -> None:
    """Remove all tables: the lines say otherwise. The next `submit` makes a new one of the lines."""
    for path in (*run.recorded(), *run.recorded_of_attempts()):
        log.warning("%s: it has records that no file of records has; it is removed", path)
        path.unlink(missing_ok=True)


def _documents(noted: Iterable[NotedPart]) -> list[list[Any]]:
    return [[one.part, one.size, one.mtime_ns] for one in noted]


def _write(path_of: Callable[[str], Path], table: pyarrow.Table, about: dict[str, Any]) -> Path:
    """Write a table below the name that its digest gives it, and return its path."""
    metadata = {_ABOUT: json.dumps(about | {"format": _FORMAT}).encode()}
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), stream, compression="zstd")
    data = stream.getvalue()
    path = path_of(hashlib.sha256(data).hexdigest()[:_DIGITS])
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return path


# --- reading ----------------------------------------------------------------------------------------------------------


def rows_of(
    run: RunDir, noted: dict[str, NotedPart], tables: Iterable[Path], names: Collection[str] = ()
) -> pyarrow.Table:
    """The named columns, or all, of the records of some parts, and `part`: a number among `noted`.

    Each part is read from the first of `tables` that has it as it is, else from its lines.
    """
    numbers = {part: number for number, part in enumerate(noted)}
    left, pieces = dict(noted), []
    attempts = Counter(_attempt_of(part) for part in left)
    for path in tables:
        # the merged tables have most; those of attempts need not be opened then
        of_one = path.parent != run.root
        if not left or (of_one and not attempts[str(path.parent.relative_to(run.parts))]):
            continue
        if (table := read_table(path, names)) is None:
            continue
        believed = {i: one.part for i, one in enumerate(table.parts) if left.get(one.part) == one}
        rows = table.rows if len(believed) == len(table.parts) else _only(table.rows, believed)
        pieces.append(_renumbered(rows, [numbers.get(one.part, -1) for one in table.parts]))
        for part in believed.values():
            attempts[_attempt_of(part)] -= 1
            del left[part]
    pieces.append(_from_lines(run, left, numbers, names))
    # the counts of two layers may have other names
    return pyarrow.concat_tables(pieces, promote_options="default")


def _attempt_of(part: str) -> str:
    return part.rpartition("/")[0]


def read_table(path: Path, names: Collection[str] = ()) -> RecordTable | None:
    """A table with these columns; None where it is gone, damaged, or of another version of embedcube."""
    try:
        data = path.read_bytes()
    except OSError:
        return None  # gone, or a network file system says so otherwise
    if hashlib.sha256(data).hexdigest()[:_DIGITS] != path.stem.rpartition("-")[2]:
        log.warning("%s: damaged, its SHA-256 is not that of its name; the lines of its records are read instead", path)
        return None
    with suppress(pyarrow.ArrowException, KeyError, ValueError, TypeError):
        with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)) as file:
            schema = file.schema_arrow
            about = json.loads(schema.metadata[_ABOUT])
            rows = file.read(columns=[one for one in schema.names if not names or _asked(one, names)])
        parts = tuple(NotedPart(part=part, size=size, mtime_ns=time) for part, size, time in about["parts"])
        if about["format"] == _FORMAT:
            return RecordTable(parts=parts, plan=about["plan"], crashes=tuple(about["crashes"]), rows=rows)
    return None


def _asked(column: str, names: Collection[str]) -> bool:
    return column == "part" or column in names or (COUNTS in names and column.startswith(COUNTS))


def _only(rows: pyarrow.Table, parts: Collection[int]) -> pyarrow.Table:
    """The rows of these parts."""
    chosen = integers(sorted(parts))
    return rows.take(pyarrow.compute.indices_nonzero(pyarrow.compute.is_in(rows["part"], value_set=chosen)))


def _renumbered(rows: pyarrow.Table, numbers: Sequence[int]) -> pyarrow.Table:
    now = np.array(numbers, dtype=np.int64)[numbers_of(rows["part"])]
    return rows.set_column(rows.schema.get_field_index("part"), "part", integers(now))


def _from_lines(run: RunDir, parts: Iterable[str], numbers: dict[str, int], names: Collection[str]) -> pyarrow.Table:
    """The rows of parts, from the lines of their records."""
    found = ((numbers[part], text) for part in parts for text in record_texts(run.parts / part / RECORDS))
    if names and _FEW.issuperset(names):
        columns: dict[str, list[Any]] = {"part": [], "recipe": [], "whole": []}
        for number, text in found:
            columns["part"].append(number)
            recipe, whole = recipe_of(text)
            columns["recipe"].append(recipe)
            columns["whole"].append(whole)
    else:
        columns = _columns_of((number, parsed_line(text)) for number, text in found)
    kept = [name for name in columns if not names or _asked(name, names)]
    return pyarrow.Table.from_arrays([_array(name, columns[name]) for name in kept], names=kept)


def _columns_of(documents: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, list[Any]]:
    """The columns of a table, from the number of the part and the fields of each record."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    counts: list[dict[str, int]] = []
    for number, fields in documents:
        columns["part"].append(number)
        columns["whole"].append(not fields["quarantined"])
        for name in ("recipe", "refused", "attempt", "job"):
            columns[name].append(fields[name])
        for name in ("quarantined", "not_held"):
            columns[name].append(json.dumps(fields[name], sort_keys=True) if fields[name] else "")
        for name in ("started", "finished"):
            columns[name].append(round(datetime.fromisoformat(fields[name]).timestamp() * 1000))
        counts.append(fields["counts"])
    for name in dict.fromkeys(name for one in counts for name in one):
        columns[COUNTS + name] = [one.get(name, 0) for one in counts]
    return columns


_COLUMNS: dict[str, Callable[[Any], pyarrow.Array]] = {
    "part": integers,
    "recipe": texts,
    "whole": truths,
    "quarantined": long_texts,
    "refused": texts,
    "not_held": texts,
    "attempt": texts,
    "job": texts,
    "started": integers,
    "finished": integers,
}
"""The columns beside the counts. `whole`: every scene was read. `quarantined` and `not_held` are JSON, or empty;
`started` and `finished` are milliseconds since 1970."""


_FORMAT = digest_of([FORMAT, *([name, str(make([]).type)] for name, make in _COLUMNS.items())])[:8]
"""in the metadata of a table: a digest of the fields of a record and of the columns"""


def _array(name: str, values: list[Any]) -> pyarrow.Array:
    make: Callable[[Any], Any] = _COLUMNS.get(name, integers)
    return make(values)
