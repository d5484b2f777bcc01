"""Which of the files that a STAC Item offers holds a band: by names of assets, files and bands, or by its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedcube.printable import listed, printable, printable_href
from embedcube.sources.catalog.files import not_a_file
from embedcube.sources.catalog.folders import is_image
from embedcube.sources.catalog.links import not_here
from embedcube.sources.catalog.products import NOTHING, File, Stated, is_alias

_SHOWN_NAME = 30
"""characters of the name of a file in a message"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """A band of a file, as the Item describes it."""

    name: str
    common_name: str
    stated: Stated


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """A file that an Item names, and the names by which a band may find it."""

    href: str
    path: str | None
    """None if it is not on this machine"""
    names: frozenset[str]
    described: tuple["Described", ...] = ()
    """each of its bands, if the Item describes them"""
    numbers: tuple[Stated, ...] = ()
    """what the Item states of each of its bands, if their number is stated alone"""
    stated: Stated = NOTHING
    """of its first band, where the bands have no names"""
    pixel_m: int = 0
    """0 if no name says it"""
    size: int | None = None
    digest: str = ""
    wrong: str = ""
    """why it cannot be used"""


def file_of(offered: Sequence[Offered], known: frozenset[str]) -> File | str:
    """The file of a band, found by asset key, file name, band name or number; or the reason why there is none.

    A name of the band's own is preferred to one that other bands may have too, a file with one band to one with several
    bands, and a finer one to a coarser one. Nothing decides between two files of which only the common name fits.
    """
    found: list[tuple[tuple[int, bool, int], int, File]] = []
    gone: list[tuple[int, str]] = []
    remote: list[tuple[int, str]] = []
    matches = [(offer, match) for offer in offered if (match := _match(offer, known)) is not None]
    if number := next((int(name) for name in known if name.isdecimal()), 0):
        images = [offer for offer in offered if not offer.href or is_image(offer.path or offer.href.partition("?")[0])]
        if len(images) > 1 and not matches:
            named = listed([printable(min(offer.names, key=len), _SHOWN_NAME) for offer in images], 3)
            return (
                f"{number} is the number of a band in a file, and the item has {len(images)} files ({named}): "
                "options.variables takes the name of one of them, or of a band"
            )
        if len(images) == 1 and not any(known & {band.name, band.common_name} for band in images[0].described):
            # also where the file is called so, as 2.tif
            matches = [(images[0], (_OWN, number))]
    for order, (offer, (rank, index)) in enumerate(matches):
        if offer.wrong:
            gone.append((rank, offer.wrong))
        elif not index:
            gone.append((rank, _SEVERAL.format(printable(min(offer.names, key=len), _SHOWN_NAME))))
        elif offer.path is None:
            remote.append((rank, not_here(offer.href)))
        else:
            path = Path(offer.path)
            if words := not_a_file(path):
                gone.append((rank, f"{printable_href(offer.href)} {words}"))
            here = File(
                path=path,
                index=index,
                size=offer.size,
                digest=offer.digest,
                stated=_stated_of(offer, index),
            )
            found.append(((rank, len(offer.described) > 1, offer.pixel_m), order, here))
    best: tuple[int, bool, int] = _COMMON, False, 0
    file: File | None = None
    if found:
        best, _, file = min(found, key=lambda one: one[:2])
    if lost := [words for rank, words in gone if rank <= best[0]]:
        return lost[0]
    if elsewhere := [words for rank, words in remote if file is None or rank < best[0] == _COMMON]:
        return elsewhere[0]
    if file is None:
        return "the item has no file of this band"
    rivals = [other.path.name for rank, _, other in found if rank == best and other.path != file.path]
    if best[0] == _COMMON and rivals:
        names = printable(f"{file.path.name} and {rivals[0]}", 100)
        return f"{names} have the same common name; options.variables says which is this band, by its own name"
    return file


def _stated_of(offer: Offered, index: int) -> Stated:
    """What the Item states of one of a file's bands."""
    if index <= len(offer.described):
        return offer.described[index - 1].stated
    return offer.numbers[index - 1] if index <= len(offer.numbers) else offer.stated


_SEVERAL = "its asset {} has several bands of this name; options.variables takes the number of one of them (from 1)"

_OWN, _ALIAS, _BAND_ALIAS, _COMMON = range(4)
"""How exact a match is: a name of the band's own; else a common one as key of the asset or name of its file; as name of
a band in it; or as no more than the common name of a band"""


def _match(offer: Offered, known: frozenset[str]) -> tuple[int, int] | None:
    """How exactly a name of a file fits, and the number of the band in the file; None if no name does.

    The number is 0 where several bands of the file have this name.
    """
    found = []
    if len(offer.described) <= 1:
        found += [(_ALIAS if is_alias(known, name) else _OWN, 1) for name in offer.names & known]
    for index, band in enumerate(offer.described, start=1):
        for name, rank in ((band.name, _BAND_ALIAS), (band.common_name, _COMMON)):
            if name in known:
                found.append((rank if is_alias(known, name) else _OWN, index))
    if not found:
        return None
    best = min(rank for rank, _ in found)
    numbers = {index for rank, index in found if rank == best}
    return best, numbers.pop() if len(numbers) == 1 else 0
