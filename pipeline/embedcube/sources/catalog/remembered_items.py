"""Items that are as they were at the last `index`, with all their files: nothing is opened, and little is decoded.

Of each the status of the Item's file, of the files of its product and of their folders is compared. In a folder that
has not changed no sidecar file has come.
"""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from embedcube.campaign.boxes import Box
from embedcube.campaign.remembered import Entry, Memory
from embedcube.campaign.remembered_scene import RememberedScene, scene_text
from embedcube.campaign.scene import Scene
from embedcube.sources.catalog.products import File, ItemPlace, Product
from embedcube.sources.catalog.scenes import storable
from embedcube.sources.catalog.unchanged import has_sidecar, is_settled, text_of
from embedcube.windows import utc


def status_of(path: str) -> list[int]:
    """Size, inode, and the times at which the bytes and the entry of a file or folder changed (ns).

    Raises:
        OSError: there is none.
    """
    status = os.stat(path)  # noqa: PTH116, a Path takes longer than all else
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def product_text(product: Product, item: Sequence[int]) -> str:
    """What is remembered of the product of an Item, for `RememberedProduct`; empty where it is not to be remembered.

    `item` is the status of the Item's file before it was read. That of the folders is taken here, thus before anybody
    looks for sidecar files: what changes meanwhile has another one the next time.

    Raises:
        OSError: a folder of its files is gone.
    """
    files = {band: str(file.path) for band, file in product.files.items()}
    folders = {folder: status_of(folder) for folder in dict.fromkeys(map(os.path.dirname, files.values()))}
    if any(file.inner for file in product.files.values()):
        return ""
    if not is_settled(max(max(status[2:]) for status in (item, *folders.values()))):
        return ""
    return text_of([product.id, product.time, product.end, product.known, item, folders, files])


class RememberedProduct(Product):
    """The product of an Item that is as it was; all but id, times and `known` is read when it is asked for."""

    path: str
    """of the Item's file"""
    paths: dict[str, str]
    """of the files, by band"""
    scene: str
    """what is remembered of its scene"""
    _read: Callable[[], Product]

    @cached_property
    def files(self) -> dict[str, File]:
        """As those of `Product`."""
        return self._read().files

    @cached_property
    def bbox(self) -> Box | None:
        """As that of `Product`."""
        return self._read().bbox

    @cached_property
    def item(self) -> ItemPlace | None:
        """As that of `Product`."""
        return self._read().item


def remembered_product(
    memory: Memory, path: str, known: Callable[[Any], Any], read: Callable[[str], Product]
) -> RememberedProduct | None:
    """The product of the Item at `path`, if Item and files are as they were; None where that is not known.

    `known` makes what `Product.known` is of plain values, `read` the product of the text that is remembered of it.
    """
    text = memory.text("scene", path)
    if text is None:
        return None
    about, statuses, scene = text.split("\n")
    id, time, end, values, item, folders, files = from_json(about)
    if not _is_unchanged(path, item, folders, list(files.values()), from_json(statuses)):
        return None
    memory.keep_again("item", path)
    memory.told[path] = f"{about}\n{statuses}"
    one = object.__new__(RememberedProduct)
    vars(one).update(
        id=id, time=_moment(time), end=_moment(end) if end else None, known=known(values), missing={}, properties={},
        path=path, paths=files, scene=scene, _read=lambda: read(memory.text("item", path) or ""),
    )  # fmt: skip
    return one


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


def remembered_scene(
    memory: Memory | None, product: Product, archive: str, id: str, acquisition: str
) -> RememberedScene | None:
    """The scene of a product, if it is remembered and has this id and acquisition."""
    if memory is None or memory.inventory is None or not isinstance(product, RememberedProduct):
        return None
    scene = RememberedScene.of(product.scene, archive, product.time, product.end, memory.inventory)
    if (scene.id, scene.acquisition) != (id, acquisition):
        return None
    memory.keep_again("files", " ".join(f"{band}={path}" for band, path in product.paths.items()))
    return scene


def item_path(product: Product) -> str:
    """The path of the file of the Item that describes a product; empty if none does."""
    if isinstance(product, RememberedProduct):
        return product.path
    return product.item.path if product.item else ""


def forget_item(memory: Memory, product: Product) -> None:
    """Do not remember the scene of a product, whose files are to be looked at again."""
    memory.told.pop(item_path(product), None)


def remember_scene(memory: Memory, path: str, scene: Scene, series: Callable[[Scene], str]) -> None:
    """Remember the scene of the Item at `path`, when all is decided, if Item and files may be trusted the next time."""
    about = memory.told.pop(path, "")
    if not about or scene.verdict:
        return
    if isinstance(scene, RememberedScene) and scene.as_it_was:
        memory.keep_again("scene", path)
    elif storable(scene) is scene:
        if "\n" not in about:
            noted = [(one.size, one.noted.inode, one.noted.modified_ns, one.noted.changed_ns) for one in scene.assets]
            about = f"{about}\n{to_json(noted).decode()}"
        memory.keep("scene", path, Entry(token=b"", text=f"{about}\n{scene_text(scene, series(scene))}"))
