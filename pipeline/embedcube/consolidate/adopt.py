"""Shards of an earlier run become a part of this one: objects are compared with their records, then linked.

From then on they are shards like any other: `embed` finds their records, and `consolidate` compares and links them
again. Records are taken over as they are, so the cube says who embedded each shard, where and when.
"""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from embedcube.campaign.base import Base
from embedcube.campaign.parts import CONTRIBUTIONS, RECORDS, Record, StoredObject
from embedcube.campaign.readable import readable
from embedcube.campaign.run_folder import RunDir, fsync_folder, replacing
from embedcube.consolidate.link import CANNOT_LINK
from embedcube.consolidate.offers import Offer, offers_of_cube, offers_of_parts, unfit
from embedcube.errors import RequestError, WorkError
from embedcube.printable import printable
from embedcube.progress import Progress, silent

_AT_ONCE = 256
"""shards after which files are flushed to the disk, and records written"""

_WORDS = 1000
"""most characters of what is said of a shard"""

_NAMED = 3
"""damaged shards that are named"""

_THREADS = 4
"""files that are read at once"""


@dataclass(kw_only=True)
class Adopted:
    """What was taken from an earlier run."""

    recipes: set[str] = field(default_factory=set)
    """of the shards that were taken"""
    linked: int = 0
    """objects that share their bytes with the earlier run"""
    copied: int = 0
    """objects that do not: on another file system, of another user, or cut out of a series"""
    lost: dict[str, str] = field(default_factory=dict)
    """for the recipe of each shard that could not be taken, what was found; empty where its objects are not there"""

    @property
    def shards(self) -> int:
        """Number of shards that were taken."""
        return len(self.recipes)

    @property
    def absent(self) -> int:
        """Shards whose objects are not there: the base is a part of a cube, or its files were removed."""
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
    parts = _Parts(run)
    with ThreadPoolExecutor(_THREADS) as threads:
        remaining = iter(offers)
        while batch := list(islice(remaining, _AT_ONCE)):
            sound = [offer for offer in batch if not _refused(offer, adopted)]
            placed = [parts.place_for(offer.record) for offer in sound]
            for offer, part, result in zip(sound, placed, threads.map(_brought, sound, placed), strict=True):
                recipe = offer.record.recipe
                if isinstance(result, _Brought):
                    part.lines.append((offer.record, offer.contributions))
                    adopted.recipes.add(recipe)
                    adopted.lost.pop(recipe, None)
                    adopted.linked += result.linked
                    adopted.copied += result.copied
                elif recipe not in adopted.recipes:
                    words = "" if isinstance(result, _Absent) else printable(result, _WORDS)
                    adopted.lost[recipe] = words or adopted.lost.get(recipe, "")
            parts.write()
            progress(adopted.shards, total)


def _refused(offer: Offer, adopted: Adopted) -> bool:
    """Whether the record of an offer cannot be true; it is noted."""
    words = unfit(offer.record)
    if words and offer.record.recipe not in adopted.recipes:
        adopted.lost[offer.record.recipe] = printable(f"{offer.record.shard} in {offer.origin}: {words}")
    return bool(words)


class _Absent(WorkError):
    """An object is not where its record says."""


@dataclass(frozen=True, kw_only=True)
class _Brought:
    linked: int
    copied: int


class _Part:
    """One part under construction: shards that one rank embedded in one attempt, as far as that is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: set[str] = set()
        self.offsets: set[int] = set()
        self.lines: list[tuple[Record, bytes]] = []
        """records that are to be written, with their contributions"""

    def takes(self, record: Record) -> bool:
        """Whether nothing of the part is where the record has something."""
        paths = {stored.path for stored in record.objects if stored.path}
        if record.contributions_offset in self.offsets or not self.paths.isdisjoint(paths):
            return False
        self.offsets.add(record.contributions_offset)
        self.paths |= paths
        return True

    def write(self) -> None:
        """Write contributions at the places that the records name, and then the records, to the disk."""
        if not self.lines:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / CONTRIBUTIONS
        path.touch()
        with path.open("r+b") as file:
            for record, packed in self.lines:
                file.seek(record.contributions_offset)
                file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        for folder, _, _ in os.walk(self.folder):
            fsync_folder(Path(folder))
        with (self.folder / RECORDS).open("ab") as file:
            file.writelines(record.to_line() for record, _ in self.lines)
            file.flush()
            os.fsync(file.fileno())
        for made in (self.folder, *self.folder.parents[:3]):
            fsync_folder(made)
        self.lines.clear()


class _Parts:
    """The parts of one call, each of a rank and attempt: places in them are those that the records name."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._start = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._of: dict[tuple[str, str, int], list[_Part]] = {}
        self._all: list[_Part] = []

    def place_for(self, record: Record) -> _Part:
        """The part that takes the record."""
        group = self._of.setdefault((record.host, record.attempt, record.rank), [])
        for part in group:
            if part.takes(record):
                return part
        part = _Part(self._run.adopted_part(self._start, len(self._all)))
        part.takes(record)
        group.append(part)
        self._all.append(part)
        return part

    def write(self) -> None:
        """Write what the parts have got."""
        for part in self._all:
            part.write()


def _brought(offer: Offer, part: _Part) -> _Brought | WorkError:
    """Compare the objects of a shard with its record and bring them into the part; an error is returned."""
    record = offer.record
    found = hashlib.sha256(offer.contributions).hexdigest()
    if found != record.contributions_sha256:
        return WorkError(f"{record.shard} in {offer.origin}: the digest of its contributions is not that of its record")
    made: list[Path] = []
    linked = 0
    try:
        for stored, source in zip(record.objects, offer.objects, strict=True):
            data = _checked(record, stored, source)
            if not stored.path:
                continue
            target = part.folder / stored.path
            target.parent.mkdir(parents=True, exist_ok=True)
            linked += _linked(source, target) if isinstance(source, Path) else 0
            made.append(target)
            if not target.exists():
                with replacing(target) as temporary:
                    temporary.write_bytes(data)
                target.chmod(0o444)
    except WorkError as error:
        for path in made:
            path.unlink(missing_ok=True)
        return error
    return _Brought(linked=linked, copied=len(made) - linked)


def _checked(record: Record, stored: StoredObject, source: Path | bytes) -> bytes:
    """The bytes of an object; a WorkError says that they are not those of the record, or cannot be read."""
    data = _read(source) if isinstance(source, Path) else source
    found = hashlib.sha256(data).hexdigest()
    if (len(data), found) != (stored.size, stored.sha256):
        where = source if isinstance(source, Path) else f"{record.shard}, {stored.array}"
        raise WorkError(
            f"{where}: {len(data)} bytes with SHA-256 {found[:12]}, its record says {stored.size} and "
            f"{stored.sha256[:12]}"
        )
    return data


def _read(source: Path) -> bytes:
    """The bytes of a file of the base; a WorkError says why it cannot be read."""
    try:
        source.stat()
        return readable(source).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _Absent(f"{source}: {error}") from None
    except RequestError as error:
        raise WorkError(str(error)) from None
    except OSError as error:
        raise WorkError(f"{source}: cannot be read: {error.strerror or error}") from None


def _linked(source: Path, target: Path) -> bool:
    """Link a file, which is made read-only, as two runs share it from now on; False where it cannot be linked."""
    if source.is_symlink():
        return False
    try:
        if source.stat().st_mode & 0o222:
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
        copied = f", {adopted.copied} copied" if adopted.copied else ""
        yield f"{adopted.shards} shards from {origin}: {adopted.linked} objects linked{copied}"
    if adopted.absent:
        yield f"{adopted.absent} shards of {origin} have no objects there: they are embedded again"
    if damaged := adopted.damaged:
        yield f"{len(damaged)} shards of the base are damaged, and are embedded again:"
        yield from (f"  {line}" for line in damaged[:_NAMED])
