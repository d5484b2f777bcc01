"""The product of an Item that is as it was at the last `index`, and its scene: little of them is decoded."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property

from pydantic_core import to_json

from embedcube.campaign.boxes import Box
from embedcube.campaign.remembered import Entry, Memory
from embedcube.campaign.remembered_scene import RememberedScene, scene_text
from embedcube.campaign.scene import Scene
from embedcube.sources.catalog.products import File, ItemPlace, Product
from embedcube.sources.catalog.scenes import storable
from embedcube.sources.catalog.unchanged import is_settled, text_of


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
    alone: bool
    """whether it lies in a folder with its images, and nothing else there is looked at"""
    _read: Callable[[], Product]

    @cached_property
    def files(self) -> dict[str, File]:
        """Its files by band, decoded when they are first asked for."""
        return self._read().files

    @cached_property
    def bbox(self) -> Box | None:
        """West, south, east, north in degrees, as its Item says; decoded when it is first asked for."""
        return self._read().bbox

    @cached_property
    def item(self) -> ItemPlace | None:
        """Where its Item is; decoded when it is first asked for."""
        return self._read().item


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
