"""Which of several products of one tile and pass are used: the newest processing baseline that is whole."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedcube.sources.catalog.products import Product
from embedcube.sources.sentinel2.names import Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One product among those that may show the same."""

    id: str
    subject: tuple[str, ...]
    """acquisition, level, tile, place in the tile: products with the same subject show the same, or parts of it"""
    strip: str
    """time at which the datastrip begins; empty if unknown"""
    baseline: float
    """0 if unknown"""
    usable: bool
    """whether all of its files can be read, as far as their headers tell"""

    @classmethod
    def of(cls, product: Product, identity: Identity, acquisition: str, *, usable: bool) -> "Version":
        """The version that a product is."""
        # patches of one tile are different places
        subject = (acquisition, identity.level, identity.tile, identity.patch) if identity.tile else (product.id,)
        return cls(
            id=product.id,
            subject=subject,
            strip=identity.strip,
            baseline=identity.baseline or 0.0,
            usable=usable,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What is decided about one product."""

    instead: int | None = None
    """position of the product that is used instead; None if this one is used"""
    fills: bool = False
    """whether it only fills pixels that newer products of its subject do not show"""


def uses(versions: Sequence[Version]) -> list[Use]:
    """For each product whether it is used.

    A tile of a datatake may lie in several products of one baseline, each with a part of it, such as a datastrip: all
    are used. A baseline is whole if all of its parts can be used. Of the whole ones the newest is used, and no older
    one. Where the newest is not whole, an older one fills what it does not show. A product that cannot be used replaces
    none.
    """
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, version in enumerate(versions):
        alike[version.subject].append(place)
    result = [Use()] * len(versions)
    for places in alike.values():
        if len(places) > 1:
            subject = _Subject(versions, places)
            instead = {place: subject.instead_of(place) for place in places}
            used = [place for place in places if instead[place] is None and versions[place].usable]
            newest = max((versions[place].baseline for place in used), default=0.0)
            for place in places:
                fills = place in used and versions[place].baseline < newest
                result[place] = Use(instead=instead[place], fills=fills)
    return result


class _Subject:
    """The products of one subject, at least two."""

    def __init__(self, versions: Sequence[Version], places: list[int]) -> None:
        self._versions = versions
        self._places = places
        self._usable = [place for place in places if versions[place].usable]
        strips = {versions[place].strip for place in places} - {""}
        self._all_strips_there = bool(strips) and strips <= {versions[place].strip for place in self._usable}
        self._whole = self._newest_whole()

    def instead_of(self, place: int) -> int | None:
        """The product that is used instead of one; None if this one is used."""
        version = self._versions[place]
        rivals = [i for i in self._usable if self._replaces(self._versions[i], version)]
        twins = [i for i in self._usable if i != place and self._versions[i].id == version.id]
        if rivals:
            return self._newest(rivals)
        best = self._newest(twins)
        replaces = best is not None and (not version.usable or self._newest([best, place]) == best)
        return best if replaces else None

    def _replaces(self, other: Version, version: Version) -> bool:
        """Whether a newer product that can be used shows all that this one shows, with others that are used."""
        if other.baseline <= version.baseline:
            return False
        if self._whole is not None and version.baseline < self._whole:
            return other.baseline == self._whole
        return other.strip == version.strip != "" or (version.strip == "" != other.strip and self._all_strips_there)

    def _newest_whole(self) -> float | None:
        """The newest baseline whose parts do not name their datastrips and are all there; None if there is none.

        There is none either where newer products name datastrips, and all known datastrips are there.
        """
        for baseline in sorted({self._versions[place].baseline for place in self._places}, reverse=True):
            parts = [self._versions[place] for place in self._places if self._versions[place].baseline == baseline]
            usable = [part for part in parts if part.usable]
            if any(part.strip for part in usable):
                if self._all_strips_there:
                    return None
                continue
            if usable and {part.id for part in parts} == {part.id for part in usable}:
                return baseline
        return None

    def _newest(self, places: Iterable[int]) -> int | None:
        return max(places, key=lambda i: (self._versions[i].baseline, -i), default=None)
