"""What the campaign says of images that say too little themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embedcube.sources.catalog.dates import When, when_in
from embedcube.sources.catalog.links import NO_LINKS, Links
from embedcube.sources.catalog.naming import Template
from embedcube.sources.catalog.products import Product


@dataclass(frozen=True, kw_only=True)
class Told:
    """How images are named, when they are, and where links lead."""

    names: Template | None = None
    """template that all images must fit"""
    time: When | None = None
    """time of images without a date in their names"""
    always: bool = False
    """whether `time` is that of all images, whatever their names say"""
    steps: tuple[When, ...] = ()
    """times of the steps of series that are stacked as bands"""
    links: Links = NO_LINKS
    """where links to other machines lead here"""
    known: Callable[[Product], Product] | None = None
    """puts into each product what the source takes from its names and properties (`Product.known`), and may drop these;
    it is called in the process that reads the product, and must be picklable"""
    known_kind: type[Any] | None = None
    """the dataclass of what `known` puts in"""

    def when(self, *names: str) -> When | None:
        """The time in the first of the names that has one, else what is told; None if there is none.

        Raises:
            ValueError: a name has two dates, and nothing is told.
        """
        if self.always:
            return self.time
        for name in names:
            try:
                found = when_in(name)
            except ValueError:
                if self.time is None:
                    raise
                return self.time
            if found is not None:
                return found
        return self.time
