"""remembered.parquet: what `index` found out of single files, so that the next one need not look at unchanged ones.

It holds nothing that another stage reads, and may be removed at any time: `index` then looks at every file again.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from embedcube.campaign.run_folder import RunDir, replacing
from embedcube.campaign.seals import read_sealed
from embedcube.campaign.tables import read_columns
from embedcube.errors import RequestError

Kind = Literal["item", "files", "look"]
"""What is remembered: the product of the file of a STAC Item, the description of the files of a product, what was seen
of a scene's pixels"""

_COLUMNS = ("archive", "kind", "key", "token", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing that was found out."""

    token: bytes
    """digest of all that it follows from, other than what must be asked of the file system again"""
    text: str
    """what was found out, as JSON"""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of one archive."""

    before: Mapping[tuple[Kind, str], Entry] = field(default_factory=dict)
    """from the last `index`, by kind and key"""
    now: dict[tuple[Kind, str], Entry] = field(default_factory=dict)
    """of this one, for the next"""
    still: dict[int, tuple[object, Entry]] = field(default_factory=dict)
    """by `id`, products whose files have been found unchanged in this `index`, and what is remembered of the files"""


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


def read_remembered(run: RunDir, versions: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, Memory]:
    """For each archive of `asked` what is remembered; nothing of archives that were asked for otherwise.

    Nothing at all where it was found out with other `versions`, or is damaged, or not of the inventory that is there.
    """
    try:
        stated = read_sealed(run.inventory_seal, "index")["remembered"]
        if stated["versions"] != {**versions, "embedcube": _own_version()}:
            return {}
        columns = read_columns(run.remembered, stated["sha256"], _COLUMNS, "index").to_pydict()
    except (OSError, KeyError, TypeError, RequestError):
        return {}
    found: dict[str, dict[tuple[Kind, str], Entry]] = {
        archive: {} for archive, digest in asked.items() if stated["asked"].get(archive) == digest
    }
    for archive, kind, key, token, text in zip(*map(columns.__getitem__, _COLUMNS), strict=True):
        if archive in found:
            found[archive][kind, key] = Entry(token=token, text=text)
    return {archive: Memory(before=entries) for archive, entries in found.items()}


def write_remembered(
    run: RunDir, memories: Mapping[str, Memory], versions: Mapping[str, str], asked: Mapping[str, str]
) -> dict[str, Any]:
    """Write what was found out; returns what the seal of the inventory says of it."""
    rows = [
        (archive, kind, key, entry.token, entry.text)
        for archive, memory in memories.items()
        for (kind, key), entry in memory.now.items()
    ]
    columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    types = [pyarrow.string()] * 3 + [pyarrow.binary(), pyarrow.large_string()]
    arrays = [pyarrow.array(column, type) for column, type in zip(columns, types, strict=True)]
    with replacing(run.remembered) as temporary:
        pyarrow.parquet.write_table(
            pyarrow.Table.from_arrays(arrays, _COLUMNS),
            temporary,
            compression="zstd",
            use_dictionary=["archive", "kind"],
            write_statistics=False,
        )
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "versions": {**versions, "embedcube": _own_version()}, "asked": dict(asked)}


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
