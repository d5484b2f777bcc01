"""Parts: the files of one rank in one attempt. Schema, writer and readers of records; quarantine; error budget."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from embedcube.campaign.run_folder import RunDir, fsync_folder, write_atomically
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.seals import checked_line, parsed_line, to_line, with_checksum
from embedcube.errors import WorkError

log = logging.getLogger(__name__)
RECORDS, QUARANTINE, CONTRIBUTIONS = "records.jsonl", "quarantine.jsonl", "contributions.bin"


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object of a part."""

    array: str
    path: str
    """relative to the part; empty where every value is the fill value and nothing is stored"""
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """An input that could not be read, for one shard."""

    archive: str
    scene: str
    """id of the scene within the archive"""
    scene_digest: str
    reason: str
    asks: bool = False
    """whether that is a question about its numbers, and no damage"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The proof that a shard is on disk, with the facts of its making."""

    shard: str
    """layer, window and place, for people to read"""
    recipe: str
    """recipe of the shard in the plan (hex SHA-256)"""
    objects: tuple[StoredObject, ...]
    scenes: tuple[str, ...]
    """digests of the planned scenes, in the order in which they were composited"""
    quarantined: tuple[Quarantined, ...]
    refused: str
    """why no scene was read: the shard killed its rank again and again; empty where scenes were read"""
    contributions_offset: int
    contributions_size: int
    shares_size: int
    contributions_sha256: str
    """offset of what the shard has in `contributions.bin`, bytes of its two parts, and SHA-256 of both: first for each
    scene one row of ceil(cells / 8) bytes, made by numpy.packbits; then the shares of frames (`Sample.shares`)"""
    counts: dict[str, int]
    """number of cells of each status, and of embedded chips"""
    seconds: dict[str, float]
    """wall time of each step (`timings.py`)"""
    read_bytes: int
    """bytes that the rank read since its last record; its shards overlap in time, so only the sum has a meaning"""
    energy_j: float | None
    """joules that the rank's GPU used since its last record; None where there is no meter (`energy.py`)"""
    peak_bytes: int
    """largest memory of the rank so far; what it shares with other processes is divided among them"""
    started: str
    """time in UTC (ISO 8601)"""
    finished: str
    """time in UTC (ISO 8601)"""
    host: str
    device: str
    attempt: str
    rank: int
    code_version: str
    job: str
    """id of the job in the batch system; empty without one"""
    container: str
    """digest of the container's image; empty outside of a container"""
    not_held: dict[str, int] = field(default_factory=dict)
    """number of failed cells whose vector cannot be stored, by reason: not_finite, too_large for the encoding"""

    @property
    def bytes_digest(self) -> tuple[tuple[str, str], ...]:
        """Name and SHA-256 of each object: equal in two records of one recipe with the same quarantine."""
        return tuple((stored.array, stored.sha256) for stored in self.objects)

    def to_line(self) -> bytes:
        """The record as one line of records.jsonl, with its checksum."""
        return to_line(asdict(self) | {"format": _FORMAT})

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Record":
        """The record of a parsed line of records.jsonl."""
        del document["format"]
        document["objects"] = tuple(StoredObject(**o) for o in document["objects"])
        document["quarantined"] = tuple(Quarantined(**q) for q in document["quarantined"])
        document["scenes"] = tuple(document["scenes"])
        return cls(**document)


def record_of(line: bytes) -> Record | None:
    """The record of a line of records.jsonl; None where it is torn, damaged, or of another version of embedcube."""
    text = checked_line(line)
    return None if text is None or _THIS_FORMAT not in text else Record.from_document(parsed_line(text))


_FORMAT = digest_of([[one.name for one in fields(schema)] for schema in (Record, StoredObject, Quarantined)])[:8]
"""value of the field `format` of a record: a digest of the names of all fields, so another version has another one"""

_THIS_FORMAT = b'"format":"%b"' % _FORMAT.encode()

_RECIPE = re.compile(rb'"recipe":"([0-9a-f]{64})"')


class PartWriter:
    """Writes shards into a new part. Every method returns only when its bytes would survive a power cut."""

    def __init__(self, folder: Path) -> None:
        """Create the part; a folder that exists already belongs to another attempt and is refused."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._folders: set[Path] = set()
        self._contributions_size = 0

    def write_objects(
        self, zone: str, key_of: dict[str, str], objects: dict[str, bytes | None]
    ) -> tuple[StoredObject, ...]:
        """Write the objects of one shard below `zone` ("<layer>/<zone>"), each whole or not at all."""
        stored = []
        for array, data in objects.items():
            path = ""
            if data is not None:
                path = f"{zone}/{array}/{key_of[array]}"
                self._make_folder((self._folder / path).parent)
                write_atomically(self._folder / path, data)
            body = data or b""
            stored.append(StoredObject(array=array, path=path, size=len(body), sha256=sha256(body).hexdigest()))
        return tuple(stored)

    def write_contributions(self, packed: bytes) -> int:
        """Append the packed cells of one shard and return their offset."""
        offset = self._contributions_size
        _append(self._folder / CONTRIBUTIONS, packed)
        self._contributions_size += len(packed)
        return offset

    def write_record(self, record: Record) -> None:
        """Append the record, after everything that it names is on disk."""
        for quarantined in record.quarantined:
            line = {"shard": record.shard, "recipe": record.recipe, **asdict(quarantined)}
            _append(self._folder / QUARANTINE, to_line(line))
        _append(self._folder / RECORDS, record.to_line())

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder, *folder.parents):
                fsync_folder(made.parent)
                if made.parent == self._folder.parents[2]:  # the folder of all parts
                    break
            self._folders.add(folder)


def _append(path: Path, data: bytes) -> None:
    new = not path.exists()
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)  # a full disk does not say what it had no room for
        raise
    if new:
        fsync_folder(path.parent)


def scan_records(run: RunDir) -> Iterator[tuple[Path, Record]]:
    """Every record of every part, with the part's folder, in a fixed order.

    A line that is torn, or whose checksum is wrong, is no record, whatever it says: its shard is embedded again.
    """
    for part, document in scan_documents(run):
        yield part, Record.from_document(document)


def scan_documents(run: RunDir, attempt: str = "*") -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every record as plain JSON, in the order of `scan_records`; quicker where few fields are needed."""
    for part, text in _scan_texts(run, attempt):
        yield part, parsed_line(text)


def _scan_texts(run: RunDir, attempt: str = "*") -> Iterator[tuple[Path, bytes]]:
    """Every record as canonical JSON, in the order of `scan_records`."""
    for path in sorted(run.parts.glob(f"*/{attempt}/*/{RECORDS}")):
        with path.open("rb") as lines:
            wrong = []
            for number, line in enumerate(lines, start=1):
                if (text := checked_line(line)) is not None and _THIS_FORMAT in text:
                    yield path.parent, text
                elif line.endswith(b"\n"):  # else it is torn, as a killed rank leaves it
                    wrong.append(number)
        if wrong:
            _warn_of_lines(path, len(wrong), wrong[0])


@cache
def _warn_of_lines(path: Path, count: int, first: int) -> None:
    """Say it once: a process that waits for others scans the records again and again."""
    log.warning(
        "%s: %d lines (the first is line %d) are no records: damaged, or written by another version of embedcube; "
        "their shards are embedded again",
        path,
        count,
        first,
    )


def record_lines(run: RunDir) -> Iterator[bytes]:
    """Every record as the line that was written, with its checksum."""
    for _, text in _scan_texts(run):
        yield with_checksum(text)


def recorded_recipes(run: RunDir, *, whole: bool = False) -> set[str]:
    """The recipes that have a record; with `whole` only those for which every scene was read."""
    # not parsed, as there may be millions; within a text of JSON every quote is escaped, so only a key can match
    texts = (text for _, text in _scan_texts(run) if not whole or b'"quarantined":[]' in text)
    return {found[1].decode() for text in texts if (found := _RECIPE.search(text))}


def best_documents(run: RunDir, recipes: Collection[str], names: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each recipe that has a record, the named fields of the one with the fewest unreadable scenes."""
    found: dict[str, dict[str, Any]] = {}
    for _, document in scan_documents(run):
        recipe = document["recipe"]
        if recipe in recipes and (recipe not in found or _missed(document) < _missed(found[recipe])):
            found[recipe] = {name: document[name] for name in ("quarantined", *names)}
    return found


def _missed(document: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Number and digests of the scenes that a record has not; the least counts, as in `_one_of`."""
    digests = tuple(sorted(one["scene_digest"] for one in document["quarantined"]))
    return len(digests), digests


def best_records(run: RunDir, recipes: set[str]) -> dict[str, tuple[Path, Record]]:
    """For each recipe that has a record, the one with the fewest unreadable scenes, and the folder of its part.

    Raises:
        WorkError: two records of one recipe, with the same unreadable scenes, name different bytes.
    """
    found: dict[str, list[tuple[Path, Record]]] = defaultdict(list)
    for part, record in scan_records(run):
        if record.recipe in recipes:
            found[record.recipe].append((part, record))
    return {recipe: _one_of(records) for recipe, records in found.items()}


def _one_of(found: list[tuple[Path, Record]]) -> tuple[Path, Record]:
    """The record with the fewest unreadable scenes; two with the same ones must have the same bytes."""
    by_quarantine: dict[tuple[str, ...], tuple[Path, Record]] = {}
    for part, record in found:
        verdicts = tuple(sorted(q.scene_digest for q in record.quarantined))
        _, first = by_quarantine.setdefault(verdicts, (part, record))
        if first.bytes_digest != record.bytes_digest:
            raise WorkError(
                f"{record.shard}: two results of one recipe differ: attempt {first.attempt} on {first.host} and "
                f"attempt {record.attempt} on {record.host}, both {record.device}; one of the machines is not to be "
                f"trusted: remove its attempts from {part.parents[2]} and run `embedcube embed` again"
            )
    return by_quarantine[min(by_quarantine, key=lambda verdicts: (len(verdicts), verdicts))]


def version_of(campaign: Campaign, records: Iterable[Record]) -> str:
    """Name of the version: 12 hex digits of SHA-256 over the campaign's digest, every recipe, and every object."""
    lines = [campaign.digest, *sorted(f"{record.recipe} {record.bytes_digest}" for record in records)]
    return sha256("\n".join(lines).encode()).hexdigest()[:12]


def read_verified(part: Path, stored: StoredObject) -> bytes:
    """The bytes of an object, after their size and SHA-256 were checked.

    Raises:
        WorkError: the object is missing, or its record says otherwise.
    """
    path = part / stored.path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WorkError(
            f"{path}: a record speaks of it, but it is gone; remove that part's records.jsonl and embed again"
        ) from None
    found = sha256(data).hexdigest()
    if len(data) != stored.size or found != stored.sha256:
        raise WorkError(
            f"{path}: {len(data)} bytes with SHA-256 {found[:12]}, its record says {stored.size} and "
            f"{stored.sha256[:12]}; the disk has changed it: remove that part's records.jsonl and embed again"
        )
    return data


@dataclass(frozen=True, kw_only=True)
class Unplaced:
    """The scenes that cannot be used and whose place is unknown, so that no shard is known to need them."""

    scenes: list[Scene]
    of: int
    """number of scenes in the inventory"""


def unreadable(planned: list[Scene], quarantined: Iterable[Quarantined]) -> dict[tuple[str, str], str]:
    """Archive, id and reason of every planned scene that `index` or a shard could not read."""
    found = {(scene.archive, scene.id): scene.verdict for scene in planned if scene.verdict}
    for one in quarantined:
        found.setdefault((one.archive, one.scene), one.reason)
    return found


def refuse_over_budget(
    campaign: Campaign, planned: list[Scene], quarantined: Iterable[Quarantined], unplaced: Unplaced
) -> None:
    """Raise a WorkError when more scenes are unreadable than `how.error_budget` allows."""
    if words := over_budget(campaign, planned, quarantined, unplaced):
        raise WorkError(words)


def over_budget(
    campaign: Campaign, planned: list[Scene], quarantined: Iterable[Quarantined], unplaced: Unplaced
) -> str:
    """In words, that more scenes are unreadable than `how.error_budget` allows; empty where it is enough.

    It is a share of the planned scenes. A scene that lies nobody knows where is in no shard: the share of those in the
    inventory is added. A scene that asks about its numbers is no damage, be it seen by `index` or by a rank.
    """
    quarantined = tuple(quarantined)
    asking = {(scene.archive, scene.id) for scene in planned if scene.asks}
    asking |= {(one.archive, one.scene) for one in quarantined if one.asks}
    found = {scene: reason for scene, reason in unreadable(planned, quarantined).items() if scene not in asking}
    budget = campaign.how.error_budget
    if len(found) / max(len(planned), 1) + len(unplaced.scenes) / max(unplaced.of, 1) <= budget:
        return ""
    counts = f"{len(found)} of {len(planned)} scenes cannot be read"
    if unplaced.scenes:
        counts += f" and {len(unplaced.scenes)} of {unplaced.of} in the inventory lie nobody knows where"
    (archive, scene), reason = min((found | unreadable(unplaced.scenes, [])).items())
    return (
        f"{counts}, how.error_budget allows {budget:.0%}; the first is {archive}/{scene}: {reason}. Replace the files "
        "and index again, or where they have only come back `embedcube embed --retry-quarantined`; or raise the budget"
    )
