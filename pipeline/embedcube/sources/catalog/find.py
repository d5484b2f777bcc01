"""Find all products of an archive, whatever its layout."""

import logging
import os
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.sources.catalog.folders import folder_products, image_products, is_image
from embedcube.sources.catalog.netcdf import products_of
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.products import Names, Product, time_in
from embedcube.sources.catalog.safe import is_safe, safe_products
from embedcube.sources.catalog.safe_radar import is_radar_safe, radar_products
from embedcube.sources.catalog.stac import catalogue_products, found_products, item_products
from embedcube.sources.catalog.stac_api import searched_items
from embedcube.sources.netcdf3 import is_netcdf

_PACKED = (".SAFE", ".zip", ".nc", ".nc4")
"""Suffixes of folders and files that may hold a whole product"""

_IMAGES_OF_A_SCENE = (
    "an image belongs to a scene if a STAC Item names it, or, where no Item of that day lies beside it, if its name "
    "has a date and ends in a band of the archive, as X_20230815_B02.tif (options.variables gives bands other names)"
)

log = logging.getLogger(__name__)


def archive_products(archive: Archive, names: Names, undated: datetime | None = None) -> Iterator[Product]:
    """The products of an archive: from a STAC API if the archive has a search, else from its files.

    Raises:
        EmbedcubeError, OSError: see `searched_items` and `find_products`.
    """
    if archive.search is None:
        yield from find_products(archive.path, names, undated)
    else:
        yield from found_products(searched_items(archive.search), archive.root, names)


def find_products(root: Path, names: Names, undated: datetime | None = None) -> Iterator[Product]:
    """The products of a file, or of all files below a folder, in a fixed order.

    A file is an image, a STAC catalogue, a series in NetCDF or a zip of SAFE. Below a folder, STAC Items come first;
    then SAFE, NetCDF and images that no Item names. A warning counts the images that belong to no product. `undated`
    is the time of images without a date in their name; without it they are left out.

    Raises:
        RequestError: a file is not a catalogue, or there are images and none belongs to a product.
        OSError: a file or folder could not be read for a reason that may pass.
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
    packed: list[Path] = []
    folders: list[tuple[Path, list[str]]] = []
    for folder, files in _walk(root):
        items.extend(folder / name for name in files if name.endswith(".json"))
        packed.extend(folder / name for name in files if _is_product(name))
        if images := list(filter(is_image, files)):
            folders.append((folder, images))
    # paths as text, because hashing many thousand Path objects would cost more than the rest of this function
    named: set[str] = set()
    named_in: dict[str, list[Product]] = {}
    for product in spread(partial(item_products, names=names), items):
        paths = _paths(product)
        for place in set(map(os.path.dirname, paths)):
            named.update(_packed_around(place))
            named_in.setdefault(place, []).append(product)
        named.update(path for path in paths if path.endswith(_PACKED))
        yield product
    for path in packed:
        if str(path) in named:
            continue
        if is_safe(path):
            yield from safe_products(path, names)
        elif is_radar_safe(path):
            yield from radar_products(path, names)
        else:
            yield from products_of(path, path.relative_to(root).with_suffix("").as_posix(), names)
    left: list[Path] = []
    for folder, images in folders:
        unnamed, unused = _not_named(folder, images, named_in.get(str(folder), []), names, undated)
        left += unused
        yield from unnamed
    if left:
        words = f"{len(left)} images are of no scene, the first is {left[0].relative_to(root)}; {_IMAGES_OF_A_SCENE}"
        if len(left) == sum(len(images) for _, images in folders) and not packed and not named_in:
            raise RequestError(f"no scene found in {root}: {words}")
        log.warning("%s: %s", root, words)


def _not_named(
    folder: Path, images: list[str], named: list[Product], names: Names, undated: datetime | None
) -> tuple[list[Product], list[Path]]:
    """The products of images in a folder that no Item names, and the images that belong to no product.

    `named` are the products that Items name in this folder. An image of the same day as one of them may be a copy, and
    is left out.
    """
    paths = {path for product in named for path in _paths(product)}
    if all(f"{folder}{os.sep}{image}" in paths for image in images):
        return [], []
    found = folder_products(folder, images, names, undated)
    unnamed = [product for product in found if paths.isdisjoint(_paths(product))]
    days = {product.time.date() for product in named}
    new = [product for product in unnamed if product.time.date() not in days]
    used = {*map(os.path.basename, paths)} | {file.path.name for product in new for file in product.files.values()}
    copies = {file.path.name for product in unnamed for file in product.files.values()} - used
    # other bands and resolutions of a product have its date
    dates = {None, *map(time_in, used)}
    left = [name for name in images if name not in used and (not used or name in copies or time_in(name) not in dates)]
    return new, [folder / name for name in left]


def _paths(product: Product) -> list[str]:
    return [str(file.path) for file in product.files.values()]


def _is_product(name: str) -> bool:
    """Whether a folder or file holds a whole product, by its name."""
    # the suffix is tested first because making a Path costs ten times as much
    return name.endswith(_PACKED) and (is_safe(Path(name)) or is_radar_safe(Path(name)) or is_netcdf(Path(name)))


def _packed_around(folder: str) -> list[str]:
    """SAFE folders around a folder: once an Item names a file inside, they need not be read themselves."""
    if not any(suffix in folder for suffix in _PACKED):
        return []
    return [str(place) for place in (Path(folder), *Path(folder).parents) if _is_product(place.name)]


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, in a fixed order; a SAFE folder counts as a file of its parent."""

    def fail(error: OSError) -> None:
        raise error

    for place, below, files in os.walk(root, onerror=fail, followlinks=True):
        safes = [name for name in below if _is_product(name)]
        below[:] = sorted(set(below) - set(safes))
        yield Path(place), sorted([*safes, *files])
