"""Descriptions of products whose files have not changed since the last `index`: taken from what is remembered.

A file counts as unchanged if its size, its number in the file system, and the times at which its bytes and its entry
changed are those that were noted. No program can set the last one: whatever writes into a file, or puts another one in
its place, changes it. It may have the value of before only for a moment, as clocks tick; so what had changed shortly
before it was looked at is not remembered.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError, from_json, to_json

from embedcube.campaign.scene import Asset, Noted
from embedcube.sources.catalog.products import File
from embedcube.sources.masks import BESIDE

SETTLED_S = 60.0
"""a file that changed less than so long before it was looked at is looked at again; clocks of machines may differ"""

_WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".j2w", ".jp2w", ".jgw", ".wld", ".tab", ".TFW", ".J2W", ".WLD", ".TAB")

_FACTS = tuple(one.name for one in fields(Asset))
_NOTED_FACTS = tuple(one.name for one in fields(Noted))
_SIZE, _NOTED = _FACTS.index("size"), _FACTS.index("noted")
_TUPLES = tuple(_FACTS.index(name) for name in ("transform", "also_nodata"))
_NOTES = tuple(_FACTS.index(name) for name in ("noted", "mask_noted"))


T = TypeVar("T")


def token_of(*facts: Any) -> bytes:
    """A digest of dataclasses and plain values; empty where they hold a text that is not UTF-8."""
    text = text_of(facts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest() if text else b""


def key_of(files: Mapping[str, File]) -> str:
    """What the description of the files of a product is remembered by."""
    return " ".join(f"{band}={file.path}" for band, file in files.items())


def files_token(files: Mapping[str, File], *facts: Any) -> bytes:
    """A digest of all that a catalogue says of the files of a product, and of further facts."""
    # plain values become JSON in half of the time of dataclasses
    plain = [
        [band, str(file.path), file.inner, file.index, file.most, file.size, file.digest, *vars(file.stated).values()]
        for band, file in files.items()
    ]
    return token_of(plain, *facts)


def text_of(facts: Any) -> str:
    """A dataclass of plain values as JSON; empty where it holds a text that is not UTF-8."""
    try:
        return to_json(facts, inf_nan_mode="constants").decode()
    except PydanticSerializationError:
        return ""


def settled(assets: Sequence[Asset]) -> bool:
    """Whether all files had been as they are for a while when they were looked at, which was just now."""
    return all(is_settled(max(asset.noted.modified_ns, asset.noted.changed_ns)) for asset in assets)


def is_settled(changed_ns: int, looked_ns: int | None = None) -> bool:
    """Whether a change of a file lay a while back when it was looked at, which was just now if no moment is given."""
    return changed_ns < (time.time_ns() if looked_ns is None else looked_ns) - int(SETTLED_S * 1e9)


def assets_text(assets: Sequence[Asset]) -> str:
    """All facts of assets, with what was noted, as JSON."""
    rows = []
    for asset in assets:
        values = list(vars(asset).values())
        for place in _NOTES:
            values[place] = list(vars(values[place]).values())
        rows.append(values)
    return to_json(rows, inf_nan_mode="constants").decode()


def assets_from(text: str) -> tuple[Asset, ...]:
    """The assets that `assets_text` wrote."""
    assets = []
    for values in from_json(text):
        for place in _TUPLES:
            values[place] = tuple(values[place])
        for place in _NOTES:
            values[place] = _made(Noted, _NOTED_FACTS, values[place])
        assets.append(_made(Asset, _FACTS, values))
    return tuple(assets)


def _made(kind: type[T], names: Sequence[str], values: Sequence[Any]) -> T:
    """A dataclass with these fields: the constructor of so many frozen fields takes longer than all else here."""
    one = object.__new__(kind)
    vars(one).update(zip(names, values, strict=True))
    return one


def is_unchanged(text: str, paths: Iterable[Path]) -> bool:
    """Whether the files at these paths, of the assets in a text, are as they were, as far as that can be found out."""
    for values, path in zip(from_json(text), paths, strict=True):
        try:
            status = path.stat()
        except OSError:
            return False
        now = [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if status.st_size != values[_SIZE] or now != values[_NOTED][:3]:
            return False
    return True


def has_sidecar(path: Path) -> bool:
    """Whether a sidecar file (.aux.xml, .aux, .msk) may add to what the header says."""
    folder, name = os.path.split(path)
    folder = folder or "."
    others = (f"{name}.aux.xml", f"{name}.aux", f"{name.removesuffix(path.suffix)}.aux", *map(name.__add__, BESIDE))
    try:
        status = os.lstat(f"{folder}/.")
        return not _names_in(folder, status.st_ino, status.st_mtime_ns, status.st_ctime_ns).isdisjoint(others)
    except OSError:
        # a folder that may not be listed
        return any(os.access(f"{folder}/{other}", os.F_OK) for other in others)


# to list the folder of an Item takes a quarter of the time of asking for each name; the times only end this cache
@lru_cache(maxsize=64)
def _names_in(folder: str, inode: int, modified_ns: int, changed_ns: int) -> frozenset[str]:
    return frozenset(os.listdir(folder))  # noqa: PTH208, a Path for each name takes longer than all else


def has_world_file(path: Path) -> bool:
    """Whether a file beside an image may say where it lies, for an image that does not."""
    return any(os.access(path.with_suffix(suffix), os.F_OK) for suffix in _WORLD_FILES)
