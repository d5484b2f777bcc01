"""Items that are as they were at the last `index`, with all their files: nothing is opened, and little is decoded.

Of each the status of the Item's file, of the files of its product and of their folders is compared. In a folder that
has not changed no sidecar file has come.
"""

import os
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from embedcube.campaign.remembered import Entry, memory_in_use
from embedcube.sources.catalog.products import PACKED, Product
from embedcube.sources.catalog.remembered_product import RememberedProduct, item_path, status_of
from embedcube.sources.catalog.told import Told
from embedcube.sources.catalog.unchanged import has_sidecar, is_settled
from embedcube.windows import utc


class Decoder:
    """Makes products of what is remembered."""

    def __init__(self, told: Told) -> None:
        self._product = TypeAdapter(Product)
        self._known = TypeAdapter[Any](told.known_kind) if told.known_kind else None

    def product(self, text: str) -> Product:
        """The product of an Item."""
        product = self._product.validate_json(text)
        # to make each with `replace` takes longer
        vars(product)["known"] = self.known(product.known)
        return product

    def known(self, values: Any) -> Any:
        """What `Product.known` is, of plain values."""
        return values if self._known is None or values is None else self._known.validate_python(values)


def remembered_product(
    file: Path | str, decoder: Decoder, *, alone: Mapping[str, list[int]] | None = None
) -> RememberedProduct | None:
    """The product of the Item in a file, if Item and files are as they were; None where that is not known.

    `alone` is the status of its folder where that is known to hold nothing else.
    """
    memory, path = memory_in_use(), str(file)
    if memory is None or memory.inventory is None or (text := memory.text("scene", path)) is None:
        return None
    about, statuses, scene = text.split("\n")
    id, time, end, values, item, folders, files = from_json(about)
    # there is no need to ask for the folder twice
    others = {} if folders == alone else folders
    if not _is_unchanged(path, item, others, list(files.values()), from_json(statuses)):
        return None
    memory.keep_again("item", path)
    memory.told[path] = f"{about}\n{statuses}"

    def read() -> Product:
        return decoder.product(memory.text("item", path) or "")

    one = object.__new__(RememberedProduct)
    vars(one).update(
        id=id, time=_moment(time), end=_moment(end) if end else None, known=decoder.known(values), path=path,
        paths=files, scene=scene, alone=alone is not None, missing={}, properties={}, _read=read,
    )  # fmt: skip
    return one


class KnownFolders:
    """Folders with one Item and its images that are as they were, with these: there is no need to list them."""

    def __init__(self, told: Told, items: list[Path | RememberedProduct]) -> None:
        """The products of known folders are added to `items`."""
        self._memory, self._decoder, self._items = memory_in_use(), Decoder(told), items

    def is_known(self, folder: str) -> bool:
        """Whether a folder is known; then its product is added."""
        if self._memory is None or (text := self._memory.text("folder", folder)) is None:
            return False
        path, *status = from_json(text)
        try:
            if status_of(folder) != status:
                return False
        except OSError:
            return False
        product = remembered_product(path, self._decoder, alone={folder: status})
        if product is not None:
            self._memory.keep_again("folder", folder)
            self._items.append(product)
        return product is not None


class FoldersOfItems:
    """Folders with one Item and images, in which nothing else is looked at."""

    def __init__(self) -> None:
        self._begun_ns = time.time_ns()
        self._images: dict[str, list[str]] = {}

    def add(self, item: Path, images: list[str]) -> None:
        """Note a folder with nothing but files, by the Item in it; it was listed after this object had been made."""
        self._images[str(item)] = images

    def remember(self, product: Product, paths: Collection[str]) -> None:
        """Remember the folder of a product if all images in it are the product's files, and it has no others."""
        memory, path = memory_in_use(), item_path(product)
        if memory is None or not memory.told.get(path) or (images := self._images.pop(path, None)) is None:
            return
        folder, _ = os.path.split(path)
        if {*paths} != {f"{folder}/{image}" for image in images} or any(suffix in folder for suffix in PACKED):
            return
        status = status_of(folder)
        if is_settled(max(status[2:]), self._begun_ns):
            memory.keep("folder", folder, Entry(token=b"", text=to_json([path, *status]).decode()))


def _moment(text: str) -> datetime:
    return utc(datetime.fromisoformat(text))


def _is_unchanged(
    path: str, item: list[int], folders: dict[str, list[int]], files: list[str], statuses: list[list[int]]
) -> bool:
    try:
        if status_of(path) != item or [*map(status_of, files)] != statuses:
            return False
        same = all(status_of(folder) == status for folder, status in folders.items())
    except OSError:
        return False
    return same or not any(has_sidecar(Path(file)) for file in files)
