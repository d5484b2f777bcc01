"""Where the links of a STAC Item lead on this machine: as they are, by the key `links`, or to files beside the Item."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from embedcube.printable import printable
from embedcube.sources.catalog.files import lasting, not_a_file
from embedcube.sources.catalog.products import Product
from embedcube.sources.catalog.remembered_product import RememberedProduct

_START = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)/*", re.IGNORECASE)
"""scheme and host (or bucket) of a link"""

_GDAL = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift)(?:_streaming)?/+")
"""beginning of GDAL's path of a file on another machine"""

_SCHEMES = {
    "curl": "",
    "az": "az://",
    "adls": "az://",
    "s3": "s3://",
    "gs": "gs://",
    "oss": "oss://",
    "swift": "swift://",
}

_PARTS = 20
"""most parts of a link, from its end, that are looked for beside an Item"""

_SHOWN = 80
"""characters of the beginning of a link in a message"""


def local_path(folder: str, href: str) -> str | None:
    """The local path of a link in a file of `folder`; None if it is not on this machine."""
    if href[:7].lower() == "file://":
        href = os.fsdecode(unquote_to_bytes(urlsplit(href).path))
    # a path of GDAL such as /vsicurl/ leads to other machines
    if "://" in href or not href or href.startswith("/vsi"):
        return None
    return os.path.normpath(href if href.startswith("/") else f"{folder}/{href}")


def not_here(href: str) -> str:
    """What to do about a link to another machine; the same for all links to one host or bucket."""
    start = _START.match(_plain(href))
    beginning = printable(f"{start[1]}://{start[2]}/" if start else "https://HOST/", _SHOWN)
    return (
        f"the file at {beginning} is not on this machine: put it beside the Item, or name the folder that holds such "
        f'files here, as links: {{"{beginning}": FOLDER}}'
    )


@dataclass(frozen=True)
class Links:
    """Folders of this machine that hold what links with certain beginnings lead to."""

    folders: tuple[tuple[str, str], ...] = ()
    """(beginning with a slash at its end, folder), the longest beginning first"""

    @classmethod
    def of(cls, links: Mapping[str, Path]) -> "Links":
        """The folders that an archive names."""
        beginnings = [(f"{_plain(beginning).rstrip('/')}/", str(folder)) for beginning, folder in links.items()]
        return cls(tuple(sorted(beginnings, key=lambda pair: (-len(pair[0]), pair))))

    def path_of(self, href: str) -> str | None:
        """Where a link leads by the longest beginning that it has; None if it has none.

        Raises:
            ValueError: the rest of the link leads out of the folder.
        """
        if not self.folders:
            return None
        plain = _plain(href)
        for beginning, folder in self.folders:
            if not plain.startswith(beginning):
                continue
            rest = plain[len(beginning) :]
            if ".." in (*rest.split("/"), *unquote(rest).split("/")):
                raise ValueError(f"its link leads out of the folder of links {printable(beginning, _SHOWN)}")
            # keys of a bucket are what they are; names in a URL may be percent-encoded
            places = [os.path.normpath(f"{folder}/{name}") for name in (rest, unquote(rest))]
            return next((place for place in places if not not_a_file(Path(place))), places[-1])
        return None


NO_LINKS = Links()


def _plain(href: str) -> str:
    """A link without signature, user and password; scheme and host in lower case, a path of GDAL as a link."""
    if gdal := _GDAL.match(href):
        href = _SCHEMES[gdal[1]] + href[gdal.end() :]
    start = _START.match(href)
    if start is None:
        return href
    host = start[2].rpartition("@")[2]
    path = re.split(r"[?#]", href[start.end() :], maxsplit=1)[0]
    return f"{start[1].lower()}://{host.lower()}/{path}"


class Around:
    """The files that the links of one Item lead to."""

    def __init__(self, folder: str, id: str, links: Links) -> None:
        """`folder` is that of the Item's file."""
        self._folder = folder
        self._id = id if id not in ("", ".", "..") and "/" not in id else ""
        self._links = links
        self._entries: dict[str, bool] = {}
        self.asked = bool(links.folders)
        """whether what was found depends on which files are there, beyond those that it is"""
        self.beside: set[str] = set()
        """paths that were found beside the Item, by the names of links to other machines"""

    def find(self, hrefs: Sequence[str]) -> tuple[str | None, str]:
        """The path of a file that is offered by several links, and what messages call it; None if it is not here.

        The first link that leads to a file counts. Where none does, it is the first one that leads to this machine.

        Raises:
            ValueError: a link leads out of a folder that `links` names.
            OSError: it could not be found out whether a file is there, for a reason that may pass.
        """
        places = [self._place(href) for href in hrefs]
        if len(places) == 1 and places[0][0] is not None:
            return places[0]  # spares asking for a file that no band may need
        self.asked = True
        for path, shown in places:
            if path is not None and not not_a_file(Path(path)):
                return path, shown
        for href in hrefs:
            if (path := self._beside(href)) is not None:
                return path, path
        here = [(path, shown) for path, shown in places if path is not None]
        if not here:
            return None, hrefs[0]
        path, shown = here[0]
        others = ", ".join(other for _, other in here[1:])
        return path, f"{shown} (tried also: {others})" if others else shown

    def _place(self, href: str) -> tuple[str | None, str]:
        """Where a link leads by `links` or on this machine, and what messages call that."""
        mapped = self._links.path_of(href)
        return (mapped, mapped) if mapped is not None else (local_path(self._folder, href), href)

    def _beside(self, href: str) -> str | None:
        """The file below the Item's folder with the longest end of a link to another machine as its path."""
        if local_path(self._folder, href) is not None:
            return None
        start = _START.match(plain := _plain(href))
        parts = unquote(plain[start.end() :] if start else plain).split("/")[-_PARTS:]
        if not parts[-1] or not {"", ".", ".."}.isdisjoint(parts):
            return None
        ends = [parts[i:] for i in range(len(parts))] + ([[self._id, parts[-1]]] if self._id else [])
        for end in ends:
            path = "/".join((self._folder, *end))
            if self._is_here(end[0]) and not not_a_file(Path(path)):
                self.beside.add(path)
                return path
        return None

    def _is_here(self, name: str) -> bool:
        # the links of an Item share their folders: each is looked for once
        if name not in self._entries:
            try:
                os.lstat(f"{self._folder}/{name}")
            except (FileNotFoundError, ValueError):
                self._entries[name] = False
            except OSError as error:
                if not lasting(error):
                    raise
                self._entries[name] = False
            else:
                self._entries[name] = True
        return self._entries[name]


def refuse_shared(products: Iterable[Product]) -> Iterator[Product]:
    """The products, without files beside Items that several of them would have: nobody knows whose they are.

    An Item that is given twice, by itself and in a saved search, counts once. What depends on the other products comes
    last: Items of a saved search, and those with files beside them.
    """
    seen: list[Product] = []
    waiting: list[Product] = []
    for product in products:
        if isinstance(product, RememberedProduct):
            # none of a saved search, or with files beside it, is remembered
            seen.append(product)
            yield product
            continue
        of_search = product.item is not None and product.item.of_search
        if not of_search:
            seen.append(product)
        if of_search or _beside(product):
            waiting.append(product)
        else:
            yield product
    if not waiting:
        return
    alone = {_known_by(one) for one in seen if one.item}
    waiting = [product for product in waiting if not _is_again(product, alone)]
    seen += [one for one in waiting if one.item and one.item.of_search]
    owners: dict[str, set[str]] = defaultdict(set)
    if any(_beside(product) for product in waiting):
        for one in seen:
            for file in one.files.values():
                owners[str(file.path)].add(one.id)
    for product in waiting:
        yield _without_shared(product, owners)


def _is_again(product: Product, alone: Collection[object]) -> bool:
    """Whether an Item of a saved search is also there by itself."""
    if not (product.item and product.item.of_search and product.files):
        return False
    return _known_by(product) in alone


def _without_shared(product: Product, owners: Mapping[str, Collection[str]]) -> Product:
    shared = {
        band: file.path.name
        for band, file in product.files.items()
        if str(file.path) in _beside(product) and len(owners[str(file.path)]) > 1
    }
    if not shared:
        return product
    words = "may be of any of several Items beside it: give each Item a folder of its own, or write links"
    files = {band: file for band, file in product.files.items() if band not in shared}
    missing = product.missing | {band: f"{printable(name, _SHOWN)} {words}" for band, name in shared.items()}
    return replace(product, files=files, missing=missing)


def _beside(product: Product) -> frozenset[str]:
    return product.item.beside if product.item else frozenset()


def _known_by(product: Product) -> tuple[object, ...]:
    return product.id, product.time, tuple((band, str(file.path)) for band, file in product.files.items())
