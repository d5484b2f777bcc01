"""All products of an archive, in whatever way it describes them."""

import os
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path

from embedcube.config import Archive
from embedcube.raster import is_netcdf
from embedcube.sources.folders import folder_products, image_products, is_image
from embedcube.sources.products import Names, Product
from embedcube.sources.safe import is_safe, safe_products
from embedcube.sources.safe_radar import is_radar_safe, radar_products
from embedcube.sources.spread import spread
from embedcube.sources.stac import catalogue_products, found_products, item_products
from embedcube.sources.stac_api import searched_items
from embedcube.sources.stack import products_of

_PACKED = (".SAFE", ".zip", ".nc", ".nc4")
"""Suffixes of what may hold a whole product."""


def archive_products(archive: Archive, names: Names, undated: datetime | None = None) -> Iterator[Product]:
    """The products of an archive: those that a STAC API tells of, where it is asked, else those that lie there.

    Raises:
        EmbedcubeError, OSError: as `searched_items` and `find_products` say.
    """
    if archive.search is None:
        yield from find_products(archive.path, names, undated)
    else:
        yield from found_products(searched_items(archive.search), archive.root, names)


def find_products(root: Path, names: Names, undated: datetime | None = None) -> Iterator[Product]:
    """The products of a file or of all below a folder, in a fixed order.

    A file is an image, a STAC catalogue, a series in NetCDF or a zip of SAFE. Below a folder STAC Items come first;
    then SAFE, NetCDF and plain folders of images, where no Item has told of them already. `undated` is the time of
    images that have no date in their name, which are left out otherwise.

    Raises:
        RequestError: a catalogue file is none.
        OSError: something could not be read for a reason that may pass.
    """
    if is_safe(root):
        yield from safe_products(root, names)
    elif is_radar_safe(root):
        yield from radar_products(root, names)
    elif root.is_file() and is_image(root.name):
        yield from image_products(root, names, undated)
    elif root.is_file():
        yield from products_of(root, root.stem, names) if is_netcdf(root) else catalogue_products(root, names)
    else:
        yield from _below(root, names, undated)


def _below(root: Path, names: Names, undated: datetime | None) -> Iterator[Product]:
    items: list[Path] = []
    others: list[Path] = []
    for folder, files in _walk(root):
        items.extend(folder / name for name in files if name.endswith(".json"))
        others.extend(folder / name for name in files if _is_product(name))
        if any(map(is_image, files)):
            others.append(folder)
    told: set[Path] = set()
    for product in spread(partial(item_products, names=names), items):
        paths = [file.path for file in product.files.values()]
        told.update(*map(_told, {path.parent for path in paths}))
        told.update(path for path in paths if path.name.endswith(_PACKED))
        yield product
    for path in others:
        if path in told:
            continue
        if is_safe(path):
            yield from safe_products(path, names)
        elif is_radar_safe(path):
            yield from radar_products(path, names)
        elif is_netcdf(path):
            yield from products_of(path, path.relative_to(root).with_suffix("").as_posix(), names)
        else:
            images = sorted(f.name for f in path.iterdir() if is_image(f.name))
            yield from folder_products(path, images, names, undated)


def _is_product(name: str) -> bool:
    """Whether a folder or file is one as a whole, by its name."""
    # most are not, and a Path costs ten times what their last letters do
    return name.endswith(_PACKED) and (is_safe(Path(name)) or is_radar_safe(Path(name)) or is_netcdf(Path(name)))


@lru_cache(maxsize=64)
def _told(folder: Path) -> tuple[Path, ...]:
    """What need not be looked at again once an Item has told of a file in a folder: it, and the SAFE it is in."""
    return (folder, *(place for place in folder.parents if _is_product(place.name)))


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, in a fixed order; a SAFE folder is a file of its parent."""

    def fail(error: OSError) -> None:
        raise error

    for place, below, files in os.walk(root, onerror=fail, followlinks=True):
        safes = [name for name in below if _is_product(name)]
        below[:] = sorted(set(below) - set(safes))
        yield Path(place), sorted([*safes, *files])
