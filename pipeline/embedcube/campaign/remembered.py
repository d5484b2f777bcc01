"""remembered.parquet: what `index` found out of single files, so that the next one need not look at unchanged ones.

It holds nothing that another stage reads, and may be removed at any time: `index` then looks at every file again.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.parquet

from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.scene import Scene
from embedcube.campaign.seals import read_sealed
from embedcube.campaign.tables import read_columns
from embedcube.errors import RequestError

Kind = Literal["item", "files", "look", "scene", "folder"]
"""What is remembered: the product of the file of a STAC Item, the description of the files of a product, what was seen
of a scene's pixels, what was decided about the scene of an Item, and that a folder holds one Item with its files"""

_COLUMNS = ("archive", "kind", "key", "token", "text")
_SCHEMA = pyarrow.schema(
    zip(_COLUMNS, [*[pyarrow.string()] * 3, pyarrow.binary(), pyarrow.large_string()], strict=True)
)

_AT_ONCE = 1 << 13
"""entries that are written at once; more are never held"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing that was found out."""

    token: bytes
    """digest of all that it follows from, other than what must be asked of the file system again"""
    text: str
    """what was found out, as JSON"""


class Memory:
    """What is remembered of one archive: from the last `index`, and in this one for the next."""

    def __init__(self, archive: str, before: pyarrow.Table, file: "_File") -> None:
        """`before` are the rows of the last file for this archive; `file` is the one that is written."""
        self._archive, self._before, self._file = archive, before, file
        self._tokens, self._texts = (before[name].combine_chunks() for name in ("token", "text"))
        self._rows: dict[Kind, dict[str, int]] = {}
        self.inventory: Callable[[str], Scene] | None = None
        """gives the scene with an id as the last inventory has it; None where there is no such inventory"""
        self.told: dict[str, str] = {}
        """by path of the file of an Item, what will be remembered of its product together with its scene"""

    def get(self, kind: Kind, key: str) -> Entry | None:
        """What the last `index` found out; None if it is not remembered."""
        row = self._row(kind, key)
        return None if row is None else Entry(token=self._tokens[row].as_py(), text=self._texts[row].as_py())

    def text(self, kind: Kind, key: str) -> str | None:
        """The text of `get` alone."""
        row = self._row(kind, key)
        text: str | None = None if row is None else self._texts[row].as_py()
        return text

    def keep(self, kind: Kind, key: str, entry: Entry) -> None:
        """Remember something for the next `index`."""
        self._file.add(self._archive, kind, key, entry)

    def keep_again(self, kind: Kind, key: str) -> None:
        """Remember something as it is remembered from the last `index`, if it is."""
        row = self._row(kind, key)
        if row is not None:
            self._file.add_row(self._before, row)

    def _row(self, kind: Kind, key: str) -> int | None:
        if kind not in self._rows:
            found = np.flatnonzero(self._before["kind"].to_numpy(zero_copy_only=False) == kind)
            keys = self._before["key"].take(found).to_pylist()
            self._rows[kind] = dict(zip(keys, found.tolist(), strict=True))
        return self._rows[kind].get(key)


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembering(memory: Memory | None) -> Iterator[None]:
    """Use this memory inside the block; None remembers nothing."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def memory_in_use() -> Memory | None:
    """The memory of the block around; None outside of `remembering`, where nothing is remembered."""
    return _memory.get()


@dataclass(frozen=True, kw_only=True)
class Memories:
    """The memories of all archives of which something is remembered, by name."""

    of: Mapping[str, Memory]
    told: dict[str, Any] = field(default_factory=dict)
    """what the seal of the inventory says of the file that was written; empty before it is"""


@contextmanager
def memories(run: RunDir, versions: Mapping[str, str], asked: Mapping[str, str], *, before: bool) -> Iterator[Memories]:
    """Memories of the archives of `asked`; when the block ends well, what they keep is in remembered.parquet.

    Nothing is taken from the last file without `before`, nor of an archive that was asked for otherwise; and nothing at
    all where it was found out with other `versions`, or is damaged, or not of the inventory that is there.
    """
    versions = {**versions, "embedcube": _own_version()}
    rows = _before(run, versions, asked) if before else {}
    run.root.mkdir(parents=True, exist_ok=True)
    with replacing(run.remembered) as temporary:
        with _File(temporary) as file:
            nothing = _SCHEMA.empty_table()
            memories = Memories(of={name: Memory(name, rows.get(name, nothing), file) for name in asked})
            yield memories
        with temporary.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        memories.told.update(sha256=digest, versions=versions, asked=dict(asked))


def _before(run: RunDir, versions: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, pyarrow.Table]:
    """For each archive that was asked for in the same way, the rows of the last file."""
    try:
        stated = read_sealed(run.inventory_seal, "index")["remembered"]
        if stated["versions"] != versions:
            return {}
        table = read_columns(run.remembered, stated["sha256"], _COLUMNS, "index").cast(_SCHEMA)
        same = [archive for archive, digest in asked.items() if stated["asked"].get(archive) == digest]
    except (OSError, KeyError, TypeError, RequestError):
        return {}
    archives = table["archive"].to_numpy(zero_copy_only=False)
    if set(archives) == {*same} and len(same) == 1:
        return {same[0]: table.combine_chunks()}  # spares a copy
    return {name: table.take(np.flatnonzero(archives == name)).combine_chunks() for name in same}


class _File:
    """The file that is written, some thousand entries at a time."""

    def __init__(self, path: Path) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(
            path, _SCHEMA, compression="zstd", use_dictionary=["archive", "kind"], write_statistics=False
        )
        self._new: list[tuple[str, str, str, bytes, str]] = []
        self._again: list[int] = []
        self._table: pyarrow.Table | None = None

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._write_new()
            self._write_again()
        finally:
            self._writer.close()

    def add(self, archive: str, kind: Kind, key: str, entry: Entry) -> None:
        """Write one entry."""
        self._new.append((archive, kind, key, entry.token, entry.text))
        if len(self._new) == _AT_ONCE:
            self._write_new()

    def add_row(self, table: pyarrow.Table, row: int) -> None:
        """Write the row of a table."""
        if table is not self._table or len(self._again) == _AT_ONCE:
            self._write_again()
            self._table = table
        self._again.append(row)

    def _write_new(self) -> None:
        if self._new:
            columns = zip(*self._new, strict=True)
            arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=_SCHEMA))
            self._new.clear()

    def _write_again(self) -> None:
        if self._table is not None and self._again:
            self._writer.write_table(self._table.take(self._again))
            self._again.clear()


@cache
def _own_version() -> str:
    """SHA-256 over the modules that have a part in `index`: what others found out may be wrong, or of another form."""
    root = Path(str(find_spec("embedcube").origin)).parent  # type: ignore[union-attr]
    digest = hashlib.sha256()
    for path in sorted(path for room in ("campaign", "sources", "prepare") for path in (root / room).rglob("*.py")):
        digest.update(f"{path.relative_to(root)} ".encode())
        digest.update(path.read_bytes())
    for path in sorted(root.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
