"""What an earlier run or cube offers: shards with their records, and where the bytes of their objects are."""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from embedcube.campaign.base import Base
from embedcube.campaign.parts import CONTRIBUTIONS, Quarantined, Record, best_records, record_of, scan_documents
from embedcube.campaign.plan import read_any_plan
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.zones import layout_of
from embedcube.consolidate.accounts import UNREADABLE
from embedcube.consolidate.rebuilt import campaign_of
from embedcube.cube.arrays import ARRAYS, ShardDecoder, ShardEncoder, layer_specs, object_key
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.printable import listed, printable

log = logging.getLogger(__name__)

_KEY = re.compile(r"c(\.[0-9]{1,9}){2,5}")
"""key of an object, as `object_key` makes it"""

_MOST_CONTRIBUTIONS = 1 << 42
"""bytes of a `contributions.bin` that are believed"""

_SAMPLE = 4096
"""records of a cube that are read for rates"""

_AT_ONCE = 256
"""rows of the provenance that are read at once"""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One shard of an earlier run. Nothing of it is believed before its digests were compared."""

    record: Record
    objects: tuple[Path | bytes, ...]
    """for each object of the record its file, or its bytes where the cube holds several windows in one file"""
    contributions: bytes
    """what `contributions.bin` of its part has of the shard"""
    origin: Path
    """the part or the cube that it is of"""


def offers_of_parts(base: Base, recipes: set[str]) -> Iterator[Offer]:
    """The shards with these recipes that the parts of a base's run folder have.

    Raises:
        WorkError: two records of one recipe name different bytes.
    """
    if base.run is not None and base.has_parts:
        for part, record in best_records(base.run, recipes).values():
            yield _of_part(part, record)


def offers_of_cube(base: Base, recipes: set[str]) -> Iterator[Offer]:
    """The shards with these recipes that the cube of a base has; a warning says why it cannot be read further."""
    if base.cube is None or not recipes:
        return
    try:
        yield from _of_cube(Cube(base.cube), recipes)
    except UNREADABLE as error:
        log.warning("%s: what it has cannot be read, and is embedded again: %s", base.cube, printable(error))


def unfit(record: Record) -> str:
    """Why what a record says of its files cannot be true, in words; empty where it can.

    A base may come from anywhere: its records name the files that are read, and those that are written here.
    """
    arrays = [stored.array for stored in record.objects]
    if not set(arrays) <= set(ARRAYS) or len(set(arrays)) < len(arrays):
        return f"its record names the arrays {listed(arrays)}"
    for stored in record.objects:
        if stored.path and not _is_path_of(stored.array, stored.path):
            return f"its record names the file {printable(stored.path)}"
    places: tuple[object, ...] = (record.contributions_offset, record.contributions_size, record.shares_size)
    for offset in places:
        if not isinstance(offset, int) or not 0 <= offset <= _MOST_CONTRIBUTIONS:
            return f"its record names the place {printable(offset)} of contributions"
    return ""


def _is_path_of(array: str, path: object) -> bool:
    """Whether a path within a part is that of an object: layer/zone/array/key."""
    parts = path.split("/") if isinstance(path, str) and "\0" not in path else []
    inside = len(parts) == 4 and {"", ".", ".."}.isdisjoint(parts)
    return inside and parts[2] == array and _KEY.fullmatch(parts[3]) is not None


def records_in(base: Base) -> Iterator[Mapping[str, Any]]:
    """Records of a base, as plain JSON: all of its parts, some of its cube."""
    if base.run is not None and base.has_parts:
        yield from (record for _, record in scan_documents(base.run))
    elif base.cube is not None:
        provenance = Cube(base.cube).provenance
        lines = provenance.rows_of("shard_record", 0, min(len(provenance.places), _SAMPLE))
        yield from (json.loads(line) for line in lines)


def broken_in(base: Base) -> list[Quarantined]:
    """The scenes that a base left out of all shards, because one shard had found them broken."""
    found = [*_broken_in_run(base.run)] if base.run is not None and base.has_parts else []
    return [*found, *(_broken_in_cube(Cube(base.cube)) if base.cube is not None else ())]


def _broken_in_run(run: RunDir) -> Iterator[Quarantined]:
    try:
        verdicts = read_any_plan(run).verdicts.scenes
    except RequestError:
        return  # of another version; what it left out is found again
    for one in verdicts.values():
        facts = {"archive": one.archive, "scene": one.scene, "scene_digest": one.scene_digest}
        yield Quarantined(**facts, reason=one.reason, asks=one.asks)


def _broken_in_cube(cube: Cube) -> Iterator[Quarantined]:
    provenance = cube.provenance
    rows: dict[str, object] = provenance.attributes.get("out", {})  # an earlier version did not say
    digests = provenance.array("scene_digest") if rows else ()
    out = {bytes(digests[int(row)]).hex() for row in rows}
    for shard in provenance.places.values():
        if not out:
            return
        for one in provenance.record(shard)["quarantined"]:
            if one["scene_digest"] in out:
                out.discard(one["scene_digest"])
                yield Quarantined(**one)


def _of_part(part: Path, record: Record) -> Offer:
    try:
        packed = _packed(part / CONTRIBUTIONS, record)
    except OSError:
        packed = b""  # its digest is compared, and tells
    objects = tuple(part / stored.path if stored.path else b"" for stored in record.objects)
    return Offer(record=record, objects=objects, contributions=packed, origin=part)


def _packed(path: Path, record: Record) -> bytes:
    """What `contributions.bin` has of a shard; empty where it is no file, or the record cannot be true."""
    if unfit(record) or not path.is_file():
        return b""
    size = record.contributions_size + record.shares_size
    with path.open("rb") as file:
        file.seek(record.contributions_offset)
        return file.read(min(size, path.stat().st_size))


def _of_cube(cube: Cube, wanted: Collection[str]) -> Iterator[Offer]:
    """The shards of a cube that have these recipes."""
    provenance = cube.provenance
    recipes = [bytes(recipe).hex() for recipe in provenance.array("shard_recipe")]
    places = {row: place for place, row in provenance.places.items()}
    chosen = [row for row, recipe in enumerate(recipes) if recipe in wanted]
    series: dict[str, _Series] = {}
    for first, last in _runs(chosen):
        blobs = (provenance.rows_of(name, first, last) for name in ("shard_record", "contributions", "shares"))
        for row, line, contributions, shares in zip(range(first, last), *blobs, strict=True):
            if recipes[row] not in wanted or (record := record_of(line + b"\n")) is None:
                continue  # of another version of embedcube, or damaged
            if record.recipe != recipes[row]:
                continue  # of another shard
            zone, *place = places[row]
            at = (place[0], place[1], place[2])
            if not cube.adopted(zone) and zone not in series:
                series = {zone: _Series(cube, zone)}
            objects = _files(cube, zone, at, record) if cube.adopted(zone) else series[zone].objects(record, at)
            yield Offer(record=record, objects=objects, contributions=contributions + shares, origin=cube.path)


def _files(cube: Cube, zone: str, place: tuple[int, int, int], record: Record) -> tuple[Path | bytes, ...]:
    folder, axes = cube.path / zone, cube.axes(zone)
    return tuple(
        folder / stored.array / object_key(stored.array, place, axes) if stored.path else b""
        for stored in record.objects
    )


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First row and last row + 1 of runs that hold these rows, which rise; few others are in them."""
    first = last = -1
    for row in rows:
        if first >= 0 and row - last < _AT_ONCE // 8 and row - first < _AT_ONCE:
            last = row
            continue
        if first >= 0:
            yield first, last + 1
        first = last = row
    if first >= 0:
        yield first, last + 1


class _Series:
    """The objects of a zone that hold several windows each: decoded, and encoded again as a part has them."""

    def __init__(self, cube: Cube, zone: str) -> None:
        embedding, name = cube.array(zone, "embedding"), zone.partition("/")[0]
        self._windows, dimensions = embedding.shards[0], embedding.shards[-1]
        campaign = campaign_of(cube)
        layout, encoding = layout_of(campaign, name), campaign.layers[name].encoding
        self._specs = layer_specs(layout, dimensions=dimensions, encoding=encoding, windows=self._windows)
        self._decoder = ShardDecoder(self._specs)
        self._encoder = ShardEncoder(layer_specs(layout, dimensions=dimensions, encoding=encoding))
        self._folder = cube.path / zone
        self._place: tuple[int, int, int] | None = None
        self._values: dict[str, NDArray[Any]] = {}

    def objects(self, record: Record, place: tuple[int, int, int]) -> tuple[Path | bytes, ...]:
        """The objects of one shard; the path of a file of the cube where there is none, or it cannot be decoded."""
        t, iy, ix = place
        chunk = (t // self._windows, iy, ix)
        files = {spec.name: self._folder / spec.name / spec.key(*chunk) for spec in self._specs}
        if self._place != chunk:
            try:
                data = {name: path.read_bytes() if path.is_file() else None for name, path in files.items()}
                self._values = self._decoder.decode(data) if data["embedding"] else {}
            except (ValueError, RuntimeError, OSError):
                self._values = {}
            self._place = chunk
        if not self._values:
            return tuple(files.get(stored.array, b"") if stored.path else b"" for stored in record.objects)
        window = {name: values[t % self._windows][None] for name, values in self._values.items()}
        encoded = self._encoder.encode(window)
        return tuple(encoded.get(stored.array) or b"" for stored in record.objects)
