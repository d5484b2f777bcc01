"""Shards of an earlier run become a part of this one: their bytes are compared with their records, then linked.

From then on they are shards like any other: `embed` finds their records, and `consolidate` compares them again. Records
keep all their facts, so the cube says who embedded each shard, where and when; only the places of bytes are others.

    parts/base/<start>/0000/<n>/     files of the earlier run or cube number n, under their own names there
    parts/base/<start>/0000/         the records, and a pack for what cannot be linked
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from embedcube.campaign.base import Base
from embedcube.campaign.parts import FED, PartWriter, Stored
from embedcube.campaign.run_folder import RunDir, fsync_folder
from embedcube.consolidate.assemble import CANNOT_LINK
from embedcube.consolidate.offers import Offer, offers_of_cube, offers_of_parts, unfit
from embedcube.consolidate.stored import Gone, StoredReader, in_pack
from embedcube.errors import WorkError
from embedcube.printable import printable
from embedcube.progress import Progress, silent

_AT_ONCE = 256
"""shards after which files are flushed to the disk, and records written"""

_BYTES_AT_ONCE = 1 << 28
"""bytes of shards after which the same is done"""

_WORDS = 1000
"""most characters of what is said of a shard"""

_NAMED = 3
"""damaged shards that are named"""

_THREADS = 4
"""shards that are read at once"""


@dataclass(kw_only=True)
class Adopted:
    """What was taken from an earlier run."""

    recipes: set[str] = field(default_factory=set)
    """of the shards that were taken"""
    copied: int = 0
    """shards that do not share their bytes with it: on another file system, of another user, or cut out of a series"""
    lost: dict[str, str] = field(default_factory=dict)
    """for the recipe of each shard that could not be taken, what was found; empty where its files are not there"""

    @property
    def shards(self) -> int:
        """Number of shards that were taken."""
        return len(self.recipes)

    @property
    def absent(self) -> int:
        """Shards whose files are not there: the base is a part of a cube, or its files were removed."""
        return sum(not words for words in self.lost.values())

    @property
    def damaged(self) -> list[str]:
        """For each shard that has other bytes than its record says, or cannot be read, what was found."""
        return [words for words in self.lost.values() if words]


def adopt_all(
    run: RunDir,
    base: Base,
    wanted: set[str],
    adopted: Adopted,
    *,
    chosen: Callable[[Iterable[Offer]], Iterable[Offer]] = iter,
    progress: Progress = silent,
) -> None:
    """Take over the shards of a base that have these recipes: from its parts, and what they have not from its cube.

    `chosen` leaves offers out.

    Raises:
        WorkError: two records of the base for one recipe name different bytes.
    """
    offered: set[str] = set()

    def noted(offers: Iterable[Offer]) -> Iterator[Offer]:
        for offer in offers:
            offered.add(offer.record.recipe)
            yield offer

    for offers_of in (offers_of_parts, offers_of_cube):
        offers = offers_of(base, wanted - (offered & adopted.recipes))
        adopt(run, chosen(noted(offers)), adopted, progress, len(wanted))


def adopt(
    run: RunDir, offers: Iterable[Offer], adopted: Adopted, progress: Progress = silent, total: int | None = None
) -> None:
    """Take over the offered shards whose bytes are those of their records; `adopted` counts them, and the others.

    Killed at any moment it leaves shards that are there, or that are taken the next time.
    """
    part = None
    with ThreadPoolExecutor(_THREADS) as threads:
        for batch in _batches(offers):
            sound = [offer for offer in batch if not _refused(offer, adopted)]
            if not sound:
                continue
            part = part or _Part(run)
            places = [part.places(offer) for offer in sound]
            taken = []
            for offer, where, found in zip(sound, places, threads.map(_checked, sound, places), strict=True):
                recipe = offer.record.recipe
                if isinstance(found, WorkError):
                    if recipe not in adopted.recipes:
                        words = "" if isinstance(found, Gone) else printable(found, _WORDS)
                        adopted.lost[recipe] = words or adopted.lost.get(recipe, "")
                    continue
                taken.append(_Taken(offer=offer, places=where, data=found))
                adopted.recipes.add(recipe)
                adopted.lost.pop(recipe, None)
            adopted.copied += part.write(taken)
            progress(adopted.shards, total)
    if part is not None:
        part.close()


def _batches(offers: Iterable[Offer]) -> Iterator[list[Offer]]:
    """Some offers at once, of so many bytes at most that memory holds those that are copied."""
    batch: list[Offer] = []
    size = 0
    for offer in offers:
        batch.append(offer)
        size += sum(stored.size for stored in offer.record.arrays)
        if len(batch) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A shard whose bytes are those of its record."""

    offer: Offer
    places: "Places"
    data: list[bytes]
    """of each array without a place, and of what fed the shard"""


Places = list[Stored | None]
"""For each array, and what fed the shard, where it is in the part once its file is linked; None where it is written"""


def _refused(offer: Offer, adopted: Adopted) -> bool:
    """Whether the record of an offer cannot be true; it is noted."""
    words = unfit(offer.record)
    if words and offer.record.recipe not in adopted.recipes:
        adopted.lost[offer.record.recipe] = printable(f"{offer.record.shard} in {offer.origin}: {words}")
    return bool(words)


def _checked(offer: Offer, places: Places) -> list[bytes] | WorkError:
    """Compare all bytes of a shard with its record; returns those that are to be written, or an error."""
    record, data = offer.record, []
    try:
        with StoredReader() as reader:
            stored = (*record.arrays, record.fed)
            for one, source, place in zip(stored, (*offer.arrays, offer.fed), places, strict=True):
                found = _bytes(offer, one, source, reader)
                data += [found] if place is None else []
    except WorkError as error:
        return error
    except MemoryError:
        return WorkError(f"{record.shard} in {offer.origin}: no memory for what its record says")
    except OSError as error:
        return WorkError(f"{record.shard} in {offer.origin}: cannot be read: {error.strerror or error}")
    return data


def _bytes(offer: Offer, stored: Stored, source: Stored | bytes, reader: StoredReader) -> bytes:
    if isinstance(source, Stored):
        return reader.read(offer.origin, source)
    found = hashlib.sha256(source).hexdigest()
    if (len(source), found) != (stored.size, stored.sha256):
        raise WorkError(
            f"{offer.record.shard} in {offer.origin}, {stored.array}: {len(source)} bytes with SHA-256 {found[:12]}, "
            f"its record says {stored.size} and {stored.sha256[:12]}"
        )
    return source


class _Part:
    """The part of one call, under construction."""

    def __init__(self, run: RunDir) -> None:
        start = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._folder = run.adopted_part(start, 0)
        self._writer = PartWriter(self._folder)
        self._number: dict[Path, int] = {}
        """of the parts and cubes that files are taken from"""
        self._linked: dict[Path, bool] = {}
        """whether a file of one could be linked"""
        self._changed: set[Path] = set()
        """folders that have names which are not flushed to the disk yet"""

    def places(self, offer: Offer) -> Places:
        """Link the files of an offer, as far as they can be linked."""
        return [self._place(offer, source) for source in (*offer.arrays, offer.fed)]

    def write(self, taken: list[_Taken]) -> int:
        """Write the bytes of shards that are not linked, and then all records; returns how many are not all linked."""
        for folder in self._changed:
            fsync_folder(folder)
        self._changed.clear()
        blobs: list[tuple[str, bytes]] = []
        for one in taken:
            names = [*(stored.array for stored in one.offer.record.arrays), FED]
            missing = [name for name, place in zip(names, one.places, strict=True) if place is None]
            blobs += zip(missing, one.data, strict=True)
        written = iter(self._writer.write(blobs))
        records = []
        for one in taken:
            *arrays, fed = (place if place is not None else next(written) for place in one.places)
            records.append(replace(one.offer.record, arrays=tuple(arrays), fed=fed))
        if records:
            self._writer.write_records(records)
        return sum(any(place is None for place in one.places[:-1]) for one in taken)

    def close(self) -> None:
        """Close the files."""
        self._writer.close()

    def _place(self, offer: Offer, source: Stored | bytes) -> Stored | None:
        """Where the bytes of an array are in this part, once its file is linked; None where they are to be written."""
        if not isinstance(source, Stored):
            return None
        if not source.path:
            return source
        number = self._number.setdefault(offer.origin, len(self._number))
        path = f"{number}/{source.path}"
        return replace(source, path=path) if self._link(offer.origin / source.path, path) else None

    def _link(self, source: Path, path: str) -> bool:
        target = self._folder / path
        if target not in self._linked:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._changed |= {folder for folder in target.parents if folder.is_relative_to(self._folder)}
            # an object is read with the metadata of its array and of its zone
            beside = () if in_pack(path) else (Path("zarr.json"), Path("../zarr.json"))
            self._linked[target] = _linked(source, target) and all(
                (target.parent / one).exists() or _linked(source.parent / one, target.parent / one) for one in beside
            )
        return self._linked[target]


def _linked(source: Path, target: Path) -> bool:
    """Link a file, which is made read-only, as two runs share it from now on.

    False where it cannot be linked, is no file, or belongs to another user, who could change it later.
    """
    try:
        about = source.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
            return False
        if about.st_mode & 0o222:
            source.chmod(0o444)
        os.link(source, target)
    except OSError as error:
        if error.errno not in (*CANNOT_LINK, errno.EACCES, errno.EROFS, errno.ENOENT):
            raise
        return False
    return True


def in_words(adopted: Adopted, origin: object) -> Iterator[str]:
    """Lines of text about what was taken from `origin`."""
    if adopted.shards:
        copied = f", {adopted.copied} of them copied" if adopted.copied else ""
        yield f"{adopted.shards} shards from {origin}{copied}"
    if adopted.absent:
        yield f"{adopted.absent} shards of {origin} have no bytes there: they are embedded again"
    if damaged := adopted.damaged:
        yield f"{len(damaged)} shards of the base are damaged, and are embedded again:"
        yield from (f"  {line}" for line in damaged[:_NAMED])
