"""Products of a STAC catalogue: a static one, or a tree of Item files."""

import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from embedcube.errors import RequestError
from embedcube.sources.products import File, Names, Product
from embedcube.windows import utc

log = logging.getLogger(__name__)


def stac_products(root: Path, names: Names) -> Iterator[Product]:
    """A product for every Item of a catalogue file, or of the Item files below a folder.

    Raises:
        RequestError: the catalogue file is none.
    """
    for path, item in _catalogue(root) if root.is_file() else _tree(root):
        try:
            yield _product(path, item, names)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            log.warning("%s is not a usable STAC item and is left out: %s: %s", path, type(error).__name__, error)


def _catalogue(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    import pystac

    try:
        for item in pystac.Catalog.from_file(str(root)).get_items(recursive=True):
            yield Path(str(item.get_self_href())), item.to_dict(transform_hrefs=False)
    except (pystac.STACError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{root} is not a STAC catalogue: {error!r}") from None


def _tree(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(root.rglob("*.json")):
        try:
            document = json.loads(path.read_bytes())
        except ValueError as error:
            log.warning("%s is not JSON and is left out: %s", path, error)
            continue
        if isinstance(document, dict) and document.get("type") == "Feature" and "assets" in document:
            yield path, document


def _product(path: Path, item: dict[str, Any], names: Names) -> Product:
    properties = item["properties"]
    files, missing = {}, {}
    for band, known in names.items():
        found = _file(path, item, known)
        if isinstance(found, File):
            files[band] = found
        else:
            missing[band] = found
    moment = str(properties.get("datetime") or properties.get("start_datetime") or "")
    return Product(
        id=item["id"],
        time=utc(datetime.fromisoformat(moment)),
        files=files,
        missing=missing,
        properties=properties,
        bbox=_bbox(item),
    )


def _file(item_path: Path, item: dict[str, Any], known: frozenset[str]) -> File | str:
    """The local file of a band: by asset key, band name or file name; hrefs elsewhere do not count."""
    for key, asset in item["assets"].items():
        href = str(asset.get("href", "")).removeprefix("file://")
        if "://" in href:
            continue
        described = [
            {str(band.get(name, "")).lower() for name in ("name", "eo:common_name", "common_name")}
            for band in asset.get("eo:bands") or asset.get("bands") or []
        ]
        index = next((i for i, called in enumerate(described, start=1) if known & called), 0)
        if index or (len(described) <= 1 and known & {key.lower(), Path(href).stem.lower()}):
            path = item_path.parent / href
            if not path.is_file():
                return f"{href} does not exist"
            checksum = str(asset.get("file:checksum", ""))
            return File(
                path=Path(os.path.normpath(path)),
                index=index or 1,
                size=asset.get("file:size"),
                # multihash: sha2-256, 32 bytes
                sha256=checksum[4:] if checksum.startswith("1220") else "",
            )
    return "the item has no file of this band"


def _bbox(item: dict[str, Any]) -> tuple[float, float, float, float] | None:
    numbers = [float(number) for number in item.get("bbox") or ()]
    if len(numbers) not in (4, 6):
        return None
    west, south, east, north = numbers if len(numbers) == 4 else (*numbers[:2], *numbers[3:5])
    return west, south, east, north
