"""The products of all Item files of an archive, on all cores; an Item with the bytes of before is not parsed again."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embedcube.campaign.remembered import Entry, Memory, memory_in_use
from embedcube.printable import printable, without_credentials
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import not_a_file, read_bounded
from embedcube.sources.catalog.json_text import parsed_file
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.products import Names, Product, unusable
from embedcube.sources.catalog.remembered_items import Decoder, remembered_product
from embedcube.sources.catalog.remembered_product import RememberedProduct, product_text, status_of
from embedcube.sources.catalog.stac import item_products
from embedcube.sources.catalog.told import Told
from embedcube.sources.catalog.unchanged import text_of


@dataclass(frozen=True, kw_only=True)
class _How:
    """How all Items are read."""

    root: Path
    names: Names
    told: Told
    remembered: bool
    """whether products are remembered"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ItemFile:
    """One JSON file."""

    path: Path
    token: bytes = b""
    """the token of what is remembered of it; empty where nothing is"""
    files: tuple[str, ...] = ()
    """paths of the files of the remembered product"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What was found in one JSON file."""

    products: Sequence[Product | Path] = ()
    """none where there is a `text`, or they are `unchanged`"""
    unchanged: bool = False
    """whether it is the product that is remembered"""
    status: Sequence[int] = ()
    """with `unchanged`, the status of the file before it was read"""
    token: bytes = b""
    """with `text` to be remembered; empty for what is not"""
    text: str = ""
    """the product as JSON, which takes less time to send than an object"""
    told: str = ""
    """what is remembered of it together with its scene; empty for what is not"""


def products_of_items(
    items: Sequence[Path | RememberedProduct], root: Path, names: Names, told: Told
) -> Iterator[Product | Path]:
    """The products of the Items in some JSON files, in order; other JSON as its path.

    A file that is as it was is not read, if the files of its product are, too. If another one has the bytes that it had
    at the last `index`, and the files of its product are there, the product is the one that is remembered.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    decoder = Decoder(told)
    found = [one if isinstance(one, RememberedProduct) else remembered_product(one, decoder) or one for one in items]
    others = _read_products([one for one in found if isinstance(one, Path)], root, names, told)
    for one in found:
        if isinstance(one, Path):
            yield from next(others)
        else:
            yield one


def _read_products(paths: Sequence[Path], root: Path, names: Names, told: Told) -> Iterator[Sequence[Product | Path]]:
    """What is found in each of some files, whose bytes are read."""
    memory, decoder = memory_in_use(), Decoder(told)
    how = _How(root=root, names=names, told=told, remembered=memory is not None)
    known = [None if memory is None else _known(memory, decoder, str(path)) for path in paths]
    files = [_asked(path, one) for path, one in zip(paths, known, strict=True)]

    def lost(file: _ItemFile, words: str) -> _Found:
        place = os.path.relpath(file.path, root)
        return _Found(products=[unusable(place, f"{printable(file.path.name)}: {words}", time_in(place))])

    read = spread(
        partial(_read, how=how), files, lost=lost, name=lambda file: str(file.path), told=lambda done, _: (0, done)
    )
    for file, one, found in zip(files, known, read, strict=True):
        path = str(file.path)
        if found.unchanged and one and memory:
            memory.keep_again("item", path)
            memory.told[path] = product_text(one.product, found.status)
            yield [one.product]
        elif found.text:
            if memory:
                memory.keep("item", path, Entry(token=found.token, text=found.text))
                memory.told[path] = found.told
            yield [decoder.product(found.text)]
        else:
            yield found.products


def _asked(path: Path, known: "_Known | None") -> _ItemFile:
    if known is None:
        return _ItemFile(path=path)
    paths = tuple(str(file.path) for file in known.product.files.values())
    return _ItemFile(path=path, token=known.token, files=paths)


def _read(files: Sequence[_ItemFile], *, how: _How) -> list[_Found]:
    return [_of_file(file, how) for file in files]


def _of_file(file: _ItemFile, how: _How) -> _Found:
    token, status = b"", list[int]()

    def read(path: Path, most: int) -> Any:
        nonlocal token, status
        if how.remembered:
            status = status_of(str(path))
        data = read_bounded(path, most)
        token = hashlib.blake2b(data, digest_size=16).digest()
        if token == file.token and not any(map(not_a_file, map(Path, file.files))):
            raise _Unchanged
        return parsed_file(path, data)

    try:
        found = item_products(file.path, how.root, how.names, how.told.links, read)
    except _Unchanged:
        return _Found(unchanged=True, status=status)
    known = how.told.known
    products = found if known is None else [one if isinstance(one, Path) else known(one) for one in found]
    one = products[0] if len(products) == 1 else None
    if not (how.remembered and token and isinstance(one, Product) and (text := _text_of(one))):
        return _Found(products=products)
    return _Found(token=token, text=text, told=product_text(one, status))


class _Unchanged(Exception):
    """An Item file has the bytes of before, and the files are there."""


def _text_of(one: Product) -> str:
    """The only product of a file as JSON; empty if it is not to be remembered.

    That is one that may be otherwise another time, with the same Item and files, or with texts of the Item in it, which
    may hold a credential.
    """
    if one.fault or one.missing or one.item is None:
        return ""
    if one.item.asked or one.item.of_search or one.properties or one.names:
        return ""
    text = text_of(one)
    return text if without_credentials(text) == text else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What is remembered of an Item file."""

    token: bytes
    product: Product


def _known(memory: Memory, decoder: Decoder, path: str) -> _Known | None:
    """What is remembered of an Item file; None if nothing is."""
    entry = memory.get("item", path)
    return None if entry is None else _Known(token=entry.token, product=decoder.product(entry.text))
