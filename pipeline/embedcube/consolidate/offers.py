"""What an earlier run or cube offers: shards with their records, and where the bytes of their arrays are."""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from embedcube.campaign.base import Base
from embedcube.campaign.parts import FED, PACK, Quarantined, Record, Stored, best_records, record_of, scan_documents
from embedcube.campaign.plan import read_any_plan
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.zones import layout_of
from embedcube.consolidate.accounts import UNREADABLE
from embedcube.consolidate.rebuilt import campaign_of
from embedcube.cube.arrays import ARRAYS, ShardDecoder, ShardEncoder, layer_specs
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.printable import listed, printable

log = logging.getLogger(__name__)

_KEY = re.compile(r"c(\.[0-9]{1,9}){2,5}")
"""key of an object, as `object_key` makes it"""

_MOST_BYTES = 1 << 46
"""bytes of a pack that are believed"""

_OBJECT_PARTS, _DEPTH = 4, 12
"""folders and name of an object below that of a cube, and most of a path: cubes are taken from runs that took them"""

_SAMPLE = 4096
"""records of a cube that are read for rates"""

_AT_ONCE = 256
"""rows of the provenance that are read at once"""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One shard of an earlier run. Nothing of it is believed before its digests were compared."""

    record: Record
    arrays: tuple[Stored | bytes, ...]
    """for each array of the record where its bytes are, relative to `origin`; or the bytes, where a chunk of the cube
    holds several windows"""
    fed: Stored | bytes
    """what the scenes have contributed, in the same way"""
    origin: Path
    """the part or the cube that it is of"""


def offers_of_parts(base: Base, recipes: set[str]) -> Iterator[Offer]:
    """The shards with these recipes that the parts of a base's run folder have.

    Raises:
        WorkError: two records of one recipe name different bytes.
    """
    if base.run is not None and base.has_parts:
        for part, record in best_records(base.run, recipes).values():
            yield Offer(record=record, arrays=record.arrays, fed=record.fed, origin=part)


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
    arrays = [stored.array for stored in record.arrays]
    if not set(arrays) <= set(ARRAYS) or len(set(arrays)) < len(arrays) or record.fed.array != FED:
        return f"its record names the arrays {listed(arrays)}"
    for stored in (*record.arrays, record.fed):
        if stored.path and not _is_path_of(stored.array, stored.path):
            return f"its record names the file {printable(stored.path)}"
        for number in (stored.offset, stored.size, record.contributions_size):
            if type(number) is not int or not 0 <= number <= _MOST_BYTES:
                return f"its record names the place {printable(number)}"
    if record.contributions_size > record.fed.size:
        return f"its record names {record.contributions_size} bytes of contributions among {record.fed.size}"
    return ""


def _is_path_of(array: str, path: object) -> bool:
    """Whether a path within a part is that of a pack, or of an object of an earlier cube: n/layer/zone/array/key."""
    parts = path.split("/") if isinstance(path, str) and "\0" not in path else []
    if not parts or len(parts) > _DEPTH or not {"", ".", ".."}.isdisjoint(parts):
        return False
    if parts[-1] == PACK:
        return all(one.isdecimal() for one in parts[:-1])
    taken, own = parts[:-_OBJECT_PARTS], parts[-_OBJECT_PARTS:]
    inside = bool(taken) and all(one.isdecimal() for one in taken)
    return inside and own[2] == array and _KEY.fullmatch(own[3]) is not None


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
            if not cube.as_recorded(zone) and zone not in series:
                series = {zone: _Series(cube, zone)}
            arrays = series[zone].arrays(record, at) if zone in series else _members(cube, zone, at, record)
            yield Offer(record=record, arrays=arrays, fed=contributions + shares, origin=cube.path)


def _members(cube: Cube, zone: str, place: tuple[int, int, int], record: Record) -> tuple[Stored, ...]:
    found = []
    for stored in record.arrays:
        if stored.array in ARRAYS and stored.path:
            objects = cube.objects(zone, stored.array)
            key, at = objects.locate(place)
            stored = replace(stored, path=f"{zone}/{stored.array}/{key}", offset=objects.layout.number(at))
        found.append(stored)
    return tuple(found)


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
    """The objects of a zone whose chunks hold several windows each: decoded, and encoded again as a part has them."""

    def __init__(self, cube: Cube, zone: str) -> None:
        embedding, name = cube.array(zone, "embedding"), zone.partition("/")[0]
        self._windows, dimensions = embedding.chunks[0], embedding.shape[-1]
        campaign = campaign_of(cube)
        layout, encoding = layout_of(campaign, name), campaign.layers[name].encoding
        self._specs = layer_specs(layout, dimensions=dimensions, encoding=encoding, windows=self._windows)
        self._decoder = ShardDecoder(self._specs)
        self._encoder = ShardEncoder(layer_specs(layout, dimensions=dimensions, encoding=encoding))
        self._cube, self._zone = cube, zone
        self._place: tuple[int, int, int] | None = None
        self._values: dict[str, NDArray[Any]] = {}

    def arrays(self, record: Record, place: tuple[int, int, int]) -> tuple[Stored | bytes, ...]:
        """The arrays of one shard as its record has them; where they cannot be decoded, where they should be."""
        t, iy, ix = place
        chunk = (t // self._windows, iy, ix)
        if self._place != chunk:
            try:
                members = {spec.name: self._cube.objects(self._zone, spec.name).member(place) for spec in self._specs}
                self._values = self._decoder.decode(members) if any(members.values()) else {}
            except (ValueError, RuntimeError, OSError, WorkError):
                self._values = {}
            self._place = chunk
        if not self._values:
            return _members(self._cube, self._zone, place, record)
        window = {name: values[t % self._windows][None] for name, values in self._values.items()}
        encoded = self._encoder.encode(window)
        return tuple(encoded.get(stored.array) or b"" for stored in record.arrays)
