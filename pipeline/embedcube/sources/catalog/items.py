"""The products of all Item files of an archive, on all cores; an Item with the bytes of before is not parsed again."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from embedcube.campaign.remembered import Entry, Kind, memory_in_use
from embedcube.printable import printable, without_credentials
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import not_a_file, read_bounded
from embedcube.sources.catalog.json_text import parsed_file
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.products import Names, Product, unusable
from embedcube.sources.catalog.stac import item_products
from embedcube.sources.catalog.told import Told
from embedcube.sources.catalog.unchanged import has_sidecar, is_unchanged, key_of, text_of


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
    assets: str = ""
    """what is remembered of these"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What was found in one JSON file."""

    products: Sequence[Product | Path] = ()
    """none where there is a `text`, or they are `unchanged`"""
    unchanged: bool = False
    """whether it is the product that is remembered"""
    described: bool = False
    """whether its files are as they are remembered, too"""
    token: bytes = b""
    """with `text` to be remembered; empty for what is not"""
    text: str = ""
    """the product as JSON, which takes less time to send than an object"""


def products_of_items(paths: Sequence[Path], root: Path, names: Names, told: Told) -> Iterator[Product | Path]:
    """The products of the Items in some JSON files, in order; other JSON as its path.

    The bytes of every file are read. If they are those of the last `index`, and the files of the product are there, the
    product is the one that is remembered.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    memory = memory_in_use()
    how = _How(root=root, names=names, told=told, remembered=memory is not None)
    decoder, before = _Decoder(told), memory.before if memory else {}
    known = [decoder.known(before, str(path)) for path in paths]
    files = [_asked(path, one) for path, one in zip(paths, known, strict=True)]

    def lost(file: _ItemFile, words: str) -> _Found:
        place = os.path.relpath(file.path, root)
        return _Found(products=[unusable(place, f"{printable(file.path.name)}: {words}", time_in(place))])

    read = spread(
        partial(_read, how=how), files, lost=lost, name=lambda file: str(file.path), told=lambda done, _: (0, done)
    )
    for file, one, found in zip(files, known, read, strict=True):
        if found.unchanged and one and memory:
            memory.now["item", str(file.path)] = one.entry
            if found.described and one.files:
                memory.still[id(one.product)] = one.product, one.files
            yield one.product
        elif found.text:
            entry = Entry(token=found.token, text=found.text)
            if memory:
                memory.now["item", str(file.path)] = entry
            yield decoder.product(entry)
        else:
            yield from found.products


def _asked(path: Path, known: "_Known | None") -> _ItemFile:
    if known is None:
        return _ItemFile(path=path)
    paths = tuple(str(file.path) for file in known.product.files.values())
    return _ItemFile(path=path, token=known.entry.token, files=paths, assets=known.files.text if known.files else "")


def _read(files: Sequence[_ItemFile], *, how: _How) -> list[_Found]:
    return [_of_file(file, how) for file in files]


def _of_file(file: _ItemFile, how: _How) -> _Found:
    tokens: list[bytes] = []

    def read(path: Path, most: int) -> Any:
        data = read_bounded(path, most)
        tokens.append(hashlib.blake2b(data, digest_size=16).digest())
        if tokens[0] == file.token:
            paths = [Path(one) for one in file.files]
            if file.assets and is_unchanged(file.assets, paths) and not any(map(has_sidecar, paths)):
                raise _Unchanged(True)
            if not any(map(not_a_file, paths)):
                raise _Unchanged(False)
        return parsed_file(path, data)

    try:
        found = item_products(file.path, how.root, how.names, how.told.links, read)
    except _Unchanged as error:
        return _Found(unchanged=True, described=error.described)
    known = how.told.known
    products = found if known is None else [one if isinstance(one, Path) else known(one) for one in found]
    text = _text_of(products) if how.remembered and tokens else ""
    return _Found(token=tokens[0], text=text) if text else _Found(products=products)


class _Unchanged(Exception):
    """An Item file has the bytes of before, and the files are there."""

    def __init__(self, described: bool) -> None:
        """`described` is whether the files are as they are remembered."""
        super().__init__(described)
        self.described = described


def _text_of(products: Sequence[Product | Path]) -> str:
    """The only product of a file as JSON; empty if it is not to be remembered.

    That is one that may be otherwise another time, with the same Item and files, or with texts of the Item in it, which
    may hold a credential.
    """
    one = products[0] if len(products) == 1 else None
    if not isinstance(one, Product) or one.fault or one.missing or one.item is None:
        return ""
    if one.item.asked or one.item.of_search or one.properties or one.names:
        return ""
    text = text_of(one)
    return text if without_credentials(text) == text else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What is remembered of an Item file."""

    entry: Entry
    product: Product
    files: Entry | None
    """what is remembered of the product's files"""


class _Decoder:
    """Makes products of what is remembered."""

    def __init__(self, told: Told) -> None:
        self._product = TypeAdapter(Product)
        self._known = TypeAdapter[Any](told.known_kind) if told.known_kind else None

    def known(self, before: Mapping[tuple[Kind, str], Entry], path: str) -> _Known | None:
        """What is remembered of an Item file; None if nothing is."""
        entry = before.get(("item", path))
        if entry is None:
            return None
        product = self.product(entry)
        return _Known(entry=entry, product=product, files=before.get(("files", key_of(product.files))))

    def product(self, entry: Entry) -> Product:
        """The product of an Item."""
        product = self._product.validate_json(entry.text)
        if self._known is not None and product.known is not None:
            # to make each with `replace` takes longer
            vars(product)["known"] = self._known.validate_python(product.known)
        return product
