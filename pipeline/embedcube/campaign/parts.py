"""Parts: the files of one rank in one attempt. Schema, writer and readers of records; quarantine; error budget."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from sys import intern
from typing import Any, BinaryIO

from embedcube.campaign.plan import LayerPlan
from embedcube.campaign.run_folder import RunDir, fsync_folder
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, digest_of
from embedcube.campaign.seals import checked_line, parsed_line, to_line, with_checksum
from embedcube.errors import WorkError

log = logging.getLogger(__name__)
RECORDS, QUARANTINE, PACK, CRASH = "records.jsonl", "quarantine.jsonl", "shards.pack", "crash.json"

FED = "fed"
"""name of what the scenes have contributed to a shard, among its arrays"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Where the bytes of one array of a shard are, or of what its scenes contributed to it."""

    array: str
    path: str
    """file relative to the part: a pack, or an object of an earlier cube; empty where every value is the fill value and
    nothing is stored"""
    offset: int
    """first byte in a pack; in an object the number of the member (`cube/members.py`)"""
    size: int
    """number of bytes, as they stand alone"""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """An input that could not be read, for one shard."""

    archive: str
    scene: str
    """id of the scene within the archive"""
    scene_digest: str
    reason: str
    asks: bool = False
    """whether that is a question about its numbers, and no damage"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The proof that a shard is on disk, with the facts of its making."""

    shard: str
    """layer, window and place, for people to read"""
    recipe: str
    """recipe of the shard in the plan (hex SHA-256)"""
    arrays: tuple[Stored, ...]
    """the encoded arrays"""
    fed: Stored
    """what the scenes have contributed: first for each scene one row of ceil(cells / 8) bytes, made by numpy.packbits,
    `contributions_size` bytes in all; then the shares of frames (`Sample.shares`)"""
    contributions_size: int
    scenes: tuple[str, ...]
    """digests of the planned scenes, in the order in which they were composited"""
    quarantined: tuple[Quarantined, ...]
    refused: str
    """why no scene was read: the shard killed its rank again and again; empty where scenes were read"""
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
        """Name and SHA-256 of each array: equal in two records of one recipe with the same quarantine."""
        return tuple((stored.array, stored.sha256) for stored in self.arrays)

    @property
    def shares_size(self) -> int:
        """Bytes of the shares of frames, at the end of `fed`."""
        return self.fed.size - self.contributions_size

    def to_line(self) -> bytes:
        """The record as one line of records.jsonl, with its checksum."""
        return to_line(asdict(self) | {"format": FORMAT})

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Record":
        """The record of a parsed line of records.jsonl."""
        del document["format"]
        document["arrays"] = tuple(_stored_of(one) for one in document["arrays"])
        document["fed"] = _stored_of(document["fed"])
        document["quarantined"] = tuple(Quarantined(**q) for q in document["quarantined"])
        # a million records name few scenes, hosts and jobs
        document["scenes"] = tuple(intern(str(scene)) for scene in document["scenes"])
        document |= {name: intern(str(document[name])) for name in _OFTEN}
        return cls(**document)


_OFTEN = ("host", "device", "attempt", "code_version", "job", "container")
"""fields that are equal in many records"""


def _stored_of(document: dict[str, Any]) -> Stored:
    return Stored(**document | {name: intern(str(document[name])) for name in ("array", "path")})


def record_of(line: bytes) -> Record | None:
    """The record of a line of records.jsonl; None where it is torn, damaged, or of another version of embedcube."""
    text = checked_line(line)
    return None if text is None or _THIS_FORMAT not in text else Record.from_document(parsed_line(text))


FORMAT = digest_of([[one.name for one in fields(schema)] for schema in (Record, Stored, Quarantined)])[:8]
"""value of the field `format` of a record: a digest of the names of all fields, so another version has another one"""

_THIS_FORMAT = b'"format":"%b"' % FORMAT.encode()

_RECIPE = re.compile(rb'"recipe":"([0-9a-f]{64})"')


class PartWriter:
    """Writes shards into a new part: a pack and its records, each only ever made longer.

    Every method returns only when its bytes would survive a power cut. After an error of the disk nothing more is
    written: what a file holds behind its last whole entry is not known then.
    """

    def __init__(self, folder: Path) -> None:
        """Create the part; a folder that exists already belongs to another attempt and is refused."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._size = 0
        """bytes of the pack"""
        self._failed: OSError | None = None

    def write(self, blobs: Iterable[tuple[str, bytes]]) -> list[Stored]:
        """Append bytes, each with the name of its array, to the pack; returns where they are."""
        stored, data = [], []
        for name, body in blobs:
            size = len(body)
            stored.append(
                Stored(
                    array=name,
                    path=PACK if body else "",
                    offset=self._size,
                    size=size,
                    sha256=sha256(body).hexdigest(),
                )
            )
            data.append(body)
            self._size += size
        if any(data):
            self._append(PACK, data)
        return stored

    def write_shard(self, arrays: Mapping[str, bytes | None], fed: bytes) -> tuple[tuple[Stored, ...], Stored]:
        """Append the arrays of one shard, and what its scenes contributed."""
        *stored, own = self.write([*((name, body or b"") for name, body in arrays.items()), (FED, fed)])
        return tuple(stored), own

    def write_records(self, records: Sequence[Record]) -> None:
        """Append records, after everything that they name is on disk."""
        lines = [
            to_line({"shard": record.shard, "recipe": record.recipe, **asdict(one)})
            for record in records
            for one in record.quarantined
        ]
        if lines:
            self._append(QUARANTINE, lines)
        self._append(RECORDS, [record.to_line() for record in records])

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _append(self, name: str, data: Iterable[bytes]) -> None:
        path = self._folder / name
        if self._failed is not None:
            raise OSError(self._failed.errno, f"nothing is written after {self._failed.strerror}", str(path))
        try:
            if new := name not in self._files:
                self._files[name] = path.open("xb", buffering=0)
            file = self._files[name]
            for part in data:
                _write_whole(file, part)
            os.fsync(file.fileno())
            if new:
                for made in (self._folder, *self._folder.parents[:4]):  # up to the run folder
                    fsync_folder(made)
        except OSError as error:
            self._failed = error
            if error.errno and error.filename is None:
                error.filename = str(path)  # a full disk does not say what it had no room for
            raise


def _write_whole(file: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def scan_records(run: RunDir) -> Iterator[tuple[Path, Record]]:
    """Every record of every part, with the part's folder, in a fixed order.

    A line that is torn, or whose checksum is wrong, is no record, whatever it says: its shard is embedded again.
    """
    for part, document in scan_documents(run):
        yield part, Record.from_document(document)


def scan_documents(run: RunDir) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every record as plain JSON, in the order of `scan_records`; quicker where few fields are needed."""
    for part, text in _scan_texts(run):
        yield part, parsed_line(text)


def _scan_texts(run: RunDir) -> Iterator[tuple[Path, bytes]]:
    """Every record as canonical JSON, in the order of `scan_records`."""
    for path in sorted(run.parts.glob(f"*/*/*/{RECORDS}")):
        for text in record_texts(path):
            yield path.parent, text


def crash_files(run: RunDir, folder: str = "*") -> list[Path]:
    """The files of all crashes (`workers/crashes.py`), or of those below one folder of `parts`."""
    return sorted(run.parts.glob(f"{folder}/*/*/{CRASH}"))


def record_texts(path: Path) -> Iterator[bytes]:
    """Every record of one file as canonical JSON; none where the file is gone."""
    wrong = []
    try:
        lines = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with lines:
        for number, line in enumerate(lines, start=1):
            if (text := checked_line(line)) is not None and _THIS_FORMAT in text:
                yield text
            elif line.endswith(b"\n"):  # else it is torn, as a killed rank leaves it
                wrong.append(number)
    if wrong:
        _warn_of_lines(path, len(wrong), wrong[0])


def recipe_of(text: bytes) -> tuple[str, bool]:
    """The recipe of a record, and whether every scene was read, from its canonical JSON."""
    # not parsed, as there may be millions; within a text of JSON every quote is escaped, so only a key can match
    found = _RECIPE.search(text)
    return found[1].decode() if found else "", b'"quarantined":[]' in text


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


def version_of(campaign: Campaign, layers: Mapping[str, LayerPlan], records: Iterable[Record]) -> str:
    """Name of the version: 12 hex digits of SHA-256 over all that decides the bytes of the cube.

    The campaign's digest, how many shards an object of each layer holds, every recipe, and every array.
    """
    shapes = [(name, layer.objects) for name, layer in sorted(layers.items())]
    objects = [f"{name} {one.windows} {one.rows} {one.cols}" for name, one in shapes]
    lines = [campaign.digest, *objects, *sorted(f"{record.recipe} {record.bytes_digest}" for record in records)]
    return sha256("\n".join(lines).encode()).hexdigest()[:12]


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
