"""Find all products of an archive, whatever its layout."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import combinations
from pathlib import Path

from embedcube.campaign.scene import unforeseen
from embedcube.campaign.schema import Archive
from embedcube.errors import EmbedcubeError, RequestError
from embedcube.printable import printable
from embedcube.sources.catalog.beside import IN_JSON
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import Folder, lasting, not_a_file, walk
from embedcube.sources.catalog.folders import METADATA, folder_products, image_products, images_of_all_bands, is_image
from embedcube.sources.catalog.foreign import (
    STORE,
    ZARR,
    foreign,
    foreign_by_bytes,
    holds_store,
    is_store,
    may_be_foreign,
)
from embedcube.sources.catalog.items import products_of_items
from embedcube.sources.catalog.links import Links, refuse_shared
from embedcube.sources.catalog.named import named_products
from embedcube.sources.catalog.naming import Template
from embedcube.sources.catalog.netcdf import products_of
from embedcube.sources.catalog.notes import Notes
from embedcube.sources.catalog.products import PACKED, Names, Product, unusable
from embedcube.sources.catalog.remembered_items import FoldersOfItems, KnownFolders
from embedcube.sources.catalog.remembered_product import RememberedProduct, item_path
from embedcube.sources.catalog.safe import is_safe, safe_products
from embedcube.sources.catalog.safe_radar import is_radar_safe, radar_products
from embedcube.sources.catalog.stac import catalogue_products, found_products
from embedcube.sources.catalog.stac_api import searched_items
from embedcube.sources.catalog.told import Told
from embedcube.sources.netcdf3 import is_netcdf

_COPY = "is of the day of an Item beside it that does not name it, and may be a copy"

log = logging.getLogger(__name__)


def archive_products(archive: Archive, names: Names, told: Told = Told()) -> Iterator[Product]:  # noqa: B008
    """The products of an archive: from a STAC API if the archive has a search, else from its files.

    Raises:
        RequestError: two bands of the archive have one name in files; see also `find_products`.
        EmbedcubeError, OSError: see `searched_items` and `find_products`.
    """
    for one, other in combinations(names, 2):
        if both := names[one] & names[other]:
            raise RequestError(
                f'bands {one} and {other} would both be "{min(both)}" in files; two bands never come from one: check '
                "`bands` and options.variables"
            )
    told = replace(told, links=Links.of(archive.links))
    if archive.search is None:
        found = find_products(archive.path, names, told)
    else:
        found = found_products(searched_items(archive.search), archive.root, names, told.links)
    for product in map(_of_distinct_bands, refuse_shared(found)):
        yield product if told.known is None or product.known is not None else told.known(product)


def _of_distinct_bands(product: Product) -> Product:
    """The product; with a fault if two of its bands are one band of a file."""
    if isinstance(product, RememberedProduct):
        return product
    places = {(str(file.path), file.inner, file.index): band for band, file in product.files.items()}
    if len(places) == len(product.files):
        return product
    one, other = next(
        (one, other)
        for (one, file), (other, same) in combinations(product.files.items(), 2)
        if (file.path, file.inner, file.index) == (same.path, same.inner, same.index)
    )
    file = product.files[one]
    which = f"{file.inner or f'band {file.index}'} of {printable(file.path.name)}"
    fault = f"{one} and {other} would both be {which}; options.variables tells them apart"
    return replace(product, fault=product.fault or fault)


def find_products(root: Path, names: Names, told: Told = Told()) -> Iterator[Product]:  # noqa: B008
    """The products of a file, or of all files below a folder, in a fixed order.

    A file is an image, a STAC catalogue, a series in NetCDF or a zip of SAFE. Below a folder, STAC Items come first;
    then SAFE, NetCDF and images that no Item names. If `told` has a template, only images that fit it count. What goes
    wrong with one product is its fault, and costs no other. Warnings count the images that belong to no product, and
    files that are not read.

    Raises:
        RequestError: a file is not a catalogue, a folder may not be listed, there are images or other files and none
            belongs to a product, or none fits the template.
        OSError: a file or folder could not be read for a reason that may pass.
    """
    notes, count = Notes(), 0
    for product in _found(root, names, told, notes):
        count += 1
        yield product
    notes.tell(root, count)


def _found(root: Path, names: Names, told: Told, notes: Notes) -> Iterator[Product]:
    if is_safe(root):
        yield from _each(root, root, lambda: safe_products(root, names))
    elif is_radar_safe(root):
        yield from _each(root, root, lambda: radar_products(root, names))
    elif root.is_dir():
        if holds_store(root):
            raise RequestError(f"{printable(root)} {ZARR}")
        listed = _Listed(root, told)
        if told.names is None:
            yield from _products_of(listed, root, names, told, notes)
        else:
            yield from _named(told.names, listed, root, names, told, notes)
    elif words := not_a_file(root):
        raise RequestError(
            f"{printable(root)} {words}, nor a folder" if root.exists() else f"{printable(root)} {words}"
        )
    elif told.names is not None:
        yield from named_products(told.names, [root], root.parent, names, told, notes, {})
    elif is_image(root.name):
        yield from _each(root, root, lambda: image_products(root, names, told, notes))
    elif is_netcdf(root):
        yield from _each(root, root, lambda: products_of(root, root.stem, names, told, notes))
    elif words := foreign_by_bytes(root):
        raise RequestError(f"{printable(root)} {words}")
    else:
        yield from catalogue_products(root, names, told.links)


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

    def __init__(self, root: Path, told: Told) -> None:
        self.items: list[Path | RememberedProduct] = []
        self.packed: list[Path] = []
        self.images: list[_Images] = []
        self.faulty: list[Product] = []
        """entries that are neither file nor folder, though they have the name of a product"""
        self.foreign: dict[Path, str] = {}
        """files and stores that are not read, and what to do"""
        self.with_one_item = FoldersOfItems()
        """folders with an Item and images, and nothing else that is looked at"""
        known_folders = KnownFolders(told, self.items)
        for folder in walk(root, lambda path: _is_product(path) or is_store(path), known_folders.is_known):
            items = [folder.path / name for name in folder.files if name.endswith(".json")]
            self.items += items
            packed = [name for name in folder.files if _is_product(name)]
            self.packed.extend(folder.path / name for name in packed)
            known = {*packed}
            if STORE.intersection(folder.files) and not self.foreign.keys() & {*folder.path.parents}:
                self.foreign[folder.path] = ZARR
            others = (name for name in folder.files if may_be_foreign(name) and name not in known)
            found = ((folder.path / name, foreign(folder.path / name)) for name in others)
            unread = {path: words for path, words in found if words}
            self.foreign |= unread
            self.faulty.extend(_faulty(folder, root))
            # an Item says itself what is wrong with its files
            faults = {} if items else {name: words for name, words in folder.others.items() if is_image(name)}
            if names := sorted([*filter(is_image, folder.files), *faults]):
                self.images.append(_Images(folder=folder.path, names=names, faults=faults))
                if folder.plain and len(items) == 1 and not (packed or unread or STORE.intersection(folder.files)):
                    self.with_one_item.add(items[0], names)


def _faulty(folder: Folder, root: Path) -> Iterator[Product]:
    for name, words in sorted(folder.others.items()):
        if not name or name.endswith(".json") or _is_product(name):
            place = os.path.relpath(folder.path / name, root)
            yield unusable(place, f"{printable(place)} {words}", time_in(place))


def _named(
    template: Template, listed: _Listed, root: Path, names: Names, told: Told, notes: Notes
) -> Iterator[Product]:
    paths = [images.folder / name for images in listed.images for name in images.names]
    paths += [path for path in listed.packed if is_netcdf(path)]
    faults = {images.folder / name: words for images in listed.images for name, words in images.faults.items()}
    yield from named_products(template, sorted(paths), root, names, told, notes, faults)


def _products_of(listed: _Listed, root: Path, names: Names, told: Told, notes: Notes) -> Iterator[Product]:
    """All products; what belongs to none is noted."""
    notes.foreign |= listed.foreign
    yield from listed.faulty
    # paths as text, because hashing many thousand Path objects would cost more than the rest of this function
    named: set[str] = set()
    named_in: dict[str, list[_OfItem]] = {}
    for product in products_of_items(listed.items, root, names, told):
        if isinstance(product, Path):
            notes.not_stac += [product] if product.name not in (METADATA, *IN_JSON) else []
            continue
        if isinstance(product, RememberedProduct) and product.alone:
            # no other folder has files of it
            yield product
            continue
        listed.with_one_item.remember(product, _paths(product))
        one = _OfItem(
            id=product.id,
            day=product.time.date(),
            paths=tuple(_paths(product)),
            faulty=bool(product.fault) and not product.files,
        )
        # also the Item's own folders: the images there are its files, even where it does not find them
        folder, _ = os.path.split(item_path(product))
        own = {folder or ".", f"{folder or '.'}/{product.id}"} if item_path(product) else set[str]()
        for place in own.union(map(os.path.dirname, one.paths)):
            named.update(_packed_around(place))
            named_in.setdefault(place, []).append(one)
        named.update(path for path in one.paths if path.endswith(PACKED))
        yield product
    for path in listed.packed:
        notes.products |= not is_netcdf(path)
        if str(path) not in named:
            yield from _each(path, root, partial(_packed_products, path, root, names, told, notes))
    for images in listed.images:
        of_items = named_in.get(str(images.folder), [])
        yield from _each(images.folder, root, partial(_not_named, images, of_items, root, names, told, notes))


def _packed_products(path: Path, root: Path, names: Names, told: Told, notes: Notes) -> Iterator[Product]:
    if is_safe(path):
        yield from safe_products(path, names)
    elif is_radar_safe(path):
        yield from radar_products(path, names)
    else:
        yield from products_of(path, path.relative_to(root).with_suffix("").as_posix(), names, told, notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _OfItem:
    """What is kept of a product of an Item, to tell whose the images around it are."""

    id: str
    day: date
    paths: tuple[str, ...]
    faulty: bool
    """whether it has a verdict and no file"""


def _not_named(
    images: _Images, named: list[_OfItem], root: Path, names: Names, told: Told, notes: Notes
) -> Iterator[Product]:
    """The products of images in a folder that no Item names; images that belong to no product are noted.

    `named` are the products of Items that name a file in this folder, or lie in it themselves. An image of the same
    day as one of them, or with its id, may be a copy, and is left out.
    """
    folder, paths = images.folder, {path for one in named for path in one.paths}
    if all(f"{folder}{os.sep}{image}" in paths for image in images.names):
        return
    found = list(folder_products(folder, images.names, root, names, told, notes, images.faults))
    unnamed = [product for product in found if paths.isdisjoint(_paths(product))]
    days, ids = {one.day for one in named}, {one.id for one in named}
    new = [product for product in unnamed if product.time.date() not in days and product.id not in ids]
    used = {*map(os.path.basename, paths)} | {file.path.name for product in new for file in product.files.values()}
    copies = {file.path.name for product in unnamed for file in product.files.values()} - used
    yield from new
    if any(one.faulty for one in named) or any(product.fault and not product.files for product in found):
        # its verdict says what is wrong: these images are its own, as far as anybody knows
        for image in images.names:
            notes.left.pop(folder / image, None)
        return
    # other bands and resolutions of a product have its date
    dates = {None, *map(time_in, used)}
    unknown = [
        name
        for name in images.names
        if name not in images.faults and name not in used and (not used or name in copies or time_in(name) not in dates)
    ]
    notes.left |= {folder / name: _COPY for name in unknown if name in copies}
    whole = [name for name in unknown if name not in copies and folder / name not in notes.left]
    for product in images_of_all_bands(folder, whole, root, names, told, notes):
        if product.time.date() in days or product.id in ids:
            notes.left |= {Path(path): _COPY for path in _paths(product)}
        else:
            yield product


def _paths(product: Product) -> list[str]:
    if isinstance(product, RememberedProduct):
        return [*product.paths.values()]
    return [str(file.path) for file in product.files.values()]


def _is_product(name: str) -> bool:
    """Whether a folder or file holds a whole product, by its name."""
    # the suffix is tested first because making a Path costs ten times as much
    return name.endswith(PACKED) and (is_safe(Path(name)) or is_radar_safe(Path(name)) or is_netcdf(Path(name)))


def _packed_around(folder: str) -> list[str]:
    """SAFE folders around a folder: once an Item names a file inside, they need not be read themselves."""
    if not any(suffix in folder for suffix in PACKED):
        return []
    return [str(place) for place in (Path(folder), *Path(folder).parents) if _is_product(place.name)]
