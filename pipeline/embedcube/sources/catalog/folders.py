"""Products of plain folders: a raster file for each band or for all bands, and the time in the name of the product."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from embedcube.printable import printable
from embedcube.sources.catalog.bands import bands_in, descriptions_of, shown, stacked
from embedcube.sources.catalog.beside import sensed
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import not_a_file
from embedcube.sources.catalog.json_text import ITEM_BYTES, kind_of, read_json
from embedcube.sources.catalog.naming import Template, template_for
from embedcube.sources.catalog.notes import TEMPLATE, Notes, undated
from embedcube.sources.catalog.products import (
    File,
    Names,
    Product,
    bounded,
    is_alias,
    product_id,
    split_pixel_size,
    unusable,
)
from embedcube.sources.catalog.told import Told
from embedcube.sources.catalog.whole_images import described, whole_products

_SUFFIXES = (".tif", ".tiff", ".jp2")

_PREVIEWS = frozenset(("tci", "pvi", "thumbnail", "overview", "visual", "preview", "quicklook", "browse", "rgb"))
"""words in the names of pictures for people"""

_PREVIEW = "is a picture for people, whose numbers are stretched to 8 bits: give the files of the bands"

METADATA = "metadata.json"
"""Name of a file beside images whose content becomes the properties of the product"""


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix in lower or upper case."""
    return name.lower().endswith(_SUFFIXES)


def image_products(path: Path, names: Names, told: Told, notes: Notes) -> Iterator[Product]:
    """The products of a single image.

    A band is found by its description in the file, by its number, by the name of the file, or because the archive and
    the file have one band each.

    Raises:
        OSError: the file could not be read for a reason that may pass.
    """
    bands = descriptions_of(path) or []
    if len(bands) != 1 or len(names) == 1 or told.steps or bands_in(bands, names).index:
        yield from whole_products(path, bands, path.parent, names, told, notes)
        return
    count = len(notes.left)
    found = list(folder_products(path.parent, [path.name], path.parent, names, told, notes))
    if not found and len(notes.left) == count:
        notes.left[path] = (
            "has one band, and neither its description nor its own name says which; the archive has several bands"
        )
    yield from found


def folder_products(
    folder: Path,
    files: Sequence[str],
    root: Path,
    names: Names,
    told: Told,
    notes: Notes,
    faults: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Product]:
    """The products of the `files` of one folder that hold one band each, each band at its finest resolution.

    `faults` says of some of the files why they cannot be opened.

    `B02.tif` belongs to the product that the folder is named after, `S2A_..._T33UUP_75_43_B02.tif` to the product that
    its own name begins with. The time is the date in the product's name, else in the folder's name, else what metadata
    beside the images say, else the time told; without any, the product is left out. A `metadata.json` in the folder
    becomes the properties.

    Raises:
        OSError: the metadata could not be read for a reason that may pass.
    """
    found: dict[str, dict[str, tuple[bool, int, Path]]] = {}
    for file in sorted(files):
        stem, pixel_m = split_pixel_size(Path(file).stem)
        for band, known in names.items():
            for name in known:
                if (stem == name or stem.endswith(f"_{name}")) and not _is_number(name, folder / file, faults):
                    product = Path(file).stem[: len(stem) - len(name)].rstrip("_") or folder.name
                    bands = found.setdefault(product, {})
                    # a name of its own before one that another band may have too, then the finest
                    other = is_alias(known, name), pixel_m, folder / file
                    bands[band] = min(bands.get(band, other), other)
    if not found:
        return
    properties, fault = _properties(folder)
    for product, bands in found.items():
        try:
            when, said = sensed(told, product, folder, notes.beside)
        except ValueError as error:
            yield unusable(product, f"{printable(product)}: {error}", time_in(product) or time_in(folder.name))
            continue
        if when is None:
            undated_here = {path: path.relative_to(root).as_posix() for _, _, path in bands.values()}
            notes.left |= {path: undated(place, _all(names)) for path, place in undated_here.items()}
            continue
        missing = {band: "there is no file of this band" for band in names if band not in bands}
        for band, (_, _, path) in bands.items():
            if path.name in faults:
                missing[band] = f"{printable(path.name)} {faults[path.name]}"
        yield Product(
            # the name that a file beside the images states, unless their own says more
            id=notes.id_of(product, folder, root) if product[:2] == "S2" or not said.name else product_id(said.name),
            time=when.time,
            end=when.end,
            files={band: File(path=bands[band][2]) for band in names if band not in missing},
            missing=missing,
            properties=said.properties | properties,
            fault=fault,
        )


def _is_number(name: str, path: Path, faults: Mapping[str, str]) -> bool:
    """Whether the name of a band is a number in this file, and not the end of the file's name."""
    return name.isdecimal() and path.name not in faults and len(descriptions_of(path) or [""]) > 1


def images_of_all_bands(
    folder: Path, files: Sequence[str], root: Path, names: Names, told: Told, notes: Notes
) -> Iterator[Product]:
    """The products of images of one folder that are known by their bands' descriptions or numbers.

    An image in which no band is found is left out. One with a single band counts where the archive has one band, too,
    and its description is that band's name: bands in files of their own are known by the names of the files. One that
    does not open is a product, if it has a date.
    """
    paths = [folder / name for name in sorted(files)]
    for path, bands in zip(paths, described(paths), strict=True):
        several = len(bands) != 1
        found = bands_in(bands, names)
        torn = not bands
        named = any(text.lower() in known for text in bands for known in names.values())
        if torn or stacked(bands, names) or (several and (found.index or told.steps)) or (len(names) == 1 and named):
            yield from whole_products(path, bands, root, names, told, notes)
        else:
            unnamed = found.fault if several else _unnamed(path, root, bands, names)
            notes.left[path] = _PREVIEW if _is_preview(path) else unnamed


def _is_preview(path: Path) -> bool:
    return not _PREVIEWS.isdisjoint(re.split(r"[^a-z]+", path.stem.lower()))


def _unnamed(path: Path, root: Path, bands: Sequence[str], names: Names) -> str:
    """Why an image of one band is of no scene, and what to do."""
    template = template_for(path.relative_to(root).as_posix(), _all(names))
    template = template if len(template) <= TEMPLATE else ""
    if "{band}" in template and not Template(template).dated:
        return f'has no date and does not end in a band: options.names and options.time say both, "{template}" fits'
    if "{start}" in template:
        return f'has two dates in its name: if they are its first and last, options.names says so, "{template}"'
    if "{band}" in template:
        return f'does not end in a band: options.names says how files are named, "{template}" fits this one'
    if template and len(names) == 1:
        only = next(iter(names))
        return f'does not say its band: if each such file is {only}, say so by options.names, "{template}"'
    words = f" (its band is {shown(bands)})" if any(bands) else ""
    return (
        f"does not end in a band of the archive{words}: options.variables says what bands are called, options.names "
        "how files are named"
    )


def _all(names: Names) -> list[str]:
    return sorted({name for known in names.values() for name in known})


def _properties(folder: Path) -> tuple[dict[str, Any], str]:
    """The content of `metadata.json`, and why it cannot be used; both empty where there is none."""
    path = folder / METADATA
    if not_a_file(path):
        return {}, ""
    try:
        document = read_json(path, ITEM_BYTES)
    except ValueError as error:
        return {}, str(error)
    if not isinstance(document, dict):
        return {}, f"{path.name} is {kind_of(document)}, not a JSON object"
    return bounded(document), ""
