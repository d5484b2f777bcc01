"""What an earlier run or cube offers: shards with their records, and where the bytes of their objects are."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from embedcube.campaign.base import Base
from embedcube.campaign.parts import CONTRIBUTIONS, Quarantined, Record, best_records, record_of, scan_documents
from embedcube.campaign.plan import read_any_plan
from embedcube.campaign.run_folder import RunDir
from embedcube.cube.arrays import ShardDecoder, ShardEncoder, array_specs, object_key
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

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


def offers_of(base: Base, recipes: Collection[str]) -> Iterator[Offer]:
    """The shards of a base that have these recipes: from the parts of its run folder, then from its cube."""
    wanted = set(recipes)
    if base.run is not None and base.has_parts:
        for recipe, (part, record) in best_records(base.run, wanted).items():
            wanted.discard(recipe)
            yield _of_part(part, record)
    if base.cube is not None and wanted:
        yield from _of_cube(Cube(base.cube), wanted)


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
        yield Quarantined(archive=one.archive, scene=one.scene, scene_digest=one.scene_digest, reason=one.reason)


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
    packed = b""
    if (path := part / CONTRIBUTIONS).is_file():
        with path.open("rb") as file:
            file.seek(record.contributions_offset)
            packed = file.read(record.contributions_size + record.shares_size)
    objects = tuple(part / stored.path if stored.path else b"" for stored in record.objects)
    return Offer(record=record, objects=objects, contributions=packed, origin=part)


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
        embedding = cube.array(zone, "embedding")
        self._windows, cells, _, dimensions = embedding.shards
        encoding = cube.what["layers"][zone.partition("/")[0]]["encoding"]
        self._specs = array_specs(cells=cells, dimensions=dimensions, encoding=encoding, windows=self._windows)
        self._decoder = ShardDecoder(self._specs)
        self._encoder = ShardEncoder(array_specs(cells=cells, dimensions=dimensions, encoding=encoding))
        self._folder = cube.path / zone
        self._place: tuple[int, int, int] | None = None
        self._values: dict[str, NDArray[Any]] = {}

    def objects(self, record: Record, place: tuple[int, int, int]) -> tuple[Path | bytes, ...]:
        """The objects of one shard; the path of a file of the cube where there is none, or it cannot be decoded."""
        t, iy, ix = place
        chunk = (t // self._windows, iy, ix)
        files = {spec.name: self._folder / spec.name / spec.key(*chunk) for spec in self._specs}
        if self._place != chunk:
            data = {name: path.read_bytes() if path.is_file() else None for name, path in files.items()}
            try:
                self._values = self._decoder.decode(data) if data["embedding"] else {}
            except (ValueError, RuntimeError, OSError):
                self._values = {}
            self._place = chunk
        if not self._values:
            return tuple(files[stored.array] if stored.path else b"" for stored in record.objects)
        window = {name: values[t % self._windows][None] for name, values in self._values.items()}
        encoded = self._encoder.encode(window)
        return tuple(encoded[stored.array] or b"" for stored in record.objects)
