"""All products of an archive, in whatever way it describes them."""

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
from embedcube.sources.reader import is_netcdf

_PACKED = (".SAFE", ".zip", ".nc", ".nc4")
"""Suffixes of what may hold a whole product."""

_WHAT_IS_A_SCENE = (
    "an image is of a scene where a STAC Item names it, or, without an Item of that day beside it, its name has a date "
    "and ends in a band that is wanted, as X_20230815_B02.tif (options.variables says what the files call a band)"
)

log = logging.getLogger(__name__)


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
    then SAFE, NetCDF and the images of plain folders, where no Item has told of them already. What is left is said.
    `undated` is the time of images that have no date in their name, which are left out otherwise.

    Raises:
        RequestError: a catalogue file is none, or there are images of which none is of a scene.
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
    packed: list[Path] = []
    folders: list[tuple[Path, list[str]]] = []
    for folder, files in _walk(root):
        items.extend(folder / name for name in files if name.endswith(".json"))
        packed.extend(folder / name for name in files if _is_product(name))
        if images := list(filter(is_image, files)):
            folders.append((folder, images))
    # as text: of many thousand files, to hash a Path costs more than all else here
    told: set[str] = set()
    told_in: dict[str, list[Product]] = {}
    for product in spread(partial(item_products, names=names), items):
        paths = _paths(product)
        for place in set(map(os.path.dirname, paths)):
            told.update(_packed_around(place))
            told_in.setdefault(place, []).append(product)
        told.update(path for path in paths if path.endswith(_PACKED))
        yield product
    for path in packed:
        if str(path) in told:
            continue
        if is_safe(path):
            yield from safe_products(path, names)
        elif is_radar_safe(path):
            yield from radar_products(path, names)
        else:
            yield from products_of(path, path.relative_to(root).with_suffix("").as_posix(), names)
    left: list[Path] = []
    for folder, images in folders:
        new, others = _beside(folder, images, told_in.get(str(folder), []), names, undated)
        left += others
        yield from new
    if left:
        words = f"{len(left)} images are of no scene, the first is {left[0].relative_to(root)}; {_WHAT_IS_A_SCENE}"
        if len(left) == sum(len(images) for _, images in folders) and not packed and not told_in:
            raise RequestError(f"no scene found in {root}: {words}")
        log.warning("%s: %s", root, words)


def _beside(
    folder: Path, images: list[str], told: list[Product], names: Names, undated: datetime | None
) -> tuple[list[Product], list[Path]]:
    """The products of the images of a folder of which no Item has told; and images that are of no product.

    What lies beside an Item of its day may be the same picture once more, and is left out.
    """
    paths = {path for product in told for path in _paths(product)}
    if all(f"{folder}{os.sep}{image}" in paths for image in images):
        return [], []
    found = folder_products(folder, images, names, undated)
    untold = [product for product in found if paths.isdisjoint(_paths(product))]
    days = {product.time.date() for product in told}
    new = [product for product in untold if product.time.date() not in days]
    used = {*map(os.path.basename, paths)} | {file.path.name for product in new for file in product.files.values()}
    twice = {file.path.name for product in untold for file in product.files.values()} - used
    # further bands and resolutions of a product have its date
    dates = {None, *map(time_in, used)}
    left = [name for name in images if name not in used and (not used or name in twice or time_in(name) not in dates)]
    return new, [folder / name for name in left]


def _paths(product: Product) -> list[str]:
    return [str(file.path) for file in product.files.values()]


def _is_product(name: str) -> bool:
    """Whether a folder or file is one as a whole, by its name."""
    # most are not, and a Path costs ten times what their last letters do
    return name.endswith(_PACKED) and (is_safe(Path(name)) or is_radar_safe(Path(name)) or is_netcdf(Path(name)))


def _packed_around(folder: str) -> list[str]:
    """What need not be looked at again once an Item has told of a file in a folder: the SAFE it is in."""
    if not any(suffix in folder for suffix in _PACKED):
        return []
    return [str(place) for place in (Path(folder), *Path(folder).parents) if _is_product(place.name)]


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, in a fixed order; a SAFE folder is a file of its parent."""

    def fail(error: OSError) -> None:
        raise error

    for place, below, files in os.walk(root, onerror=fail, followlinks=True):
        safes = [name for name in below if _is_product(name)]
        below[:] = sorted(set(below) - set(safes))
        yield Path(place), sorted([*safes, *files])
