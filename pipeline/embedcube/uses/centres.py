"""The catalogue of centres that hold cubes: a YAML file, or a STAC Collection, Catalog or API."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from pydantic import Field, ValidationError

from embedcube.campaign.fields import Block, read_yaml
from embedcube.campaign.load import first_error
from embedcube.errors import RequestError, WorkError
from embedcube.printable import printable, printable_href
from embedcube.uses.remote import Address, read_document

_MOST = 1000
"""centres of one catalogue"""

_DEPTH = 4
"""how deep Catalogs of STAC are followed"""

_DOCUMENTS = 1000
"""documents of one catalogue of STAC that are read"""

_WALK_S = 60.0
"""seconds that reading a catalogue of STAC may take"""


class CentreBlock(Block):
    """One centre of a catalogue."""

    name: str = Field(min_length=1, max_length=64)
    """what answers call it"""
    cube: str
    """a path, the URL of a store, or that of a server: http://host:port/v1/cubes/NAME"""
    token_file: Path | None = None
    """file of mode 0600 with the token of the server"""


class CatalogueFile(Block):
    """A catalogue file."""

    centres: tuple[CentreBlock, ...] = Field(min_length=1, max_length=_MOST)
    """in the order in which they are asked for the vector of a place"""


class Centre:
    """A centre: its name, and where its cube is."""

    def __init__(self, name: str, address: Address) -> None:
        """Nothing is asked yet."""
        self.name = name
        self.address = address

    def __repr__(self) -> str:
        return f"Centre({self.name!r}, {str(self.address)!r})"


def read_catalogue(catalogue: str) -> list[Centre]:
    """The centres of a catalogue: a YAML file with `centres`, or the path or URL of a STAC Collection, Catalog or API.

    Raises:
        RequestError: it is none of these, or has no centre, or two of one name.
        WorkError: it could not be reached.
    """
    if "://" in catalogue or catalogue.endswith(".json"):
        # an API lists a Collection among its links, and again below /collections
        found: dict[str, Centre] = {}
        for centre in _Walk(catalogue).centres():
            found.setdefault(centre.address.url, centre)
        centres = list(found.values())
    else:
        centres = _of_yaml(Path(catalogue))
    if not centres:
        raise RequestError(f"{printable_href(catalogue)}: lists no cube")
    names = [centre.name for centre in centres]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"{printable_href(catalogue)}: two centres are named {twice}; give each a name of its own")
    return centres


def _of_yaml(path: Path) -> list[Centre]:
    try:
        file = CatalogueFile.model_validate(read_yaml(path))
    except OSError as error:
        raise RequestError(f"{path}: no such catalogue ({error.strerror})") from None
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error)}") from None
    folder = path.resolve().parent
    centres = []
    for one in file.centres:
        url = one.cube if "://" in one.cube else str(folder / Path(one.cube).expanduser())
        token_file = folder / one.token_file.expanduser() if one.token_file else None
        centres.append(Centre(one.name, Address(url=url, token_file=token_file)))
    return centres


class _Walk:
    """A walk through a catalogue of STAC: each document is read once, and only so many, in so much time."""

    def __init__(self, catalogue: str) -> None:
        self._catalogue = catalogue
        self._end = time.monotonic() + _WALK_S
        self._read: set[str] = set()

    def centres(self) -> Iterator[Centre]:
        """The cubes of a Collection, or of all below a Catalog, or of an API; one may come several times."""
        yield from self._below(self._catalogue, 0)

    def _below(self, href: str, depth: int) -> Iterator[Centre]:
        document = self._document(href)
        if document is None:
            return
        if document.get("type") == "Collection":
            yield from self._of_collection(document, href)
            return
        for listed in _dicts(document.get("collections")):
            yield from self._of_collection(listed, href)
        if depth < _DEPTH:
            for link in _dicts(document.get("links")):
                if link.get("rel") in ("child", "data"):
                    yield from self._below(_joined(href, str(link.get("href"))), depth + 1)

    def _of_collection(self, collection: dict[str, Any], href: str) -> Iterator[Centre]:
        """The cube of a Collection: what the first of its Items says of its store."""
        links = _dicts(collection.get("links"))
        own = next((str(link["href"]) for link in links if link.get("rel") == "self" and "href" in link), None)
        base = _joined(href, own) if own else href
        for link in links:
            if link.get("rel") not in ("item", "items"):
                continue
            place = _joined(base, str(link.get("href")))
            document = self._document(place)
            for item in [] if document is None else _dicts(document.get("features", [document]))[:1]:
                cube = _cube_of(item, place)
                if cube is not None:
                    yield Centre(printable(collection.get("id", cube), 64), Address(url=cube))
                    return

    def _document(self, href: str) -> dict[str, Any] | None:
        """A document of the catalogue; None where it was read before: links may lead in circles."""
        if href in self._read:
            return None
        shown, left_s = printable_href(self._catalogue), self._end - time.monotonic()
        if len(self._read) >= _DOCUMENTS:
            raise RequestError(
                f"{shown}: more than {_DOCUMENTS} documents; name the Catalog or Collection that is meant"
            )
        if left_s <= 0:
            raise WorkError(f"{shown}: {len(self._read)} documents in {_WALK_S:g} s, and not all; name a smaller part")
        self._read.add(href)
        return _document(href, left_s)


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; no more of a document's than are ever read."""
    return [one for one in value[:_DOCUMENTS] if isinstance(one, dict)] if isinstance(value, list) else []


def _cube_of(item: Any, href: str) -> str | None:
    """URL or path of the cube that an Item of embedcube is of; None for another Item."""
    try:
        zone, asset = str(item["properties"]["embedcube:zone"]), str(item["assets"]["embeddings"]["href"])
    except (KeyError, TypeError):
        return None
    return _joined(href, asset.removesuffix(f"/{zone}"))


def _joined(base: str, href: str) -> str:
    """A link as seen from a document. What comes from a server leads to servers, never to files of this machine."""
    if "://" not in base:
        return href if "://" in href else str((Path(base).resolve().parent / href).resolve())
    joined = urljoin(base, href)
    if urlsplit(joined).scheme not in ("http", "https", "s3", "gs", "az"):
        raise RequestError(f"{printable_href(base)}: has a link to {printable_href(joined)}, which is not followed")
    return joined


def _document(href: str, seconds: float) -> dict[str, Any]:
    try:
        document = json.loads(read_document(href, seconds))
    except (ValueError, RecursionError):
        document = None
    except OSError as error:
        raise RequestError(f"{printable_href(href)}: cannot be read: {error.strerror or error}") from None
    if not isinstance(document, dict):
        raise WorkError(f"{printable_href(href)}: no JSON of STAC")
    return document
