"""Find all products of an archive, whatever its layout."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from embedcube.campaign.scene import unforeseen
from embedcube.campaign.schema import Archive
from embedcube.errors import EmbedcubeError, RequestError
from embedcube.printable import printable
from embedcube.sources.catalog.files import Folder, lasting, not_a_file, walk
from embedcube.sources.catalog.folders import METADATA, folder_products, image_products, is_image
from embedcube.sources.catalog.links import Links, refuse_shared
from embedcube.sources.catalog.netcdf import products_of
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.products import Names, Product, time_in, unusable
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

_NO_LINKS = Links()

log = logging.getLogger(__name__)


def archive_products(archive: Archive, names: Names, undated: datetime | None = None) -> Iterator[Product]:
    """The products of an archive: from a STAC API if the archive has a search, else from its files.

    Raises:
        EmbedcubeError, OSError: see `searched_items` and `find_products`.
    """
    links = Links.of(archive.links)
    if archive.search is None:
        products = find_products(archive.path, names, undated, links)
    else:
        products = found_products(searched_items(archive.search), archive.root, names, links)
    yield from refuse_shared(products)


def find_products(
    root: Path, names: Names, undated: datetime | None = None, links: Links = _NO_LINKS
) -> Iterator[Product]:
    """The products of a file, or of all files below a folder, in a fixed order.

    A file is an image, a STAC catalogue, a series in NetCDF or a zip of SAFE. Below a folder, STAC Items come first;
    then SAFE, NetCDF and images that no Item names. What goes wrong with one product is its fault, and costs no other.
    A warning counts the images that belong to no product, and one the JSON files that are no STAC. `undated` is the
    time of images without a date in their name; without it they are left out.

    Raises:
        RequestError: a file is not a catalogue, a folder may not be listed, or there are images and none belongs to a
            product.
        OSError: a file or folder could not be read for a reason that may pass.
    """
    if is_safe(root):
        yield from _each(root, root, lambda: safe_products(root, names))
    elif is_radar_safe(root):
        yield from _each(root, root, lambda: radar_products(root, names))
    elif root.is_dir():
        yield from _below(root, names, undated, links)
    elif words := not_a_file(root):
        raise RequestError(
            f"{printable(root)} {words}, nor a folder" if root.exists() else f"{printable(root)} {words}"
        )
    elif is_image(root.name):
        yield from _each(root, root, lambda: image_products(root, names, undated))
    elif is_netcdf(root):
        yield from _each(root, root, lambda: products_of(root, root.stem, names))
    else:
        yield from catalogue_products(root, names, links)


def _each(path: Path, root: Path, products: Callable[[], Iterator[Product]]) -> Iterator[Product]:
    """The products of one file or folder; whatever stops them becomes one more product with that fault."""
    count = 0
    try:
        for product in products():
            count += 1
            yield product
    except EmbedcubeError:
        raise
    except Exception as error:
        words = lasting(error) if isinstance(error, OSError) else f"cannot be used: {unforeseen(error)}"
        if not words:
            raise
        log.debug("%s", printable(path), exc_info=True)
        name = os.path.relpath(path, root) if path != root else path.name
        yield unusable(f"{name}, the rest" if count else name, f"{printable(path.name)} {words}", time_in(name))


@dataclass(kw_only=True)
class _Images:
    """The images of a folder, also those that cannot be opened."""

    folder: Path
    names: list[str]
    faults: dict[str, str]
    """by name, why an image is no file"""


class _Listed:
    """What lies below the folder of an archive, by kind."""

    def __init__(self, root: Path) -> None:
        self.items: list[Path] = []
        self.packed: list[Path] = []
        self.images: list[_Images] = []
        self.faulty: list[Product] = []
        """entries that are neither file nor folder, though they have the name of a product"""
        for folder in walk(root, _is_product):
            items = [folder.path / name for name in folder.files if name.endswith(".json")]
            self.items += items
            self.packed.extend(folder.path / name for name in folder.files if _is_product(name))
            self.faulty.extend(_faulty(folder, root))
            # an Item says itself what is wrong with its files
            faults = {} if items else {name: words for name, words in folder.others.items() if is_image(name)}
            if names := sorted([*filter(is_image, folder.files), *faults]):
                self.images.append(_Images(folder=folder.path, names=names, faults=faults))


def _faulty(folder: Folder, root: Path) -> Iterator[Product]:
    for name, words in sorted(folder.others.items()):
        if not name or name.endswith(".json") or _is_product(name):
            place = os.path.relpath(folder.path / name, root)
            yield unusable(place, f"{printable(place)} {words}", time_in(place))


def _below(root: Path, names: Names, undated: datetime | None, links: Links) -> Iterator[Product]:
    listed = _Listed(root)
    count, not_stac, left = 0, list[Path](), list[Path]()
    for product in _products_of(listed, root, names, undated, links, not_stac, left):
        count += 1
        yield product
    if not_stac:
        words = "%s: %d JSON files are no STAC Items and are left out, the first is %s"
        log.warning(words, printable(root), len(not_stac), printable(not_stac[0].relative_to(root)))
    if left:
        first = printable(left[0].relative_to(root))
        words = f"{len(left)} images are of no scene, the first is {first}; {_IMAGES_OF_A_SCENE}"
        if not (count or listed.packed):
            raise RequestError(f"no scene found in {printable(root)}: {words}")
        log.warning("%s: %s", printable(root), words)


def _products_of(
    listed: _Listed,
    root: Path,
    names: Names,
    undated: datetime | None,
    links: Links,
    not_stac: list[Path],
    left: list[Path],
) -> Iterator[Product]:
    """All products; JSON files that are no STAC and images that belong to no product are added to the last two."""
    yield from listed.faulty
    # paths as text, because hashing many thousand Path objects would cost more than the rest of this function
    named: set[str] = set()
    named_in: dict[str, list[Product]] = {}
    for product in spread(partial(item_products, root=root, names=names, links=links), listed.items):
        if isinstance(product, Path):
            not_stac += [product] if product.name != METADATA else []
            continue
        paths = _paths(product)
        # also the Item's own folder: the images there are its files, even where it does not find them
        for place in {*map(os.path.dirname, paths), product.folder}:
            named.update(_packed_around(place))
            named_in.setdefault(place, []).append(product)
        named.update(path for path in paths if path.endswith(_PACKED))
        yield product
    for path in listed.packed:
        if str(path) not in named:
            yield from _each(path, root, partial(_packed_products, path, root, names))
    for images in listed.images:
        of_items = named_in.get(str(images.folder), [])
        yield from _each(images.folder, root, partial(_not_named, images, of_items, names, undated, left))


def _packed_products(path: Path, root: Path, names: Names) -> Iterator[Product]:
    if is_safe(path):
        yield from safe_products(path, names)
    elif is_radar_safe(path):
        yield from radar_products(path, names)
    else:
        yield from products_of(path, path.relative_to(root).with_suffix("").as_posix(), names)


def _not_named(
    images: _Images, named: list[Product], names: Names, undated: datetime | None, left: list[Path]
) -> Iterator[Product]:
    """The products of images in a folder that no Item names; images that belong to no product are added to `left`.

    `named` are the products of Items that name a file in this folder, or lie in it themselves. An image of the same
    day as one of them, or with its id, may be a copy, and is left out.
    """
    folder, paths = images.folder, {path for product in named for path in _paths(product)}
    if all(f"{folder}{os.sep}{image}" in paths for image in images.names):
        return
    found = folder_products(folder, images.names, names, undated, images.faults)
    unnamed = [product for product in found if paths.isdisjoint(_paths(product))]
    days, ids = {product.time.date() for product in named}, {product.id for product in named}
    new = [product for product in unnamed if product.time.date() not in days and product.id not in ids]
    used = {*map(os.path.basename, paths)} | {file.path.name for product in new for file in product.files.values()}
    copies = {file.path.name for product in unnamed for file in product.files.values()} - used
    # other bands and resolutions of a product have its date
    dates = {None, *map(time_in, used)}
    left += [
        folder / name
        for name in images.names
        if name not in images.faults and name not in used and (not used or name in copies or time_in(name) not in dates)
    ]
    yield from new


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
