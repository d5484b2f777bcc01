"""Products of STAC: a static catalogue, the saved result of a search, or single Item files."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from embedcube.errors import RequestError
from embedcube.printable import printable, printable_href
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import ABSENT, NotReadable, identity, lasting, not_a_file
from embedcube.sources.catalog.json_text import CATALOGUE_BYTES, ITEM_BYTES, kind_of, parsed, read_json
from embedcube.sources.catalog.links import NO_LINKS, Links, local_path
from embedcube.sources.catalog.products import Names, Product, unusable
from embedcube.sources.catalog.stac_item import is_item, item_product

_LINES = (".ndjson", ".jsonl", ".geojsonl")
"""Suffixes of files with one Item on each line"""

_CATALOGUES = ("Catalog", "Collection")

_COUNTS = ("numberMatched", "matched", "numberReturned", "returned")
"""where the result of a search says how many Items it should have"""

_ALL_PAGES = "save all pages, with one Item on each line of one .ndjson file"

_LARGE = "a large result of a search is read with one Item on each line (.ndjson)"

log = logging.getLogger(__name__)


def catalogue_products(path: Path, names: Names, links: Links = NO_LINKS) -> Iterator[Product]:
    """A product for every Item of a Catalog, Collection, Item or ItemCollection (also with one Item on each line).

    The links of catalogues are followed in order, to each file once. An Item that cannot be used or does not parse
    becomes a product with a fault. A warning counts the links to files that are not here.

    Raises:
        RequestError: the file is not STAC.
        OSError: a file could not be read for a reason that may pass.
    """
    yield from _lines(path, names, links) if path.suffix in _LINES else _linked(path, names, links)


def item_products(
    path: Path, root: Path, names: Names, links: Links, read: Callable[[Path, int], Any] = read_json
) -> list[Product | Path]:
    """The product of an Item file, also if it does not parse, and all of a saved search; the path of other JSON.

    Catalogues and collections are left out: what they link to lies in the same archive. `read` gives the value of a
    JSON file, with the errors of `read_json`.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    name = partial(_name, path, root)
    try:
        document = _read(path, ITEM_BYTES, read)
    except ValueError as error:
        return [unusable(name(), str(error), time_in(name()))]
    if is_item(document):
        return [item_product(path, name, document, names, links)]
    if _is_search(document):
        return [*_of_search(path, name(), document, names, links)]
    return [] if isinstance(document, dict) and document.get("type") in _CATALOGUES else [path]


def found_products(items: Iterable[Any], folder: Path, names: Names, links: Links) -> Iterator[Product]:
    """A product for every Item in the result of a search; relative links begin at `folder`."""
    for number, item in enumerate(items, start=1):
        yield item_product(folder / "search.json", partial(str, f"Item {number} of the search"), item, names, links)


def _lines(path: Path, names: Names, links: Links) -> Iterator[Product]:
    number = 0
    with path.open("rb") as file:
        while line := file.readline(ITEM_BYTES + 1):
            number += 1
            name = f"{path.stem} line {number}"
            if len(line) > ITEM_BYTES:
                yield unusable(name, f"line {number} of {printable(path.name)} has more than {ITEM_BYTES:,} bytes")
                while line and not line.endswith(b"\n"):
                    line = file.readline(ITEM_BYTES)
            elif line.strip():
                try:
                    item = parsed(line)
                except ValueError as error:
                    yield unusable(name, f"line {number} of {printable(path.name)} {error}")
                else:
                    yield item_product(path, partial(str, name), item, names, links)


def _linked(root: Path, names: Names, links: Links) -> Iterator[Product]:
    """The products of all Items in a file or linked from it."""
    seen = {identity(root)}
    waiting = [root]
    gone: list[str] = []
    while waiting:
        path = waiting.pop()
        name = _name(path, root.parent)
        try:
            document = _read(path, CATALOGUE_BYTES if path == root else ITEM_BYTES)
        except ValueError as error:
            if path == root:
                advice = f"; {_LARGE}" if isinstance(error, NotReadable) else ""
                raise RequestError(f"{printable(root)} is not a STAC catalogue: {error}{advice}") from None
            yield unusable(name, str(error), time_in(name))
            continue
        kind = document.get("type") if isinstance(document, dict) else None
        if kind == "Feature":
            yield item_product(path, partial(str, name), document, names, links)
        elif kind == "FeatureCollection":
            yield from _of_search(path, name, document, names, links)
        elif kind in _CATALOGUES:
            followed = [_followed(path, link, links, seen, gone) for link in _listed(document, "links")]
            yield from (found for found in followed if isinstance(found, Product))
            waiting += reversed([found for found in followed if isinstance(found, Path)])
        elif path == root:
            raise RequestError(
                f"{printable(root, 120)} is not a STAC catalogue: its type is {printable(repr(kind), 60)}; name a STAC "
                "catalogue, a saved search, or the folder of the files"
            )
        else:
            fault = f"is neither a STAC catalogue nor an Item: its type is {printable(repr(kind), 60)}"
            yield unusable(name, f"{printable(path.name)} {fault}", time_in(name))
    if gone:
        words = "%s: there is no file at the link %s; %d such links are left out"
        log.warning(words, printable(root), gone[0], len(gone))


def _is_search(document: Any) -> bool:
    """Whether a JSON value is a collection of Items; GeoJSON alone is none."""
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        return False
    features = document.get("features")
    if not isinstance(features, list):
        return True  # GeoJSON has a list, too: this one is damaged, and gets a verdict
    return bool(features) and is_item(features[0])


def _of_search(path: Path, name: str, document: dict[str, Any], names: Names, links: Links) -> Iterator[Product]:
    """The products of the saved result of a search; a warning says if it does not hold all that was found."""
    features = document.get("features")
    if not isinstance(features, list):
        fault = (
            f"{printable(path.name)} is a saved search, and its features are {kind_of(features)}, not a list of Items"
        )
        yield unusable(name, fault, time_in(name))
        return
    if words := lacking(document, len(features)):
        log.warning("%s %s", printable(path), words)
    for number, feature in enumerate(features, start=1):
        yield item_product(path, partial(str, f"{name} {number}"), feature, names, links, of_search=True)


def _read(path: Path, most: int, read: Callable[[Path, int], Any] = read_json) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: it cannot be used; the message begins with its name.
        OSError: it could not be read for a reason that may pass.
    """
    try:
        return read(path, most)
    except OSError as error:
        if not (words := lasting(error)):
            raise
        raise ValueError(f"{printable(path.name)} {words}") from None


def lacking(document: dict[str, Any], held: int) -> str:
    """What the result of a search lacks, in words that follow its name; empty if it says nothing of more Items.

    APIs say it by `numberMatched` (OGC), by `context` (before STAC 1.0) or `search:metadata`, or link to the next page.
    """
    places = [document, document.get("context"), document.get("search:metadata")]
    stated = [place[key] for place in places if isinstance(place, dict) for key in _COUNTS if key in place]
    most = max((count for count in stated if isinstance(count, int) and not isinstance(count, bool)), default=None)
    links = [link.get("rel") for link in _listed(document, "links") if isinstance(link, dict)]
    if most is not None and most > held:
        return f"holds {held:,} of the {most:,} Items of its search: the cube will lack the others; {_ALL_PAGES}"
    if most is None and "next" in links:
        return f"holds {held:,} Items and links to a next page, which is not followed; {_ALL_PAGES}"
    return ""


def _name(path: Path, root: Path) -> str:
    """What the Item of a file is called if it has no id: the file's place, without the suffix."""
    return str(Path(os.path.relpath(path, root)).with_suffix(""))


def _listed(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def _followed(
    path: Path, link: Any, links: Links, seen: set[tuple[int, int]], gone: list[str]
) -> Path | Product | None:
    """The file that a link in the catalogue at `path` leads to, or a product that says why it cannot be read.

    None for a link that was followed before, and for one to a file that is not here, which is added to `gone`: often
    only a part of a catalogue is on a machine.
    """
    if not isinstance(link, dict) or link.get("rel") not in ("item", "child"):
        return None
    href = link.get("href")
    shown = printable_href(href) if isinstance(href, str) else kind_of(href)
    place = (links.path_of(href) or local_path(str(path.parent), href)) if isinstance(href, str) else None
    words = not_a_file(Path(place)) if place is not None else ABSENT
    if place is None or words == ABSENT:
        gone.append(shown)
        return None
    if words:
        return unusable(
            f"{path.stem} {shown}", f"{printable(path.name)} links to {shown}, which {words}", time_in(shown)
        )
    found = Path(place)
    if (known := identity(found)) in seen:
        return None
    seen.add(known)
    return found
