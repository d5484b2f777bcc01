"""What a search of an archive leaves out, for one warning or refusal at its end."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedcube.errors import RequestError
from embedcube.printable import printable, printable_path
from embedcube.sources.catalog.beside import Beside
from embedcube.sources.catalog.naming import Template, template_for
from embedcube.sources.catalog.products import product_id

_NAME = 80
"""most characters of a file's name in a message; the end of a longer one is left out"""

log = logging.getLogger(__name__)

_PRODUCT = re.compile(r"(?<![A-Za-z0-9])(?:T?\d\d[A-Z]{3}|S1[A-D])(?![A-Za-z0-9])")
"""A tile of Sentinel-2, or a satellite of Sentinel-1"""

TEMPLATE = 48
"""most characters of a template in a message"""


def undated(place: str, bands: Sequence[str] = ()) -> str:
    """What is said of a file without a date, below its archive, in words that follow its name."""
    template = template_for(place, bands)
    if not Template(template).dated or len(template) > TEMPLATE:
        return "has no date in its name: options.time says when it is"
    what = "dates are its first and last" if "{start}" in template else "date is its time"
    return f'has no day in its name: if its {what}, options.names says so, "{template}"; options.time may, too'


@dataclass(kw_only=True)
class Notes:
    """Files below an archive that belong to no product, in the order in which they were found."""

    left: dict[Path, str] = field(default_factory=dict)
    """images, and why each is of no scene, in words that follow its name"""
    foreign: dict[Path, str] = field(default_factory=dict)
    """files and stores that are not read: what they are, and what to do, in words that follow the name"""
    not_stac: list[Path] = field(default_factory=list)
    """JSON files that are no STAC"""
    products: bool = False
    """whether there are SAFE products, though perhaps with no band of the archive"""
    unused: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """images with bands that no band of the archive is: how many of them, and of how many"""

    ids: set[str] = field(default_factory=set)
    """ids of products, by their names alone"""
    beside: dict[Path, Beside] = field(default_factory=dict)
    """by folder, what metadata beside images say: read once for all images of the folder"""

    def id_of(self, name: str, folder: Path, root: Path) -> str:
        """The id of a product of this name; a name that occurs in several folders has its folder before it.

        Not so one that has a tile or is of Sentinel-1: where that occurs twice, it is the same product.
        """
        if name in self.ids and folder != root and not _PRODUCT.search(name):
            place = os.path.relpath(folder, root)
            return product_id(place if folder.name == name else f"{place}/{name}")
        self.ids.add(name)
        return product_id(name)

    def tell(self, root: Path, count: int) -> None:
        """Warn of what is left out, once for each kind.

        Raises:
            RequestError: `count`, the number of products, is 0, and there are images or other files.
        """
        if self.not_stac:
            words = "%s: %d JSON files are no STAC Items and are left out, the first is %s"
            log.warning(words, printable(root), len(self.not_stac), _named(self.not_stac[0], root))
        for kind, files in (("images are of no scene", self.left), ("files are not read", self.foreign)):
            if not files:
                continue
            first, why = next(iter(files.items()))
            words = f"{len(files)} {kind}; the first, {_named(first, root)}, {why}"
            if not (count or self.products):
                raise RequestError(f"no scene found in {printable_path(root, 50)}: {words}")
            log.warning("%s: %s", printable(root), words)
        if self.unused:
            first, (unused, bands) = next(iter(self.unused.items()))
            others = f", and {len(self.unused) - 1} more files have such bands" if len(self.unused) > 1 else ""
            words = "%s: %d of %d bands are not used%s"
            log.warning(words, _named(first, root), unused, bands, others)


def _named(path: Path, root: Path) -> str:
    return printable(os.path.relpath(path, root) if path != root else path.name, _NAME)
