"""Products of plain folders: a raster file for each band, and the time in the name of the product."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rasterio.errors import RasterioError

from embedcube.printable import printable
from embedcube.sources.catalog.files import not_a_file
from embedcube.sources.catalog.json_text import ITEM_BYTES, kind_of, read_json
from embedcube.sources.catalog.products import (
    File,
    Names,
    Product,
    bounded,
    is_alias,
    product_id,
    split_pixel_size,
    time_in,
)
from embedcube.sources.opening import open_raster

_SUFFIXES = (".tif", ".tiff", ".jp2")

METADATA = "metadata.json"
"""Name of a file beside images whose content becomes the properties of the product"""

log = logging.getLogger(__name__)


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix in lower or upper case."""
    return name.lower().endswith(_SUFFIXES)


def image_products(path: Path, names: Names, undated: datetime | None = None) -> Iterator[Product]:
    """The product of a single image.

    A band is found by its description in the file (its number, from 1, if it has none), by the name of the file, or
    because the archive and the file have one band each. The time is found as in `folder_products`.

    Raises:
        OSError: the file could not be read for a reason that may pass.
    """
    bands = list(names)
    try:
        with open_raster(path, "") as image:
            described = [str(text or i).lower() for i, text in enumerate(image.descriptions, start=1)]
    except RasterioError:
        path.read_bytes()  # raises if the disk fails; wrong bytes are reported when the file is described
        described = [""]
    found = {band: i for band in bands if (i := _place(described, names[band]))}
    if not found and len(described) > 1:
        example = f'{{{bands[0]}: "{described[0]}"}}'
        missing = (
            f"{path.name} has {len(described)} bands, {', '.join(described)}; "
            f"options.variables says which is this one, as {example}"
        )
    elif not found and len(bands) > 1:
        yield from folder_products(path.parent, [path.name], names, undated)
        return
    else:
        found, missing = found or {bands[0]: 1}, f"{path.name} has no band of this name"
    time = time_in(path.stem) or time_in(path.parent.name) or undated
    if time is None:
        log.warning("%s: no date in its name; it is left out", printable(path))
        return
    yield Product(
        id=product_id(path.stem),
        time=time,
        files={band: File(path=path, index=found[band]) for band in bands if band in found},
        missing={band: missing for band in bands if band not in found},
        properties={},
    )


def _place(described: Sequence[str], known: frozenset[str]) -> int:
    """The number of the band with a known description, its own name before one that another may have; 0 for none."""
    found = [(is_alias(known, text), -i) for i, text in enumerate(described, start=1) if text in known]
    return -min(found)[1] if found else 0


def folder_products(
    folder: Path,
    files: Sequence[str],
    names: Names,
    undated: datetime | None = None,
    faults: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Product]:
    """The products of the `files` of one folder, each band at its finest resolution.

    `faults` says of some of the files why they cannot be opened.

    `B02.tif` belongs to the product that the folder is named after, `S2A_..._T33UUP_75_43_B02.tif` to the product that
    its own name begins with. The time is the first date in the product's name, else in the folder's name, else
    `undated`; without any, the product is left out with a warning. A `metadata.json` in the folder becomes the
    properties.

    Raises:
        OSError: the metadata could not be read for a reason that may pass.
    """
    found: dict[str, dict[str, tuple[bool, int, Path]]] = {}
    for file in sorted(files):
        stem, pixel_m = split_pixel_size(Path(file).stem)
        for band, known in names.items():
            for name in known:
                if stem == name or stem.endswith(f"_{name}"):
                    product = Path(file).stem[: len(stem) - len(name)].rstrip("_") or folder.name
                    bands = found.setdefault(product, {})
                    # a name of its own before one that another band may have too, then the finest
                    other = is_alias(known, name), pixel_m, folder / file
                    bands[band] = min(bands.get(band, other), other)
    if not found:
        return
    properties, fault = _properties(folder)
    for product, bands in found.items():
        time = time_in(product) or time_in(folder.name) or undated
        if time is None:
            words = "%s: no date in the name of product %s, which is left out"
            log.warning(words, printable(folder), printable(product))
            continue
        missing = {band: "there is no file of this band" for band in names if band not in bands}
        for band, (_, _, path) in bands.items():
            if path.name in faults:
                missing[band] = f"{printable(path.name)} {faults[path.name]}"
        yield Product(
            id=product_id(product),
            time=time,
            files={band: File(path=bands[band][2]) for band in names if band not in missing},
            missing=missing,
            properties=properties,
            fault=fault,
        )


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
